"""File system calls that several stores use. All of them block."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


def make_folders(path: str, *, durable: bool) -> None:
    """Create a folder with its parents, and make its name durable."""
    if not os.path.isdir(path):
        make_folders(os.path.dirname(path), durable=durable)
        make_folder(path)
    if durable:
        with suppress(PermissionError):  # a parent without read permission, which others made long ago
            sync(os.path.dirname(path))


def make_folder(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def keep_second(path: str, folder: str, *, can_link: bool) -> str:
    """Give a file another name in `folder`: ``NAME-1``, the next free one, or one that it has there already.

    Without hard links, the name is that of a copy. Returns the path.
    """
    make_folder(folder)
    number = 1
    while True:
        second = f"{folder}/{os.path.basename(path)}-{number}"
        try:
            if can_link:
                os.link(path, second)
            else:
                _copy(path, second)
        except FileExistsError:
            if identity(second) != identity(path):
                number += 1
                continue
        return second


def _copy(path: str, second: str) -> None:
    with open(path, "rb") as source, open(second, "xb") as copy:
        try:
            shutil.copyfileobj(source, copy)
        except BaseException:
            os.unlink(second)
            raise


def sync(path: str) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with naming(path):
            os.fsync(file)
    finally:
        os.close(file)


def identity(path: str) -> tuple[int, int] | None:
    """Return a value that identifies a file or folder, whatever its name. It is None if there is none."""
    # This looks only at the name. Opening and closing the file of a database would drop this process's locks on it.
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def file_size(path: str) -> int:
    """Return the number of bytes of a file, or 0 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@contextmanager
def naming(path: str) -> Generator[None, None, None]:
    """Add `path` to an error of a call that was given only its descriptor."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise
