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
from .._errors import StoreReadOnlyError
from .._identity import check_mark
from .._listing import check_ref
from .._scheme import StoreScheme
from ._access import MAX_MEMORY, Access
from ._reads import start_read
from ._sqlite.check import check_integrity, find_twins, repair_integrity
from ._sqlite.database import Database
from ._sqlite.statements import Insertion, Synced, contains, delete, insert_all, replace
from ._sqlite.tables import keep_mark, read_mark, renew_identity
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import Blob, BytesLike
    from .._calls.start import Cancel, Done
    from .._calls.threads import StoreThreads
    from .._deletable import Integrity
    from ._sqlite.database import Request


def open_sqlite(
    path: str | os.PathLike[str],
    *,
    durable: bool = True,
    create: bool = True,
    read_only: bool = False,
    max_memory: int = MAX_MEMORY,
) -> AbstractAsyncContextManager[SqliteStore]:
    """Open a store in the table ``blobs`` of a SQLite database for the block. Create it if necessary.

    Other tables are left alone. The database is put in WAL mode. Several processes may use it at once if they run on
    one machine and use one name. While it is open, no program may open the file except through SQLite. If the database,
    its ``-wal`` or its ``-shm`` is removed, replaced or truncated in the meantime, the store fails until it is opened
    again. It then writes to none of them, not even when it is closed. A trigger that writes to the table ``blobs``
    makes puts fail.

    The end of the block waits for the write under way, even if it is cancelled.

    Args:
      path: the database file. Its folder has to exist.
      durable: whether a blob whose put has returned survives a power cut. All processes that write to the database have
        to sync it at least at checkpoints (``synchronous`` is NORMAL or more). False leaves out the fsync of each
        transaction. Then a power cut may lose the last ones, but leaves no partial ones. The identity and the mark of
        a session are synced in any case.
      create: whether to create a store if none exists. With False, a path without a database, or a database without a
        table ``blobs``, is an error, because the disk may not be mounted.
      read_only: whether nothing is written or created. The database may be on a read-only file system. The blobs in a
        ``-wal`` are read, too, or the store is refused. Beside a ``-wal`` that is not empty, SQLite itself creates and
        writes a ``-shm`` if it may.
      max_memory: bytes of the largest blob that a get or a put takes into memory.

    Raises:
      TypeError: at once, if an argument has the wrong type.
      ValueError: at once, if `max_memory` is less than 1.
      StoreNotFoundError: on entering the block, if there is no store, and none may be created.
      sqlite3.Error: on entering the block, if the file is not a database, or can't be opened or written. The message
        has SQLite's name of the error and the path.
      ReplicaError: on entering the block, if it is not a regular file, or has a different table ``blobs``,
        ``store_identity`` or
        ``store_session``, or can't be put in WAL mode. Also if it is used under another name (a hard link), or has a
        ``-wal`` that can't be read.

    """
    access = Access(create=create, read_only=read_only, max_memory=max_memory)
    return open_database(Database(os.path.abspath(os.fsdecode(path)), durable=durable, access=access))


@asynccontextmanager
async def open_database(database: Database) -> AsyncGenerator[SqliteStore, None]:
    """Open the store with this database."""
    reader_name = f"reader of {database.path}"
    if database.access.read_only:
        async with open_store_threads(reader_name, database.serve_reads) as reader:
            yield SqliteStore(database, None, reader)
        return
    async with (
        open_store_threads(f"writer of {database.path}", database.serve_writes) as writer,
        open_store_threads(reader_name, database.serve_reads) as reader,
    ):
        yield SqliteStore(database, writer, reader)


