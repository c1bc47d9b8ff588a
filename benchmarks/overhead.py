"""What a replica costs over the bare stores that it is made of, and over what a user would write by hand."""

from __future__ import annotations

import random
from bisect import bisect_right
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache, partial
from io import UnsupportedOperation
from time import perf_counter
from typing import TYPE_CHECKING, Final, NoReturn

import trio

import trio_replica as replica
from trio_replica import Blob, MemoryStore, Ref, Store

from . import _by_hand, _work
from ._rounds import Comparison, Variant

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer as BytesLike

    from ._rounds import Run

BATCH: Final = 64
"""Blobs in one put_many or get_many."""

CALLERS_OF_DISKS: Final = 64
SIZE_OF_DISKS: Final = "4 KiB"


def comparisons(
    stores: Sequence[str], callers: Sequence[int], sizes: Sequence[str], *, quick: bool
) -> Iterator[Comparison]:
    """Return the comparisons: first those with a figure that the library promises, then all the rest."""
    yield from _promised(1_000 if quick else 100_000)
    for store in stores:
        for size in sizes:
            for number in callers:
                # Where there is a disk, one line of each kind: all of them would take an hour, and a hundred GB.
                if store == "memory" or number == CALLERS_OF_DISKS or size == SIZE_OF_DISKS:
                    yield _puts(store, number, size)
                    yield _gets(store, number, size)
            yield _batches("put_many", _work.puts_of_many, store, size)
            yield _batches("get_many", _work.gets_of_many, store, size)
            yield _drains(store, size)


# What the library promises


def _promised(scale: int) -> Iterator[Comparison]:
    opener, two = _work.sqlite, _work.replicated(_work.sqlite, 2)
    size = _work.SIZES["4 KiB"]
    yield Comparison(
        "promised",
        "SQLite put, 4 KiB, 64 callers",
        "blobs/s",
        [
            Variant("bare store", _work.puts(opener, 64, size)),
            Variant("replica of 2", _work.puts(two, 64, size), at_least=0.8 / 2),
            Variant(
                "replica of 2 and 1 async, to the end of the block",
                _work.puts_until_drained(opener, 64, size),
                at_least=0.8 / 3,
            ),
        ],
    )
    yield Comparison(
        "promised",
        "SQLite put of many, 4 KiB, replica of 2",
        "blobs/s",
        [
            Variant("put, 64 callers", _work.puts(two, 64, size)),
            Variant("put_many of 1000", _work.puts_of_many(two, 1000, size), at_least=1.7),
        ],
    )
    for number, at_least in ((64, 0.75), (16, 0.7)):
        yield Comparison(
            "promised",
            f"SQLite put, 4 KiB, {number} callers, 2 sync stores, 1 async that keeps nothing",
            "blobs/s",
            [
                Variant("no outbox", _work.puts(_with_sink(outbox=False), number, size)),
                Variant("an outbox", _work.puts(_with_sink(outbox=True), number, size), at_least=at_least),
            ],
        )
    yield Comparison(
        "promised",
        "SQLite get, 4 KiB, 64 callers",
        "blobs/s",
        [
            Variant("bare store", _work.gets(opener, 64, size)),
            Variant(
                "replica of 1, verify=False",
                _work.gets(_work.replicated(opener, 1, verify=False), 64, size),
                at_least=0.8,
            ),
            Variant("replica of 1", _work.gets(_work.replicated(opener, 1), 64, size), at_least=0.65),
            Variant(
                "replica of 2, hedge_delay=0.05",
                _work.gets(_work.replicated(opener, 2, hedge_delay=0.05), 64, size),
                at_least=0.5,
            ),
        ],
    )
    yield _drains("sqlite", "4 KiB", group="promised", at_least=0.9)
    yield Comparison(
        "promised",
        "memory put, 100 B, 1 caller",
        "blobs/s",
        [
            Variant("three bare puts", _three_puts(100)),
            Variant(
                "replica of 2 and 1 async",
                _work.puts(_work.replicated(_work.memory, 2, 1, queue_size=64), 1, 100),
                at_least=1 / 5,
            ),
        ],
    )
    for overlap in (0.0, 0.5, 1.0):
        opened = partial(_lists, 10 * scale, overlap)
        yield Comparison(
            "promised",
            f"list_refs, memory, 2 x {10 * scale:,} refs, {overlap:.0%} in both",
            "refs/s",
            [
                Variant("all pages, then sorted(set(a).union(b))", _unions_of_all(opened)),
                Variant("replica of 2", _work.listings(_opening_lists(opened)), at_least=0.6),
            ],
        )
    databases = _Databases(2 * scale)
    yield Comparison(
        "promised",
        f"list_refs, SQLite, 2 x {2 * scale:,} refs, 50% in both",
        "refs/s",
        [
            Variant("bare store", _work.listings(partial(databases.open, replicated=False))),
            Variant("replica of 2", _work.listings(partial(databases.open, replicated=True)), at_least=1 / 2.5),
        ],
    )
    yield Comparison(
        "promised",
        "get, memory stores that take 1 ms and 100 ms",
        "1/p99, per s",
        [
            Variant("the fast store", _tails([0.001], scale)),
            Variant("replica of both", _tails([0.001, 0.1], scale), at_least=1 / 1.2),
        ],
    )


