"""The statements of a SQLite store. All of them block, and run in the store's threads, on its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from ..._errors import ReplicaError
from ..._store import PutResult

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

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


@final
class Insertion:
    """A request to insert a row, unless the ref already has one."""

    __slots__ = ("blob", "was_there")

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self.was_there = False
        """Whether no row was inserted. Then `check_there` has to be called before the transaction is committed."""

    def __call__(self, connection: sqlite3.Connection) -> PutResult:
        """Insert the row.

        Raises:
          ReplicaError: if another program's trigger has changed or removed the row.

        """
        blob = self.blob
        before = connection.total_changes
        count = connection.execute(_INSERT_ONE, (blob.ref, blob.data)).rowcount
        if connection.total_changes - before != count:
            _check_kept(blob, connection)
        self.was_there = count == 0
        return PutResult(blob.ref, count == 1)


@final
class Synced:
    """A request whose changes are on the disk when it returns, even if the store was opened with ``durable=False``."""

    __slots__ = ("_request",)

    def __init__(self, request: Callable[[sqlite3.Connection], Any]) -> None:
        self._request = request

    def __call__(self, connection: sqlite3.Connection) -> Any:
        return self._request(connection)


def check_there(blobs: list[Blob], connection: sqlite3.Connection) -> None:
    """Check that each blob has a row with the right number of bytes. SQLite has only said that it inserted no row.

    Another program's trigger or constraint can keep a row from being inserted without an error.

    Raises:
      ReplicaError: if a row is missing, or has another size.

    """
    if blobs:
        _check_sizes(blobs, _sizes([blob.ref for blob in blobs], connection))


def insert_all(blobs: list[Blob], connection: sqlite3.Connection) -> list[PutResult]:
    """Insert a row for each ref that lacks one: see `Insertion`."""
    there = _sizes([blob.ref for blob in blobs], connection)
    distinct = dict.fromkeys(blobs)
    _check_sizes([blob for blob in distinct if blob.ref in there], there)
    new = [blob for blob in distinct if blob.ref not in there]
    first = 0
    while first < len(new):
        count = 1
        while (
            2 * count <= min(ROWS_AT_ONCE, len(new) - first)
            and sum(map(len, new[first : first + 2 * count])) <= BYTES_AT_ONCE
        ):
            count *= 2
        _insert_new(new[first : first + count], connection)
        first += count
    added = {blob.ref for blob in new}
    results = []
    for blob in blobs:
        results.append(PutResult(blob.ref, blob.ref in added))
        added.discard(blob.ref)
    return results


def _insert_new(blobs: list[Blob], connection: sqlite3.Connection) -> None:
    """Insert rows of refs that have no row yet."""
    before = connection.total_changes
    values = [value for blob in blobs for value in (blob.ref, blob.data)]
    count = connection.execute(_insertion(len(blobs)), values).rowcount
    if count != len(blobs) or connection.total_changes - before != count:
        for blob in blobs:
            _check_kept(blob, connection)


def _check_sizes(blobs: list[Blob], sizes: dict[bytes, int]) -> None:
    for blob in blobs:
        size = sizes.get(blob.ref)
        if size is None:
            raise ReplicaError(_NOT_KEPT.format(blob.ref))
        if size != len(blob.data):
            raise ReplicaError(
                f"the row of {blob.ref} is damaged, because it does not hold {len(blob)} bytes: run a scrub with repair"
            )


def _check_kept(blob: Blob, connection: sqlite3.Connection) -> None:
    """Check that a row is as it was written, after SQLite has counted more or fewer changes than were written."""
    row = connection.execute("SELECT data = ? FROM blobs WHERE ref = ?", (blob.data, blob.ref)).fetchone()
    if row is None:
        raise ReplicaError(_NOT_KEPT.format(blob.ref))
    if row != (1,):
        raise ReplicaError(f"the row of {blob.ref} holds other bytes than were put: look at the triggers of the table")


_NOT_KEPT: Final = "the database does not keep the row of {}: look at the triggers and constraints of the table blobs"


def _sizes(refs: list[Ref], connection: sqlite3.Connection) -> dict[bytes, int]:
    """Return the sizes of the blobs that are there, without reading them; -1 if the value is not a BLOB."""
    return dict(select_rows("ref, iif(typeof(data) = 'blob', length(data), -1)", refs, connection))


def select_rows(columns: str, refs: list[Ref], connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Return `columns` of the blobs that are there."""
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        # The statements for 1, 2, 4, … refs are prepared once each. The other places are NULL, which equals nothing.
        places = 1 << (len(some) - 1).bit_length()
        query = f"SELECT {columns} FROM blobs WHERE ref IN ({', '.join('?' * places)})"  # noqa: S608  (question marks)
        yield from connection.execute(query, some + [None] * (places - len(some))).fetchall()


def replace(blob: Blob, connection: sqlite3.Connection) -> None:
    """Write a row over any that is there."""
    connection.execute(
        "INSERT INTO blobs (ref, data) VALUES (?, ?) ON CONFLICT (ref) DO UPDATE SET data = excluded.data",
        (blob.ref, blob.data),
    )
    _check_kept(blob, connection)


def delete(ref: Ref, connection: sqlite3.Connection) -> bool:
    """Delete a row, and return whether there was one.

    Raises:
      ReplicaError: if the row is still there afterwards.

    """
    was_there = connection.execute("DELETE FROM blobs WHERE ref = ?", (ref,)).rowcount == 1
    if contains(ref, connection):
        raise ReplicaError(f"the database does not delete the row of {ref}: look at the triggers of the table blobs")
    return was_there


def contains(ref: Ref, connection: sqlite3.Connection) -> bool:
    """Return whether there is a row, and not only an entry in the index."""
    return connection.execute("SELECT length(data) FROM blobs WHERE ref = ?", (ref,)).fetchone() is not None


def write_nothing(connection: sqlite3.Connection) -> None:
    """Let the transaction write an unchanged page, so that its COMMIT syncs the log.

    Otherwise the COMMIT of a transaction that found all its blobs there already would sync nothing. But the blobs may
    be those of a process that syncs less.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")
