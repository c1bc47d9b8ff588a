"""The statements of a SQLite store. All of them block, and run in the store's threads, on its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..._store import PutResult

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from ..._blob import Blob, Ref

REFS_AT_ONCE: Final = 256
"""Refs in one SELECT, as many as a batch has calls."""

ROWS_AT_ONCE: Final = 128
"""Rows in one INSERT of a put_many. SQLite's module releases the interpreter and takes it back for each statement, so
threads hinder each other. Two threads that put 1000 blobs of 4 KiB at once were a fifth faster with this."""

BYTES_AT_ONCE: Final = 1024 * 1024
"""Bytes in one such INSERT, because SQLite copies them, and keeps them until it runs the same one again."""


def _insertion(rows: int) -> str:
    # OR IGNORE would also ignore other violations.
    return f"INSERT INTO blobs (ref, data) VALUES {', '.join(['(?, ?)'] * rows)} ON CONFLICT (ref) DO NOTHING"  # noqa: S608  (question marks)


_INSERT_ONE: Final = _insertion(1)


def insert(blob: Blob, connection: sqlite3.Connection) -> PutResult:
    return PutResult(blob.ref, connection.execute(_INSERT_ONE, (blob.ref, blob.data)).rowcount == 1)


def insert_all(blobs: list[Blob], connection: sqlite3.Connection) -> list[PutResult]:
    there = {ref for (ref,) in select_rows("ref", [blob.ref for blob in blobs], connection)}
    new = [blob for blob in dict.fromkeys(blobs) if blob.ref not in there]
    first = 0
    while first < len(new):
        count = 1
        while (
            2 * count <= min(ROWS_AT_ONCE, len(new) - first)
            and sum(map(len, new[first : first + 2 * count])) <= BYTES_AT_ONCE
        ):
            count *= 2
        values = [value for blob in new[first : first + count] for value in (blob.ref, blob.data)]
        connection.execute(_insertion(count), values)
        first += count
    added = {blob.ref for blob in new}
    results = []
    for blob in blobs:
        results.append(PutResult(blob.ref, blob.ref in added))
        added.discard(blob.ref)
    return results


def select_rows(columns: str, refs: list[Ref], connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Return `columns` of the blobs that are there."""
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        # The statements for 1, 2, 4, … refs are prepared once each. The other places are NULL, which equals nothing.
        places = 1 << (len(some) - 1).bit_length()
        query = f"SELECT {columns} FROM blobs WHERE ref IN ({', '.join('?' * places)})"  # noqa: S608  (question marks)
        yield from connection.execute(query, some + [None] * (places - len(some))).fetchall()


def replace(blob: Blob, connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO blobs (ref, data) VALUES (?, ?) ON CONFLICT (ref) DO UPDATE SET data = excluded.data",
        (blob.ref, blob.data),
    )


def delete(ref: Ref, connection: sqlite3.Connection) -> bool:
    return connection.execute("DELETE FROM blobs WHERE ref = ?", (ref,)).rowcount == 1


def contains(ref: Ref, connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM blobs WHERE ref = ?", (ref,)).fetchone() is not None


def write_nothing(connection: sqlite3.Connection) -> None:
    """Let the transaction write an unchanged page, so that its COMMIT syncs the log.

    Otherwise the COMMIT of a transaction that found all its blobs there already would sync nothing. But the blobs may
    be those of a process that syncs less.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")