class _Sink(Store):
    """A store that keeps nothing, and takes no time for it."""

    async def put(self, blob: Blob | BytesLike) -> replica.PutResult:
        await trio.lowlevel.checkpoint()
        return replica.PutResult(Blob(blob).ref, True)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[replica.PutResult]:
        await trio.lowlevel.checkpoint()
        return [replica.PutResult(Blob(blob).ref, True) for blob in blobs]

    async def get(self, ref: Ref) -> NoReturn:
        raise UnsupportedOperation("get")

    async def list_page(self, after: Ref, limit: int) -> NoReturn:
        raise UnsupportedOperation("list_page")


def _with_sink(*, outbox: bool) -> _work.Opener:
    """Return what opens a replica of two SQLite stores, and a sink to be fed."""

    @asynccontextmanager
    async def open_replica(folder: Path) -> AsyncGenerator[Store, None]:
        async with (
            _work.open_all(_work.sqlite, folder, 2) as stores,
            replica.open(
                stores, {"sink": _Sink()}, queue_size=BATCH, outbox=folder / "outbox.db" if outbox else None
            ) as store,
        ):
            yield store

    return open_replica


def _three_puts(size: int) -> Run:
    """Put each blob to three stores in memory, one after another."""

    async def run(_: Path, seconds: float) -> float:
        payload = _work.payloads(size)
        stores = [MemoryStore() for _ in range(3)]

        async def put() -> None:
            blob = Blob(payload())
            for store in stores:
                await store.put(blob)

        return await _work.rate(1, put, seconds)

    return run


class _ListStore(Store):
    """A store of refs that can only be listed."""

    def __init__(self, refs: list[Ref]) -> None:
        self._refs = refs

    async def put(self, blob: object) -> NoReturn:
        raise UnsupportedOperation("put")

    async def get(self, ref: Ref) -> NoReturn:
        raise UnsupportedOperation("get")

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        first = bisect_right(self._refs, after)
        return self._refs[first : first + limit]


@lru_cache(maxsize=1)
def _lists(number: int, overlap: float) -> tuple[Store, Store]:
    source = random.Random(number)

    def refs(length: int) -> list[Ref]:
        return [Ref(source.randbytes(32)) for _ in range(length)]

    common = refs(int(number * overlap))
    one, other = (_ListStore(sorted(common + refs(number - len(common)))) for _ in range(2))
    return one, other


def _opening_lists(stores: Callable[[], tuple[Store, Store]]) -> _work.Opener:
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
        while not refs or perf_counter() < began + seconds:
            one, other = [await all_refs(store) for store in opened]
            refs += len(sorted(set(one).union(other)))
        return refs / (perf_counter() - began)

    return run


