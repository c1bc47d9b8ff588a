"""The table of a PostgreSQL store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from psycopg import errors

from ..._errors import ReplicaError

if TYPE_CHECKING:
    import psycopg

SCHEMA: Final = "CREATE TABLE blobs (ref BYTEA PRIMARY KEY NOT NULL, data BYTEA NOT NULL)"

_DAMAGED: Final = (
    "CREATE TABLE damaged_blobs (ref BYTEA NOT NULL, data BYTEA NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now())"
)

_FASTER: Final = (errors.DuplicateTable, errors.DuplicateObject, errors.UniqueViolation)
"""The errors of a CREATE TABLE if another process was faster."""

# Selects the name, the type, NOT NULL, and membership in the primary key of each column of the table `blobs`.
_COLUMNS_OF: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       coalesce(a.attnum = ANY (i.indkey) AND i.indimmediate, false)
FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = to_regclass('blobs') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_COLUMNS: Final = [("ref", "bytea", True, True), ("data", "bytea", True, False)]


def create_table(name: str, connection: psycopg.Connection, *, durable: bool) -> None:
    """Create the table, unless it is there."""
    if not _check_table(name, connection, durable=durable):
        try:
            connection.execute(SCHEMA)
        except _FASTER:
            _check_table(name, connection, durable=durable)


def create_damaged_table(connection: psycopg.Connection) -> None:
    """Create the table of set-aside rows, unless it is there."""
    if connection.execute("SELECT to_regclass('damaged_blobs') IS NULL").fetchall() == [(True,)]:
        with suppress(*_FASTER):
            connection.execute(_DAMAGED)


def _check_table(name: str, connection: psycopg.Connection, *, durable: bool) -> bool:
    """Return whether the table exists, and check that it is a store's."""
    columns = connection.execute(_COLUMNS_OF).fetchall()
    if not columns:
        return False
    if columns != _COLUMNS:
        raise ReplicaError(f"the database has another table blobs than a store's, which is {SCHEMA}: {name}")
    ((persistence,),) = connection.execute(
        "SELECT relpersistence::text FROM pg_class WHERE oid = to_regclass('blobs')"
    ).fetchall()
    if durable and persistence == "u":
        raise ReplicaError(
            f"the table blobs is UNLOGGED, so a crash of the server empties it: {name}: "
            "ALTER TABLE blobs SET LOGGED, or open the store with durable=False"
        )
    return True
