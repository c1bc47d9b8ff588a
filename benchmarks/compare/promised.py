"""The ratios that the library promises, and replicas of different kinds of stores."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio_replica as replica
from trio_replica import Blob, MemoryStore, Ref, RetryingStore, Store

from . import workloads
from .made_stores import Databases, Sink, SlowStore, lists
from .rounds import Comparison, Variant

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
    from pathlib import Path

    from .rounds import Run

BATCH: Final = 64
"""Blobs in one put_many or get_many."""

SIZE: Final = workloads.SIZES["4 KiB"]

SQLITE: Final = workloads.sqlite
TWO: Final = workloads.replicated(SQLITE, 2)


def promised(scale: int) -> Iterator[Comparison]:
    """Return the comparisons with promised ratios. Listings are of 10 times and twice `scale` refs."""
    yield from _puts()
    yield _gets()
    yield from replicas_of_2()
    yield drains("sqlite", "4 KiB", group="promised", at_least=0.9)
    yield Comparison(
        "promised",
        "memory put, 100 B, 1 caller",
        "blobs/s",
        [
            Variant("three bare puts", _three_puts(100)),
            Variant(
                "replica of 2 and 1 async",
                workloads.puts(workloads.replicated(workloads.memory, 2, 1, queue_size=64), 1, 100),
                at_least=1 / 5,
            ),
        ],
    )
    yield from _listings(scale)
    yield Comparison(
        "promised",
        "get, memory stores that take 1 ms and 100 ms",
        "1/p99, per s",
        [
            Variant("the fast store", _tails([0.001], scale)),
            Variant("replica of both", _tails([0.001, 0.1], scale), at_least=1 / 1.2),
        ],
    )


def _puts() -> Iterator[Comparison]:
    yield Comparison(
        "promised",
        "SQLite put, 4 KiB, 64 callers",
        "blobs/s",
        [
            Variant("bare store", workloads.puts(SQLITE, 64, SIZE)),
            Variant("replica of 2", workloads.puts(TWO, 64, SIZE), at_least=0.8 / 2),
            Variant(
                "replica of 2 and 1 async, to the end of the block",
                workloads.puts_until_drained(SQLITE, 64, SIZE),
                at_least=0.8 / 3,
            ),
        ],
    )
    yield Comparison(
        "promised",
        "SQLite put of many, 4 KiB, replica of 2",
        "blobs/s",
        [
            Variant("put, 64 callers", workloads.puts(TWO, 64, SIZE)),
            Variant("put_many of 1000", workloads.puts_of_many(TWO, 1000, SIZE), at_least=1.7),
        ],
    )
    for number, at_least in ((64, 0.75), (16, 0.7)):
        yield Comparison(
            "promised",
            f"SQLite put, 4 KiB, {number} callers, 2 sync stores, 1 async that keeps nothing",
            "blobs/s",
            [
                Variant("no outbox", workloads.puts(_with_sink(outbox=False), number, SIZE)),
                Variant("an outbox", workloads.puts(_with_sink(outbox=True), number, SIZE), at_least=at_least),
            ],
        )


def _gets() -> Comparison:
    def gets(stores: int, **options: Any) -> Run:
        return workloads.gets(workloads.replicated(SQLITE, stores, **options), 64, SIZE)

    return Comparison(
        "promised",
        "SQLite get, 4 KiB, 64 callers",
        "blobs/s",
        [
            Variant("bare store", workloads.gets(SQLITE, 64, SIZE)),
            Variant("replica of 1, verify=False", gets(1, verify=False), at_least=0.8),
            Variant("replica of 1", gets(1), at_least=0.65),
            Variant("replica of 2, hedge_delay=0.05", gets(2, hedge_delay=0.05), at_least=0.5),
        ],
    )


def replicas_of_2() -> Iterator[Comparison]:
    """Compare replicas of two stores of the same kind and of different kinds: all kinds are called in one way."""
    kinds = {
        "sqlite + memory": _replica_of(SQLITE, workloads.memory),
        "sqlite + RetryingStore(sqlite)": _replica_of(SQLITE, _retrying),
    }
    at_least = {
        ("get", "sqlite + memory"): 1.0,
        ("put", "sqlite + RetryingStore(sqlite)"): 0.8,
        ("get", "sqlite + RetryingStore(sqlite)"): 0.8,
    }
    for operation, work in (("put", workloads.puts), ("get", workloads.gets)):
        yield Comparison(
            "replicas of 2",
            f"{operation}, 4 KiB, 64 callers",
            "blobs/s",
            [
                Variant("sqlite + sqlite", work(TWO, 64, SIZE)),
                *(
                    Variant(name, work(opener, 64, SIZE), at_least.get((operation, name)))
                    for name, opener in kinds.items()
                ),
            ],
        )
        yield Comparison(
            "replicas of 2",
            f"{operation}, 4 KiB, 64 callers, in memory",
            "blobs/s",
            [
                Variant("bare MemoryStore", work(workloads.memory, 64, SIZE)),
                Variant("memory + memory", work(workloads.replicated(workloads.memory, 2), 64, SIZE)),
            ],
        )


def _replica_of(*openers: workloads.Opener) -> workloads.Opener:
    """Return a function that opens a replica of stores of different kinds."""

    @asynccontextmanager
    async def open_replica(folder: Path) -> AsyncGenerator[Store, None]:
        async with AsyncExitStack() as stack:
            stores = []
            for place, open_one in enumerate(openers):
                inner = folder / str(place)
                inner.mkdir()
                stores.append(await stack.enter_async_context(open_one(inner)))
            yield await stack.enter_async_context(replica.open(stores))

    return open_replica


@asynccontextmanager
async def _retrying(folder: Path) -> AsyncGenerator[Store, None]:
    async with SQLITE(folder) as store:
        yield RetryingStore(store)


def _listings(scale: int) -> Iterator[Comparison]:
    for overlap in (0.0, 0.5, 1.0):
        opened = partial(lists, 10 * scale, overlap)
        yield Comparison(
            "promised",
            f"list_refs, memory, 2 x {10 * scale:,} refs, {overlap:.0%} in both",
            "refs/s",
            [
                Variant("all pages, then sorted(set(a).union(b))", _unions_of_all(opened)),
                Variant("replica of 2", workloads.listings(_opening_lists(opened)), at_least=0.6),
            ],
        )
    databases = Databases(2 * scale)
    yield Comparison(
        "promised",
        f"list_refs, SQLite, 2 x {2 * scale:,} refs, 50% in both",
        "refs/s",
        [
            Variant("bare store", workloads.listings(partial(databases.open, replicated=False))),
            Variant("replica of 2", workloads.listings(partial(databases.open, replicated=True)), at_least=1 / 2.5),
        ],
    )


def drains(store: str, size: str, *, group: str = "", at_least: float | None = None) -> Comparison:
    """Compare how fast the async store of a replica is written, with the same writes by hand."""
    opener, length = workloads.OPENERS[store], workloads.SIZES[size]
    return Comparison(
        group or f"drain, {store}",
        f"async drain into {store}, {size}, batches of {BATCH}",
        "blobs/s",
        [
            Variant("bare put_many", workloads.drains(opener, BATCH, length, through_replica=False)),
            Variant(
                "async store of a replica", workloads.drains(opener, BATCH, length, through_replica=True), at_least
            ),
        ],
    )


def _with_sink(*, outbox: bool) -> workloads.Opener:
    """Return a function that opens a replica of two SQLite stores, and a sink to write to."""

    @asynccontextmanager
    async def open_replica(folder: Path) -> AsyncGenerator[Store, None]:
        async with (
            workloads.open_all(workloads.sqlite, folder, 2) as stores,
            replica.open(
                stores, {"sink": Sink()}, queue_size=BATCH, outbox=folder / "outbox.db" if outbox else None
            ) as store,
        ):
            yield store

    return open_replica


def _three_puts(size: int) -> Run:
    """Put each blob to three stores in memory, one after another."""

    async def run(_: Path, seconds: float) -> float:
        payload = workloads.payloads(size)
        stores = [MemoryStore() for _ in range(3)]

        async def put() -> None:
            blob = Blob(payload())
            for store in stores:
                await store.put(blob)

        return await workloads.rate(1, put, seconds)

    return run


def _opening_lists(stores: Callable[[], tuple[Store, Store]]) -> workloads.Opener:
    return lambda _: replica.open(stores())


def _unions_of_all(stores: Callable[[], tuple[Store, Store]]) -> Run:
    """Fetch all pages of two stores, and make one sorted list of them, again and again."""

    async def all_refs(store: Store) -> list[Ref]:
        refs: list[Ref] = []
        after = Ref.ZERO
        while page := await store.list_page(after, 1000):
            refs += page
            after = page[-1]
        return refs

    async def run(_: Path, seconds: float) -> float:
        opened = stores()
        refs = 0
        began = perf_counter()
        while perf_counter() < began + seconds:
            one, other = [await all_refs(store) for store in opened]
            refs += len(sorted(set(one).union(other)))
        return refs / (perf_counter() - began)

    return run


def _tails(times: Sequence[float], scale: int) -> Run:
    """Get one blob again and again from stores that take so long, and return the reciprocal of the 99th percentile."""

    async def run(_: Path, seconds: float) -> float:  # noqa: ARG001  (as many as the percentile needs)
        stores = [SlowStore(time) for time in times]
        for one in stores:
            await one.put(b"blob")
        ref = Ref.of(b"blob")
        latencies: list[float] = []
        async with AsyncExitStack() as stack:
            store: Store = stores[0]
            if len(stores) > 1:
                store = await stack.enter_async_context(replica.open(stores))
            for _get in range(max(200, scale // 70)):  # 10,000 in 7 rounds
                began = perf_counter()
                await store.get(ref)
                latencies.append(perf_counter() - began)
        return 1 / sorted(latencies)[int(len(latencies) * 0.99)]

    return run
