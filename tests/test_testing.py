"""`SimulatedStore` does what it is told, and `StoreContract` finds what is wrong."""

from __future__ import annotations

import inspect
import random
import statistics
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trio_replica import Blob, BlobNotFoundError, Integrity, PutResult, Ref, ReplicaError, Store, to_blob
from trio_replica.testing import (
    Batched,
    Concurrent,
    Exponential,
    LogNormal,
    PutManyCost,
    Serial,
    SimulatedCall,
    SimulatedStore,
    StoreContract,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from trio.testing import MockClock

BROKEN = OSError("broken")
BLOBS = [b"%d" % number for number in range(10)]
REFS = [Ref.of(data) for data in BLOBS]


class TestSimulatedStore(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[SimulatedStore, None]:
        yield SimulatedStore(page_size=9)


# Times


async def test_constant_times(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=1, get=2, list_page=3)
    await store.put(b"0")
    assert trio.current_time() == 1
    await store.get(REFS[0])
    assert trio.current_time() == 3
    await store.list_page(Ref.ZERO, 1)
    assert trio.current_time() == 6
    await store.contains(REFS[0])
    assert trio.current_time() == 9
    await store.delete(REFS[0])
    await store.replace(b"0")
    assert trio.current_time() == 9


async def test_times_in_order(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=iter([1, 5, 2]))
    for at in (1, 6, 8):
        await store.put(b"0")
        assert trio.current_time() == at
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no service time is left for a put"):
            await store.put(b"0")


async def test_calls_are_served_independently(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=5)
    async with trio.open_nursery() as nursery:
        for data in BLOBS:
            nursery.start_soon(store.put, data)
    assert trio.current_time() == 5


@pytest.mark.parametrize(
    ("distribution", "mean", "squared_cv"),
    [(Exponential(2), 2, 1), (LogNormal(3, 4), 3, 4), (LogNormal(3, 0.25), 3, 0.25), (LogNormal(1, 0), 1, 0)],
)
def test_distributions(distribution: Exponential | LogNormal, mean: float, squared_cv: float) -> None:
    source = random.Random(0)
    times = [distribution.sample(source) for _ in range(100_000)]
    assert statistics.fmean(times) == pytest.approx(mean, rel=0.02)
    assert statistics.pvariance(times) / mean**2 == pytest.approx(squared_cv, rel=0.1, abs=1e-9)


async def test_seeds(autojump_clock: MockClock) -> None:
    async def duration(seed: int) -> float:
        store = SimulatedStore(put=Exponential(1), seed=seed)
        start = trio.current_time()
        await store.put(b"0")
        return trio.current_time() - start

    assert await duration(1) == pytest.approx(await duration(1))
    assert await duration(1) != pytest.approx(await duration(2))


@pytest.mark.parametrize(
    ("cost", "stored_at"),
    [
        (Serial(), [1, 3, 4, 6]),
        (Concurrent(2), [1, 2, 2, 4]),
        (Concurrent(16), [1, 2, 1, 2]),
        (Batched(3, 0.5), [5, 5, 5, 5]),
    ],
)
async def test_costs_of_put_many(autojump_clock: MockClock, cost: PutManyCost, stored_at: list[float]) -> None:
    store = SimulatedStore(put=[1, 2, 1, 2, 1], put_many=cost)
    seen: dict[Ref, float] = {}

    async def watch() -> None:
        while len(seen) < 4:
            for ref in store.blobs:
                seen.setdefault(ref, trio.current_time())
            await trio.sleep(0.25)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.125)  # so that no two things happen at one time
        start = trio.current_time()
        assert await store.put_many(BLOBS[:4]) == [PutResult(ref, added=True) for ref in REFS[:4]]
        assert trio.current_time() - start == max(stored_at)
    assert [seen[ref] - start - 0.125 for ref in REFS[:4]] == stored_at


async def test_a_put_many_of_nothing_and_of_repeats(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=1)
    assert await store.put_many([]) == []
    results = await store.put_many([b"0", b"1", b"0"])
    assert [added for _, added in results] == [True, True, False]


# Simulated failures


async def test_failures(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=1, get=1)
    store.fail(BROKEN, "put", after=1, count=2)
    outcomes: list[OSError | None] = []
    for data in BLOBS[:5]:
        try:
            await store.put(data)
        except OSError as error:
            outcomes.append(error)
        else:
            outcomes.append(None)
    assert outcomes == [None, BROKEN, BROKEN, None, None]
    assert trio.current_time() == 5
    assert list(store.blobs) == [REFS[0], REFS[3], REFS[4]]
    store.fail(BROKEN)
    for call in (store.get(REFS[0]), store.contains(REFS[0]), store.delete(REFS[0]), store.replace(b"0")):
        with pytest.raises(OSError, match="broken"):
            await call
    store.recover()
    assert await store.get(REFS[0]) == b"0"


async def test_a_failure_after_the_effect(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=1)
    store.fail(BROKEN, "put", "put_many", stored=True)
    with pytest.raises(OSError, match="broken"):
        await store.put(b"0")
    with pytest.raises(OSError, match="broken"):
        await store.put_many(BLOBS[1:3])
    assert list(store.blobs) == REFS[:3]


async def test_hangs(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=1)
    store.hang("put", after=1, count=1)
    await store.put(b"0")
    with trio.move_on_after(1000) as scope:
        await store.put(b"1")
    assert scope.cancelled_caught
    await store.put(b"2")
    assert list(store.blobs) == [REFS[0], REFS[2]]
    assert [call.ended for call in store.calls] == [1, 1001, 1002]
    assert isinstance(store.calls[1].error, trio.Cancelled)


@pytest.mark.parametrize(
    ("begun", "error", "ended"),
    [
        (0, None, 4),  # over before the outage
        (8, None, 22),  # held up in the middle
        (12, None, 24),  # held up from the beginning
        (20, None, 24),  # after it
        (0, BROKEN, 4),
        (8, BROKEN, 10),  # fails when it begins
        (12, BROKEN, 12),  # fails at once
        (20, BROKEN, 24),
    ],
)
async def test_outages(autojump_clock: MockClock, begun: float, error: OSError | None, ended: float) -> None:
    store = SimulatedStore(put=4)
    store.outage(10, 20, error)
    await trio.sleep(begun)
    fails = error is not None and ended in (10, 12)
    if fails:
        with pytest.raises(OSError, match="broken"):
            await store.put(b"0")
    else:
        await store.put(b"0")
    assert trio.current_time() == ended
    assert (REFS[0] in store.blobs) is not fails


async def test_two_outages_in_one_call(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=4)
    store.outage(6, 8)
    store.outage(2, 3)
    await store.put(b"0")
    assert trio.current_time() == 5
    await store.put(b"0")
    assert trio.current_time() == 11


async def test_corruption(autojump_clock: MockClock) -> None:
    store = SimulatedStore()
    await store.put_many([b"0", b""])
    store.corrupt(REFS[0])
    assert await store.get(REFS[0]) == b"\xb0"
    store.corrupt(Ref.of(b""))
    assert await store.get(Ref.of(b"")) == b"\x80"
    store.corrupt(REFS[1], b"something else")
    assert await store.get(REFS[1]) == b"something else"
    await store.replace(b"0")
    assert await store.get(REFS[0]) == b"0"


async def test_calls_are_recorded(autojump_clock: MockClock) -> None:
    store = SimulatedStore(put=2, get=1)
    await store.put_many(BLOBS[:2])
    with pytest.raises(BlobNotFoundError):
        await store.get(REFS[5])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, b"2")
        await trio.sleep(1)
        *calls, last = store.calls
        assert calls == [
            SimulatedCall("put_many", tuple(REFS[:2]), 0, 4),
            SimulatedCall("get", (REFS[5],), 4, 5),
        ]
        assert last == SimulatedCall("put", (REFS[2],), 5)
    assert repr(store) == "<SimulatedStore of 3 blobs>"


