"""The format of an outbox in a SQLite file: its tables, its older version, and the first steps of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._blob import Ref
from .._errors import ReplicaError
from .storage import Entry, NotedStore, OutboxState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from .storage import SessionStore

APPLICATION_ID: Final = 0x74724F42
"""The application ID in SQLite's header: ``trOB``."""

VERSION: Final = 2
"""The version of the format, also in the header. An older one is migrated, and a newer one is refused."""

_DEFERRED: Final = """CREATE TABLE deferred (
    store INTEGER NOT NULL, seq INTEGER NOT NULL, reason TEXT NOT NULL, tries INTEGER NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (store, seq)
) WITHOUT ROWID"""

_IDS: Final = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}")

# Some columns are reserved, and nothing fills them yet. `session_mark` and `next_mark` will show that a store was
# restored from an older copy. `pending_since` will be the time since which a store has had entries. The table
# `deferred` will hold the entries that failed alone, with their reasons, so that the next session knows them.
# `incomplete` is set for a store that may lack blobs that have no entry, until a reconcile has completed it. `size` is
# NULL for entries that were written in format 1.
_SCHEMA: Final = (
    """CREATE TABLE stores (
        id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, role TEXT, identity TEXT, session_mark TEXT, next_mark TEXT,
        incomplete INTEGER NOT NULL DEFAULT 0, pending_since REAL
    )""",
    """CREATE TABLE entries (
        store INTEGER NOT NULL, seq INTEGER NOT NULL, ref BLOB NOT NULL, size INTEGER, PRIMARY KEY (store, seq)
    ) WITHOUT ROWID""",
    _DEFERRED,
    "CREATE TABLE meta (watermark INTEGER NOT NULL, openings INTEGER NOT NULL)",
    "INSERT INTO meta VALUES (1, 0)",
    "CREATE TABLE in_doubt (first INTEGER NOT NULL, after INTEGER NOT NULL)",
    *_IDS,
)

_FROM_FORMAT_1: Final = (
    "ALTER TABLE stores ADD COLUMN role TEXT",
    "ALTER TABLE stores ADD COLUMN identity TEXT",
    "ALTER TABLE stores ADD COLUMN session_mark TEXT",
    "ALTER TABLE stores ADD COLUMN next_mark TEXT",
    "ALTER TABLE stores ADD COLUMN incomplete INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE stores ADD COLUMN pending_since REAL",
    "ALTER TABLE debts RENAME TO entries",
    "ALTER TABLE entries ADD COLUMN size INTEGER",
    "ALTER TABLE doubts RENAME TO in_doubt",
    _DEFERRED,
    *_IDS,
)

_TABLES: Final = {
    1: {"stores", "debts", "meta", "doubts"},
    2: {"stores", "entries", "deferred", "meta", "in_doubt"},
}
"""The tables of each version."""

_NOTED: Final = {
    1: "SELECT name, NULL, NULL, 0 FROM stores ORDER BY id",
    2: "SELECT name, role, identity, incomplete FROM stores ORDER BY id",
}

_PENDING: Final = {
    1: "SELECT name, count(seq) FROM stores LEFT JOIN debts ON store = id GROUP BY id ORDER BY id",
    2: "SELECT name, count(seq) FROM stores LEFT JOIN entries ON store = id GROUP BY id ORDER BY id",
}

_REFS: Final = {
    1: "SELECT seq, ref FROM debts JOIN stores ON id = store WHERE name = ? AND seq > ? ORDER BY seq LIMIT ?",
    2: "SELECT seq, ref FROM entries JOIN stores ON id = store WHERE name = ? AND seq > ? ORDER BY seq LIMIT ?",
}


