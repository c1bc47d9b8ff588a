"""The files of one line that say who a store is, and which session used it last."""

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
    """Return the 32 digits in a file; None if there is no such file.

    Raises:
      ReplicaError: if something else is there.
      OSError: if the system refuses.

    """
    try:
        # NOFOLLOW and NONBLOCK for what is no file: it says so, and nobody waits for the writer of a pipe.
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
    """Create a file with 32 digits, unless there is one. It appears whole. Of several processes, one creates it.

    The name is not synced yet. Where there are no links, it takes a lock for one process to be the only one; where
    folders can't be locked either, two processes at once may each leave one, of which the later stays.
    """
    _write_new(temporary, mark)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # as a file system without links says it
        with _locked(os.path.dirname(path)):
            if not os.path.lexists(path):
                os.rename(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def replace_mark(path: str, mark: str, temporary: str) -> None:
    """Give a file 32 digits, all at once. The name is not synced yet.

    Raises:
      ReplicaError: if something else is there: it is not overwritten.

    """
    read_mark(path)
    _write_new(temporary, mark)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write_new(path: str, mark: str) -> None:
    """Write a new file and sync it, also for a store that is not durable: one that is torn can't be opened again."""
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
    """Keep other processes that do the same waiting. A process that is killed keeps nobody."""
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
        f"what it is, if it is not the store's, or restore it"
    )
