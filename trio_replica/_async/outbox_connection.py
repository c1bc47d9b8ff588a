"""The only connection to the file of an outbox: opening it, checking that its files stay as they are, and errors."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

from .._errors import ReplicaError
from .._sqlite_connection import close_without_checkpoint
from .._sqlite_files import PinnedFile, check_regular, check_single_name
from .outbox_format import bring_up_to_date, check_format
from .storage import LostFileError, OutboxInUseError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

LOCK_SECONDS: Final = 1.0
"""Seconds that opening waits for a process that only looks at the outbox."""

LOCK_STEP: Final = 0.005
"""Seconds between two checks whether the log is still locked."""

_STATEMENTS: Final = 512
"""Statements that stay parsed, because an outbox has one for each number of rows: see `outbox_file`."""

REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "the file is in use by another replica, or as the database of a store",
    sqlite3.SQLITE_NOTADB: "the file is not an outbox: name another one",
    sqlite3.SQLITE_CORRUPT: "the outbox is damaged: set the file aside, and reconcile the stores",
    sqlite3.SQLITE_READONLY: "the outbox can't be written: get permission to write it and its folder",
    sqlite3.SQLITE_PERM: "the outbox can't be used: get permission to read and write it and its folder",
    sqlite3.SQLITE_CANTOPEN: "the outbox can't be opened: name a file in a folder that exists and may be written",
    sqlite3.SQLITE_FULL: "the disk of the outbox is full: make room",
    sqlite3.SQLITE_IOERR_LOCK: "the outbox can't be written: get permission to write it and its folder",  # only read
    sqlite3.SQLITE_IOERR_WRITE: "the outbox can't be written: check its disk, and the limits on the sizes of files",
}
"""The remedies, by SQLite's codes. A primary code covers all extended codes without a remedy of their own."""

_LOG_HEADER: Final = 32
_LOG_MAGIC: Final = b"\x37\x7f\x06"
"""The bytes with which each log begins: https://sqlite.org/fileformat2.html#walformat."""

_LOST: Final = "{}: the outbox was removed or replaced while it was open: open the replica again, and reconcile"
_TRUNCATED: Final = (
    "{}: the outbox or its -wal was truncated or overwritten while it was open: open the replica again, and reconcile"
)


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
        _has_its_name(file)  # for its size
        self._note_marks()

    def check(self) -> None:
        """Check that both files still have their names, and their content as far as it can be told cheaply.

        Raises:
          LostFileError: if the database was removed, another file has its name, or one of the files was truncated.
          ReplicaError: if the log was removed, another file has its name, or it can't be read.

        """
        self._check_names()
        if self._is_log_changed():
            raise LostFileError(_TRUNCATED.format(self.file.path))
        self._is_as_noted = False  # the caller may write now

    def note_written(self) -> None:
        """Check the files as after a transaction, which may have written to them: see `check`."""
        self._check_names()
        self._note_marks()

    def close(self) -> None:
        """Close the connection. This writes the log back, unless that could hit another connection's file.

        Raises:
          LostFileError: if the log was not written back, because the files no longer belong to this connection, or were
            truncated.
          ReplicaError: if it was not written back, because it can't be read. It is left for the next connection.

        """
        has_moved = not _has_its_name(self.file)
        # The lock on the log ends last. SQLite writes the log back and removes it as it closes, and may have lost its
        # own lock. Another process that got the lock before would open a database that is still being written.
        try:
            obstacle = self._obstacle(has_moved=has_moved)
            if obstacle is not None:
                close_without_checkpoint(self.sql, has_moved=has_moved)
                raise obstacle
            self.sql.close()
        finally:
            self._log.close()

    def _obstacle(self, *, has_moved: bool) -> ReplicaError | None:
        """Return why the log may not be written back, or None if it may."""
        if has_moved:
            return LostFileError(_LOST.format(self.file.path))
        try:
            is_cut = self._is_cut() or (self._is_as_noted and self._is_log_changed())
        except ReplicaError as unreadable:
            return unreadable
        if is_cut:
            return LostFileError(_TRUNCATED.format(self.file.path))
        if not _has_its_name(self._log) and not self._can_be_written_back():
            return LostFileError(_LOST.format(self.file.path))
        return None

    def _check_names(self) -> None:
        if not _has_its_name(self.file):
            raise LostFileError(_LOST.format(self.file.path))
        if not _has_its_name(self._log):
            raise ReplicaError(
                f"{self._log.path}: the log of the outbox was removed or replaced while it was open: leave it alone"
            )
        if self._is_cut():
            raise LostFileError(_TRUNCATED.format(self.file.path))

    def _is_cut(self) -> bool:
        # Neither file becomes shorter while this connection has them. A commit to a log that was truncated leaves a
        # hole at its beginning.
        size, header = self._log_mark()
        former_size, former_header = self._log_written
        is_log = header.startswith(_LOG_MAGIC) or header == former_header  # a crash may have left something else
        return self.file.size < self._written[0] or size < former_size or not is_log

    def _is_log_changed(self) -> bool:
        # Nobody else may write to it. If this connection has not done so either, it is as it was noted.
        return self._log_mark() != self._log_written

    def _can_be_written_back(self) -> bool:
        # A log that was removed, for example by a cleanup, still has acknowledged entries. The file has been locked all
        # the time and is as this connection left it, so no other process can have written to either.
        return (self.file.size, self.file.modified) == self._written and not os.path.lexists(self._log.path)

    def _note_marks(self) -> None:
        self._written = self.file.size, self.file.modified
        self._log_written = self._log_mark()
        self._is_as_noted = True

    def _log_mark(self) -> tuple[int, bytes]:
        """Return the size of the log, and its header. SQLite writes another header when it starts the log again."""
        log = self._log.descriptor
        assert log is not None
        try:
            return os.fstat(log).st_size, os.pread(log, _LOG_HEADER, 0)
        except OSError as error:
            raise ReplicaError(
                f"{self._log.path}: the log of the outbox can't be read: look at its disk ({error.strerror})"
            ) from error


