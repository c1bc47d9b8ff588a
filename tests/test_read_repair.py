"""Read repair: the fallback, and what is written back, under the mock clock with exact times; and real stores."""

from __future__ import annotations

import gc
import math
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import (
    Blob,
    BlobNotFoundError,
    CorruptBlobError,
    MemoryStore,
    PoisonedError,
    PutResult,
    Ref,
    StoreError,
    SyncStoreStatistics,
)
from trio_replica._sync import repairs as _repairs
from trio_replica.testing import SimulatedStore

from .common import BROKEN, DATA, REF, Ended, PlainStore, open_and_close, open_answering, put_numbers, refs, without_gc

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica import DeletableStore, ReplicaStore
    from trio_replica._blob import BytesLike


Scenario = list[tuple[str, float]]


def asked(store: SimulatedStore, operation: str) -> list[float]:
    """Return when a store was asked for something."""
    return [call.started for call in store.calls if call.operation == operation]


def writes(store: SimulatedStore) -> list[tuple[str, float]]:
    """Return what was written to a store since the test began, but for what it had from its beginning, and when."""
    calls = [(call.operation, call.started) for call in store.calls if call.operation in ("put", "replace")]
    return calls[1:] if store.calls and store.calls[0].operation == "put" else calls


def repairs(store: ReplicaStore) -> list[tuple[int, int]]:
    """Return how many blobs were repaired in each sync store, and how many could not be."""
    return [(counts.repaired, counts.unrepairable) for counts in store.statistics().sync_stores.values()]


async def read(store: ReplicaStore, operation: str) -> bytes | None:
    """Return the blob by one of the operations that do; None if it is not there."""
    if operation == "get_many":
        return (await store.get_many([REF])).get(REF)
    try:
        return await store.get(REF)
    except BlobNotFoundError as error:
        assert error.ref == REF
        return None


OPERATIONS = pytest.mark.parametrize("operation", ["get", "get_many"])


# The fallback

FALLBACK: list[tuple[Scenario, Scenario, float, set[str] | None]] = [
    # what the sync stores and those of the fallback answer, and when; when the read ends; what failed (None: a hit)
    ([("hit", 1)], [("hit", 1)], 1, None),
    ([("miss", 1)], [("hit", 2)], 3, None),
    ([("error", 1)], [("hit", 2)], 3, None),
    ([("corrupt", 1)], [("hit", 2)], 3, None),
    ([("miss", 1), ("error", 3), ("corrupt", 2)], [("hit", 1)], 4, None),
    ([("miss", 1)], [("hit", 3), ("hit", 1)], 2, None),
    ([("miss", 1)], [("hang", 0), ("miss", 1), ("corrupt", 2), ("error", 3), ("hit", 4)], 5, None),
    ([("miss", 1)], [("miss", 2)], 3, set()),
    ([("miss", 1)], [("miss", 2), ("miss", 1)], 3, set()),
    ([("error", 1)], [("miss", 2)], 3, {"sync-0"}),
    ([("miss", 1)], [("error", 2)], 3, {"async-0"}),
    ([("miss", 1)], [("miss", 3), ("corrupt", 2)], 4, {"async-1"}),
    ([("corrupt", 1)], [("corrupt", 2)], 3, {"sync-0", "async-0"}),
    ([("error", 1), ("corrupt", 2)], [("error", 3), ("miss", 1)], 5, {"sync-0", "sync-1", "async-0"}),
]


@OPERATIONS
@pytest.mark.parametrize(("sync", "spare", "at", "failed"), FALLBACK)
async def test_the_fallback_is_asked_after_the_sync_stores(
    autojump_clock: MockClock,
    *,
    operation: str,
    sync: Scenario,
    spare: Scenario,
    at: float,
    failed: set[str] | None,
) -> None:
    stores, others = await open_answering(*sync), await open_answering(*spare)
    async with replica.open(stores, others, fallback=[f"async-{place}" for place in range(len(others))]) as store:
        tasks = trio.lowlevel.current_statistics().tasks_living
        if failed:
            with pytest.raises(StoreError) as caught:
                await read(store, operation)
            assert caught.value.operation == operation
            assert caught.value.ref == (None if operation == "get_many" else REF)
            assert caught.value.failures.keys() == failed
        else:
            assert await read(store, operation) == (DATA if failed is None else None)
        assert trio.current_time() == at
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert [counts.failure for counts in store.statistics().async_stores.values()] == [None] * len(others)
        assert repairs(store) == [(0, 0)] * len(stores)
    assert bool(asked(others[0], "get")) == (sync != [("hit", 1)])
    assert [writes(each) for each in stores] == [[]] * len(stores)


CONTAINS: list[tuple[Scenario, Scenario, float, bool | set[str]]] = [
    # what the sync stores and those of the fallback answer, and when; when it ends; the answer, or what failed
    ([("hit", 1)], [("hang", 0)], 1, True),
    ([("miss", 1)], [("hit", 2)], 3, True),
    ([("error", 1)], [("hang", 0), ("hit", 2)], 3, True),
    ([("miss", 1)], [("miss", 2)], 3, False),
    ([("error", 1)], [("miss", 2)], 3, {"sync-0"}),
    ([("miss", 1)], [("error", 2)], 3, {"async-0"}),
    ([("error", 1)], [("error", 2)], 3, {"sync-0", "async-0"}),
]


@pytest.mark.parametrize(("sync", "spare", "at", "expected"), CONTAINS)
async def test_contains_asks_the_fallback_too(
    autojump_clock: MockClock, sync: Scenario, spare: Scenario, at: float, expected: bool | set[str]
) -> None:
    stores, others = await open_answering(*sync), await open_answering(*spare)
    async with replica.open(stores, others, fallback=[f"async-{place}" for place in range(len(others))]) as store:
        if isinstance(expected, set):
            with pytest.raises(StoreError) as caught:
                await store.contains(REF)
            assert (caught.value.operation, caught.value.ref) == ("contains", REF)
            assert caught.value.failures.keys() == expected
        else:
            assert await store.contains(REF) is expected
        assert trio.current_time() == at


@OPERATIONS
@pytest.mark.parametrize(("hedge_delay", "at", "began"), [(2, 5, [2, 4]), (math.inf, 6, [2, 5]), (0, 3, [2, 2])])
async def test_a_hedged_fallback(
    autojump_clock: MockClock, operation: str, hedge_delay: float, at: float, began: list[float]
) -> None:
    stores, others = await open_answering(("miss", 2)), await open_answering(("miss", 3), ("hit", 1))
    async with replica.open(stores, others, fallback=["async-0", "async-1"], hedge_delay=hedge_delay) as store:
        assert await read(store, operation) == DATA
        assert trio.current_time() == at
        assert [began for each in others for began in asked(each, "get")] == began


async def test_the_fallback_has_an_order_of_its_own(autojump_clock: MockClock) -> None:
    stores, others = await open_answering(("miss", 1)), await open_answering(*[("hit", 1)] * 3)
    async with replica.open(stores, others, fallback=iter(["async-2", "async-0"]), hedge_delay=5) as store:
        assert await store.get(REF) == DATA
        assert [asked(each, "get") for each in others] == [[], [], [1]]


async def test_get_many_asks_the_fallback_for_what_is_lacking(autojump_clock: MockClock) -> None:
    sync, spare, other = SimulatedStore(get=1), SimulatedStore(get=1), SimulatedStore(get=1)
    one, two, three, four, five = refs(1, 2, 3, 4, 5)
    await put_numbers(sync, [1, 2, 3])
    sync.corrupt(two)
    await put_numbers(spare, [1, 2, 4])
    async with replica.open([sync], {"spare": spare, "other": other}, fallback=["spare"]) as store:
        assert list((await store.get_many([four, one, five, three])).items()) == [
            (four, b"4"),
            (one, b"1"),
            (three, b"3"),
        ]
        assert [call.refs for call in spare.calls if call.operation == "get"] == [(four,), (five,)]
        assert await store.get_many([two, three]) == {two: b"2", three: b"3"}
        assert await store.get_many([one, three]) == {one: b"1", three: b"3"}
        assert len(asked(spare, "get")) == 3
        spare.fail(BROKEN, "get")
        with pytest.raises(StoreError) as caught:
            await store.get_many([one, two])
        assert {name: type(failure) for name, failure in caught.value.failures.items()} == {
            "sync-0": CorruptBlobError,
            "spare": OSError,
        }
    assert asked(other, "get") == []


async def test_listings_are_those_of_the_sync_stores(autojump_clock: MockClock) -> None:
    sync, spare = await open_answering(("miss", 1), ("hit", 1))
    async with replica.open([sync], [spare], fallback=["async-0"]) as store:
        assert await store.list_page(Ref.ZERO, 10) == []
        assert [ref async for ref in store.list_refs()] == []


async def test_a_blob_that_waits_for_the_fallback_is_not_there_yet(autojump_clock: MockClock) -> None:
    sync, spare = SimulatedStore(), SimulatedStore(put=3)
    async with replica.open([sync], [spare], fallback=["async-0"]) as store:
        await store.put(DATA)
        await sync.delete(REF)
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        await store.flush()
        assert await store.get(REF) == DATA


