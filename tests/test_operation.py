"""Calls that are started without a task for each: which are started, cancelled and waited for, and when.

Tests that calls which are awaited have to pass, too, are in ``test_fan_out.py``.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import BlobNotFoundError, Ref, open_directory, open_sqlite
from trio_replica._calls.hedges import Hedges
from trio_replica._calls.start import Unfinished, ended_call

from .common import BROKEN, CancelAtStep, Ended
from .held import Held
from .started import FannedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica._calls.operation import UnderWay
    from trio_replica._calls.start import Cancel, Done

LEAVE = [KeyboardInterrupt, SystemExit]


class Told:
    """Calls that end when they are told to; some of them can't be cancelled."""

    def __init__(self, *running: str, refused: dict[str, BaseException] | None = None) -> None:
        self.running = running
        self.refused = refused or {}
        self.started: dict[str, float] = {}
        self.cancelled: dict[str, float] = {}
        self._done: dict[str, Done] = {}

    def start(self, member: str, done: Done) -> Cancel:
        self.started[member] = trio.current_time()
        if member in self.refused:
            raise self.refused[member]
        self._done[member] = done

        def cancel() -> bool:
            if member in self.running:
                return False
            assert member not in self.cancelled
            self.cancelled[member] = trio.current_time()
            del self._done[member]
            return True

        return cancel

    def end_soon(self, member: str, how: BaseException | None = None) -> None:
        """End a call by its own name, or by an error."""
        self._done.pop(member)(outcome.Value(member) if how is None else outcome.Error(how))

    async def end(self, member: str, how: BaseException | None = None) -> None:
        """End a call, and let who waits for it go on."""
        self.end_soon(member, how)
        await trio.testing.wait_all_tasks_blocked()


class Steps(trio.abc.Instrument):
    """Counts the steps of each task."""

    def __init__(self) -> None:
        self.of: Counter[trio.lowlevel.Task] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of[task] += 1


class Running:
    """A task that runs an operation until one call ends by a `settles`; what its calls ended with, and how it did."""

    def __init__(
        self,
        nursery: trio.Nursery,
        members: str,
        start: Callable[[str, Done], Cancel],
        *,
        settles: type = outcome.Value,
        finish: Callable[[Any], Awaitable[Any]] | None = None,
        finishes: str = "abcd",
        hedges: Hedges | None = None,
    ) -> None:
        self.settled: dict[str, Any] = {}
        self.scope = trio.CancelScope()
        self.under_way: UnderWay = {}
        self.task: trio.lowlevel.Task | None = None
        self.ended: float | None = None
        self.error: BaseException | None = None
        self._settles = settles
        self._finish = finish
        self._unfinished = set(finishes)
        nursery.start_soon(self._run, members, start, hedges)

    def cancel(self, how: str) -> None:
        """Cancel it ``"from outside"``, as a scope of its caller does, or ``"by somebody"``, as its replica does."""
        if how == "from outside":
            self.scope.cancel()
        else:
            (under_way,) = self.under_way
            under_way.cancel()

    async def _run(self, members: str, start: Callable[[str, Done], Cancel], hedges: Hedges | None) -> None:
        self.task = trio.lowlevel.current_task()
        operation = FannedOut(members, start, self._settle)
        operation.hedges = hedges
        async with trio.open_nursery() as nursery:
            try:
                with self.scope:
                    await operation.run(self.under_way, nursery)
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                self.error = error
        assert not self.under_way
        self.ended = trio.current_time()

    def _settle(self, member: str, ended: outcome.Value[Any] | outcome.Error) -> bool | Unfinished:
        assert member not in self.settled
        if isinstance(ended, outcome.Value) and self._finish is not None and member in self._unfinished:
            self._unfinished.remove(member)
            return Unfinished(partial(self._finish, ended.value))
        self.settled[member] = ended.error if isinstance(ended, outcome.Error) else ended.value
        return isinstance(ended, self._settles)


# Being woken


def test_an_operation_is_woken_once() -> None:
    async def main() -> None:
        told = Told()
        async with trio.open_nursery() as nursery:
            operation = Running(nursery, "abc", told.start, settles=outcome.Error)
            await trio.testing.wait_all_tasks_blocked()
            assert operation.task is not None
            before = steps.of[operation.task]
            for member in "abc":
                assert steps.of[operation.task] == before
                await told.end(member)
        assert operation.settled == {"a": "a", "b": "b", "c": "c"}

    steps = Steps()
    trio.run(main, instruments=[steps])


async def test_an_operation_is_settled_in_the_step_in_which_a_call_ends() -> None:
    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abc", told.start, settles=outcome.Error)
        await trio.testing.wait_all_tasks_blocked()
        told.end_soon("a")
        assert operation.settled == {"a": "a"}
        told.end_soon("b", BROKEN)
        assert operation.settled == {"a": "a", "b": BROKEN}
        assert told.cancelled.keys() == {"c"}


# Calls that end before their start has returned


async def test_calls_that_end_at_once_settle_an_operation_in_one_step(autojump_clock: MockClock) -> None:
    started = []

    def start(member: str, done: Done) -> Cancel:
        started.append(member)
        done(outcome.Error(BROKEN) if member == "a" else outcome.Value(member))
        return lambda: pytest.fail("it has ended")

    for hedges in (None, Hedges(5)):
        started.clear()
        async with trio.open_nursery() as nursery:
            operation = Running(nursery, "abc", start, hedges=hedges)
        assert operation.settled == {"a": BROKEN, "b": "b"}
        assert started == ["a", "b"]
        assert operation.ended == 0


async def test_calls_that_all_end_at_once_give_others_a_turn() -> None:
    def start(member: str, done: Done) -> Cancel:
        done(outcome.Value(member))
        return lambda: pytest.fail("it has ended")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(FannedOut("a", start, lambda *_: True).run, {})
        nursery.start_soon(trio.lowlevel.checkpoint)
        with trio.CancelScope() as scope:
            scope.cancel()
            await FannedOut("a", start, lambda *_: pytest.fail("it was cancelled before")).run({})
    assert scope.cancelled_caught


async def test_one_call_that_ends_at_once_among_others() -> None:
    def start(member: str, done: Done) -> Cancel:
        if member != "b":
            return told.start(member, done)
        done(outcome.Value(member))
        return lambda: pytest.fail("it has ended")

    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abc", start, settles=outcome.Error)
        await trio.testing.wait_all_tasks_blocked()
        assert operation.settled == {"b": "b"}
        for member in "ac":
            await told.end(member)
    assert operation.settled == {"b": "b", "a": "a", "c": "c"}


async def test_an_operation_that_is_cancelled_while_a_call_is_started() -> None:
    def start(member: str, done: Done) -> Cancel:
        if member == "b":
            operation.cancel("by somebody")
        return told.start(member, done)

    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abc", start)
    assert told.started.keys() == told.cancelled.keys() == {"a", "b"}
    assert isinstance(operation.error, trio.ClosedResourceError)


# Being cancelled


async def test_cancelled_already_nothing_is_started() -> None:
    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start)
        operation.scope.cancel()
    assert operation.scope.cancelled_caught
    assert told.started == {}


@pytest.mark.parametrize("how", ["from outside", "by somebody"])
async def test_cancelled_it_cancels_all_and_settles_nothing(how: str) -> None:
    told = Told()
    hedges = Hedges(math.inf)
    async with trio.open_nursery() as nursery:
        all_at_once = Running(nursery, "ab", told.start)
        hedged = Running(nursery, "cd", told.start, hedges=hedges)
        await trio.testing.wait_all_tasks_blocked()
        for operation in (all_at_once, hedged):
            operation.cancel(how)
        await trio.testing.wait_all_tasks_blocked()
        hedges.stop()  # which has nothing left to start
    for operation in (all_at_once, hedged):
        assert operation.scope.cancelled_caught == (how == "from outside")
        assert operation.settled == {}
        assert isinstance(operation.error, trio.ClosedResourceError) == (how == "by somebody")
    assert told.started.keys() == told.cancelled.keys() == {"a", "b", "c"}


