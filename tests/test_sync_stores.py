"""The reads of a replica: the first good answer, the many, and the union, under the mock clock with exact times."""

from __future__ import annotations

import gc
import hashlib
import math
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_replica as replica
from trio_replica import (
    Blob,
    BlobNotFoundError,
    CorruptBlobError,
    MemoryStore,
    Ref,
    ReplicaError,
    StoreError,
)
from trio_replica._sync import sync_stores as _sync_stores
from trio_replica.stores._started import StartedStore
from trio_replica.testing import SimulatedStore

from .common import BROKEN, DATA, REF, Ended, open_answering, without_gc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trio_replica import Cancel, Done


# The first good answer

HITS: list[tuple[list[tuple[str, float]], float, int]] = [
    # the stores' answers and delays, when the get returns, which store wins
    ([("hit", 1)], 1, 0),
    ([("hit", 1), ("hit", 3)], 1, 0),
    ([("hit", 3), ("hit", 1)], 1, 1),
    ([("miss", 1), ("hit", 3)], 3, 1),
    ([("error", 1), ("hit", 3)], 3, 1),
    ([("corrupt", 1), ("hit", 3)], 3, 1),
    ([("hit", 2), ("error", 3)], 2, 0),
    ([("hit", 2), ("hang", 0)], 2, 0),
    ([("hang", 0), ("corrupt", 1), ("error", 2), ("miss", 3), ("hit", 4), ("hit", 5)], 4, 4),
]


@pytest.mark.parametrize(("scenario", "at", "winner"), HITS)
async def test_the_first_good_answer_wins(
    autojump_clock: MockClock, scenario: list[tuple[str, float]], at: float, winner: int
) -> None:
    stores = await open_answering(*scenario)
    async with replica.open(stores) as store:
        tasks = trio.lowlevel.current_statistics().tasks_living
        assert await store.get(REF) == DATA
        assert trio.current_time() == at
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        won = [counts.gets_won for counts in store.statistics().sync_stores.values()]
        assert won == [int(place == winner) for place in range(len(stores))]
    for (answer, delay), each in zip(scenario, stores, strict=True):
        call = each.calls[-1]
        assert call.ended == min(delay, at) or answer == "hang"
        assert isinstance(call.error, trio.Cancelled) == (delay > at or answer == "hang")


MISSES: list[tuple[list[tuple[str, float]], float, dict[str, type[Exception]] | None]] = [
    # the stores' answers and delays, when the get ends, what failed (None: not found)
    ([("miss", 1)], 1, None),
    ([("miss", 1), ("miss", 3)], 3, None),
    ([("error", 2)], 2, {"sync-0": OSError}),
    ([("corrupt", 2)], 2, {"sync-0": CorruptBlobError}),
    ([("error", 1), ("miss", 3)], 3, {"sync-0": OSError}),
    ([("miss", 1), ("error", 3)], 3, {"sync-1": OSError}),
    ([("corrupt", 1), ("error", 2), ("miss", 0)], 2, {"sync-0": CorruptBlobError, "sync-1": OSError}),
]


@pytest.mark.parametrize(("scenario", "at", "failed"), MISSES)
@pytest.mark.parametrize("hedge_delay", [0, math.inf])
async def test_no_good_answer(
    autojump_clock: MockClock,
    scenario: list[tuple[str, float]],
    at: float,
    failed: dict[str, type[Exception]] | None,
    hedge_delay: float,
) -> None:
    async with replica.open(await open_answering(*scenario), hedge_delay=hedge_delay) as store:
        with pytest.raises(BlobNotFoundError if failed is None else StoreError) as caught:
            await store.get(REF)
        assert trio.current_time() == (at if hedge_delay == 0 else sum(delay for _, delay in scenario))
        assert isinstance(caught.value, (BlobNotFoundError, StoreError))
        assert caught.value.ref == REF
        if isinstance(caught.value, StoreError):
            assert caught.value.operation == "get"
            assert {name: type(error) for name, error in caught.value.failures.items()} == failed
        failures = {name: counts.get_failures for name, counts in store.statistics().sync_stores.items()}
        assert {name for name, count in failures.items() if count} == set(failed or {})


async def test_a_corrupt_answer_says_what_it_is(autojump_clock: MockClock) -> None:
    (corrupt,) = await open_answering(("corrupt", 1))
    async with replica.open([corrupt]) as store:
        with pytest.raises(StoreError) as caught:
            await store.get(REF)
    error = caught.value.__cause__
    assert isinstance(error, CorruptBlobError)
    assert (error.ref, error.actual) == (REF, Ref.of(corrupt.blobs[REF]))