async def test_a_replica_that_is_poisoned_or_closed_while_the_fallback_is_asked(autojump_clock: MockClock) -> None:
    (sync,), (spare, slow) = await open_answering(("miss", 2)), await open_answering(("miss", 3), ("hit", 2))
    other = SimulatedStore(put=1)
    other.fail(BROKEN, "put")
    others = {"spare": spare, "slow": slow, "other": other}
    async with trio.open_nursery() as nursery:
        async with replica.open([sync], others, fallback=["spare", "slow"], repair_reads=True) as store:
            under_way = [Ended(nursery, read, store, operation) for operation in ("get", "get_many")]
            has = Ended(nursery, store.contains, REF)
            await store.put(b"poison")
            await trio.sleep(1.5)
            for call in (store.get(REF), store.get_many([REF]), store.contains(REF)):
                with pytest.raises(PoisonedError):
                    await call
        assert trio.current_time() == 4, "the block waits for the reads under way"
        with pytest.raises(trio.ClosedResourceError):
            await store.get(REF)
    assert [(each.value, each.at) for each in under_way] == [(DATA, 4), (DATA, 4)]
    assert (has.value, has.at) == (True, 4)
    assert sync.blobs.keys() == {Ref.of(b"poison")}
    assert repairs(store) == [(0, 0)]


@pytest.mark.parametrize("hedge_delay", [1, math.inf])
async def test_a_replica_that_is_closed_waits_for_no_hedge(autojump_clock: MockClock, hedge_delay: float) -> None:
    stores, others = await open_answering(("miss", 2)), await open_answering(("hang", 0), ("hit", 1))
    async with trio.open_nursery() as nursery:
        async with replica.open(stores, others, fallback=["async-0", "async-1"], hedge_delay=hedge_delay) as store:
            get = Ended(nursery, store.get, REF)
            await trio.sleep(1)
        assert trio.current_time() == 3
    assert (get.value, get.at) == (DATA, 3)


async def test_a_get_that_is_cancelled_while_the_fallback_is_asked(autojump_clock: MockClock) -> None:
    (sync,), (spare,) = await open_answering(("miss", 1)), await open_answering(("hit", 5))
    async with replica.open([sync], [spare], fallback=["async-0"], repair_reads=True) as store:
        with trio.move_on_after(3) as scope:
            await store.get(REF)
        assert scope.cancelled_caught
        assert isinstance(spare.calls[-1].error, trio.Cancelled)
    assert trio.current_time() == 3
    assert repairs(store) == [(0, 0)]
    assert writes(sync) == []


# Blobs that are written back

REPAIRS: list[tuple[Scenario, Scenario, float, list[str]]] = [
    # what the sync stores and the fallback answer, and when; when the get returns; what is done to each sync store
    ([("hit", 1)], [], 1, [""]),
    ([("miss", 1), ("hit", 2)], [], 2, ["put", ""]),
    ([("corrupt", 1), ("hit", 2)], [], 2, ["replace", ""]),
    ([("error", 1), ("hit", 2)], [], 2, ["", ""]),
    ([("hit", 1), ("miss", 2)], [], 1, ["", ""]),
    ([("hit", 1), ("corrupt", 2)], [], 1, ["", ""]),
    ([("hang", 0), ("hit", 2)], [], 2, ["", ""]),
    ([("corrupt", 1), ("miss", 2), ("error", 1), ("hit", 3), ("miss", 4)], [], 3, ["replace", "put", "", "", ""]),
    ([("miss", 1)], [("hit", 2)], 3, ["put"]),
    ([("corrupt", 1)], [("hit", 2)], 3, ["replace"]),
    ([("error", 1)], [("hit", 2)], 3, [""]),
    ([("miss", 1), ("corrupt", 1)], [("miss", 1), ("corrupt", 1), ("hit", 2)], 3, ["put", "replace"]),
]


@OPERATIONS
@pytest.mark.parametrize(("sync", "spare", "at", "expected"), REPAIRS)
async def test_what_was_found_is_written_to_those_who_lack_it(
    autojump_clock: MockClock, *, operation: str, sync: Scenario, spare: Scenario, at: float, expected: list[str]
) -> None:
    stores, others = await open_answering(*sync), await open_answering(*spare)
    fallback = [f"async-{place}" for place in range(len(others))]
    async with replica.open(stores, others, fallback=fallback, repair_reads=True) as store:
        assert await read(store, operation) == DATA
        assert trio.current_time() == at
        await trio.testing.wait_all_tasks_blocked()
        assert [writes(each) for each in stores] == [[(done, at)] if done else [] for done in expected]
        assert repairs(store) == [(int(bool(done)), 0) for done in expected]
    assert all(each.blobs == {REF: DATA} for done, each in zip(expected, stores, strict=True) if done)
    assert [writes(each) for each in others] == [[]] * len(others)


