"""Helpers that the tests of PostgreSQL stores share."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from contextlib import AsyncExitStack, closing, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import outcome
import psycopg
import pytest
import trio

from trio_replica import PostgresStore, Ref
from trio_replica._calls.start import ended_call
from trio_replica.stores import postgres
from trio_replica.stores._access import Access
from trio_replica.stores._postgres.database import Database
from trio_replica.stores._postgres.session import Patience
from trio_replica.stores._reads import start_read

from .held import PATIENCE, Ended, in_one_batch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager

    from .postgres_server import PostgresAddress, PostgresServer

ACCESS = ("create", "read_only", "max_memory")
IDENTITY = "0123456789abcdef" * 2
DATA = b"blob"
REF = Ref.of(DATA)
SCHEMA = "CREATE TABLE blobs (ref BYTEA PRIMARY KEY NOT NULL, data BYTEA NOT NULL)"


class Clock:
    """A clock that stands still unless the test moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0
        """Seconds that pass whenever somebody looks at it."""
        self._looks = threading.Semaphore(0)

    def __call__(self) -> float:
        self.now += self.step
        self._looks.release()
        return self.now

    async def wait_looks(self, count: int) -> None:
        """Wait until somebody has looked at it so many times from now on."""
        self._looks = threading.Semaphore(0)
        for _ in range(count):
            assert await trio.to_thread.run_sync(self._looks.acquire, True, PATIENCE)


def open_single(
    conninfo: str, clock: Callable[[], float] = time.monotonic, *, cancel: float = 5.0, **options: Any
) -> AbstractAsyncContextManager[PostgresStore]:
    """Open a store with one writer and one reader, so that all that waits is one batch."""
    access = Access(**{name: options.pop(name) for name in ACCESS if name in options})
    patience = Patience(postgres.ANSWER_TIMEOUT, cancel, clock)
    database = Database(conninfo, access=access, patience=patience, make_identity=lambda: IDENTITY, **options)
    return postgres.open_database(database, writers=1, readers=1)


LATE = postgres.ANSWER_TIMEOUT + 1
"""Seconds after which a store has waited for too long."""


def check_error(
    server: PostgresAddress, ended: Ended | BaseException | None, kind: type[psycopg.Error], *parts: str
) -> None:
    """Check that a call failed with a line that has the store's name and these parts, and survives pickle and copy."""
    error = ended.error if isinstance(ended, outcome.Error) else ended
    assert type(error) is kind, ended
    assert isinstance(error, psycopg.Error)
    line = str(error)
    assert [part for part in (f"127.0.0.1:{server.port}/", *parts) if part not in line] == []
    assert line.count("postgresql://") == 1
    assert "\n" not in line
    assert "secret" not in repr(error)
    assert error.pgconn is None
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is kind
        assert again.args == error.args
        assert again.diag.sqlstate == error.diag.sqlstate


async def open_and_close(conninfo: str, **options: Any) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_single(conninfo, **options))


async def check_opening(server: PostgresAddress, conninfo: str, kind: type[psycopg.Error], *parts: str) -> None:
    with pytest.raises(psycopg.Error) as info:
        await open_and_close(conninfo)
    check_error(server, info.value, kind, *parts)


async def read_all(server: PostgresAddress) -> dict[Ref, bytes]:
    async with open_single(server.conninfo()) as store:
        found = await store.get_many([ref async for ref in store.list_refs()])
    assert all(Ref.of(data) == ref for ref, data in found.items())
    return found


async def wait_until(server: PostgresServer, condition: str) -> None:
    """Wait until a query says so."""
    with trio.fail_after(PATIENCE):
        while (await trio.to_thread.run_sync(server.query, condition))[0][0] is not True:
            pass


def waiting(count: int = 1) -> str:
    """Return the condition that so many statements of stores wait for a lock."""
    return (
        f"SELECT count(*) = {count} FROM pg_stat_activity "
        "WHERE application_name = 'trio_replica' AND wait_event_type = 'Lock'"
    )


def backends(server: PostgresServer) -> set[int]:
    """Return the ids of the processes that serve the connections of stores."""
    rows = server.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'trio_replica'")
    return {pid for (pid,) in rows}


def end_connections(server: PostgresServer) -> None:
    """End the connections of stores, as a failover would. Returns when they are gone."""
    server.query(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'trio_replica'"
    )


@contextmanager
def locked(server: PostgresServer) -> Generator[psycopg.Connection[Any], None, None]:
    """Lock the table, for a block or until the connection that this yields commits."""
    with closing(server.connect()) as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE blobs IN ACCESS EXCLUSIVE MODE")
        yield connection


async def read_with(store: PostgresStore, request: Callable[[Any], Any]) -> Any:
    """Have a thread of the store that reads call a function with its connection."""
    return await ended_call(partial(start_read, store._readers, request))


async def read_in_one_batch(store: PostgresStore, *calls: Callable[[], Awaitable[object]]) -> list[Ended]:
    readers: Any = SimpleNamespace(run=partial(read_with, store))
    return await in_one_batch(readers, *calls)
