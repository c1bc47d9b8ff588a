"""The only connection to the file of an outbox: opening it, checking that its files keep their names, and errors."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

from .._errors import ReplicaError
from .._sqlite_files import PinnedFile, abandon, check_single_name
from .outbox_format import bring_up_to_date, check_format
from .storage import LostFileError, OutboxInUseError

if TYPE_CHECKING:
    from collections.abc import Generator

LOCK_SECONDS: Final = 1.0
"""Seconds that opening waits for a process that only looks at the outbox."""

LOCK_STEP: Final = 0.005
"""Seconds between two checks whether the log is still locked."""

_STATEMENTS: Final = 512
"""Statements that stay parsed: an outbox has one for each number of rows, see `outbox_file`."""

_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "the file is in use: by another replica, or as the database of a store",
    sqlite3.SQLITE_NOTADB: "the file is not an outbox: name another one",
    sqlite3.SQLITE_CORRUPT: "the outbox is damaged: set the file aside, and reconcile the stores",
    sqlite3.SQLITE_READONLY: "the outbox can't be written: permit it, in its folder too",
    sqlite3.SQLITE_PERM: "the outbox can't be used: permit to read and write it, in its folder too",
    sqlite3.SQLITE_CANTOPEN: "the outbox can't be opened: name a file in a folder that exists and may be written",
    sqlite3.SQLITE_FULL: "the disk of the outbox is full: make room",
    sqlite3.SQLITE_IOERR_LOCK: "the outbox can't be written: permit it, in its folder too",  # only read
    sqlite3.SQLITE_IOERR_WRITE: "the outbox can't be written: look at its disk, and at limits to the size of files",
}
"""The remedies, by SQLite's codes. A primary code covers all extended codes without a remedy of their own."""


@final
class OutboxConnection:
    """The only connection to an outbox. SQLite holds the lock on the file until it is closed.

    The lock is on the file, not on its name. So when the file is removed or replaced, another process can open and lock
    the file that now has the name. This connection must then acknowledge nothing more and write nothing back. Its log
    may belong to another connection, too. Therefore both files are checked before and after each transaction, and at
    the end.
    """

    def __init__(self, connection: sqlite3.Connection, file: PinnedFile, log: PinnedFile) -> None:
        self.sql = connection
        self.file = file
        """The file, pinned as long as the caller keeps it. A later connection has to find it under the same name."""
        self._log = log
        self._written = _mark(file.status())

    def check(self) -> os.stat_result:
        """Check that both files still have their names, and return the status of the database.

        Raises:
          LostFileError: if the database was removed, or another file has its name.
          ReplicaError: if the log was removed, or another file has its name.

        """
        status = self.file.status()
        if status is None:
            raise LostFileError(_lost(self.file.path))
        if self._log.status() is None:
            raise ReplicaError(
                f"{self._log.path}: the log of the outbox was removed or replaced while it was open: leave it alone"
            )
        return status

    def note_written(self) -> None:
        """Check the files, as after a transaction: see `check`."""
        self._written = _mark(self.check())

    def close(self) -> None:
        """Close the connection. This writes the log back, unless that could hit another connection's file.

        Raises:
          LostFileError: if the log was not written back, because the files no longer belong to this connection.

        """
        has_moved = not self.file.has_its_name()
        is_own = not has_moved and (self._log.has_its_name() or self._can_be_written_back())
        # The lock on the log ends last. SQLite writes the log back and removes it as it closes, and may have lost its
        # own lock. Another process that got the lock before would open a database that is still being written.
        try:
            if not is_own:
                abandon(self.sql, has_moved=has_moved)
                raise LostFileError(_lost(self.file.path))
            self.sql.close()
        finally:
            self._log.close()

    def _can_be_written_back(self) -> bool:
        # A log that was removed, for example by a cleanup, still has acknowledged entries. The file has been locked all
        # the time and is as this connection left it, so no other process can have written to either.
        is_unchanged = _mark(self.file.status()) == self._written
        return is_unchanged and not os.path.lexists(self._log.path)


def connect(path: str, file: PinnedFile | None = None) -> OutboxConnection:
    """Return the only connection to a file that is an outbox or empty. The file is created if it is missing.

    Args:
      path: the file.
      file: the same file, if it was open before.

    Raises:
      LostFileError: if the path leads to another file now.
      ReplicaError, sqlite3.Error: if it can't be used. Errors of SQLite are for `explaining`.

    """
    if file is not None and not file.has_its_name():
        raise LostFileError(_lost(path))
    check_single_name(path)
    with ExitStack() as undo:
        # Locked before SQLite reads the log, which may belong to a connection that has lost SQLite's lock, or its
        # database.
        log = _locked_log(path, undo)
        pinned = file or _pinned(path, undo)
        connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, cached_statements=_STATEMENTS)
        undo.callback(connection.close)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        version = check_format(path, connection)
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):  # also shows, before any store is opened, whether the file can be written
            if version == 0:
                bring_up_to_date(connection)
        if log is not None and not log.has_its_name():  # a former file left it, and SQLite has removed it
            log.close()
            log = None
        log = log or _locked_log(path, undo)
        pinned = pinned or _pinned(path, undo)
        if log is None or pinned is None:
            raise LostFileError(_lost(path))
        undo.pop_all()
        return OutboxConnection(connection, pinned, log)


def _locked_log(path: str, undo: ExitStack) -> PinnedFile | None:
    """Return the log of a database, locked; None if it does not exist, or SQLite will report what is wrong with it."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            log = PinnedFile(f"{os.path.realpath(path)}-wal", to_lock=True)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                error = sqlite3.OperationalError("the log is locked")
                error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
                raise error from None
        except OSError:
            return None
        else:
            undo.callback(log.close)
            return log
        time.sleep(LOCK_STEP)


def _pinned(path: str, undo: ExitStack) -> PinnedFile | None:
    """Return a database, pinned; None if it does not exist, or SQLite will report what is wrong with it."""
    with suppress(OSError):
        file = PinnedFile(path)
        undo.callback(file.close)
        return file
    return None


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
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own errors have no code
        name: Any = getattr(error, "sqlite_errorname", type(error).__name__)
        kind = OutboxInUseError if code & 0xFF == sqlite3.SQLITE_BUSY else ReplicaError
        raise kind(f"{path}: {_REMEDIES.get(code) or _REMEDIES.get(code & 0xFF, error)} ({name})") from None


def _mark(status: os.stat_result | None) -> tuple[int, int] | None:
    return None if status is None else (status.st_size, status.st_mtime_ns)


def _lost(path: str) -> str:
    return f"{path}: the outbox was removed or replaced while it was open: open the replica again, and reconcile"
