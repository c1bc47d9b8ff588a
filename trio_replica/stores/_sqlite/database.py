"""The work of the threads of a SQLite store, which is transactions of puts, and reads."""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import outcome

from ..._async.outbox_format import APPLICATION_ID
from ..._blob import Ref
from ..._errors import BlobNotFoundError, ReplicaError
from .._files import file_size, identity
from .statements import select_rows, write_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ..._blob import Blob
    from ..._calls.threads import Call, Handler
    from .._reads import Read

    Request: TypeAlias = Callable[[sqlite3.Connection], Any]

ResultT = TypeVar("ResultT")

BUSY_SECONDS: Final = 60.0
"""Seconds to wait for another process to release the database."""

LOG_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of write-ahead log above which it is written back and truncated, because readers can keep SQLite from reusing
it."""

PROGRESS_STEPS: Final = 10_000
"""Instructions of SQLite between two tests whether a check is still wanted, which take about a millisecond."""

ROW_OVERHEAD: Final = 64
"""The most bytes that a row takes beside the data: the 32 of the ref, and the header with a few for each column."""

_SCHEMA: Final = "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)"
_COLUMNS: Final = [("ref", "BLOB", 1, 1), ("data", "BLOB", 1, 0)]  # name, type, NOT NULL, place in the primary key


@final
class Database:
    """One database. Except for `check_size`, its methods block, and run in the store's threads."""

    def __init__(
        self, path: str, *, durable: bool, busy_seconds: float = BUSY_SECONDS, log_limit: int = LOG_LIMIT
    ) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._durable = durable
        self._size_limit = 0
        self._identity: tuple[int, int] | None = None
        self._log = ""
        self._least_log_limit = log_limit
        self._log_limit = log_limit

    def check_size(self, blob: Blob) -> None:
        """Refuse a blob that is too large for a row, before it is part of any transaction.

        Raises:
          sqlite3.DataError: if it is too large.

        """
        if len(blob) > self._size_limit:
            error = sqlite3.DataError(f"a blob of {len(blob)} bytes, where a row holds at most {self._size_limit}")
            error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_TOOBIG, "SQLITE_TOOBIG"
            raise self._named(error)

    # Writing

    @contextmanager
    def serve_writes(self) -> Generator[Handler[Request], None, None]:
        with self._connection() as connection:
            with self._naming():
                self._patiently(partial(self._set_up, connection))
            yield partial(self._write, connection)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        self._check_table(connection)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ReplicaError(f"the database is in journal mode {mode} and can't be put in WAL mode: {self.path}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute(f"PRAGMA journal_size_limit = {self._least_log_limit}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self._check_table(connection):
                connection.execute(_SCHEMA)
            connection.execute("COMMIT")
        finally:
            _roll_back(connection)
        self._size_limit = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - ROW_OVERHEAD
        ((_, _, file),) = connection.execute("PRAGMA database_list").fetchall()
        self._identity = identity(self.path)
        self._log = f"{file}-wal"

    def _check_table(self, connection: sqlite3.Connection) -> bool:
        """Return whether the table exists, and check that it is a store's."""
        ((application,),) = connection.execute("PRAGMA application_id").fetchall()
        if application == APPLICATION_ID:
            raise ReplicaError(f"the database is an outbox and not a store: name another file: {self.path}")
        columns = connection.execute("SELECT name, type, \"notnull\", pk FROM pragma_table_info('blobs')").fetchall()
        if columns and columns != _COLUMNS:
            raise ReplicaError(f"the database has another table blobs than a store's, which is {_SCHEMA}: {self.path}")
        return bool(columns)

    def _write(self, connection: sqlite3.Connection, batch: Sequence[Call[Request]]) -> None:
        failure = self._transact(connection, batch)
        if failure is not None:
            for call in batch:
                if len(batch) > 1 and not _is_busy(failure):
                    failure = self._transact(connection, [call])
                if failure is not None:
                    call.fail(self._named(failure))
        self._limit_log(connection)

    def _transact(self, connection: sqlite3.Connection, calls: Sequence[Call[Request]]) -> Exception | None:
        """Run `calls` as one transaction.

        They get outcomes only after its commit. Otherwise return the error that undid it.
        """
        outcomes: list[outcome.Value[Any] | outcome.Error] = []
        try:
            self._patiently(partial(connection.execute, "BEGIN IMMEDIATE"))
            changes = connection.total_changes
            for call in calls:
                ended = self._captured(partial(call.request, connection))
                if isinstance(ended, outcome.Error) and not connection.in_transaction:
                    ended.unwrap()  # an error such as a full disk has undone the calls before this one too
                outcomes.append(ended)
            if self._durable and connection.total_changes == changes:
                write_nothing(connection)
            connection.execute("COMMIT")
            self._check_present()
        except Exception as failure:
            return failure
        finally:
            _roll_back(connection)
        for call, ended in zip(calls, outcomes, strict=True):
            call.outcome = ended
        return None

    def _limit_log(self, connection: sqlite3.Connection) -> None:
        """Write the log back and truncate it, if it has grown too large."""
        if file_size(self._log) > self._log_limit:
            with suppress(sqlite3.Error):  # the next transaction will fail as well
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            # A reader may have kept some of the log, so this does not try again at once.
            self._log_limit = file_size(self._log) + self._least_log_limit

    # Reading

    @contextmanager
    def serve_reads(self) -> Generator[Handler[Ref | Request], None, None]:
        with self._connection() as connection:
            yield partial(self._read, connection)

    def _read(self, connection: sqlite3.Connection, batch: Sequence[Call[Ref | Request]]) -> None:
        def captured(request: Callable[[sqlite3.Connection], ResultT]) -> outcome.Value[ResultT] | outcome.Error:
            return self._captured(partial(self._patiently, partial(request, connection)))

        self._check_present()
        refs = [call.request for call in batch if isinstance(call.request, Ref)]
        together = captured(partial(self._select, refs))
        for call in batch:
            request = call.request
            if not isinstance(request, Ref):
                call.outcome = captured(request)
            elif isinstance(together, outcome.Error):  # one blob may be damaged
                call.outcome = captured(partial(self._get, request))
            else:
                data = together.value.get(request)
                call.outcome = outcome.Error(BlobNotFoundError(request)) if data is None else outcome.Value(data)

    def _get(self, ref: Ref, connection: sqlite3.Connection) -> bytes:
        data = self._select([ref], connection).get(ref)
        if data is None:
            raise BlobNotFoundError(ref)
        return data

    def select(self, refs: list[Ref], connection: sqlite3.Connection) -> dict[Ref, bytes]:
        """Return the blobs that are there."""
        found = self._select(refs, connection)
        return {ref: found[ref] for ref in refs if ref in found}

    def _select(self, refs: list[Ref], connection: sqlite3.Connection) -> dict[bytes, bytes]:
        # The keys are plain bytes, which are equal to their refs. Making refs of them would take longer than reading
        # them.
        found: dict[bytes, bytes] = dict(select_rows("ref, data", refs, connection))
        for ref, data in found.items():
            if type(data) is not bytes:
                raise ReplicaError(f"the data of {ref.hex()} is a {type(data).__name__}, no BLOB: {self.path}")
        return found

    def list_page(self, after: Ref, limit: int, connection: sqlite3.Connection) -> list[Ref]:
        """Return the next refs."""
        rows = connection.execute(
            "SELECT ref FROM blobs WHERE ref > ? ORDER BY ref LIMIT ?", (after, min(limit, sys.maxsize))
        ).fetchall()
        try:
            return [Ref(ref) for (ref,) in rows]
        except ValueError as error:
            raise ReplicaError(f"{error}: {self.path}") from None

    # Checking

    @contextmanager
    def serve_checks(self) -> Generator[Handler[Read[Request]], None, None]:
        with self._connection() as connection:
            yield partial(self._check, connection)

    def _check(self, connection: sqlite3.Connection, batch: Sequence[Call[Read[Request]]]) -> None:
        self._check_present()
        for call in batch:
            read = call.request
            connection.set_progress_handler(partial(getattr, read, "is_abandoned"), PROGRESS_STEPS)
            call.outcome = self._captured(partial(self._patiently, partial(read.what, connection)))

    # Both

    @contextmanager
    def _connection(self) -> Generator[sqlite3.Connection, None, None]:
        with self._naming():
            connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, cached_statements=64)
        with closing(connection):
            yield connection

    def _patiently(self, call: Callable[[], ResultT]) -> ResultT:
        """Return the result of ``call()``, repeating it while another process has the database.

        SQLite's own timeout waits up to a tenth of a second between two tries, so it may miss every gap that a busy
        process leaves.
        """
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311

    def _captured(self, call: Callable[[], ResultT]) -> outcome.Value[ResultT] | outcome.Error:
        """Return the outcome of ``call()``, but raise if the database is busy, as it is for the whole batch then."""
        ended = outcome.capture(call)
        if isinstance(ended, outcome.Error):
            ended = outcome.Error(self._named(ended.error))
            if _is_busy(ended.error):
                ended.unwrap()
        return ended

    def _check_present(self) -> None:
        """Check that the file has not been removed or replaced."""
        if identity(self.path) != self._identity:
            raise ReplicaError(f"the database has vanished: {self.path}")

    @contextmanager
    def _naming(self) -> Generator[None, None, None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._named(error) from None

    def _named(self, error: BaseException) -> BaseException:
        """Return `error`. An error of SQLite gets SQLite's name for it and the path of the database."""
        if not isinstance(error, sqlite3.Error) or self.path in str(error):
            return error
        name = getattr(error, "sqlite_errorname", type(error).__name__)  # Python's own errors have no SQLite name
        named = type(error)(f"{name}: {error}: {self.path}")
        named.__dict__.update(error.__dict__)
        return named.with_traceback(error.__traceback__)


def _is_busy(error: BaseException | None) -> bool:
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary code
    return primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # SQLite may have rolled back already
            connection.execute("ROLLBACK")
