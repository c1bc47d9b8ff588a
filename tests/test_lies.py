"""Stores that contradict themselves: the contract finds it, reconcile and scrub say it, and a repair ends it."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_replica import (
    BlobNotFoundError,
    Contradiction,
    DeletableStore,
    MemoryStore,
    PutResult,
    ReconcileCounts,
    ReconcileProblem,
    ReconcileReport,
    Ref,
    RetryingStore,
    ScrubCounts,
    ScrubFinding,
    Store,
    open_directory,
    open_sqlite,
    reconcile,
    scrub,
)
from trio_replica.testing import Lie, LyingStore, SimulatedStore, StoreContract

from .common import BROKEN, PlainStore, open_and_close, put_numbers, refs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica import Blob
    from trio_replica._blob import BytesLike

ONE = "0123456789abcdef" * 2
ALL = sorted(refs(*range(5)))
THIRD = ALL[2]
DATA = {Ref.of(b"%d" % number): b"%d" % number for number in range(5)}


class TestAnHonestLyingStore(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[LyingStore, None]:
        yield LyingStore(MemoryStore(identity=ONE))


class TestALyingStoreThatHasRecovered(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[LyingStore, None]:
        store = LyingStore(SimulatedStore(page_size=7))
        for lie in Lie:
            store.lie(lie)
        store.recover()
        yield store


async def lying(lie: Lie, *about: Ref, has: int = 5, until_written: bool = True) -> LyingStore:
    """Return a store that has the first numbers, and lies."""
    store = LyingStore(MemoryStore())
    await put_numbers(store, range(has))
    store.lie(lie, *about, until_written=until_written)
    return store


async def honest(has: int = 5) -> MemoryStore:
    store = MemoryStore()
    await put_numbers(store, range(has))
    return store


async def answers(store: Store, ref: Ref) -> tuple[bool, bool, bool]:
    """Return whether the listing, ``contains`` and a get say that a blob is there."""
    try:
        found = await store.get(ref) == DATA[ref]
    except BlobNotFoundError:
        found = False
    return ref in [listed async for listed in store.list_refs()], await store.contains(ref), found


# The store that lies


@pytest.mark.parametrize(
    ("lie", "is_there", "expected"),
    [
        (Lie.LISTS, True, (True, False, False)),
        (Lie.LISTS, False, (True, False, False)),
        (Lie.HIDES, True, (False, True, True)),
        (Lie.ENDS, True, (False, True, True)),
        (Lie.CLAIMS, False, (False, True, False)),
        (Lie.CLAIMS, True, (True, True, True)),
        (Lie.DENIES, True, (True, False, True)),
        (Lie.DENIES, False, (False, False, False)),
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 1000])
async def test_lies_about_one_blob(lie: Lie, page_size: int, *, is_there: bool, expected: tuple[bool, ...]) -> None:
    store = LyingStore(SimulatedStore(page_size=page_size))
    await store.put_many([data for ref, data in DATA.items() if is_there or ref != THIRD])
    store.lie(lie, THIRD)
    assert await answers(store, THIRD) == expected
    for ref in ALL[:2]:
        assert await answers(store, ref) == (True, True, True)
    assert await answers(store, ALL[3]) == (lie is not Lie.ENDS, True, True)
    assert repr(store) == f"<LyingStore that {lie.name.lower()}: {store.store!r}>"
    store.recover()
    assert await answers(store, THIRD) == (is_there,) * 3
    assert repr(store) == f"<LyingStore that is honest: {store.store!r}>"


@pytest.mark.parametrize(("lie", "added"), [(Lie.DROPS, True), (Lie.IGNORES, False)])
async def test_puts_that_store_nothing(lie: Lie, *, added: bool) -> None:
    store = LyingStore(MemoryStore())
    store.lie(lie, THIRD)
    assert await store.put(DATA[THIRD]) == PutResult(THIRD, added)
    results = await store.put_many(DATA[ref] for ref in ALL)
    assert results == [PutResult(ref, added or ref != THIRD) for ref in ALL]
    await store.replace(DATA[THIRD])
    assert await answers(store, THIRD) == (False, False, False)
    assert [ref async for ref in store.list_refs()] == [ref for ref in ALL if ref != THIRD]


async def test_writing_ends_a_lie() -> None:
    ghost = await lying(Lie.LISTS, THIRD, ALL[3])
    assert await ghost.put(DATA[THIRD]) == PutResult(THIRD, added=True)
    assert await answers(ghost, THIRD) == (True, True, True)
    await ghost.replace(DATA[ALL[3]])
    assert await answers(ghost, ALL[3]) == (True, True, True)
    hidden = await lying(Lie.HIDES, THIRD)
    assert await hidden.put(DATA[THIRD]) == PutResult(THIRD, added=False)
    assert await answers(hidden, THIRD) == (False, True, True)
    await hidden.replace(DATA[THIRD])
    assert await answers(hidden, THIRD) == (True, True, True)


async def test_writing_need_not_end_a_lie() -> None:
    for lie in (Lie.LISTS, Lie.HIDES):
        for about in ([], [THIRD]):
            store = await lying(lie, *about, until_written=False)
            before = await answers(store, THIRD)
            await store.put(DATA[THIRD])
            await store.replace(DATA[THIRD])
            assert await answers(store, THIRD) == before


def test_a_lie_is_about_refs() -> None:
    store: Any = LyingStore(MemoryStore())
    with pytest.raises(TypeError, match=r"a ref is a trio_replica\.Ref, not bytes"):
        store.lie(Lie.LISTS, bytes(32))


async def test_a_simulated_store_has_the_identity_that_it_was_given() -> None:
    store = SimulatedStore(identity=ONE)
    await store.set_session_mark("f" * 32)
    assert (await store.identity(), await store.session_mark()) == (ONE, "f" * 32)
    nobody = SimulatedStore()
    await nobody.set_session_mark("f" * 32)
    assert (await nobody.identity(), await nobody.session_mark()) == (None, None)
    with pytest.raises(ValueError, match="an identity is 32 lowercase hex digits, not 'me'"):
        SimulatedStore(identity="me")


# The contract


AGREEMENT = ["its_answers_agree_after_puts", "its_answers_agree_after_deletions"]


class TestIdentified(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[SimulatedStore, None]:
        yield SimulatedStore(identity=ONE)


@pytest.mark.parametrize("lie", Lie)
async def test_the_contract_finds_each_lie(lie: Lie) -> None:
    def open_lying() -> LyingStore:
        store = LyingStore(SimulatedStore())
        store.lie(lie)
        return store

    for name in AGREEMENT:
        with pytest.raises(AssertionError):
            await getattr(contract(open_lying), f"test_{name}")()


class ShoutsItsIdentity(SimulatedStore):
    async def identity(self) -> str | None:
        return ((await super().identity()) or "").upper()


class ChangesItsIdentity(SimulatedStore):
    async def identity(self) -> str | None:
        self._identity = f"{int(self._identity or '0', 16) + 1:032x}"
        return await super().identity()


class AnswersAtOnce(SimulatedStore):
    async def identity(self) -> str | None:
        return self._identity

    async def session_mark(self) -> str | None:
        return self._mark


class ListsItsIdentity(SimulatedStore):
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        mine = Ref((self._mark or self._identity or "").ljust(64, "f").encode()[:32])
        return sorted({*await super().list_page(after, limit), *([mine] if mine > after else [])})[:limit]


class KeepsTheFirstMark(SimulatedStore):
    async def set_session_mark(self, mark: str) -> None:
        await super().set_session_mark(self._mark or mark)


class KeepsWhatIsNoMark(SimulatedStore):
    async def set_session_mark(self, mark: str) -> None:
        await super().set_session_mark("f" * 32)
        self._mark = mark


class KeepsMarksWithoutAnIdentity(SimulatedStore):
    async def identity(self) -> str | None:
        await super().identity()
        return None


class MarksItselfAsItsIdentity(SimulatedStore):
    async def set_session_mark(self, mark: str) -> None:
        await super().set_session_mark(mark)
        self._identity = mark


class IsDurableOnce(SimulatedStore):
    @property
    def is_durable(self) -> bool:
        return not self.blobs


class IsDurableInWords(SimulatedStore):
    is_durable = "yes"  # type: ignore[assignment]


class IsReadOnly(SimulatedStore):
    is_read_only = True


@pytest.mark.parametrize(
    ("kind", "tests"),
    [
        (ShoutsItsIdentity, ["its_identity"]),
        (ChangesItsIdentity, ["its_identity", "its_session_mark", "who_it_is_cancelled_at_once"]),
        (AnswersAtOnce, ["its_identity", "its_session_mark", "who_it_is_cancelled_at_once"]),
        (ListsItsIdentity, ["its_identity", "its_session_mark"]),
        (KeepsTheFirstMark, ["its_session_mark"]),
        (KeepsWhatIsNoMark, ["its_session_mark"]),
        (KeepsMarksWithoutAnIdentity, ["its_session_mark", "who_it_is_cancelled_at_once"]),
        (MarksItselfAsItsIdentity, ["its_session_mark"]),
        (IsDurableOnce, ["what_it_says_about_itself"]),
        (IsDurableInWords, ["what_it_says_about_itself"]),
        (IsReadOnly, ["what_it_says_about_itself"]),
    ],
)
async def test_the_contract_finds_who_is_not_who_he_says(kind: type[SimulatedStore], tests: list[str]) -> None:
    for name in tests:
        with pytest.raises(AssertionError):
            await getattr(contract(lambda: kind(identity=ONE)), f"test_{name}")()


async def test_the_contract_finds_who_is_another_when_it_is_opened_again() -> None:
    numbers = iter(range(4))
    store = SimulatedStore()

    def open_another() -> SimulatedStore:
        store._identity = f"{next(numbers):032x}"
        store._mark = None
        return store

    another = contract(open_another)
    another.is_persistent = True
    for name in ("its_identity_stays_with_it", "its_session_mark_stays_with_it"):
        with pytest.raises(AssertionError):
            await getattr(another, f"test_{name}")()


async def test_the_contract_accepts_who_stays_the_same() -> None:
    store = SimulatedStore(identity=ONE)
    same = contract(lambda: store)
    same.is_persistent = True
    await same.test_its_identity_stays_with_it()
    await same.test_its_session_mark_stays_with_it()


def contract(kind: Callable[[], Store]) -> StoreContract:
    class Contract(StoreContract):
        @asynccontextmanager
        async def open_store(self) -> AsyncGenerator[Store, None]:
            yield kind()

    return Contract()


# Reconcile


def told(report: ReconcileReport) -> list[tuple[str, Contradiction | None]]:
    return [(problem.operation, problem.contradiction) for problem in report.problems]


async def test_a_listed_blob_that_contains_denies_is_missing_and_copied() -> None:
    store = await lying(Lie.LISTS, THIRD)
    report = await reconcile({"index": store, "other": await honest()}, dry_run=True)
    words = "it is listed, but not there"
    assert report.problems == (ReconcileProblem("index", "contains", THIRD, words, Contradiction.LISTED_ABSENT),)
    assert str(report.problems[0]) == f"index: contains of {THIRD}: {words}"
    assert report.stores["index"] == ReconcileCounts(4, 1, 0, 0, 0)
    assert not report.complete
    report = await reconcile({"index": store, "other": await honest()})
    assert (report.complete, report.stores["index"]) == (True, ReconcileCounts(4, 1, 1, 0, 1))
    assert await answers(store, THIRD) == (True, True, True)


async def test_a_ghost_that_a_put_does_not_end_stays_missing() -> None:
    store = await lying(Lie.LISTS, THIRD, until_written=False)
    report = await reconcile({"index": store, "other": await honest()})
    assert told(report) == [("contains", Contradiction.LISTED_ABSENT), ("put", Contradiction.NOT_STORED)]
    assert (report.complete, report.stores["index"]) == (False, ReconcileCounts(4, 1, 0, 1, 0))


async def test_a_blob_that_all_list_and_none_has_is_missing_everywhere() -> None:
    stores = [await lying(Lie.LISTS, THIRD, has=2) for _ in range(2)]
    report = await reconcile(stores)
    assert not report.complete
    assert [counts.failed for counts in report.stores.values()] == [1, 1]


async def test_of_a_large_page_some_are_asked_for_and_all_if_wished() -> None:
    async def asked_for(spot_checks: int | None) -> int:
        counting = Counting(MemoryStore())
        await put_numbers(counting, range(100))
        assert (await reconcile([counting], spot_checks=spot_checks)).complete
        return len(counting.asked)

    assert [await asked_for(count) for count in (0, 1, 16, 99, 100, 1000, None)] == [0, 1, 16, 99, 100, 100, 100]
    counting = Counting(MemoryStore())
    await put_numbers(counting, range(100))
    await reconcile([counting])
    first = counting.asked.copy()
    await reconcile([counting])
    assert len(first) == 16
    assert counting.asked != first + first, "not always the same"


class Counting(PlainStore):
    """A store that has a ``contains`` of its own, and notes what it is asked."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[Ref] = []

    async def contains(self, ref: Ref) -> bool:
        self.asked.append(ref)
        return await self._store.contains(ref)