@pytest.mark.parametrize("settles", [outcome.Value, outcome.Error])
@pytest.mark.parametrize("error", [None, BROKEN])
@pytest.mark.parametrize("how", ["from outside", "by somebody", "settled"])
async def test_what_can_not_be_cancelled_is_waited_for_and_settled(
    how: str, error: OSError | None, settles: type
) -> None:
    settled: dict[str, object] = {}
    told = Told("a", "b")
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abcd", told.start, settles=settles)
        await trio.testing.wait_all_tasks_blocked()
        if how == "settled":
            settled["d"] = "d" if settles is outcome.Value else BROKEN
            await told.end("d", None if settles is outcome.Value else BROKEN)
        else:
            operation.cancel(how)
        await trio.testing.wait_all_tasks_blocked()
        assert told.cancelled.keys() == {"c", "d"} - settled.keys()
        await told.end("a", error)
        assert operation.ended is None
        assert len(operation.under_way) == 1
        await told.end("b")
        assert operation.ended is not None
    assert operation.scope.cancelled_caught == (how == "from outside")
    assert isinstance(operation.error, trio.ClosedResourceError) == (how == "by somebody")
    assert operation.settled == settled | {"a": error or "a", "b": "b"}


@pytest.mark.parametrize("how", ["from outside", "by somebody"])
async def test_cancelled_it_starts_no_more_though_the_last_call_fails(how: str) -> None:
    told = Told("a")
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start, hedges=Hedges(math.inf))
        await trio.testing.wait_all_tasks_blocked()
        operation.cancel(how)
        await trio.testing.wait_all_tasks_blocked()
        await told.end("a", BROKEN)
        assert operation.ended is not None
    assert operation.settled == {"a": BROKEN}
    assert told.started.keys() == {"a"}


@pytest.mark.parametrize("kind", LEAVE)
@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_exit_comes_out_bare_when_what_can_not_be_cancelled_has_ended(
    kind: type[BaseException], wrapped: bool
) -> None:
    leave = kind()
    told = Told("a", "b")
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abcd", told.start)
        await trio.testing.wait_all_tasks_blocked()
        await told.end("d", BaseExceptionGroup("both", [BROKEN, leave]) if wrapped else leave)
        assert told.cancelled.keys() == {"c"}
        operation.scope.cancel()  # changes nothing any more
        await told.end("a")
        assert operation.ended is None
        await told.end("b", BROKEN)
        assert operation.ended is not None
    assert operation.error is leave
    assert operation.settled == {"a": "a", "b": BROKEN}


# Calls that can't be started


async def test_a_call_that_is_refused_has_failed() -> None:
    told = Told(refused={"a": BROKEN, "c": ExceptionGroup("", [BROKEN])})
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abc", told.start)
        await trio.testing.wait_all_tasks_blocked()
        assert told.started.keys() == {"a", "b", "c"}, "the others are started all the same"
        await told.end("b")
    assert operation.settled == told.refused | {"b": "b"}
    assert operation.error is None


@pytest.mark.parametrize("kind", LEAVE)
async def test_a_call_that_is_refused_by_an_exit(kind: type[BaseException]) -> None:
    told = Told(refused={"a": (leave := kind())})
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start)
    assert operation.error is leave
    assert told.started.keys() == {"a"}, "no more is started"


async def test_cancelled_at_once_a_call_that_is_refused_is_settled_first() -> None:
    def start(member: str, done: Done) -> Cancel:
        operation.scope.cancel()
        return told.start(member, done)

    told = Told(refused={"a": BROKEN})
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", start)
    assert operation.scope.cancelled_caught
    assert operation.settled == {"a": BROKEN}
    assert told.cancelled.keys() == {"b"}


async def test_a_call_that_is_refused_makes_way_for_the_next(autojump_clock: MockClock) -> None:
    told = Told(refused={"a": BROKEN, "b": BROKEN})
    hedges = Hedges(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hedges.watch)
        operation = Running(nursery, "abcd", told.start, hedges=hedges)
        await trio.sleep(7)
        await told.end("c")
        hedges.stop()
    assert told.started == {"a": 0, "b": 0, "c": 0, "d": 5}
    assert operation.settled == {"a": BROKEN, "b": BROKEN, "c": "c"}
    assert told.cancelled == {"d": 7}


# Work that takes a task


async def test_a_value_that_can_not_be_finished_is_a_failure(autojump_clock: MockClock) -> None:
    async def finish(value: str) -> str:
        await trio.sleep(1)
        if value == "a":
            raise BROKEN
        return value.upper()

    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start, finish=finish)
        await trio.testing.wait_all_tasks_blocked()
        await told.end("a")
        await trio.sleep(1.5)
        assert operation.settled == {"a": BROKEN}
        await told.end("b")
    assert operation.settled == {"a": BROKEN, "b": "B"}
    assert operation.ended == 2.5


async def test_values_are_finished_side_by_side(autojump_clock: MockClock) -> None:
    async def finish(value: str) -> str:
        await trio.sleep(5 if value == "a" else 1)
        return value.upper()

    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start, finish=finish)
        await trio.testing.wait_all_tasks_blocked()
        told.end_soon("a")
        told.end_soon("b")
    assert operation.settled == {"b": "B"}
    assert operation.ended == 1


async def test_a_value_that_needs_no_more_is_settled_at_once(autojump_clock: MockClock) -> None:
    async def finish(value: str) -> None:
        await trio.sleep(5)

    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start, finish=finish, finishes="a", settles=outcome.Error)
        await trio.testing.wait_all_tasks_blocked()
        told.end_soon("a")
        told.end_soon("b")
        assert operation.settled == {"b": "b"}
    assert operation.settled == {"b": "b", "a": None}
    assert operation.ended == 5


@pytest.mark.parametrize("kind", LEAVE)
async def test_finishing_that_exits(kind: type[BaseException]) -> None:
    async def finish(value: str) -> None:
        await trio.lowlevel.checkpoint()
        raise BaseExceptionGroup("deep", [leave])

    leave = kind()
    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start, finish=finish)
        await trio.testing.wait_all_tasks_blocked()
        await told.end("a")
    assert operation.error is leave
    assert told.cancelled.keys() == {"b"}


@pytest.mark.parametrize("how", ["from outside", "by somebody", "settled"])
async def test_cancelled_while_a_value_is_finished_it_waits_for_what_can_not_be_cancelled(how: str) -> None:
    async def finish(value: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(value)

    cancelled: list[str] = []
    told = Told("b", "c")
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "abcd", told.start, finish=finish, finishes="ab", settles=outcome.Error)
        await trio.testing.wait_all_tasks_blocked()
        await told.end("a")
        if how == "settled":
            told.end_soon("d", BROKEN)
        else:
            operation.cancel(how)
        await trio.testing.wait_all_tasks_blocked()
        assert cancelled == ["a"]
        await told.end("b")  # which would have to be finished, too
        assert operation.ended is None
        await told.end("c", BROKEN)
        assert operation.ended is not None
    assert operation.settled == {"c": BROKEN} | ({"d": BROKEN} if how == "settled" else {})


async def test_a_task_that_is_cancelled_before_it_runs_does_nothing() -> None:
    async def finish(value: str) -> None:  # noqa: ASYNC124  (what is handed to a task)
        pytest.fail("nobody waits for it")  # pragma: no cover

    told = Told()
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "a", told.start, finish=finish)
        await trio.testing.wait_all_tasks_blocked()
        told.end_soon("a")
        operation.scope.cancel()
    assert operation.settled == {}


