"""A read-only database: nothing is written to its folder, and its log is read too, or the database is refused."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, TypeVar, final

import outcome

from ..._errors import ReplicaError
from ..._sqlite_connection import IMMUTABLE, LOCKED
from ..._sqlite_files import stamp_of
from .files import DatabaseFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._sqlite_files import Stamp

ResultT = TypeVar("ResultT")


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
        self._stamp: Stamp | None = None  # None while it is read with locks

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
                if self._stamp is None or self._stamp == stamp_of(self._path):
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
        self._stamp = stamp_of(self._path)
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
            files.find_log_if_any(connection)
        files.check_one_name()
        return files

    def _look_first(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            raise ReplicaError(self._refusal(error)) from None
        self._look(connection)

    def _refusal(self, error: sqlite3.OperationalError) -> str:
        name = error.sqlite_errorname
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            return (
                f"{self._path}: a program that was killed has left a -journal, which has to be rolled back ({name}): "
                "open the database once without read_only; if it can't be written here, copy it with its -journal to a "
                "folder that can be written, and open the copy without read_only"
            )
        return (
            f"{self._path}: its log can't be read here ({name}): copy the database with its -wal to a folder that can "
            "be written, and open the copy"
        )