async def test_an_answer_that_is_no_bytes(autojump_clock: MockClock) -> None:
    class Odd(SimulatedStore):
        async def get(self, ref: Ref) -> Any:
            await super().get(ref)
            return "text"

    odd = Odd()
    await odd.put(DATA)
    async with replica.open([odd]) as store:
        with pytest.raises(StoreError, match="TypeError"):
            await store.get(REF)


async def test_unverified_answers_are_trusted(autojump_clock: MockClock) -> None:
    (corrupt,) = await open_answering(("corrupt", 1))
    async with replica.open([corrupt], verify=False) as store:
        assert Ref.of(await store.get(REF)) != REF
        assert (await store.get_many([REF])).keys() == {REF}


async def test_a_loser_whose_cleanup_raises(autojump_clock: MockClock) -> None:
    class Clumsy(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise BROKEN

    async with replica.open([Clumsy(), (await open_answering(("hit", 1)))[0]]) as store:
        assert await store.get(REF) == DATA
        assert trio.current_time() == 1
        assert store.statistics().sync_stores["sync-0"].get_failures == 0


@pytest.mark.parametrize("verify", [True, False])
async def test_a_loser_that_can_not_be_interrupted(autojump_clock: MockClock, verify: bool) -> None:
    class Stubborn(SimulatedStore):
        interruptible = False

        async def get(self, ref: Ref) -> bytes:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            raise BROKEN

        async def get_many(self, refs: Any) -> dict[Ref, bytes]:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            return {REF: b"wrong"}

    async with replica.open([Stubborn(), (await open_answering(("hit", 1)))[0]], verify=verify) as store:
        assert await store.get(REF) == DATA
        assert trio.current_time() == 5
        assert await store.get_many([REF]) == {REF: DATA}
        assert store.statistics().sync_stores["sync-0"] == replica.SyncStoreStatistics(0, 0, 0, 0)


async def test_large_answers_are_hashed_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(2**20 + 1)
    stores = [MemoryStore(), MemoryStore()]
    for each in stores:
        await each.put(data)
    threads: list[threading.Thread] = []
    real = hashlib.sha256

    def sha256(content: bytes) -> object:
        threads.append(threading.current_thread())
        return real(content)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    async with replica.open(stores) as store:
        ref = Ref(real(data).digest())
        assert await store.get(ref) == data
        assert await store.get_many([ref]) == {ref: data}
    assert threads
    assert threading.main_thread() not in threads


# Hedged gets

HEDGED: list[tuple[list[tuple[str, float]], float, float, list[float]]] = [
    # the stores' answers and delays, the hedge delay, when the get returns, when each store was asked
    ([("hit", 1), ("hit", 1)], 2, 1, [0]),
    ([("hit", 5), ("hit", 1)], 2, 3, [0, 2]),
    ([("hit", 3), ("hit", 5)], 2, 3, [0, 2]),
    ([("miss", 1), ("hit", 1)], 2, 2, [0, 1]),
    ([("error", 1), ("hit", 1)], 2, 2, [0, 1]),
    ([("corrupt", 1), ("hit", 1)], 2, 2, [0, 1]),
    ([("hang", 0), ("miss", 1), ("hit", 1)], 2, 4, [0, 2, 3]),
    ([("hang", 0), ("hang", 0), ("hit", 1)], 2, 5, [0, 2, 4]),
    ([("miss", 4), ("miss", 4), ("hit", 1)], 2, 5, [0, 2, 4]),
    ([("miss", 7), ("hit", 7)], math.inf, 14, [0, 7]),
    ([("hit", 1000), ("hit", 1)], math.inf, 1000, [0]),
    ([("hit", 3), ("hit", 1)], 0, 1, [0, 0]),
]


@pytest.mark.parametrize(("scenario", "hedge_delay", "at", "asked"), HEDGED)
async def test_a_hedged_get(
    autojump_clock: MockClock,
    scenario: list[tuple[str, float]],
    hedge_delay: float,
    at: float,
    asked: list[float],
) -> None:
    stores = await open_answering(*scenario)
    async with replica.open(stores, hedge_delay=hedge_delay) as store:
        assert await store.get(REF) == DATA
        assert trio.current_time() == at
        began = [call.started for each in stores for call in each.calls if call.operation == "get"]
        assert began == asked
        assert await store.get_many([REF]) == {REF: DATA}
        assert trio.current_time() == 2 * at
        assert await store.contains(REF)


# Many

MANY = [b"%d" % number for number in range(10)]


async def test_get_many_takes_each_blob_from_whoever_has_it(autojump_clock: MockClock) -> None:
    one, two = SimulatedStore(get=1), SimulatedStore(get=3)
    refs = [(await one.put(data)).ref for data in MANY[:6]] + [(await two.put(data)).ref for data in MANY[4:]][2:]
    one.corrupt(refs[5])
    async with replica.open([one, two]) as store:
        assert await store.get_many([*refs, refs[0], REF]) == dict(zip(refs, MANY, strict=True))
        counts = store.statistics().sync_stores
        assert (counts["sync-0"].gets_won, counts["sync-1"].gets_won) == (5, 5)
        assert (counts["sync-0"].get_failures, counts["sync-1"].get_failures) == (1, 0)
        assert list(await store.get_many([refs[7], refs[2]])) == [refs[7], refs[2]], "in the order asked for"


async def test_get_many_ends_when_all_are_found(autojump_clock: MockClock) -> None:
    one, two = await open_answering(("hit", 1), ("hang", 0))
    async with replica.open([one, two]) as store:
        assert await store.get_many([REF]) == {REF: DATA}
        assert trio.current_time() == 1


async def test_get_many_asks_the_next_store_only_for_what_is_missing(autojump_clock: MockClock) -> None:
    one, two = SimulatedStore(get=1), SimulatedStore(get=1)
    await one.put(b"in one")
    await two.put_many([b"in one", b"in two"])
    async with replica.open([one, two], hedge_delay=math.inf) as store:
        assert len(await store.get_many([Ref.of(b"in one"), Ref.of(b"in two")])) == 2
        assert [call.refs for call in two.calls[1:]] == [(Ref.of(b"in two"),)]


async def test_get_many_tells_an_error_from_a_miss(autojump_clock: MockClock) -> None:
    for scenario, failed in [
        ([("miss", 1), ("miss", 1)], None),
        ([("miss", 1), ("error", 1)], {"sync-1"}),
        ([("corrupt", 1), ("miss", 1)], {"sync-0"}),
        ([("corrupt", 1), ("error", 1)], {"sync-0", "sync-1"}),
    ]:
        async with replica.open(await open_answering(*scenario)) as store:
            if failed is None:
                assert await store.get_many([REF]) == {}
            else:
                with pytest.raises(StoreError) as caught:
                    await store.get_many([REF])
                assert set(caught.value.failures) == failed
                assert (caught.value.operation, caught.value.ref) == ("get_many", None)


async def test_a_corrupt_blob_fails_only_those_who_ask_for_it(autojump_clock: MockClock) -> None:
    one, two = SimulatedStore(), SimulatedStore()
    await one.put_many([DATA, b"other"])
    one.corrupt(REF)
    async with replica.open([one, two]) as store:
        assert await store.get_many([Ref.of(b"other"), Ref.ZERO]) == {Ref.of(b"other"): b"other"}
        with pytest.raises(StoreError):
            await store.get_many([Ref.of(b"other"), REF])


async def test_answers_that_were_not_asked_for_are_ignored(autojump_clock: MockClock) -> None:
    class Chatty(SimulatedStore):
        async def get_many(self, refs: Any) -> dict[Ref, bytes]:
            return {**await super().get_many(refs), Ref.of(b"more"): b"more"}

    chatty = Chatty()
    await chatty.put(DATA)
    async with replica.open([chatty]) as store:
        assert await store.get_many([REF, Ref.ZERO]) == {REF: DATA}


async def test_an_answer_to_get_many_with_what_is_no_bytes(autojump_clock: MockClock) -> None:
    class Odd(SimulatedStore):
        async def get_many(self, refs: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return dict.fromkeys(refs, bytearray(DATA)) if self.blobs else dict.fromkeys(refs, "text")

    good, odd = Odd(), Odd()
    await good.put(DATA)
    async with replica.open([good]) as store:
        assert await store.get_many([REF]) == {REF: DATA}
    async with replica.open([odd]) as store:
        with pytest.raises(StoreError, match="get_many failed: sync-0: TypeError"):
            await store.get_many([REF])


@pytest.mark.parametrize("verify", [True, False])
async def test_an_answer_to_get_many_that_is_no_mapping(autojump_clock: MockClock, verify: bool) -> None:
    class Odd(SimulatedStore):
        async def get_many(self, refs: Any) -> Any:
            await super().get_many(refs)

    async with replica.open([Odd(), Odd()], verify=verify) as store:
        with pytest.raises(StoreError, match="get_many failed: sync-"):
            await store.get_many([REF])


async def test_many_stores_are_asked_through_their_own_get_many(autojump_clock: MockClock) -> None:
    async with replica.open([MemoryStore(), MemoryStore()]) as store:
        with trio.testing.assert_checkpoints():
            assert await store.get_many([]) == {}
        with pytest.raises(TypeError, match=r"a ref is a trio_replica\.Ref, not str"):
            await store.get_many(["text"])  # type: ignore[list-item]


# Contains


@pytest.mark.parametrize(
    ("scenario", "expected", "at"),
    [
        ([("hit", 1)], True, 1),
        ([("miss", 1)], False, 1),
        ([("miss", 1), ("hit", 3)], True, 3),
        ([("hit", 1), ("miss", 3)], True, 1),
        ([("hit", 1), ("hang", 3)], True, 1),
        ([("error", 1), ("hit", 3)], True, 3),
        ([("miss", 1), ("miss", 3)], False, 3),
        ([("miss", 1), ("error", 3)], None, 3),
        ([("error", 1), ("miss", 3)], None, 3),
    ],
)
async def test_contains(
    autojump_clock: MockClock, scenario: list[tuple[str, float]], expected: bool | None, at: float
) -> None:
    async with replica.open(await open_answering(*scenario)) as store:
        if expected is None:
            with pytest.raises(StoreError, match=rf"contains of {REF!s:.12} failed: sync-.: OSError: broken"):
                await store.contains(REF)
        else:
            assert await store.contains(REF) is expected
        assert trio.current_time() == at


# Listing


def numbered(*numbers: int) -> list[Ref]:
    return [Ref(number.to_bytes(32, "big")) for number in numbers]


class Listed(SimulatedStore):
    """A store that lists what it is told, in pages of at most `page_size`."""

    def __init__(self, refs: list[Ref], page_size: int | None = None) -> None:
        super().__init__(page_size=page_size)
        self._blobs = dict.fromkeys(refs, b"")


NUMBERS = st.sets(st.integers(1, 40), max_size=30)


@given(
    contents=st.lists(st.tuples(NUMBERS, st.none() | st.integers(1, 5)), min_size=1, max_size=4),
    limit=st.integers(1, 12),
    after=st.integers(0, 41),
    _=st.random_module(),
)
@pytest.mark.no_cover
def test_the_union_is_exact(contents: list[tuple[set[int], int | None]], limit: int, after: int, _: object) -> None:
    expected = numbered(*sorted(number for number in set().union(*(refs for refs, _ in contents)) if number > after))

    async def main() -> None:
        stores = [Listed(numbered(*refs), page_size) for refs, page_size in contents]
        async with replica.open(stores) as store:
            assert [ref async for ref in store.list_refs(*numbered(after))] == expected
            listed: list[Ref] = numbered(after)
            while page := await store.list_page(listed[-1], limit):
                assert len(page) <= limit
                listed += page
            assert listed[1:] == expected
            for ref in expected[:3]:
                assert await store.contains(ref)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "contents",
    [
        ({1, 2, 5}, {2}),
        (set(range(1, 10)), {2}),
        (set(range(1, 10)), set(range(1, 7))),
        (set(), {3}),
        (set(), set()),
        ({1, 2, 3}, {1, 2, 3}),
        ({1, 3, 5}, {2, 4, 6}),
        (set(range(1, 2500)), set(range(2000, 5000))),
    ],
)
async def test_unions_that_were_seen_to_go_wrong(contents: tuple[set[int], ...]) -> None:
    async with replica.open([Listed(numbered(*refs)) for refs in contents]) as store:
        assert [ref async for ref in store.list_refs()] == numbered(*sorted(set().union(*contents)))


BAD_PAGES: list[tuple[str, Callable[[Ref, int], Any]]] = [
    ("not in ascending order", lambda after, limit: numbered(5, 4)),
    ("not in ascending order", lambda after, limit: numbered(4, 4)),
    ("at most 2 were asked for", lambda after, limit: numbered(*range(3, 4 + limit))),
    ("is not after", lambda after, limit: [after]),
    ("is not after", lambda after, limit: numbered(1)),
    ("not a list of refs", lambda after, limit: None),
    ("not a list of refs", lambda after, limit: (Ref.ZERO,)),
    ("not a list of refs", lambda after, limit: [b"\1" * 32]),
]


@pytest.mark.parametrize(("text", "page"), BAD_PAGES)
async def test_a_bad_page_fails_the_listing(text: str, page: Callable[[Ref, int], Any]) -> None:
    class Bad(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            await trio.lowlevel.checkpoint()
            answer: list[Ref] = page(after, limit)
            return answer

    async with replica.open({"good": Listed(numbered(1, 2, 9)), "bad": Bad()}) as store:
        with pytest.raises(StoreError, match=text) as caught:
            await store.list_page(numbered(2)[0], 2)
        assert type(caught.value.failures["bad"]) is ReplicaError
        assert caught.value.operation == "list_page"


async def test_a_store_that_is_stuck_does_not_loop() -> None:
    class Stuck(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            await trio.lowlevel.checkpoint()
            return numbered(1, 2)

    async with replica.open([Stuck()]) as store:
        seen = []
        with pytest.raises(StoreError, match="is not after"):
            async for ref in store.list_refs():
                seen.append(ref)  # noqa: PERF401  (what was seen before it fails)
        assert seen == numbered(1, 2)


async def test_a_failed_store_fails_the_listing(autojump_clock: MockClock) -> None:
    slow, broken = await open_answering(("hit", 9), ("error", 1))
    async with replica.open([slow, broken]) as store:
        with pytest.raises(StoreError, match="list_page failed: sync-1: OSError: broken"):
            await store.list_page(Ref.ZERO, 10)
        assert trio.current_time() == 1


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_of_nothing(limit: int) -> None:
    async with replica.open([MemoryStore()]) as store:
        with pytest.raises(ValueError, match=f"limit is at least 1, not {limit}"):
            await store.list_page(Ref.ZERO, limit)


async def test_leaving_a_listing_early_leaves_nothing(autojump_clock: MockClock) -> None:
    async with replica.open([Listed(numbered(*range(1, 50)))]) as store:
        tasks = trio.lowlevel.current_statistics().tasks_living
        assert [await anext(store.list_refs())] == numbered(1)
        gc.collect()
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_puts_during_a_listing(autojump_clock: MockClock) -> None:
    stores = [SimulatedStore(page_size=2), SimulatedStore(page_size=3)]
    async with replica.open(stores) as store:
        before = [ref for ref, _ in await store.put_many(MANY)]
        seen: list[Ref] = []
        async for ref in store.list_refs():
            seen.append(ref)
            await store.put(b"later %d" % len(seen))
        assert set(before) <= set(seen)
        assert seen == sorted(set(seen))


@pytest.mark.parametrize("answer", ["missing", "failing", "corrupt"])
async def test_a_get_of_one_store_that_fails_leaves_no_cycle(answer: str) -> None:
    store = SimulatedStore()
    ref = (await store.put(b"blob")).ref
    if answer == "corrupt":
        store.corrupt(ref)
    elif answer == "failing":
        store.fail(BROKEN)
    async with replica.open([store]) as one:
        with without_gc():
            for _ in range(3):
                with pytest.raises((BlobNotFoundError, StoreError)):
                    await one.get(Ref.of(b"missing") if answer == "missing" else ref)
                store.calls.clear()
            assert gc.collect() == 0


class Refusing(StartedStore):
    """A store whose calls can't even be started."""

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        raise ArithmeticError(repr(blob))

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        raise ArithmeticError

    start_put_many = start_get_many = start_contains = start_get  # type: ignore[assignment]

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        raise ArithmeticError


@pytest.mark.parametrize("operation", ["put", "put_many", "get", "get_many", "contains", "list_page"])
@pytest.mark.parametrize("fallback", [[], ["async-0"]], ids=["sync", "with fallback"])
async def test_calls_that_can_not_be_started_leave_no_cycle(operation: str, fallback: list[str]) -> None:
    async with replica.open([Refusing(), Refusing()], [Refusing()], fallback=fallback) as store:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": partial(store.put, b"blob"),
            "put_many": partial(store.put_many, [b"blob", b"other"]),
            "get": partial(store.get, Ref.ZERO),
            "get_many": partial(store.get_many, [Ref.ZERO]),
            "contains": partial(store.contains, Ref.ZERO),
            "list_page": partial(store.list_page, Ref.ZERO, 1),
        }
        with without_gc():
            for _ in range(3):
                with pytest.raises(StoreError, match="sync-0: ArithmeticError"):
                    await calls[operation]()
            assert gc.collect() == 0


async def test_a_put_that_has_just_been_hashed_when_the_replica_closes_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hashed(blob: Blob) -> Blob:
        hashing.set()
        await has_hashed.wait()
        return blob

    hashing, has_hashed = trio.Event(), trio.Event()
    monkeypatch.setattr(_sync_stores, "hashed", hashed)
    store = SimulatedStore()
    async with trio.open_nursery() as nursery:
        async with replica.open([store]) as one:
            put = Ended(nursery, one.put, bytes(2 * 1024 * 1024))
            await hashing.wait()
            has_hashed.set()  # and in the same tick the block ends
    assert isinstance(put.error, trio.ClosedResourceError)
    assert store.calls == []
