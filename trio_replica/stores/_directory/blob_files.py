"""The files of a directory store. All methods block, and run in the store's threads, several at once."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

import outcome

from ..._blob import Ref
from ..._errors import BlobNotFoundError
from .._files import identity, keep_second, make_folder, make_folders, naming, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..._blob import Blob

LEFTOVER_AGE: Final = 24 * 60 * 60
"""Seconds after which a temporary file counts as left by a killed process."""

SYNCED_LIMIT: Final = 2**16
"""Refs that a session remembers as synced, about 10 MB. With more, it forgets them and syncs again."""

FILES_AT_ONCE: Final = 32
"""Files that one thread has open at once. With 6 threads, this is a fifth of the usual limit of 1024 for a process."""

READ_AT_LEAST: Final = 64 * 1024
"""Bytes to read at once if a file turns out to have another size than before."""

_DIGITS: Final = frozenset("0123456789abcdef")

logger: Final = logging.getLogger("trio_replica")


class _NewFile:
    """A file for the bytes of a blob before it gets the blob's name."""

    __slots__ = ("added", "blob", "descriptor", "folders", "is_named", "path")

    def __init__(self, blob: Blob, path: str) -> None:
        self.blob = blob
        self.path = path
        self.descriptor: int | None = None
        self.folders: list[str] = []  # with names that may not be synced, whoever made them
        self.is_named = False
        self.added: bool | None = None  # set if another file had the name already, and that case is dealt with


