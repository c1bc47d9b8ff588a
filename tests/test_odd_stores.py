"""Stores that break the rules of started calls, and moments at which a call, a cancellation and an exit meet."""

from __future__ import annotations

import gc
import math
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
import trio.testing
from trio.lowlevel import enable_ki_protection

import trio_replica as replica
from trio_replica import Blob, MemoryStore, PutResult, Ref, RetryingStore, StoreError, Unfinished, open_directory
from trio_replica.stores._started import StartedStore as AllStartedStore
from trio_replica.testing import SimulatedStore

from .common import BROKEN, DATA, REF, PlainStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica import Cancel, Done

RESULT = outcome.Value(PutResult(REF, added=True))


class Odd(AllStartedStore):
    """A store whose puts and gets are started by one function."""

    def __init__(self, start: Callable[[Done], Any]) -> None:
        self._start = start

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        cancel: Cancel = self._start(done)
        return cancel

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        cancel: Cancel = self._start(done)
        return cancel

    start_put_many = start_get_many = start_contains = start_list_page = start_get  # type: ignore[assignment]


async def awaited() -> PutResult:
    await trio.sleep(1)
    return PutResult(REF, added=True)


def raises_after(end: Any) -> Callable[[Done], Any]:
    def start(done: Done) -> Any:
        done(end)
        raise BROKEN

    return start


def twice(done: Done) -> Any:
    done(RESULT)
    done(outcome.Error(BROKEN))
    return bool


def with_a_task_and_yet_at_once(done: Done) -> Any:
    done(Unfinished(awaited))
    done(outcome.Error(BROKEN))
    return bool


@pytest.mark.parametrize("hedge_delay", [0, 0.5])
@pytest.mark.parametrize(
    "start", [raises_after(RESULT), raises_after(Unfinished(awaited)), twice, with_a_task_and_yet_at_once]
)
async def test_the_first_end_of_a_call_counts(
    autojump_clock: MockClock, start: Callable[[Done], Any], hedge_delay: float
) -> None:
    slow = SimulatedStore(put=2, get=2)
    async with replica.open([slow, Odd(start)], hedge_delay=hedge_delay) as store:
        assert await store.put(DATA) == PutResult(REF, added=True)
        assert trio.current_time() == 2
        assert slow.blobs == {REF: DATA}


@pytest.mark.parametrize("end", [None, PutResult(REF, added=True), "text"])
async def test_an_end_that_is_no_outcome_is_a_failure_of_the_store(autojump_clock: MockClock, end: Any) -> None:
    def start(done: Done) -> Any:
        done(end)
        return bool

    async with replica.open([MemoryStore(), Odd(start)]) as store:
        with pytest.raises(
            StoreError, match=r"sync-1: ReplicaError: the store ended a call with .*, which is not an outcome"
        ):
            await store.put(DATA)


async def test_an_end_that_comes_after_the_call_was_withdrawn_is_dropped(autojump_clock: MockClock) -> None:
    told: list[Done] = []

    def start(done: Done) -> Any:
        told.append(done)
        return lambda: True

    async with replica.open([SimulatedStore(put=1), Odd(start)]) as store:
        with trio.move_on_after(0.5):
            await store.put(DATA)
        told[0](RESULT)
        with trio.move_on_after(0.5):
            await store.get(REF)
        told[1](outcome.Error(BROKEN))


@pytest.mark.parametrize("retrying", [False, True])
async def test_a_call_may_end_while_it_is_cancelled(autojump_clock: MockClock, *, retrying: bool) -> None:
    def start(done: Done) -> Any:
        def cancel() -> bool:
            done(RESULT)
            return False

        return cancel

    odd = RetryingStore(Odd(start)) if retrying else Odd(start)
    async with replica.open([odd]) as store:
        for call in (partial(store.put, DATA), partial(store.get, REF)):
            with trio.move_on_after(1) as scope:
                await call()
            assert scope.cancelled_caught


async def test_a_value_that_is_no_answer_is_a_failure_of_the_store() -> None:
    class Vague(PlainStore):
        async def contains(self, ref: Ref) -> Any:
            await trio.lowlevel.checkpoint()
            return None

        async def put(self, blob: Any) -> Any:
            await trio.lowlevel.checkpoint()

    async with replica.open([Vague(MemoryStore())]) as store:
        with pytest.raises(StoreError, match=r"contains of .* failed: sync-0: ReplicaError: a contains returned None"):
            await store.contains(REF)
        with pytest.raises(StoreError, match=r"sync-0: ReplicaError: a put returned None, which is not a PutResult"):
            await store.put(DATA)


async def test_a_subclass_that_overrides_a_method_has_it_called(autojump_clock: MockClock) -> None:
    class Audited(RetryingStore):
        async def put(self, blob: Any) -> PutResult:
            puts.append(blob)
            return await super().put(blob)

    puts: list[Any] = []
    async with replica.open([Audited(MemoryStore())], [Audited(MemoryStore())]) as store:
        await store.put(DATA)
        assert await store.get(REF) == DATA
        await store.flush()
    assert puts == [Blob(DATA)] * 2