@OPERATIONS
@pytest.mark.parametrize("answer", ["miss", "corrupt"])
async def test_the_next_get_finds_it_in_the_sync_store(autojump_clock: MockClock, operation: str, answer: str) -> None:
    (sync, spare) = await open_answering((answer, 1), ("hit", 2))
    async with replica.open([sync], [spare], fallback=["async-0"], repair_reads=True) as store:
        assert await read(store, operation) == DATA
        assert trio.current_time() == 3
        await trio.testing.wait_all_tasks_blocked()
        assert await read(store, operation) == DATA
        assert trio.current_time() == 4
    assert asked(spare, "get") == [1]
    assert store.statistics().sync_stores["sync-0"] == SyncStoreStatistics(
        0, 0, gets_won=1, get_failures=int(answer == "corrupt"), repaired=1
    )


@OPERATIONS
async def test_a_repair_delays_no_get(autojump_clock: MockClock, operation: str) -> None:
    lacking, slow = SimulatedStore(put=10), SimulatedStore(get=1)
    await slow.put(DATA)
    async with replica.open([lacking, slow], repair_reads=True) as store:
        for count in range(1, 4):
            assert await read(store, operation) == DATA
            assert trio.current_time() == count
        assert repairs(store) == [(0, 0), (0, 0)]
        await trio.sleep_until(11)
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(1, 0), (0, 0)]
        assert await read(store, operation) == DATA
        assert trio.current_time() == 11
    assert writes(lacking) == [("put", 1)]
    assert store.statistics().sync_stores["sync-0"] == SyncStoreStatistics(0, 0, 1, 0, repaired=1)


async def test_get_many_repairs_each_blob_where_it_was_missing(autojump_clock: MockClock) -> None:
    one, two, spare = SimulatedStore(get=1), SimulatedStore(get=2), SimulatedStore(get=1)
    await put_numbers(one, [1, 2])
    await put_numbers(two, [2, 3, 4])
    await put_numbers(spare, range(6))
    one.corrupt(refs(2)[0])
    before = len(one.calls), len(two.calls)
    async with replica.open([one, two], [spare], fallback=["async-0"], repair_reads=True) as store:
        assert len(await store.get_many(refs(1, 2, 3, 5, 6))) == 4
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(3, 0), (1, 0)]
    done = [
        {(call.operation, *call.refs) for call in each.calls[count:] if call.operation != "get"}
        for each, count in zip((one, two), before, strict=True)
    ]
    (second, third, fifth) = refs(2, 3, 5)
    assert done == [{("replace", second), ("put", third), ("put", fifth)}, {("put", fifth)}]


async def test_a_store_is_given_a_blob_once(autojump_clock: MockClock) -> None:
    one, two = SimulatedStore(), SimulatedStore(get=1)
    await two.put(DATA)
    async with replica.open([one, two], repair_reads=True) as store:
        for _ in range(3):
            assert await store.get(REF) == DATA
            await trio.testing.wait_all_tasks_blocked()
            await one.delete(REF)
        assert writes(one) == [("put", 1)]
    async with replica.open([one, two], repair_reads=True) as store:
        assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
    assert writes(one) == [("put", 1), ("put", 4)]


async def test_the_memory_is_bounded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_repairs, "REFS_REMEMBERED", 2)
    one, two = SimulatedStore(), SimulatedStore(get=1)
    first, second, third = await put_numbers(two, [1, 2, 3])
    async with replica.open([one, two], repair_reads=True) as store:
        for ref in (first, second, third, third, second, first):
            await store.get(ref)
            await trio.testing.wait_all_tasks_blocked()
            await one.delete(ref)
    assert [call.refs[0] for call in one.calls if call.operation == "put"] == [first, second, third, first]


