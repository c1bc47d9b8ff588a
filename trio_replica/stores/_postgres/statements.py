"""The statements of a PostgreSQL store. All of them block, and run in the store's threads, on its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..._blob import Ref
from ..._errors import BlobTooLargeError, ReplicaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import psycopg

    from ..._blob import Blob

ItemT = TypeVar("ItemT")

REFS_AT_ONCE: Final = 256
"""Refs in one SELECT: as many as a batch has calls."""

BYTES_AT_ONCE: Final = 1024 * 1024
"""Bytes in one INSERT of many rows. More make the server copy more. Puts of 64 KiB were 1.4 times as fast with 1 MiB
as with 13 MiB. Blobs of this size are faster alone."""

ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all blobs in one answer, unless a single blob is larger. An answer is in memory twice for a moment."""

PAGE_ROWS: Final = 10_000
"""The most refs in one page, even if more are asked for: 320 kB."""

ROW_OVERHEAD: Final = 64
"""The most bytes that a row takes beside the data: the 32 of the ref, and the lengths and headers of both."""

# The version of the definition of the table that this very statement uses. It is looked up once a statement, and costs
# nothing for each row. Rows are written only to the version that was checked.
_VERSION: Final = "(SELECT lpad(xmin::text, 10, '0') FROM pg_class WHERE oid = 'blobs'::regclass)"

# One statement takes one round trip and is its own transaction. Unlike in FROM, unnest does not copy all rows here.
_INSERT_ALL: Final = (
    "INSERT INTO blobs (ref, data) SELECT unnest(%b::bytea[]), unnest(%b::bytea[]) "
    f"WHERE {_VERSION} = %s ON CONFLICT (ref) DO NOTHING RETURNING ref"
)
_INSERT_ONE: Final = (
    "INSERT INTO blobs (ref, data) SELECT %b::bytea, %b::bytea "
    f"WHERE {_VERSION} = %s ON CONFLICT (ref) DO NOTHING RETURNING ref"
)
_REPLACE: Final = (
    "INSERT INTO blobs (ref, data) SELECT %b::bytea, %b::bytea "
    f"WHERE {_VERSION} = %s ON CONFLICT (ref) DO UPDATE SET data = excluded.data"
)

# The size of a blob is read without the blob, even if it is compressed.
_SIZES: Final = f"SELECT ref, octet_length(data), true, {_VERSION} FROM blobs WHERE ref = ANY (%b::bytea[])"  # noqa: S608  (a constant)
_HASHES: Final = _SIZES.replace("true", "sha256(data) = ref")
_SELECT: Final = (
    "SELECT ref, CASE WHEN octet_length(data) <= %s::bigint THEN data END FROM blobs WHERE ref = ANY (%b::bytea[])"
)

_KEEP: Final = (
    "INSERT INTO damaged_blobs (ref, data) SELECT ref, data FROM blobs WHERE ref = %(ref)b AND NOT EXISTS "
    "(SELECT FROM damaged_blobs AS old WHERE old.ref = blobs.ref AND old.data = blobs.data)"
)
_IS_KEPT: Final = (
    "SELECT FROM damaged_blobs AS old JOIN blobs ON old.ref = blobs.ref AND old.data = blobs.data WHERE blobs.ref = %b"
)


def insert_all(blobs: Iterable[Blob], version: str, connection: psycopg.Connection) -> set[Ref]:
    """Insert the missing ones of several distinct blobs in one transaction, and return their refs.

    Nothing is inserted if the table has another version. Blobs are inserted in the order of their refs, because two
    transactions that put the same blobs in different orders would each wait for the other.
    """
    parts = list(parts_of(sorted(blobs, key=lambda blob: blob.ref), len))
    if len(parts) == 1:
        return {*_insert(parts[0], version, connection)}
    with connection.transaction():
        return {ref for part in parts for ref in _insert(part, version, connection)}


def parts_of(
    items: Iterable[ItemT], size_of: Callable[[ItemT], int], bytes_at_once: int = BYTES_AT_ONCE
) -> Iterator[list[ItemT]]:
    """Cut `items` into parts, each of which has rows of up to this number of bytes, or one larger item."""
    part: list[ItemT] = []
    size = 0
    for item in items:
        size += size_of(item) + ROW_OVERHEAD
        if part and size > bytes_at_once:
            yield part
            part, size = [], size_of(item) + ROW_OVERHEAD
        part.append(item)
    if part:
        yield part


