"""The work of the threads of a SQLite store, which is transactions of puts, and reads."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import outcome

from ..._blob import Ref
from ..._errors import BlobNotFoundError, ReplicaError, StoreIdentityError, StoreNotFoundError
from ..._sqlite_connection import LOCKED, connect, roll_back
from ..._sqlite_files import check_regular
from .calls import DatabaseCalls
from .check import set_aside
from .files import (
    DatabaseFiles,
    check_removed_log,
    drop_cached,
    explaining_removed_log,
    explaining_unwritable,
    is_missing,
    lacks_log,
)
from .statements import select_rows, write_nothing
from .tables import BLOBS, has_blobs, make_identity, read_identity
from .unwritten import UnwrittenDatabase
from .writer import LOG_LIMIT, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ..._blob import Blob
    from ..._calls.threads import Call, Handler
    from .._access import Access
    from .._reads import Read

    Request: TypeAlias = Callable[[sqlite3.Connection], Any]
    Reader: TypeAlias = Callable[[Callable[[sqlite3.Connection], Any]], Any]

Ended: TypeAlias = "outcome.Value[Any] | outcome.Error"

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

BUSY_SECONDS: Final = 60.0
"""Seconds to wait for another process to release the database."""

PROGRESS_STEPS: Final = 10_000
"""Instructions of SQLite between two tests whether a check is still wanted, which take about a millisecond."""

ROW_OVERHEAD: Final = 64
"""The most bytes that a row takes beside the data: the 32 of the ref, and the header with a few for each column."""

LEAST_LENGTH: Final = 1024 * 1024
"""Bytes that SQLite may always read of a value, because another program's schema may be that long."""


