"""The command that puts files. It finds them, reads ahead, puts concurrently, and reports in their order."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

import click
import trio
from rich.filesize import decimal

from .._blob import Blob
from .._errors import PoisonedError, StoreError, describe_failures
from .._printable import printable
from .files import File, find_files, nothing_to_put, read_files, sum_line
from .options import store_options
from .output import Display, OutputError, describe, say
from .running import FAILED, INTERRUPTED, cancelled_by_sigint
from .stores import chosen_stores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .._blob import Ref
    from .._replica import ReplicaStore
    from .files import OwnFiles
    from .stores import Stores

MEMORY_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of files in memory that are being read, being put, or queued for an async store. A larger file is alone in
it."""

BATCH_FILES: Final = 64
"""Files that one call to a thread reads, and that are put together."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes that end a batch."""

BATCHES: Final = 4
"""Batches that are read or put at once."""

FILE_STEPS: Final = 32 * 1024
"""Bytes that take as long as the fixed cost of a file. Only the estimate of the remaining time uses this."""

_NAMED: Final = 5  # refs that a message names, if there are more
_DIGITS: Final = 12  # of each of these refs


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Put every regular file under each folder, recursively.")
@store_options
@click.pass_context
def put(context: click.Context, paths: tuple[str, ...], *, recursive: bool) -> int:
    """Put files, and print what sha256sum prints for them. The PATH - is standard input.

    A line is printed once every sync store has the file and every async store is going to be given it.
    """
    stores = chosen_stores(context, to_create=True)
    if problems := nothing_to_put(paths, recursive=recursive):
        for problem in problems:
            say(problem)
        return FAILED
    return trio.run(partial(_put, stores, paths, recursive=recursive))


async def put_files(
    store: ReplicaStore, paths: Iterable[str], own: OwnFiles, display: Display, *, recursive: bool
) -> bool:
    """Put the files that `paths` name, printing what ``sha256sum`` prints for them, until all stores have them.

    A file that can't be read or put causes one line on standard error, and the rest go on. Returns whether all files
    were put and all entries of an outbox acknowledged. Returning means that every async store has every blob whose line
    was printed, except blobs that can't be delivered. Being cancelled means that files may have been put whose line was
    not printed.

    Raises:
      PoisonedError: if an async store failed.
      OutputError: if standard output accepts no more.

    """
    files: list[File] = []
    display.begin(lambda: f"{len(files):,} files found")
    async with trio.open_nursery() as drawing:
        drawing.start_soon(display.run)
        find = partial(find_files, paths, own, files, recursive=recursive)
        await trio.to_thread.run_sync(find, abandon_on_cancel=True)
        putting = _Putting(store, files, display)
        async with trio.open_nursery() as batches:
            await putting.start_batches(batches)
        drawing.cancel_scope.cancel()
    if putting.failure is not None:
        try:
            raise putting.failure
        finally:
            del putting  # its traceback refers to this frame
    if putting.undelivered is not None:
        display.problem(describe(putting.undelivered))
    return putting.problems == 0 and putting.undelivered is None


