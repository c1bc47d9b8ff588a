"""The transactions of a SQLite store, and the checkpoints between them."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import outcome

from ..._errors import ReplicaError
from ..._sqlite_connection import roll_back
from .calls import is_busy
from .statements import Insertion, Synced, check_there, write_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._calls.threads import Call
    from .calls import DatabaseCalls
    from .files import DatabaseFiles

LOG_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of log above which it is written back and truncated, because readers can keep SQLite from reusing it."""

PAGES_TO_WRITE_BACK: Final = 1000
"""Pages in the log after which it is written back. SQLite by itself would do so within COMMIT, without checks."""

PAGE: Final = 4096
"""Bytes that count as a page when deciding whether to write the log back."""


@final
class Writer:
    """The connection that writes to a database. All of its methods block, and run in the thread that writes."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        files: DatabaseFiles,
        calls: DatabaseCalls,
        *,
        durable: bool,
        log_limit: int,
    ) -> None:
        self._connection = connection
        self._files = files
        self._calls = calls
        self._durable = durable
        self._least_log_limit = self._log_limit = log_limit
        self._pages = files.log_size // PAGE  # other processes may have left these in the log

    def write(self, batch: Sequence[Call[Callable[[sqlite3.Connection], Any]]]) -> None:
        """Run a batch as one transaction. If it fails, run each of its calls as one of its own."""
        failure = self._transact(batch)
        if failure is not None:
            for call in batch:
                if len(batch) > 1 and not is_busy(failure):
                    failure = self._transact([call])
                if failure is not None:
                    call.fail(self._calls.named(failure))
        self._limit_log()

    def _transact(self, calls: Sequence[Call[Callable[[sqlite3.Connection], Any]]]) -> Exception | None:
        """Run `calls` as one transaction.

        They get outcomes only after its commit. Otherwise return the error that undid it.

        The log is checked before the transaction, because that would leave a hole in a log that was truncated. The
        names are checked before COMMIT, because COMMIT announces the content of this log to other processes, which may
        use another log by now. Both are checked after it, because a commit to a log without a name is lost.
        """
        connection = self._connection
        outcomes: list[outcome.Value[Any] | outcome.Error] = []
        is_synced = self._durable or any(type(call.request) is Synced for call in calls)
        try:
            self._files.check_log()
            if is_synced and not self._durable:
                connection.execute("PRAGMA synchronous = FULL")
            self._calls.patiently(partial(connection.execute, "BEGIN IMMEDIATE"))
            changes = connection.total_changes
            for call in calls:
                ended = self._calls.captured(partial(call.request, connection))
                if isinstance(ended, outcome.Error) and _undoes_all(ended.error, connection):
                    ended.unwrap()
                outcomes.append(ended)
            insertions = [call.request for call in calls if type(call.request) is Insertion]
            check_there([one.blob for one in insertions if one.was_there], connection)
            changes = connection.total_changes - changes
            if is_synced and changes == 0:
                write_nothing(connection)
            self._files.check_names()
            connection.execute("COMMIT")
            self._files.check()
        except Exception as failure:
            return self._cause(failure)
        finally:
            roll_back(connection)
            if is_synced and not self._durable:
                connection.execute("PRAGMA synchronous = NORMAL")
        for call, ended in zip(calls, outcomes, strict=True):
            call.outcome = ended
        # A row takes up space in the table and in the index, and may be the only one of the batch in each page.
        self._pages += 2 * changes + sum(call.size for call in calls) // PAGE
        return None

    def _cause(self, failure: Exception) -> Exception:
        """Return the loss of a file if there is one, because SQLite then reports anything, and otherwise `failure`."""
        try:
            self._files.check()
        except ReplicaError as loss:
            return loss
        except OSError:
            pass
        return failure

    def _limit_log(self) -> None:
        """Write the log back if it has grown enough, and truncate it if it has become too large."""
        is_large = self._files.log_size > self._log_limit
        if not is_large and self._pages < PAGES_TO_WRITE_BACK:
            return
        self._pages = 0
        with suppress(sqlite3.Error, ReplicaError, OSError):  # the next transaction will fail as well
            self._files.check()
            self._connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if is_large else 'PASSIVE'})").fetchall()
            self._files.check()  # for the size
        if is_large:  # a reader may have kept some of it, so do not try again at once
            self._log_limit = self._files.log_size + self._least_log_limit


def _undoes_all(error: BaseException, connection: sqlite3.Connection) -> bool:
    """Return whether the error of one call means that no call of its transaction may be committed.

    A full disk, for example, has undone the calls before it, too. A `ReplicaError` says that the database does not do
    as it was told, and SQLite has undone nothing.
    """
    return not connection.in_transaction or isinstance(error, ReplicaError)
