"""A store in one table of a PostgreSQL database."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from .._blob import hashed
from .._calls.start import ended_call
from .._calls.threads import open_store_threads
from .._deletable import DeletableStore, Integrity
from .._errors import StoreReadOnlyError
from .._identity import check_mark
from .._listing import check_ref
from .._scheme import StoreScheme
from ._access import MAX_MEMORY, Access
from ._postgres import statements as sql
from ._postgres.place import PARAMETERS, database_place
from ._reads import start_read
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import Blob, BytesLike, Ref
    from .._calls.start import Cancel, Done
    from .._calls.threads import StoreThreads
    from ._postgres.database import Database, What, Write
    from ._reads import Read

WRITERS: Final = 2
"""Threads that write, each with a connection. A second one goes on while the first has a large blob or waits.
With a server that is 10 ms away and 256 callers, 2 threads put 8.6k blobs of 4 KiB a second, and one put 4.6k. With a
server on the same 2 cores and 16 callers, one, 2 and 4 threads all put about 12k a second."""

READERS: Final = 2
"""Threads that read, each with a connection, for the same reasons. With 256 callers, 2 threads got 13.8k a second from
a server that is 10 ms away, and one got 10.5k. From a server on the same 2 cores they got 48k and 31k."""

ANSWER_TIMEOUT: Final = 60.0
"""Seconds, as many as a SQLite store waits for a locked database."""


def open_postgres(
    conninfo: str,
    *,
    durable: bool = True,
    answer_timeout: float = ANSWER_TIMEOUT,
    create: bool = True,
    read_only: bool = False,
    max_memory: int = MAX_MEMORY,
) -> AbstractAsyncContextManager[PostgresStore]:
    """Open a store in the table ``blobs`` of a PostgreSQL database for the block. Create the table if necessary.

    Any number of processes, on any machines, may use it at once. Other tables are left alone. The store has 4
    connections, each of which needs its own session, so a pooler has to be in session mode. It needs
    ``pip install 'trio-replica[postgres]'``.

    If a connection is lost, the calls under way fail and the next ones connect again. If a get or listing is cancelled
    while it runs, its statement is cancelled as well, once it has run for a tenth of a second and nobody else waits
    for it. A put that runs can't be interrupted. The end of the block waits for it, even if the block is cancelled.

    A new connection reads the identity of the store before it is used, because after a failover, or through a changed
    name or a pooler, it may lead to another server. A pooler in transaction mode may lead each transaction elsewhere,
    which is not noticed. Neither is a standby that was promoted without the last transactions. To prevent that, set
    ``synchronous_commit`` and ``synchronous_standby_names`` on the server.

    The identity is in the table ``store_identity``, which every user may read. If the table is missing, and the user
    may not create it, the store is known by its name only, and a WARNING says so.

    A put is acknowledged only if the row is there. If nothing was inserted, or the table has triggers, the row is
    looked up after the commit. A table that was altered or replaced is checked again before the next put. A damaged
    index that hides rows is found by `check_integrity`, which a scrub calls.

    Args:
      conninfo: libpq's `connection string`_, ``postgresql://USER@HOST/DATABASE`` or ``host=HOST dbname=DATABASE``.
        Missing parts come from the environment (``PGPASSWORD``, …), ``~/.pgpass`` and the service file. Unless it or
        the environment says otherwise, ``connect_timeout`` is 10 seconds for each address. A connection to a machine
        that does not answer at all is lost after 25 seconds (``keepalives_…``, ``tcp_user_timeout``).
      durable: whether a blob whose put has returned survives a crash of the server and its machine. It is then on the
        server's disk, and on the standbys that the server's ``synchronous_commit`` names, even if the blob was there
        already. A server with ``fsync = off`` is refused. False commits with ``synchronous_commit = off``. A crash may
        then lose the last transactions, but nothing is torn.
      answer_timeout: seconds that the server may neither take nor send anything while a call waits for it. It may wait
        for a lock, for example, or write (1 GB took half a minute). The statement is then cancelled, and 5 seconds
        later the connection is dropped.
      create: whether to create a store if none exists. With False a database without a table ``blobs`` is an error,
        because it may be the wrong one.
      read_only: whether nothing is written or created. A standby is enough, and so is a user who has only SELECT on
        ``blobs``. A standby may lag behind, and lack the most recent puts.
      max_memory: the bytes of the largest blob that a get or a put takes into memory. A larger one is not asked for.
        But libpq always takes a whole row into memory, and a server that is not PostgreSQL can send 2 GiB.

    Raises:
      ModuleNotFoundError, ImportError: at once, if psycopg, or libpq, is not installed.
      TypeError: at once, if an argument has another type.
      ValueError: at once, if libpq can't parse `conninfo`, `answer_timeout` is not more than 0, or `max_memory` is less
        than 1.
      psycopg.Error: on entering the block, if the server can't be reached, or refuses, or takes no writes. Like every
        error of the server, it is one line: the reason, the store's host, port and database, and a remedy. No error
        shows a password.
      StoreNotFoundError: on entering the block, if there is no store, and none may be created.
      ReplicaError: on entering the block, if the database has another table ``blobs`` or ``store_identity``, or one
        that can't be trusted, for example because of a rule or row security. Also if the server can't be durable.

    .. _connection string: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING

    """
    try:
        # psycopg is in an extra. Without it the other stores still work.
        from ._postgres.database import Database  # noqa: PLC0415
        from ._postgres.session import Patience  # noqa: PLC0415
    except ImportError as error:
        reason = "PostgreSQL stores need psycopg and libpq: pip install 'trio-replica[postgres]'"
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
        raise kind(reason, name="psycopg") from error
    if not answer_timeout > 0:
        raise ValueError(f"answer_timeout is more than 0 seconds, not {answer_timeout}")
    access = Access(create=create, read_only=read_only, max_memory=max_memory)
    return open_database(Database(conninfo, durable=durable, access=access, patience=Patience(answer_timeout)))


@asynccontextmanager
async def open_database(
    database: Database, *, writers: int = WRITERS, readers: int = READERS
) -> AsyncGenerator[PostgresStore, None]:
    """Open the store in `database` with this number of threads of each kind. A read-only store has no writers."""
    async with AsyncExitStack() as stack:
        writing = None
        if not database.access.read_only:
            writing = await stack.enter_async_context(
                open_store_threads(f"writers of {database.name}", database.serve_writes, threads=writers)
            )
        reading = await stack.enter_async_context(
            open_store_threads(f"readers of {database.name}", database.serve_reads, threads=readers)
        )
        yield PostgresStore(database, writing, reading)


@final
class PostgresStore(DeletableStore, StartedStore):
    """A store in one PostgreSQL database: see `open_postgres`, which makes it.

    Puts that wait at the same time become one transaction, and gets that wait at the same time become one query.
    """

    def __init__(
        self, database: Database, writers: StoreThreads[Write] | None, readers: StoreThreads[Read[What]]
    ) -> None:
        self._database = database
        self._writers_or_none = writers  # None if the store is read-only
        self._readers = readers

    def __repr__(self) -> str:
        return f"<PostgresStore {self._database.name!r}>"

    @property
    def is_durable(self) -> bool:
        """False with ``durable=False``: see `Store.is_durable`."""
        return self._database.durable

    @property
    def is_read_only(self) -> bool:
        """Whether it was opened with ``read_only=True``: see `Store.is_read_only`."""
        return self._writers_or_none is None

    @property
    def _writers(self) -> StoreThreads[Write]:
        """The threads that write. Raises `StoreReadOnlyError` if the store is read-only."""
        if self._writers_or_none is None:
            raise StoreReadOnlyError(self._database.name)
        return self._writers_or_none

    async def identity(self) -> str | None:
        """Return the identity from the table ``store_identity``: see `Store.identity`.

        It is None if the store has no identity, because it is read-only or its user may not create tables.
        """
        identity: str | None = await self._read(self._database.store.read_identity)
        return identity

    async def session_mark(self) -> str | None:
        """Return the mark from the table ``store_session``: see `Store.session_mark`."""
        mark: str | None = await self._read(self._database.store.read_mark)
        return mark

    async def set_session_mark(self, mark: str) -> None:
        """Keep the mark in the table ``store_session``, if the store has an identity: see `Store.set_session_mark`."""
        await self._writers.run(partial(self._database.store.keep_mark, check_mark(mark)))

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        It fails with a `psycopg.Error` if the server refuses or the connection is lost. The blob may or may not be
        stored then.

        Raises:
          StoreReadOnlyError: if the store was opened with ``read_only=True``.
          BlobTooLargeError: if the blob has more than ``max_memory`` bytes.
          psycopg.DataError: if no row can hold the blob (1019 MiB).

        """
        writers = self._writers
        self._database.check_size([blob])
        return writers.start(blob, done, size=len(blob))

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs in one transaction: see `StartableStore`."""
        writers = self._writers
        self._database.check_size(blobs)
        return writers.start(list(blobs), done, size=sum(map(len, blobs)))

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        It fails with a `psycopg.Error` if the server refuses, the connection is lost, or the table is damaged or
        dropped.
        """
        return start_read(self._readers, ref, done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start a `get_many`: see `StartableStore`."""
        return start_read(self._readers, partial(self._database.select, list(refs)), done)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""
        return start_read(self._readers, partial(sql.contains, ref), done)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`."""
        return start_read(self._readers, partial(sql.list_page, self._database.name, after, limit), done)

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        deleted: bool = await self._writers.run(partial(self._database.delete, check_ref(ref)))
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically over any row with its ref: see `DeletableStore.replace`."""
        writers = self._writers
        blob = await hashed(blob)
        self._database.check_size([blob])
        await writers.run(partial(self._database.replace, blob), size=len(blob))

    async def renew_identity(self) -> str | None:
        """Replace the identity in the table ``store_identity``: see `DeletableStore.renew_identity`.

        It is None if the store has no identity, because its user may not create tables.
        """
        identity: str | None = await self._writers.run(self._database.store.renew_identity)
        return identity

    async def set_aside(self, ref: Ref) -> str | None:
        """Copy the row of a blob to the table ``damaged_blobs``: see `DeletableStore.set_aside`."""
        is_kept: bool = await self._writers.run(partial(self._database.set_aside, check_ref(ref)))
        return f"table damaged_blobs of {self._database.name}" if is_kept else None

    async def check_integrity(self) -> Integrity:
        """Look up every row of the table in its index: see `DeletableStore.check_integrity`.

        It uses a separate thread and connection, so that reads do not wait for it. Being cancelled cancels the
        statement. To repair an index that hides rows, the table's owner has to run ``REINDEX``.
        """
        name = f"check of {self._database.name}"
        async with open_store_threads(name, self._database.serve_checks) as threads:
            integrity: Integrity = await ended_call(partial(start_read, threads, self._database.check_integrity))
        return integrity

    async def _read(self, what: What) -> Any:
        return await ended_call(partial(start_read, self._readers, what))


SCHEME: Final = StoreScheme(open_postgres, "//USER@HOST/DATABASE", place=database_place, query=PARAMETERS)
"""The scheme of ``postgresql://USER@HOST/DATABASE``, and of the same with ``postgres``."""