@pytest.mark.parametrize("retrying", [False, True])
async def test_a_mixin_that_overrides_a_method_has_it_called(*, retrying: bool) -> None:
    class Veto:
        async def put(self, blob: object) -> PutResult:
            await trio.lowlevel.checkpoint()
            raise OSError("broken")

    class Vetoed(Veto, MemoryStore):  # type: ignore[misc]
        pass

    inner: Any = Vetoed()
    odd = RetryingStore(inner, attempts=1) if retrying else inner
    async with replica.open([odd]) as store:
        with pytest.raises(StoreError, match="OSError: broken"):
            await store.put(DATA)
    assert len(inner) == 0


async def test_a_call_of_the_store_itself_ends_once(autojump_clock: MockClock) -> None:
    def start(done: Done) -> Any:
        def end() -> None:
            done(RESULT)
            done(RESULT)
            done(outcome.Error(BROKEN))

        trio.lowlevel.current_trio_token().run_sync_soon(end)
        return bool

    assert await Odd(start).put(DATA) == PutResult(REF, added=True)
    with trio.move_on_after(1) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_call_of_the_store_itself_that_ends_after_it_was_withdrawn_wakes_nobody(
    autojump_clock: MockClock,
) -> None:
    told: list[Done] = []

    def start(done: Done) -> Any:
        told.append(done)
        return lambda: True

    with trio.move_on_after(1):
        await Odd(start).put(DATA)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            await trio.sleep(1)
            told[0](RESULT)

        with trio.move_on_after(2) as scope:
            await trio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize("is_withdrawn", [False, True])
async def test_a_call_of_the_store_itself_may_end_while_it_is_cancelled(
    autojump_clock: MockClock, *, is_withdrawn: bool
) -> None:
    def start(done: Done) -> Any:
        def cancel() -> bool:
            done(RESULT)
            return is_withdrawn

        return cancel

    with trio.move_on_after(1) as scope:
        assert await Odd(start).put(DATA) == PutResult(REF, added=True)
    assert not scope.cancelled_caught


async def test_an_end_that_is_no_outcome_fails_a_call_of_the_store_itself() -> None:
    def start(done: Done) -> Any:
        done("text")  # type: ignore[arg-type]
        return bool

    with pytest.raises(replica.ReplicaError, match="the store ended a call with 'text', which is not an outcome"):
        await Odd(start).put(DATA)


def test_an_exit_request_of_a_call_that_ended_at_once_is_not_lost_to_a_cancellation() -> None:
    def start(done: Done) -> Any:
        scope.cancel()
        done(outcome.Error(SystemExit(3)))
        return bool

    async def main() -> None:
        with scope:
            await Odd(start).put(DATA)

    scope = trio.CancelScope()
    with pytest.raises(SystemExit):
        trio.run(main)


@pytest.mark.parametrize("is_last", [False, True])
async def test_an_exit_request_after_the_end_of_a_call_ends_the_operation(
    autojump_clock: MockClock, *, is_last: bool
) -> None:
    def start(done: Done) -> Any:
        done(RESULT)
        raise SystemExit(3)

    others = [SimulatedStore(put=math.inf)]
    stores = [*others, Odd(start)] if is_last else [Odd(start), *others]
    with pytest.raises(SystemExit):
        async with replica.open(stores) as store:
            await store.put(DATA)
    assert trio.current_time() == 0


async def test_an_exit_request_of_a_hedge_ends_the_get(autojump_clock: MockClock) -> None:
    def start(done: Done) -> Any:
        done(outcome.Error(BROKEN))
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with replica.open([SimulatedStore(get=math.inf), Odd(start)], hedge_delay=1) as store:
            await store.get(REF)
    assert trio.current_time() == 1


async def test_an_exit_request_of_a_hedge_wakes_a_get_whose_other_call_is_withdrawn(autojump_clock: MockClock) -> None:
    def hang(_: Done) -> Any:
        return lambda: True

    def start(done: Done) -> Any:
        done(outcome.Error(BROKEN))
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with replica.open([Odd(hang), Odd(start)], hedge_delay=1) as store:
            await store.get(REF)
    assert trio.current_time() == 1


@pytest.mark.parametrize("end", [outcome.Value(DATA), outcome.Error(SystemExit(3))])
async def test_a_verdict_is_not_lost_while_other_calls_are_waited_for(autojump_clock: MockClock, end: Any) -> None:
    def start_soon(done: Done) -> Any:
        async def rest() -> Any:
            await trio.sleep(0.5)
            return end.unwrap()

        done(Unfinished(rest))
        return bool

    def start_late(_: Done) -> Any:
        return lambda: trio.current_time() >= 1  # it can be cancelled only then

    async def get() -> None:
        async with replica.open([Odd(start_soon), Odd(start_late)]) as store:
            with trio.move_on_after(5):
                answers.append(await store.get(REF))

    answers: list[bytes] = []
    if isinstance(end, outcome.Error):
        with pytest.raises(SystemExit):
            await get()
    else:
        await get()
        assert answers == [DATA]
    assert trio.current_time() == 5


