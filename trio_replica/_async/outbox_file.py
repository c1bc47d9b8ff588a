"""The SQL of an outbox, which is a SQLite file: committing entries, and reading those that a crash has left."""

from __future__ import annotations

import os
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar, cast, final

import outcome

from .._blob import Ref
from .._calls.threads import open_store_threads
from .._errors import ReplicaError
from .storage import Changes, Entry, OutboxState, OutboxStorage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping, Sequence

    from .._calls.start import Cancel, Done
    from .._calls.threads import Call, Handler, StoreThreads

APPLICATION_ID: Final = 0x74724F42
"""The application ID in SQLite's header: ``trOB``."""

VERSION: Final = 1
"""The version of the format, in the header as well. Another one is refused."""

LOCK_SECONDS: Final = 1.0
"""Seconds that opening waits for another process that only reads the outbox."""

_SCHEMA: Final = (
    "CREATE TABLE stores (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL)",
    """CREATE TABLE debts (
        store INTEGER NOT NULL, seq INTEGER NOT NULL, ref BLOB NOT NULL, PRIMARY KEY (store, seq)
    ) WITHOUT ROWID""",
    "CREATE TABLE meta (watermark INTEGER NOT NULL, openings INTEGER NOT NULL)",
    "INSERT INTO meta VALUES (1, 0)",
    "CREATE TABLE doubts (first INTEGER NOT NULL, after INTEGER NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

_TABLES: Final = {"stores", "debts", "meta", "doubts"}

_REFS_AT_ONCE: Final = 1000
"""Refs that a listing holds in memory."""

_ROWS_AT_ONCE: Final = 128
"""Rows in one statement. Python's SQLite module releases the interpreter lock for each statement, and takes it again.

The statements for all numbers of rows stay prepared.
"""

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
"""The remedies by SQLite's codes. A primary code covers all its extended codes that have no remedy of their own."""


class _Page(NamedTuple):
    store: int
    after: int
    before: int
    limit: int


RowT = TypeVar("RowT")

_Request: TypeAlias = Changes | _Page


@asynccontextmanager
async def open_sqlite_outbox(
    path: str, names: Iterable[str]
) -> AsyncGenerator[tuple[OutboxStorage, OutboxState], None]:
    """Open an outbox in a SQLite database of its own for the block. Create it if necessary.

    Args:
      path: the file. Its folder has to exist.
      names: the stores that will have entries.

    Raises:
      ReplicaError: if the file is not an outbox, is of a newer version, is in use by another replica, or can't be
        opened or written. The message has the path and the reason.

    """
    database = _Database(os.path.abspath(path), list(names))  # noqa: ASYNC240  (touches no disk)
    async with open_store_threads(f"outbox {database.path}", database.serve) as threads:
        assert database.state is not None
        yield SqliteOutbox(threads), database.state


@final
class SqliteOutbox(OutboxStorage):
    """An outbox in a SQLite database, which one thread writes and reads."""

    def __init__(self, threads: StoreThreads[_Request]) -> None:
        self._threads = threads

    def start_commit(self, changes: Changes, done: Done) -> Cancel:
        """Start to make changes: see `OutboxStorage.start_commit`. All changes that wait become one transaction."""
        return self._threads.start(changes, done)

    def start_page(self, store: int, after: int, before: int, limit: int, done: Done) -> Cancel:
        """Start to read entries: see `OutboxStorage.start_page`."""
        return self._threads.start(_Page(store, after, before, limit), done, abandon_on_cancel=True)


@final
class _Database:
    """The database of an outbox. All of its methods block, and run in the outbox's thread."""

    def __init__(self, path: str, names: list[str]) -> None:
        self.path = path
        self.state: OutboxState | None = None
        self._names = names
        self._openings: int | None = None
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def serve(self) -> Generator[Handler[_Request], None, None]:
        with closing(self):
            self.state = self._open()
            yield self._handle

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> OutboxState:
        """Connect, check that this is an outbox that can be written, and return its state."""
        with _explaining(self.path):
            self._connection = connection = _connected(self.path)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            with _transaction(connection):
                _create(connection)
                self._begin(connection)
                _add_names(connection, self._names)
            return _read_state(connection)

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Count the opening, and note which entries are in doubt. A full or read-only disk causes an error here.

        If the database was closed after an error, check that nobody has used it in the meantime.
        """
        ((openings,),) = connection.execute("SELECT openings FROM meta").fetchall()
        if self._openings is None:
            self._openings = openings + 1
            _note_in_doubt(connection)
        elif self._openings != openings:
            raise ReplicaError(f"{self.path}: another replica has used the outbox in the meantime: open this one again")
        connection.execute("UPDATE meta SET openings = ?", (self._openings,))

    def _handle(self, batch: Sequence[Call[_Request]]) -> None:
        """Serve calls in their order. Changes that follow each other are one transaction."""
        waiting: list[Call[_Request]] = []
        for call in batch:
            if isinstance(call.request, Changes):
                waiting.append(call)
            else:
                self._commit(waiting)
                waiting = []
                call.outcome = outcome.capture(self._page, call.request)
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
            (store, seq, ref)
            for one in changes
            for seq, ref in zip(one.seqs, one.refs, strict=True)
            for store in one.stores
        ]
        acknowledged: dict[int, list[int]] = {}
        for one in changes:
            for store, seqs in one.acknowledgements:
                acknowledged.setdefault(store, []).extend(seqs)
        watermark = max(one.watermark for one in changes)
        with self._usable() as connection, _transaction(connection):
            for rows in _in_chunks(entries):
                marks = ", ".join(["(?, ?, ?)"] * len(rows))
                connection.execute(f"INSERT INTO debts VALUES {marks}", [value for row in rows for value in row])  # noqa: S608  (question marks)
            for store, seqs in acknowledged.items():
                for some in _in_chunks(seqs):
                    marks = ", ".join("?" * len(some))
                    connection.execute(f"DELETE FROM debts WHERE store = ? AND seq IN ({marks})", (store, *some))  # noqa: S608  (likewise)
            connection.execute("UPDATE meta SET watermark = ? WHERE watermark < ?", (watermark, watermark))

    def _page(self, page: _Page) -> list[Entry]:
        with self._usable() as connection:
            rows = connection.execute(
                "SELECT seq, ref FROM debts WHERE store = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?", page
            ).fetchall()
        return [Entry(seq, Ref(ref)) for seq, ref in rows]

    @contextmanager
    def _usable(self) -> Generator[sqlite3.Connection, None, None]:
        """Lend the connection. An error may leave it unusable, so the next use makes a new one."""
        try:
            if self._connection is None:
                self._open()
            assert self._connection is not None
            with _explaining(self.path):
                yield self._connection
        except BaseException:
            self.close()
            raise


@final
class OutboxFile:
    """An outbox that no replica uses, to be inspected and changed by hand. All of its methods block."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def pending(self) -> Mapping[str, int]:
        """Return the number of entries of each store by its name, in the order in which the names were added."""
        with _explaining(self._path):
            return _read_state(self._connection).pending

    def refs(self, name: str, *, at_once: int = _REFS_AT_ONCE) -> Iterator[Ref]:
        """Return the refs that are pending for a store, one for each put, in the order of the puts."""
        after = 0
        while True:
            with _explaining(self._path):
                rows = self._connection.execute(
                    "SELECT seq, ref FROM debts JOIN stores ON id = store WHERE name = ? AND seq > ?"
                    " ORDER BY seq LIMIT ?",
                    (name, after, at_once),
                ).fetchall()
            if not rows:
                return
            for _, ref in rows:
                yield Ref(ref)
            after = rows[-1][0]

    def forget(self, name: str, ref: Ref | None = None) -> int:
        """Drop all entries of a store, or those of one ref. Returns how many there were."""
        with _explaining(self._path), _transaction(self._connection):
            return self._connection.execute(
                "DELETE FROM debts WHERE store = (SELECT id FROM stores WHERE name = ?) AND ref = ifnull(?, ref)",
                (name, ref),
            ).rowcount


@contextmanager
def opened_outbox(path: str) -> Generator[OutboxFile, None, None]:
    """Open an existing outbox for a block, during which no replica can open it. Blocks.

    Raises:
      ReplicaError: if the file does not exist, is in use, or can't be used.

    """
    path = os.path.abspath(path)
    if not os.path.lexists(path):
        raise ReplicaError(f"{path}: there is no such outbox")
    with _explaining(path), closing(_connected(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        if version == 0:
            with _transaction(connection):
                _create(connection)  # the file is empty
        yield OutboxFile(path, connection)


def _connected(path: str) -> sqlite3.Connection:
    """Return the only connection to a file that is an outbox, or empty."""
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, cached_statements=3 * _ROWS_AT_ONCE)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        _check(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: str, connection: sqlite3.Connection) -> None:
    ((identity,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()}
    if not tables and identity == version == 0:
        return
    if identity != APPLICATION_ID or (version == VERSION and not tables >= _TABLES):
        raise ReplicaError(f"{path}: the file is a database, but not an outbox: name another one")
    if version != VERSION:
        raise ReplicaError(f"{path}: the outbox is of version {version}, and this package knows {VERSION}: update it")


def _in_chunks(rows: Sequence[RowT]) -> Iterator[Sequence[RowT]]:
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[first : first + _ROWS_AT_ONCE]


def _create(connection: sqlite3.Connection) -> None:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version == 0:
        for statement in _SCHEMA:
            connection.execute(statement)


def _add_names(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    for name in names:
        connection.execute("INSERT INTO stores (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (name,))


def _note_in_doubt(connection: sqlite3.Connection) -> None:
    """Note for all sessions from now on which entries belong to puts that may never have returned.

    The watermark rises from here on, so the range of numbers above the one on the disk has to be kept separately.
    """
    connection.execute(
        "DELETE FROM doubts WHERE NOT EXISTS"
        " (SELECT 1 FROM stores JOIN debts ON store = id WHERE seq >= first AND seq < after)"
    )
    connection.execute(
        "INSERT INTO doubts SELECT watermark, last + 1 FROM meta,"
        " (SELECT max(seq) AS last FROM stores JOIN debts ON store = id) WHERE last >= watermark"
    )
    connection.execute("UPDATE meta SET watermark = max(watermark, (SELECT ifnull(max(seq), 0) + 1 FROM debts))")


def _read_state(connection: sqlite3.Connection) -> OutboxState:
    ids: dict[str, int] = dict(connection.execute("SELECT name, id FROM stores ORDER BY id").fetchall())
    counts = dict(connection.execute("SELECT store, count(*) FROM debts GROUP BY store").fetchall())
    ((next_seq,),) = connection.execute("SELECT watermark FROM meta").fetchall()
    in_doubt = connection.execute("SELECT first, after FROM doubts").fetchall()
    pending = {name: counts.get(number, 0) for name, number in ids.items()}
    return OutboxState(ids, pending, next_seq, [range(*numbers) for numbers in in_doubt])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")


@contextmanager
def _explaining(path: str) -> Generator[None, None, None]:
    """Turn SQLite's errors into a `ReplicaError` that names the path and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own errors have none
        name: Any = getattr(error, "sqlite_errorname", type(error).__name__)
        raise ReplicaError(f"{path}: {_REMEDIES.get(code) or _REMEDIES.get(code & 0xFF, error)} ({name})") from None
