"""The SQL of an outbox, which is a SQLite file: committing entries, and reading those that a crash has left."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar, cast, final

import outcome

from .._blob import Ref
from .._calls.start import ended_call
from .._calls.threads import open_store_threads
from .._errors import ReplicaError
from .outbox_connection import connect, explaining, transaction
from .outbox_format import bring_up_to_date, note_in_doubt, note_stores, noted_stores, read_state
from .storage import Changes, Entry, LostFileError, OutboxStorage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence

    from .._calls.start import Cancel, Done
    from .._calls.threads import Call, Handler, StoreThreads
    from .._sqlite_files import PinnedFile
    from .outbox_connection import OutboxConnection
    from .storage import NotedStore, OutboxState, SessionStore

_ROWS_AT_ONCE: Final = 128
"""Rows in one statement. Python's SQLite module releases the interpreter lock for each statement, and takes it again.

The statements for all numbers of rows stay prepared.
"""


class _Begin(NamedTuple):
    stores: Sequence[SessionStore]


class _Page(NamedTuple):
    store: int
    after: int
    before: int
    limit: int


RowT = TypeVar("RowT")

_Request: TypeAlias = Changes | _Begin | _Page


@asynccontextmanager
async def open_sqlite_outbox(path: str) -> AsyncGenerator[OutboxStorage, None]:
    """Open an outbox in a SQLite database of its own for the block. Create it if necessary.

    Args:
      path: the file. Its folder has to exist.

    Raises:
      ReplicaError: if the file is not an outbox, is of a newer version, is in use by another replica, has several
        names, or can't be opened or written. The message has the path and the reason. Also when the block ends, if the
        file was removed or replaced in the meantime.

    """
    database = _Database(os.path.abspath(path))  # noqa: ASYNC240  (touches no disk)
    async with open_store_threads(f"outbox {database.path}", database.serve) as threads:
        yield SqliteOutbox(threads, database.noted)


@final
class SqliteOutbox(OutboxStorage):
    """An outbox in a SQLite database, which one thread writes and reads."""

    def __init__(self, threads: StoreThreads[_Request], noted: Mapping[str, NotedStore]) -> None:
        self.noted = noted
        self._threads = threads

    async def begin(self, stores: Sequence[SessionStore]) -> OutboxState:
        """Begin the session: see `OutboxStorage.begin`. An older format is migrated in the same transaction."""
        state: OutboxState = await ended_call(partial(self._threads.start, _Begin(stores)))
        return state

    def start_commit(self, changes: Changes, done: Done) -> Cancel:
        """Start to make changes: see `OutboxStorage.start_commit`. All changes that wait become one transaction."""
        return self._threads.start(changes, done)

    def start_page(self, store: int, after: int, before: int, limit: int, done: Done) -> Cancel:
        """Start to read entries: see `OutboxStorage.start_page`."""
        return self._threads.start(_Page(store, after, before, limit), done, abandon_on_cancel=True)


@final
class _Database:
    """The database of an outbox. All of its methods block, and run in the outbox's thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.noted: Mapping[str, NotedStore] = {}
        self._openings: int | None = None  # None before the session has begun
        self._connection: OutboxConnection | None = None
        self._file: PinnedFile | None = None
        self._lost = ""  # why the session is over

    @contextmanager
    def serve(self) -> Generator[Handler[_Request], None, None]:
        with closing(self):
            with self._usable() as connection:
                self.noted = noted_stores(connection)
            yield self._handle

    def close(self) -> None:
        """Close the connection.

        Raises:
          LostFileError: if the file was removed or replaced, so that entries may be lost.

        """
        try:
            self._disconnect()
        finally:
            if self._file is not None:
                self._file.close()
        if self._lost:
            raise LostFileError(self._lost)

    @contextmanager
    def _usable(self) -> Generator[sqlite3.Connection, None, None]:
        """Lend the connection. After an error, which may have left it unusable, the next one is new.

        The work counts only once the block has ended, because the files are checked again at its end.
        """
        if self._lost:
            raise LostFileError(self._lost)
        try:
            with explaining(self.path):
                connection = self._connected()
                connection.check()
                yield connection.sql
                connection.note_written()
        except BaseException as error:
            if isinstance(error, LostFileError):
                self._lost = str(error)
            self._disconnect()
            raise

    def _connected(self) -> OutboxConnection:
        """Return the connection; if need be a new one, of a file that nobody has changed in the meantime."""
        if self._connection is None:
            self._connection = connect(self.path, self._file)
            self._file = self._connection.file
            if self._openings is not None and _openings(self._connection.sql) != self._openings:
                raise ReplicaError(
                    f"{self.path}: another replica has used the outbox in the meantime, or a command has changed it: "
                    "open this replica again"
                )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except LostFileError as error:
                self._lost = str(error)

    def _begin(self, request: _Begin) -> OutboxState:
        with self._usable() as connection:
            with transaction(connection):
                bring_up_to_date(connection)
                note_in_doubt(connection)
                note_stores(connection, request.stores)
                connection.execute("UPDATE meta SET openings = openings + 1")
            openings, state = _openings(connection), read_state(connection)
        self._openings = openings
        return state

    def _handle(self, batch: Sequence[Call[_Request]]) -> None:
        """Serve calls in their order. Changes that follow each other are one transaction."""
        waiting: list[Call[_Request]] = []
        for call in batch:
            if isinstance(call.request, Changes):
                waiting.append(call)
            else:
                self._commit(waiting)
                waiting = []
                serve: Callable[[Any], object] = self._begin if isinstance(call.request, _Begin) else self._page
                call.outcome = outcome.capture(serve, call.request)
        self._commit(waiting)

    def _commit(self, calls: Sequence[Call[_Request]]) -> None:
        """Make the changes of `calls`. The calls get their outcomes after the commit."""
        if not calls:
            return
        ended = outcome.capture(self._transact, [cast("Changes", call.request) for call in calls])
        for call in calls:
            if isinstance(ended, outcome.Error):
                call.fail(ended.error)
            else:
                call.outcome = outcome.Value(None)  # one for each call, because an outcome is unwrapped once

    def _transact(self, changes: Sequence[Changes]) -> None:
        entries = [
            (store, seq, ref, size)
            for one in changes
            for seq, ref, size in zip(one.seqs, one.refs, one.sizes, strict=True)
            for store in one.stores
        ]
        acknowledged: dict[int, list[int]] = {}
        for one in changes:
            for store, seqs in one.acknowledgements:
                acknowledged.setdefault(store, []).extend(seqs)
        watermark = max(one.watermark for one in changes)
        with self._usable() as connection, transaction(connection):
            for rows in _in_chunks(entries):
                marks = ", ".join(["(?, ?, ?, ?)"] * len(rows))
                connection.execute(f"INSERT INTO entries VALUES {marks}", [value for row in rows for value in row])  # noqa: S608  (question marks)
            for store, seqs in acknowledged.items():
                for some in _in_chunks(seqs):
                    marks = ", ".join("?" * len(some))
                    connection.execute(f"DELETE FROM entries WHERE store = ? AND seq IN ({marks})", (store, *some))  # noqa: S608  (likewise)
            connection.execute("UPDATE meta SET watermark = ? WHERE watermark < ?", (watermark, watermark))

    def _page(self, page: _Page) -> list[Entry]:
        with self._usable() as connection:
            rows = connection.execute(
                "SELECT seq, ref FROM entries WHERE store = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?", page
            ).fetchall()
        return [Entry(seq, Ref(ref)) for seq, ref in rows]


def _in_chunks(rows: Sequence[RowT]) -> Iterator[Sequence[RowT]]:
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[first : first + _ROWS_AT_ONCE]


def _openings(connection: sqlite3.Connection) -> int:
    ((openings,),) = connection.execute("SELECT openings FROM meta").fetchall()
    assert isinstance(openings, int)
    return openings
