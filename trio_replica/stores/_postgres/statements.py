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
"""Bytes of all blobs in one answer, but for a blob that is larger alone. An answer is in memory twice for a moment."""

PAGE_ROWS: Final = 10_000
"""Refs in one page at most, whatever is asked for: 320 kB."""

ROW_OVERHEAD: Final = 64
"""The most bytes that a row takes beside the data: the 32 of the ref, and the lengths and headers of both."""

# The version of the definition of the table that this very statement means. It is looked up once a statement, and costs
# nothing for each row. Nothing goes to another version than the one that was checked.
_VERSION: Final = "(SELECT lpad(xmin::text, 10, '0') FROM pg_class WHERE oid = 'blobs'::regclass)"

# One statement, so one round trip, and a transaction of its own. Unlike in FROM, unnest makes no copy of all rows here.
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

# The size of a blob is read without the blob, also where it is compressed.
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
    """Insert those of different blobs that are not there, in one transaction, and return their refs.

    None are inserted if the table has another version. They go in the order of their refs: two transactions that put
    the same blobs in different orders would each wait for the other.
    """
    parts = list(parts_of(sorted(blobs, key=lambda blob: blob.ref), len))
    if len(parts) == 1:
        return {*_insert(parts[0], version, connection)}
    with connection.transaction():
        return {ref for part in parts for ref in _insert(part, version, connection)}


def parts_of(
    items: Iterable[ItemT], size_of: Callable[[ItemT], int], bytes_at_once: int = BYTES_AT_ONCE
) -> Iterator[list[ItemT]]:
    """Cut `items`, if there are some, in parts whose rows have up to so many bytes, or of one larger item."""
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
    """Return the bytes of each of the blobs that are there, and if `hashed` whether its bytes are right.

    The bytes are not read, unless they are hashed. Returns also the versions of the table.
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
    """Write a row whatever is there, and return whether one was written: none if the table has another version."""
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
    """Return those of the blobs that are there.

    No answer has more than 64 MiB, unless it has one blob. The first has those that are no larger than their share of
    that; only if there are others, their sizes are asked for, and then these.

    Raises:
      BlobTooLargeError: if the server says that one has more than `max_memory` bytes, before it sends that one.

    """
    found: dict[Ref, bytes] = {}
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        share = max_memory if len(some) == 1 else min(max_memory, answer_bytes // len(some))
        larger = _select(some, share, found, connection)
        while larger:  # once; again for those that another process has made larger in the meantime
            sizes = {ref: size for ref, (size, _) in examine(larger, connection, hashed=False)[0].items()}
            if (largest := max(sizes.values(), default=0)) > max_memory:
                raise BlobTooLargeError(name, largest, max_memory)
            parts = parts_of(sizes, sizes.__getitem__, answer_bytes)
            larger = [ref for part in parts for ref in _select(part, max_memory, found, connection)]
    return found


def _select(refs: list[Ref], most: int, found: dict[Ref, bytes], connection: psycopg.Connection) -> list[Ref]:
    """Add those of the blobs that have up to `most` bytes to `found`, and return the refs of those that have more."""
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
    """Return the next refs. A ref that is none is read only as far as it takes to see that."""
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT substr(ref, 1, 33) FROM blobs WHERE ref > %b ORDER BY ref LIMIT %s",
        (after, min(limit, PAGE_ROWS)),
        binary=True,
    ).fetchall()
    try:
        return [Ref(ref) for (ref,) in rows]
    except ValueError:
        raise ReplicaError(f"the table blobs has a ref that is not of 32 bytes: {name}: delete its row") from None
