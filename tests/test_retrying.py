"""A store that repeats what fails, mostly at exact virtual times."""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import sqlite3
import weakref
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import (
    Blob,
    BlobNotFoundError,
    BlobTooLargeError,
    CorruptBlobError,
    DeletableStore,
    MemoryStore,
    PoisonedError,
    PutResult,
    Ref,
    ReplicaError,
    RetryingDeletableStore,
    RetryingStatistics,
    RetryingStore,
    StartableStore,
    Store,
    StoreError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from trio_replica.testing import SimulatedStore, StoreContract

from .common import Ended, PlainStore, put_numbers, refs, without_gc
from .started import KINDS, StartedStore, started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from trio.testing import MockClock

    from trio_replica._blob import BytesLike

    Retry: TypeAlias = Callable[..., RetryingStore]

BLOB = Blob(b"blob")
AWAY = "away"


@pytest.fixture(params=KINDS)
def retry(request: pytest.FixtureRequest) -> Retry:
    """Run a test for each kind of store that is retried: its calls are awaited, or started."""

    def of(store: Store, **options: Any) -> RetryingStore:
        return RetryingStore(request.param(store), **options)

    return of


class FlakyStore(DeletableStore):
    """Every other call fails."""

    def __init__(self) -> None:
        self._store = SimulatedStore()
        self._calls = 0

    async def _stumble(self) -> None:
        await trio.lowlevel.checkpoint()
        self._calls += 1
        if self._calls % 2:
            raise OSError("flaky")

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        await self._stumble()
        return await self._store.put(blob)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        await self._stumble()
        return await self._store.put_many(blobs)

    async def get(self, ref: Ref) -> bytes:
        await self._stumble()
        return await self._store.get(ref)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        await self._stumble()
        return await self._store.get_many(refs)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await self._stumble()
        return await self._store.list_page(after, limit)

    async def delete(self, ref: Ref) -> bool:
        await self._stumble()
        return await self._store.delete(ref)

    async def replace(self, blob: Blob | BytesLike) -> None:
        await self._stumble()
        await self._store.replace(blob)


class Raising(SimulatedStore):
    """Each put raises the next of some errors, a fresh object each time, until there are none left."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__()
        self.errors = list(errors)
        self.puts = 0

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        self.puts += 1
        if self.errors:
            await trio.lowlevel.checkpoint()
            raise self.errors.pop(0)
        return await super().put(blob)


def times(store: SimulatedStore) -> list[float]:
    """Return when the calls of a store began."""
    return [call.started for call in store.calls]


def attempt_times(count: int, *, seed: int, first_delay: float = 0.1, longest_delay: float = 10.0) -> list[float]:
    """Return when attempts that fail at once are made, the first one at 0."""
    source = random.Random(seed)
    made = [0.0]
    for doublings in range(count - 1):
        made.append(made[-1] + min(first_delay * 2**doublings, longest_delay) * source.uniform(0.5, 1.0))
    return made


class TestRetryingStore(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[Store, None]:
        await trio.lowlevel.checkpoint()
        yield RetryingStore(SimulatedStore())


class TestPlainRetryingStore(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[Store, None]:
        await trio.lowlevel.checkpoint()
        yield RetryingStore(PlainStore(MemoryStore()))


class TestStartedRetryingStore(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[Store, None]:
        await trio.lowlevel.checkpoint()
        yield RetryingStore(started(SimulatedStore()))


class TestStartedRetryingStoreOfWhatFailsOften(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[Store, None]:
        await trio.lowlevel.checkpoint()
        yield RetryingStore(started(FlakyStore()), first_delay=0, attempts=1000)


@pytest.mark.deep
class TestRetryingStoreOfWhatFailsOften(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[Store, None]:
        await trio.lowlevel.checkpoint()
        yield RetryingStore(FlakyStore(), first_delay=0, attempts=1000)


# The budget


@pytest.mark.parametrize("seed", range(5))
async def test_the_attempts_are_the_budget(autojump_clock: MockClock, retry: Retry, seed: int) -> None:
    store, error = SimulatedStore(), OSError(AWAY)
    store.fail(error)
    retrying = retry(store, attempts=12, seconds=math.inf, longest_delay=3, seed=seed)
    with pytest.raises(OSError, match=f"^{AWAY}\n") as caught:
        await retrying.put(BLOB)
    assert caught.value is error
    assert times(store) == pytest.approx(attempt_times(12, seed=seed, longest_delay=3), rel=1e-12)
    took = f"{times(store)[-1]:.3g}"
    assert error.__notes__ == [f"given up after 12 attempts in {took} seconds: see RetryingStore"]
    assert retrying.statistics() == RetryingStatistics(
        calls=1, retries=11, gave_up=1, waiting=0, last_error=f"OSError: {AWAY}"
    )


@pytest.mark.parametrize("seed", range(20))
async def test_the_seconds_are_the_budget(autojump_clock: MockClock, retry: Retry, seed: int) -> None:
    store, error = SimulatedStore(), OSError(AWAY)
    store.fail(error)
    retrying = retry(store, seed=seed)
    with pytest.raises(OSError, match=f"^{AWAY}\n"):
        await retrying.put(BLOB)
    assert trio.current_time() == times(store)[-1] == 60
    assert times(store)[:-1] == pytest.approx(attempt_times(len(store.calls) - 1, seed=seed), rel=1e-12)
    assert 10 < len(store.calls) < 20  # the last pause is cut short, all others are as drawn
    assert error.__notes__ == [f"given up after {len(store.calls)} attempts in 60 seconds: see RetryingStore"]


@pytest.mark.parametrize("seed", range(20))
async def test_an_outage_of_the_budget_is_survived_exactly(autojump_clock: MockClock, retry: Retry, seed: int) -> None:
    store = SimulatedStore(put=1)
    store.outage(3.5, 3.5 + 60, OSError(AWAY))
    retrying = retry(store, seed=seed, attempts=1000)
    await trio.sleep(3)  # the first attempt is hit in its middle
    assert (await retrying.put(BLOB)).added
    assert trio.current_time() <= 3.5 + 60 + 1
    assert retrying.statistics().gave_up == 0


async def test_the_seconds_run_from_the_first_failure(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore(put=100)
    store.fail(OSError(AWAY))
    with pytest.raises(OSError, match=AWAY):
        await retry(store, seconds=5, first_delay=10).put(BLOB)
    assert times(store) == [0, 105]  # that is after the attempt, however long it took; and none is cut short
    assert trio.current_time() == 205


@pytest.mark.parametrize("options", [{"attempts": 1}, {"seconds": 0}, {"seconds": 0, "attempts": 9}])
async def test_a_budget_of_nothing(autojump_clock: MockClock, retry: Retry, options: dict[str, Any]) -> None:
    store, error = SimulatedStore(), OSError(AWAY)
    store.fail(error)
    retrying = retry(store, **options)
    with pytest.raises(OSError, match=AWAY):
        await retrying.put(BLOB)
    assert (times(store), trio.current_time()) == ([0], 0)
    assert error.__notes__ == ["given up after 1 attempts in 0 seconds: see RetryingStore"]
    assert retrying.statistics().gave_up == 1


async def test_pauses_double_and_are_drawn_with_the_seed(autojump_clock: MockClock, retry: Retry) -> None:
    async def pauses(seed: int | None) -> list[float]:
        store = SimulatedStore()
        store.fail(OSError(AWAY))
        retrying = retry(store, seed=seed, attempts=100, seconds=math.inf, first_delay=1, longest_delay=100)
        with pytest.raises(OSError, match=AWAY):
            await retrying.put(BLOB)
        made = times(store)
        return [after - before for before, after in pairwise(made)]

    drawn = await pauses(1)
    for whole, pause in zip([1, 2, 4, 8, 16, 32, 64] + [100] * 93, drawn, strict=False):
        assert whole * 0.5 - 1e-6 <= pause <= whole + 1e-6
    assert len({round(pause, 6) for pause in drawn}) > 90  # not all the same
    assert await pauses(1) == pytest.approx(drawn, rel=1e-6)
    assert await pauses(2) != pytest.approx(drawn, rel=1e-6)
    assert await pauses(None) != pytest.approx(await pauses(None), rel=1e-6)


async def test_pauses_do_not_double_for_ever(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore()
    store.fail(OSError(AWAY), count=1050)  # 2 to that power is no float
    assert (await retry(store, attempts=1100, seconds=math.inf).put(BLOB)).added


async def test_callers_do_not_wait_for_each_other(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore(put=1)
    store.outage(0, 5, OSError(AWAY))
    retrying = retry(store, seed=3)
    async with trio.open_nursery() as nursery:
        ended = [Ended(nursery, retrying.put, b"%d" % number) for number in range(50)]
    assert all(one.error is None for one in ended)
    assert len({one.at for one in ended}) == 50  # each has its own pauses
    assert retrying.statistics().calls == 50
    assert retrying.statistics().retries == len(store.calls) - 50


# Failures that are retried, and others


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"),
        TimeoutError("x"),
        ReplicaError("x"),
        StoreError("put", None, {"x": OSError("y")}),
        StoreError("get", None, {"x": CorruptBlobError(Ref.ZERO, Ref.of(b"")), "y": OSError("y")}),
        trio.BrokenResourceError("x"),
        sqlite3.OperationalError("x"),
        psycopg.OperationalError("x"),
        psycopg.InternalError("x"),
        KeyError("x"),
        EOFError(),
        ExceptionGroup("x", [OSError("y"), ExceptionGroup("z", [EOFError()])]),
    ],
    ids=repr,
)
async def test_what_may_pass_is_repeated(autojump_clock: MockClock, retry: Retry, error: Exception) -> None:
    store = Raising(error, OSError("again"))
    retrying = retry(store)
    assert (await retrying.put(BLOB)).added
    assert store.puts == 3
    assert retrying.statistics() == RetryingStatistics(
        calls=1, retries=2, gave_up=0, waiting=0, last_error="OSError: again"
    )


@pytest.mark.parametrize(
    "error",
    [
        BlobNotFoundError(BLOB.ref),
        CorruptBlobError(BLOB.ref, Ref.ZERO),
        BlobTooLargeError("x", 2, 1),
        StoreReadOnlyError("x"),
        StoreNotFoundError("x"),
        StoreIdentityError("x", None, "1" * 32),
        StoreError("put", None, {"x": StoreIdentityError("x", None, "1" * 32)}),
        PoisonedError({"x": OSError("y")}),
        StoreError("get", None, {"x": CorruptBlobError(Ref.ZERO, Ref.of(b"")), "y": trio.ClosedResourceError()}),
        trio.ClosedResourceError("x"),
        TypeError("x"),
        ValueError("x"),
        UnicodeError("x"),
        RuntimeError("x"),
        NotImplementedError("x"),
        AssertionError("x"),
        sqlite3.DataError("x"),
        sqlite3.ProgrammingError("x"),
        psycopg.DataError("x"),
        psycopg.errors.UndefinedTable("x"),
        psycopg.IntegrityError("x"),
        ExceptionGroup("x", [OSError("y"), ExceptionGroup("z", [ValueError()])]),
        GeneratorExit(),
    ],
    ids=repr,
)
async def test_what_comes_again_is_not_repeated(autojump_clock: MockClock, retry: Retry, error: BaseException) -> None:
    store = Raising(error)
    retrying = retry(store)
    notes = list(getattr(error, "__notes__", ()))
    with pytest.raises(type(error)) as caught:
        await retrying.put(BLOB)
    assert caught.value is error
    assert (store.puts, trio.current_time()) == (1, 0)
    assert list(getattr(error, "__notes__", ())) == notes
    assert retrying.statistics() == RetryingStatistics(calls=1, retries=0, gave_up=0, waiting=0, last_error="")


async def test_a_failure_that_comes_again_ends_the_repetitions(autojump_clock: MockClock, retry: Retry) -> None:
    error = ValueError("after all")
    store = Raising(OSError("passing"), error)
    retrying = retry(store)
    with pytest.raises(ValueError, match=r"^after all$") as caught:
        await retrying.put(BLOB)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert retrying.statistics() == RetryingStatistics(
        calls=1, retries=1, gave_up=0, waiting=0, last_error="OSError: passing"
    )


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [[], [OSError("passing")]], ids=["at once", "in a repetition"])
async def test_what_ends_the_program_is_carried_out(
    autojump_clock: MockClock, retry: Retry, kind: type[BaseException], before: list[BaseException]
) -> None:
    store = Raising(*before, BaseExceptionGroup("x", [OSError("y"), kind()]))
    with pytest.raises(kind):
        await retry(store).put(BLOB)
    assert store.puts == len(before) + 1


async def test_one_that_is_cancelled_while_it_pauses_ends_at_once(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore()
    store.fail(OSError(AWAY))
    retrying = retry(store, first_delay=1000, longest_delay=1000, seconds=math.inf)
    seen: list[RetryingStatistics] = []
    with trio.move_on_after(7) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retrying.put, BLOB)
            await trio.sleep(1)
            seen.append(retrying.statistics())
    assert scope.cancelled_caught
    assert trio.current_time() == 7
    expected = RetryingStatistics(calls=1, retries=0, gave_up=0, waiting=1, last_error=f"OSError: {AWAY}")
    assert seen == [expected]
    assert retrying.statistics() == dataclasses.replace(expected, waiting=0)


async def test_one_that_is_cancelled_in_a_repetition_ends_at_once(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore()
    store.fail(OSError(AWAY), count=1)
    store.hang()
    with trio.move_on_after(7) as scope:
        await retry(store).put(BLOB)
    assert scope.cancelled_caught
    assert trio.current_time() == 7
    assert len(store.calls) == 2


# Each operation


@pytest.mark.parametrize(
    ("operation", "call", "expected"),
    [
        ("put", lambda store: store.put(b"new"), PutResult(Ref.of(b"new"), added=True)),
        (
            "put_many",
            lambda store: store.put_many(iter([b"new", b"0"])),
            [PutResult(Ref.of(b"new"), added=True), PutResult(Ref.of(b"0"), added=False)],
        ),
        ("get", lambda store: store.get(*refs(0)), b"0"),
        ("get", lambda store: store.get_many(iter(refs(1))), {refs(1)[0]: b"1"}),
        ("list_page", lambda store: store.contains(*refs(1)), True),
        ("list_page", lambda store: store.contains(*refs(7)), False),
        ("list_page", lambda store: store.list_page(Ref.ZERO, 10), sorted(refs(0, 1))),
        ("delete", lambda store: store.delete(*refs(1)), True),
        ("delete", lambda store: store.delete(*refs(5)), False),
        ("replace", lambda store: store.replace(b"new"), None),
    ],
)
async def test_each_operation_is_repeated(
    autojump_clock: MockClock, retry: Retry, operation: str, call: Callable[[Store], Awaitable[Any]], expected: object
) -> None:
    store = SimulatedStore()
    await put_numbers(store, range(2))
    store.calls.clear()
    store.fail(OSError(AWAY), operation, count=2)
    with trio.testing.assert_checkpoints():
        assert await call(retry(store)) == expected
    failed = [one for one in store.calls if one.operation == operation and isinstance(one.error, OSError)]
    assert len(failed) == 2
    assert failed[0].refs == failed[-1].refs  # the same was asked for


async def test_a_listing_is_repeated_page_by_page(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore(page_size=2, list_page=1)
    await put_numbers(store, range(7))
    retrying = retry(store)
    seen = []
    async for ref in retrying.list_refs():
        seen.append(ref)
        if len(seen) == 3:
            store.fail(OSError(AWAY), count=2)
    assert seen == sorted(refs(*range(7)))
    assert retrying.statistics().calls == 5
    assert retrying.statistics().retries == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.put("text"),
        lambda store: store.put_many([b"good", None]),
        lambda store: store.get(b"x"),
        lambda store: store.get_many([5]),
        lambda store: store.contains("x"),
        lambda store: store.list_page(Ref.ZERO, "x"),
        lambda store: store.delete(None),
        lambda store: store.replace("text"),
    ],
)
async def test_bad_input_is_not_repeated(
    autojump_clock: MockClock, retry: Retry, call: Callable[[RetryingStore], Awaitable[object]]
) -> None:
    retrying = retry(SimulatedStore())
    with pytest.raises(TypeError):
        await call(retrying)
    assert trio.current_time() == 0
    assert retrying.statistics().retries == 0


async def test_what_was_done_and_not_confirmed_is_not_said_to_be_done(autojump_clock: MockClock, retry: Retry) -> None:
    store = SimulatedStore()
    store.fail(OSError(AWAY), "put", count=1, stored=True)
    retrying = retry(store)
    assert await retrying.put(BLOB) == PutResult(BLOB.ref, added=False)
    assert store.blobs == {BLOB.ref: BLOB.data}


async def test_what_goes_well_takes_no_time(autojump_clock: MockClock, retry: Retry) -> None:
    retrying = retry(MemoryStore())
    assert (await retrying.put(BLOB)).added
    assert await retrying.get(BLOB.ref) == BLOB.data
    assert trio.current_time() == 0
    assert retrying.statistics() == RetryingStatistics(calls=2, retries=0, gave_up=0, waiting=0, last_error="")


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_failure_is_freed_when_nobody_has_it(autojump_clock: MockClock, retry: Retry, attempts: int) -> None:
    class Failure(Exception):  # an OSError has no weak references
        pass

    class Failing(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            failure = Failure("away")
            failures.append(weakref.ref(failure))
            try:
                raise failure
            finally:
                del failure

    failures: list[weakref.ref[Failure]] = []
    retrying = retry(Failing(), attempts=attempts)
    with without_gc():
        with pytest.raises(Failure):
            await retrying.put(BLOB)
        await trio.lowlevel.checkpoint()  # until then Trio remembers what woke this task
        assert [failure() for failure in failures] == [None] * attempts


# The class, its arguments and its log


def test_a_store_that_deletes_stays_one() -> None:
    retrying = RetryingStore(MemoryStore())
    assert type(retrying) is RetryingDeletableStore
    assert isinstance(retrying, DeletableStore)
    assert isinstance(RetryingDeletableStore(MemoryStore(), attempts=3), RetryingStore)
    inner = PlainStore(MemoryStore())
    plain = RetryingStore(inner)
    assert type(plain) is RetryingStore
    assert not isinstance(plain, DeletableStore)
    for one in (retrying, plain, RetryingStore(StartedStore(MemoryStore()))):
        assert isinstance(one, StartableStore)
    assert repr(plain) == f"<RetryingStore of {inner!r}, 0 calls, 0 retries, 0 given up>"


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (["memory:"], {}, TypeError("a RetryingStore is made of a Store, not of str")),
        ([MemoryStore()], {"attempts": 0}, ValueError("attempts is at least 1, not 0")),
        ([MemoryStore()], {"attempts": 2.0}, TypeError("attempts is an int, not 2.0")),
        ([MemoryStore()], {"seconds": -1}, ValueError("seconds is 0 or more seconds, not -1")),
        ([MemoryStore()], {"first_delay": math.nan}, ValueError("first_delay is 0 or more seconds, not nan")),
        ([MemoryStore()], {"longest_delay": "1"}, TypeError("longest_delay is a number of seconds, not '1'")),
    ],
)
def test_bad_arguments(arguments: list[Any], options: dict[str, Any], expected: Exception) -> None:
    with pytest.raises(type(expected)) as caught:
        RetryingStore(*arguments, **options)
    assert str(caught.value) == str(expected)


async def test_one_of_a_class_of_ones_own() -> None:
    class Named(RetryingStore):
        pass

    retrying = Named(MemoryStore())
    assert type(retrying) is Named
    assert (await retrying.put(BLOB)).added


def test_one_that_deletes_takes_one_that_deletes() -> None:
    store: Any = PlainStore(MemoryStore())
    with pytest.raises(TypeError, match=r"^a RetryingDeletableStore is made of a DeletableStore, not of PlainStore$"):
        RetryingDeletableStore(store)


async def test_it_says_what_it_does(autojump_clock: MockClock, retry: Retry, caplog: pytest.LogCaptureFixture) -> None:
    store = SimulatedStore()
    store.fail(OSError(AWAY), count=2)
    retrying = retry(store, first_delay=1, attempts=9, seed=1)
    assert repr(retrying) == ("<RetryingDeletableStore of <SimulatedStore of 0 blobs>, 0 calls, 0 retries, 0 given up>")
    shown = repr(store)
    await retrying.put(BLOB)
    assert repr(retrying) == ("<RetryingDeletableStore of <SimulatedStore of 1 blobs>, 1 calls, 2 retries, 0 given up>")
    pauses = random.Random(1)
    first, second = pauses.uniform(0.5, 1), 2 * pauses.uniform(0.5, 1)
    assert caplog.record_tuples == [
        (
            "trio_replica",
            logging.WARNING,
            f"put of {shown} failed, attempt {number} of 9: OSError: away; again in {pause:.3g} seconds",
        )
        for number, pause in ((1, first), (2, second))
    ]


async def test_it_shows_no_secrets(autojump_clock: MockClock, retry: Retry, caplog: pytest.LogCaptureFixture) -> None:
    class Telling(SimulatedStore):
        def __repr__(self) -> str:
            return "<Store 'postgresql://me:hunter2@host/db'>"

    store = Telling()
    store.fail(OSError("can't reach host=host password='hunter2 hunter2'"), count=1)
    retrying = retry(store)
    await retrying.put(BLOB)
    for shown in (caplog.text, repr(retrying), repr(retrying.statistics())):
        assert "***" in shown
        assert "hunter2" not in shown


# In a replica


@pytest.mark.parametrize("seed", range(5))
async def test_an_outage_shorter_than_the_budget_poisons_nothing(
    autojump_clock: MockClock, retry: Retry, seed: int
) -> None:
    near, far = MemoryStore(), SimulatedStore(put=0.01)
    far.outage(1, 11, ConnectionRefusedError(AWAY))
    retrying = retry(far, seed=seed)
    slowest = 0.0
    async with replica.open([near], {"far": retrying}, queue_size=100) as store:
        for number in range(300):
            began = trio.current_time()
            await store.put(b"%d" % number)
            slowest = max(slowest, trio.current_time() - began)
            await trio.sleep(0.01)
        assert store.statistics().async_stores["far"].failure is None
    assert far.blobs.keys() == set(refs(*range(300)))
    assert retrying.statistics().retries > 0
    assert 5 < slowest < 20  # that for which the queue had no room


async def test_puts_notice_nothing_while_there_is_room(autojump_clock: MockClock, retry: Retry) -> None:
    far = SimulatedStore()
    far.outage(0, 10, ConnectionRefusedError(AWAY))
    async with replica.open([MemoryStore()], {"far": retry(far)}, queue_size=100) as store:
        await put_numbers(store, range(100))
        assert trio.current_time() == 0
    assert 10 <= trio.current_time() < 20
    assert len(far.blobs) == 100


async def test_an_outage_longer_than_the_budget_poisons_with_its_cause(autojump_clock: MockClock, retry: Retry) -> None:
    far = SimulatedStore()
    error = ConnectionRefusedError(AWAY)
    far.outage(0, 61, error)
    async with replica.open([MemoryStore()], {"far": retry(far)}) as store:
        await put_numbers(store, range(5))
        poisoned = await store.wait_poisoned()
        assert trio.current_time() == 60
        with pytest.raises(PoisonedError):
            await store.put(b"more")
    assert poisoned.__cause__ is error
    assert poisoned.failures == {"far": error}
    assert poisoned.unreplicated == {"far": refs(*range(5))}
    assert error.__notes__[0].startswith("given up after ")


@pytest.mark.parametrize("grace", [0.0, 5.0])
async def test_a_cancelled_replica_does_not_wait_for_a_pause(
    autojump_clock: MockClock, retry: Retry, grace: float
) -> None:
    far = SimulatedStore()
    far.fail(OSError(AWAY))
    retrying = retry(far, first_delay=1000, longest_delay=1000, seconds=math.inf)
    with trio.move_on_after(3):
        async with replica.open([MemoryStore()], {"far": retrying}, grace=grace) as store:
            await store.put(BLOB)
            await trio.sleep_forever()
    assert trio.current_time() == 3 + grace
    assert store.unreplicated == {"far": (BLOB.ref,)}
    assert retrying.statistics().waiting == 0


async def test_in_front_of_a_sync_store_a_put_waits(autojump_clock: MockClock, retry: Retry) -> None:
    near, far = SimulatedStore(), SimulatedStore()
    far.outage(0, 2, OSError(AWAY))
    async with replica.open([near, retry(far)]) as store:
        assert (await store.put(BLOB)).ref == BLOB.ref
        assert 2 <= trio.current_time() < 2 + 3.2, (
            "the last pause, which begins before the outage ends, is 3.2 s at most"
        )
        far.outage(trio.current_time(), math.inf, OSError(AWAY))
        began = trio.current_time()
        assert await store.get(BLOB.ref) == BLOB.data  # the other one answers
        assert trio.current_time() == began
        with pytest.raises(StoreError, match=f"^put of .* failed: sync-1: OSError: {AWAY}$"):
            await store.put(b"more")
        assert trio.current_time() == pytest.approx(began + 60)
