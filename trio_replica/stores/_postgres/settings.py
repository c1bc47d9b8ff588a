"""The settings of a PostgreSQL session: those that a store depends on, and those that it sets."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from psycopg import errors

from ..._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Generator

    import psycopg

# The schema of the store is the one that `blobs` resolves to. If that table is missing, it is the schema of the table
# of the identity, which may have outlived the blobs. If both are missing, it is the schema for new tables.
_READ: Final = """
SELECT current_setting('transaction_read_only'), current_setting('fsync'), current_setting('synchronous_commit'),
       coalesce((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('blobs')),
                (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('store_identity')),
                quote_ident(current_schema()))
"""

_SET: Final = """
SELECT set_config('default_transaction_isolation', 'read committed', false),
       set_config('synchronous_commit', %s, false),
       (SELECT set_config('default_transaction_read_only', 'on', false) WHERE %s),
       set_config('search_path', coalesce(%s::text || ', pg_temp', current_setting('search_path')), false),
       set_config('row_security', 'off', false),
       (SELECT set_config(name, 'lz4', false) FROM pg_settings
        WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals))
"""
"""READ COMMITTED, because ON CONFLICT then waits for another transaction, while other levels fail.

The schema of the store is set so that no other table `blobs` is mistaken for it, whether it is temporary or appears in
the search_path. Row security is off, so that statements fail if a policy would hide rows, instead of reporting a blob
as missing. LZ4 is used if the server has it. Blobs of text were put 2.5 to 8 times as fast as with PostgreSQL's own
compression, and others at the same rate."""


@contextmanager
def durable_commits(connection: psycopg.Connection, *, durable: bool) -> Generator[None, None, None]:
    """Have the server sync the commits of the block, even if the store was opened with ``durable=False``."""
    if durable:
        yield
        return
    connection.execute("SET synchronous_commit = on")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SET synchronous_commit = off")


def set_up(connection: psycopg.Connection, name: str, schema: str | None, *, durable: bool, read_only: bool) -> str:
    """Check and change the settings of a new session, and return the store's schema, which is `schema` if given.

    Raises:
      psycopg.Error: if the server takes no writes, and the store is not read-only.
      ReplicaError: if the server can't keep a promise of durability.

    """
    ((transactions, fsync, commit, found),) = connection.execute(_READ).fetchall()
    if not read_only and transactions == "on":
        # A standby may lag behind, so even its "not found" would prove nothing.
        raise errors.ReadOnlySqlTransaction("the server is read-only: a standby, or default_transaction_read_only")
    if not read_only and durable and fsync == "off":
        raise ReplicaError(
            f"the server runs with fsync = off, so a power cut can take any blob: {name}: "
            "turn it on, or open the store with durable=False"
        )
    if not durable or commit == "off":
        commit = "on" if durable else "off"
    found = schema or found
    connection.execute(_SET, (commit, read_only, found))
    return found or ""
