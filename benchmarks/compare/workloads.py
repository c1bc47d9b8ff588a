"""The work that is measured: puts, gets and listings of any store, by some callers at once, during some seconds."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count, cycle
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

import trio_replica as replica
from trio_replica import MemoryStore, Ref, Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path
    from typing import Any

    from .rounds import Run

Opener: TypeAlias = "Callable[[Path], AbstractAsyncContextManager[Store]]"
"""Opens a store in a new folder."""

Call: TypeAlias = "Callable[[], Awaitable[object]]"

SIZES: Final = {"100 B": 100, "4 KiB": 4096, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
CALLERS: Final = (1, 16, 64, 256)

READ_BYTES: Final = 16 * 1024 * 1024
"""Bytes in a store that is read: so few that they stay in memory and the disk is not measured."""

READ_BLOBS: Final = 4000


# Opening stores


@asynccontextmanager
async def memory(_: Path) -> AsyncGenerator[Store, None]:
    """Open a store in memory."""
    await trio.lowlevel.checkpoint()
    yield MemoryStore()


def directory(folder: Path, *, durable: bool = True) -> AbstractAsyncContextManager[Store]:
    """Open a directory store."""
    return replica.open_directory(folder / "directory", durable=durable)


def sqlite(folder: Path, *, durable: bool = True) -> AbstractAsyncContextManager[Store]:
    """Open a SQLite store."""
    return replica.open_sqlite(folder / "blobs.db", durable=durable)


OPENERS: Final[dict[str, Opener]] = {"memory": memory, "directory": directory, "sqlite": sqlite}


def replicated(open_one: Opener, sync: int, async_: int = 0, **options: Any) -> Opener:
    """Return a function that opens a replica of some stores of one kind."""

    @asynccontextmanager
    async def open_replica(folder: Path) -> AsyncGenerator[Store, None]:
        async with (
            open_all(open_one, folder, sync + async_) as stores,
            replica.open(stores[:sync], stores[sync:], **options) as store,
        ):
            yield store

    return open_replica


@asynccontextmanager
async def open_all(open_one: Opener, folder: Path, number: int) -> AsyncGenerator[list[Store], None]:
    """Open some stores of one kind, each in a folder of its own."""
    async with AsyncExitStack() as stack:
        places = [folder / str(place) for place in range(number)]
        for place in places:
            place.mkdir()
        yield [await stack.enter_async_context(open_one(place)) for place in places]


# Doing something with them


def payloads(size: int) -> Callable[[], bytes]:
    """Return a function that makes a blob of `size` bytes, no two alike, in the time that it takes to copy one."""
    prefix = os.urandom(8)
    numbers = count()
    rest = os.urandom(size)[16:]

    def payload() -> bytes:
        return b"".join((prefix, next(numbers).to_bytes(8, "big"), rest))

    return payload


async def make(callers: int, call: Callable[[], Awaitable[object]], seconds: float) -> int:
    """Let so many callers make calls, each one after another, for at least so many seconds. Returns how many.

    Each makes at least one, however late the machine lets it begin: a rate of 0 has no ratio to another.
    """
    calls = 0
    end = perf_counter() + seconds

    async def make_calls() -> None:
        nonlocal calls
        while True:
            await call()
            calls += 1
            if perf_counter() >= end:
                break

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(make_calls)
    return calls


async def rate(callers: int, call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Return how many calls a second so many callers make, in at least so many seconds."""
    began = perf_counter()
    return await make(callers, call, seconds) / (perf_counter() - began)


def puts(open_one: Opener, callers: int, size: int) -> Run:
    """Put new blobs."""

    async def prepare(store: Store) -> Call:  # noqa: ASYNC124  (others await)
        payload = payloads(size)
        return lambda: store.put(payload())

    return _calls(open_one, callers, prepare)


def puts_until_drained(open_one: Opener, callers: int, size: int) -> Run:
    """Put new blobs to a replica of two stores and an async one, from the first put to the end of the block."""

    async def run(folder: Path, seconds: float) -> float:
        payload = payloads(size)
        async with open_all(open_one, folder, 3) as stores:
            block = replica.open(stores[:2], stores[2:], queue_size=64)
            store = await block.__aenter__()
            began = perf_counter()
            blobs = await make(callers, lambda: store.put(payload()), seconds)
            await block.__aexit__(None, None, None)
            result = blobs / (perf_counter() - began)
        return result

    return run


def puts_of_many(open_one: Opener, batch: int, size: int) -> Run:
    """Put new blobs, some at once, one batch after another."""

    async def prepare(store: Store) -> Call:  # noqa: ASYNC124  (others await)
        payload = payloads(size)
        return lambda: store.put_many([payload() for _ in range(batch)])

    return _calls(open_one, 1, prepare, batch)


async def fill(store: Store, size: int) -> list[Ref]:
    """Put what will be read."""
    payload = payloads(size)
    blobs = [payload() for _ in range(number_to_read(size))]
    return [result.ref for result in await store.put_many(blobs)]


def number_to_read(size: int) -> int:
    """Return how many blobs of `size` bytes there are when gets are measured."""
    return min(READ_BLOBS, max(16, READ_BYTES // size))


def gets(open_one: Opener, callers: int, size: int) -> Run:
    """Get blobs that are there."""

    async def prepare(store: Store) -> Call:
        refs = cycle(await fill(store, size))
        return lambda: store.get(next(refs))

    return _calls(open_one, callers, prepare)


def gets_of_many(open_one: Opener, batch: int, size: int) -> Run:
    """Get blobs that are there, some at once, one batch after another."""

    async def prepare(store: Store) -> Call:
        refs = cycle(await fill(store, size))
        return lambda: store.get_many([next(refs) for _ in range(batch)])

    return _calls(open_one, 1, prepare, batch)


def _calls(open_one: Opener, callers: int, prepare: Callable[[Store], Awaitable[Call]], blobs: int = 1) -> Run:
    """Let so many callers make the calls that `prepare` returns, of so many blobs each, and return blobs a second."""

    async def run(folder: Path, seconds: float) -> float:
        async with open_one(folder) as store:
            result = blobs * await rate(callers, await prepare(store), seconds)
        return result

    return run


def drains(open_one: Opener, batch: int, size: int, *, through_replica: bool) -> Run:
    """Write new blobs in batches: through a replica, with the store as its only async one, or with nothing between."""

    async def run(folder: Path, seconds: float) -> float:
        payload = payloads(size)
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_one(folder))
            if through_replica:
                store = await stack.enter_async_context(replica.open([MemoryStore()], [store], queue_size=batch))
            blobs = 0
            began = perf_counter()
            while not blobs or perf_counter() < began + seconds:
                await store.put_many([payload() for _ in range(batch)])
                blobs += batch
            if isinstance(store, replica.ReplicaStore):
                await store.flush()
            result = blobs / (perf_counter() - began)
        return result

    return run


def listings(open_one: Opener) -> Run:
    """List all refs, again and again."""

    async def run(folder: Path, seconds: float) -> float:
        async with open_one(folder) as store:
            refs = 0
            began = perf_counter()
            while not refs or perf_counter() < began + seconds:
                async for _ref in store.list_refs():
                    refs += 1
            result = refs / (perf_counter() - began)
        return result

    return run
