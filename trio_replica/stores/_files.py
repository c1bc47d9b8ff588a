"""File system calls that several stores use. All of them block."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator


def make_folders(path: str, *, durable: bool) -> None:
    """Create a folder with its parents, and make its name durable.

    Raises:
      UnsyncedFolderError: if the file system can't sync its folders.
      OSError: if the system refuses.

    """
    if not os.path.isdir(path):
        make_folders(os.path.dirname(path), durable=durable)
        make_folder(path)
    if durable:
        sync_name(path)


def sync_name(path: str) -> None:
    """Wait until the name of a folder is on the disk, unless this user may not read its parent.

    Raises:
      UnsyncedFolderError: if its file system can't do that.
      OSError: if the system refuses.

    """
    with suppress(PermissionError):  # of a parent that this user may pass but not read; its owner made it long ago
        sync_folder(os.path.dirname(path))


def make_folder(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def keep_second(path: str, folder: str, *, can_link: bool) -> str:
    """Give a file another name in `folder`: ``NAME-1``, the next free one, or one that it has there already.

    On a file system without hard links, that is the name of a copy. Returns the path.

    Raises:
      NotADirectoryError: if `folder` is a symbolic link, which may lead anywhere.
      OSError: if the system refuses.

    """
    _make_real_folder(folder)
    number = 1
    while True:
        second = f"{folder}/{os.path.basename(path)}-{number}"
        try:
            if can_link:
                os.link(path, second)
            else:
                _copy(path, second)
        except FileExistsError:
            if not os.path.samestat(os.lstat(second), os.lstat(path)):
                number += 1
                continue
        return second


def move_aside(path: str, folder: str) -> str:
    """Move the file or folder with a name into a new folder in `folder`, ``NAME-1`` or the next free name.

    Nothing is overwritten there. Returns the new path.

    Raises:
      NotADirectoryError: if `folder` is a symbolic link.
      OSError: if the system refuses.

    """
    _make_real_folder(folder)
    number = 1
    while True:
        own_folder = f"{folder}/{os.path.basename(path)}-{number}"
        try:
            os.mkdir(own_folder)
        except FileExistsError:
            number += 1
            continue
        moved = f"{own_folder}/{os.path.basename(path)}"
        os.rename(path, moved)
        return moved


def _make_real_folder(path: str) -> None:
    make_folder(path)
    if os.path.islink(path):
        raise NotADirectoryError(errno.ENOTDIR, "This is a symbolic link, where the store keeps damaged files", path)


def _open_regular(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _copy(path: str, second: str) -> None:
    with open(path, "rb", opener=_open_regular) as source, open(second, "xb") as copy:
        try:
            shutil.copyfileobj(source, copy)
        except BaseException:
            os.unlink(second)
            raise


def write_fully(file: int, data: bytes) -> None:
    """Write all of `data`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def sync(path: str) -> None:
    """Wait until a regular file is on the disk, with its content and its metadata."""
    _sync(path, os.O_NOFOLLOW | os.O_NONBLOCK)  # neither follow a link that replaced it, nor wait at a pipe


def sync_folder(path: str, *, is_followed: bool = True) -> None:
    """Wait until the names in a folder are on the disk. A symbolic link is opened only if it `is_followed`.

    Raises:
      UnsyncedFolderError: if its file system can't do that.
      OSError: if the system refuses.

    """
    try:
        _sync(path, os.O_DIRECTORY | (0 if is_followed else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno in _CANNOT_SYNC:
            raise UnsyncedFolderError(error.errno, error.strerror, path) from error
        raise


class UnsyncedFolderError(OSError):
    """A file system can't sync its folders."""


_CANNOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
"""The errors of syncing a folder on a file system that can't do so. SMB returns the first."""


def _sync(path: str, flags: int) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(file)
    except OSError as error:
        error.filename = error.filename or path
        raise
    finally:
        os.close(file)


@contextmanager
def naming(path: str) -> Generator[None, None, None]:
    """Add `path` to an error of a call that was given only its descriptor."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise
