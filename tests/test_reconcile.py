"""Blobs that some stores have and others lack: copies, counts and reports, and failures."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from collections import Counter
from dataclasses import FrozenInstanceError, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_replica as replica
from trio_replica import (
    Blob,
    BlobNotFoundError,
    MemoryStore,
    PutResult,
    ReconcileCounts,
    ReconcileProblem,
    ReconcileReport,
    Ref,
    reconcile,
)
from trio_replica.testing import SimulatedStore

from .common import BROKEN, CancelAtStep, put_numbers, refs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica._blob import BytesLike

NOTHING = ReconcileCounts(0, 0, 0, 0, 0)
AWAY = OSError("away")


async def filled(numbers: Iterable[int], store: SimulatedStore | None = None) -> SimulatedStore:
    """Return a store that has the blobs of `numbers`."""
    store = SimulatedStore() if store is None else store
    await put_numbers(store, numbers)
    store.calls.clear()
    return store


def called(store: SimulatedStore, operation: str) -> list[tuple[Ref, ...]]:
    return [call.refs for call in store.calls if call.operation == operation]


# Copies and counts


async def test_all_stores_have_all_then() -> None:
    stores = {
        "a": await filled(range(10)),
        "b": await filled(range(5, 20)),
        "c": SimulatedStore(),
    }
    report = await reconcile(stores)
    assert dict(report.stores) == {
        "a": ReconcileCounts(refs=10, missing=10, copied=10, failed=0, bytes=20),
        "b": ReconcileCounts(refs=15, missing=5, copied=5, failed=0, bytes=5),
        "c": ReconcileCounts(refs=0, missing=20, copied=20, failed=0, bytes=30),
    }
    assert report.complete
    assert (dict(report.failures), report.problems, report.problem_count) == ({}, (), 0)
    assert report.reached == max(refs(*range(20)))
    for store in stores.values():
        assert store.blobs == {Ref.of(b"%d" % i): b"%d" % i for i in range(20)}
    again = await reconcile(stores)
    assert set(again.stores.values()) == {ReconcileCounts(20, 0, 0, 0, 0)}
    assert again.complete


async def test_a_blob_is_read_once_from_the_first_store_that_has_it() -> None:
    first, second, third, fourth = await filled([]), await filled([1, 2]), await filled([1, 2]), await filled([])
    await reconcile([first, second, third, fourth])
    assert sorted(called(second, "get")) == sorted((ref,) for ref in refs(1, 2))
    assert called(third, "get") == called(second, "put") == called(third, "put") == []
    assert len(called(first, "put")) == len(called(fourth, "put")) == 2


async def test_a_dry_run_counts_only() -> None:
    stores = [await filled(range(3)), await filled([])]
    stores[0].fail(BROKEN, "get")
    stores[1].fail(BROKEN, "put")
    report = await reconcile(stores, dry_run=True)
    assert dict(report.stores) == {
        "store-0": ReconcileCounts(3, 0, 0, 0, 0),
        "store-1": ReconcileCounts(0, 3, 0, 0, 0),
    }
    assert not report.complete
    assert report.problems == ()
    assert called(stores[0], "get") == called(stores[1], "put") == []


async def test_it_begins_after_a_ref() -> None:
    one, other = await filled(range(10)), SimulatedStore()
    first, *rest = sorted(one.blobs)
    report = await reconcile([one, other], after=first)
    assert report.stores["store-1"] == ReconcileCounts(0, 9, 9, 0, 9)
    assert sorted(other.blobs) == rest
    report = await reconcile([one, other], after=rest[-1])
    assert set(report.stores.values()) == {NOTHING}
    assert report.reached == rest[-1]


@pytest.mark.parametrize("count", [1, 2])
async def test_empty_stores_are_alike(count: int) -> None:
    report = await reconcile([SimulatedStore() for _ in range(count)])
    assert set(report.stores.values()) == {NOTHING}
    assert (report.complete, report.reached) == (True, Ref.ZERO)


async def test_one_store_is_counted() -> None:
    report = await reconcile({"only": await filled(range(3))})
    assert dict(report.stores) == {"only": ReconcileCounts(3, 0, 0, 0, 0)}
    assert report.complete


async def test_the_times_of_blobs_that_are_copied_together(autojump_clock: MockClock) -> None:
    one = await filled(range(4), SimulatedStore(get=1, list_page=0.25))
    two, three = SimulatedStore(put=2), SimulatedStore(put=3)
    trio_time = trio.current_time()
    await reconcile([one, two, three], concurrency=2)
    # Twice two blobs, each read and then put to both stores at once; the last page is listed in the meantime.
    assert trio.current_time() - trio_time == 0.25 + 2 * (1 + 3)


async def test_a_replica_is_a_store_too() -> None:
    a, b, offsite = await filled([1]), await filled([2]), await filled([3])
    async with replica.open([a, b]) as store:
        report = await reconcile({"near": store, "offsite": offsite})
    assert report.complete
    assert report.stores["near"] == ReconcileCounts(2, 1, 1, 0, 1)
    assert a.blobs.keys() == {*refs(1, 3)}
    assert b.blobs.keys() == {*refs(2, 3)}
    assert offsite.blobs.keys() == {*refs(1, 2, 3)}


# Blobs that come while it runs


class Receiving(SimulatedStore):
    """A store that gets blobs after it has listed what it has."""

    def __init__(self, *blobs: bytes) -> None:
        super().__init__()
        self.coming = blobs

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        page = await super().list_page(after, limit)
        coming, self.coming = self.coming, ()
        await self.put_many(coming)
        return page


async def test_a_blob_that_comes_while_it_runs_is_not_missing() -> None:
    one, other = await filled([1, 2, 3]), Receiving(b"1", b"3")
    report = await reconcile([one, other])
    assert report.stores["store-1"] == ReconcileCounts(refs=2, missing=1, copied=1, failed=0, bytes=1)
    assert called(one, "get") == called(other, "put") == [refs(2)]
    one, other = await filled([1]), Receiving(b"1")
    report = await reconcile([one, other], dry_run=True)
    assert report.complete
    assert called(one, "get") == []


async def test_a_blob_that_came_while_it_runs_is_read_too_if_need_be() -> None:
    rotten, receiving, lacking = await filled([1]), Receiving(b"1"), SimulatedStore()
    rotten.corrupt(refs(1)[0])
    report = await reconcile([rotten, receiving, lacking])
    assert report.stores["store-2"] == ReconcileCounts(refs=0, missing=1, copied=1, failed=0, bytes=1)
    assert lacking.blobs == {refs(1)[0]: b"1"}


# Failures of one blob


async def test_a_corrupt_blob_is_read_from_the_next_store() -> None:
    a, b, c, d = await filled([1, 2]), await filled([1, 2]), await filled([1, 2]), await filled([])
    a.corrupt(refs(1)[0])
    b.fail(BROKEN, "get")
    report = await reconcile({"a": a, "b": b, "c": c, "d": d})
    assert [counts.unanswered for counts in report.stores.values()] == [1, 1, 0, 0]
    assert not report.complete, "a and b list a blob that they did not give"
    assert report.stores["d"] == ReconcileCounts(0, 2, 2, 0, 2)
    assert d.blobs == {refs(1)[0]: b"1", refs(2)[0]: b"2"}
    corrupt = (
        f"CorruptBlobError: blob {refs(1)[0]!s:.12} is corrupt: its bytes are those of {Ref.of(bytes([0xB1]))!s:.12}"
    )
    assert report.problems == (
        ReconcileProblem("a", "get", refs(1)[0], corrupt),
        ReconcileProblem("b", "get", refs(1)[0], "OSError: broken"),
    )
    assert str(report.problems[1]) == f"b: get of {refs(1)[0]}: OSError: broken"


async def test_a_blob_that_no_store_has_intact_is_failed_and_the_rest_goes_on() -> None:
    a, b, c = await filled([1, 2]), await filled([1]), await filled([])
    for store in (a, b):
        store.corrupt(refs(1)[0], b"rotten")
    report = await reconcile([a, b, c])
    assert report.stores["store-2"] == ReconcileCounts(0, 2, 1, 1, 1)
    assert not report.complete
    assert c.blobs == {refs(2)[0]: b"2"}
    assert [problem.store for problem in report.problems] == ["store-0", "store-1"]


async def test_a_blob_that_is_deleted_while_it_runs_is_failed() -> None:
    class Gone(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            await self.delete(ref)
            return await super().get(ref)

    report = await reconcile([await filled([1], Gone()), SimulatedStore()])
    assert report.stores["store-1"] == ReconcileCounts(0, 1, 0, 1, 0)
    assert report.problems[0].error == f"BlobNotFoundError: blob {refs(1)[0]} not found"


async def test_a_put_that_fails_is_failed_in_that_store() -> None:
    a, b, c = await filled([1, 2, 3]), await filled([]), await filled([])
    b.fail(ExceptionGroup("twice", [BROKEN]), "put", count=1)
    report = await reconcile([a, b, c], concurrency=1)
    assert report.stores["store-1"] == ReconcileCounts(0, 3, 2, 1, 2)
    assert report.stores["store-2"] == ReconcileCounts(0, 3, 3, 0, 3)
    assert [(problem.store, problem.operation) for problem in report.problems] == [("store-1", "put")]
    assert (report.complete, report.problem_count) == (False, 1)


@pytest.mark.parametrize("answer", [None, PutResult(Ref.ZERO, True), 1])
async def test_a_put_that_is_answered_wrongly_is_failed(answer: Any) -> None:
    class Wrong(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            await super().put(blob)
            return answer  # type: ignore[no-any-return]

    report = await reconcile([await filled([1]), Wrong()])
    assert report.stores["store-1"] == ReconcileCounts(0, 1, 0, 1, 0)


@pytest.mark.parametrize("answer", [None, "1", 1])
async def test_a_get_that_is_answered_wrongly_is_failed(answer: Any) -> None:
    class Wrong(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            await super().get(ref)
            return answer  # type: ignore[no-any-return]

    report = await reconcile([await filled([1], Wrong()), await filled([1]), SimulatedStore()])
    assert report.stores["store-2"] == ReconcileCounts(0, 1, 1, 0, 1)
    assert report.stores["store-0"] == ReconcileCounts(1, 0, 0, 0, 0, unanswered=1)
    assert report.problems[0].error.startswith("TypeError: ")


async def test_a_store_that_can_not_be_asked_again_lacks_what_it_does_not_list() -> None:
    class Mute(SimulatedStore):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    mute = Mute()
    report = await reconcile([await filled([1]), mute])
    assert report.stores["store-1"] == ReconcileCounts(0, 1, 0, 1, 0), "its listing alone does not confirm the put"
    assert report.problems == (ReconcileProblem("store-1", "contains", refs(1)[0], "OSError: broken"),) * 2
    assert mute.blobs.keys() == {*refs(1)}


async def test_problems_are_counted_and_the_first_are_kept() -> None:
    one, other = await filled(range(150)), SimulatedStore()
    other.fail(RuntimeError("at s3://me:password@host/bucket"), "put")
    report = await reconcile([one, other])
    assert (len(report.problems), report.problem_count) == (100, 150)
    assert report.stores["store-1"] == ReconcileCounts(0, 150, 0, 150, 0)
    assert report.problems[0].error == "RuntimeError: at s3://me:***@host/bucket"


# Listings that fail


class Silent(SimulatedStore):
    """A store that says of one blob whether it has it and whether it lists it: only real pages count as listings."""

    async def contains(self, ref: Ref) -> bool:
        await trio.lowlevel.checkpoint()
        return ref in self.blobs

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        if limit > 1:
            return await super().list_page(after, limit)
        await trio.lowlevel.checkpoint()
        return sorted(ref for ref in self.blobs if ref > after)[:1]


async def test_a_store_that_can_not_be_listed_lacks_nothing() -> None:
    a, b, away = await filled([1, 2]), await filled([3]), await filled([4])
    away.fail(AWAY, "list_page")
    report = await reconcile({"away": away, "a": a, "b": b})
    assert dict(report.failures) == {"away": AWAY}
    assert report.stores["away"] == NOTHING
    assert report.complete
    assert a.blobs.keys() == b.blobs.keys() == {*refs(1, 2, 3)}
    assert away.blobs.keys() == {*refs(4)}


async def test_a_listing_that_fails_midway_counts_as_far_as_it_went() -> None:
    failing, full, empty = await filled(range(0, 10, 2), Silent(page_size=1)), await filled(range(10)), Silent()
    failing.fail(AWAY, "list_page", after=2)
    before = sorted(failing.blobs)
    report = await reconcile([failing, full, empty])
    known = [ref for ref in sorted(full.blobs) if ref <= before[1]]
    # Until it failed it has taken part, with what it lacks up to there.
    assert report.stores["store-0"] == ReconcileCounts(2, len(known) - 2, len(known) - 2, 0, len(known) - 2)
    assert report.stores["store-2"] == ReconcileCounts(0, 10, 10, 0, 10)
    assert dict(report.failures) == {"store-0": AWAY}
    assert sorted(failing.blobs) == sorted({*before, *known})
    assert report.reached == max(full.blobs)


@pytest.mark.parametrize(
    "page", [None, [Ref.ZERO], [Ref.of(b"0"), Ref.of(b"0")], ["a"], [bytes(31) + b"%c" % i for i in range(101)]]
)
async def test_a_page_that_is_none_is_a_failure(page: Any) -> None:
    class Wrong(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            await trio.lowlevel.checkpoint()
            return page  # type: ignore[no-any-return]

    one, other = await filled([1]), SimulatedStore()
    report = await reconcile({"wrong": Wrong(), "one": one, "other": other})
    assert str(report.failures["wrong"]).startswith("a page ")
    assert other.blobs.keys() == {*refs(1)}


@pytest.mark.parametrize("left", [0, 1])
async def test_with_fewer_than_two_stores_it_goes_on_counting(left: int) -> None:
    stores = [await filled(range(5), SimulatedStore(page_size=1)) for _ in range(2)]
    for store in stores[left:]:
        store.fail(AWAY, "list_page", after=2)
    report = await reconcile(stores)
    assert [counts.refs for counts in report.stores.values()] == [5, 2][1 - left :] + [2] * (1 - left)
    assert len(report.failures) == 2 - left
    assert report.complete
    assert report.reached == sorted(stores[0].blobs)[4 if left else 1]


# Against a model

REFS = sorted(refs(*range(8)))
DATA = {Ref.of(b"%d" % i): b"%d" % i for i in range(8)}
some_refs = st.sets(st.sampled_from(REFS))
few_refs = st.sets(st.sampled_from(REFS), max_size=2)


@dataclass
class Plan:
    """The blobs of a store, and its failures."""

    has: set[Ref]
    corrupt: set[Ref]
    bad_get: set[Ref]
    bad_put: set[Ref]
    bad_contains: set[Ref]
    page_size: int
    pages: int | None
    """Pages after which its listing fails; None if it does not."""
    times: tuple[float, float, float]

    def listed(self, after: Ref) -> tuple[list[Ref], Ref | None]:
        """Return what it lists after a ref, and where it then fails; None if it does not."""
        listed = [ref for ref in sorted(self.has) if ref > after]
        if self.pages is None or self.pages > -(-len(listed) // self.page_size):
            return listed, None
        listed = listed[: self.pages * self.page_size]
        return listed, listed[-1] if listed else after


class Planned(Silent):
    """A store that goes as a plan says."""

    def __init__(self, plan: Plan) -> None:
        get, put, list_page = plan.times
        super().__init__(get=get, put=put, list_page=list_page, page_size=plan.page_size)
        self.plan = plan
        for ref in plan.has:
            self.corrupt(ref, b"rotten" if ref in plan.corrupt else DATA[ref])
        if plan.pages is not None:
            self.fail(AWAY, "list_page", after=plan.pages)

    async def get(self, ref: Ref) -> bytes:
        data = await super().get(ref)
        if ref in self.plan.bad_get:
            raise BROKEN
        return data

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        if Ref.of(blob) in self.plan.bad_put:
            raise BROKEN
        return await super().put(blob)

    async def contains(self, ref: Ref) -> bool:
        await trio.lowlevel.checkpoint()
        if ref in self.plan.bad_contains:
            raise BROKEN
        return ref in self.blobs


plans = st.builds(
    Plan,
    has=some_refs,
    corrupt=few_refs,
    bad_get=few_refs,
    bad_put=few_refs,
    bad_contains=few_refs,
    page_size=st.integers(1, 4),
    pages=st.sampled_from([None, None, None, 0, 1, 2, 4]),
    times=st.tuples(*[st.sampled_from([0.0, 1.0, 2.0])] * 3),
)


class Model:
    """The outcome that some plans must have."""

    def __init__(self, given: list[Plan], after: Ref, *, dry_run: bool) -> None:
        self.contents = [{ref: b"rotten" if ref in plan.corrupt else DATA[ref] for ref in plan.has} for plan in given]
        self.counts = [Counter[str]() for _ in given]
        self.problems = Counter[tuple[str, str, Ref]]()
        self.reached = after
        listings = [plan.listed(after) for plan in given]
        self.failures = {f"store-{i}" for i, (_, end) in enumerate(listings) if end is not None}
        for ref in sorted({ref for listed, _ in listings for ref in listed}):
            self.reached = ref
            there = [i for i, (_, end) in enumerate(listings) if end is None or ref <= end]
            having = [i for i in there if ref in listings[i][0]]
            lacking = [i for i in there if i not in having]
            self.unanswered = set[int]()
            for i in having:
                self.counts[i]["refs"] += 1
                if self.note("contains", ref, i, ref in given[i].bad_contains):
                    self.unanswered.add(i)
            for i in lacking:
                self.counts[i]["missing"] += 1
                self.note("contains", ref, i, ref in given[i].bad_contains)
            if lacking and not dry_run:
                self.copy(given, ref, having, lacking)
            for i in self.unanswered:
                self.counts[i]["unanswered"] += 1

    def copy(self, given: list[Plan], ref: Ref, having: list[int], lacking: list[int]) -> None:
        intact = False
        for i in having:
            intact = not self.note("get", ref, i, ref in given[i].corrupt | given[i].bad_get)
            if intact:
                self.unanswered.discard(i)
                break
            self.unanswered.add(i)
        for i in lacking:
            if not intact or self.note("put", ref, i, ref in given[i].bad_put):
                self.counts[i]["failed"] += 1
            else:
                self.contents[i][ref] = DATA[ref]
                if self.note("contains", ref, i, ref in given[i].bad_contains):
                    self.counts[i]["failed"] += 1
                else:
                    self.counts[i].update(copied=1, bytes=len(DATA[ref]))

    def note(self, operation: str, ref: Ref, store: int, bad: bool) -> bool:
        if bad:
            self.problems[f"store-{store}", operation, ref] += 1
        return bad


@given(
    given_plans=st.lists(plans, min_size=2, max_size=4),
    after=st.sampled_from([Ref.ZERO, Ref.ZERO, *REFS]),
    dry_run=st.sampled_from([False, False, True]),
    concurrency=st.integers(1, 4),
    _=st.random_module(),
)
def test_any_stores(given_plans: list[Plan], after: Ref, dry_run: bool, concurrency: int, _: object) -> None:
    async def main() -> None:
        stores = [Planned(plan) for plan in given_plans]
        seen: list[ReconcileReport] = []
        report = await reconcile(stores, dry_run=dry_run, after=after, concurrency=concurrency, on_progress=seen.append)
        model = Model(given_plans, after, dry_run=dry_run)
        assert [store.blobs for store in stores] == model.contents
        keys = ("refs", "missing", "copied", "failed", "bytes", "unanswered")
        assert list(report.stores.values()) == [ReconcileCounts(*(each[key] for key in keys)) for each in model.counts]
        assert report.failures.keys() == model.failures
        assert Counter((problem.store, problem.operation, problem.ref) for problem in report.problems) == model.problems
        assert report.problem_count == model.problems.total()
        assert report.reached == model.reached
        assert seen[-1] == report
        assert [one.reached for one in seen] == sorted(one.reached for one in seen)
        left = [
            each["missing"] - each["copied"] + each["unanswered"]
            for i, each in enumerate(model.counts)
            if f"store-{i}" not in model.failures
        ]
        assert report.complete == (sum(left) == 0)
        for store in stores:
            assert all(call.ended is not None for call in store.calls)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# Memory


class Numbers(SimulatedStore):
    """A store of refs that it makes up: the numbers up to `count` that are no multiples of `skip`."""

    def __init__(self, count: int, skip: int) -> None:
        super().__init__()
        self.count = count
        self.skip = skip
        self.pages = 0
        self.asked = 0

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        self.pages += 1
        first = int.from_bytes(after, "big") + 1
        numbers = range(first, min(first + limit, self.count + 1))
        return [Ref(number.to_bytes(32, "big")) for number in numbers if number % self.skip]

    async def contains(self, ref: Ref) -> bool:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return False


async def peak_of(count: int) -> int:
    """Return the most bytes that a dry run over so many refs takes."""
    most, others = Numbers(count, 10), Numbers(count, 11)
    gc.collect()
    tracemalloc.start()
    try:
        report = await reconcile([most, others], dry_run=True, spot_checks=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    in_both, in_most, in_others = count // 110, count - count // 10, count - count // 11
    missing = count // 11 - in_both, count // 10 - in_both
    union = in_most + missing[1]
    assert list(report.stores.values()) == [
        ReconcileCounts(in_most, union - in_most, 0, 0, 0),
        ReconcileCounts(in_others, union - in_others, 0, 0, 0),
    ]
    assert (most.asked, others.asked) == (union - in_most, union - in_others)
    assert count / 1000 < most.pages < count / 800
    return peak


@pytest.mark.deep
async def test_memory_does_not_grow_with_the_number_of_refs() -> None:
    few, many = await peak_of(10_000), await peak_of(100_000)
    assert many < 1.25 * few < 4_000_000


@pytest.mark.parametrize(("concurrency", "pages"), [(1, 1), (9, 1), (10, 2), (15, 2)])
async def test_a_page_is_listed_when_the_one_before_is_taken(
    autojump_clock: MockClock, concurrency: int, pages: int
) -> None:
    class Hanging(SimulatedStore):
        async def contains(self, ref: Ref) -> NoReturn:
            await trio.sleep_forever()

    one = await filled(range(50), SimulatedStore(page_size=10))
    with trio.move_on_after(1) as scope:
        await reconcile([one, Hanging()], concurrency=concurrency)
    assert scope.cancelled_caught
    assert len(called(one, "list_page")) == pages


@pytest.mark.deep
async def test_as_many_blobs_as_said_are_in_memory(autojump_clock: MockClock) -> None:
    size, count, concurrency = 256 * 1024, 40, 3

    class Source(SimulatedStore):
        """A store that makes the blob up when it is asked for it."""

        async def get(self, ref: Ref) -> bytes:
            await trio.lowlevel.checkpoint()
            counts["in memory"] += 1
            counts["most"] = max(counts["most"], counts["in memory"])
            return numbers[ref].to_bytes(size, "big")

    class Target(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            await trio.sleep(1)
            counts["in memory"] -= 1
            assert isinstance(blob, Blob)
            if numbers[blob.ref] % 2:
                raise OSError(blob)  # which keeps it, if somebody keeps that
            self.corrupt(blob.ref, b"")  # so that it is listed
            return PutResult(blob.ref, True)

    counts = Counter[str]()
    numbers = {Ref.of(number.to_bytes(size, "big")): number for number in range(count)}
    source = Source()
    for ref in numbers:
        source.corrupt(ref, b"")
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        report = await reconcile([source, Target()], concurrency=concurrency)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert report.stores["store-1"] == ReconcileCounts(0, count, count // 2, count // 2, size * count // 2)
    assert counts["most"] == concurrency
    assert peak < (concurrency + 1) * size


# Progress, and the end


async def test_progress_is_told_after_every_page_and_every_blob(autojump_clock: MockClock) -> None:
    class Slow(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            await trio.sleep(seconds[Ref.of(blob)])
            return await super().put(blob)

    one, other = await filled(range(4), SimulatedStore(page_size=2, list_page=1)), Slow()
    listed = sorted(one.blobs)
    seconds = dict(zip(listed, (10, 3, 3, 4), strict=True))
    seen: list[ReconcileReport] = []
    report = await reconcile([one, other], on_progress=seen.append)
    counts = [
        (each.stores["store-0"].refs, each.stores["store-1"].missing, each.stores["store-1"].copied) for each in seen
    ]
    assert counts == [(2, 0, 0), (4, 2, 0), (4, 4, 0), (4, 4, 1), (4, 4, 2), (4, 4, 3), (4, 4, 4)]
    # While the first is being copied, no ref has been dealt with, and then all have.
    assert [each.reached for each in seen] == [*[Ref.ZERO] * 6, listed[3]]
    assert seen[-1] == report
    with pytest.raises(FrozenInstanceError):
        report.reached = Ref.ZERO  # type: ignore[misc]
    with pytest.raises(TypeError):
        report.stores["store-0"] = NOTHING  # type: ignore[index]


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("mine"), ExceptionGroup("mine", [BROKEN]), KeyboardInterrupt(), SystemExit(3)]
)
async def test_what_progress_raises_comes_out_as_it_is(
    autojump_clock: MockClock, error: BaseException, after: int
) -> None:
    calls = 0

    def progress(_: ReconcileReport) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise error

    stores = [await filled(range(8)), SimulatedStore(put=1)]
    with pytest.raises(type(error)) as caught:
        await reconcile(stores, concurrency=2, on_progress=progress)
    assert caught.value is error
    assert calls == after + 1
    assert all(call.ended is not None for store in stores for call in store.calls)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("operation", ["list_page", "get", "put"])
async def test_a_store_that_ends_the_program_does(operation: str, kind: type[BaseException]) -> None:
    stores = [await filled([1]), SimulatedStore()]
    for store in stores:
        store.fail(BaseExceptionGroup("in a task", [kind()]), operation)
    with pytest.raises(kind):
        await reconcile(stores)


def test_cancelled_at_every_checkpoint_and_again() -> None:
    async def main(instrument: CancelAtStep) -> bool:
        stores = [
            await filled(range(3), SimulatedStore(get=1, list_page=1, page_size=2)),
            await filled(range(2, 4), SimulatedStore(put=1)),
            SimulatedStore(put=2, list_page=2),
        ]
        with trio.CancelScope() as instrument.scope:
            await reconcile(stores, concurrency=2)
        cancelled = instrument.scope.cancelled_caught
        instrument.scope = None
        assert all(call.ended is not None for store in stores for call in store.calls)
        copied = sum(len(store.blobs) for store in stores) - 5
        report = await reconcile(stores)
        assert sum(counts.copied for counts in report.stores.values()) == 12 - 5 - copied
        assert report.complete
        assert all(store.blobs.keys() == {*refs(0, 1, 2, 3)} for store in stores)
        return cancelled

    steps = 1
    while True:
        instrument = CancelAtStep(steps)
        clock = trio.testing.MockClock(autojump_threshold=0)
        if not trio.run(main, instrument, clock=clock, instruments=[instrument]) and instrument.steps > 0:
            break
        steps += 1
    assert steps > 50


async def test_when_it_is_cancelled_already_it_touches_nothing() -> None:
    store = SimulatedStore()
    with trio.CancelScope() as scope:
        scope.cancel()
        await reconcile([store])
    assert scope.cancelled_caught
    assert store.calls == []


# The arguments


@pytest.mark.parametrize(
    ("stores", "complaint"),
    [
        ([], "there are no stores"),
        ({}, "there are no stores"),
        ({"": SimulatedStore()}, "the name of a store is not empty"),
        ([one := SimulatedStore(), SimulatedStore(), one], "one store is given twice: as 'store-0' and as 'store-2'"),
        ({"a": one, "b": one}, "one store is given twice: as 'a' and as 'b'"),
    ],
)
async def test_stores_of_a_wrong_value(stores: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        await reconcile(stores)
    assert str(caught.value) == complaint
    assert one.calls == []


@pytest.mark.parametrize(
    ("stores", "complaint"),
    [
        (None, "stores is an iterable of stores or a mapping of names to stores, not None"),
        ([one, "memory:"], "store-1 is of type str, not a Store: use open_store('memory:')"),
        ({1: one}, "the name of a store is a str, not 1"),
    ],
)
async def test_stores_of_a_wrong_type(stores: Any, complaint: str) -> None:
    with pytest.raises(TypeError) as caught:
        await reconcile(stores)
    assert str(caught.value) == complaint
    assert one.calls == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ValueError("concurrency is at least 1, not 0")),
        ({"concurrency": 1.0}, TypeError("concurrency is an int, not 1.0")),
        ({"after": bytes(32)}, TypeError("a ref is a trio_replica.Ref, not bytes")),
    ],
)
async def test_wrong_options(options: dict[str, Any], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await reconcile([one], **options)
    assert str(caught.value) == str(error)
    assert one.calls == []


async def test_names_have_no_secrets() -> None:
    report = await reconcile({"s3://key:secret@host": SimulatedStore(), "other": SimulatedStore()})
    assert list(report.stores) == ["s3://key:***@host", "other"]


# Real stores


async def test_a_directory_that_was_deleted_is_rebuilt_whole(tmp_path: Path) -> None:
    blobs = {Ref.of(data): data for data in (b"%d" % i * 500 for i in range(60))}
    async with (
        replica.open_directory(tmp_path / "copy") as copy,
        replica.open_sqlite(tmp_path / "blobs.db") as database,
    ):
        await copy.put_many(blobs.values())
        await database.put_many(blobs.values())
    shutil.rmtree(tmp_path / "copy")
    async with (
        replica.open_directory(tmp_path / "copy") as copy,
        replica.open_sqlite(tmp_path / "blobs.db") as database,
    ):
        report = await reconcile({"copy": copy, "database": database})
        assert report.stores["copy"] == ReconcileCounts(0, 60, 60, 0, sum(map(len, blobs.values())))
        assert await copy.get_many(blobs) == blobs
    files = [path for path in (tmp_path / "copy" / "blobs").rglob("*") if path.is_file()]
    assert {path.name: path.read_bytes() for path in files} == {str(ref): data for ref, data in blobs.items()}


async def test_a_large_blob_is_verified_and_copied() -> None:
    data = bytes(3 * 1024 * 1024)
    source, target = SimulatedStore(), MemoryStore()
    rotten, intact = Ref.of(b"rotten"), Ref.of(data)
    source.corrupt(rotten, data)
    source.corrupt(intact, data)
    report = await reconcile([source, target])
    assert report.stores["store-1"] == ReconcileCounts(0, 2, 1, 1, len(data))
    assert await target.get(intact) == data
    with pytest.raises(BlobNotFoundError):
        await target.get(rotten)