@final
class SqliteStore(DeletableStore, StartedStore):
    """A store in one SQLite database: see `open_sqlite`, which makes it.

    Puts that wait at the same time become one transaction, and gets that wait at the same time become one query.
    """

    def __init__(
        self, database: Database, writer: StoreThreads[Request] | None, reader: StoreThreads[Ref | Request]
    ) -> None:
        self._database = database
        self._writer_or_none = writer  # None if the store is read-only
        self._reader = reader

    def __repr__(self) -> str:
        return f"<SqliteStore {self._database.path!r}>"

    @property
    def is_durable(self) -> bool:
        """False with ``durable=False``: see `Store.is_durable`."""
        return self._database.durable

    @property
    def is_read_only(self) -> bool:
        """Whether it was opened with ``read_only=True``: see `Store.is_read_only`."""
        return self._writer_or_none is None

    @property
    def _writer(self) -> StoreThreads[Request]:
        """The thread that writes. Raises `StoreReadOnlyError` if the store is read-only."""
        if self._writer_or_none is None:
            raise StoreReadOnlyError(self._database.path)
        return self._writer_or_none

    async def identity(self) -> str | None:
        """Return the identity from the table ``store_identity``: see `Store.identity`.

        It is None only if the store is read-only and no process has opened it for writing yet.
        """
        identity: str | None = await self._reader.run(self._database.read_identity, abandon_on_cancel=True)
        return identity

    async def session_mark(self) -> str | None:
        """Return the mark from the table ``store_session``: see `Store.session_mark`."""
        mark: str | None = await self._reader.run(partial(read_mark, path=self._database.path), abandon_on_cancel=True)
        return mark

    async def set_session_mark(self, mark: str) -> None:
        """Keep the mark in the table ``store_session``: see `Store.set_session_mark`."""
        await self._writer.run(Synced(partial(keep_mark, check_mark(mark), path=self._database.path)))

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        If SQLite refuses, it fails with a `sqlite3.Error` that has SQLite's name of the error and the path. If the
        database or its log has been removed or replaced, or the row is not kept, it fails with a `ReplicaError`.

        Raises:
          StoreReadOnlyError: if the store was opened with ``read_only=True``.
          BlobTooLargeError: if the blob is larger than ``max_memory``.
          sqlite3.DataError: with ``SQLITE_TOOBIG``, if no row can hold the blob (1 GB, if SQLite is built as usual).

        """
        writer = self._writer
        self._database.check_size(blob)
        return writer.start(Insertion(blob), done, size=len(blob))

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs in one transaction: see `StartableStore`."""
        writer = self._writer
        sizes = [len(blob) for blob in blobs]
        if blobs:
            self._database.check_size(blobs[sizes.index(max(sizes))])
        return writer.start(partial(insert_all, list(blobs)), done, size=sum(sizes))

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        If the database is damaged or unreadable, it fails with a `sqlite3.Error`, and if the blob is larger than
        ``max_memory``, with a `BlobTooLargeError`. If the row's data is not a BLOB, or the database or its log has been
        removed or replaced, it fails with a `ReplicaError`.
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
        writer = self._writer
        blob = await hashed(blob)
        self._database.check_size(blob)
        await writer.run(partial(replace, blob), size=len(blob))

    async def renew_identity(self) -> str | None:
        """Draw a new identity, and forget the mark of the last session: see `DeletableStore.renew_identity`."""
        identity: str = await self._writer.run(Synced(partial(renew_identity, path=self._database.path)))
        self._database.note_identity(identity)
        return identity

    async def get_stored(self, ref: Ref) -> bytes:
        """Return a blob as it is on the disk: see `DeletableStore.get_stored`.

        SQLite drops its cache, and Linux drops its cached pages of the database and its log, except for pages that are
        not on the disk yet. Other systems may still answer from memory.
        """
        request = partial(self._database.get_stored, check_ref(ref))
        data: bytes = await self._reader.run(request, abandon_on_cancel=True)
        return data

    async def set_aside(self, ref: Ref) -> str | None:
        """Copy the row of a blob to the table ``damaged_blobs``: see `DeletableStore.set_aside`."""
        is_kept: bool = await self._writer.run(partial(self._database.set_aside, check_ref(ref)))
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
        writer = self._writer
        twins = await self._check(find_twins)
        await writer.run(partial(repair_integrity, twins))

    async def _check(self, request: Request) -> Any:
        async with open_store_threads(f"check of {self._database.path}", self._database.serve_checks) as checks:
            return await ended_call(partial(start_read, checks, request))


SCHEME: Final = StoreScheme(open_sqlite, "PATH")
"""``sqlite:PATH``."""