async def test_repairs_that_fail(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = SimulatedStore(), SimulatedStore(), SimulatedStore(get=1)
    numbers = await put_numbers(three, [1, 2])
    one.fail(OSError("full, says s3://me:secret@bucket"), "put")
    two.fail(ExceptionGroup("group", [BROKEN]), "put")
    async with replica.open([one, two, three], repair_reads=True) as store:
        for _ in range(2):
            for number, ref in enumerate(numbers, 1):
                assert await store.get(ref) == b"%d" % number
                await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(0, 2), (0, 2), (0, 0)]
        assert store.statistics().sync_stores["sync-0"] == SyncStoreStatistics(0, 0, 0, 0, unrepairable=2)
    assert len(asked(one, "put")) == len(asked(two, "put")) == 2
    assert {(record.levelname, record.name) for record in caplog.records} == {("WARNING", "trio_replica")}
    begin, end = f" can't be given back {numbers[0]!s:.12}: ", "; later failures are only counted"
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"sync-0{begin}OSError: full, says s3://me:***@bucket{end}",
        f"sync-1{begin}ExceptionGroup: group (1 sub-exception) [OSError: broken]{end}",
    ]


async def test_a_put_that_names_another_ref_has_failed(autojump_clock: MockClock) -> None:
    class Wrong(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            return PutResult(Ref.ZERO, (await super().put(blob)).added)

    (hit,) = await open_answering(("hit", 1))
    async with replica.open([Wrong(), hit], repair_reads=True) as store:
        assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(0, 1), (0, 0)]


async def test_a_corrupt_blob_in_a_store_that_can_not_replace_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    (corrupt, hit) = await open_answering(("corrupt", 1), ("hit", 2))
    async with replica.open([PlainStore(corrupt), hit], repair_reads=True) as store:
        for _ in range(2):
            assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(0, 1), (0, 0)]
        assert store.statistics().sync_stores["sync-0"].get_failures == 2
    assert writes(corrupt) == []
    (record,) = caplog.records
    reason = "it is corrupt, and the store can't replace it; later failures are only counted"
    assert record.getMessage() == f"sync-0 can't be given back {REF!s:.12}: {reason}"


async def test_a_missing_blob_in_a_store_that_can_not_replace_it(autojump_clock: MockClock) -> None:
    (lacking, hit) = await open_answering(("miss", 1), ("hit", 2))
    async with replica.open([PlainStore(lacking), hit], repair_reads=True) as store:
        assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(1, 0), (0, 0)]
    assert lacking.blobs == {REF: DATA}


async def test_what_a_get_finds_once_the_replica_is_closed_is_not_written_back(autojump_clock: MockClock) -> None:
    (lacking, corrupt, hit) = await open_answering(("miss", 1), ("corrupt", 1), ("hit", 3))
    async with trio.open_nursery() as nursery:
        async with replica.open([lacking, PlainStore(corrupt), hit], repair_reads=True) as store:
            get = Ended(nursery, store.get, REF)
            await trio.sleep(2)
    assert (get.value, get.at) == (DATA, 3)
    assert repairs(store) == [(0, 0)] * 3
    assert writes(lacking) == []


# The bounds on simultaneous repairs


@OPERATIONS
async def test_no_more_blobs_than_64_are_written_back_at_once(autojump_clock: MockClock, operation: str) -> None:
    lacking, full = SimulatedStore(put=10), SimulatedStore(get=1)
    numbers = await put_numbers(full, range(70))

    async def read_all() -> None:
        if operation == "get_many":
            assert len(await store.get_many(numbers)) == 70
        else:
            for ref in numbers:
                nursery.start_soon(store.get, ref)

    async with replica.open([lacking, full], repair_reads=True) as store:
        async with trio.open_nursery() as nursery:
            await read_all()
        at = trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        assert asked(lacking, "put") == [at] * 64
        async with trio.open_nursery() as nursery:
            await read_all()
        await trio.sleep_until(at + 10)
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(64, 0), (0, 0)]
        async with trio.open_nursery() as nursery:
            await read_all()
        await trio.sleep(11)
        assert len(lacking.blobs) == 70
        assert repairs(store) == [(70, 0), (0, 0)]
    assert len(asked(lacking, "put")) == 70


async def test_no_more_bytes_than_16_mib_are_written_back_at_once(autojump_clock: MockClock) -> None:
    lacking, full = SimulatedStore(put=10), SimulatedStore(get=1)
    mib = [await full.put(bytes([number]) * 2**20) for number in range(17)]
    small, _ = await full.put(b"small")
    async with replica.open([lacking, full], repair_reads=True) as store:
        await store.get_many([ref for ref, _ in mib])
        await trio.testing.wait_all_tasks_blocked()
        assert len(asked(lacking, "put")) == 16
        await store.get(small)
        await trio.testing.wait_all_tasks_blocked()
        assert len(asked(lacking, "put")) == 16
        await trio.sleep(11)
        await store.get(small)
        await store.get(mib[16][0])
        await trio.testing.wait_all_tasks_blocked()
        assert len(asked(lacking, "put")) == 18


