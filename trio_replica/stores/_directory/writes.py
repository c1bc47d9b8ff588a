"""The writes of a directory store. They block, and run in the store's threads, several at once."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

import outcome

from .._files import keep_second, move_aside, naming, sync, write_fully
from .folders import NOT_FOLLOWED, check_folders, make_folders_of_blob, taken_name
from .names import folder_of, is_blob, no_folder_above, own_status_of, path_of
from .synced import Synced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..._blob import Blob, Ref
    from .place import Place

SYNCED_LIMIT: Final = 2**15
"""Names that a session remembers as synced, about 10 MB. Beyond that it forgets them and syncs again."""

FILES_AT_ONCE: Final = 32
"""Files that one thread has open at once. 6 threads then use a fifth of the 1024 that a process may usually open."""

PUT_AGAIN: Final = 3
"""How often a put is repeated if another program removes the blob while it is put."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_TORN: Final = "replaced %s: it had %d bytes where the blob has %d"

logger: Final = logging.getLogger("trio_replica")

_Errors: TypeAlias = "dict[int, Exception]"
"""The errors of some files, by their positions in the batch."""


class _NewFile:
    """A file that a blob is written to before it gets the blob's name."""

    __slots__ = ("added", "blob", "descriptor", "folder", "is_named", "name", "path", "written")

    def __init__(self, blob: Blob, path: str, folder: str) -> None:
        self.blob = blob
        self.path = path
        self.folder = folder
        self.name: str = f"{folder}/{blob.ref}"  # the path that it is to get
        self.descriptor: int | None = None
        self.written: os.stat_result | None = None  # once it is synced
        self.is_named = False
        self.added: bool | None = None  # set if another file already has the name and has been checked


