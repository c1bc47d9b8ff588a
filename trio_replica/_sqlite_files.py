"""The files of an open SQLite database: checking that they keep their names, and closing them safely if they do not."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from ._errors import ReplicaError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_O_PATH: Final[int | None] = getattr(os, "O_PATH", None)
"""Linux's flag for a descriptor that stands for a file without opening it.

A process that closes any other descriptor of a file drops all its locks on that file, SQLite's included.
"""

_NO_CHECKPOINT_ON_CLOSE: Final = 1006
"""SQLite's SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, a name that Python 3.11 lacks."""


_locked: Final[set[PinnedFile]] = set()
"""The locked files of this process. A forked process inherits their descriptors, but not the locks."""


@final
class PinnedFile:
    """A file that SQLite has open, identified by a descriptor and not by its name.

    It is pinned by a descriptor, so no other file gets its number. Some file systems give a file another number while
    it is open. So if the name has another number, the descriptor is asked, too.

    A write-ahead log can be locked as well. A database can't, because SQLite has its own locks there, and loses them
    when any descriptor of the file is closed. The lock on a log excludes every other connection that locks it in this
    way. It does so even if the database was replaced, or if SQLite has lost its locks because other code in this
    process read the file.
    """

    def __init__(self, path: str, *, to_lock: bool = False) -> None:
        """Pin a file.

        Raises:
          BlockingIOError: if it is to be locked, and another process has locked it.
          OSError: if the system refuses, for example because the file is missing.

        """
        self.path = path
        self._pin = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if to_lock else _stand_for(path)
        self._known = os.stat(path) if self._pin is None else os.fstat(self._pin)
        if to_lock:
            self._lock()

    def status(self) -> os.stat_result | None:
        """Return the status of the file, or None if its name now belongs to another file or to no file."""
        try:
            named = os.stat(self.path)
        except OSError:  # even if the file exists, it can't be opened by its name
            return None
        if named.st_ino != self._known.st_ino or named.st_dev != self._known.st_dev:
            if self._pin is None or not os.path.samestat(named, os.fstat(self._pin)):
                return None
            self._known = named
        return named

    def has_its_name(self) -> bool:
        """Return whether opening the name opens this file."""
        return self.status() is not None

    def close(self) -> None:
        """Stop pinning the file, which unlocks it. May be called again."""
        _locked.discard(self)
        if self._pin is not None:
            os.close(self._pin)
            self._pin = None

    def _lock(self) -> None:
        assert self._pin is not None
        _locked.add(self)
        try:
            fcntl.flock(self._pin, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        except OSError:
            pass  # the file system has no such locks, so only SQLite's are left


def _share_no_locks() -> None:
    """Close the descriptors of locks in a forked process, which may outlive the process that holds the locks."""
    for file in tuple(_locked):
        file.close()


os.register_at_fork(after_in_child=_share_no_locks)


def check_single_name(path: str) -> None:
    """Check that a database has only one name, because its log is kept beside the name that is opened.

    If it were opened by another name after a crash, it would be used without its log. Symbolic links to its name or its
    folder do not count as other names, because SQLite follows them.

    Raises:
      ReplicaError: if it has hard links, or is mounted without its folder.

    """
    with suppress(OSError):  # SQLite will report it
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return
        if status.st_nlink > 1:
            raise ReplicaError(
                f"{path}: the file has {status.st_nlink} names, and its log is beside only one of them: remove the "
                "other hard links, or name a copy"
            )
        real = os.path.realpath(path)
        if _mount_of(real) != _mount_of(os.path.dirname(real)):
            raise ReplicaError(
                f"{path}: the file is mounted without its folder, and so without its log: mount the folder instead"
            )


def abandon(connection: sqlite3.Connection, *, has_moved: bool) -> None:
    """Drop a connection without writing its log back or removing a log, which may belong to another process by now.

    SQLite itself notices if the database was removed or replaced, and then does neither. But if only the log was
    replaced, Python 3.11 can't prevent both. The connection then stays open, and the database locked, until the process
    ends.
    """
    configure: Callable[[int, bool], None] | None = getattr(connection, "setconfig", None)  # from Python 3.12 on
    if configure is not None:
        configure(_NO_CHECKPOINT_ON_CLOSE, True)
    if configure is not None or has_moved:
        connection.close()
    else:
        # This reference is never released. A list in the module would not be enough, because the interpreter clears
        # modules when it ends, and that closes a connection.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _stand_for(path: str) -> int | None:
    """Return a descriptor that stands for a file, or None if the system has no such descriptors."""
    return None if _O_PATH is None else os.open(path, _O_PATH | os.O_CLOEXEC)


def _mount_of(path: str) -> str | None:
    """Return the number of the mount that a file or folder is in, or None if the system does not tell."""
    file = _stand_for(path)
    if file is None:
        return None
    try:
        with open(f"/proc/self/fdinfo/{file}", encoding="ascii") as lines:
            return next((line for line in lines if line.startswith("mnt_id:")), None)
    finally:
        os.close(file)