class _Databases:
    """Two SQLite stores to be listed, half of whose refs are in both. They are filled when they are first opened."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._folders: list[Path] = []

    @asynccontextmanager
    async def open(self, folder: Path, *, replicated: bool) -> AsyncGenerator[Store, None]:
        if not self._folders:
            await self._fill(folder)
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(_work.sqlite(place)) for place in self._folders]
            yield await stack.enter_async_context(replica.open(stores)) if replicated else stores[0]

    async def _fill(self, folder: Path) -> None:
        for place in range(2):
            one = folder / str(place)
            one.mkdir()
            async with _work.sqlite(one, durable=False) as store:
                first = place * self._number // 2
                for number in range(first, first + self._number, 1000):
                    await store.put_many(b"%d" % i for i in range(number, min(number + 1000, first + self._number)))
            self._folders.append(one)


class _SlowStore(Store):
    """A store in memory, each of whose gets takes some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._blobs = MemoryStore()

    async def put(self, blob: Blob | BytesLike) -> replica.PutResult:
        return await self._blobs.put(blob)

    async def get(self, ref: Ref) -> bytes:
        await trio.sleep(self._seconds)
        return await self._blobs.get(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._blobs.list_page(after, limit)


def _tails(times: Sequence[float], scale: int) -> Run:
    """Get one blob again and again from stores that take so long, and return the reciprocal of the 99th percentile."""

    async def run(_: Path, seconds: float) -> float:  # noqa: ARG001  (as many as the percentile needs)
        stores = [_SlowStore(time) for time in times]
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


# All the rest


def _described(callers: int, size: str) -> str:
    return f"{size}, {callers} callers" if callers > 1 else f"{size}, 1 caller"


def _puts(store: str, callers: int, size: str) -> Comparison:
    opener, length = _work.OPENERS[store], _work.SIZES[size]
    variants = [
        Variant("bare store", _work.puts(opener, callers, length)),
        Variant("replica of 1", _work.puts(_work.replicated(opener, 1), callers, length)),
        Variant("replica of 2", _work.puts(_work.replicated(opener, 2), callers, length)),
        Variant(
            "replica of 2 and 1 async, to the end of the block",
            _work.puts_until_drained(opener, callers, length),
        ),
    ]
    if store == "sqlite":
        variants.append(Variant("2 databases by hand", _by_hand.puts_into_sqlite(2, callers, length)))
    return Comparison(f"put, {store}", _described(callers, size), "blobs/s", variants)


def _gets(store: str, callers: int, size: str) -> Comparison:
    opener, length = _work.OPENERS[store], _work.SIZES[size]
    variants = [
        Variant("bare store", _work.gets(opener, callers, length)),
        Variant("replica of 1", _work.gets(_work.replicated(opener, 1), callers, length)),
        Variant("replica of 2", _work.gets(_work.replicated(opener, 2), callers, length)),
        Variant("replica of 2, hedged", _work.gets(_work.replicated(opener, 2, hedge_delay=0.05), callers, length)),
    ]
    if store == "sqlite":
        variants.append(Variant("1 database by hand", _by_hand.gets_from_sqlite(4, callers, length)))
    return Comparison(f"get, {store}", _described(callers, size), "blobs/s", variants)


def _batches(operation: str, work: Callable[[_work.Opener, int, int], Run], store: str, size: str) -> Comparison:
    opener, length = _work.OPENERS[store], _work.SIZES[size]
    return Comparison(
        f"{operation}, {store}",
        f"{size}, {BATCH} at once",
        "blobs/s",
        [
            Variant("bare store", work(opener, BATCH, length)),
            Variant("replica of 1", work(_work.replicated(opener, 1), BATCH, length)),
            Variant("replica of 2", work(_work.replicated(opener, 2), BATCH, length)),
        ],
    )


def _drains(store: str, size: str, *, group: str = "", at_least: float | None = None) -> Comparison:
    opener, length = _work.OPENERS[store], _work.SIZES[size]
    return Comparison(
        group or f"drain, {store}",
        f"async drain into {store}, {size}, batches of {BATCH}",
        "blobs/s",
        [
            Variant("bare put_many", _work.drains(opener, BATCH, length, through_replica=False)),
            Variant("async store of a replica", _work.drains(opener, BATCH, length, through_replica=True), at_least),
        ],
    )