def _insert(blobs: list[Blob], version: str, connection: psycopg.Connection) -> Iterator[Ref]:
    if len(blobs) == 1:
        rows = connection.execute(_INSERT_ONE, (blobs[0].ref, blobs[0].data, version), binary=True)
    else:
        rows = connection.execute(
            _INSERT_ALL, ([blob.ref for blob in blobs], [blob.data for blob in blobs], version), binary=True
        )
    return (Ref(ref) for (ref,) in rows.fetchall())


def examine(
    refs: list[Ref], connection: psycopg.Connection, *, hashed: bool
) -> tuple[dict[Ref, tuple[int, bool]], set[str]]:
    """Return the size of each blob that is there and, if `hashed`, whether its bytes are right.

    The bytes are read only if they are hashed. The versions of the table are returned, too.
    """
    found: dict[Ref, tuple[int, bool]] = {}
    versions: set[str] = set()
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        for ref, size, is_right, version in connection.execute(_HASHES if hashed else _SIZES, (some,), binary=True):
            found[Ref(ref)] = size, is_right
            versions.add(version)
    return found, versions


def flush(connection: psycopg.Connection) -> None:
    """Commit something, so that earlier commits of other sessions are on the disk too.

    Those may have used synchronous_commit = off, and a transaction that writes nothing syncs nothing.
    """
    connection.execute("SELECT pg_logical_emit_message(true, 'trio_replica', '')")


def replace(blob: Blob, version: str, connection: psycopg.Connection) -> bool:
    """Write a row over any that is there, unless the table has another version. Return whether it was written."""
    return connection.execute(_REPLACE, (blob.ref, blob.data, version)).rowcount == 1


def set_aside(ref: Ref, connection: psycopg.Connection) -> bool:
    """Copy the row of a blob to the table ``damaged_blobs``, once for the same bytes.

    Return whether it was copied now.
    """
    return connection.execute(_KEEP, {"ref": ref}).rowcount == 1


def is_set_aside(ref: Ref, connection: psycopg.Connection) -> bool:
    """Return whether the table ``damaged_blobs`` has the bytes that the row of a blob has."""
    return connection.execute(_IS_KEPT, (ref,)).rowcount > 0


def delete(ref: Ref, connection: psycopg.Connection) -> bool:
    return connection.execute("DELETE FROM blobs WHERE ref = %b", (ref,)).rowcount == 1


def select(
    refs: list[Ref],
    name: str,
    max_memory: int,
    connection: psycopg.Connection,
    *,
    answer_bytes: int = ANSWER_BYTES,
) -> dict[Ref, bytes]:
    """Return the blobs that are there.

    No answer has more than 64 MiB, unless it has only one blob. The first answer has the blobs that are no larger than
    their share of that. If there are larger ones, their sizes are asked for next, and then the blobs.

    Raises:
      BlobTooLargeError: if the server says that one has more than `max_memory` bytes. That one is not sent.

    """
    found: dict[Ref, bytes] = {}
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        share = max_memory if len(some) == 1 else min(max_memory, answer_bytes // len(some))
        larger = _select(some, share, found, connection)
        while larger:  # usually once, and again if another process has made a blob larger in the meantime
            sizes = {ref: size for ref, (size, _) in examine(larger, connection, hashed=False)[0].items()}
            if (largest := max(sizes.values(), default=0)) > max_memory:
                raise BlobTooLargeError(name, largest, max_memory)
            parts = parts_of(sizes, sizes.__getitem__, answer_bytes)
            larger = [ref for part in parts for ref in _select(part, max_memory, found, connection)]
    return found


def _select(refs: list[Ref], most: int, found: dict[Ref, bytes], connection: psycopg.Connection) -> list[Ref]:
    """Add the blobs of up to `most` bytes to `found`, and return the refs of the larger ones."""
    larger = []
    for ref, data in connection.execute(_SELECT, (most, refs), binary=True).fetchall():
        if data is None:
            larger.append(Ref(ref))
        else:
            found[Ref(ref)] = data
    return larger


def contains(ref: Ref, connection: psycopg.Connection) -> bool:
    return connection.execute("SELECT FROM blobs WHERE ref = %b", (ref,)).rowcount == 1


def list_page(name: str, after: Ref, limit: int, connection: psycopg.Connection) -> list[Ref]:
    """Return the next refs. An invalid ref is read only as far as needed to recognise it."""
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT substr(ref, 1, 33) FROM blobs WHERE ref > %b ORDER BY ref LIMIT %s",
        (after, min(limit, PAGE_ROWS)),
        binary=True,
    ).fetchall()
    try:
        return [Ref(ref) for (ref,) in rows]
    except ValueError:
        raise ReplicaError(f"the table blobs has a ref that is not of 32 bytes: {name}: delete its row") from None