@pytest.mark.parametrize("value", [-1, 1.0, "all"])
async def test_bad_numbers_of_spot_checks_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="spot_checks is "):
        await reconcile([MemoryStore()], spot_checks=value)


async def test_a_store_whose_contains_is_its_listing_is_not_asked_for_what_it_lists() -> None:
    store = SimulatedStore()
    await put_numbers(store, range(3))
    await reconcile([store, await honest(3)])
    assert [call.operation for call in store.calls if call.operation != "put"] == ["list_page"] * 2


async def test_a_listed_blob_that_a_get_does_not_find_is_missing_and_copied() -> None:
    class Deaf(PlainStore):
        """Its ``contains`` is its listing, so only a get shows that the blob is missing."""

    inner = await lying(Lie.LISTS, THIRD)
    empty = MemoryStore()
    report = await reconcile({"index": Deaf(inner), "other": await honest(), "empty": empty})
    assert told(report) == [("get", Contradiction.LISTED_ABSENT)]
    assert report.stores["index"] == ReconcileCounts(4, 1, 1, 0, 1)
    assert report.complete
    assert await answers(inner, THIRD) == await answers(empty, THIRD) == (True, True, True)


async def test_a_put_of_a_ghost_is_proved_by_a_get() -> None:
    """Its listing and its contains have lied about the blob before, so they prove nothing."""
    inner = await lying(Lie.LISTS, THIRD, until_written=False)
    report = await reconcile({"index": PlainStore(inner), "other": await honest(), "empty": MemoryStore()})
    assert told(report) == [("get", Contradiction.LISTED_ABSENT), ("put", Contradiction.NOT_STORED)]
    assert (report.complete, report.stores["index"].failed, report.stores["empty"].copied) == (False, 1, 5)


async def test_a_get_that_fails_after_the_put_of_a_ghost_confirms_nothing() -> None:
    class Failing(LyingStore):
        async def get(self, ref: Ref) -> bytes:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    store = Failing(await honest())
    store.lie(Lie.LISTS, THIRD)
    report = await reconcile({"index": store, "other": await honest()})
    assert told(report) == [("contains", Contradiction.LISTED_ABSENT), ("get", None)]
    assert report.stores["index"].failed == 1, "its listing and its contains agree with the put, but have lied before"
    assert not report.complete


@pytest.mark.parametrize("operation", ["contains", "list_page"])
async def test_a_put_is_confirmed_only_by_every_answer(operation: str) -> None:
    """One yes is not enough, and neither is a question that failed. It is harmless to repeat the put."""

    class Failing(Counting):
        is_failing = True

        async def contains(self, ref: Ref) -> bool:
            if operation == "contains" and self.is_failing and await self._store.contains(ref):
                raise BROKEN
            return await super().contains(ref)

        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            if operation == "list_page" and self.is_failing and limit == 1:
                raise BROKEN
            return await super().list_page(after, limit)

    failing = Failing(MemoryStore())
    stores = {"failing": failing, "other": await honest()}
    report = await reconcile(stores)
    assert report.stores["failing"] == ReconcileCounts(0, 5, 0, 5, 0)
    assert told(report) == [(operation, None)] * 5
    assert not report.complete
    failing.is_failing = False
    assert (await reconcile(stores)).complete


async def test_a_ghost_whose_claim_can_not_be_asked_for_is_proved_by_a_get() -> None:
    class Ghost(PlainStore):
        """It lists what it does not have, and does not say so again."""

        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            if limit == 1 and not self.asked:
                self.asked = True
                raise BROKEN
            return await super().list_page(after, limit)

        asked = False

    inner = await lying(Lie.LISTS, THIRD, until_written=False)
    report = await reconcile({"index": Ghost(inner), "other": await honest(), "empty": MemoryStore()})
    assert told(report) == [("get", None), ("put", Contradiction.NOT_STORED)]
    assert (report.complete, report.stores["index"].failed) == (False, 1)


async def test_an_answer_after_a_failed_question_counts() -> None:
    class Mute(Counting):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    mute, target = Mute(await honest()), MemoryStore()
    report = await reconcile([mute, target])
    assert told(report) == [("contains", None)] * 5
    assert (report.complete, report.stores["store-0"].unanswered) == (True, 0), "its gets have answered"


async def test_a_question_to_a_source_that_fails_leaves_nothing_missing() -> None:
    class Mute(Counting):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    report = await reconcile({"old": Mute(await honest()), "new": await honest()}, sources=["old"])
    assert (report.complete, report.problem_count, report.stores["old"].unanswered) == (True, 5, 0)


async def test_contains_that_claims_a_blob_is_not_believed() -> None:
    store = await lying(Lie.CLAIMS, has=2)
    report = await reconcile({"cache": store, "other": await honest()})
    assert told(report) == [("contains", Contradiction.UNLISTED)] * 3
    assert (report.complete, report.stores["cache"]) == (True, ReconcileCounts(2, 3, 3, 0, 3))
    assert all([await answers(store, ref) == (True, True, True) for ref in ALL])


@pytest.mark.parametrize("lie", [Lie.HIDES, Lie.ENDS])
async def test_a_blob_that_is_there_and_not_listed_is_said(lie: Lie) -> None:
    for about in ([], ALL[4:]):
        store = await lying(lie, *about)
        report = await reconcile({"index": store, "other": await honest()})
        count = 1 if about else 5
        contradictions = {("contains", Contradiction.UNLISTED), ("put", Contradiction.UNLISTED)}
        assert {*told(report)} == contradictions
        assert (report.complete, report.stores["index"].failed) == (False, count)


async def test_a_blob_that_contains_denies_and_the_listing_shows_is_said() -> None:
    store = await lying(Lie.DENIES, THIRD)
    report = await reconcile({"cache": store, "other": await honest()})
    assert told(report) == [("contains", Contradiction.LISTED_ABSENT), ("put", Contradiction.NOT_STORED)]
    assert not report.complete


@pytest.mark.parametrize("lie", [Lie.DROPS, Lie.IGNORES])
@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_put_after_which_nothing_is_stored_has_failed(lie: Lie, *, is_plain: bool) -> None:
    store = await lying(lie, has=2)
    report = await reconcile({"lazy": PlainStore(store) if is_plain else store, "other": await honest()})
    assert told(report) == [("put", Contradiction.NOT_STORED)] * 3
    assert str(report.problems[0]).endswith(": the put returned, but it is not there")
    assert (report.complete, report.stores["lazy"]) == (False, ReconcileCounts(2, 3, 0, 3, 0))


async def test_a_put_that_nothing_else_confirms_has_failed() -> None:
    class Mute(SimulatedStore):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    mute = Mute()
    mute.fail(BROKEN, "list_page", after=1)
    report = await reconcile({"one": await honest(1), "mute": mute})
    assert told(report) == [("contains", None), ("contains", None), ("list_page", None)]
    assert (report.complete, report.stores["mute"].failed) == (False, 1)


async def test_a_spot_check_that_fails_contradicts_nothing_and_confirms_nothing() -> None:
    class Mute(Counting):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    report = await reconcile([Mute(await honest(2)), await honest(2)])
    assert told(report) == [("contains", None)] * 2
    assert report.stores["store-0"] == ReconcileCounts(2, 0, 0, 0, 0, unanswered=2)
    assert not report.complete
    report = await reconcile([Mute(await honest(2)), await honest(2)], spot_checks=0)
    assert (report.complete, report.problems) == (True, ()), "it is not asked"


async def test_a_blob_that_is_deleted_while_it_runs_is_missing_without_a_contradiction() -> None:
    class Deleting(Counting):
        async def contains(self, ref: Ref) -> bool:
            if ref == THIRD and not self.asked:
                self.asked.append(ref)
                assert isinstance(self._store, DeletableStore)
                await self._store.delete(ref)
            return await self._store.contains(ref)

    report = await reconcile([Deleting(await honest()), await honest()])
    assert (report.problems, report.complete) == ((), True)
    assert report.stores["store-0"] == ReconcileCounts(4, 1, 1, 0, 1)


async def test_a_blob_that_comes_between_two_answers_of_a_get_is_read() -> None:
    class Late(PlainStore):
        """It gets the blob only when it is asked for it, and has listed it before."""

        is_late = True

        async def get(self, ref: Ref) -> bytes:
            if ref == THIRD and self.is_late:
                self.is_late = False
                raise BlobNotFoundError(ref)
            return await super().get(ref)

    target = MemoryStore()
    report = await reconcile([Late(await honest()), target])
    assert (report.problems, report.complete, len(target)) == ((), True, 5)


