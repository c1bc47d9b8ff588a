"""A store of one file a blob."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import outcome

from .._blob import Blob, hashed, to_blobs
from .._deletable import DeletableStore
from .._started import StartedCalls, fan_out_started
from .._store import PutResult, StartableStore, check_page_request, check_ref, check_refs, concurrently
from .._threads import open_store_threads
from ._blob_files import BlobFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import BytesLike, Ref
    from .._fan_out import Ended
    from .._started import Cancel, Done
    from .._threads import Call, Handler, StoreThreads

    Request: TypeAlias = Blob | Callable[[], Any]

WRITERS: Final = 6
"""Threads that write durably. Their fsyncs share the commits of the file system's journal. Of 4 KiB blobs, on ext4 and
2 cores, for 64 callers, 4 threads put 2.7k a second, 6 put 3.3k, 8 put 2.9k, where plain code without threads put 1.0k.
"""

WRITERS_WITHOUT_FSYNC: Final = 2
"""Threads that write without fsyncs. Then what they wait for is mostly each other, for the interpreter: on 2 cores, one
made 22k puts of 4 KiB a second for 64 callers, 2 made 12k, 8 made 7k. A second one is for slow file systems."""

READERS: Final = 2
"""Threads that read and list, so that a page or a large blob does not hold up the others. As above: on 2 cores, for 64
callers, one made 66k gets of 4 KiB a second, 2 made 48k, 4 made 28k; of 1 MiB, 1.9k, 4.0k and 4.6k."""


def open_directory(
    root: str | os.PathLike[str], *, durable: bool = True
) -> AbstractAsyncContextManager[DirectoryStore]:
    """Open a store of one file a blob, ``ROOT/blobs/aa/aabb/<64 hex>``, for the block; create it if need be.

    Several processes may use one at once, if they run on one machine or the file system is as consistent as a local
    one. Files under ``ROOT/tmp`` that are older than a day are removed; whatever else is not a blob is left alone.

    The block's end waits for the writes under way, even if it is cancelled.

    Args:
      root: the folder.
      durable: whether a blob whose put has returned survives a power cut. False leaves out the fsyncs; then a power
        cut may leave an empty or shorter file under the name of a recent blob, which the next put of it mends.

    Raises:
      OSError: if `root` is no folder, or can't be created, or can't be written.

    """
    files = BlobFiles(os.path.abspath(os.fsdecode(root)), durable=durable)
    return open_files(files, writers=WRITERS if durable else WRITERS_WITHOUT_FSYNC)


@asynccontextmanager
async def open_files(files: BlobFiles, *, writers: int) -> AsyncGenerator[DirectoryStore, None]:
    """Open the store that has these files, with so many threads that write."""
    async with (
        open_store_threads(f"writers of {files.root}", partial(_serve, files), threads=writers) as writing,
        open_store_threads(f"readers of {files.root}", partial(_serve, files), threads=READERS) as reading,
    ):
        await writing.run(files.prepare)
        yield DirectoryStore(files, writing, reading)


@final
class DirectoryStore(DeletableStore, StartableStore):
    """A store of one file a blob: see `open_directory`, which makes it."""

    def __init__(self, files: BlobFiles, writers: StoreThreads[Request], readers: StoreThreads[Request]) -> None:
        self._files = files
        self._writers = writers
        self._readers = readers

    def __repr__(self) -> str:
        return f"<DirectoryStore {self._files.root!r}>"

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        It fails with an `OSError` that has the path, if the system refuses; no part of the blob is visible then.
        """
        return self._writers.start(blob, done, size=len(blob))

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, each thread its share of them: see `Store.put_many`."""
        blobs = await to_blobs(blobs)
        added: dict[Ref, bool] = {}
        failures: list[BaseException] = []

        def settle(blob: Blob, ended: Ended[PutResult]) -> bool:
            if isinstance(ended, outcome.Error):
                failures.append(ended.error)
            else:
                added[blob.ref] = ended.value.added
            return bool(failures)

        await fan_out_started(StartedCalls(list(dict.fromkeys(blobs)), self.start_put, needs_all=True), settle)
        if failures:
            try:
                raise failures[0]
            finally:
                del failures
        return [PutResult(blob.ref, added.pop(blob.ref, False)) for blob in blobs]

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        It fails with an `OSError` if the system refuses, or the folder has vanished.
        """
        return self._readers.start(partial(self._files.get, ref), done, abandon_on_cancel=True)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return those of many blobs that are there, a part of them by each thread: see `Store.get_many`."""
        refs = check_refs(refs)
        found: dict[Ref, bytes] = {}

        async def get(part: list[Ref]) -> None:
            found.update(await self._readers.run(partial(self._files.get_all, part), abandon_on_cancel=True))

        await concurrently(get, [refs[i::READERS] for i in range(min(READERS, len(refs)))])
        return found

    async def contains(self, ref: Ref) -> bool:
        """Return whether a blob is there: see `Store.contains`."""
        check_ref(ref)
        there: bool = await self._readers.run(partial(self._files.contains, ref), abandon_on_cancel=True)
        return there

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs: see `Store.list_page`."""
        check_page_request(after, limit)
        page: list[Ref] = await self._readers.run(partial(self._files.list_page, after, limit), abandon_on_cancel=True)
        return page

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        check_ref(ref)
        deleted: bool = await self._writers.run(partial(self._files.delete, ref))
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever is there, atomically: see `DeletableStore.replace`."""
        blob = await hashed(blob)
        await self._writers.run(partial(self._files.replace, blob), size=len(blob))

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep what is under a ref as ``ROOT/damaged/<64 hex>-<n>``: see `DeletableStore.set_aside`."""
        path: str | None = await self._writers.run(partial(self._files.set_aside, check_ref(ref)))
        return path


@contextmanager
def _serve(files: BlobFiles) -> Generator[Handler[Request], None, None]:
    yield partial(_handle, files)


def _handle(files: BlobFiles, batch: Sequence[Call[Request]]) -> None:
    puts = [(call, call.request) for call in batch if isinstance(call.request, Blob)]
    for (call, blob), ended in zip(puts, files.put_all([blob for _, blob in puts]), strict=True):
        if isinstance(ended, outcome.Error):
            call.fail(ended.error)
        else:
            call.outcome = outcome.Value(PutResult(blob.ref, ended.value))
    for call in batch:
        if not isinstance(call.request, Blob):
            call.outcome = outcome.capture(call.request)
