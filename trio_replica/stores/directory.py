"""A store in a directory, with one file for each blob."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import outcome

from .._blob import Blob, Ref, hashed
from .._calls.fan_out import concurrently
from .._calls.start import start_in_task
from .._calls.threads import open_store_threads
from .._deletable import BLOCKED_LIMIT, DeletableStore, Integrity
from .._identity import check_mark
from .._listing import check_ref
from .._scheme import StoreScheme
from .._store import PutResult
from ._access import MAX_MEMORY, Access
from ._directory.names import landmark
from ._directory.place import Place
from ._directory.reads import BlobReads, Taken
from ._directory.writes import BlobWrites
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import BytesLike
    from .._calls.start import Cancel, Done
    from .._calls.threads import Call, Handler, StoreThreads

    Request: TypeAlias = Blob | Ref | Callable[[], Any]

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


_TOP_FOLDERS: Final = [f"{number:02x}" for number in range(256)]

_SHOWN: Final = 100
"""Names of blocked folders that the check of a store reports."""


def open_directory(
    root: str | os.PathLike[str],
    *,
    durable: bool = True,
    create: bool = True,
    read_only: bool = False,
    max_memory: int = MAX_MEMORY,
) -> AbstractAsyncContextManager[DirectoryStore]:
    """Open a store with one file for each blob, for the block. Create it if necessary.

    Several processes may use one at once, if they run on one machine or the file system is as consistent as a local
    one. ``ROOT/store-id`` is the store's identity. A store that another program made has none, and gets one when it is
    first opened to be written. Temporary files that a killed process left are removed after a day. The store leaves all
    other files alone.

    ``ROOT`` may be a symbolic link, and ``ROOT/blobs`` a link or a file system of its own. Then ``ROOT/blobs`` has the
    identity as well, and ``ROOT/blobs-apart`` says so. If the store is made without that, nothing may be mounted over
    ``ROOT/blobs`` later, or take its place, unless ``ROOT/store-id`` is copied into it. Nothing may be mounted over the
    folders in it. As long as something is, the store does not open, and the calls of an open store fail. Linux reports
    all mounts, and other systems only those of other devices.

    Temporary files are in ``ROOT/tmp``, or in ``ROOT/blobs/tmp`` if ``ROOT/blobs`` is on another file system. Links in
    ``ROOT/blobs`` are not followed. If a link has the name of a folder of blobs, puts into it fail, and reads and
    deletes find nothing there. The repair of a scrub moves the link aside.

    The end of the block waits for the writes under way, even if it is cancelled.

    Args:
      root: the folder.
      durable: whether a blob whose put has returned survives a power cut. False leaves out the fsyncs. A power cut may
        then leave an empty or shorter file under the name of a recent blob, which the next put of it repairs.
      create: whether to create a store if none exists. With False it is an error if ``ROOT/blobs`` is missing, or if it
        is empty and there is no identity, because the disk of the store may not be mounted.
      read_only: whether nothing is written or created. Permission to write is not needed, so a read-only mount is
        enough. There has to be a store, as with ``create=False``.
      max_memory: bytes of the largest blob that a get or a put takes into memory.

    Raises:
      TypeError, ValueError: at once, if an argument has a wrong type or value.
      StoreNotFoundError: if there is no store, and none may be created.
      StoreIdentityError: if ``ROOT/blobs`` belongs to another store, or to none.
      ReplicaError: if ``ROOT/store-id`` does not hold an identity.
      OSError: if `root` is not a folder, or can't be created or written, or if something is mounted over a folder of
        blobs. Also if the system can't sync its folders and the store is to be `durable`.

    """
    access = Access(create=create, read_only=read_only, max_memory=max_memory)
    place = Place(os.path.abspath(os.fsdecode(root)), access, durable=durable)
    return open_files(place, BlobWrites(place), writers=WRITERS if durable else WRITERS_WITHOUT_FSYNC)


@asynccontextmanager
async def open_files(place: Place, writes: BlobWrites, *, writers: int) -> AsyncGenerator[DirectoryStore, None]:
    """Open the store in a place, with this number of threads that write."""
    reads = BlobReads(place)
    serve = partial(_serve, writes, reads)
    with closing(place):
        async with (
            open_store_threads(f"writers of {place.root}", serve, threads=writers) as writing,
            open_store_threads(f"readers of {place.root}", serve, threads=READERS) as reading,
        ):
            await writing.run(place.prepare)
            yield DirectoryStore(place, writes, reads, writing, reading)


@final
class DirectoryStore(DeletableStore, StartedStore):
    """A store with one file for each blob: see `open_directory`, which makes it."""

    def __init__(
        self,
        place: Place,
        writes: BlobWrites,
        reads: BlobReads,
        writers: StoreThreads[Request],
        readers: StoreThreads[Request],
    ) -> None:
        self._place = place
        self._access = place.access
        self._writes = writes
        self._reads = reads
        self._writers = writers
        self._readers = readers

    def __repr__(self) -> str:
        return f"<DirectoryStore {self._place.root!r}>"

    @property
    def is_durable(self) -> bool:
        """Whether a blob whose put has returned survives a power cut: see `open_directory`."""
        return self._place.durable

    @property
    def is_read_only(self) -> bool:
        """Whether the store was opened with ``read_only=True``."""
        return self._access.read_only

    async def identity(self) -> str | None:
        """Return the content of ``ROOT/store-id``: see `Store.identity`. It may be None if the store is read-only."""
        identity: str | None = await self._readers.run(self._place.identity, abandon_on_cancel=True)
        return identity

    async def session_mark(self) -> str | None:
        """Return the content of ``ROOT/session-mark``: see `Store.session_mark`."""
        mark: str | None = await self._readers.run(self._place.session_mark, abandon_on_cancel=True)
        return mark

    async def set_session_mark(self, mark: str) -> None:
        """Replace the content of ``ROOT/session-mark``: see `Store.set_session_mark`."""
        self._check_writable()
        await self._writers.run(partial(self._place.set_session_mark, check_mark(mark)))

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        If the system refuses, it fails with an `OSError` that has the path. If another store is there now, it fails
        with a `StoreIdentityError`. In both cases no part of the blob is visible.

        Raises:
          StoreReadOnlyError: if the store was opened with ``read_only=True``.
          BlobTooLargeError: if the blob is larger than ``max_memory``.

        """
        self._check_writable()
        self._access.check_size(self._place.root, len(blob))
        return self._writers.start(blob, done, size=len(blob))

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs, each thread its share of them: see `StartableStore`.

        Raises:
          StoreReadOnlyError: if the store was opened with ``read_only=True``.

        """
        self._check_writable()
        return start_in_task(partial(self._put_each, blobs), done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        If the system refuses, or the store has vanished, it fails with an `OSError`. If another store is there now, it
        fails with a `StoreIdentityError`, and if the blob is larger than ``max_memory``, with a `BlobTooLargeError`.
        """
        return self._readers.start(partial(self._reads.get, ref), done, abandon_on_cancel=True)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start to read many blobs, a part of them by each thread: see `StartableStore`."""
        return start_in_task(partial(self._get_all, refs), done)

    async def _get_all(self, refs: Sequence[Ref]) -> dict[Ref, bytes]:
        found: dict[Ref, bytes] = {}

        async def get(part: Sequence[Ref]) -> None:
            found.update(await self._readers.run(partial(self._reads.get_all, part), abandon_on_cancel=True))

        await concurrently(get, [refs[i::READERS] for i in range(min(READERS, len(refs)))])
        return found

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""
        return self._readers.start(ref, done, abandon_on_cancel=True)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`.

        Its memory is bounded by `limit`. Its time is not bounded, because a page reads all names in each folder that it
        looks into, in ``ROOT/blobs`` and two levels below, also those of other files. A million names take seconds.
        """
        return self._readers.start(partial(self._reads.list_page, after, limit), done, abandon_on_cancel=True)

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        check_ref(ref)
        self._check_writable()
        deleted: bool = await self._writers.run(partial(self._writes.delete, ref))
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically, even if another file has its name: see `DeletableStore.replace`.

        Anything but a regular file is moved to ``ROOT/damaged`` first.
        """
        blob = await hashed(blob)
        self._check_writable()
        self._access.check_size(self._place.root, len(blob))
        await self._writers.run(partial(self._writes.replace, blob), size=len(blob))

    async def renew_identity(self) -> str:
        """Replace the content of ``ROOT/store-id``: see `DeletableStore.renew_identity`."""
        self._check_writable()
        identity: str = await self._writers.run(self._place.renew_identity)
        return identity

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep the file of a ref as ``ROOT/damaged/<64 hex>-<n>``: see `DeletableStore.set_aside`.

        Anything but a regular file is moved there.
        """
        check_ref(ref)
        self._check_writable()
        path: str | None = await self._writers.run(partial(self._writes.set_aside, ref))
        return path

    async def get_stored(self, ref: Ref) -> bytes:
        """Return a blob as it is on the disk, past the system's cache: see `DeletableStore.get_stored`.

        This works on Linux, on file systems that keep files on a disk of this machine. Others answer from a cache.
        """
        check_ref(ref)
        data: bytes = await self._readers.run(partial(self._reads.get_stored, ref), abandon_on_cancel=True)
        return data

    async def check_integrity(self) -> Integrity:
        """Look for names of blobs and of their folders that belong to something else, such as a symbolic link."""
        folders: list[str] = []
        blocked: list[Ref] = []
        count = 0
        for digits in _TOP_FOLDERS:
            taken = await self._find_taken(digits, BLOCKED_LIMIT - len(blocked))
            folders += taken.folders
            blocked += taken.refs
            count += taken.refs_count
        return Integrity(  # noqa: ASYNC910  (there are folders to look into)
            problems=tuple(f"{path} is not a folder, so no blob can be stored in it" for path in folders[:_SHOWN]),
            blocked=tuple(blocked),
            blocked_count=count,
        )

    async def repair_integrity(self) -> None:  # noqa: ASYNC910  (likewise)
        """Move everything that has the name of a folder of blobs but is not a folder to ``ROOT/damaged``."""
        self._check_writable()
        for digits in _TOP_FOLDERS:
            for path in (await self._find_taken(digits, 0)).folders:
                await self._writers.run(partial(self._writes.clear_folder_name, path))

    async def _find_taken(self, digits: str, limit: int) -> Taken:
        find = partial(self._reads.find_taken, digits, limit)
        taken: Taken = await self._readers.run(find, abandon_on_cancel=True)
        return taken

    def _check_writable(self) -> None:
        self._access.check_writable(self._place.root)


@contextmanager
def _serve(writes: BlobWrites, reads: BlobReads) -> Generator[Handler[Request], None, None]:
    yield partial(_handle, writes, reads)


def _handle(writes: BlobWrites, reads: BlobReads, batch: Sequence[Call[Request]]) -> None:
    """Serve the puts of a batch together, likewise the questions whether blobs are there, and then the other calls."""
    puts = [(call, call.request) for call in batch if isinstance(call.request, Blob)]
    if puts:
        for (call, blob), ended in zip(puts, writes.put_all([blob for _, blob in puts]), strict=True):
            if isinstance(ended, outcome.Error):
                call.fail(ended.error)
            else:
                call.outcome = outcome.Value(PutResult(blob.ref, ended.value))
    asked = [(call, call.request) for call in batch if isinstance(call.request, Ref)]
    if asked:
        for (call, _), answer in zip(asked, reads.contain([ref for _, ref in asked]), strict=True):
            if isinstance(answer, outcome.Error):
                call.fail(answer.error)
            else:
                call.outcome = answer
    for call in batch:
        if callable(call.request):
            call.outcome = outcome.capture(call.request)


SCHEME: Final = StoreScheme(open_directory, "PATH", landmark=landmark)
"""``dir:PATH``."""