# Scrub


def found(store: str, ref: Ref, kind: Contradiction, outcome: str = "") -> ScrubFinding:
    is_repaired = outcome.startswith("repaired")
    return ScrubFinding(store, ref, kind.value, True, is_repaired, outcome, contradiction=kind)


@pytest.mark.parametrize(
    ("lie", "has", "kind", "outcome"),
    [
        (Lie.LISTS, 5, Contradiction.LISTED_ABSENT, "repaired from other"),
        (Lie.HIDES, 5, Contradiction.UNLISTED, "repaired: it was written again"),
        (Lie.ENDS, 5, Contradiction.UNLISTED, "not repaired: it was replaced, and it is there, but not listed"),
        (
            Lie.DENIES,
            5,
            Contradiction.DENIED,
            "not repaired: it was replaced, and a get finds it, but contains says that it is not there",
        ),
        (Lie.CLAIMS, 4, Contradiction.CLAIMED, "repaired from other"),
    ],
)
async def test_scrub_finds_each_contradiction(lie: Lie, has: int, kind: Contradiction, outcome: str) -> None:
    last = max(ALL) if lie is Lie.ENDS else Ref.of(b"4")
    stores = {"liar": await lying(lie, last, has=has), "other": await honest()}
    report = await scrub(stores)
    assert report.findings == (found("liar", last, kind),)
    assert not report.is_sound
    assert (report.stores["liar"].corrupt, report.stores["other"].corrupt) == (1, 0)
    report = await scrub(stores, repair=True)
    assert report.findings == (found("liar", last, kind, outcome),)
    assert report.is_sound == outcome.startswith("repaired")
    if report.is_sound:
        assert await answers(stores["liar"], last) == (True, True, True)
        assert (await scrub(stores)).findings == ()


async def test_an_index_that_has_lost_everything_is_noticed_by_what_the_others_list() -> None:
    stores = {"index": await lying(Lie.ENDS), "other": await honest()}
    report = await scrub(stores)
    assert sorted(one.ref for one in report.findings) == ALL
    assert report.stores["index"] == ScrubCounts(refs=5, bytes=10, corrupt=5)
    assert not report.is_sound


async def test_a_store_alone_is_believed_when_its_listing_ends() -> None:
    assert (await scrub([await lying(Lie.ENDS)])).is_sound


async def test_a_blob_that_a_store_lacks_altogether_is_no_finding() -> None:
    report = await scrub([await honest(), MemoryStore(), SimulatedStore()])
    assert (report.findings, report.is_sound) == ((), True)
    assert [counts.refs for counts in report.stores.values()] == [5, 0, 0]


async def test_a_ghost_that_a_put_does_not_end_is_replaced() -> None:
    class Stubborn(LyingStore):
        """A server that takes a put for one of a blob that is there; only an overwriting one helps."""

        async def put(self, blob: Blob | BytesLike) -> PutResult:
            await trio.lowlevel.checkpoint()
            return PutResult(Ref.of(blob), added=False)

    store = Stubborn(await honest())
    store.lie(Lie.LISTS, THIRD)
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    assert report.findings == (found("index", THIRD, Contradiction.LISTED_ABSENT, "repaired from other"),)
    assert report.is_sound
    assert await answers(store, THIRD) == (True, True, True)


@pytest.mark.parametrize("lie", [Lie.DROPS, Lie.IGNORES])
async def test_a_repair_that_stores_nothing_has_failed(lie: Lie) -> None:
    store = await lying(Lie.LISTS, THIRD)
    store.lie(lie)
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    why = "not repaired: it was replaced, and it is listed, but not there"
    assert report.findings == (found("index", THIRD, Contradiction.LISTED_ABSENT, why),)
    await store.store.delete(THIRD)
    store.recover()
    store.lie(Lie.CLAIMS, THIRD)
    store.lie(lie)
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    why = "not repaired: it was replaced, and contains says that it is there, but a get does not find it"
    assert report.findings == (found("index", THIRD, Contradiction.CLAIMED, why),)