@final
class BlobWrites:
    """The writes of one directory store.

    A put may return once its file, the file's name, and the names of the folders above are on the disk. Each of these
    names must still lead to the file or folder that was synced, as another program may have removed or replaced it.
    """

    def __init__(
        self,
        place: Place,
        *,
        at_once: int = FILES_AT_ONCE,
        remember: int = SYNCED_LIMIT,
        tick: float | None = None,
    ) -> None:
        self._place = place
        self._at_once = at_once
        self._synced_blobs = Synced(remember, tick=tick)  # by their refs
        self._synced_folders = Synced(SYNCED_LIMIT, tick=tick)  # the names in them; by their paths
        self._made: set[str] = set()  # folders of blobs that were there once, and no links; of 65,536 that there can be

    def put_all(self, blobs: Sequence[Blob], *, again: int = PUT_AGAIN) -> list[outcome.Value[bool] | outcome.Error]:
        """Store `blobs`, and return an outcome for each: whether it was added, or an error.

        All are written, then all synced, then all named, because the first fsync of several commits most of the data of
        the others. With 4 KiB blobs, on ext4, for 64 callers, this gives a fifth more puts a second.
        """
        if len(blobs) > (at_once := self._at_once):
            parts = [blobs[first : first + at_once] for first in range(0, len(blobs), at_once)]
            return [ended for part in parts for ended in self.put_all(part, again=again)]
        files = [self._new_file(blob) for blob in blobs]
        errors: _Errors = {}
        # Checked before, so that nothing is written into another store, and after, because otherwise no put counts.
        _attempt(errors, range(len(files)), self._place.check_present)
        for step in (self._write, self._sync_content, self._name):
            for index, file in enumerate(files):
                if file.added is None and index not in errors:
                    _attempt(errors, [index], step, file)
        for index, file in enumerate(files):
            _attempt(errors, [index], _remove, file)
        if self._place.durable:
            named = {index: file for index, file in enumerate(files) if file.is_named and index not in errors}
            self._sync_named(named, errors, again)
        _attempt(errors, range(len(files)), self._place.check_present)
        return [
            outcome.Error(errors[index]) if index in errors else outcome.Value(file.added is not False)
            for index, file in enumerate(files)
        ]

    def replace(self, blob: Blob) -> None:
        """Write `blob` atomically over any file with its name. Anything but a regular file is moved aside first."""
        self._place.check_present()
        check_folders(folder_of(self._place.blobs, blob.ref))
        try:
            self._status(self._path(blob.ref), folder_of(self._place.blobs, blob.ref))
        except FileExistsError:
            self.set_aside(blob.ref)
        file = self._new_file(blob)
        try:
            self._write_content(file)
            self._sync_content(file)
            self._give_name(file, os.replace)
        finally:
            _remove(file)
        if self._place.durable:
            errors: _Errors = {}
            self._sync_named({0: file}, errors, PUT_AGAIN)
            for error in errors.values():
                raise error
        self._place.check_present()

    def delete(self, ref: Ref) -> bool:
        """Remove a blob, and return whether it was there. Anything but a regular file is left alone."""
        self._place.check_present()
        path = self._path(ref)
        if not is_blob(own_status_of(self._place.blobs, ref)):
            return False
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        self._synced_blobs.forget(ref)
        if self._place.durable:
            self._sync_removal(os.path.dirname(path))
        return True

    def set_aside(self, ref: Ref) -> str | None:
        """Give the file of a blob a second name, or make a copy if links do not work, and return its path.

        Anything but a regular file is moved instead.
        """
        self._place.check_present()
        path, folder = self._path(ref), self._place.damaged
        status = own_status_of(self._place.blobs, ref)
        if status is None:
            return None
        if is_blob(status):
            aside = keep_second(path, folder, can_link=self._place.can_link)
            changed = [folder]
            if self._place.durable:
                sync(aside)
        else:
            aside = self._move_aside(path)
            changed = [os.path.dirname(aside), folder, os.path.dirname(path)]
        if self._place.durable:
            for one in (*changed, os.path.dirname(folder)):
                self._place.sync_folder(one)
        return aside

    def clear_folder_name(self, path: str) -> None:
        """Move aside everything that has the name of a folder of blobs but is not a folder."""
        self._place.check_present()
        if os.path.islink(path) or not os.path.isdir(path):
            aside = self._move_aside(path)
            if self._place.durable:
                for one in (os.path.dirname(aside), self._place.damaged, os.path.dirname(path)):
                    self._place.sync_folder(one)

    def _move_aside(self, path: str) -> str:
        aside = move_aside(path, self._place.damaged)
        logger.warning("moved %s to %s: it has the name of a blob or of a folder of blobs, but is neither", path, aside)
        return aside

    # The steps of a put

    def _new_file(self, blob: Blob) -> _NewFile:
        return _NewFile(blob, self._place.new_path(), folder_of(self._place.blobs, blob.ref))

    def _write(self, file: _NewFile) -> None:
        """Write a blob, or check the one that is already there."""
        status = self._status(file.name, file.folder)
        if status is None:
            self._write_content(file)
        else:
            file.added = self._put_existing(file.blob, status)

    def _write_content(self, file: _NewFile) -> None:
        try:
            file.descriptor = os.open(file.path, _NEW, 0o666)
        except FileNotFoundError:
            self._place.make_temporary_again()
            file.descriptor = os.open(file.path, _NEW, 0o666)
        with naming(file.path):
            write_fully(file.descriptor, file.blob.data)

    def _sync_content(self, file: _NewFile) -> None:
        assert file.descriptor is not None
        with naming(file.path):
            if self._place.durable:
                os.fsync(file.descriptor)
                file.written = os.fstat(file.descriptor)
            descriptor, file.descriptor = file.descriptor, None
            os.close(descriptor)

    def _name(self, file: _NewFile) -> None:
        try:
            self._give_name(file, os.link if self._place.can_link else os.replace)
        except FileExistsError:  # another writer was first
            status = self._status(file.name, file.folder)
            file.added = self._put(file.blob) if status is None else self._put_existing(file.blob, status)

    def _give_name(self, file: _NewFile, give: Callable[[str, str], None]) -> None:
        """Let a blob appear under its name, all at once, by `os.link` or `os.replace`."""
        if file.folder not in self._made:
            make_folders_of_blob(file.folder)
            self._made.add(file.folder)
        try:
            give(file.path, file.name)
        except FileNotFoundError:  # a folder was removed in the meantime, or the file
            self._place.check_present()
            make_folders_of_blob(file.folder)
            if not os.path.lexists(file.path):
                self._write_content(file)
                self._sync_content(file)
            give(file.path, file.name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            text = (
                f"The folders of blobs have to be on one file system with {self._place.temporary}, and this one is on "
                f"another; unmount what is mounted over one of them, or open the store again"
            )
            raise OSError(errno.EXDEV, text, file.folder) from error
        file.is_named = True

    def _put(self, blob: Blob, *, again: int = PUT_AGAIN) -> bool:
        (ended,) = self.put_all([blob], again=again)
        return ended.unwrap()

    def _put_existing(self, blob: Blob, status: os.stat_result) -> bool:
        """Replace a blob that is not whole, or sync a whole one; return whether it was not whole."""
        path = self._path(blob.ref)
        folder = os.path.dirname(path)
        if status.st_size != len(blob):  # it came from another program, or a power cut
            logger.warning(_TORN, path, status.st_size, len(blob))
            self.replace(blob)
            return True
        if self._place.durable:
            if (look := self._synced_blobs.look(blob.ref, status)) is not None:
                try:
                    sync(path)
                    self._place.sync_folder(folder)
                except FileNotFoundError:  # deleted in the meantime
                    return self._put(blob)
            # A link could only have taken the name of a folder by a change of the file, or of the names above it.
            changes = [self._sync_names(above) for above in self._folders_above(folder)]
            if look is not None or any(changes):
                check_folders(folder)
            self._synced_blobs.note(blob.ref, look)
        return False

    # Syncing

    def _sync_named(self, named: Mapping[int, _NewFile], errors: _Errors, again: int) -> None:
        """Sync the names of new files and of the folders above them, and check or put again the files."""
        folders: dict[str, list[int]] = {}
        for index, file in named.items():
            for folder in self._folders_above(file.folder):
                folders.setdefault(folder, []).append(index)
        for folder, indices in folders.items():
            _attempt(errors, indices, self._sync_names, folder)
        changed: dict[str, list[int]] = {}
        for index, file in named.items():
            changed.setdefault(file.folder, []).append(index)
        for folder, indices in changed.items():
            _attempt(errors, indices, self._sync_folder_of_blob, folder)
        for index, file in named.items():
            error = errors.get(index)
            if isinstance(error, FileNotFoundError):  # a folder is gone
                del errors[index]
            if index not in errors:
                _attempt(errors, [index], self._confirm, file, again, error is None)

    def _sync_names(self, folder: str) -> bool:
        """Sync the names in a folder, unless this session has and none has changed since; return whether it did."""
        is_of_blobs = folder not in (self._place.root, self._place.blobs)
        status = os.lstat(folder) if is_of_blobs else os.stat(folder)
        look = self._synced_folders.look(folder, status)
        if look is not None:
            if is_of_blobs:
                self._sync_folder_of_blob(folder)
            else:
                self._place.sync_folder(folder)
            self._synced_folders.note(folder, look)
        return look is not None

    def _sync_folder_of_blob(self, folder: str) -> None:
        """Sync the names in a folder of blobs. This opens no symbolic link, so it needs no look whether it is one."""
        try:
            self._place.sync_folder(folder, is_followed=False)
        except OSError as error:
            if error.errno in NOT_FOLLOWED:
                check_folders(folder)
            raise

    def _sync_removal(self, folder: str) -> None:
        """Sync a folder that a blob was removed from, or the one above it if the folder has been removed as well."""
        try:
            self._place.sync_folder(folder)
        except FileNotFoundError:
            if folder == self._place.blobs:
                raise
            self._sync_removal(os.path.dirname(folder))

    def _confirm(self, file: _NewFile, again: int, is_synced: bool) -> None:
        """Check that the name of a new blob still leads to the file that was synced, or put the blob again."""
        status = self._status(file.name, file.folder)
        if status is None:
            if not again:
                text = "The blob was removed again and again while it was put"
                raise FileNotFoundError(errno.ENOENT, text, file.name)
            self._put(file.blob, again=again - 1)
        elif is_synced and file.written is not None and _is_same(status, file.written):
            self._synced_blobs.note(file.blob.ref, self._synced_blobs.look(file.blob.ref, status))
        else:
            self._put_existing(file.blob, status)

    # Paths

    def _path(self, ref: Ref) -> str:
        return path_of(self._place.blobs, ref)

    def _folders_above(self, folder: str) -> list[str]:
        """Return the folders that hold the names of a folder of blobs and of those above it, the outermost first."""
        return [self._place.root, self._place.blobs, os.path.dirname(folder)]

    def _status(self, path: str, folder: str) -> os.stat_result | None:
        """Return the status of a blob's file, or None if nothing has its name.

        Raises:
          FileExistsError: if something else has its name.
          NotADirectoryError: if something else has the name of a folder above it, such as a symbolic link.

        """
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise taken_name(no_folder_above(folder) or folder) from None
        if folder not in self._made:  # only once a folder, because it takes two calls
            check_folders(folder)
            self._made.add(folder)
        if not is_blob(status):
            raise FileExistsError(
                errno.EEXIST, "The name of a blob is taken by something that is not a regular file", path
            )
        return status


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether a file is the same, with the same content, even if it has gained or lost names."""
    return os.path.samestat(one, other) and (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _attempt(errors: _Errors, indices: Iterable[int], step: Callable[..., object], *arguments: object) -> None:
    """Call ``step(*arguments)``; what it raises is the error of the files at `indices`, if they have none yet."""
    try:
        step(*arguments)
    except Exception as error:
        error.__traceback__ = None  # it would keep all blobs of the batch alive
        for index in indices:
            errors.setdefault(index, error)


def _remove(file: _NewFile) -> None:
    """Remove a temporary file, if it is still there."""
    descriptor, file.descriptor = file.descriptor, None
    if descriptor is not None:
        os.close(descriptor)
    with suppress(FileNotFoundError):
        os.unlink(file.path)