async def test_a_blob_that_is_larger_than_the_bound_is_written_back_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_repairs, "BYTES", 10)
    lacking, full = SimulatedStore(put=10), SimulatedStore(get=1)
    large = [(await full.put(number * b"large")).ref for number in (3, 4)]
    async with replica.open([lacking, full], repair_reads=True) as store:
        assert len(await store.get_many(large)) == 2
        await trio.sleep(11)
        assert lacking.blobs.keys() == {large[0]}
        assert len(await store.get_many(large)) == 2
        await trio.sleep(11)
        assert lacking.blobs.keys() == set(large)


async def test_a_blob_that_was_written_back_is_not_kept(autojump_clock: MockClock) -> None:
    class Forgetful(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            await trio.lowlevel.checkpoint()
            return PutResult(Blob(blob).ref, added=True)

    forgetful, full = Forgetful(), SimulatedStore(get=1)
    ref, _ = await full.put(bytes(1000))
    data = full.blobs[ref]
    async with replica.open([forgetful, full], repair_reads=True) as store:
        before = sys.getrefcount(data)
        assert await store.get(ref) == data
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(1, 0), (0, 0)]
        assert sys.getrefcount(data) == before


# Answers that fail verification


async def test_what_is_wrong_is_not_written_back(autojump_clock: MockClock) -> None:
    (lacking, corrupt) = await open_answering(("miss", 1), ("corrupt", 2))
    async with replica.open([lacking, corrupt], verify=False, repair_reads=True) as store:
        for operation in ("get", "get_many"):
            assert await read(store, operation) == corrupt.blobs[REF]
            await trio.testing.wait_all_tasks_blocked()
        assert writes(lacking) == []
        corrupt.corrupt(REF, DATA)
        assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
        assert writes(lacking) == [("put", 6)]
        assert repairs(store) == [(1, 0), (0, 0)]


async def test_an_answer_that_is_no_bytes_is_not_written_back(autojump_clock: MockClock) -> None:
    class Odd(SimulatedStore):
        async def get(self, ref: Ref) -> Any:
            await super().get(ref)
            return 5

    (lacking,), odd = await open_answering(("miss", 1)), Odd(get=2)
    await odd.put(DATA)
    async with replica.open([lacking, odd], verify=False, repair_reads=True) as store:
        with pytest.raises(StoreError, match="sync-1: TypeError: a blob is made of bytes"):
            await store.get(REF)
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(0, 0), (0, 0)]
    assert writes(lacking) == []


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("answer", [None, 5, "text"])
async def test_an_answer_that_is_no_bytes_is_no_answer(autojump_clock: MockClock, answer: Any, *, verify: bool) -> None:
    class Odd(SimulatedStore):
        async def get(self, ref: Ref) -> Any:
            await super().get(ref)
            return answer

    odd, good = Odd(), SimulatedStore(get=1)
    async with replica.open([odd, good], verify=verify) as store:
        await store.put(DATA)
        assert await store.get(REF) == DATA
        assert await store.get_many([REF]) == {REF: DATA}
        counts = store.statistics().sync_stores["sync-0"]
        assert (counts.gets_won, counts.get_failures) == (0, 2)


@pytest.mark.parametrize("verify", [False, True])
async def test_an_answer_in_a_buffer_becomes_bytes(*, verify: bool) -> None:
    class Buffers(PlainStore):
        async def get(self, ref: Ref) -> Any:
            return bytearray(await super().get(ref))

    async with replica.open([Buffers(MemoryStore())], verify=verify) as store:
        await store.put(DATA)
        assert [type(await store.get(REF)), type((await store.get_many([REF]))[REF])] == [bytes, bytes]


async def test_a_blob_that_can_not_be_hashed_is_not_repaired_and_ends_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    large = Blob(bytes(2 * 1024 * 1024))
    lacking, good = SimulatedStore(), SimulatedStore(get=1)
    await good.put(large)
    async with replica.open([lacking, good], repair_reads=True, verify=False) as store:
        monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
        assert await store.get(large.ref) == large.data
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(0, 1), (0, 0)]
    assert "sync-0 can't be given back" in caplog.text


async def test_a_store_that_says_itself_that_a_blob_is_corrupt(autojump_clock: MockClock) -> None:
    (corrupt, hit) = await open_answering(("hit", 1), ("hit", 2))
    corrupt.fail(CorruptBlobError(REF, Ref.ZERO), "get", count=1)
    async with replica.open([corrupt, hit], verify=False, repair_reads=True) as store:
        assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
        assert repairs(store) == [(1, 0), (0, 0)]
    assert writes(corrupt) == [("replace", 2)]