@final
class BlobFiles:
    """The files of one directory store."""

    def __init__(self, root: str, *, durable: bool, at_once: int = FILES_AT_ONCE, remember: int = SYNCED_LIMIT) -> None:
        self.root = root
        self._at_once, self._remember = at_once, remember
        self._blobs = f"{root}/blobs"
        self._temporary = f"{root}/tmp"  # noqa: S108  (no system's)
        self._durable = durable
        self._session = secrets.token_hex(16)
        self._numbers = itertools.count()
        self._deletions = 0
        self._can_link = True
        self._identity: tuple[int, int] | None = None
        # Names known to be on the disk. Each is added after its fsync, so a race only costs a second fsync.
        self._made: set[str] = set()  # folders
        self._synced: set[Ref] = set()  # blobs

    def prepare(self) -> None:
        """Create the folders, test the file system for hard links, and remove temporary files of killed processes."""
        make_folders(self.root, durable=self._durable)
        for folder in (self._blobs, self._temporary):
            make_folder(folder)
        if self._durable:
            sync(self.root)
        self._identity = identity(self._blobs)
        self._can_link = self._probe_link()
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError, PermissionError):  # removed by another process; another user's
                    if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > LEFTOVER_AGE:
                        os.unlink(entry.path)

    # Writing

    def put_all(self, blobs: Sequence[Blob]) -> list[outcome.Value[bool] | outcome.Error]:
        """Store `blobs`, and return the outcome of each: whether it was added, or an error.

        All are written, then all synced, then all named, because the first fsync of several commits most of the data
        of the others. With 4 KiB blobs, ext4 and 64 callers, this makes a fifth more puts a second than one by one.
        """
        if len(blobs) > (at_once := self._at_once):
            parts = [blobs[first : first + at_once] for first in range(0, len(blobs), at_once)]
            return [ended for part in parts for ended in self.put_all(part)]
        deletions = self._deletions
        files = [_NewFile(blob, self._new_path()) for blob in blobs]
        errors: _Errors = {}
        for step in (self._write, self._sync_content, self._name):
            for place, file in enumerate(files):
                if file.added is None and place not in errors:
                    _attempt(errors, [place], step, file)
        for place, file in enumerate(files):
            _attempt(errors, [place], _remove, file)
        for folder, places in self._unsynced(files).items():
            _attempt(errors, places, sync, folder)
        _attempt(errors, range(len(files)), self._check_present)
        self._note_synced([file for place, file in enumerate(files) if place not in errors], deletions)
        return [
            outcome.Error(errors[place]) if place in errors else outcome.Value(file.added is not False)
            for place, file in enumerate(files)
        ]

    def replace(self, blob: Blob) -> None:
        """Write `blob` atomically, whatever is there under its name."""
        _size(self._path(blob.ref))  # raises if the name belongs to something that is not a blob
        deletions = self._deletions
        file = _NewFile(blob, self._new_path())
        try:
            self._write_content(file)
            self._sync_content(file)
            self._give_name(file, os.replace)
        finally:
            _remove(file)
        for folder in self._unsynced([file]):
            sync(folder)
        self._check_present()
        self._note_synced([file], deletions)

    def delete(self, ref: Ref) -> bool:
        if not self.contains(ref):
            return False
        try:
            os.unlink(self._path(ref))
        except FileNotFoundError:
            return False
        self._deletions += 1
        self._synced.discard(ref)
        if self._durable:
            sync(self._parent(ref))
        return True

    def set_aside(self, ref: Ref) -> str | None:
        """Give the file of a blob a second name (without hard links, copy it), and return the new path."""
        path = self._path(ref)
        if not self.contains(ref):
            return None
        aside = keep_second(path, f"{self.root}/damaged", can_link=self._can_link)
        if self._durable:
            for name in (aside, os.path.dirname(aside), self.root):
                sync(name)
        return aside

    def _write(self, file: _NewFile) -> None:
        """Write a blob. If it is there already, check and sync that file instead."""
        size = _size(self._path(file.blob.ref))
        if size is None:
            self._write_content(file)
        else:
            file.added = self._put_existing(file.blob, size)

    def _write_content(self, file: _NewFile) -> None:
        file.descriptor = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with naming(file.path):
            rest = memoryview(file.blob.data)
            while rest:
                rest = rest[os.write(file.descriptor, rest) :]

    def _sync_content(self, file: _NewFile) -> None:
        assert file.descriptor is not None
        with naming(file.path):
            if self._durable:
                os.fsync(file.descriptor)
            descriptor, file.descriptor = file.descriptor, None
            os.close(descriptor)

    def _name(self, file: _NewFile) -> None:
        try:
            self._give_name(file, os.link if self._can_link else os.replace)
        except FileExistsError:  # another writer was first
            file.folders = []
            size = _size(self._path(file.blob.ref))
            file.added = self._put(file.blob) if size is None else self._put_existing(file.blob, size)

    def _give_name(self, file: _NewFile, give: Callable[[str, str], None]) -> None:
        """Give a complete file the name of its blob, with `os.link` or `os.replace`."""
        try:
            file.folders = self._make_parents(file.blob.ref)
            give(file.path, self._path(file.blob.ref))
        except FileNotFoundError:  # a folder was removed in the meantime
            self._made.clear()
            file.folders = self._make_parents(file.blob.ref)
            give(file.path, self._path(file.blob.ref))
        file.is_named = True

    def _put(self, blob: Blob) -> bool:
        (ended,) = self.put_all([blob])
        return ended.unwrap()

    def _put_existing(self, blob: Blob, size: int) -> bool:
        """Make sure that an existing blob of `size` bytes is complete and synced. Return whether this wrote it."""
        path = self._path(blob.ref)
        if size != len(blob):  # another program or a power cut left it
            logger.warning("replaced %s: it had %d bytes where the blob has %d", path, size, len(blob))
            self.replace(blob)
            return True
        if self._durable and blob.ref not in self._synced:
            try:
                sync(path)
            except FileNotFoundError:  # deleted in the meantime
                return self._put(blob)
            made = self._make_parents(blob.ref)
            for folder in self._holders(blob.ref, made):
                sync(folder)
            self._made.update(made)
        return False

    def _unsynced(self, files: Iterable[_NewFile]) -> dict[str, list[int]]:
        """Return the folders to be synced for `files`, each with the positions of its files."""
        folders: dict[str, list[int]] = {}
        for place, file in enumerate(files):
            if self._durable and file.is_named:
                for folder in self._holders(file.blob.ref, file.folders):
                    folders.setdefault(folder, []).append(place)
        return folders

    def _holders(self, ref: Ref, folders: Iterable[str]) -> list[str]:
        """Return the folders that hold the name of a blob's file and the names of `folders`."""
        return [*map(os.path.dirname, folders), self._parent(ref)]

    def _note_synced(self, files: Iterable[_NewFile], deletions: int) -> None:
        """Note folders and blobs as synced, but no blobs if there were more than `deletions` deletions by now."""
        for file in files:
            self._made.update(file.folders)
            if self._durable and self._deletions == deletions:
                if len(self._synced) >= self._remember:
                    self._synced.clear()
                self._synced.add(file.blob.ref)

    # Reading

    def get(self, ref: Ref) -> bytes:
        path = self._path(ref)
        try:
            # NONBLOCK is for a pipe, which is not a blob either, so that this does not wait for a writer.
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NO_REGULAR_FILE:
                raise
            self._check_present()
            raise BlobNotFoundError(ref) from None
        try:
            if not stat.S_ISREG((status := os.fstat(file)).st_mode):
                raise BlobNotFoundError(ref)
            return _read(file, status.st_size)
        except OSError as error:
            error.filename = error.filename or path
            raise
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
            return stat.S_ISREG(os.lstat(self._path(ref)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            self._check_present()
            return False

    def list_page(self, after: Ref, limit: int) -> list[Ref]:
        first = str(after)
        names: list[str] = []
        for top in _names(self._blobs, "", 2, first):
            for folder in _names(f"{self._blobs}/{top}", top, 4, first):
                names += _names(f"{self._blobs}/{top}/{folder}", folder, 64, first, files=True)
                if len(names) > limit:  # one more than enough, because the first may be `after` itself
                    break
            else:
                continue
            break
        self._check_present()
        return [Ref.from_hex(name) for name in names if name != first][:limit]

    # Where it all is

    def _path(self, ref: Ref) -> str:
        return f"{self._parent(ref)}/{ref}"

    def _parent(self, ref: Ref) -> str:
        digits = ref[:2].hex()
        return f"{self._blobs}/{digits[:2]}/{digits}"

    def _new_path(self) -> str:
        """Return the path of a new temporary file."""
        return f"{self._temporary}/{self._session}-{next(self._numbers)}"

    def _make_parents(self, ref: Ref) -> list[str]:
        """Create the folders of a blob. Return the ones that this session has not synced yet, whoever made them."""
        parent = self._parent(ref)
        folders = [folder for folder in (os.path.dirname(parent), parent) if folder not in self._made]
        for folder in folders:
            make_folder(folder)
        return folders

    def _check_present(self) -> None:
        """Check that the store has not been removed and is still mounted."""
        if identity(self._blobs) != self._identity:
            raise FileNotFoundError(errno.ENOENT, "The directory store has vanished", self.root)

    def _probe_link(self) -> bool:
        path = self._new_path()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        try:
            os.link(path, f"{path}-link")
        except OSError:  # EPERM, ENOTSUP, EMLINK, … on a file system without hard links
            return False
        else:
            os.unlink(f"{path}-link")
            return True
        finally:
            os.unlink(path)


_NO_REGULAR_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""The errors of opening a path that is missing, is in a file instead of a folder, or is a symbolic link or a socket."""


_Errors: TypeAlias = "dict[int, Exception]"
"""The errors of some files by their positions."""


def _attempt(errors: _Errors, places: Iterable[int], step: Callable[..., None], *arguments: object) -> None:
    """Call ``step(*arguments)``. If it fails, that is the error of the files at `places` that have none yet."""
    ended = outcome.capture(step, *arguments)
    if isinstance(ended, outcome.Error):
        assert isinstance(ended.error, Exception)
        ended.error.__traceback__ = None  # it would keep all blobs of the batch alive
        for place in places:
            errors.setdefault(place, ended.error)


def _read(file: int, size: int) -> bytes:
    """Return the bytes of a file of `size` bytes, with one call, because another thread may run at each call."""
    data = os.read(file, size + 1)
    if len(data) == size:
        return data
    parts = [data]  # a huge file needs several calls, and so does one that has just changed
    while data:
        data = os.read(file, max(size - len(data), READ_AT_LEAST))
        parts.append(data)
    return b"".join(parts)


def _remove(file: _NewFile) -> None:
    """Remove a temporary file, if it is still there."""
    descriptor, file.descriptor = file.descriptor, None
    if descriptor is not None:
        os.close(descriptor)
    with suppress(FileNotFoundError):
        os.unlink(file.path)


def _size(path: str) -> int | None:
    """Return the number of bytes of a blob's file, or None if there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "The name of a blob is taken by what is no regular file", path)
    return status.st_size


def _names(folder: str, prefix: str, length: int, first: str, *, files: bool = False) -> list[str]:
    """Return the names in `folder` with `length` digits that begin with `prefix`, in order from `first` on."""
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
