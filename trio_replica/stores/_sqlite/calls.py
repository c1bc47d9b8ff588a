"""Calls of SQLite, repeated while another process has the database, with errors that name the database."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar, final

import outcome

from ..._errors import ReplicaError
from ..._printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ResultT = TypeVar("ResultT")

_GUARDED: Final = {"blobs", "store_identity", "store_session"}
"""The tables to which no trigger may write."""

_WRITES: Final = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}


@final
class DatabaseCalls:
    """The calls of one database, with repetitions while it is busy and errors that name it."""

    def __init__(self, path: str, busy_seconds: float) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._trigger = ""
        """The trigger that was refused last, and what it writes to."""

    def guard(self, connection: sqlite3.Connection) -> None:
        """Refuse from now on every statement whose triggers would write to a table of the store.

        Such a trigger could change or delete blobs whose puts have returned. SQLite asks once for each statement, and
        again after each change of the schema, when it compiles the statement with all its triggers.
        """
        connection.set_authorizer(self._authorize)

    def _authorize(self, action: int, table: str | None, _: str | None, __: str | None, trigger: str | None) -> int:
        if trigger is None or action not in _WRITES or table not in _GUARDED:
            return sqlite3.SQLITE_OK
        self._trigger = f"the trigger {printable(trigger)} writes to the table {table}"
        return sqlite3.SQLITE_DENY

    def patiently(self, call: Callable[[], ResultT]) -> ResultT:
        """Return the result of ``call()``, repeating it while another process has the database.

        SQLite itself waits up to a tenth of a second between two tries, and so may miss every gap that a busy process
        leaves.
        """
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311

    def captured(self, call: Callable[[], ResultT]) -> outcome.Value[ResultT] | outcome.Error:
        """Return the outcome of ``call()``. Raise if the database is busy, because this holds for the whole batch."""
        ended = outcome.capture(call)
        if isinstance(ended, outcome.Error):
            ended = outcome.Error(self.named(ended.error))
            if is_busy(ended.error):
                ended.unwrap()
        return ended

    @contextmanager
    def naming(self) -> Generator[None, None, None]:
        """Name the database in an error of SQLite."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.named(error) from None

    def named(self, error: BaseException) -> BaseException:
        """Return `error` with the path of the database. An error of SQLite gets SQLite's name for it, too."""
        if self._path in str(error):
            return error
        if type(error) is ReplicaError:  # raised by a statement, which does not know its database
            return ReplicaError(f"{error}: {self._path}").with_traceback(error.__traceback__)
        if not isinstance(error, sqlite3.Error):
            return error
        if self._trigger and getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) == sqlite3.SQLITE_AUTH:
            return ReplicaError(f"{self._trigger}, and may change or delete other blobs: drop it: {self._path}")
        name = getattr(error, "sqlite_errorname", type(error).__name__)  # Python's own errors have no SQLite name
        named = type(error)(f"{name}: {error}: {self._path}")
        named.__dict__.update(error.__dict__)
        return named.with_traceback(error.__traceback__)


def is_busy(error: BaseException | None) -> bool:
    """Return whether an error says that another process has the database."""
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary code
    return primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
