"""The table of a PostgreSQL store: creating it, and checking it before it is trusted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from psycopg import errors

from ..._errors import ReplicaError

if TYPE_CHECKING:
    import psycopg

SCHEMA: Final = "CREATE TABLE blobs (ref BYTEA PRIMARY KEY NOT NULL, data BYTEA NOT NULL)"

_DAMAGED: Final = (
    "CREATE TABLE damaged_blobs (ref BYTEA NOT NULL, data BYTEA NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now())"
)

FASTER: Final = (errors.DuplicateTable, errors.DuplicateObject, errors.UniqueViolation)
"""The errors of a CREATE TABLE if another process was faster."""

# The query returns these facts about the table that `blobs` resolves to:
# - the version of its definition
# - the name and type of each column, whether it is NOT NULL, and whether it is in the primary key
# - whether the table or one below it has triggers, is not logged, or is temporary
# - the first table below it that is not a partition
# - the first rule
# - whether row security applies
_DEFINITION: Final = """
WITH RECURSIVE tree (oid) AS (
    SELECT to_regclass('blobs')::oid
    UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
), part AS (
    SELECT pg_class.* FROM pg_class JOIN tree ON pg_class.oid = tree.oid
)
SELECT lpad(t.xmin::text, 10, '0'),
       ARRAY(SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                              coalesce(a.attnum = ANY (i.indkey) AND i.indimmediate AND i.indisvalid, false))
             FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
             WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum),
       (SELECT bool_or(relhastriggers) FROM part),
       (SELECT bool_or(relpersistence = 'u') FROM part),
       (SELECT bool_or(relpersistence = 't') FROM part),
       (SELECT min(relname::text) FROM part WHERE oid <> t.oid AND NOT relispartition),
       (SELECT min(rulename::text) FROM pg_rewrite r JOIN tree ON r.ev_class = tree.oid WHERE r.ev_enabled <> 'D'),
       row_security_active(t.oid)
FROM pg_class t WHERE t.oid = to_regclass('blobs')
"""
_COLUMNS: Final = ["ref bytea t t", "data bytea t f"]


@final
@dataclass(frozen=True, slots=True)
class Table:
    """The table of a store as it was when it was last checked."""

    version: str
    """The version of its definition: 10 digits. ALTER, DROP and CREATE TABLE change it, and so does the first
    trigger."""
    has_triggers: bool
    """Whether it has triggers, those of foreign keys included. They can undo a write without an error."""


def create_table(connection: psycopg.Connection) -> None:
    """Create the table, unless it is there."""
    with suppress(*FASTER):
        connection.execute(SCHEMA)


def create_damaged_table(connection: psycopg.Connection) -> None:
    """Create the table of set-aside rows, unless it is there."""
    if connection.execute("SELECT to_regclass('damaged_blobs') IS NULL").fetchall() == [(True,)]:
        with suppress(*FASTER):
            connection.execute(_DAMAGED)


def check_table(connection: psycopg.Connection, name: str, *, durable: bool, read_only: bool) -> Table | None:
    """Return the table if it belongs to a store and can be trusted, or None if it is not there.

    Raises:
      ReplicaError: if it is another table, or can't be trusted.

    """
    rows = connection.execute(_DEFINITION).fetchall()
    if not rows:
        return None
    ((version, columns, has_triggers, is_unlogged, is_temporary, child, rule, hides_rows),) = rows
    if columns != _COLUMNS:
        raise ReplicaError(f"the database has another table blobs than a store's, which is {SCHEMA}: {name}")
    if is_temporary:
        raise ReplicaError(f"the table blobs is temporary, so it ends with the session: {name}: drop or rename it")
    if child is not None:
        raise ReplicaError(
            f"the table blobs has a child table, {child!r}, whose rows it shows as its own: {name}: "
            "ALTER TABLE … NO INHERIT blobs"
        )
    if hides_rows:
        raise ReplicaError(
            f"row security may hide rows of the table blobs from this user: {name}: "
            "ALTER ROLE … BYPASSRLS, or ALTER TABLE blobs DISABLE ROW LEVEL SECURITY"
        )
    if rule is not None and not read_only:
        raise ReplicaError(
            f"the table blobs has a rule, {rule!r}, so rows written to it may be lost: {name}: DROP RULE … ON blobs"
        )
    if durable and not read_only and is_unlogged:
        raise ReplicaError(
            f"the table blobs is UNLOGGED, so a crash of the server empties it: {name}: "
            "ALTER TABLE blobs SET LOGGED, or open the store with durable=False"
        )
    return Table(version, has_triggers)


def triggers_of(connection: psycopg.Connection) -> str:
    """Return the names of the triggers that a user has made on the table, for a message."""
    rows = connection.execute(
        "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass('blobs') AND NOT tgisinternal ORDER BY 1"
    ).fetchall()
    return ", ".join(repr(name) for (name,) in rows) or "none now"
