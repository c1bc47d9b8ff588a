"""An outbox that no replica uses, to be inspected and changed by hand. All functions block."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, final

from .._errors import ReplicaError
from .._sqlite_connection import IMMUTABLE
from .._sqlite_connection import connect as connect_to_read
from .._sqlite_files import check_regular, check_single_name, stamp_of, status_of
from .outbox_connection import REMEDIES, connect, explaining, lock_log, transaction
from .outbox_format import bring_up_to_date, check_format, noted_stores, pending_counts, pending_page

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from .._blob import Ref
    from .._sqlite_files import Stamp
    from .outbox_connection import OutboxConnection
    from .storage import NotedStore

_REFS_AT_ONCE: Final = 1000
"""Refs that a listing holds in memory."""

_READ_REMEDIES: Final = {sqlite3.SQLITE_CANTOPEN: "the outbox can't be read: get permission to read it and its folder"}

_LOG_REMEDIES: Final = dict.fromkeys(
    (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR_LOCK),
    "the outbox was not closed, and its -wal can't be read here: copy the outbox with its -wal to a folder that can be "
    "written, and name the copy",
)


@final
class OutboxFile:
    """An outbox that no replica uses, to be inspected and changed by hand."""

    def __init__(self, path: str, connection: OutboxConnection | _Look) -> None:
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
        """Note that stores have every blob that the others have, so they are no longer incomplete."""
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


@final
class _Look:
    """A connection that only reads an outbox which was closed cleanly. It takes no permission to write."""

    def __init__(self, path: str, sql: sqlite3.Connection, stamp: Stamp) -> None:
        self.sql = sql
        self._path = path
        self._stamp = stamp

    def check(self) -> None:
        """Check that the outbox has not been written to since it was opened.

        Raises:
          ReplicaError: if it has.

        """
        if stamp_of(self._path) != self._stamp:
            raise ReplicaError(f"{self._path}: the outbox is written to while it is read: try again")

    def note_written(self) -> None:
        """Check the same again, after something was read."""
        self.check()


@contextmanager
def opened_outbox(path: str) -> Generator[OutboxFile, None, None]:
    """Open an outbox that is there, for a block in which no replica can. A change migrates an older format.

    Raises:
      ReplicaError: if it does not exist, is in use, or can't be used.

    """
    path = _existing(path)
    with explaining(path), ExitStack() as stack:
        yield _opened(path, stack)


@contextmanager
def looked_at_outbox(path: str) -> Generator[OutboxFile, None, None]:
    """Open an outbox that is there, to look at it.

    If it was closed cleanly, nothing is written, and permission to read is enough. If a killed process has left a
    ``-wal``, that is written back.

    Raises:
      ReplicaError: if it does not exist, is in use, can't be read, or has a ``-wal`` that can't be read here.

    """
    path = _existing(path)
    check_regular(path)
    check_single_name(path)
    with explaining(path), ExitStack() as stack:
        stamp = _stamp_of_closed(path, stack)
        if stamp is None:
            with explaining(path, {**REMEDIES, **_LOG_REMEDIES}):
                outbox = _opened(path, stack)
        else:
            with explaining(path, {**REMEDIES, **_READ_REMEDIES}):
                connection = connect_to_read(path, IMMUTABLE)
                stack.callback(connection.close)
                check_format(path, connection)
            outbox = OutboxFile(path, _Look(path, connection, stamp))
        yield outbox


def _existing(path: str) -> str:
    path = os.path.abspath(path)
    try:
        if status_of(path) is not None:
            return path
    except OSError as error:
        raise ReplicaError(f"{path}: the outbox can't be read: {error.strerror}") from None
    raise ReplicaError(f"{path}: there is no such outbox")


def _opened(path: str, stack: ExitStack) -> OutboxFile:
    connection = connect(path)
    stack.callback(connection.file.close)
    stack.callback(connection.close)
    return OutboxFile(path, connection)


def _stamp_of_closed(path: str, stack: ExitStack) -> Stamp | None:
    """Return the stamp of an outbox that was closed cleanly, or None. An empty log beside it stays locked.

    A replica always has a log, which is empty at first, and locks it.
    """
    if stamp_of(path) is None:
        return None
    log = lock_log(path)
    stamp = stamp_of(path)
    if log is not None:
        if stamp is None:
            log.close()
        else:
            stack.callback(log.close)
    return stamp
