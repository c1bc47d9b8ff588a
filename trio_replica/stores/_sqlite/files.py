"""The files of an open database: checking that each still has its name, and closing it once one has lost it.

SQLite goes on with a file that was removed, or whose name was given to another file. A commit to a log that has no name
is lost. SQLite makes the next checkpoint when the last connection closes, if not before. It then writes that log over
the pages that another process has written since, and removes that process's log by its name.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from ..._errors import ReplicaError
from .connection import READING, USING_INDEX, close_without_checkpoint, is_locked_elsewhere

if TYPE_CHECKING:
    from collections.abc import Generator

DESCRIPTORS: Final = "/proc/self/fd"
"""The folder in which Linux lists the descriptors of this process."""

NAME_SECONDS: Final = 0.5
"""Seconds for which another process may hold a lock on a database without one on the index of its log."""


@final
@dataclass(slots=True)
class _File:
    name: str
    identity: tuple[int, int]
    """Its device and inode numbers. No other file gets them as long as SQLite has this one open."""
    descriptor: int | None
    """A descriptor that SQLite has for it; None if the system does not list them."""
    size: int
    links: int
    """The number of names that it had when it was found."""

    def has_name(self) -> bool:
        """Return whether the file still has its name."""
        # Look only at the name. Opening and closing the file of a database would drop this process's locks on it.
        status = _status(self.name)
        if status is None:
            return False
        self.size = status.st_size
        identity = status.st_dev, status.st_ino
        if identity == self.identity:
            return True
        # Overlays and FUSE may give a file other numbers once the kernel has forgotten the name. The descriptor then
        # shows the same numbers.
        if self.descriptor is None or _identity_of(self.descriptor) != identity:
            return False
        self.identity = identity
        return True


@final
class DatabaseFiles:
    """The database, its log, and the index of the log, as SQLite has them open in this process.

    Once one of them has lost its name, `check` fails for good: another process may have begun a log of its own.
    """

    def __init__(self, path: str) -> None:
        """Find the file that SQLite has just opened under `path`, before it has read anything.

        Raises:
          ReplicaError: if it has lost its name already.

        """
        self._path = path
        self._loss: str | None = None
        self._log: _File | None = None  # None until `find_log`
        self._index: _File | None = None
        self._database = self._find(path, f"the database has vanished: {path}")
        self._files = [self._database]

    def find_log(self, connection: sqlite3.Connection, *, may_be_missing: bool = False) -> None:
        """Find the log and its index, which SQLite has open once it has read something. Call it in a transaction.

        Raises:
          ReplicaError: if one of them has lost its name already.

        """
        ((_, _, file),) = connection.execute("PRAGMA database_list").fetchall()
        self._log, self._index = [
            None if may_be_missing and _status(name) is None else self._find(name, _describe_loss(self._path, name))
            for name in (f"{file}-wal", f"{file}-shm")
        ]
        self._files = [file for file in (self._database, self._log, self._index) if file is not None]

    def check_one_name(self, *, patience: float = NAME_SECONDS) -> None:
        """Check that no other process uses the database under another name. Call it after `find_log`.

        SQLite keeps a log beside each name, so the puts of one process are lost to the other. Each connection holds
        a lock on the database and one on the index of its log, except for a moment while it opens or closes.

        Raises:
          ReplicaError: if another process uses another name.

        """
        deadline = time.monotonic() + patience
        while self._database.links > 1 and self._is_used_with_another_log():
            if time.monotonic() > deadline:
                raise ReplicaError(
                    f"{self._path}: another program uses the database under another name (a hard link), where SQLite "
                    "has another log: use one name only"
                )
            time.sleep(0.005)

    def _is_used_with_another_log(self) -> bool:
        index = self._index
        return (
            self._database.descriptor is not None
            and is_locked_elsewhere(self._database.descriptor, READING)
            and (index is None or index.descriptor is None or not is_locked_elsewhere(index.descriptor, USING_INDEX))
        )

    @property
    def identity(self) -> tuple[int, int]:
        """The device and inode numbers of the database."""
        return self._database.identity

    @property
    def log_size(self) -> int:
        """The bytes of the log when it was last checked."""
        assert self._log is not None
        return self._log.size

    def check(self) -> None:
        """Check that each file still has its name.

        Raises:
          ReplicaError: if one has lost its name, now or at an earlier check.
          OSError: if the system does not tell.

        """
        if self._loss is None:
            for file in self._files:
                if not file.has_name():
                    self._loss = (
                        f"the database has vanished: {self._path}"
                        if file is self._database
                        else _describe_loss(self._path, file.name)
                    )
                    break
            else:
                return
        raise ReplicaError(self._loss)

    def close(self, connection: sqlite3.Connection) -> None:
        """Close the last connection, with a checkpoint as SQLite makes it, unless a file has lost its name."""
        try:
            if self._log is None:
                self.find_log(connection, may_be_missing=True)
            self.check()
        except (ReplicaError, OSError, sqlite3.Error):
            # The descriptor found first may belong to another store, which may be closed by now.
            close_without_checkpoint(connection, _open_descriptors().get(self._database.identity))
        else:
            connection.close()

    def _find(self, name: str, loss: str) -> _File:
        status = _status(name)
        descriptors = _open_descriptors()
        if status is not None:
            identity = _identity(status)
            descriptor = descriptors.get(identity)
            if descriptor is not None or not descriptors:
                return _File(name, identity, descriptor, status.st_size, status.st_nlink)
        self._loss = loss
        raise ReplicaError(loss)


def drop_cached(path: str) -> None:
    """Have the system drop its cached pages of an open database and its log, so that the disk is read again.

    Pages that are not on the disk yet stay cached. If SQLite's descriptors are not known, this does nothing.
    """
    descriptors = _open_descriptors()
    real = os.path.realpath(path)
    for status in map(_status, (real, f"{real}-wal")):
        descriptor = descriptors.get(_identity(status)) if status is not None else None
        if descriptor is not None:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def lacks_log(path: str) -> bool:
    """Return whether a database that is not open here has an index of its log, but no log.

    SQLite never leaves this behind, so another program has removed the log.
    """
    real = os.path.realpath(path)
    return not is_missing(f"{real}-shm") and is_missing(f"{real}-wal")


def check_removed_log(connection: sqlite3.Connection, path: str) -> None:
    """Check that no process still uses the log that was removed.

    This is the first thing that the connection does. SQLite starts the index again if no process uses it. Otherwise the
    index that is left describes the removed log. SQLite then looks in the new log for the pages of the old one, and the
    pages that it writes there are lost after a crash.

    Raises:
      ReplicaError: if a process still uses the removed log.

    """
    ((_, pages, written_back),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    if pages != written_back:
        raise ReplicaError(_REMOVED_LOG.format(path))


@contextmanager
def explaining_removed_log(path: str) -> Generator[None, None, None]:
    """Explain in one line the error that a log has fewer pages than its index says."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHORT_READ:
            raise
        raise ReplicaError(_REMOVED_LOG.format(path)) from None


_REMOVED_LOG: Final = (
    "{}: its -wal was removed, and this or another program still uses it: end that one, open the database again, and "
    "reconcile, because the content of the -wal may be lost"
)


def _describe_loss(path: str, name: str) -> str:
    return (
        f"{path}: {os.path.basename(name)} was removed or replaced while the database was open, and its content may "
        "be lost: end all programs that use the database, open it again, and reconcile"
    )


def is_missing(path: str) -> bool:
    """Return whether a path is known to be free. If the system refuses to say, it may be taken."""
    try:
        return _status(path) is None
    except OSError:
        return False


def _status(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identity_of(descriptor: int) -> tuple[int, int] | None:
    try:
        return _identity(os.fstat(descriptor))
    except OSError:
        return None


def _open_descriptors() -> dict[tuple[int, int], int]:
    """Return the files that this process has open, each with a descriptor; empty if the system does not list them."""
    descriptors: dict[tuple[int, int], int] = {}
    with suppress(OSError):
        for number in map(int, os.listdir(DESCRIPTORS)):
            identity = _identity_of(number)
            if identity is not None:  # the descriptor of the listing itself is closed by now
                descriptors[identity] = number
    return descriptors
