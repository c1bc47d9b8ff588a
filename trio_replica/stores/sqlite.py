"""A store in one SQLite database."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from .._blob import Ref, hashed
from .._calls.start import ended_call
from .._calls.threads import open_store_threads
from .._deletable import DeletableStore
from .._listing import check_ref
from .._scheme import StoreScheme
from ._reads import start_read
from ._sqlite.check import check_integrity, find_twins, repair_integrity, set_aside
from ._sqlite.database import Database
from ._sqlite.statements import contains, delete, insert, insert_all, replace
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import Blob, BytesLike
    from .._calls.start import Cancel, Done
    from .._calls.threads import StoreThreads
    from .._deletable import Integrity
    from ._sqlite.database import Request


def open_sqlite(path: str | os.PathLike[str], *, durable: bool = True) -> AbstractAsyncContextManager[SqliteStore]:
    """Open a store in the table ``blobs`` of a SQLite database for the block. Create it if necessary.

    Other tables are left alone. The database is put in WAL mode. Several processes may use it at once if they run on
    one machine. While it is open, no program may open the file except through SQLite.

    The end of the block waits for the write under way, even if it is cancelled.

    Args:
      path: the database file. Its folder has to exist.
      durable: whether a blob whose put has returned survives a power cut. All processes that write to the database have
        to sync it at least at checkpoints (``synchronous`` is NORMAL or more). False leaves out the fsync of each
        transaction. Then a power cut may lose the last ones, but leaves no partial ones.

    Raises:
      sqlite3.Error: on entering the block, if the file is not a database, or can't be opened or written. The message
        has SQLite's name of the error and the path.
      ReplicaError: on entering the block, if it has a different table ``blobs``, or can't be put in WAL mode.

    """
    return open_database(Database(os.path.abspath(os.fsdecode(path)), durable=durable))


@asynccontextmanager
async def open_database(database: Database) -> AsyncGenerator[SqliteStore, None]:
    """Open the store with this database."""
    async with (
        open_store_threads(f"writer of {database.path}", database.serve_writes) as writer,
        open_store_threads(f"reader of {database.path}", database.serve_reads) as reader,
    ):
        yield SqliteStore(database, writer, reader)


@final
class SqliteStore(DeletableStore, StartedStore):
    """A store in one SQLite database: see `open_sqlite`, which makes it.

    Puts that wait at the same time become one transaction, and gets that wait at the same time become one query.
    """

    def __init__(self, database: Database, writer: StoreThreads[Request], reader: StoreThreads[Ref | Request]) -> None:
        self._database = database
        self._writer = writer
        self._reader = reader

    def __repr__(self) -> str:
        return f"<SqliteStore {self._database.path!r}>"

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        If SQLite refuses, it fails with a `sqlite3.Error` that has SQLite's name of the error and the path. If the file
        has been removed or replaced, it fails with a `ReplicaError`.

        Raises:
          sqlite3.DataError: with ``SQLITE_TOOBIG``, if no row can hold the blob (1 GB, if SQLite is built as usual).

        """
        self._database.check_size(blob)
        return self._writer.start(partial(insert, blob), done, size=len(blob))

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs in one transaction: see `StartableStore`."""
        sizes = [len(blob) for blob in blobs]
        if blobs:
            self._database.check_size(blobs[sizes.index(max(sizes))])
        return self._writer.start(partial(insert_all, list(blobs)), done, size=sum(sizes))

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        If the database is damaged or unreadable, it fails with a `sqlite3.Error`. If the row's data is not a BLOB, or
        the file has been removed or replaced, it fails with a `ReplicaError`.
        """
        return self._reader.start(ref, done, abandon_on_cancel=True)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start a `get_many`: see `StartableStore`."""
        return self._reader.start(partial(self._database.select, list(refs)), done, abandon_on_cancel=True)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""
        return self._reader.start(partial(contains, ref), done, abandon_on_cancel=True)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`."""
        return self._reader.start(partial(self._database.list_page, after, limit), done, abandon_on_cancel=True)

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        deleted: bool = await self._writer.run(partial(delete, check_ref(ref)))
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically, whatever is there: see `DeletableStore.replace`."""
        blob = await hashed(blob)
        self._database.check_size(blob)
        await self._writer.run(partial(replace, blob), size=len(blob))

    async def set_aside(self, ref: Ref) -> str | None:
        """Copy the row of a blob to the table ``damaged_blobs``: see `DeletableStore.set_aside`."""
        is_kept: bool = await self._writer.run(partial(set_aside, check_ref(ref)))
        return f"table damaged_blobs of {self._database.path}" if is_kept else None

    async def check_integrity(self) -> Integrity:
        """Run SQLite's own check, and look up every row in the index: see `DeletableStore.check_integrity`.

        The check uses a thread and a connection of its own, so that reads do not wait for it. While SQLite's own check
        runs, the log is not truncated. Being cancelled interrupts the check, and waits until it has ended.
        """
        integrity: Integrity = await self._check(check_integrity)
        return integrity

    async def repair_integrity(self) -> None:
        """Rebuild the index of the refs (``REINDEX``): see `DeletableStore.repair_integrity`."""
        twins = await self._check(find_twins)
        await self._writer.run(partial(repair_integrity, twins))

    async def _check(self, request: Request) -> Any:
        async with open_store_threads(f"check of {self._database.path}", self._database.serve_checks) as checks:
            return await ended_call(partial(start_read, checks, request))


SCHEME: Final = StoreScheme(open_sqlite, "PATH")
"""``sqlite:PATH``."""
