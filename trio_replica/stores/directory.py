"""A store of one file a blob."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
import stat
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import outcome

from .._blob import Ref, hashed, to_blobs
from .._errors import BlobNotFoundError
from .._store import DeletableStore, PutResult, StartableStore, check_page_request, check_ref, check_refs, concurrently
from .._threads import Call, open_store_threads
from ._files import identity, make_folder, make_folders, naming, sync

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence

    from .._blob import Blob, BytesLike
    from .._started import Cancel, Done
    from .._threads import Handler, StoreThreads

    Request: TypeAlias = Callable[[], Any]

WRITERS: Final = 8
"""Threads that write durably. Their fsyncs share the commits of the file system's journal: on ext4, 4 KiB blobs, one
thread made 2.2k durable puts a second, 4 made 5.3k, 8 made 7.0k and 16 made 7.1k."""

WRITERS_WITHOUT_FSYNC: Final = 2
"""Threads that write without fsyncs. Then what they wait for is mostly each other, for the interpreter: on 2 cores, one
made 22k puts of 4 KiB a second for 64 callers, 2 made 12k, 8 made 7k. A second one is for slow file systems."""

READERS: Final = 2
"""Threads that read and list, so that a page or a large blob does not hold up the others. As above: on 2 cores, for 64
callers, one made 66k gets of 4 KiB a second, 2 made 48k, 4 made 28k; of 1 MiB, 1.9k, 4.0k and 4.6k."""

LEFTOVER_AGE: Final = 24 * 60 * 60
"""Seconds after which a temporary file is taken for one that a killed process left."""

SYNCED_LIMIT: Final = 2**16
"""Refs that a session remembers as synced, about 10 MB; beyond, it forgets them and syncs again."""

_DIGITS: Final = frozenset("0123456789abcdef")

logger: Final = logging.getLogger("trio_replica")


@asynccontextmanager
async def open_directory(root: str | os.PathLike[str], *, durable: bool = True) -> AsyncGenerator[DirectoryStore, None]:
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
    files = _Files(os.path.abspath(os.fsdecode(root)), durable=durable)  # noqa: ASYNC240  (touches no disk)
    threads = WRITERS if durable else WRITERS_WITHOUT_FSYNC
    async with (
        open_store_threads(f"writers of {files.root}", _serve, threads=threads) as writers,
        open_store_threads(f"readers of {files.root}", _serve, threads=READERS) as readers,
    ):
        await writers.run(files.prepare)
        yield DirectoryStore(files, writers, readers)


@final
class DirectoryStore(DeletableStore, StartableStore):
    """A store of one file a blob: see `open_directory`, which makes it."""

    def __init__(self, files: _Files, writers: StoreThreads[Request], readers: StoreThreads[Request]) -> None:
        self._files = files
        self._writers = writers
        self._readers = readers

    def __repr__(self) -> str:
        return f"<DirectoryStore {self._files.root!r}>"

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        Raises:
          OSError: with the path, if the system refuses; no part of the blob is visible.

        """
        return self._writers.start(partial(self._files.put, blob), done, size=len(blob))

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, a part of them in each thread: see `Store.put_many`."""
        blobs = await to_blobs(blobs)
        distinct = list(dict.fromkeys(blobs))
        added: dict[Ref, bool] = {}

        async def put(part: list[Blob]) -> None:
            added.update(await self._writers.run(partial(self._files.put_all, part), size=sum(map(len, part))))

        await concurrently(put, [distinct[i::WRITERS] for i in range(min(WRITERS, len(distinct)))])
        return [PutResult(blob.ref, added.pop(blob.ref, False)) for blob in blobs]

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        Raises:
          OSError: if the system refuses, or the folder has vanished.

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


@contextmanager
def _serve() -> Generator[Handler[Request], None, None]:
    yield _call_each


def _call_each(batch: Sequence[Call[Request]]) -> None:
    for call in batch:
        call.outcome = outcome.capture(call.request)


@final
class _Files:
    """The files of one directory store. Its methods block, and run in the store's threads, several at once."""

    def __init__(self, root: str, *, durable: bool) -> None:
        self.root = root
        self._blobs = f"{root}/blobs"
        self._temporary = f"{root}/tmp"  # noqa: S108  (no system's)
        self._durable = durable
        self._session = secrets.token_hex(16)
        self._numbers = itertools.count()
        self._can_link = True
        self._identity: tuple[int, int] | None = None
        # What this session knows to be on the disk. Each is added after the fsync, so a race costs only a second one.
        self._made: set[str] = set()  # folders
        self._synced: set[Ref] = set()  # blobs

    def prepare(self) -> None:
        """Create the folders, see what the file system can do, and remove what killed processes left."""
        make_folders(self.root, durable=self._durable)
        for folder in (self._blobs, self._temporary):
            make_folder(folder)
        if self._durable:
            sync(self.root)
        self._identity = identity(self._blobs)
        self._can_link = self._probe_link()
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError, PermissionError):  # another process was first; another user's file
                    if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > LEFTOVER_AGE:
                        os.unlink(entry.path)

    def put(self, blob: Blob) -> PutResult:
        return PutResult(blob.ref, self._put(blob))

    def put_all(self, blobs: Iterable[Blob]) -> dict[Ref, bool]:
        return {blob.ref: self._put(blob) for blob in blobs}

    def _put(self, blob: Blob) -> bool:
        """Store `blob`, and return whether it was not there."""
        path = self._path(blob.ref)
        while (size := _size(path)) is None:
            with self._written(blob) as temporary, suppress(FileExistsError):  # of another writer, who was first
                self._give_name(temporary, blob.ref, os.link if self._can_link else os.replace)
                return True
        if size != len(blob):  # it came from another program, or a power cut
            logger.warning("replaced %s: it had %d bytes where the blob has %d", path, size, len(blob))
            self.replace(blob)
            return True
        if self._durable and blob.ref not in self._synced:
            try:
                sync(path)
            except FileNotFoundError:  # deleted meanwhile
                return self._put(blob)
            self._make_parents(blob.ref)
            self._sync_parent(blob.ref)
        self._check_present()
        return False

    def replace(self, blob: Blob) -> None:
        _size(self._path(blob.ref))  # raises if the name is taken by what is no blob
        with self._written(blob) as temporary:
            self._give_name(temporary, blob.ref, os.replace)

    def delete(self, ref: Ref) -> bool:
        if not self.contains(ref):
            return False
        try:
            os.unlink(self._path(ref))
        except FileNotFoundError:
            return False
        self._synced.discard(ref)
        if self._durable:
            sync(self._parent(ref))
        return True

    def get(self, ref: Ref) -> bytes:
        path = self._path(ref)
        try:
            # NONBLOCK for a pipe, which is not a blob either, so as not to wait for who writes it.
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NO_REGULAR_FILE:
                raise
            self._check_present()
            raise BlobNotFoundError(ref) from None
        try:
            with naming(path):
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise BlobNotFoundError(ref)
                return _read(file, status.st_size)
        finally:
            os.close(file)

    def get_all(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        found: dict[Ref, bytes] = {}
        for ref in refs:
            with suppress(BlobNotFoundError):
                found[ref] = self.get(ref)
        return found

    def contains(self, ref: Ref) -> bool:
        try:
            status = os.lstat(self._path(ref))
        except (FileNotFoundError, NotADirectoryError):
            self._check_present()
            return False
        return stat.S_ISREG(status.st_mode)

    def list_page(self, after: Ref, limit: int) -> list[Ref]:
        first = str(after)
        names: list[str] = []
        for top in _names(self._blobs, "", 2, first):
            for folder in _names(f"{self._blobs}/{top}", top, 4, first):
                names += _names(f"{self._blobs}/{top}/{folder}", folder, 64, first, files=True)
                if len(names) > limit:  # one more than enough, for the first may be `after` itself
                    break
            else:
                continue
            break
        self._check_present()
        return [Ref.from_hex(name) for name in names if name != first][:limit]

    def _path(self, ref: Ref) -> str:
        return f"{self._parent(ref)}/{ref}"

    def _parent(self, ref: Ref) -> str:
        digits = ref[:2].hex()
        return f"{self._blobs}/{digits[:2]}/{digits}"

    def _make_parents(self, ref: Ref) -> None:
        """Create the folders of a blob; the first time in a session, sync their names, whoever made them."""
        parent = self._parent(ref)
        grandparent = os.path.dirname(parent)
        for folder, holder in ((grandparent, self._blobs), (parent, grandparent)):
            if folder not in self._made:
                make_folder(folder)
                if self._durable:
                    sync(holder)
                self._made.add(folder)

    def _new_path(self) -> str:
        """Return the path of a temporary file that nobody else writes."""
        return f"{self._temporary}/{self._session}-{next(self._numbers)}"

    @contextmanager
    def _written(self, blob: Blob) -> Generator[str, None, None]:
        """Write a temporary file, yield its path, and remove it if it is still there."""
        path = self._new_path()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with naming(path):
                try:
                    rest = memoryview(blob.data)
                    while rest:
                        rest = rest[os.write(file, rest) :]
                    if self._durable:
                        os.fsync(file)
                finally:
                    os.close(file)
            yield path
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _give_name(self, temporary: str, ref: Ref, give: Callable[[str, str], None]) -> None:
        """Let a blob appear under its name, all at once, by `os.link` or `os.replace`."""
        self._make_parents(ref)
        try:
            give(temporary, self._path(ref))
        except FileNotFoundError:  # an empty folder was removed meanwhile
            self._made.clear()
            self._make_parents(ref)
            give(temporary, self._path(ref))
        self._sync_parent(ref)
        self._check_present()

    def _sync_parent(self, ref: Ref) -> None:
        if self._durable:
            sync(self._parent(ref))
            if len(self._synced) >= SYNCED_LIMIT:
                self._synced.clear()
            self._synced.add(ref)

    def _check_present(self) -> None:
        """Tell this store from one that has been removed, or is not mounted any more."""
        if identity(self._blobs) != self._identity:
            raise FileNotFoundError(errno.ENOENT, "The directory store has vanished", self.root)

    def _probe_link(self) -> bool:
        path = self._new_path()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        try:
            os.link(path, f"{path}-link")
        except OSError:  # as a file system without hard links says it: EPERM, ENOTSUP, EMLINK, …
            return False
        else:
            os.unlink(f"{path}-link")
            return True
        finally:
            os.unlink(path)


_NO_REGULAR_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What opening says where there is nothing, a file for a folder, a symbolic link, or a socket."""


def _read(file: int, size: int) -> bytes:
    """Return the bytes of a file, which has `size`: with one call, for another thread may run at each."""
    data = os.read(file, size + 1)
    if len(data) == size:
        return data
    parts = [data]  # a huge file, or one that is being written
    while data:
        data = os.read(file, size + 1)
        parts.append(data)
    return b"".join(parts)


def _size(path: str) -> int | None:
    """Return the bytes of a blob's file; None if there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "The name of a blob is taken by what is no regular file", path)
    return status.st_size


def _names(folder: str, prefix: str, length: int, first: str, *, files: bool = False) -> list[str]:
    """Return the names in `folder` of `length` digits that begin with `prefix`, from `first` on, in order."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if len(entry.name) == length
                and entry.name.startswith(prefix)
                and entry.name >= first[:length]
                and _DIGITS.issuperset(entry.name)
                and (not files or entry.is_file(follow_symlinks=False))
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
