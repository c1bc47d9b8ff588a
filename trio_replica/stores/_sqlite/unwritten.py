"""A read-only database: nothing is written to its folder, and its log is read too, or the database is refused."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, final

import outcome

from ..._errors import ReplicaError
from .files import DatabaseFiles

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")

LOCKED: Final = "mode=ro"
"""With SQLite's locks. It needs the log and the index of the log, and creates them if it may."""

IMMUTABLE: Final = "mode=ro&immutable=1"
"""Without locks and without the log. Use it only for a database that has no log and is not written to."""


class _Stamp(NamedTuple):
    """The properties of a database that change when it is written to."""

    identity: tuple[int, int]
    size: int
    modified: int
    changed: int


@final
class UnwrittenDatabase:
    """One thread's connection to a database that it does not write to.

    With locks, SQLite would create a log and an index beside a database that was closed cleanly. Without permission to
    create them, it could not open the database at all. So such a database is read without locks. If it has been written
    to in the meantime, the result is dropped, and it is read again with or without locks, as its state then requires.
    """

    def __init__(
        self,
        path: str,
        connect: Callable[[str], sqlite3.Connection],
        look: Callable[[sqlite3.Connection], None],
        patience: float,
        files: DatabaseFiles | None,
    ) -> None:
        """Prepare to read, without opening anything yet.

        Args:
          path: the database.
          connect: a function that opens it with the parameters of a URI.
          look: a function that checks its content each time that it has been opened.
          patience: seconds after which reading fails if the database is written to all the time.
          files: the files of another connection to it, if there is one.

        """
        self._path = path
        self._connect = connect
        self._look = look
        self._patience = patience
        self._connection: sqlite3.Connection | None = None
        self.files = files
        """The files that are open now, or that were open last."""
        self._stamp: _Stamp | None = None  # None while it is read with locks

    def read(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return the result of ``work(connection)``, or raise its error, once no write has happened during the call.

        Raises:
          ReplicaError: if the database has lost its name, is written to all the time, or has a log that can't be read.

        """
        deadline = time.monotonic() + self._patience
        while True:
            ended = outcome.capture(self._try, work)
            try:
                if self.files is not None:
                    self.files.check()
                if self._stamp is None or self._stamp == _stamp(self._path):
                    return ended.unwrap()
            finally:
                del ended  # an error would keep itself alive
            self.close()
            if time.monotonic() > deadline:
                raise ReplicaError(f"{self._path}: the database is written to while it is read: try again")

    def close(self) -> None:
        """Close the connection. This changes nothing, because SQLite makes no checkpoint on a read-only connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return work(self._connection)

    def _open(self) -> None:
        self._stamp = _stamp(self._path)
        connection = self._connect(LOCKED if self._stamp is None else IMMUTABLE)
        try:
            self.files = self._found_files(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _found_files(self, connection: sqlite3.Connection) -> DatabaseFiles:
        files = DatabaseFiles(self._path)
        if self.files is not None and self.files.identity != files.identity:
            raise ReplicaError(f"the database has vanished: {self._path}")
        self._look_first(connection)
        if self._stamp is None:
            files.find_log(connection, may_be_missing=True)
        files.check_one_name()
        return files

    def _look_first(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            raise ReplicaError(
                f"{self._path}: its log can't be read here ({error.sqlite_errorname}): copy the database with its -wal "
                "(or -journal) to a folder that can be written, and open the copy"
            ) from None
        self._look(connection)


def _stamp(path: str) -> _Stamp | None:
    """Return a stamp that changes once the database is written to; None if the database may have a log or be in use.

    The database is looked at first. A log that is written back and removed between the two looks changes the database,
    so a later stamp differs.
    """
    real = os.path.realpath(path)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    log, index, journal = [_size(f"{real}{suffix}") for suffix in ("-wal", "-shm", "-journal")]
    if log or journal or (log is not None and index is not None):
        return None
    return _Stamp((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
