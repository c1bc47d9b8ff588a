"""The tables of a SQLite store: its blobs, its identity, and the mark of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..._async.outbox_format import APPLICATION_ID
from ..._errors import ReplicaError
from ..._identity import is_identity, new_identity

if TYPE_CHECKING:
    import sqlite3

BLOBS: Final = "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)"
IDENTITY: Final = "CREATE TABLE store_identity (identity TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"
SESSION: Final = "CREATE TABLE store_session (mark TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"

_COLUMNS: Final = {  # name, type, NOT NULL, place in the primary key
    "blobs": [("ref", "BLOB", 1, 1), ("data", "BLOB", 1, 0)],
    "store_identity": [("identity", "TEXT", 0, 1), ("one", "INTEGER", 0, 0)],
    "store_session": [("mark", "TEXT", 0, 1), ("one", "INTEGER", 0, 0)],
}


def has_blobs(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether the table of the blobs is there.

    Raises:
      ReplicaError: if the database does not belong to a store.

    """
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    if application == APPLICATION_ID:
        raise ReplicaError(f"the database is an outbox and not a store: name another file: {path}")
    return _is_there("blobs", BLOBS, connection, path)


def read_identity(connection: sqlite3.Connection, path: str) -> str | None:
    """Return the identity of the store, or None if it has no identity yet.

    Raises:
      ReplicaError: if the table of the identity holds something else.

    """
    return _read("store_identity", IDENTITY, connection, path)


def make_identity(connection: sqlite3.Connection, path: str) -> str:
    """Return the identity of the store, and create it first if it is missing. Call it in a transaction.

    Raises:
      ReplicaError: if the table of the identity holds something else.

    """
    identity = read_identity(connection, path)
    return _keep("store_identity", IDENTITY, new_identity(), connection, path) if identity is None else identity


def renew_identity(connection: sqlite3.Connection, path: str) -> str:
    """Give the store another identity, without the mark of a session, and return it. Call it in a transaction.

    Raises:
      ReplicaError: if the table of either holds something else.

    """
    read_identity(connection, path)
    if read_mark(connection, path) is not None:
        connection.execute("DELETE FROM store_session")
        if read_mark(connection, path) is not None:  # another program's trigger
            raise ReplicaError(f"{path}: the table store_session does not delete its rows: look at its triggers")
    return _keep("store_identity", IDENTITY, new_identity(), connection, path)


def read_mark(connection: sqlite3.Connection, path: str) -> str | None:
    """Return the mark of the last session, or None if there is no mark.

    Raises:
      ReplicaError: if the table of the mark holds something else.

    """
    return _read("store_session", SESSION, connection, path)


def keep_mark(mark: str, connection: sqlite3.Connection, path: str) -> None:
    """Keep the mark of a session instead of the last one. Call it in a transaction.

    Raises:
      ReplicaError: if the table of the mark holds something else.

    """
    read_mark(connection, path)
    _keep("store_session", SESSION, mark, connection, path)


def _is_there(table: str, schema: str, connection: sqlite3.Connection, path: str) -> bool:
    columns = connection.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)).fetchall()
    if columns and columns != _COLUMNS[table]:
        raise ReplicaError(f"the database has another table {table} than a store's, which is {schema}: {path}")
    return bool(columns)


def _read(table: str, schema: str, connection: sqlite3.Connection, path: str) -> str | None:
    if not _is_there(table, schema, connection, path):
        return None
    rows = connection.execute(f"SELECT substr({_COLUMNS[table][0][0]}, 1, 80) FROM {table} LIMIT 2").fetchall()  # noqa: S608  (names of ours)
    if not rows:
        return None
    if len(rows) > 1 or not is_identity(rows[0][0]):
        found = f"{len(rows)} rows" if len(rows) > 1 else repr(rows[0][0])
        raise ReplicaError(
            f"{path}: the table {table} has {found}, where one row of 32 lowercase hex digits should be: restore it"
        )
    return str(rows[0][0])


def _keep(table: str, schema: str, value: str, connection: sqlite3.Connection, path: str) -> str:
    column = _COLUMNS[table][0][0]
    if not _is_there(table, schema, connection, path):
        connection.execute(schema)
    connection.execute(
        f"INSERT INTO {table} ({column}, one) VALUES (?, 1)"  # noqa: S608  (names of ours)
        f" ON CONFLICT (one) DO UPDATE SET {column} = excluded.{column}",
        (value,),
    )
    if _read(table, schema, connection, path) != value:  # another program's trigger
        raise ReplicaError(f"{path}: the table {table} does not keep the rows written to it: look at its triggers")
    return value