@final
class _Memory:
    """A bounded amount of memory, in bytes, that batches share."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._released = trio.lowlevel.ParkingLot()

    async def take(self, size: int) -> int:
        """Wait for room for `size` bytes, or for the whole memory if `size` is larger. Returns the bytes taken."""
        taken = min(size, self._size)
        await trio.lowlevel.checkpoint()
        while self._free < taken:
            await self._released.park()
        self._free -= taken
        return taken

    def release(self, taken: int) -> None:
        """Give back the bytes that `take` returned."""
        self._free += taken
        self._released.unpark_all()


@final
class _Putting:
    """Files on their way into a replica."""

    def __init__(self, store: ReplicaStore, files: Sequence[File], display: Display) -> None:
        self.problems = 0
        self.failure: Exception | None = None
        self.undelivered: StoreError | None = None
        self._store = store
        self._files = files
        self._display = display
        self._memory = _Memory(MEMORY_LIMIT)
        self._slots = trio.Semaphore(BATCHES)
        self._bytes_found = sum(file.size or 0 for file in files)
        self._files_done = 0
        self._bytes_done = 0
        display.begin(self._progress, FILE_STEPS * len(files) + self._bytes_found)

    async def start_batches(self, nursery: trio.Nursery) -> None:  # noqa: ASYNC910  (there may be no files)
        """Start a task for every batch, each as soon as there is room for it."""
        reported = trio.Event()
        reported.set()
        for batch in _batches(self._files):
            await self._slots.acquire()
            taken = await self._memory.take(sum(map(_size, batch)))
            before, reported = reported, trio.Event()
            nursery.start_soon(self._run_batch, batch, taken, before, reported, nursery.cancel_scope)

    async def _run_batch(  # noqa: ASYNC910  (a task of its own)
        self, batch: list[File], taken: int, before: trio.Event, reported: trio.Event, all_batches: trio.CancelScope
    ) -> None:
        try:
            await self._put_batch(batch, before)
            reported.set()
            self._slots.release()
            await self._flush()
            self._memory.release(taken)
        except Exception as failure:  # put_files raises it
            self.failure = self.failure or failure
            all_batches.cancel()

    async def _flush(self) -> None:  # noqa: ASYNC910  (the replica's has one, unless it fails)
        try:
            await self._store.flush()
        except StoreError as error:  # the blobs may be older than these files
            self.undelivered = error

    async def _put_batch(self, batch: list[File], before: trio.Event) -> None:
        """Read and put the files of `batch`, and report them once the batch before is reported."""
        read = await trio.to_thread.run_sync(read_files, batch, abandon_on_cancel=True)
        failed = await self._put([blob for blob in read if isinstance(blob, Blob)])
        await before.wait()
        lines: list[bytes] = []
        for file, blob in zip(batch, read, strict=True):
            if not isinstance(blob, Blob):
                self._report(blob)
            elif blob.ref in failed:
                self._report(f"{printable(file.path)}: {failed[blob.ref]}")
            else:
                lines.append(sum_line(file.path, blob.ref))
        await self._display.write(b"".join(lines))
        self._files_done += len(batch)
        self._bytes_done += sum(file.size or 0 for file in batch)
        self._display.advance(FILE_STEPS * len(batch) + sum(file.size or 0 for file in batch))

    async def _put(self, blobs: list[Blob]) -> dict[Ref, StoreError]:
        """Put `blobs`, and return the errors of the blobs that a store failed to store."""
        failed: dict[Ref, StoreError] = {}
        if len(blobs) > 1:
            with suppress(StoreError):  # of one of them, perhaps
                await self._store.put_many(blobs)
                return failed
        for blob in blobs:
            try:
                await self._store.put(blob)
            except StoreError as error:
                failed[blob.ref] = error
        return failed  # noqa: ASYNC910  (there may be no blobs)

    def _report(self, problem: str) -> None:
        self.problems += 1
        self._display.problem(problem)

    def _progress(self) -> str:
        if self._files_done < len(self._files):
            speed = decimal(int(self._bytes_done / (self._display.seconds or 1)))
            files = f"{self._files_done:,}/{len(self._files):,} files"
            return f"{files} {decimal(self._bytes_done)}/{decimal(self._bytes_found)} {speed}/s"
        queues = self._store.statistics().async_stores.items()
        left = (f"{name} ({queue.pending or queue.queued + queue.in_flight})" for name, queue in queues)
        return f"waiting for {', '.join(left)}"


def _batches(files: Iterable[File]) -> Iterator[list[File]]:
    batch: list[File] = []
    size = 0
    for file in files:
        if batch and (len(batch) == BATCH_FILES or size + _size(file) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += _size(file)
    if batch:
        yield batch


def _size(file: File) -> int:
    """Return the bytes of memory to reserve for a file, which is the whole memory if its length is unknown."""
    return MEMORY_LIMIT if file.size is None else file.size


async def _put(stores: Stores, paths: Iterable[str], *, recursive: bool) -> int:
    store: ReplicaStore | None = None
    all_are_put = False
    with cancelled_by_sigint() as scope:
        try:
            async with stores.open() as store:
                all_are_put = await put_files(store, paths, stores.own_files(), Display(), recursive=recursive)
        except PoisonedError:
            pass  # reported below, once it is known which blobs each store has
        except OutputError as error:
            say(describe(error))
    queues = {} if store is None else store.statistics().async_stores
    failures = {name: queue.failure for name, queue in queues.items() if queue.failure is not None}
    lacking = [] if store is None else _lacking(store)
    if failures:
        poisoned = "; ".join((f"the replica is poisoned: {describe_failures(failures)}", *lacking))
        cure = "trio-replica outbox flush" if "outbox" in stores.options else "put the files again"
        say(f"{poisoned}; once that is repaired, {cure}")
    elif scope.cancel_called:
        for line in lacking or ["no async store lacks an accepted blob"]:
            say(f"interrupted: {line}")
    if scope.cancel_called:
        return INTERRUPTED  # noqa: ASYNC910  (the whole of a run)
    return 0 if all_are_put else FAILED  # noqa: ASYNC910  (the whole of a run)


def _lacking(store: ReplicaStore) -> list[str]:
    """Return a line for each async store that does not have all blobs."""
    lines: list[str] = []
    for name, refs in store.unreplicated.items():
        if refs:
            named = ", ".join(str(ref)[:_DIGITS] for ref in refs[:_NAMED])
            lines.append(f"{name} lacks {len(refs)} accepted: {named}{', …' if len(refs) > _NAMED else ''}")
    return lines
