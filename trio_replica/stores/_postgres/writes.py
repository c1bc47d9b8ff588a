"""Writes to the table of a PostgreSQL store, each acknowledged only if the rows confirm it.

A row that was inserted is there when its transaction has committed, unless the table has triggers. If no row was
inserted, the row has to be found, because a trigger, a rule or another program may have kept it out. If the table has
been altered or replaced since it was checked, nothing is written. It is checked again, and the write is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

from ..._errors import ReplicaError
from . import statements as sql
from .table import triggers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._blob import Blob, Ref
    from .known import KnownStore
    from .session import Connection

TRIES: Final = 3
"""Times that a write is tried. It fails if the table has been altered. It also fails if a blob exists, so it is not
inserted, and another process deletes it before the check. If this happens several times in a row, it is more likely
that the table keeps no rows."""


@final
@dataclass
class Inserted:
    """The outcome of putting several blobs."""

    added: set[Ref] = field(default_factory=set)
    """The refs of the blobs that were not there before."""
    failures: dict[Ref, ReplicaError] = field(default_factory=dict)
    """The reasons why the others are not stored, by ref."""


def insert(blobs: Iterable[Blob], store: KnownStore, connection: Connection) -> Inserted:
    """Insert the missing ones of several distinct blobs, and check that all are there now.

    Raises:
      psycopg.Error: if the server refuses. Nothing is inserted then.
      ReplicaError: if the table can no longer be trusted.

    """
    inserted = Inserted()
    left = list(blobs)
    for _ in range(TRIES):
        table = connection.table
        added = sql.insert_all(left, table.version, connection)
        inserted.added |= added
        left = [blob for blob in left if table.has_triggers or blob.ref not in added]
        if left:
            left = _examine(left, inserted.failures, store, connection)
        if not left:
            break
    for blob in left:
        inserted.failures[blob.ref] = _not_kept(blob, store, connection)
    return inserted


def replace(blob: Blob, store: KnownStore, connection: Connection) -> None:
    """Write a blob over any row that is there.

    Raises:
      psycopg.Error: if the server refuses.
      ReplicaError: if the table does not keep it, or can no longer be trusted.

    """
    for _ in range(TRIES):
        table = connection.table
        if not sql.replace(blob, table.version, connection):
            store.check_table(connection)
        elif not table.has_triggers:
            return
        else:
            failures: dict[Ref, ReplicaError] = {}
            if not _examine([blob], failures, store, connection):
                if failures:
                    raise failures[blob.ref]
                return
    raise _not_kept(blob, store, connection)


def delete(ref: Ref, store: KnownStore, connection: Connection) -> bool:
    """Remove a blob, and return whether it was there.

    Raises:
      psycopg.Error: if the server refuses.
      ReplicaError: if it is still there afterwards.

    """
    for _ in range(TRIES):  # another process may put it between two tries
        if sql.delete(ref, connection):
            return True
        if not sql.contains(ref, connection):
            return False
    raise ReplicaError(
        f"the row of blob {ref!s:.12} is not deleted: {store.name}: look at the triggers of the table blobs "
        f"({triggers_of(connection)})"
    )


def _examine(
    blobs: list[Blob], failures: dict[Ref, ReplicaError], store: KnownStore, connection: Connection
) -> list[Blob]:
    """Return the missing ones of `blobs`, and note a failure for each that is there with other bytes."""
    rows, versions = sql.examine([blob.ref for blob in blobs], connection, hashed=connection.table.has_triggers)
    if len(rows) < len(blobs) or not versions <= {connection.table.version}:
        store.check_table(connection)
    for blob in blobs:
        if blob.ref in rows and rows[blob.ref] != (len(blob), True):
            failures[blob.ref] = ReplicaError(
                f"the row of blob {blob.ref!s:.12} has other bytes than the blob: {store.name}: write it again: "
                "trio-replica scrub --repair"
            )
    return [blob for blob in blobs if blob.ref not in rows]


def _not_kept(blob: Blob, store: KnownStore, connection: Connection) -> ReplicaError:
    return ReplicaError(
        f"the blob {blob.ref!s:.12} was written, but is not there: {store.name}: look at the triggers of the table "
        f"blobs ({triggers_of(connection)})"
    )