async def test_a_call_of_threads_that_has_ended_can_not_be_cancelled(tmp_path: Path) -> None:
    async with replica.open_sqlite(tmp_path / "a.db") as store:
        await store.put(DATA)
        ended = trio.Event()
        cancel = store.start_get(REF, lambda _: ended.set())
        await ended.wait()
        assert not cancel()


# A call, a cancellation and an exit


async def test_a_cancellation_that_a_shield_came_before_still_counts(autojump_clock: MockClock) -> None:
    class Stubborn(SimulatedStore):
        async def put(self, blob: Any) -> PutResult:
            with trio.CancelScope(shield=True):
                answer = await super().put(blob)
            return answer

    async def cancel() -> None:
        await trio.sleep(1)
        outer.cancel()
        inner.shield = True

    lacking, behind = SimulatedStore(put=5), SimulatedStore()
    outer, inner = trio.CancelScope(), trio.CancelScope()
    async with replica.open([SimulatedStore(), lacking, Stubborn(put=2)], [behind]) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            with outer, inner:
                await store.put(DATA)
        assert outer.cancelled_caught
        assert lacking.blobs == behind.blobs == {}


@pytest.mark.parametrize("operation", ["put", "list_page"])
async def test_an_error_that_came_before_the_cancellation_is_not_lost(
    autojump_clock: MockClock, operation: str
) -> None:
    class Stubborn(SimulatedStore):
        async def put(self, blob: Any) -> PutResult:
            with trio.CancelScope(shield=True):
                answer = await super().put(blob)
            return answer

        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            with trio.CancelScope(shield=True):
                answer = await super().list_page(after, limit)
            return answer

    failing = SimulatedStore(put=1, list_page=1)
    failing.fail(BROKEN)
    async with replica.open([failing, Stubborn(put=3, list_page=3)]) as store:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": partial(store.put, DATA),
            "list_page": partial(store.list_page, Ref.ZERO, 1),
        }
        with trio.move_on_after(2), pytest.raises(StoreError, match="OSError: broken"):
            await calls[operation]()
        assert trio.current_time() == 3


async def test_an_exit_is_not_lost_when_a_cancellation_comes_in_the_same_step() -> None:
    def start(done: Done) -> Any:
        scope.cancel()
        raise SystemExit(3)

    scope = trio.CancelScope()
    async with replica.open([Odd(start)]) as store:
        with scope, pytest.raises(SystemExit):
            await store.get(REF)


@pytest.mark.parametrize("hedge_delay", [0, 1])
def test_an_interrupt_at_the_end_of_the_block_comes_out_bare(hedge_delay: float) -> None:
    @enable_ki_protection
    async def main() -> None:
        async with replica.open([MemoryStore(), MemoryStore()], hedge_delay=hedge_delay) as store:
            await store.put(DATA)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


# Memory


def blobs_alive() -> int:
    return sum(isinstance(thing, Blob) and len(thing) > 1000 for thing in gc.get_objects())


async def test_a_get_that_one_store_refuses_and_another_answers_leaves_no_cycle(no_gc: None) -> None:
    def refuse(done: Done) -> Any:
        raise OSError("refused")

    memory = MemoryStore()
    await memory.put(DATA)
    async with replica.open([Odd(refuse), memory]) as store:
        await store.get(REF)
        gc.collect()
        for _ in range(3):
            assert await store.get(REF) == DATA
        assert gc.collect() == 0


async def test_a_put_many_that_can_not_be_started_leaves_no_blob(no_gc: None, tmp_path: Path) -> None:
    async with open_directory(tmp_path) as closed:
        await closed.put(DATA)
    with pytest.raises(trio.ClosedResourceError):
        await closed.put_many([bytes(2000), bytes(3000)])
    assert blobs_alive() == 0


@pytest.mark.parametrize("grace", [0, 0.01])
async def test_a_block_that_is_cancelled_leaves_no_blob(autojump_clock: MockClock, no_gc: None, grace: float) -> None:
    class Hanging(PlainStore):
        async def put(self, blob: Any) -> Any:
            await trio.sleep_forever()

    async def be_cancelled() -> None:
        with trio.move_on_after(1):
            async with replica.open([MemoryStore()], [Hanging(MemoryStore())], grace=grace) as store:
                await store.put(bytes(2000))
                await trio.sleep_forever()

    await be_cancelled()
    await trio.lowlevel.checkpoint()
    assert blobs_alive() == 0
