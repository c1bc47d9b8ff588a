"""The tables in which a PostgreSQL store keeps who it is, and the mark of a session."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from psycopg import errors

from ..._errors import ReplicaError
from ..._identity import is_identity
from .table import FASTER

if TYPE_CHECKING:
    import psycopg

IDENTITY: Final = "CREATE TABLE store_identity (identity TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"
SESSION: Final = "CREATE TABLE store_session (mark TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"

# One digit more than an identity has, to know that it is none; whatever stands there is not read as a whole.
_READ_IDENTITY: Final = "SELECT left(identity::text, 33) FROM store_identity LIMIT 2"
_READ_MARK: Final = "SELECT left(mark::text, 33) FROM store_session LIMIT 2"


def read_identity(connection: psycopg.Connection, name: str) -> str | None:
    """Return the identity of the store; None if it has none.

    Raises:
      ReplicaError: if there is something else where it is kept.

    """
    return _read(connection, _READ_IDENTITY, f"table store_identity of {name}", IDENTITY)


def make_identity(connection: psycopg.Connection, identity: str) -> None:
    """Give the store an identity, unless it has one. Of several processes, one does so.

    Everybody may read it, as it is no secret: a user who may only read the blobs knows the store by it, too.
    """
    with suppress(*FASTER), connection.transaction():
        connection.execute(IDENTITY)
        connection.execute("GRANT SELECT ON store_identity TO PUBLIC")
    connection.execute("INSERT INTO store_identity (identity, one) VALUES (%s, 1) ON CONFLICT DO NOTHING", (identity,))


def read_mark(connection: psycopg.Connection, name: str) -> str | None:
    """Return the mark of the last session; None if there is none.

    Raises:
      ReplicaError: if there is something else where it is kept.

    """
    return _read(connection, _READ_MARK, f"table store_session of {name}", SESSION)


def keep_mark(mark: str, connection: psycopg.Connection, name: str) -> None:
    """Keep the mark of a session instead of the last one.

    Raises:
      ReplicaError: if there is something else where it is kept, or the table does not keep it.

    """
    read_mark(connection, name)
    if connection.execute("SELECT to_regclass('store_session') IS NULL").fetchall() == [(True,)]:
        with suppress(*FASTER):
            connection.execute(SESSION)
    connection.execute(
        "INSERT INTO store_session (mark, one) VALUES (%s, 1) ON CONFLICT (one) DO UPDATE SET mark = excluded.mark",
        (mark,),
    )
    if read_mark(connection, name) != mark:
        raise ReplicaError(f"the table store_session does not keep what is written to it: {name}: look at its triggers")


def renew(identity: str, connection: psycopg.Connection) -> None:
    """Give a store that has an identity another one, and forget the mark of the last session."""
    connection.execute("UPDATE store_identity SET identity = %s", (identity,))
    if connection.execute("SELECT to_regclass('store_session') IS NOT NULL").fetchall() == [(True,)]:
        connection.execute("DELETE FROM store_session")


def _read(connection: psycopg.Connection, query: str, table: str, schema: str) -> str | None:
    try:
        rows = connection.execute(query.encode()).fetchall()
    except errors.UndefinedTable:
        return None
    except errors.UndefinedColumn:
        raise ReplicaError(f"the {table} is another than a store's, which is {schema}") from None
    if not rows:
        return None
    if len(rows) > 1 or not is_identity(rows[0][0]):
        found = "several rows" if len(rows) > 1 else repr(rows[0][0])
        raise ReplicaError(f"the {table} has {found}, where one row of 32 lowercase hex digits should be: restore it")
    return str(rows[0][0])