# Mistakes that the contract finds


class Forgetful(SimulatedStore):
    async def put(self, blob: Any) -> PutResult:
        blob = await to_blob(blob)
        return PutResult(blob.ref, added=True)


class Torn(SimulatedStore):
    async def get(self, ref: Ref) -> bytes:
        return (await super().get(ref))[:1000]


class AlwaysAdds(SimulatedStore):
    async def put(self, blob: Any) -> PutResult:
        return PutResult((await super().put(blob)).ref, added=True)


class TakesText(SimulatedStore):
    async def put(self, blob: Any) -> PutResult:
        return await super().put(blob.encode() if isinstance(blob, str) else blob)


class ReturnsNothing(SimulatedStore):
    async def get(self, ref: Ref) -> bytes:
        try:
            return await super().get(ref)
        except BlobNotFoundError:
            return b""


class TakesHex(SimulatedStore):
    async def get(self, ref: Any) -> bytes:
        return await super().get(Ref.from_hex(ref) if isinstance(ref, str) else ref)


class Reverses(SimulatedStore):
    async def put_many(self, blobs: Any) -> list[PutResult]:
        return (await super().put_many(blobs))[::-1]


class InventsBlobs(SimulatedStore):
    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        return {**dict.fromkeys(refs, b""), **await super().get_many(refs)}