# The end of the block

ENDS: list[tuple[float | None, float | None, float, float, int]] = [
    # the put's seconds (None: it hangs), the deadline of the block, the grace, when it ends, how many are repaired
    (3, None, 0, 4, 1),
    (5, None, 0, 6, 0),
    (None, None, 0, 6, 0),
    (None, None, math.inf, 6, 0),
    (9, 2, 0, 2, 0),
    (9, 2, 3, 5, 0),
    (3, 2, 3, 4, 1),
    (9, 2, math.inf, 7, 0),
    (None, 2, math.inf, 7, 0),
    (None, 2, 9, 7, 0),
    (None, 2, 3, 5, 0),
]


@pytest.mark.parametrize(("seconds", "deadline", "grace", "at", "repaired"), ENDS)
async def test_the_block_ends_while_a_blob_is_written_back(
    autojump_clock: MockClock,
    *,
    seconds: float | None,
    deadline: float | None,
    grace: float,
    at: float,
    repaired: int,
) -> None:
    lacking, hit = SimulatedStore(put=seconds or 0), SimulatedStore(get=1)
    await hit.put(DATA)
    if seconds is None:
        lacking.hang("put")
    with trio.move_on_at(math.inf if deadline is None else deadline):
        async with replica.open([lacking, hit], repair_reads=True, grace=grace) as store:
            assert await store.get(REF) == DATA
            await trio.testing.wait_all_tasks_blocked()
            if deadline is not None:
                await trio.sleep_forever()
    assert trio.current_time() == at
    assert repairs(store) == [(repaired, 0), (0, 0)]
    assert len(lacking.blobs) == repaired
    assert lacking.calls[-1].ended is not None


async def test_an_interruption_while_the_end_waits_for_repairs(autojump_clock: MockClock) -> None:
    (lacking, hit) = await open_answering(("miss", 1), ("hit", 2))
    lacking.hang("put")
    with trio.move_on_after(4) as scope:
        async with replica.open([lacking, hit], repair_reads=True, grace=1) as store:
            assert await store.get(REF) == DATA
            await trio.sleep(1)
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_what_waits_at_the_end_is_dropped(autojump_clock: MockClock) -> None:
    lacking, full = SimulatedStore(get=1), SimulatedStore(get=2)
    ref, _ = await full.put(bytes(1000))
    data = full.blobs[ref]
    before = sys.getrefcount(data)
    async with replica.open([lacking, full], repair_reads=True) as store:
        assert await store.get(ref) == data  # and in the same tick the block ends
    assert trio.current_time() == 2
    assert repairs(store) == [(0, 0), (0, 0)]
    assert writes(lacking) == []
    assert sys.getrefcount(data) == before, "it is not kept"


async def test_the_end_does_not_wait_for_repairs_if_there_are_none(autojump_clock: MockClock) -> None:
    with trio.testing.assert_checkpoints():
        await open_and_close(replica.open([SimulatedStore()], repair_reads=True))
    assert trio.current_time() == 0


async def test_a_write_that_can_not_be_interrupted_is_waited_for(autojump_clock: MockClock) -> None:
    class Stubborn(SimulatedStore):
        interruptible = False

        async def put(self, blob: Blob | BytesLike) -> PutResult:
            with trio.CancelScope(shield=True):
                result = await super().put(blob)
            return result

    (hit,) = await open_answering(("hit", 1))
    stubborn = Stubborn(put=20)
    async with replica.open([stubborn, hit], repair_reads=True) as store:
        assert await store.get(REF) == DATA
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == 21
    assert stubborn.blobs == {REF: DATA}
    assert repairs(store) == [(1, 0), (0, 0)]


async def test_repairs_of_a_poisoned_replica_go_on(autojump_clock: MockClock) -> None:
    (lacking, hit), spare = await open_answering(("miss", 1), ("hit", 4)), SimulatedStore(put=1)
    spare.fail(BROKEN, "put")
    lacking.fail(BROKEN, "put", count=1)
    async with trio.open_nursery() as nursery:
        with pytest.raises(PoisonedError):
            async with replica.open([hit, lacking], [spare], repair_reads=True) as store:
                get = Ended(nursery, store.get, REF)
                with pytest.raises(StoreError):
                    await store.put(b"poison")
                await store.put(b"poison")
                await get.done.wait()
                await trio.testing.wait_all_tasks_blocked()
                assert repairs(store) == [(0, 0), (1, 0)]
                await store.get(REF)
    assert lacking.blobs == {REF: DATA, Ref.of(b"poison"): b"poison"}


