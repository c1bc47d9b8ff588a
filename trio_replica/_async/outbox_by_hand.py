"""An outbox that no replica uses, to be inspected and changed by hand. All functions block."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, final

from .._errors import ReplicaError
from .outbox_connection import connect, explaining, transaction
from .outbox_format import bring_up_to_date, noted_stores, pending_counts, pending_page

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from .._blob import Ref
    from .outbox_connection import OutboxConnection
    from .storage import NotedStore

_REFS_AT_ONCE: Final = 1000
"""Refs that a listing holds in memory."""


@final
class OutboxFile:
    """An outbox that no replica uses, to be inspected and changed by hand."""

    def __init__(self, path: str, connection: OutboxConnection) -> None:
        self._path = path
        self._connection = connection

    def pending(self) -> Mapping[str, int]:
        """Return the number of entries of each store by its name, in the order in which the names were added."""
        with self._usable() as sql:
            return pending_counts(sql)

    def noted(self) -> Mapping[str, NotedStore]:
        """Return the noted facts of each store by its name, in the order in which the names were added."""
        with self._usable() as sql:
            return noted_stores(sql)

    def refs(self, name: str, *, at_once: int = _REFS_AT_ONCE) -> Iterator[Ref]:
        """Return the refs that are pending for a store, one for each put, in the order of the puts."""
        after = 0
        while True:
            with self._usable() as sql:
                entries = pending_page(sql, name, after, at_once)
            if not entries:
                return
            for entry in entries:
                yield entry.ref
            after = entries[-1].seq

    def forget(self, name: str, ref: Ref | None = None) -> int:
        """Drop all entries of a store, or those of one ref. Returns their number."""
        with self._changed() as sql:
            return sql.execute(
                "DELETE FROM entries WHERE store = (SELECT id FROM stores WHERE name = ?) AND ref = ifnull(?, ref)",
                (name, ref),
            ).rowcount

    def forget_store(self, name: str) -> int:
        """Drop all entries of a store, with its name and its identity. Returns the number of the entries."""
        with self._changed() as sql:
            sql.execute("DELETE FROM deferred WHERE store = (SELECT id FROM stores WHERE name = ?)", (name,))
            dropped = sql.execute("DELETE FROM entries WHERE store = (SELECT id FROM stores WHERE name = ?)", (name,))
            sql.execute("DELETE FROM stores WHERE name = ?", (name,))
            return dropped.rowcount

    def complete(self, names: Iterable[str]) -> None:
        """Note that stores have every blob that the others have, so they are not incomplete any more."""
        with self._changed() as sql:
            for name in names:
                sql.execute("UPDATE stores SET incomplete = 0 WHERE name = ?", (name,))

    def accept(self, name: str, identity: str | None) -> None:
        """Note the identity of another store under a name, and that it is incomplete.

        Any other name that had this identity loses it, so the next store by that name is incomplete, too.
        """
        with self._changed() as sql:
            sql.execute(
                "UPDATE stores SET identity = NULL, incomplete = 1 WHERE identity = ? AND name != ?", (identity, name)
            )
            sql.execute(
                "INSERT INTO stores (name, identity, incomplete) VALUES (?, ?, 1)"
                " ON CONFLICT (name) DO UPDATE SET identity = excluded.identity, incomplete = 1",
                (name, identity),
            )

    @contextmanager
    def _usable(self) -> Generator[sqlite3.Connection, None, None]:
        with explaining(self._path):
            self._connection.check()
            yield self._connection.sql
            self._connection.note_written()

    @contextmanager
    def _changed(self) -> Generator[sqlite3.Connection, None, None]:
        # After an error a replica has no connection until its next request, so a change is possible beside it. Its
        # counts and its known stores would be wrong then. It looks at the number of openings when it connects again,
        # so a change counts as an opening, in the same transaction.
        with self._usable() as sql, transaction(sql):
            bring_up_to_date(sql)
            sql.execute("UPDATE meta SET openings = openings + 1")
            yield sql


@contextmanager
def opened_outbox(path: str) -> Generator[OutboxFile, None, None]:
    """Open an outbox that is there, for a block in which no replica can. A change migrates an older format.

    Raises:
      ReplicaError: if it does not exist, is in use, or can't be used.

    """
    path = os.path.abspath(path)
    if not os.path.lexists(path):
        raise ReplicaError(f"{path}: there is no such outbox")
    with explaining(path), ExitStack() as stack:
        connection = connect(path)
        stack.callback(connection.file.close)
        stack.callback(connection.close)
        yield OutboxFile(path, connection)
