"""A store in one table of a PostgreSQL database."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, final

from .._blob import hashed
from .._calls.threads import open_store_threads
from .._deletable import DeletableStore
from .._listing import check_ref
from .._scheme import StoreScheme
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
    conninfo: str, *, durable: bool = True, answer_timeout: float = ANSWER_TIMEOUT
) -> AbstractAsyncContextManager[PostgresStore]:
    """Open a store in the table ``blobs`` of a PostgreSQL database for the block. Create the table if necessary.

    Any number of processes, on any machines, may use it at once. Other tables are left alone. The store has 4
    connections, each of which needs its own session, so a pooler has to be in session mode. It needs
    ``pip install 'trio-replica[postgres]'``.

    If a connection is lost, the calls under way fail and the next ones connect again. If a get or listing is cancelled
    while it runs, its statement is cancelled as well, once it has run for a tenth of a second and nobody else waits
    for it. A put that runs can't be interrupted. The end of the block waits for it, even if the block is cancelled.

    Args:
      conninfo: libpq's `connection string`_, ``postgresql://USER@HOST/DATABASE`` or ``host=HOST dbname=DATABASE``.
        Missing parts come from the environment (``PGPASSWORD``, …), ``~/.pgpass`` and the service file. Unless it or
        the environment says otherwise, ``connect_timeout`` is 10 seconds for each address. A connection to a machine
        that does not answer at all is lost after 25 seconds (``keepalives_…``, ``tcp_user_timeout``).
      durable: whether a blob whose put has returned survives a crash of the server and its machine. It is then on the
        server's disk, and on the standbys that the server's ``synchronous_commit`` requires, also if the blob was there
        already. A server with ``fsync = off`` is an error. False commits with ``synchronous_commit = off``. Then a
        crash may lose the last transactions, but leaves no partial ones.
      answer_timeout: seconds that the server may be silent, neither receiving nor sending anything, while a call waits
        for it. It may be waiting for a lock, or writing (1 GB took half a minute). Then the statement is cancelled, and
        5 seconds later the connection is closed.

    Raises:
      ModuleNotFoundError, ImportError: at once, if psycopg, or libpq, is not installed.
      TypeError: at once, if `conninfo` is not a `str`.
      ValueError: at once, if libpq can't parse it, or `answer_timeout` is not more than 0. psycopg.Error: on entering
        the block, if the server can't be reached, refuses, or accepts no writes. Like every error of the server, it is
        one line with the reason, the store's host, port and database, and a remedy. No error shows a password.
      ReplicaError: on entering the block, if the database has a different table ``blobs``, or the server is not
        durable.

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
    return open_database(Database(conninfo, durable=durable, patience=Patience(answer_timeout)))


@asynccontextmanager
async def open_database(
    database: Database, *, writers: int = WRITERS, readers: int = READERS
) -> AsyncGenerator[PostgresStore, None]:
    """Open the store in `database` with these numbers of threads."""
    async with (
        open_store_threads(f"writers of {database.name}", database.serve_writes, threads=writers) as writing,
        open_store_threads(f"readers of {database.name}", database.serve_reads, threads=readers) as reading,
    ):
        yield PostgresStore(database, writing, reading)


@final
class PostgresStore(DeletableStore, StartedStore):
    """A store in one PostgreSQL database: see `open_postgres`, which makes it.

    Puts that wait at the same time become one transaction, and gets that wait at the same time become one query.
    """

    def __init__(self, database: Database, writers: StoreThreads[Write], readers: StoreThreads[Read[What]]) -> None:
        self._database = database
        self._writers = writers
        self._readers = readers

    def __repr__(self) -> str:
        return f"<PostgresStore {self._database.name!r}>"

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        It fails with a `psycopg.Error` if the server refuses or the connection is lost. The blob may or may not be
        stored then.

        Raises:
          psycopg.DataError: if no row can hold the blob (1019 MiB).

        """
        self._database.check_size([blob])
        return self._writers.start(blob, done, size=len(blob))

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs in one transaction: see `StartableStore`."""
        self._database.check_size(blobs)
        return self._writers.start(list(blobs), done, size=sum(map(len, blobs)))

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        It fails with a `psycopg.Error` if the server refuses, the connection is lost, or the table is damaged or
        dropped.
        """
        return start_read(self._readers, ref, done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start a `get_many`: see `StartableStore`."""
        return start_read(self._readers, partial(sql.select, list(refs)), done)

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
        """Write a blob atomically, whatever is there: see `DeletableStore.replace`."""
        blob = await hashed(blob)
        self._database.check_size([blob])
        await self._writers.run(partial(sql.replace, blob), size=len(blob))

    async def set_aside(self, ref: Ref) -> str | None:
        """Copy the row of a blob to the table ``damaged_blobs``: see `DeletableStore.set_aside`."""
        is_kept: bool = await self._writers.run(partial(self._database.set_aside, check_ref(ref)))
        return f"table damaged_blobs of {self._database.name}" if is_kept else None


SCHEME: Final = StoreScheme(open_postgres, "//USER@HOST/DATABASE", place=database_place, query=PARAMETERS)
"""The scheme of ``postgresql://USER@HOST/DATABASE``, and of the same with ``postgres``."""