def check_format(path: str, connection: sqlite3.Connection) -> int:
    """Check that a database is an outbox of a known version, and return the version; 0 if the database is empty.

    Raises:
      ReplicaError: with the path, if it is anything else.

    """
    ((identity,),) = connection.execute("PRAGMA application_id").fetchall()
    version = _version(connection)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()}
    if not tables and identity == version == 0:
        return 0
    if identity != APPLICATION_ID or not tables >= _TABLES.get(version, set()):
        raise ReplicaError(f"{path}: the file is a database, but not an outbox: name another one")
    if version not in _TABLES:
        raise ReplicaError(
            f"{path}: the outbox has format {version}, and this package knows {VERSION}: update trio-replica"
        )
    return version


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty database, or migrate those of an older version. Call it in a transaction."""
    version = _version(connection)
    for statement in {0: _SCHEMA, 1: _FROM_FORMAT_1}.get(version, ()):
        connection.execute(statement)


def noted_stores(connection: sqlite3.Connection) -> dict[str, NotedStore]:
    """Return the stores that an outbox of any version has noted, by name, in the order in which they were added."""
    query = _NOTED.get(_version(connection))
    rows = connection.execute(query).fetchall() if query else []
    return {name: NotedStore(role, identity, bool(incomplete)) for name, role, identity, incomplete in rows}


def pending_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many entries each store has, in an outbox of any version, in the order in which the stores came."""
    query = _PENDING.get(_version(connection))
    return dict(connection.execute(query).fetchall()) if query else {}


def pending_page(connection: sqlite3.Connection, name: str, after: int, limit: int) -> list[Entry]:
    """Return up to `limit` entries of a store, in an outbox of any version, in order, with numbers above `after`."""
    query = _REFS.get(_version(connection))
    rows = connection.execute(query, (name, after, limit)).fetchall() if query else []
    return [Entry(seq, Ref(ref)) for seq, ref in rows]


def note_stores(connection: sqlite3.Connection, stores: Iterable[SessionStore]) -> None:
    """Note the names of the stores of a session, with their current roles and identities.

    A sync store that was not one of the known ones may lack blobs that they have, so it is incomplete. So is a known
    one that has no part in this session.
    """
    session = {store.name: store for store in stores}
    known_sync = [name for (name,) in connection.execute("SELECT name FROM stores WHERE role = 'sync'").fetchall()]
    for name in known_sync:
        if name not in session:
            connection.execute("UPDATE stores SET incomplete = 1 WHERE name = ?", (name,))
    for name, role, identity in session.values():
        connection.execute(
            "INSERT INTO stores (name, role, identity, incomplete) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET role = excluded.role, identity = excluded.identity,"
            " incomplete = incomplete OR (excluded.incomplete AND role IS NOT 'sync')",
            (name, role, identity, role == "sync" and bool(known_sync)),
        )


def note_in_doubt(connection: sqlite3.Connection) -> None:
    """Note for this session and all later ones which entries belong to puts that may never have returned.

    The watermark moves on from here, so the range of numbers above the one on the disk is kept in another table.
    """
    connection.execute(
        "DELETE FROM in_doubt WHERE NOT EXISTS"
        " (SELECT 1 FROM stores JOIN entries ON store = id WHERE seq >= first AND seq < after)"
    )
    connection.execute(
        "INSERT INTO in_doubt SELECT watermark, last + 1 FROM meta,"
        " (SELECT max(seq) AS last FROM stores JOIN entries ON store = id) WHERE last >= watermark"
    )
    connection.execute("UPDATE meta SET watermark = max(watermark, (SELECT ifnull(max(seq), 0) + 1 FROM entries))")


def read_state(connection: sqlite3.Connection) -> OutboxState:
    """Return the state with which a session begins."""
    ids: dict[str, int] = dict(connection.execute("SELECT name, id FROM stores ORDER BY id").fetchall())
    ((next_seq,),) = connection.execute("SELECT watermark FROM meta").fetchall()
    in_doubt = connection.execute("SELECT first, after FROM in_doubt").fetchall()
    return OutboxState(ids, pending_counts(connection), next_seq, [range(*numbers) for numbers in in_doubt])


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    assert isinstance(version, int)
    return version