@pytest.mark.parametrize("request_type", [KeyboardInterrupt, SystemExit])
async def test_a_repair_that_asks_for_the_exit(
    autojump_clock: MockClock, request_type: type[KeyboardInterrupt | SystemExit]
) -> None:
    (lacking, other, hit) = await open_answering(("miss", 1), ("miss", 1), ("hit", 2))
    lacking.fail(request_type("now"), "put")
    other.hang("put")
    with pytest.raises(request_type, match="now"):
        async with replica.open([lacking, other, hit], repair_reads=True) as store:
            assert await store.get(REF) == DATA
            await trio.sleep_forever()
    assert trio.current_time() == 2
    assert repairs(store) == [(0, 0)] * 3


@OPERATIONS
async def test_reads_that_fail_leave_no_cycle(operation: str) -> None:
    sync, spare = SimulatedStore(), SimulatedStore()
    spare.fail(BROKEN, "get")
    async with replica.open([sync], [spare], fallback=["async-0"], repair_reads=True) as store:
        with without_gc():
            for _ in range(3):
                with pytest.raises(StoreError):
                    await read(store, operation)
                sync.calls.clear()
                spare.calls.clear()
            assert gc.collect() == 0


# Real stores


async def test_a_large_blob_is_written_back() -> None:
    class Noting(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            was_put.set()
            return await super().put(blob)

    was_put = trio.Event()
    lacking, full = Noting(), MemoryStore()
    ref, _ = await full.put(bytes(2**20 + 1))
    async with replica.open([lacking, full], hedge_delay=math.inf, repair_reads=True) as store:
        assert len(await store.get(ref)) == 2**20 + 1
        await was_put.wait()
    assert lacking.blobs == {ref: bytes(2**20 + 1)}
    assert repairs(store) == [(1, 0), (0, 0)]


async def test_a_directory_that_is_deleted_under_a_replica(tmp_path: Path) -> None:
    async with (
        replica.open_directory(tmp_path / "local") as local,
        replica.open_directory(tmp_path / "offsite") as offsite,
    ):
        async with replica.open({"local": local}, {"offsite": offsite}, fallback=["offsite"]) as store:
            ref, _ = await store.put(DATA)
            await store.flush()
            shutil.rmtree(tmp_path / "local")
            assert await store.get(ref) == DATA
            assert await store.get_many([ref]) == {ref: DATA}
            assert await store.contains(ref)
            with pytest.raises(StoreError) as caught:
                await store.get(Ref.ZERO)
            assert caught.value.failures.keys() == {"local"}


@OPERATIONS
async def test_a_directory_whose_blobs_are_gone_is_filled_again(tmp_path: Path, operation: str) -> None:
    async with (
        replica.open_directory(tmp_path / "local") as local,
        replica.open_sqlite(tmp_path / "offsite.db") as offsite,
        replica.open({"local": local}, {"offsite": offsite}, fallback=["offsite"], repair_reads=True) as store,
    ):
        await store.put(DATA)
        await store.flush()
        for path in (tmp_path / "local" / "blobs").iterdir():
            shutil.rmtree(path)
        assert await read(store, operation) == DATA
        await trio.testing.wait_all_tasks_blocked()
    async with replica.open_directory(tmp_path / "local") as local:
        assert await local.get(REF) == DATA


@OPERATIONS
@pytest.mark.parametrize("spare", [False, True], ids=["sync", "fallback"])
async def test_a_flipped_byte_is_repaired_by_a_get(tmp_path: Path, operation: str, spare: bool) -> None:
    database, folder = tmp_path / "blobs.db", tmp_path / "folder"
    async with (
        replica.open_sqlite(database) as table,
        replica.open_directory(folder) as directory,
        replica.open_directory(tmp_path / "third") as third,
    ):
        stores: dict[str, DeletableStore] = {"table": table, "directory": directory}
        for store in (*stores.values(), third):
            await store.put(DATA)
        connection = sqlite3.connect(database)
        with connection:
            connection.execute("UPDATE blobs SET data = ?", (b"bl0b",))
        connection.close()
        (path,) = folder.glob("blobs/*/*/*")
        path.write_bytes(b"b1ob")
        sync, others = (stores, {"third": third}) if spare else ({**stores, "third": third}, {})
        async with replica.open(sync, others, fallback=[*others], repair_reads=True, hedge_delay=math.inf) as repairing:
            assert await read(repairing, operation) == DATA
            await trio.testing.wait_all_tasks_blocked()
        assert repairs(repairing)[:2] == [(1, 0), (1, 0)]
        for store in stores.values():
            assert await store.get(REF) == DATA
