"""The tables in which a PostgreSQL store keeps its identity and the mark of a session."""

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

# Read one digit more than an identity has, to recognise a longer text without reading all of it.
_READ_IDENTITY: Final = "SELECT left(identity::text, 33) FROM store_identity LIMIT 2"
_READ_MARK: Final = "SELECT left(mark::text, 33) FROM store_session LIMIT 2"


def read_identity(connection: psycopg.Connection, name: str) -> str | None:
    """Return the identity of the store, or None if it has no identity.

    Raises:
      ReplicaError: if the table of the identity holds something else.

    """
    return _read(connection, _READ_IDENTITY, f"table store_identity of {name}", IDENTITY)


def make_identity(connection: psycopg.Connection, identity: str) -> None:
    """Give the store an identity, unless it has one. Only one of several processes succeeds.

    Every user may read it, because it is not a secret, and a user who may only read the blobs has to recognise the
    store, too.
    """
    with suppress(*FASTER), connection.transaction():
        connection.execute(IDENTITY)
        connection.execute("GRANT SELECT ON store_identity TO PUBLIC")
    connection.execute("INSERT INTO store_identity (identity, one) VALUES (%s, 1) ON CONFLICT DO NOTHING", (identity,))


def read_mark(connection: psycopg.Connection, name: str) -> str | None:
    """Return the mark of the last session, or None if there is no mark.

    Raises:
      ReplicaError: if the table of the mark holds something else.

    """
    return _read(connection, _READ_MARK, f"table store_session of {name}", SESSION)


def keep_mark(mark: str, connection: psycopg.Connection, name: str) -> None:
    """Keep the mark of a session instead of the last one.

    Raises:
      ReplicaError: if the table of the mark holds something else, or does not keep the mark.

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
        raise ReplicaError(
            f"the table store_session does not keep the rows written to it: {name}: look at its triggers"
        )


def renew(identity: str, connection: psycopg.Connection) -> None:
    """Give a store that has an identity a new one, and forget the mark of the last session. Do both or nothing."""
    with connection.transaction():
        connection.execute("UPDATE store_identity SET identity = %s", (identity,))
        if connection.execute("SELECT to_regclass('store_session') IS NOT NULL").fetchall() == [(True,)]:
            connection.execute("DELETE FROM store_session")


def _read(connection: psycopg.Connection, query: str, table: str, schema: str) -> str | None:
    try:
        rows = connection.execute(query.encode()).fetchall()
    except errors.UndefinedTable:
        return None
    except errors.UndefinedColumn:
        raise ReplicaError(f"the {table} is not that of a store, which is {schema}") from None
    if not rows:
        return None
    if len(rows) > 1 or not is_identity(rows[0][0]):
        found = "several rows" if len(rows) > 1 else repr(rows[0][0])
        raise ReplicaError(f"the {table} has {found}, where one row of 32 lowercase hex digits should be: restore it")
    return str(rows[0][0])
