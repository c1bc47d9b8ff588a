"""The one-line files that hold a store's identity and the mark of its last session."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ..._errors import ReplicaError
from ..._identity import is_identity
from .._files import naming, write_fully

if TYPE_CHECKING:
    from collections.abc import Generator

_LENGTH: Final = 33
"""Bytes of such a file: 32 digits and a newline."""


def read_mark(path: str) -> str | None:
    """Return the 32 digits in a file, or None if there is no such file.

    Raises:
      ReplicaError: if something else is there.
      OSError: if the system refuses.

    """
    try:
        # With NOFOLLOW a symbolic link is an error. With NONBLOCK opening a pipe does not wait for its writer.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _odd(path) from None
        raise
    try:
        data = os.read(file, _LENGTH + 1)
    except IsADirectoryError:
        raise _odd(path) from None
    except OSError as error:
        error.filename = error.filename or path
        raise
    finally:
        os.close(file)
    text = data.decode("ascii", "replace")
    if not text.endswith("\n") or not is_identity(text[:-1]):
        raise _odd(path)
    return text[:-1]


def create_mark(path: str, mark: str, temporary: str) -> None:
    """Create a file with 32 digits, unless it exists. It appears whole, and only one of several processes creates it.

    The name is not synced yet. On a file system without hard links, a lock ensures that one process creates it. If
    folders can't be locked either, two processes may each create the file at once, and the later one stays.
    """
    _write_new(temporary, mark)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # the error of a file system without links
        with _locked(os.path.dirname(path)):
            if not os.path.lexists(path):
                os.rename(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def replace_mark(path: str, mark: str, temporary: str) -> None:
    """Give a file 32 digits, all at once. The name is not synced yet.

    Raises:
      ReplicaError: if something else is there, which is not overwritten.

    """
    read_mark(path)
    _write_new(temporary, mark)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write_new(path: str, mark: str) -> None:
    """Write and sync a new file, even if the store is not durable: a store with a torn file can't be opened again."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with naming(path):
            write_fully(file, f"{mark}\n".encode())
            os.fsync(file)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(file)


@contextmanager
def _locked(folder: str) -> Generator[None, None, None]:
    """Lock a folder against other processes that do the same. The lock ends when its process is killed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _odd(path: str) -> ReplicaError:
    return ReplicaError(
        f"{path}: this should be a file of 32 lowercase hex digits and a newline, which a store keeps here; move away "
        f"the file if it does not belong to the store, or restore it"
    )
