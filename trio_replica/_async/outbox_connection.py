"""The only connection to the file of an outbox: how it is opened, that its files keep their names, and its errors."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

from .._errors import ReplicaError
from .._sqlite_files import PinnedFile, abandon, check_single_name
from .outbox_format import bring_up_to_date, check_format

if TYPE_CHECKING:
    from collections.abc import Generator

LOCK_SECONDS: Final = 1.0
"""Seconds that opening waits for somebody who only looks at the outbox."""

_CACHED_STATEMENTS: Final = 512
"""Statements that stay parsed: an outbox has one for each number of rows, see `outbox_file`."""

_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "the file is in use: by another replica, or as the database of a store",
    sqlite3.SQLITE_NOTADB: "the file is no outbox: name another one",
    sqlite3.SQLITE_CORRUPT: "the outbox is damaged: set the file aside, and reconcile the stores",
    sqlite3.SQLITE_READONLY: "the outbox can't be written: permit it, in its folder too",
    sqlite3.SQLITE_PERM: "the outbox can't be used: permit to read and write it, in its folder too",
    sqlite3.SQLITE_CANTOPEN: "the outbox can't be opened: name a file in a folder that exists and may be written",
    sqlite3.SQLITE_FULL: "the disk of the outbox is full: make room",
    sqlite3.SQLITE_IOERR_LOCK: "the outbox can't be written: permit it, in its folder too",  # only read
    sqlite3.SQLITE_IOERR_WRITE: "the outbox can't be written: look at its disk, and at limits to the size of files",
}
"""The remedies, by SQLite's codes; a primary code covers all extended ones that have no remedy of their own."""


class LostFileError(ReplicaError):
    """The file of an outbox was removed or replaced while it was open, so what it says no longer counts."""


@final
class OutboxConnection:
    """The only connection to an outbox. SQLite holds the lock on the file until it is closed.

    The lock is on the file, not on its name. So when a file is removed or replaced, another process can open what has
    the name now, and hold that. Then this connection is to acknowledge nothing more, and to write nothing back. Its
    log, too, may be another's. Therefore both files are looked at before and after each transaction, and at the end.
    """

    def __init__(self, connection: sqlite3.Connection, file: PinnedFile) -> None:
        self.sql = connection
        self.file = file
        """The file, pinned as long as the caller wants it: a later connection has to find it under the same name."""
        ((_, _, real),) = connection.execute("PRAGMA database_list").fetchall()
        try:
            self._log = PinnedFile(f"{real}-wal")
        except FileNotFoundError:
            raise LostFileError(_lost(file.path)) from None
        self._written = _mark(file.status())

    def check(self) -> None:
        """Check that both files still have their names.

        Raises:
          LostFileError: if the database was removed, or another file has its name.
          ReplicaError: if the log was, or has been taken for another's.

        """
        if not self.file.has_its_name():
            raise LostFileError(_lost(self.file.path))
        if not self._log.has_its_name():
            raise ReplicaError(
                f"{self._log.path}: the log of the outbox was removed or replaced while it was open: leave it alone"
            )

    def note_written(self) -> None:
        """Check as after a transaction: see `check`."""
        self.check()
        self._written = _mark(self.file.status())

    def close(self) -> None:
        """Close it, which writes the log back, unless that could hit what is another's.

        Raises:
          LostFileError: if the log was not written back, because the files are not this connection's any more.

        """
        is_own = self.file.has_its_name() and (self._log.has_its_name() or self._can_be_written_back())
        self._log.close()
        if not is_own:
            abandon(self.sql)
            raise LostFileError(_lost(self.file.path))
        self.sql.close()

    def _can_be_written_back(self) -> bool:
        # A log that was removed, by somebody who cleans up, still has entries that were acknowledged. The file has been
        # locked all the time, and is as this connection left it, so nobody else can have written to either.
        is_unchanged = _mark(self.file.status()) == self._written
        return is_unchanged and not os.path.lexists(self._log.path)


def connect(path: str, file: PinnedFile | None = None) -> OutboxConnection:
    """Return the only connection to a file that is an outbox, or empty. It makes the file if there is none.

    Args:
      path: the file.
      file: the same, if it was open before.

    Raises:
      LostFileError: if the path is that of another file now.
      ReplicaError, sqlite3.Error: if it can't be used.

    """
    check_single_name(path)
    pinned = file
    if pinned is None:
        with suppress(OSError):  # there may be none yet; SQLite tells what else is wrong
            pinned = PinnedFile(path)
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, cached_statements=_CACHED_STATEMENTS)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        version = check_format(path, connection)
        pinned = pinned or PinnedFile(path)
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):  # also where nothing is written: one that may not be is found before any store
            if version == 0:
                bring_up_to_date(connection)
        return OutboxConnection(connection, pinned)
    except BaseException:
        connection.close()
        if pinned is not None and pinned is not file:
            pinned.close()
        raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """Make the block one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")


@contextmanager
def explaining(path: str) -> Generator[None, None, None]:
    """Turn SQLite's errors into a `ReplicaError` that names the path and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own errors have none
        name: Any = getattr(error, "sqlite_errorname", type(error).__name__)
        raise ReplicaError(f"{path}: {_REMEDIES.get(code) or _REMEDIES.get(code & 0xFF, error)} ({name})") from None


def _mark(status: os.stat_result | None) -> tuple[int, int] | None:
    return None if status is None else (status.st_size, status.st_mtime_ns)


def _lost(path: str) -> str:
    return f"{path}: the outbox was removed or replaced while it was open: open the replica again, and reconcile"
