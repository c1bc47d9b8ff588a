"""The statements of a PostgreSQL store. All of them block, and run in the store's threads, on its connections."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from ..._blob import Ref
from ..._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

    from ..._blob import Blob

REFS_AT_ONCE: Final = 256
"""Refs in one SELECT, as many as a batch has calls. Its result is in memory twice for a moment."""

BYTES_AT_ONCE: Final = 1024 * 1024
"""Bytes in one INSERT of many rows. More make the server copy more. Puts of 64 KiB were 1.4 times as fast with 1 MiB
as with 13 MiB. Blobs of this size are faster alone."""

ROW_OVERHEAD: Final = 64
"""The most bytes that a row takes beside the data: the 32 of the ref, and the lengths and headers of both."""

# This is one statement, so one round trip and a transaction of its own. Here, unlike in FROM, unnest makes no copy of
# all rows.
_INSERT_ALL: Final = (
    "INSERT INTO blobs (ref, data) SELECT unnest(%b::bytea[]), unnest(%b::bytea[]) "
    "ON CONFLICT (ref) DO NOTHING RETURNING ref"
)
_INSERT_ONE: Final = "INSERT INTO blobs (ref, data) VALUES (%b, %b) ON CONFLICT (ref) DO NOTHING RETURNING ref"

_KEEP: Final = (
    "INSERT INTO damaged_blobs (ref, data) SELECT ref, data FROM blobs WHERE ref = %(ref)b AND NOT EXISTS "
    "(SELECT FROM damaged_blobs AS old WHERE old.ref = blobs.ref AND old.data = blobs.data)"
)


def insert_all(blobs: Iterable[Blob], connection: psycopg.Connection) -> set[Ref]:
    """Insert the missing ones of different blobs in one transaction, and return their refs.

    They go in the order of their refs. Otherwise two transactions that put the same blobs in different orders would
    wait for each other.
    """
    parts = list(parts_of(sorted(blobs, key=lambda blob: blob.ref)))
    if len(parts) == 1:
        return {*_insert(parts[0], connection)}
    with connection.transaction():
        return {ref for part in parts for ref in _insert(part, connection)}


def parts_of(blobs: list[Blob], bytes_at_once: int = BYTES_AT_ONCE) -> Iterator[list[Blob]]:
    """Divide `blobs`, of which there is at least one, into parts of up to `bytes_at_once`, or of one larger blob."""
    part: list[Blob] = []
    size = 0
    for blob in blobs:
        size += len(blob) + ROW_OVERHEAD
        if part and size > bytes_at_once:
            yield part
            part, size = [], len(blob) + ROW_OVERHEAD
        part.append(blob)
    yield part


def _insert(blobs: list[Blob], connection: psycopg.Connection) -> Iterator[Ref]:
    if len(blobs) == 1:
        rows = connection.execute(_INSERT_ONE, (blobs[0].ref, blobs[0].data), binary=True)
    else:
        rows = connection.execute(
            _INSERT_ALL, ([blob.ref for blob in blobs], [blob.data for blob in blobs]), binary=True
        )
    return (Ref(ref) for (ref,) in rows.fetchall())


def flush(connection: psycopg.Connection) -> None:
    """Commit something, so that earlier commits of other sessions are on the disk too.

    Those may have used synchronous_commit = off, and a transaction that writes nothing syncs nothing.
    """
    connection.execute("SELECT pg_logical_emit_message(true, 'trio_replica', '')")


def replace(blob: Blob, connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO blobs (ref, data) VALUES (%b, %b) ON CONFLICT (ref) DO UPDATE SET data = excluded.data",
        (blob.ref, blob.data),
    )


def set_aside(ref: Ref, connection: psycopg.Connection) -> bool:
    """Copy the row of a blob to the table ``damaged_blobs``, once for the same bytes.

    Return whether it was copied now.
    """
    return connection.execute(_KEEP, {"ref": ref}).rowcount == 1


def delete(ref: Ref, connection: psycopg.Connection) -> bool:
    return connection.execute("DELETE FROM blobs WHERE ref = %b", (ref,)).rowcount == 1


def select(refs: list[Ref], connection: psycopg.Connection) -> dict[Ref, bytes]:
    """Return the blobs that are there."""
    found: dict[Ref, bytes] = {}
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        rows = connection.execute("SELECT ref, data FROM blobs WHERE ref = ANY (%b::bytea[])", (some,), binary=True)
        found.update((Ref(ref), data) for ref, data in rows.fetchall())
    return found


def contains(ref: Ref, connection: psycopg.Connection) -> bool:
    return connection.execute("SELECT FROM blobs WHERE ref = %b", (ref,)).rowcount == 1


def list_page(name: str, after: Ref, limit: int, connection: psycopg.Connection) -> list[Ref]:
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT ref FROM blobs WHERE ref > %b ORDER BY ref LIMIT %s", (after, min(limit, sys.maxsize)), binary=True
    ).fetchall()
    try:
        return [Ref(ref) for (ref,) in rows]
    except ValueError as error:
        raise ReplicaError(f"{error}: {name}") from None