def connect(path: str, file: PinnedFile | None = None) -> OutboxConnection:
    """Return the only connection to a file that is an outbox or empty. The file is created if it is missing.

    Args:
      path: the file.
      file: the same file, if it was open before.

    Raises:
      LostFileError: if the path leads to another file now.
      ReplicaError, sqlite3.Error: if it can't be used. Errors of SQLite are for `explaining`.

    """
    if file is not None and not _has_its_name(file):
        raise LostFileError(_LOST.format(path))
    check_regular(path)
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
        connection.execute("PRAGMA journal_size_limit = -1").fetchall()  # so that the log never becomes shorter
        with transaction(connection):  # also shows, before any store is opened, whether the file can be written
            if version == 0:
                bring_up_to_date(connection)
        if log is not None and not _has_its_name(log):  # a former file left it, and SQLite has removed it
            log.close()
            log = None
        log = log or _locked_log(path, undo)
        pinned = pinned or _pinned(path, undo)
        if log is None or pinned is None:
            raise LostFileError(_LOST.format(path))
        made = OutboxConnection(connection, pinned, log)
        undo.pop_all()
        return made


def lock_log(path: str) -> PinnedFile | None:
    """Return the log of a database, locked; None if it does not exist, or SQLite will report what is wrong with it.

    Raises:
      sqlite3.OperationalError: with ``SQLITE_BUSY``, if it stays locked.

    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return PinnedFile.locked(f"{os.path.realpath(path)}-wal")
        except BlockingIOError:
            if time.monotonic() >= deadline:
                error = sqlite3.OperationalError("the log is locked")
                error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
                raise error from None
        except OSError:
            return None
        time.sleep(LOCK_STEP)


def _locked_log(path: str, undo: ExitStack) -> PinnedFile | None:
    log = lock_log(path)
    if log is not None:
        undo.callback(log.close)
    return log


def _pinned(path: str, undo: ExitStack) -> PinnedFile | None:
    """Return a database, pinned; None if it does not exist, or SQLite will report what is wrong with it."""
    with suppress(OSError):
        file = PinnedFile.opened(path)
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
def explaining(path: str, remedies: Mapping[int, str] = REMEDIES) -> Generator[None, None, None]:
    """Turn SQLite's errors into a `ReplicaError` that names the path and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own errors have no code
        name: Any = getattr(error, "sqlite_errorname", type(error).__name__)
        kind = OutboxInUseError if code & 0xFF == sqlite3.SQLITE_BUSY else ReplicaError
        raise kind(f"{path}: {remedies.get(code) or remedies.get(code & 0xFF, error)} ({name})") from None


def _has_its_name(file: PinnedFile) -> bool:
    """Return whether a file has its name, and can be opened by it as far as the system tells."""
    try:
        return file.has_its_name()
    except OSError:
        return False
