"""The check of a SQLite store, and its repair. All functions block, and run in the store's threads.

A flipped bit in the index of the refs makes a row invisible. Then no get finds it, no listing shows it, and SQLite does
not notice. So the check looks up every row of the table in the index, one by one.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from ..._blob import Ref, sha256
from ..._deletable import Integrity
from ..._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBLEMS: Final = 20
"""The number of lines of SQLite's own check that are kept."""

HIDDEN: Final = 10_000
"""The number of hidden refs that are kept, about 1 MB."""

ROWS_AT_ONCE: Final = 10_000
"""Rows that one statement looks up in the index. This takes about 10 ms, after which a check can be cancelled."""

_DAMAGED: Final = "CREATE TABLE IF NOT EXISTS damaged_blobs (ref BLOB NOT NULL, data BLOB NOT NULL, at TEXT NOT NULL)"

# The same bytes are kept only once, because this may be repeated.
_KEEP: Final = """
INSERT INTO damaged_blobs SELECT ref, data, strftime('%Y-%m-%dT%H:%M:%SZ') FROM blobs WHERE {}
AND NOT EXISTS (SELECT 1 FROM damaged_blobs AS old WHERE old.ref = blobs.ref AND old.data = blobs.data)
"""

_IS_KEPT: Final = """
SELECT EXISTS (SELECT 1 FROM damaged_blobs AS old WHERE old.ref = blobs.ref AND old.data = blobs.data)
FROM blobs WHERE {}
"""


class Twins(NamedTuple):
    """Two rows of one blob, which was put again while its row was hidden."""

    hidden: int
    """The number of the row that is good and hidden."""
    shown: int
    """The number of the other row, which the index shows."""


class _Row(NamedTuple):
    rowid: int
    ref: Ref


def check_integrity(
    connection: sqlite3.Connection, *, problems: int = PROBLEMS, hidden: int = HIDDEN, rows_at_once: int = ROWS_AT_ONCE
) -> Integrity:
    """Return the messages of SQLite's own check, and the refs of the rows that the index does not show.

    Memory is bounded. The second part consists of short statements.

    Args:
      connection: a connection to the database.
      problems: the most lines of SQLite's own check to return.
      hidden: the most refs to return. All are counted.
      rows_at_once: the number of rows that one of the short statements looks up.

    """
    lines: list[str] = []
    refs: list[Ref] = []
    count = 0
    try:
        for (text,) in connection.execute(f"PRAGMA integrity_check({problems})"):
            lines += [line for line in text.splitlines() if line not in {"ok", "*** in database main ***"}]
        for row in _hidden_rows(connection, rows_at_once):
            count += 1
            if count <= hidden:
                refs.append(row.ref)
    except sqlite3.DatabaseError as error:  # it is too damaged to be read through
        if _primary(error) not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise
        lines.append(str(error))
    return Integrity(tuple(lines[:problems]), tuple(refs), count)


def find_twins(connection: sqlite3.Connection) -> list[Twins]:
    """Return the rows that can't both be in a new index, after checking that a new index would lose nothing else.

    This is not part of the transaction that rebuilds the index, because SQLite can't rebuild it after meeting a damaged
    page in the same transaction.

    Raises:
      sqlite3.Error: if the table is too damaged.
      ReplicaError: if the table is damaged where the index may be right.

    """
    index = _index(connection)
    if index is None:
        return []
    (rows,) = connection.execute("SELECT count(*) FROM blobs NOT INDEXED").fetchone()
    if _entries(index, connection) > rows:
        raise ReplicaError("the table has lost rows that its index still names, so the index is left as it is")
    twins: list[Twins] = []
    for row in _hidden_rows_found(connection):
        (data,) = connection.execute("SELECT data FROM blobs NOT INDEXED WHERE rowid = ?", (row.rowid,)).fetchone()
        if not isinstance(data, bytes) or sha256(data) != row.ref:
            raise ReplicaError(
                f"row {row.rowid} of the table is itself damaged, so the index, which may be right, is left as it is"
            )
        shown = connection.execute("SELECT rowid FROM blobs WHERE ref = ?", (row.ref,)).fetchone()
        if shown is not None:
            twins.append(Twins(row.rowid, *shown))
    return twins