async def test_the_context_of_a_call_is_that_of_its_caller(autojump_clock: MockClock) -> None:
    async def finish(value: str) -> str:  # noqa: ASYNC124  (likewise)
        contexts[value.upper()] = variable.get()
        return value

    def start(member: str, done: Done) -> Cancel:
        contexts[member] = variable.get()
        return told.start(member, done)

    variable: ContextVar[str] = ContextVar("variable", default="nobody")
    contexts: dict[str, str] = {}
    told = Told()
    hedges = Hedges(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hedges.watch)
        variable.set("the caller")
        Running(nursery, "abcd", start, finish=finish, settles=outcome.Error, hedges=hedges)
        variable.set("somebody else")
        await trio.sleep(1.5)  # the second one is a hedge
        hedges.stop()  # as are the others
        assert contexts == dict.fromkeys("abcd", "the caller")
        await told.end("b", BROKEN)
    contexts.clear()
    told = Told()
    async with trio.open_nursery() as nursery:
        variable.set("the caller")
        Running(nursery, "abcd", start, finish=finish, hedges=hedges)
        variable.set("somebody else")
        await trio.testing.wait_all_tasks_blocked()
        await told.end("a", LookupError())
        await told.end("c")
    assert contexts == dict.fromkeys([*"abcdC"], "the caller")


# Hedges


async def test_several_operations_are_hedged_at_their_own_times(autojump_clock: MockClock) -> None:
    told = Told()
    hedges = Hedges(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hedges.watch)
        operations = []
        for members in ("abc", "def", "ghi", "jkl"):
            operations.append(Running(nursery, members, told.start, hedges=hedges))
            await trio.sleep(0.5)  # to 0.5, 1, 1.5, 2
        await trio.sleep(0.25)
        await told.end("a")  # settled when the second one has been started
        await told.end("d")  # settled in time
        await told.end("g", BROKEN)  # makes way for the next one
        await trio.sleep(10 - 2.25)
        assert operations[2].settled == {"g": BROKEN}
        for member in "il":
            await told.end(member)
        assert [operation.ended for operation in operations] == [2.25, 2.25, 10, 10]
        await trio.sleep(10)
        late = Running(nursery, "xy", told.start, hedges=hedges)  # after there was none for a while
        await trio.sleep(5)
        await told.end("y")
        assert late.ended == 25
        hedges.stop()
    assert told.started == {
        "a": 0, "b": 2, "d": 0.5, "g": 1, "h": 2.25, "i": 4.25, "j": 1.5, "k": 3.5, "l": 5.5, "x": 20, "y": 22,
    }  # fmt: skip
    assert told.cancelled == {"b": 2.25, "h": 10, "j": 10, "k": 10, "x": 25}


@pytest.mark.parametrize("delay", [10, math.inf])
async def test_when_hedges_stop_all_is_started(autojump_clock: MockClock, delay: float) -> None:
    told = Told()
    hedges = Hedges(delay)
    async with trio.open_nursery() as nursery:
        watching = Ended(nursery, hedges.watch)
        Running(nursery, "abc", told.start, hedges=hedges)
        Running(nursery, "de", told.start, hedges=hedges)
        await trio.sleep(1)
        hedges.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert watching.at == 1
        Running(nursery, "xyz", told.start, hedges=hedges)
        for member in "bex":
            await trio.testing.wait_all_tasks_blocked()
            await told.end(member)
    assert told.started == {"a": 0, "d": 0, "b": 1, "c": 1, "e": 1, "x": 1, "y": 1, "z": 1}
    assert trio.current_time() == 1


async def test_hedges_that_have_nothing_to_watch_stop(autojump_clock: MockClock) -> None:
    hedges = Hedges(1)
    async with trio.open_nursery() as nursery:
        watching = Ended(nursery, hedges.watch)
        await trio.sleep(3)
        hedges.stop()
    assert watching.at == 3