@final
class Database:
    """One database. Except for `check_size`, its methods block, and run in the store's threads."""

    def __init__(
        self,
        path: str,
        *,
        durable: bool,
        access: Access,
        busy_seconds: float = BUSY_SECONDS,
        log_limit: int = LOG_LIMIT,
    ) -> None:
        self.path = path
        self.access = access
        self.durable = durable
        self._calls = DatabaseCalls(path, busy_seconds)
        self._busy_seconds = busy_seconds
        self._size_limit = 0
        self._identity: str | None = None
        self._files: DatabaseFiles | None = None  # None until a thread has opened them
        self._log_limit = log_limit

    def check_size(self, blob: Blob) -> None:
        """Refuse a blob that is too large, before it is part of any transaction.

        Raises:
          BlobTooLargeError: if it is larger than `max_memory`.
          sqlite3.DataError: if no row can hold it.

        """
        if len(blob) > self._size_limit:
            self.access.check_size(self.path, len(blob))
            error = sqlite3.DataError(f"a blob of {len(blob)} bytes, where a row holds at most {self._size_limit}")
            error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_TOOBIG, "SQLITE_TOOBIG"
            raise self._calls.named(error)

    # Writing

    @contextmanager
    def serve_writes(self) -> Generator[Handler[Request], None, None]:
        check_regular(self.path)
        if not self.access.may_create:
            self._check_there()
        log_is_removed = lacks_log(self.path)
        connection = self._connect(None if self.access.may_create else "mode=rw", ROW_OVERHEAD)
        try:
            self._files = files = DatabaseFiles(self.path)
        except BaseException:
            connection.close()  # it has read nothing, so it will not write anything either
            raise
        try:
            with self._calls.naming(), explaining_unwritable(self.path), explaining_removed_log(self.path):
                if log_is_removed:
                    self._calls.patiently(partial(check_removed_log, connection, self.path))
                self._calls.patiently(partial(self._set_up, connection, files))
            self._calls.guard(connection)
            yield Writer(connection, files, self._calls, durable=self.durable, log_limit=self._log_limit).write
        finally:
            files.close(connection)

    def _set_up(self, connection: sqlite3.Connection, files: DatabaseFiles) -> None:
        if not has_blobs(connection, self.path) and not self.access.may_create:
            raise StoreNotFoundError(self.path)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ReplicaError(f"the database is in journal mode {mode} and can't be put in WAL mode: {self.path}")
        # Until the identity is on the disk, whatever `durable` is. An outbox may note it next, and would refuse the
        # store if a power cut took it away.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute(f"PRAGMA journal_size_limit = {self._log_limit}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            files.find_log(connection)
            files.check_one_name()
            if not has_blobs(connection, self.path):
                connection.execute(BLOBS)
            changes = connection.total_changes
            identity = make_identity(connection, self.path)
            if connection.total_changes == changes:  # it was there, but its creator may not have synced it
                write_nothing(connection)
            files.check()
            connection.execute("COMMIT")
        finally:
            roll_back(connection)
        if not self.durable:
            connection.execute("PRAGMA synchronous = NORMAL")
        files.check()
        self._identity = identity

    # Reading

    @contextmanager
    def serve_reads(self) -> Generator[Handler[Ref | Request], None, None]:
        with self._reading() as read:
            if self.access.read_only:
                read(self.read_identity)
            yield partial(_answer, read, self._read)

    def _read(self, batch: Sequence[Call[Ref | Request]], connection: sqlite3.Connection) -> list[Ended]:
        def captured(request: Callable[[sqlite3.Connection], ResultT]) -> outcome.Value[ResultT] | outcome.Error:
            return self._calls.captured(partial(self._calls.patiently, partial(request, connection)))

        refs = [call.request for call in batch if isinstance(call.request, Ref)]
        together = captured(partial(self._select, refs))
        ended: list[Ended] = []
        for call in batch:
            request = call.request
            if not isinstance(request, Ref):
                ended.append(captured(request))
            elif isinstance(together, outcome.Error):  # for example, one of them is damaged
                ended.append(captured(partial(self._get, request)))
            else:
                data = together.value.get(request)
                ended.append(outcome.Error(BlobNotFoundError(request)) if data is None else outcome.Value(data))
        return ended

    def _get(self, ref: Ref, connection: sqlite3.Connection) -> bytes:
        data = self._select([ref], connection).get(ref)
        if data is None:
            raise BlobNotFoundError(ref)
        return data

    def get_stored(self, ref: Ref, connection: sqlite3.Connection) -> bytes:
        """Return a blob as it is on the disk, past SQLite's cache and the system's."""
        connection.execute("PRAGMA shrink_memory").fetchall()
        drop_cached(self.path)
        return self._get(ref, connection)

    def select(self, refs: list[Ref], connection: sqlite3.Connection) -> dict[Ref, bytes]:
        """Return the blobs that are there."""
        found = self._select(refs, connection)
        return {ref: found[ref] for ref in refs if ref in found}

    def _select(self, refs: list[Ref], connection: sqlite3.Connection) -> dict[bytes, bytes]:
        # The keys are plain bytes, which are equal to refs. Making a ref of each would take longer than reading it.
        try:
            found: dict[bytes, bytes] = dict(select_rows("ref, data", refs, connection))
        except sqlite3.DataError:  # SQLite has not read it
            self._check_sizes(refs, connection)
            raise
        for ref, data in found.items():
            if type(data) is not bytes:
                raise ReplicaError(f"the data of {ref.hex()} is a {type(data).__name__}, no BLOB: {self.path}")
        if self.access.max_memory < LEAST_LENGTH:  # so the limit of SQLite is higher
            for data in found.values():
                self.access.check_size(self.path, len(data))
        return found

    def _check_sizes(self, refs: list[Ref], connection: sqlite3.Connection) -> None:
        for _, size in select_rows("ref, length(data)", refs, connection):
            self.access.check_size(self.path, size)

    def set_aside(self, ref: Ref, connection: sqlite3.Connection) -> bool:
        """Copy the row of a blob to the table ``damaged_blobs``. Return whether there is a row."""
        self._check_sizes([ref], connection)
        return set_aside(ref, connection)

    def list_page(self, after: Ref, limit: int, connection: sqlite3.Connection) -> list[Ref]:
        """Return the next refs."""
        rows = connection.execute(
            "SELECT ref FROM blobs WHERE ref > ? ORDER BY ref LIMIT ?", (after, min(limit, sys.maxsize))
        ).fetchall()
        try:
            return [Ref(ref) for (ref,) in rows]
        except ValueError as error:
            raise ReplicaError(f"{error}: {self.path}") from None

    # Its identity

    def read_identity(self, connection: sqlite3.Connection) -> str | None:
        """Return the identity that the database has now.

        Raises:
          StoreIdentityError: if the identity has changed since the database was opened.

        """
        found = read_identity(connection, self.path)
        if self._identity is None:  # it is read-only, and another process may have given it one by now
            self._identity = found
        if found != self._identity:
            raise StoreIdentityError(self.path, self._identity, found)
        return found

    def note_identity(self, identity: str) -> None:
        """Expect another identity from now on."""
        self._identity = identity

    # Checking

    @contextmanager
    def serve_checks(self) -> Generator[Handler[Read[Request]], None, None]:
        with self._reading() as read:
            yield partial(_answer, read, self._check)

    def _check(self, batch: Sequence[Call[Read[Request]]], connection: sqlite3.Connection) -> list[Ended]:
        ended: list[Ended] = []
        for call in batch:
            request = call.request
            connection.set_progress_handler(partial(getattr, request, "is_abandoned"), PROGRESS_STEPS)
            ended.append(self._calls.captured(partial(self._calls.patiently, partial(request.what, connection))))
        return ended

    # Connections

    @contextmanager
    def _reading(self) -> Generator[Reader, None, None]:
        """Connect to read, and yield a function that calls a given function with the connection.

        The yielded function returns the result once it is known to be valid.
        """
        if self._files is None:  # the first thread of a read-only store
            check_regular(self.path)
            self._check_there()
        else:
            self._files.check()
        if self.access.read_only:
            database = UnwrittenDatabase(self.path, self._connect, self._look, self._busy_seconds, self._files)
            with closing(database):
                yield partial(self._read_unwritten, database)
            return
        assert self._files is not None
        with closing(self._connect(LOCKED)) as connection:  # so that it never makes a checkpoint
            self._files.check()  # before the connection reads anything
            # With its first read SQLite opens the log, or removes it if the database is empty by then.
            with self._calls.naming():
                self._calls.patiently(partial(connection.execute, "PRAGMA user_version")).fetchall()
            yield partial(_read_checked, connection, self._files)

    def _read_unwritten(self, database: UnwrittenDatabase, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        with self._calls.naming():
            result = self._calls.patiently(partial(database.read, work))
        self._files = database.files
        return result

    def _look(self, connection: sqlite3.Connection) -> None:
        if not has_blobs(connection, self.path):
            raise StoreNotFoundError(self.path)

    def _check_there(self) -> None:
        if is_missing(self.path):
            raise StoreNotFoundError(self.path)

    def _connect(self, parameters: str | None, overhead: int = 0) -> sqlite3.Connection:
        """Connect, with parameters of a URI. Without parameters, the database is created if it is missing.

        SQLite reads no value and writes no row larger than the largest blob plus the `overhead`.
        """
        with self._calls.naming():
            connection = connect(self.path, parameters)
        greatest = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        self._size_limit = min(greatest - ROW_OVERHEAD, self.access.max_memory)
        limit = max(self.access.max_memory + overhead, LEAST_LENGTH)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(limit, greatest))
        return connection


def _answer(
    read: Reader,
    work: Callable[[Sequence[Call[RequestT]], sqlite3.Connection], list[Ended]],
    batch: Sequence[Call[RequestT]],
) -> None:
    """Run a batch, and give its calls outcomes once the values that were read are known to be valid."""
    for call, ended in zip(batch, read(partial(work, batch)), strict=True):
        call.outcome = ended


def _read_checked(
    connection: sqlite3.Connection, files: DatabaseFiles, work: Callable[[sqlite3.Connection], ResultT]
) -> ResultT:
    """Read, and check afterwards that the database and its log still have their names. If not, old pages were read."""
    result = work(connection)
    files.check()
    return result
