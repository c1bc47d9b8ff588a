"""How a `RetryingStore` is called: the first attempt is started, others take a task; alone, and in a replica."""

from __future__ import annotations

import logging
import math
import weakref
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import outcome
import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import (
    Blob,
    BlobNotFoundError,
    PutResult,
    Ref,
    RetryingStore,
    StartableStore,
    Store,
    open_store_threads,
)
from trio_replica._calls.start import Unfinished, never
from trio_replica.testing import SimulatedStore

from .common import DATA, REF, Ended, PlainStore, without_gc
from .started import KINDS, StartedDeletableStore, StartedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio.testing import MockClock

    from trio_replica import Call, StoreThreads
    from trio_replica._blob import BytesLike
    from trio_replica._calls.start import Cancel, Done

    Prepare: TypeAlias = Callable[[Store], Store]

AWAY = "away"
BLOB = Blob(DATA)
EVEN: dict[str, Any] = {"first_delay": 1.0, "longest_delay": 1.0}  # each pause is drawn from half to all of that


class Told(StartableStore):
    """A store whose calls are under way until the test ends them; they can be cancelled."""

    def __init__(self) -> None:
        self.under_way: list[Done] = []

    def _start(self, done: Done) -> Cancel:
        self.under_way.append(done)

        def cancel() -> bool:
            self.under_way.remove(done)
            return True

        return cancel

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return self._start(done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        return self._start(done)

    list_page: Any = None  # no test lists it


class Failing(StartedStore):
    """A store whose first attempts to put fail as the test says, then those of another follow."""

    def __init__(self, store: Store, *fail: Callable[[Done], Cancel]) -> None:
        super().__init__(store)
        self._fail = list(fail)

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return self._fail.pop(0)(done) if self._fail else super().start_put(blob, done)


async def fails(error: BaseException, seconds: float = 0.0) -> None:
    await trio.sleep(seconds)
    raise error


def raises(error: BaseException, done: Done) -> Cancel:
    raise error


def ends(error: BaseException, done: Done) -> Cancel:
    done(outcome.Error(error))
    return never


def turns_out_to_need_a_task(error: BaseException, done: Done) -> Cancel:
    done(Unfinished(partial(fails, error)))
    return never


def ends_later(error: BaseException, done: Done) -> Cancel:
    async def end() -> None:
        await trio.lowlevel.checkpoint()
        ends(error, done)

    trio.lowlevel.spawn_system_task(end)
    return never


def turns_out_later_to_need_a_task(error: BaseException, done: Done) -> Cancel:
    async def end() -> None:
        await trio.lowlevel.checkpoint()
        turns_out_to_need_a_task(error, done)

    trio.lowlevel.spawn_system_task(end)
    return never


WAYS = [raises, ends, turns_out_to_need_a_task, ends_later, turns_out_later_to_need_a_task]


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


# Each way in which an attempt can fail


@pytest.mark.parametrize("in_replica", [False, True])
@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize("first", WAYS)
async def test_a_failure_that_passes_is_followed_by_another_attempt(
    autojump_clock: MockClock,
    first: Callable[[BaseException, Done], Cancel],
    again: Callable[[BaseException, Done], Cancel],
    in_replica: bool,
) -> None:
    errors = [OSError("first"), OSError("second")]
    retrying = RetryingStore(Failing(SimulatedStore(), partial(first, errors[0]), partial(again, errors[1])), seed=1)
    if in_replica:
        async with replica.open([retrying]) as store:
            assert (await store.put(BLOB)).added
    else:
        assert (await retrying.put(BLOB)).added
    assert 0.15 < trio.current_time() < 0.3
    counts = retrying.statistics()
    calls = 2 if in_replica else 1  # a replica asks who the store is, too
    assert (counts.calls, counts.retries, counts.gave_up, counts.waiting) == (calls, 2, 0, 0)
    assert counts.last_error == "OSError: second"


@pytest.mark.parametrize("in_replica", [False, True])
@pytest.mark.parametrize("before", [[], [partial(ends, OSError(AWAY))]], ids=["at first", "again"])
@pytest.mark.parametrize("last", WAYS)
async def test_a_failure_that_comes_again_is_the_last(
    autojump_clock: MockClock,
    last: Callable[[BaseException, Done], Cancel],
    before: list[Callable[[Done], Cancel]],
    in_replica: bool,
) -> None:
    error = ValueError("for good")
    retrying = RetryingStore(Failing(SimulatedStore(), *before, partial(last, error)))
    if in_replica:
        async with replica.open([retrying]) as store:
            with pytest.raises(replica.StoreError) as caught:
                await store.put(BLOB)
            assert caught.value.failures == {"sync-0": error}
    else:
        with pytest.raises(ValueError, match=r"^for good$"):
            await retrying.put(BLOB)
    assert retrying.statistics().retries == len(before)
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("in_replica", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", WAYS)
async def test_an_exit_is_carried_out(
    autojump_clock: MockClock,
    way: Callable[[BaseException, Done], Cancel],
    kind: type[BaseException],
    in_replica: bool,
) -> None:
    retrying = RetryingStore(Failing(SimulatedStore(), partial(way, BaseExceptionGroup("x", [OSError("y"), kind()]))))
    with pytest.raises(kind):
        if in_replica:
            async with replica.open([retrying]) as store:
                await store.put(BLOB)
        else:
            await retrying.put(BLOB)
    assert retrying.statistics().retries == 0


async def test_a_cancelled_of_somebody_else_is_a_failure_that_passes(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        stray = await outcome.acapture(trio.sleep_forever)
        assert isinstance(stray, outcome.Error)
    for way in WAYS:
        retrying = RetryingStore(Failing(SimulatedStore(), partial(way, stray.error)))
        assert (await retrying.put(BLOB)).added
        assert retrying.statistics().last_error == (
            "ReplicaError: the store raised a Cancelled that was not meant for its caller"
        )


async def test_each_line_of_the_log_has_its_own_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    retrying = RetryingStore(Failing(SimulatedStore(), *(partial(ends, OSError(f"failure {n}")) for n in range(9))))
    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(retrying.put, BLOB)
    said = [message for _, level, message in caplog.record_tuples if level == logging.WARNING]
    assert sorted(line.partition("OSError: ")[2].partition(";")[0] for line in said) == [
        f"failure {number}" for number in range(9)
    ]


async def test_a_log_that_fails_fails_no_call(autojump_clock: MockClock) -> None:
    class Full(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise OSError("no space left on the device")

    full = Full()
    logger = logging.getLogger("trio_replica")
    logger.addFilter(full)
    try:
        assert (await RetryingStore(Failing(SimulatedStore(), partial(ends, OSError(AWAY)))).put(BLOB)).added
    finally:
        logger.removeFilter(full)


class ThreadStore(StartableStore):
    """A store whose calls threads serve."""

    def __init__(self, threads: StoreThreads[bytes]) -> None:
        self._threads = threads

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return self._threads.start(blob.data, done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        return self._threads.start(ref, done, abandon_on_cancel=True)

    list_page: Any = None  # no test lists it


@pytest.mark.parametrize("in_replica", [False, True])
async def test_calls_that_threads_serve_are_repeated(in_replica: bool) -> None:
    served: list[bytes] = []

    def handle(batch: Sequence[Call[bytes]]) -> None:
        for call in batch:
            served.append(call.request)
            fails_now = len(served) in (1, 2, 4, 5)
            call.outcome = outcome.Error(OSError(AWAY)) if fails_now else outcome.Value(answers[call.request])

    answers: dict[bytes, object] = {DATA: PutResult(REF, added=True), REF: DATA}
    async with open_store_threads("threads", lambda: nullcontext(handle)) as threads:
        retrying = RetryingStore(ThreadStore(threads), first_delay=0)
        async with replica.open([retrying]) as store:
            called: Store = store if in_replica else retrying
            assert await called.put(BLOB) == PutResult(REF, added=True)
            assert await called.get(REF) == DATA
    assert served == [DATA] * 3 + [REF] * 3
    assert retrying.statistics().retries == 4


async def test_a_store_that_can_not_be_shown_ends_its_call(autojump_clock: MockClock) -> None:
    class Nameless(Failing):
        def __repr__(self) -> str:
            raise OSError("no name")

    with pytest.raises(OSError, match=r"^no name$"):
        await RetryingStore(Nameless(SimulatedStore(), partial(ends, OSError(AWAY)))).put(BLOB)


# Tasks


async def test_only_a_retry_takes_a_task_of_the_replica(autojump_clock: MockClock) -> None:
    told, other = Told(), Told()
    retrying = RetryingStore(told, **EVEN)
    async with replica.open([other, retrying]) as store, trio.open_nursery() as nursery:
        before = tasks()
        get = Ended(nursery, store.get, REF)
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before + 1  # the caller's
        told.under_way.pop()(outcome.Error(OSError(AWAY)))
        await trio.testing.wait_all_tasks_blocked()
        assert (tasks(), retrying.statistics().waiting) == (before + 2, 1)
        await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert (tasks(), retrying.statistics().waiting) == (before + 2, 0)
        told.under_way.pop()(outcome.Value(DATA))
        await get.done.wait()
        assert tasks() == before
        assert (get.value, other.under_way) == (DATA, [])


async def test_without_a_replica_the_caller_itself_waits_for_a_retry(autojump_clock: MockClock) -> None:
    told = Told()
    retrying = RetryingStore(told, **EVEN)
    async with trio.open_nursery() as nursery:
        before = tasks()
        put = Ended(nursery, retrying.put, BLOB)
        for ending in (outcome.Error(OSError(AWAY)), outcome.Value(PutResult(BLOB.ref, added=True))):
            await trio.testing.wait_all_tasks_blocked()
            assert tasks() == before + 1
            told.under_way.pop()(ending)
            await trio.testing.wait_all_tasks_blocked()
            assert tasks() == before + (put.at is None)
            await trio.sleep(1)
    assert put.value == PutResult(BLOB.ref, added=True)


async def test_a_blob_that_is_not_there_takes_no_task(autojump_clock: MockClock) -> None:
    told = Told()
    async with replica.open([RetryingStore(told)]) as store, trio.open_nursery() as nursery:
        get = Ended(nursery, store.get, REF)
        await trio.testing.wait_all_tasks_blocked()
        before = tasks()
        told.under_way.pop()(outcome.Error(BlobNotFoundError(REF)))
        assert tasks() == before
        await get.done.wait()
    assert type(get.error) is BlobNotFoundError


# Being cancelled


@pytest.mark.parametrize("in_replica", [False, True])
async def test_the_first_attempt_of_one_that_is_cancelled_is_withdrawn(
    autojump_clock: MockClock, in_replica: bool
) -> None:
    told = Told()
    retrying = RetryingStore(told)
    async with replica.open([retrying]) as store:
        with trio.move_on_after(2) as scope:
            await (store if in_replica else retrying).get(REF)
    assert (scope.cancelled_caught, trio.current_time(), told.under_way) == (True, 2, [])


@pytest.mark.parametrize("in_replica", [False, True])
async def test_a_first_attempt_that_can_not_be_withdrawn_is_the_last_of_one_that_is_cancelled(
    autojump_clock: MockClock, in_replica: bool
) -> None:
    inner = SimulatedStore(put=5)
    inner.fail(OSError(AWAY))
    retrying = RetryingStore(StartedDeletableStore(inner, interruptible=False))
    async with replica.open([retrying]) as store:
        with trio.move_on_after(2) as scope:
            await (store if in_replica else retrying).put(BLOB)
    assert (scope.cancelled_caught, trio.current_time(), len(inner.calls)) == (True, 5, 1)
    assert (retrying.statistics().retries, retrying.statistics().waiting) == (0, 0)


def under_way(when: str) -> SimulatedStore:
    """Return a store whose first attempt fails at once; from then on it is away, or its attempts hang."""
    store = SimulatedStore()
    store.fail(OSError(AWAY), count=math.inf if when == "in a pause" else 1)
    if when != "in a pause":
        store.hang()
    return store


WHEN = pytest.mark.parametrize("when", ["in a pause", "in an attempt"])
PREPARE = pytest.mark.parametrize("prepare", KINDS)


@WHEN
@PREPARE
@pytest.mark.parametrize("operation", ["put", "get"])
async def test_a_caller_that_is_cancelled_ends_a_retry_at_once(
    autojump_clock: MockClock, prepare: Prepare, operation: str, when: str
) -> None:
    retrying = RetryingStore(prepare(under_way(when)), first_delay=1 if when == "in an attempt" else 100, seconds=200)
    async with replica.open([prepare(SimulatedStore()), retrying]) as store:
        with trio.move_on_after(5) as scope:
            await (store.put(BLOB) if operation == "put" else store.get(REF))
        assert (scope.cancelled_caught, trio.current_time()) == (True, 5)
        assert retrying.statistics().waiting == 0
    assert trio.current_time() == 5


@WHEN
@PREPARE
async def test_the_end_of_the_block_ends_a_put_whose_retry_is_under_way(
    autojump_clock: MockClock, prepare: Prepare, when: str
) -> None:
    retrying = RetryingStore(prepare(under_way(when)), first_delay=1 if when == "in an attempt" else 100, seconds=200)
    async with trio.open_nursery() as nursery:
        async with replica.open([prepare(SimulatedStore()), retrying]) as store:
            put = Ended(nursery, store.put, BLOB)
            await trio.sleep(5)
        assert trio.current_time() == 5
        await put.done.wait()
    assert (type(put.error), put.at) == (trio.ClosedResourceError, 5)
    assert retrying.statistics().waiting == 0


@PREPARE
@pytest.mark.parametrize("hedge_delay", [0.0, math.inf])
async def test_a_get_whose_retry_is_under_way_goes_on_when_the_block_ends(
    autojump_clock: MockClock, prepare: Prepare, hedge_delay: float
) -> None:
    inner = SimulatedStore(get=2)
    await inner.put(BLOB)
    inner.outage(0, 10, OSError(AWAY))
    retrying = RetryingStore(prepare(inner), **EVEN)
    async with trio.open_nursery() as nursery:
        async with replica.open([retrying, prepare(SimulatedStore())], hedge_delay=hedge_delay) as store:
            get = Ended(nursery, store.get, REF)
            await trio.sleep(5)
            assert retrying.statistics().retries > 3
        closed_at = trio.current_time()
        await get.done.wait()
    assert (get.value, get.at) == (DATA, closed_at)
    assert 12 <= closed_at < 13


@WHEN
@PREPARE
async def test_a_hedge_that_wins_ends_a_retry(autojump_clock: MockClock, prepare: Prepare, when: str) -> None:
    away = under_way(when)
    retrying = RetryingStore(prepare(away), first_delay=1 if when == "in an attempt" else 100, seconds=200)
    second = SimulatedStore(get=1)
    await second.put(BLOB)
    async with replica.open([retrying, prepare(second)], hedge_delay=3) as store:
        assert await store.get(REF) == DATA
        assert trio.current_time() == 4
        await trio.sleep(1000)
    assert len(away.calls) == (1 if when == "in a pause" else 2)
    assert (retrying.statistics().waiting, retrying.statistics().gave_up) == (0, 0)


@PREPARE
async def test_the_others_win_or_wait_while_one_is_retried(autojump_clock: MockClock, prepare: Prepare) -> None:
    away = SimulatedStore(put=1, get=1)
    away.outage(0, 5, OSError(AWAY))
    near = SimulatedStore(put=1, get=1)
    retrying = RetryingStore(prepare(away), **EVEN)
    async with replica.open([prepare(near), retrying]) as store:
        assert (await store.put(BLOB)).added
        assert 6 <= trio.current_time() < 7
        assert near.blobs == away.blobs == {REF: DATA}
        away.outage(trio.current_time(), math.inf, OSError(AWAY))
        began = trio.current_time()
        assert await store.get(REF) == DATA
        assert trio.current_time() == began + 1
        counts = store.statistics().sync_stores
        assert (counts["sync-0"].gets_won, counts["sync-1"].gets_won) == (1, 0)
        assert (counts["sync-1"].puts, counts["sync-1"].put_failures) == (1, 0)


# Context variables

CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


class Noting(SimulatedStore):
    """It notes for whom its coroutines run."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        self._seen.append(CALLER.get())
        return await super().put(blob)

    async def get(self, ref: Ref) -> bytes:
        self._seen.append(CALLER.get())
        return await super().get(ref)


class NotingStarts(StartedStore):
    """It notes for whom its calls are started."""

    def __init__(self, store: Store, seen: list[str]) -> None:
        super().__init__(store)
        self._seen = seen

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        self._seen.append(CALLER.get())
        return super().start_put(blob, done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        self._seen.append(CALLER.get())
        return super().start_get(ref, done)


async def call_as(caller: str, call: Callable[[], Awaitable[object]]) -> None:
    CALLER.set(caller)
    await call()


@pytest.mark.parametrize("hedge_delay", [0.0, 1.0])
@pytest.mark.parametrize("operation", ["put", "get"])
@pytest.mark.parametrize("is_started", [False, True], ids=["awaited", "started"])
async def test_every_attempt_runs_in_the_callers_context(
    autojump_clock: MockClock, is_started: bool, operation: str, hedge_delay: float
) -> None:
    seen: list[str] = []
    inner = SimulatedStore() if is_started else Noting(seen)
    first = SimulatedStore()
    await inner.put(BLOB)
    await first.put(BLOB)
    seen.clear()
    first.hang("get")  # with hedges, those start the call to the other one
    inner.fail(OSError(AWAY), count=2)
    retrying = RetryingStore(NotingStarts(inner, seen) if is_started else inner)
    async with replica.open([first, retrying], hedge_delay=hedge_delay) as store, trio.open_nursery() as nursery:
        call: Any = partial(store.put, BLOB) if operation == "put" else partial(store.get, REF)
        nursery.start_soon(call_as, "caller", call)
    assert seen == ["caller"] * 3
    assert retrying.statistics().retries == 2


@pytest.mark.parametrize("is_started", [False, True], ids=["awaited", "started"])
async def test_every_attempt_runs_in_the_callers_context_without_a_replica(
    autojump_clock: MockClock, is_started: bool
) -> None:
    seen: list[str] = []
    inner = SimulatedStore() if is_started else Noting(seen)
    inner.fail(OSError(AWAY), count=2)
    retrying = RetryingStore(NotingStarts(inner, seen) if is_started else inner)
    CALLER.set("caller")
    await retrying.put(BLOB)
    assert seen == ["caller"] * 3


# Memory


class Payload(bytearray):
    """Bytes to which there can be weak references."""


@PREPARE
@pytest.mark.parametrize("attempts", [1, 3, 4])
@pytest.mark.parametrize("in_replica", [False, True])
async def test_no_blob_is_kept_by_a_call_that_has_ended(
    autojump_clock: MockClock, prepare: Prepare, attempts: int, in_replica: bool
) -> None:
    class Holding(PlainStore):
        """The frames of its failures hold something large. The fourth call is the first that goes well."""

        async def get(self, ref: Ref) -> bytes:
            payload = Payload(1000)
            payloads.append(weakref.ref(payload))
            await trio.lowlevel.checkpoint()
            if len(payloads) < 4:
                raise OSError(AWAY)
            return DATA

    payloads: list[weakref.ref[Payload]] = []
    retrying = RetryingStore(prepare(Holding(SimulatedStore())), attempts=attempts)
    async with replica.open([retrying]) as store:
        with without_gc():
            with nullcontext() if attempts == 4 else pytest.raises((OSError, replica.StoreError)):
                await (store if in_replica else retrying).get(REF)
            await trio.testing.wait_all_tasks_blocked()
            assert [payload() for payload in payloads] == [None] * attempts