async def test_hedges_are_watched_until_they_stop_whatever_is_cancelled(autojump_clock: MockClock) -> None:
    told = Told()
    hedges = Hedges(2)
    async with trio.open_nursery() as nursery:
        operation = Running(nursery, "ab", told.start, hedges=hedges)
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as cancelled:
                watching = Ended(cancelled, hedges.watch)
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                hedges.stop()
        assert not scope.cancelled_caught
        assert watching.at == 3
        await told.end("b")
    assert told.started == {"a": 0, "b": 2}
    assert operation.settled == {"b": "b"}


# One call


async def test_one_call() -> None:
    told = Told(refused={"refused": BROKEN})
    async with trio.open_nursery() as nursery:
        good = Ended(nursery, ended_call, partial(told.start, "good"))
        bad = Ended(nursery, ended_call, partial(told.start, "bad"))
        refused = Ended(nursery, ended_call, partial(told.start, "refused"))
        await trio.testing.wait_all_tasks_blocked()
        await told.end("good")
        await told.end("bad", BROKEN)
    assert good.value == "good"
    assert bad.error is BROKEN
    assert refused.error is BROKEN


async def test_one_call_that_is_cancelled() -> None:
    told = Told("running")
    with trio.CancelScope() as scope:
        scope.cancel()
        await ended_call(partial(told.start, "never"))
    assert told.started == {}
    async with trio.open_nursery() as nursery:
        Ended(nursery, ended_call, partial(told.start, "waiting"))
        running = Ended(nursery, ended_call, partial(told.start, "running"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert told.cancelled.keys() == {"waiting"}
            await told.end("running")
    assert told.cancelled.keys() == {"waiting"}
    assert running.value == "running"


# Real threads and files


def store_threads() -> set[str]:
    """Return the names of all threads but those that Trio keeps for its own use."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio")}


@pytest.mark.deep
@pytest.mark.parametrize("hedge_delay", [0, math.inf])
def test_cancelled_at_any_step_real_stores_keep_what_was_put(tmp_path: Path, hedge_delay: float) -> None:
    before, interrupted, after = b"before", b"interrupted", b"after"

    async def main() -> bool:
        async with (
            open_sqlite(tmp_path / "blobs.db") as one,
            open_directory(tmp_path / "folder") as two,
            replica.open([one, two], hedge_delay=hedge_delay) as store,
        ):
            kept, _ = await store.put(before)
            tasks = trio.lowlevel.current_statistics().tasks_living
            with trio.CancelScope() as instrument.scope:
                async with trio.open_nursery() as nursery:
                    for data in (interrupted, b"another", before):
                        nursery.start_soon(store.put, data)
                    for _ in range(3):
                        nursery.start_soon(store.get, kept)
            cancelled = instrument.scope.cancelled_caught
            instrument.scope = None
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert await store.get(kept) == before
            for data in (interrupted, after):
                ref, _ = await store.put(data)
                assert await store.get(ref) == await one.get(ref) == await two.get(ref) == data
        return cancelled

    threads = store_threads()
    seen = set()
    for steps in range(1, 16):
        instrument = CancelAtStep(steps)
        seen.add(trio.run(main, instruments=[instrument]))
        assert store_threads() == threads
    assert True in seen
    files = [path.name for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    assert [name for name in files if len(name) < 64] == ["store-id"]


async def test_real_puts_under_way_when_the_block_ends(tmp_path: Path) -> None:
    threads = store_threads()
    async with open_sqlite(tmp_path / "blobs.db") as one, open_directory(tmp_path / "folder") as two:
        with Held() as held:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one._writer.run, held)
                await held.wait_running()
                async with replica.open([one, two]) as store:
                    puts = [Ended(nursery, store.put, b"%d" % number) for number in range(20)]
                    await trio.testing.wait_all_tasks_blocked()
                for put in puts:
                    await put.done.wait()
                assert not held.ended, "none waits for the writer that is occupied"
                assert [type(put.error) for put in puts] == [trio.ClosedResourceError] * 20
                held.release()
        with pytest.raises(BlobNotFoundError):
            await one.get(Ref.of(b"0"))
    assert store_threads() == threads
