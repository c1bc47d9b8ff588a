"""A store in a directory, with one file for each blob."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import outcome

from .._blob import Blob, hashed
from .._calls.all_ended import all_ended
from .._calls.fan_out import concurrently
from .._calls.start import start_in_task
from .._calls.threads import open_store_threads
from .._deletable import DeletableStore
from .._listing import check_ref
from .._scheme import StoreScheme
from .._store import PutResult
from ._directory.blob_files import BlobFiles
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import BytesLike, Ref
    from .._calls.start import Cancel, Done
    from .._calls.threads import Call, Handler, StoreThreads

    Request: TypeAlias = Blob | Callable[[], Any]

WRITERS: Final = 6
"""Threads that write durably. Their fsyncs share the commits of the file system's journal. With blobs of 4 KiB, ext4,
2 cores and 64 callers, 4 threads put 2.7k a second, 6 put 3.3k, and 8 put 2.9k. Plain code without threads put 1.0k.
"""

WRITERS_WITHOUT_FSYNC: Final = 2
"""Threads that write without fsyncs. These wait mostly for each other to release the interpreter. On 2 cores with 64
callers, one made 22k puts of 4 KiB a second, 2 made 12k, and 8 made 7k. The second one is for slow file systems."""

READERS: Final = 2
"""Threads that read and list, so that a page or a large blob does not delay other calls. On 2 cores with 64 callers,
one made 66k gets of 4 KiB a second, 2 made 48k, and 4 made 28k. With 1 MiB they made 1.9k, 4.0k and 4.6k."""


def open_directory(
    root: str | os.PathLike[str], *, durable: bool = True
) -> AbstractAsyncContextManager[DirectoryStore]:
    """Open a store with one file for each blob, for the block. Create it if necessary.

    The files are ``ROOT/blobs/aa/aabb/<64 hex>``. Several processes may use one store at once if they run on one
    machine, or if the file system is as consistent as a local one. Files under ``ROOT/tmp`` that are older than a day
    are removed. All other files that are not blobs are left alone.

    The end of the block waits for the writes under way, even if it is cancelled.

    Args:
      root: the folder.
      durable: whether a blob whose put has returned survives a power cut. False leaves out the fsyncs. Then a power cut
        may leave an empty or shorter file under the name of a recent blob, which the next put of that blob repairs.

    Raises:
      OSError: on entering the block, if `root` is not a folder, or can't be created or written.

    """
    files = BlobFiles(os.path.abspath(os.fsdecode(root)), durable=durable)
    return open_files(files, writers=WRITERS if durable else WRITERS_WITHOUT_FSYNC)


@asynccontextmanager
async def open_files(files: BlobFiles, *, writers: int) -> AsyncGenerator[DirectoryStore, None]:
    """Open the store with these files and with `writers` threads that write."""
    async with (
        open_store_threads(f"writers of {files.root}", partial(_serve, files), threads=writers) as writing,
        open_store_threads(f"readers of {files.root}", partial(_serve, files), threads=READERS) as reading,
    ):
        await writing.run(files.prepare)
        yield DirectoryStore(files, writing, reading)


@final
class DirectoryStore(DeletableStore, StartedStore):
    """A store with one file for each blob: see `open_directory`, which makes it."""

    def __init__(self, files: BlobFiles, writers: StoreThreads[Request], readers: StoreThreads[Request]) -> None:
        self._files = files
        self._writers = writers
        self._readers = readers

    def __repr__(self) -> str:
        return f"<DirectoryStore {self._files.root!r}>"

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        It fails with an `OSError` that has the path if the system refuses. Then no part of the blob is visible.
        """
        return self._writers.start(blob, done, size=len(blob))

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs, a part of them by each thread: see `StartableStore`."""
        return start_in_task(partial(self._put_all, blobs), done)

    async def _put_all(self, blobs: Sequence[Blob]) -> list[PutResult]:
        results = await all_ended(list(dict.fromkeys(blobs)), self.start_put)
        added = {blob.ref: result.added for blob, result in results.items()}
        return [PutResult(blob.ref, added.pop(blob.ref, False)) for blob in blobs]

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        It fails with an `OSError` if the system refuses or the folder has vanished.
        """
        return self._readers.start(partial(self._files.get, ref), done, abandon_on_cancel=True)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start to read many blobs, a part of them by each thread: see `StartableStore`."""
        return start_in_task(partial(self._get_all, refs), done)

    async def _get_all(self, refs: Sequence[Ref]) -> dict[Ref, bytes]:
        found: dict[Ref, bytes] = {}

        async def get(part: Sequence[Ref]) -> None:
            found.update(await self._readers.run(partial(self._files.get_all, part), abandon_on_cancel=True))

        await concurrently(get, [refs[i::READERS] for i in range(min(READERS, len(refs)))])
        return found

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""
        return self._readers.start(partial(self._files.contains, ref), done, abandon_on_cancel=True)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`."""
        return self._readers.start(partial(self._files.list_page, after, limit), done, abandon_on_cancel=True)

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        check_ref(ref)
        deleted: bool = await self._writers.run(partial(self._files.delete, ref))
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically, whatever is there: see `DeletableStore.replace`."""
        blob = await hashed(blob)
        await self._writers.run(partial(self._files.replace, blob), size=len(blob))

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep the bytes under a ref as ``ROOT/damaged/<64 hex>-<n>``: see `DeletableStore.set_aside`."""
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


SCHEME: Final = StoreScheme(open_directory, "PATH", landmark=lambda path: os.path.join(path, "blobs"))
"""``dir:PATH``."""