async def test_a_ghost_that_a_replacement_only_takes_off_the_list_is_not_repaired() -> None:
    class Evasive(LyingStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            await trio.lowlevel.checkpoint()
            return PutResult(Ref.of(blob), added=False)

        async def replace(self, blob: Blob | BytesLike) -> None:
            self.recover()
            await self.store.delete(Ref.of(blob))

    store = Evasive(await honest())
    store.lie(Lie.LISTS, THIRD)
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    why = "not repaired: it was replaced, and is not there"
    assert report.findings == (found("index", THIRD, Contradiction.LISTED_ABSENT, why),)


async def test_a_store_that_replaces_by_deleting_does_not_risk_its_good_copy() -> None:
    class Deleting(LyingStore):
        replace = DeletableStore.replace

        async def delete(self, ref: Ref) -> bool:
            raise AssertionError  # pragma: no cover

    store = Deleting(await honest())
    store.lie(Lie.HIDES, THIRD)
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    why = "not repaired: it was put again, and it is there, but not listed"
    assert report.findings == (found("index", THIRD, Contradiction.UNLISTED, why),)


async def test_a_ghost_of_which_there_is_no_copy_is_not_repaired() -> None:
    report = await scrub({"index": await lying(Lie.LISTS, THIRD), "empty": MemoryStore()}, repair=True)
    (finding,) = report.findings
    assert finding.outcome.startswith("not repaired: no other store has a good copy (empty: BlobNotFoundError: ")


class Changing(PlainStore, DeletableStore):
    """A store over another one, which does something before each get."""

    def __init__(self, store: LyingStore, *steps: Callable[[], object]) -> None:
        super().__init__(store)
        self.steps = iter(steps)
        self.lying = store

    async def get(self, ref: Ref) -> bytes:
        if ref == THIRD:
            next(self.steps, lambda: None)()
        return await super().get(ref)

    async def contains(self, ref: Ref) -> bool:
        return await self.lying.contains(ref)

    async def delete(self, ref: Ref) -> bool:
        raise NotImplementedError  # pragma: no cover  (nothing here deletes)


def nothing() -> None:
    """Leave everything as it is."""


async def test_a_change_between_two_answers_contradicts_nothing() -> None:
    # Denied, and then not found any more: it was deleted after the first get.
    denying = await lying(Lie.DENIES, THIRD)
    lost = Changing(denying, nothing, lambda: denying.lie(Lie.LISTS, until_written=False))
    report = await scrub([lost], after=ALL[1])
    assert [one.ref for one in report.findings if one.ref == THIRD] == []
    # Listed and not found, and then there: it was put again after the first get.
    ghost = await lying(Lie.LISTS, THIRD)
    assert (await scrub([Changing(ghost, nothing, ghost.recover)])).is_sound
    # There, and not listed when the listings are compared: it has come in the meantime.
    store, other = MemoryStore(), await honest()
    hidden = await lying(Lie.HIDES, THIRD)
    assert (await scrub([Changing(hidden, hidden.recover), other])).is_sound
    assert (await scrub([store, other])).is_sound


async def test_a_denied_blob_that_can_not_be_read_again_is_a_failed_read() -> None:
    def fail() -> None:
        raise BROKEN

    report = await scrub([Changing(await lying(Lie.DENIES, THIRD), nothing, fail)])
    (finding,) = report.findings
    assert (finding.problem, finding.is_corrupt) == ("it can't be read: OSError: broken", False)


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_repair_of_its_own_copy_that_is_gone_or_unreadable(steps: int) -> None:
    def fail() -> None:
        raise BROKEN

    def lose() -> None:
        raise BlobNotFoundError(THIRD)

    for end, outcomes in ((fail, ["not repaired: OSError: broken"]), (lose, [])):
        store = Changing(await lying(Lie.HIDES, THIRD), nothing, nothing, end)
        report = await scrub([store, *[await honest() for _ in range(steps)]], repair=True)
        assert [one.outcome for one in report.findings] == outcomes


async def test_an_answer_that_fails_contradicts_nothing_and_is_told() -> None:
    class Mute(Changing):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    report = await scrub([Mute(LyingStore(await honest()))])
    assert report.stores["store-0"] == ScrubCounts(refs=5, bytes=5, unanswered=5, reached=max(ALL))
    assert {(one.problem, one.is_corrupt, one.contradiction) for one in report.findings} == {
        ("another question about it failed: OSError: broken", False, None)
    }
    assert not report.is_sound
    broken = SimulatedStore()
    broken.fail(BROKEN, "get")
    report = await scrub({"broken": broken, "other": await honest()})
    assert report.stores["broken"] == ScrubCounts(unanswered=5)
    assert sorted(one.ref for one in report.findings) == ALL
    assert not report.is_sound, "it may have what the other lists"


async def test_a_repair_that_is_not_confirmed_is_none() -> None:
    class Mute(LyingStore):
        async def contains(self, ref: Ref) -> bool:
            if Lie.LISTS not in self._lies or self._lies[Lie.LISTS]:
                return await super().contains(ref)
            raise BROKEN

    store = Mute(await honest())
    store.lie(Lie.LISTS, THIRD)
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    (finding,) = [one for one in report.findings if one.is_corrupt]
    assert finding.outcome == "not repaired: it was replaced, and another question about it failed: OSError: broken"
    assert not report.is_sound


async def test_a_claim_that_can_not_be_asked_for_is_unanswered() -> None:
    class Mute(Counting):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            raise BROKEN

    report = await scrub({"empty": Mute(MemoryStore()), "other": await honest()})
    assert report.stores["empty"] == ScrubCounts(unanswered=5)
    assert not report.is_sound


async def test_an_unlisted_blob_that_is_corrupt_is_found_and_repaired() -> None:
    inner = SimulatedStore()
    await put_numbers(inner, range(5))
    inner.corrupt(THIRD)
    store = LyingStore(inner)
    store.lie(Lie.HIDES, THIRD)
    report = await scrub({"store": store, "other": await honest()}, repair=True)
    (finding,) = report.findings
    assert (finding.problem[:23], finding.outcome) == ("its bytes are those of ", "repaired from other")
    assert await answers(store, THIRD) == (True, True, True)


@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_repaired_blob_that_stays_unlisted_is_not_repaired(*, is_plain: bool) -> None:
    class Plain(LyingStore):
        contains = Store.contains

    inner = SimulatedStore()
    await put_numbers(inner, range(5))
    inner.corrupt(THIRD)
    store = Plain(inner) if is_plain else LyingStore(inner)
    store.lie(Lie.HIDES, THIRD, until_written=False)
    report = await scrub({"store": store, "other": await honest()}, repair=True)
    (finding,) = report.findings
    assert finding.outcome == "not repaired: it was replaced, and it is there, but not listed"
    assert not report.is_sound


async def test_a_listing_that_fails_when_it_is_compared_is_a_failure() -> None:
    store = SimulatedStore(page_size=1000)
    await put_numbers(store, range(5))
    store.fail(BROKEN, "list_page", after=2)
    report = await scrub({"store": store, "other": await honest()})
    assert dict(report.failures) == {"store": BROKEN}
    assert (report.is_sound, report.stores["store"].refs) == (False, 5)


async def test_a_blob_that_a_store_lacks_costs_nothing_of_the_pace(autojump_clock: MockClock) -> None:
    empty = SimulatedStore()
    await empty.put(b"another")
    await scrub([empty, await honest()], bytes_per_second=1)
    assert trio.current_time() == 7.0  # of what it has; the other is read until 5.0


async def test_a_retrying_store_is_asked_as_the_store_that_it_repeats() -> None:
    store = RetryingStore(await lying(Lie.LISTS, THIRD))
    report = await scrub({"index": store, "other": await honest()}, repair=True)
    assert [one.outcome for one in report.findings] == ["repaired from other"]


# Real stores


async def test_a_file_that_is_removed_behind_the_stores_back(tmp_path: Path) -> None:
    """A directory has one truth, its files: whatever is asked sees the same."""
    async with open_directory(tmp_path / "a", durable=False) as a, open_sqlite(tmp_path / "b.db") as b:
        for store in (a, b):
            await put_numbers(store, range(5))
        (tmp_path / "a" / "blobs" / f"{THIRD!s:.2}" / f"{THIRD!s:.4}" / str(THIRD)).unlink()
        assert (await scrub({"a": a, "b": b})).findings == ()
        report = await reconcile({"a": a, "b": b})
        assert (report.complete, report.stores["a"].copied, report.problems) == (True, 1, ())


async def test_a_table_whose_trigger_ignores_inserts(tmp_path: Path) -> None:
    await open_and_close(open_sqlite(tmp_path / "b.db"))
    with closing(sqlite3.connect(tmp_path / "b.db")) as connection, connection:
        connection.execute("CREATE TRIGGER ignoring BEFORE INSERT ON blobs BEGIN SELECT RAISE(IGNORE); END")
    async with open_sqlite(tmp_path / "b.db") as b:
        report = await reconcile({"a": await honest(), "b": b})
    assert told(report) == [("put", None)] * 5  # the store itself has noticed it
    assert not report.complete