class ListsAll(SimulatedStore):
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await super().list_page(after, limit + 1)


class ListsFromTheStart(SimulatedStore):
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await super().list_page(Ref.ZERO, limit)


class ListsNothing(SimulatedStore):
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await super().list_page(after, limit)
        return []


class ListsInclusively(SimulatedStore):
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        page = await super().list_page(after, limit)
        return [after, *page][:limit] if page and after in self.blobs and limit > len(page) else page


class TakesAnyLimit(SimulatedStore):
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await super().list_page(after, max(limit, 1))


class NoCheckpoint(SimulatedStore):
    async def contains(self, ref: Ref) -> bool:
        return ref in self.blobs


class KeepsBuffers(SimulatedStore):
    async def put(self, blob: Any) -> PutResult:
        result = await super().put(blob)
        self._blobs[result.ref] = blob
        return result


class DeletesNothing(SimulatedStore):
    async def delete(self, ref: Ref) -> bool:
        await super().delete(ref)
        return True


class ReplacesNothing(SimulatedStore):
    async def replace(self, blob: Any) -> None:
        await to_blob(blob)


class MovesAside(SimulatedStore):
    async def set_aside(self, ref: Ref) -> str | None:
        return "elsewhere" if await self.delete(ref) else None


class KeepsBesideTheBlobs(SimulatedStore):
    """A store that keeps copies where its own listing shows them."""

    async def set_aside(self, ref: Ref) -> str | None:
        self.corrupt(Ref.of(b"aside" + ref), await self.get(ref))
        return "here"