def repair_integrity(twins: list[Twins], connection: sqlite3.Connection) -> None:
    """Rebuild the index from the table, and for that remove the second row of each of `twins`. Do all or nothing.

    Raises:
      sqlite3.Error: if the table or the index is too damaged, or there are twins that were not found.
      ReplicaError: if the twins have changed since they were found.

    """
    connection.execute("SAVEPOINT repair")
    try:
        for good, shown in twins:
            _remove_twin(good, shown, connection)
        connection.execute("REINDEX blobs")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have undone all of it
            connection.execute("ROLLBACK TO repair")
            connection.execute("RELEASE repair")
        raise
    connection.execute("RELEASE repair")


def set_aside(ref: Ref, connection: sqlite3.Connection) -> bool:
    """Copy the row of a blob to the table ``damaged_blobs``. Return whether there is a row."""
    return _keep("blobs.ref = ?", ref, connection)


def _remove_twin(good: int, shown: int, connection: sqlite3.Connection) -> None:
    """Remove the shown row of a blob that has a good hidden one. If they differ, set the removed row aside."""
    data = connection.execute(
        "SELECT a.data = b.data FROM blobs AS a NOT INDEXED, blobs AS b NOT INDEXED "
        "WHERE a.rowid = ? AND b.rowid = ? AND a.ref = b.ref",
        (good, shown),
    ).fetchone()
    if data is None:
        raise ReplicaError("the table has changed in the meantime: try again")
    if not data[0]:
        _keep("blobs.rowid = ?", shown, connection)
    connection.execute("DELETE FROM blobs WHERE rowid = ?", (shown,))


def _keep(which: str, value: Ref | int, connection: sqlite3.Connection) -> bool:
    """Copy a row to the table ``damaged_blobs``, and return whether there is one."""
    if connection.execute(f"SELECT 1 FROM blobs WHERE {which}", (value,)).fetchone() is None:  # noqa: S608  (ours)
        return False
    connection.execute(_DAMAGED)
    connection.execute(_KEEP.format(which), (value,))
    if connection.execute(_IS_KEPT.format(which), (value,)).fetchone() != (1,):
        raise ReplicaError("the table damaged_blobs does not keep the rows written to it: look at its triggers")
    return True


def _hidden_rows(connection: sqlite3.Connection, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[_Row]:
    """Yield the rows of the table that the index does not show."""
    index = _index(connection)
    first: int | None = None
    while index is not None:
        # This selects the first row and the last row to look up now, from the table and not from the index.
        start = "" if first is None else f"WHERE rowid > {first}"
        low, high = connection.execute(
            f"SELECT min(rowid), max(rowid) FROM (SELECT rowid FROM blobs NOT INDEXED {start} ORDER BY rowid LIMIT ?)",  # noqa: S608  (a number)
            (rows_at_once,),
        ).fetchone()
        if low is None:
            return
        yield from [
            _Row(rowid, Ref(ref))
            for rowid, ref in connection.execute(
                f"SELECT rowid, ref FROM blobs AS row NOT INDEXED WHERE rowid BETWEEN ? AND ? "  # noqa: S608  (a name of SQLite's own)
                f"AND typeof(ref) = 'blob' AND length(ref) = 32 AND NOT EXISTS (SELECT 1 FROM blobs AS entry "
                f'INDEXED BY "{index}" WHERE entry.ref = row.ref AND entry.rowid = row.rowid)',
                (low, high),
            ).fetchall()
        ]
        first = high


def _hidden_rows_found(connection: sqlite3.Connection) -> Iterator[_Row]:
    """Yield the same rows as `_hidden_rows`, as far as the index can be searched. Beyond, it shows no row."""
    try:
        yield from _hidden_rows(connection)
    except sqlite3.DatabaseError as error:  # if the table is damaged instead, REINDEX fails
        if _primary(error) != sqlite3.SQLITE_CORRUPT:
            raise


def _index(connection: sqlite3.Connection) -> str | None:
    """Return the name of the index of the refs, or None if another program made the table as an index itself."""
    row = connection.execute(
        "SELECT name FROM pragma_index_list('blobs') JOIN sqlite_master USING (name) WHERE origin = 'pk'"
    ).fetchone()
    return None if row is None else str(row[0])


def _entries(index: str, connection: sqlite3.Connection) -> int:
    """Return how many rows the index has, or 0 if it is too damaged to be counted. Then replacing it loses nothing."""
    try:
        (entries,) = connection.execute(f'SELECT count(*) FROM blobs INDEXED BY "{index}"').fetchone()  # noqa: S608  (a name of SQLite's own)
    except sqlite3.DatabaseError as error:
        if _primary(error) != sqlite3.SQLITE_CORRUPT:
            raise
        return 0
    return int(entries)


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary code
