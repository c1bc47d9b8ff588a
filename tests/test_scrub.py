"""Scrubbing: what is found, what is repaired and what is left alone, at exact virtual times; and on real files."""

from __future__ import annotations

import gc
import math
import sqlite3
import tracemalloc
from contextlib import AsyncExitStack, closing
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import (
    Blob,
    Contradiction,
    DeletableStore,
    Integrity,
    MemoryStore,
    Ref,
    ReplicaError,
    RetryingStore,
    ScrubCounts,
    ScrubFinding,
    ScrubReport,
    open_directory,
    open_sqlite,
    scrub,
)
from trio_replica._upkeep.scrub import scrub_into
from trio_replica._upkeep.scrub_report import ScrubLog
from trio_replica.testing import SimulatedStore

from .common import PlainStore, put_numbers, refs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trio.testing import MockClock


AWAY = OSError("away")
WRONG = "its bytes are those of "
MISSING = "BlobNotFoundError: blob"


class CheckedStore(SimulatedStore):
    """A store that finds what it is told to find, keeps bad bytes, and writes down what it is asked for."""

    def __init__(self, *found: Integrity | Exception, repairing: Exception | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.found = list(found)
        self.repairing = repairing
        self.kept: list[bytes] = []
        self.asked: list[str] = []

    async def check_integrity(self) -> Integrity:
        await trio.lowlevel.checkpoint()
        self.asked.append("check")
        found = self.found.pop(0) if self.found else Integrity()
        if isinstance(found, Exception):
            raise found
        return found

    async def repair_integrity(self) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append("repair")
        if self.repairing is not None:
            raise self.repairing

    async def set_aside(self, ref: Ref) -> str | None:
        await self._serve("set_aside", (ref,), 0.0)
        self.kept.append(self.blobs[ref])
        return "a drawer"

    @property
    def steps(self) -> list[str]:
        """The operations that it was called for since the last `calls.clear()`; ``contains`` is a page of one."""
        return [call.operation for call in self.calls]


async def filled(store: SimulatedStore, *numbers: int) -> SimulatedStore:
    """Put numbers at once."""
    for number in numbers:
        store.corrupt(Ref.of(b"%d" % number), b"%d" % number)
    await trio.lowlevel.checkpoint()
    return store


def flipped(number: int) -> bytes:
    data = b"%d" % number
    return bytes([data[0] ^ 0x80]) + data[1:]


def wrong(number: int) -> str:
    return f"{WRONG}{Ref.of(flipped(number))!s:.12}"


def finding(store: str, number: int, outcome: str = "", *, repaired: bool = False) -> ScrubFinding:
    """Return the finding about a flipped number."""
    return ScrubFinding(store, Ref.of(b"%d" % number), wrong(number), True, repaired, outcome)


async def test_sound_stores(autojump_clock: MockClock) -> None:
    first, second = MemoryStore(), MemoryStore()
    await put_numbers(first, range(20))
    await put_numbers(second, range(10))
    report = await scrub([first, second])
    assert report == ScrubReport(
        stores={
            "store-0": ScrubCounts(refs=20, bytes=30, reached=max(refs(*range(20)))),
            "store-1": ScrubCounts(refs=10, bytes=10, reached=max(refs(*range(10)))),
        },
        findings=(),
        problems={},
        repaired={},
        failures={},
    )
    assert report.is_sound


async def test_empty_stores_are_sound() -> None:
    report = await scrub({"none": MemoryStore()}, repair=True)
    assert report == ScrubReport({"none": ScrubCounts()}, (), {}, {}, {})
    assert report.is_sound


STORE = SimulatedStore()


@pytest.mark.parametrize(
    ("stores", "options", "kind", "message"),
    [
        ([], {}, ValueError, "there are no stores"),
        ([STORE, STORE], {}, ValueError, "one store is given twice: as 'store-0' and as 'store-1'"),
        ({"a": STORE, "b": STORE}, {}, ValueError, "one store is given twice: as 'a' and as 'b'"),
        ({"": STORE}, {}, ValueError, "the name of a store is not empty"),
        (STORE, {}, TypeError, "stores is an iterable of stores or a mapping of names to stores, not "),
        ("dir:x", {}, TypeError, "stores is an iterable of stores or a mapping .* use open_store"),
        ([STORE, "dir:x"], {}, TypeError, "store-1 is of type str, not a Store: use open_store"),
        (
            {"a": STORE, "b": PlainStore(STORE)},
            {"repair": True},
            TypeError,
            "^b is of type PlainStore, not a DeletableStore: a repair needs its replace method$",
        ),
        ([STORE], {"after": b"\0" * 32}, TypeError, "a ref is a trio_replica.Ref, not bytes"),
        ([STORE], {"bytes_per_second": 0}, ValueError, "bytes_per_second is more than 0, not 0"),
        ([STORE], {"bytes_per_second": math.nan}, ValueError, "bytes_per_second is more than 0, not nan"),
        ([STORE], {"bytes_per_second": True}, TypeError, "bytes_per_second is a number, or None .*, not True"),
        ([STORE], {"bytes_per_second": "1"}, TypeError, "bytes_per_second is a number, or None .*, not '1'"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_touched(
    stores: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        await scrub(stores, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert STORE.calls == []


async def test_a_plain_store_is_scrubbed(autojump_clock: MockClock) -> None:
    store = SimulatedStore()
    await put_numbers(PlainStore(store), [1, 2])
    store.corrupt(*refs(2))
    report = await scrub({"plain": PlainStore(store)})
    assert report.stores["plain"].corrupt == 1
    assert report.findings == (finding("plain", 2),)
    assert not report.is_sound


async def test_what_is_corrupt_is_found_and_left_alone(autojump_clock: MockClock) -> None:
    first = await filled(CheckedStore(), *range(10))
    second = await filled(CheckedStore(), *range(10))
    first.corrupt(*refs(3))
    second.corrupt(*refs(7))
    before = first.blobs, second.blobs
    report = await scrub({"a": first, "b": second})
    assert sorted(report.findings, key=lambda one: one.store) == [finding("a", 3), finding("b", 7)]
    assert [(one.refs, one.corrupt, one.repaired, one.failed) for one in report.stores.values()] == [(10, 1, 0, 0)] * 2
    assert not report.is_sound
    assert (first.blobs, second.blobs) == before


async def test_a_repair_sets_the_bad_bytes_aside_once_a_good_copy_is_in_hand(autojump_clock: MockClock) -> None:
    steps: list[str] = []

    class Noting(CheckedStore):
        async def _serve(self, operation: str, *arguments: Any, **options: Any) -> None:
            steps.append(f"{operation} {name[self]}")
            await super()._serve(operation, *arguments, **options)

    first, second = Noting(list_page=1.0), Noting(list_page=100.0)
    name = {first: "first", second: "second"}
    await filled(first, 1)
    await filled(second, 1)
    first.corrupt(*refs(1))
    report = await scrub({"first": first, "second": second}, repair=True)
    assert steps[2:] == [
        "get first",
        "get second",
        "list_page first",  # whether it is still there
        "set_aside first",
        "replace first",
        "get first",
        "list_page first",  # whether it is listed, too
        "list_page first",
        "get second",
        "list_page second",
        *["list_page first", "list_page second"] * 2,  # side by side
    ]
    kept = "repaired from second; the bad bytes are kept: a drawer"
    assert report.findings == (finding("first", 1, kept, repaired=True),)
    assert report.stores["first"] == ScrubCounts(refs=1, bytes=2, corrupt=1, repaired=1, reached=refs(1)[0])
    assert report.is_sound
    assert (first.kept, second.kept) == ([flipped(1)], [])
    assert first.blobs == second.blobs == {refs(1)[0]: b"1"}


async def test_a_store_may_keep_nothing(autojump_clock: MockClock) -> None:
    first, second = await filled(SimulatedStore(), 1), MemoryStore()
    await put_numbers(second, [1])
    first.corrupt(*refs(1))
    report = await scrub([first, second], repair=True)
    assert report.findings == (finding("store-0", 1, "repaired from store-1", repaired=True),)
    assert await second.set_aside(*refs(1)) is None
    with pytest.raises(TypeError):
        await second.set_aside(b"no ref")  # type: ignore[arg-type]


async def test_both_copies_corrupt_are_left_alone(autojump_clock: MockClock) -> None:
    stores = {"a": CheckedStore(), "b": CheckedStore()}
    for store in stores.values():
        await filled(store, 1, 2)
        store.corrupt(*refs(1))
    before = [store.blobs for store in stores.values()]
    report = await scrub(stores, repair=True)
    bad = f"CorruptBlobError: blob {refs(1)[0]!s:.12} is corrupt: {wrong(1)}"
    assert sorted(report.findings, key=lambda one: one.store) == [
        finding("a", 1, f"not repaired: no other store has a good copy (b: {bad})"),
        finding("b", 1, f"not repaired: no other store has a good copy (a: {bad})"),
    ]
    assert not report.is_sound
    assert [store.blobs for store in stores.values()] == before
    assert not any({"set_aside", "replace", "delete", "put"} & {*store.steps} for store in stores.values())


async def test_the_only_store_has_no_other_copy(autojump_clock: MockClock) -> None:
    store = await filled(SimulatedStore(), 1)
    store.corrupt(*refs(1))
    report = await scrub([store], repair=True)
    assert report.findings == (finding("store-0", 1, "not repaired: no other store has a good copy"),)


async def test_a_copy_that_is_corrupt_missing_or_out_of_reach_falls_to_the_next(autojump_clock: MockClock) -> None:
    bad, lacking, broken, good, other = [
        await filled(SimulatedStore(), *numbers) for numbers in [[1], [], [1], [1], [1]]
    ]
    bad.corrupt(*refs(1))
    broken.fail(AWAY)
    store = await filled(SimulatedStore(get=1.0), 1)
    store.corrupt(*refs(1))
    report = await scrub(
        {"bad": bad, "lacking": lacking, "broken": broken, "good": good, "x": store, "y": other}, repair=True
    )
    assert sorted(report.findings, key=lambda one: one.store) == [
        finding("bad", 1, "repaired from good", repaired=True),
        finding("x", 1, "repaired from bad", repaired=True),  # which has been repaired a second before
    ]
    assert report.failures == {"broken": AWAY}
    assert not report.is_sound
    assert bad.blobs == store.blobs == good.blobs


async def test_why_no_other_store_has_a_good_copy(autojump_clock: MockClock) -> None:
    store, lacking, broken = await filled(SimulatedStore(), 1), SimulatedStore(), SimulatedStore()
    store.corrupt(*refs(1))
    broken.fail(AWAY, "get")
    report = await scrub([store, lacking, broken], repair=True)
    missing = f"store-1: BlobNotFoundError: blob {refs(1)[0]} not found"
    why = f"not repaired: no other store has a good copy ({missing}; store-2: OSError: away)"
    assert report.findings[0] == finding("store-0", 1, why)
    assert store.blobs == {refs(1)[0]: flipped(1)}
    unanswered = "another question about it failed: OSError: away"
    assert report.findings[1:] == (ScrubFinding("store-2", refs(1)[0], unanswered, is_corrupt=False),)


@pytest.mark.parametrize(
    ("operation", "after", "outcome", "is_replaced"),
    [
        ("list_page", 1, "OSError: away", False),
        ("set_aside", 0, "its bytes could not be set aside: OSError: away", False),
        ("replace", 0, "OSError: away; the bad bytes are kept: a drawer", False),
        ("get", 1, "it was replaced, and can't be read: OSError: away; the bad bytes are kept: a drawer", True),
    ],
)
async def test_a_repair_that_fails(
    autojump_clock: MockClock, operation: str, after: int, outcome: str, *, is_replaced: bool
) -> None:
    store, other = await filled(CheckedStore(), 1), await filled(SimulatedStore(), 1)
    store.corrupt(*refs(1))
    store.fail(AWAY, operation, after=after, count=1)
    report = await scrub({"store": store, "other": other}, repair=True)
    assert report.findings == (finding("store", 1, f"not repaired: {outcome}"),)
    assert (report.stores["store"].corrupt, report.stores["store"].repaired) == (1, 0)
    assert store.blobs == {refs(1)[0]: b"1" if is_replaced else flipped(1)}


async def test_reads_that_fail_do_not_stop_the_rest(autojump_clock: MockClock) -> None:
    store = await filled(SimulatedStore(), *range(40))
    other = await filled(SimulatedStore(), *range(40))
    store.fail(AWAY, "get", after=10, count=3)
    report = await scrub({"store": store, "other": other}, repair=True)
    assert (report.stores["store"].refs, report.stores["store"].failed, report.stores["store"].corrupt) == (40, 3, 0)
    assert [(one.is_corrupt, one.is_repaired, one.problem) for one in report.findings] == [
        (False, False, "it can't be read: OSError: away")
    ] * 3
    assert report.stores["other"].failed == 0
    assert not report.is_sound
    assert not any(call.operation == "replace" for call in store.calls)


async def test_an_answer_that_is_no_bytes_is_a_failed_read(autojump_clock: MockClock) -> None:
    class Odd(SimulatedStore):
        async def get(self, ref: Ref) -> Any:
            await trio.lowlevel.checkpoint()
            return "text"

    report = await scrub([await filled(Odd(), 1)], bytes_per_second=1)
    assert [one.problem.partition("Error")[0] for one in report.findings] == ["it can't be read: Type"]


async def test_a_listing_that_fails_is_a_failure_of_its_store(autojump_clock: MockClock) -> None:
    broken, good = [await filled(SimulatedStore(page_size=4), *range(10)) for _ in range(2)]
    broken.fail(AWAY, "list_page", after=1)
    report = await scrub({"broken": broken, "good": good})
    assert report.failures == {"broken": AWAY}
    ascending = sorted(refs(*range(10)))
    assert (report.stores["broken"].refs, report.stores["broken"].reached) == (4, ascending[3])
    assert (report.stores["good"].refs, report.stores["good"].reached) == (10, ascending[9])
    assert not report.is_sound


async def test_a_listing_of_nonsense_is_a_failure(autojump_clock: MockClock) -> None:
    class Stuck(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            return await super().list_page(Ref.ZERO, limit)

    report = await scrub([await filled(Stuck(), 1)])
    assert isinstance(report.failures["store-0"], ReplicaError)
    assert report.stores["store-0"].refs == 1


# Blobs that come and go


@pytest.mark.parametrize("repair", [False, True])
async def test_a_blob_that_is_deleted_while_it_runs_is_no_damage(autojump_clock: MockClock, *, repair: bool) -> None:
    class Losing(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            if ref == refs(1)[0]:
                await self.delete(ref)
            return await super().get(ref)

    report = await scrub([await filled(Losing(), 1, 2)], repair=repair)
    assert (report.stores["store-0"].refs, report.findings, report.is_sound) == (1, (), True)


async def test_a_blob_that_comes_back_is_no_damage(autojump_clock: MockClock) -> None:
    class Returning(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            try:
                return await super().get(ref)
            finally:
                self.corrupt(ref, b"1")

        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            return [*refs(1)] if after < refs(1)[0] else await super().list_page(after, limit)

    report = await scrub([Returning()])
    assert (report.stores["store-0"].refs, report.findings, report.is_sound) == (1, (), True)


async def test_a_blob_that_is_listed_and_not_there_is_corrupt(autojump_clock: MockClock) -> None:
    class Forgetting(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            page = {*await super().list_page(after, limit), *(ref for ref in refs(1) if ref > after)}
            return sorted(page)[:limit]

    store, other = await filled(Forgetting(), 2), await filled(SimulatedStore(), 1, 2)
    missing = ScrubFinding(
        "store", refs(1)[0], "it is listed, but not there", True, contradiction=Contradiction.LISTED_ABSENT
    )
    assert (await scrub({"store": store})).findings == (missing,)
    report = await scrub({"store": store, "other": other}, repair=True)
    assert [one.outcome for one in report.findings] == ["repaired from other"]
    assert store.blobs == other.blobs
    store.corrupt(*refs(1))
    await store.delete(*refs(1))
    store.fail(AWAY, "list_page", after=1, count=1)
    assert [one.problem for one in (await scrub([store])).findings] == [
        "another question about it failed: OSError: away"
    ]


@pytest.mark.parametrize("is_good", [False, True])
async def test_a_corrupt_blob_that_is_deleted_in_the_meantime_does_not_come_back(
    autojump_clock: MockClock, *, is_good: bool
) -> None:
    class Deleting(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            await store.delete(ref)
            return await super().get(ref)

    store = await filled(SimulatedStore(), 1)
    store.corrupt(*refs(1))
    other = await filled(Deleting(list_page=1.0), *([1] if is_good else []))
    report = await scrub([store, other], repair=True)
    assert (report.findings, report.stores["store-0"].refs, report.is_sound) == ((), 0, True)
    assert store.blobs == {}


@pytest.mark.parametrize("rate", [None, 1000.0])
async def test_the_memory_of_a_store_is_no_proof(autojump_clock: MockClock, rate: float | None) -> None:
    class Remembering(SimulatedStore):
        async def get_stored(self, ref: Ref) -> bytes:
            return (await self.get(ref)).replace(b"1", b"0")

    store, good = Remembering(), MemoryStore()
    await put_numbers(store, [1, 2])
    await put_numbers(good, [1, 2])
    report = await scrub({"store": store, "good": good, "retried": RetryingStore(store)}, bytes_per_second=rate)
    assert [(finding.store, finding.ref) for finding in report.findings] == [
        ("store", refs(1)[0]),
        ("retried", refs(1)[0]),
    ]
    report = await scrub({"store": store, "good": good}, repair=True)
    (finding,) = report.findings
    assert finding.outcome.startswith("not repaired: it was replaced, and can't be read: CorruptBlobError")


# The store as a whole


async def test_a_store_that_finds_trouble(autojump_clock: MockClock) -> None:
    hidden = refs(*range(3))
    trouble = Integrity(("the index is bent",), hidden, 5)
    store = CheckedStore(trouble)
    report = await scrub({"store": store})
    assert store.asked == ["check"]
    assert report.problems == {"store": ("the index is bent",)}
    assert report.stores == {"store": ScrubCounts(corrupt=5)}
    problem = "an index hides it: no get finds it, no listing shows it"
    assert report.findings == tuple(ScrubFinding("store", ref, problem, is_corrupt=True) for ref in hidden)
    assert not report.is_sound


async def test_a_store_that_repairs_itself(autojump_clock: MockClock) -> None:
    hidden = refs(*range(3))
    store = CheckedStore(Integrity(("bent", "dented"), hidden, 3), Integrity(("dented",)))
    report = await scrub({"store": store}, repair=True)
    assert store.asked == ["check", "repair", "check"]
    assert (report.repaired, report.problems) == ({"store": ("bent",)}, {"store": ("dented",)})
    assert report.stores == {"store": ScrubCounts(corrupt=3, repaired=3)}
    assert {(one.is_repaired, one.outcome) for one in report.findings} == {(True, "repaired: its index was rebuilt")}
    assert not report.is_sound
    assert (await scrub({"store": CheckedStore(Integrity(("bent",)), Integrity())}, repair=True)).is_sound


async def test_a_store_where_blobs_have_no_place(autojump_clock: MockClock) -> None:
    class Blocked(CheckedStore):
        async def set_aside(self, ref: Ref) -> str | None:
            await trio.lowlevel.checkpoint()
            return None

    store = Blocked(Integrity(blocked=refs(1, 2), blocked_count=5))
    good = MemoryStore()
    await put_numbers(good, [1])
    report = await scrub({"store": store})
    assert report.stores == {"store": ScrubCounts(corrupt=5)}
    problem = "something that is not a blob, such as a link, has its place, so it can't be stored"
    assert report.findings == tuple(ScrubFinding("store", ref, problem, is_corrupt=True) for ref in refs(1, 2))
    store.found = [Integrity(blocked=refs(1, 2), blocked_count=2)]
    report = await scrub({"store": store, "good": good}, repair=True)
    assert "repair" not in store.asked  # that is for what can be derived from the blobs
    assert (report.stores["store"].corrupt, report.stores["store"].repaired) == (2, 1)
    outcomes = [
        "repaired from good",
        f"not repaired: no other store has a good copy (good: {MISSING} {refs(2)[0]} not found)",
    ]
    assert [finding.outcome for finding in report.findings] == outcomes
    assert not report.is_sound


async def test_a_store_need_not_look_at_itself() -> None:
    store = MemoryStore()
    assert await store.check_integrity() == Integrity()
    await store.repair_integrity()


async def test_a_sound_store_is_not_repaired(autojump_clock: MockClock) -> None:
    store = CheckedStore()
    assert (await scrub({"store": store}, repair=True)).repaired == {}
    assert store.asked == ["check"]


@pytest.mark.parametrize(
    ("found", "repairing", "problems", "repaired"),
    [
        ([AWAY], None, ["it could not check itself: OSError: away"], 0),
        ([Integrity((), refs(1), 1)], AWAY, ["it could not repair itself: OSError: away"], 0),
        ([Integrity(("bent",), refs(1), 1)], AWAY, ["bent", "it could not repair itself: OSError: away"], 0),
        (
            [Integrity((), refs(1), 1), AWAY],
            None,
            ["it could not check itself once it was repaired: OSError: away"],
            0,
        ),
        ([Integrity(("a",), refs(1, 2), 2), Integrity(("a",), refs(2), 1)], None, ["a"], 1),
    ],
)
async def test_a_store_that_can_not_be_repaired_is_still_read(
    autojump_clock: MockClock,
    found: list[Integrity | Exception],
    repairing: Exception | None,
    problems: list[str],
    repaired: int,
) -> None:
    store = CheckedStore(*found, repairing=repairing)
    await filled(store, 7)
    report = await scrub({"store": store}, repair=True)
    assert [*report.problems["store"]] == problems
    assert (report.stores["store"].refs, report.stores["store"].repaired) == (1, repaired)
    assert [one.outcome for one in report.findings] == ["not repaired"] * (
        0 if found == [AWAY] else len(report.findings)
    )
    assert not report.is_sound


async def test_a_retrying_store_passes_it_all_through(autojump_clock: MockClock) -> None:
    inner = CheckedStore(OSError("once"), Integrity(("bent",)), Integrity())
    await filled(inner, 1)
    inner.corrupt(*refs(1))
    report = await scrub({"a": RetryingStore(inner), "b": await filled(SimulatedStore(), 1)}, repair=True)
    assert (report.repaired, inner.asked) == ({"a": ("bent",)}, ["check", "check", "repair", "check"])
    assert (report.is_sound, inner.kept, inner.blobs) == (True, [flipped(1)], {refs(1)[0]: b"1"})


async def test_a_store_that_fails_to_repair_itself_is_not_asked_again(autojump_clock: MockClock) -> None:
    bent = Integrity(("bent",))
    inner = CheckedStore(bent, repairing=ReplicaError("it would lose something"))
    retrying = RetryingStore(inner)
    report = await scrub({"a": retrying}, repair=True)
    assert report.problems == {"a": ("bent", "it could not repair itself: ReplicaError: it would lose something")}
    assert (inner.asked, trio.current_time()) == (["check", "repair"], 0.0)
    assert (retrying.statistics().calls, retrying.statistics().retries) == (4, 0)  # with its identity and a page


# Times


async def test_stores_are_read_at_the_same_time_each_16_blobs_at_once(autojump_clock: MockClock) -> None:
    stores = [await filled(SimulatedStore(get=1.0), *range(33)) for _ in range(3)]
    await scrub(stores)
    assert trio.current_time() == 3.0
    for store in stores:
        gets = [call.started for call in store.calls if call.operation == "get"]
        assert [gets.count(second) for second in (0.0, 1.0, 2.0)] == [16, 16, 1]


@pytest.mark.parametrize(
    ("get", "rate", "begun"),
    [
        (0.0, 2, [0.0, 0.5, 1.0, 1.5, 2.0]),  # one byte each
        (0.0, 0.25, [0.0, 4.0, 8.0, 12.0, 16.0]),
        (0.0, math.inf, [0.0] * 5),
        (3.0, 1, [0.0, 3.0, 4.0, 5.0, 6.0]),  # the first alone, because nobody knows how long it is
        (0.25, 2, [0.0, 0.5, 1.0, 1.5, 2.0]),
    ],
)
async def test_bytes_per_second(autojump_clock: MockClock, get: float, rate: float, begun: list[float]) -> None:
    stores = [await filled(SimulatedStore(get=get), *range(5)) for _ in range(2)]
    await scrub(stores, bytes_per_second=rate)
    for store in stores:
        assert [call.started for call in store.calls if call.operation == "get"] == begun
    assert trio.current_time() == begun[-1] + get


async def test_blobs_of_different_sizes_count_for_the_pace(autojump_clock: MockClock) -> None:
    store = SimulatedStore(get=1.0)
    blobs = sorted((b"\0" * size for size in (1, 2, 4, 8, 16, 32)), key=Ref.of)
    for blob in blobs:
        store.corrupt(Ref.of(blob), blob)
    await scrub([store], bytes_per_second=8)
    gets = [call.started for call in store.calls if call.operation == "get"]
    # The blobs read before a read began had been paid for by then, except for those still being read.
    for place, begun in enumerate(gets):
        ended = sum(len(blob) for blob, start in zip(blobs, gets, strict=True) if start + 1.0 < begun)
        assert begun >= ended / 8, place
    assert trio.current_time() >= (sum(map(len, blobs)) - len(blobs[-1]) - len(blobs[-2])) / 8


@pytest.mark.parametrize(("after", "begun"), [(0, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]), (2, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])])
async def test_a_failed_read_costs_what_the_one_before_it_did(
    autojump_clock: MockClock, after: int, begun: list[float]
) -> None:
    store = await filled(SimulatedStore(), *range(6))
    store.fail(AWAY, "get", after=after, count=2)
    await scrub([store], bytes_per_second=1)
    assert [call.started for call in store.calls if call.operation == "get"] == begun


async def test_copies_for_a_repair_count_for_the_pace_too(autojump_clock: MockClock) -> None:
    store, other = await filled(SimulatedStore(), 1), await filled(SimulatedStore(list_page=10.0), 1)
    store.corrupt(*refs(1))
    await scrub([store, other], repair=True, bytes_per_second=0.0625)
    assert [call.started for call in store.calls if call.operation == "get"] == [0.0, 16.0]
    assert [call.started for call in other.calls if call.operation == "get"] == [0.0, 16.0]


# Progress and findings


async def test_progress_is_told_in_frozen_snapshots(autojump_clock: MockClock) -> None:
    store = await filled(SimulatedStore(page_size=2, get=chain([1.0, 2.0, 1.0], repeat(0.0))), *range(3))
    ascending = sorted(refs(*range(3)))
    store.corrupt(ascending[1])
    told: list[tuple[float, Mapping[str, ScrubCounts]]] = []
    found: list[tuple[float, Ref]] = []
    await scrub(
        {"one": store},
        on_progress=lambda counts: told.append((trio.current_time(), counts)),
        on_finding=lambda finding: found.append((trio.current_time(), finding.ref)),
    )
    first, second = ascending[:2]
    assert told == [
        (1.0, {"one": ScrubCounts(refs=1, bytes=1)}),
        (2.0, {"one": ScrubCounts(refs=2, bytes=2, corrupt=1)}),
        (2.0, {"one": ScrubCounts(refs=2, bytes=2, corrupt=1, reached=second)}),
        (3.0, {"one": ScrubCounts(refs=3, bytes=3, corrupt=1, reached=second)}),
        (3.0, {"one": ScrubCounts(refs=3, bytes=3, corrupt=1, reached=ascending[2])}),
    ]
    assert found == [(2.0, second)]
    with pytest.raises(TypeError):
        told[0][1]["one"] = ScrubCounts()  # type: ignore[index]
    report = await scrub({"one": store}, after=first)
    assert (report.stores["one"].refs, report.findings[0].ref) == (2, second)
    report = await scrub({"one": store}, after=second)
    assert (report.stores["one"].refs, report.is_sound) == (1, True)


async def test_a_report_keeps_some_findings_and_counts_all(autojump_clock: MockClock) -> None:
    store = await filled(SimulatedStore(), *range(10))
    for ref in store.blobs:
        store.corrupt(ref)
    told: list[ScrubFinding] = []
    log = ScrubLog(["one"], None, told.append, kept=3)
    await scrub_into(log, {"one": store})
    report = log.report()
    assert report.stores["one"].corrupt == len(told) == 10
    assert report.findings == tuple(told[:3])


@pytest.mark.parametrize("callback", ["on_progress", "on_finding"])
async def test_what_a_callback_raises_ends_the_scrub(autojump_clock: MockClock, callback: str) -> None:
    def refuse(_: object) -> None:
        raise ZeroDivisionError

    stores = [await filled(SimulatedStore(get=1.0), *range(40)) for _ in range(2)]
    for store in stores:
        store.corrupt(*refs(0))
    slow = await filled(SimulatedStore(list_page=100.0), 1)
    with pytest.raises(ZeroDivisionError):
        await scrub([*stores, slow], **{callback: refuse})  # type: ignore[arg-type]
    assert trio.current_time() <= 3.0


# Cancellation


@pytest.mark.parametrize(
    ("operation", "is_replaced"), [("list_page", False), ("set_aside", False), ("replace", False), ("get", True)]
)
async def test_a_scrub_that_is_cancelled_amid_a_repair_leaves_nothing_half_done(
    autojump_clock: MockClock, operation: str, *, is_replaced: bool
) -> None:
    store, other = await filled(CheckedStore(), 1), await filled(SimulatedStore(), 1)
    store.corrupt(*refs(1))
    store.hang(operation, after=1 if operation in {"list_page", "get"} else 0)
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.move_on_after(1) as scope:
        await scrub({"store": store, "other": other}, repair=True)
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert (scope.cancelled_caught, trio.current_time()) == (True, 1.0)
    assert all(call.ended is not None for call in (*store.calls, *other.calls))
    assert store.blobs == {refs(1)[0]: b"1" if is_replaced else flipped(1)}
    store.recover()
    assert (await scrub({"store": store, "other": other}, repair=True)).is_sound
    assert store.blobs == other.blobs


async def test_when_it_is_cancelled_already_it_touches_nothing() -> None:
    class Eager(SimulatedStore):
        was_asked = False

        async def check_integrity(self) -> Integrity:
            self.was_asked = True
            return await super().check_integrity()

    store = Eager()
    for is_cancelled in (False, True):
        store.was_asked = False
        with trio.CancelScope() as scope:
            if is_cancelled:
                scope.cancel()
            await scrub([store])
        assert (scope.cancelled_caught, store.was_asked) == (is_cancelled, not is_cancelled)


# Memory


class Numbers(SimulatedStore):
    """A store of refs that it makes up, the numbers up to `count`, none of which has the bytes that it names."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        first = int.from_bytes(after, "big") + 1
        return [Ref(number.to_bytes(32, "big")) for number in range(first, min(first + limit, self.count + 1))]

    async def get(self, ref: Ref) -> bytes:
        await trio.lowlevel.checkpoint()
        return ref


async def peak_of(count: int) -> int:
    """Return the most bytes that a scrub over so many corrupt blobs takes."""
    gc.collect()
    tracemalloc.start()
    try:
        log = ScrubLog(["one"], None, None, kept=100)
        await scrub_into(log, {"one": Numbers(count)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert log.report().stores["one"].corrupt == count
    return peak


@pytest.mark.deep
async def test_memory_does_not_grow_with_the_number_of_refs() -> None:
    few, many = await peak_of(2_000), await peak_of(10_000)
    assert many < 1.25 * few < 2_000_000


# Real files


COUNT = 1000


async def fill_real(folder: Path) -> list[Ref]:
    """Put 1,000 blobs into a directory and a database, and flip one byte of one copy of each, in turn."""
    blobs = [Blob(b"%d " % i * (i % 50 + 1)) for i in range(COUNT)]
    async with AsyncExitStack() as stack:
        for store in await open_real(stack, folder):
            await store.put_many(blobs)
    all_refs = sorted(blob.ref for blob in blobs)
    for ref in all_refs[::2]:
        flip(folder / "copy" / "blobs" / f"{ref!s:.2}" / f"{ref!s:.4}" / str(ref))
    flip_rows(folder, all_refs[1::2])
    return all_refs


async def open_real(stack: AsyncExitStack, folder: Path) -> list[DeletableStore]:
    return [
        await stack.enter_async_context(open_directory(folder / "copy", durable=False)),
        await stack.enter_async_context(open_sqlite(folder / "blobs.db", durable=False)),
    ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_rows(folder: Path, some: list[Ref]) -> None:
    with closing(sqlite3.connect(folder / "blobs.db")) as connection, connection:
        for ref in some:
            ((data,),) = connection.execute("SELECT data FROM blobs WHERE ref = ?", (ref,))
            changed = bytes([data[0] ^ 1]) + data[1:]
            connection.execute("UPDATE blobs SET data = ? WHERE ref = ?", (changed, ref))


@pytest.mark.deep
async def test_a_thousand_flipped_bytes(tmp_path: Path) -> None:
    all_refs = await fill_real(tmp_path)
    async with AsyncExitStack() as stack:
        copy, database = await open_real(stack, tmp_path)
        async with replica.open({"copy": copy, "database": database}) as store:
            for ref in all_refs:
                assert Ref.of(await store.get(ref)) == ref
        stores = {"copy": copy, "database": database}
        report = await scrub(stores)
        found = {name: {one.ref for one in report.findings if one.store == name} for name in stores}
        assert found == {"copy": {*all_refs[::2]}, "database": {*all_refs[1::2]}}
        assert all(one.is_corrupt for one in report.findings)
        assert [(one.refs, one.corrupt, one.failed) for one in report.stores.values()] == [(COUNT, 500, 0)] * 2
        assert (report.problems, report.failures, report.is_sound) == ({}, {}, False)

        report = await scrub(stores, repair=True)
        assert [(one.corrupt, one.repaired) for one in report.stores.values()] == [(500, 500)] * 2
        assert all(one.is_repaired for one in report.findings)
        assert report.is_sound

        report = await scrub(stores)
        assert (report.findings, report.is_sound) == ((), True)
        assert [(one.refs, one.corrupt) for one in report.stores.values()] == [(COUNT, 0)] * 2
    # The bad bytes were kept, where no listing shows them.
    assert {path.name for path in (tmp_path / "copy" / "damaged").iterdir()} == {f"{ref}-1" for ref in all_refs[::2]}
    with closing(sqlite3.connect(tmp_path / "blobs.db")) as connection:
        kept = connection.execute("SELECT ref, data FROM damaged_blobs").fetchall()
    assert {ref for ref, _ in kept} == {*all_refs[1::2]}
    assert not any(Ref.of(data) == ref for ref, data in kept)


@pytest.mark.deep
async def test_real_copies_that_are_both_corrupt(tmp_path: Path) -> None:
    all_refs = await fill_real(tmp_path)
    flip_rows(tmp_path, all_refs[:1])
    async with AsyncExitStack() as stack:
        copy, database = await open_real(stack, tmp_path)
        before = await copy.get(all_refs[0]), await database.get(all_refs[0])
        report = await scrub({"copy": copy, "database": database}, repair=True)
        assert (await copy.get(all_refs[0]), await database.get(all_refs[0])) == before
    assert [(one.corrupt, one.repaired) for one in report.stores.values()] == [(500, 499), (501, 500)]
    assert {(one.store, one.ref) for one in report.findings if not one.is_repaired} == {
        ("copy", all_refs[0]),
        ("database", all_refs[0]),
    }
    assert not report.is_sound


async def test_a_large_blob_is_hashed_in_a_thread(tmp_path: Path) -> None:
    large = bytes(2 * 1024 * 1024)
    first, second = MemoryStore(), MemoryStore()
    await first.put(large)
    await second.put(large)
    async with open_directory(tmp_path / "copy", durable=False) as copy:
        ref, _ = await copy.put(large)
        flip(tmp_path / "copy" / "blobs" / f"{ref!s:.2}" / f"{ref!s:.4}" / str(ref))
        report = await scrub([copy, first, second], repair=True)
        assert (report.stores["store-0"].repaired, report.is_sound) == (1, True)
        assert await copy.get(ref) == large