class FindsWhatIsSetAside(SimulatedStore):
    """A store whose gets find the copies, and whose listings don't."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Ref, bytes] = {}

    async def set_aside(self, ref: Ref) -> str | None:
        self.kept[ref] = await self.get(ref)
        return "in a drawer"

    async def get(self, ref: Ref) -> bytes:
        return self.kept[ref] if ref in self.kept else await super().get(ref)


class ReadsThePastOnly(SimulatedStore):
    async def get_stored(self, ref: Ref) -> bytes:
        await super().get_stored(ref)
        return b""


class SetsAnythingAside(SimulatedStore):
    async def set_aside(self, ref: Ref) -> str | None:
        await super().set_aside(ref)
        return "nowhere"


class TakesNoRef(SimulatedStore):
    async def set_aside(self, ref: object) -> str | None:
        await trio.lowlevel.checkpoint()
        return None


class IsAlwaysBent(SimulatedStore):
    async def check_integrity(self) -> Integrity:
        await trio.lowlevel.checkpoint()
        return Integrity(("bent",))


class ChecksByForce(SimulatedStore):
    async def check_integrity(self) -> Integrity:
        for ref in self.blobs:
            await self.delete(ref)
        return await super().check_integrity()


class RepairsByForgetting(SimulatedStore):
    async def repair_integrity(self) -> None:
        await super().repair_integrity()
        for ref in sorted(self.blobs)[:1]:
            await self.delete(ref)


class RepairsAtOnce(SimulatedStore):
    async def repair_integrity(self) -> None:
        pass


class LosesCancelled(SimulatedStore):
    async def put(self, blob: Any) -> PutResult:
        try:
            return await super().put(blob)
        except trio.Cancelled:
            self._blobs[Blob(blob).ref] = b"part"
            raise


@pytest.mark.parametrize(
    ("kind", "tests"),
    [
        (Forgetful, ["a_blob_comes_back", "a_blob_is_added_once", "the_empty_blob", "many_tasks"]),
        (Torn, ["a_blob_comes_back", "a_large_blob"]),
        (AlwaysAdds, ["a_blob_is_added_once", "racing_puts_of_one_blob", "like_a_dictionary"]),
        (TakesText, ["what_is_no_blob_is_refused"]),
        (ReturnsNothing, ["a_missing_blob"]),
        (TakesHex, ["what_is_no_ref_is_refused"]),
        (Reverses, ["put_many"]),
        (InventsBlobs, ["get_many"]),
        (ListsAll, ["pages"]),
        (ListsFromTheStart, ["the_empty_blob", "a_listing_resumes_anywhere", "puts_during_a_listing"]),
        (ListsNothing, ["a_listing_resumes_anywhere", "puts_during_a_listing", "leaving_a_listing_early", "contains"]),
        (ListsInclusively, ["pages"]),
        (TakesAnyLimit, ["bad_page_requests"]),
        (NoCheckpoint, ["checkpoints"]),
        (KeepsBuffers, ["anything_bytes_like_is_a_blob"]),
        (DeletesNothing, ["delete"]),
        (ReplacesNothing, ["replace"]),
        (MovesAside, ["what_is_set_aside_stays_as_it_was", "deleting_and_repairing_cancelled_at_once"]),
        (KeepsBesideTheBlobs, ["what_is_set_aside_stays_as_it_was", "a_copy_that_is_set_aside_is_no_blob"]),
        (FindsWhatIsSetAside, ["a_copy_that_is_set_aside_is_no_blob"]),
        (ReadsThePastOnly, ["what_is_stored_is_what_was_put"]),
        (SetsAnythingAside, ["what_is_missing_is_not_set_aside"]),
        (TakesNoRef, ["what_is_set_aside_stays_as_it_was"]),
        (IsAlwaysBent, ["a_sound_store_finds_nothing_wrong"]),
        (ChecksByForce, ["a_sound_store_finds_nothing_wrong"]),
        (RepairsByForgetting, ["repairing_a_sound_store_loses_nothing"]),
        (RepairsAtOnce, ["repairing_a_sound_store_loses_nothing", "deleting_and_repairing_cancelled_at_once"]),
        (LosesCancelled, ["cancelled_on_the_way"]),
    ],
)
async def test_the_contract_finds(kind: type[SimulatedStore], tests: list[str]) -> None:
    for name in tests:
        failures = (AssertionError, ExceptionGroup, IndexError, ReplicaError, StopAsyncIteration)
        with pytest.raises(failures):
            await getattr(contract(kind), f"test_{name}")()


async def test_a_contract_of_a_store_that_forgets_when_it_is_closed() -> None:
    forgetful = contract(SimulatedStore)
    forgetful.is_persistent = True
    with pytest.raises(AssertionError):
        await forgetful.test_it_is_persistent()


async def test_a_refusal_that_does_not_come() -> None:
    class TakesAnyRef(SimulatedStore):
        def list_refs(self, after: Any = Ref.ZERO) -> Any:
            return super().list_refs()

    with pytest.raises(AssertionError, match=r"list_refs.* did not raise TypeError"):
        await contract(TakesAnyRef).test_what_is_no_ref_is_refused()


def contract(kind: Callable[[], Store]) -> StoreContract:
    class Contract(StoreContract):
        @asynccontextmanager
        async def open_store(self) -> AsyncGenerator[Store, None]:
            yield kind()

    return Contract()


def test_every_test_of_the_contract_is_async_and_documented() -> None:
    tests = [method for name, method in inspect.getmembers(StoreContract) if name.startswith("test_")]
    assert len(tests) > 20
    for test in tests:
        assert inspect.iscoroutinefunction(test)
        assert test.__doc__
