"""One call to each of several members: who is called when, who is cancelled when, and what comes out.

For calls that are awaited in a nursery's tasks, and for calls that are started.
"""

from __future__ import annotations

import math
import signal
import warnings
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import outcome
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_replica._calls.attempt import attempt
from trio_replica._calls.fan_out import fan_out

from .started import fan_out_in_tasks, fan_out_starting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_replica._calls.attempt import Ended

    Run: TypeAlias = Callable[[Callable[[], Awaitable[object]]], object]
    FanOut: TypeAlias = Callable[..., Awaitable[None]]

Script: TypeAlias = dict[str, tuple[float, BaseException | None]]
"""For each member: how many seconds its call takes, and what it raises then, if anything."""

BROKEN = OSError("broken")


class Calls:
    """Calls that go as a script says, and what became of them. The first that returns a value settles all."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.called: dict[str, float] = {}
        self.cancelled: dict[str, float] = {}
        self.settled: dict[str, float] = {}
        self.values: list[str] = []
        self.errors: list[BaseException] = []
        self.called_in_vain = 0

    async def call(self, member: str) -> str:
        self.called_in_vain += bool(self.values)
        self.called[member] = trio.current_time()
        seconds, error = self.script[member]
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled[member] = trio.current_time()
            raise
        if error is not None:
            raise error
        return member

    def settle(self, member: str, ended: Ended[str]) -> bool:
        self.settled[member] = trio.current_time()
        if isinstance(ended, outcome.Value):
            self.values.append(ended.value)
        else:
            self.errors.append(ended.error)
        return bool(self.values)

    async def make(self, fan_out: FanOut, stagger: float = 0.0) -> None:
        options = {"stagger": stagger} if stagger else {}
        await fan_out(list(self.script), self.call, self.settle, **options)


class Payload:
    """An object in the frame of a failed call, as a blob is in that of a put."""


@pytest.fixture(params=[True, False], ids=["strict groups", "loose groups"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return `trio.run` with a mock clock, for programs whose nurseries always raise groups, and for others."""

    def run(main: Callable[[], Awaitable[object]]) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", trio.TrioDeprecationWarning)
            return trio.run(
                main,
                clock=trio.testing.MockClock(autojump_threshold=0),
                strict_exception_groups=request.param,
            )

    return run


WAYS = pytest.mark.parametrize(
    "fan_out", [fan_out, fan_out_in_tasks, fan_out_starting], ids=["nursery", "in tasks", "started"]
)
OPERATIONS = pytest.mark.parametrize("fan_out", [fan_out_in_tasks, fan_out_starting], ids=["in tasks", "started"])
"""The ways in which a replica calls its stores, which can be hedged."""


# Times


class Scenario(NamedTuple):
    """A script, and at which second each member is called, settles, and is cancelled."""

    script: Script
    called: dict[str, float]
    settled: dict[str, float]
    cancelled: dict[str, float]
    stagger: float = 0


ALL_AT_ONCE = [
    Scenario({"a": (1, None)}, {"a": 0}, {"a": 1}, {}),
    Scenario({"a": (1, BROKEN)}, {"a": 0}, {"a": 1}, {}),
    Scenario({"a": (3, None), "b": (1, None)}, {"a": 0, "b": 0}, {"b": 1}, {"a": 1}),
    Scenario({"a": (3, None), "b": (1, BROKEN)}, {"a": 0, "b": 0}, {"b": 1, "a": 3}, {}),
    Scenario({"a": (3, BROKEN), "b": (1, BROKEN)}, {"a": 0, "b": 0}, {"b": 1, "a": 3}, {}),
    Scenario(
        {"a": (5, None), "b": (1, BROKEN), "c": (math.inf, None), "d": (2, None)},
        {"a": 0, "b": 0, "c": 0, "d": 0},
        {"b": 1, "d": 2},
        {"a": 2, "c": 2},
    ),
]

STAGGERED = [
    # One that is alone needs no stagger.
    Scenario({"a": (1, None)}, {"a": 0}, {"a": 1}, {}, 5),
    # The first is in time.
    Scenario({"a": (1, None), "b": (1, None)}, {"a": 0}, {"a": 1}, {}, 2),
    # The second is called too, and either may win; the third only if neither has by then.
    Scenario({"a": (9, None), "b": (1, None)}, {"a": 0, "b": 2}, {"b": 3}, {"a": 3}, 2),
    Scenario({"a": (3, None), "b": (9, None), "c": (9, None)}, {"a": 0, "b": 2}, {"a": 3}, {"b": 3}, 2),
    Scenario({"a": (9, None), "b": (9, None), "c": (1, None)}, {"a": 0, "b": 2, "c": 4}, {"c": 5}, {"a": 5, "b": 5}, 2),
    # One that ends early makes way at once, and the next interval begins then.
    Scenario(
        {"a": (0.5, BROKEN), "b": (9, None), "c": (1, None)},
        {"a": 0, "b": 0.5, "c": 2.5},
        {"a": 0.5, "c": 3.5},
        {"b": 3.5},
        2,
    ),
    Scenario(
        {"a": (1, BROKEN), "b": (1, BROKEN), "c": (1, BROKEN)},
        {"a": 0, "b": 1, "c": 2},
        {"a": 1, "b": 2, "c": 3},
        {},
        2,
    ),
    # One that ends after its interval changes nothing.
    Scenario(
        {"a": (3, BROKEN), "b": (9, None), "c": (1, None)}, {"a": 0, "b": 2, "c": 4}, {"a": 3, "c": 5}, {"b": 5}, 2
    ),
    # The last has nobody after it to wait for.
    Scenario({"a": (1, BROKEN), "b": (9, BROKEN)}, {"a": 0, "b": 1}, {"a": 1, "b": 10}, {}, 2),
    # One after another.
    Scenario({"a": (9, BROKEN), "b": (9, None), "c": (1, None)}, {"a": 0, "b": 9}, {"a": 9, "b": 18}, {}, math.inf),
    Scenario({"a": (1, BROKEN), "b": (1, BROKEN)}, {"a": 0, "b": 1}, {"a": 1, "b": 2}, {}, math.inf),
]


@pytest.mark.parametrize("scenario", ALL_AT_ONCE)
@WAYS
async def test_exact_times(autojump_clock: trio.testing.MockClock, fan_out: FanOut, scenario: Scenario) -> None:
    calls = Calls(scenario.script)
    await calls.make(fan_out)
    assert (calls.called, calls.settled, calls.cancelled) == scenario[1:4]
    assert trio.current_time() == max(scenario.settled.values())


@pytest.mark.parametrize("scenario", STAGGERED)
@OPERATIONS
async def test_exact_times_of_hedges(
    autojump_clock: trio.testing.MockClock, fan_out: FanOut, scenario: Scenario
) -> None:
    calls = Calls(scenario.script)
    await calls.make(fan_out, scenario.stagger)
    assert (calls.called, calls.settled, calls.cancelled) == scenario[1:4]
    assert trio.current_time() == max(scenario.settled.values())


@given(
    st.random_module(),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, BROKEN])), min_size=1, max_size=5),
    st.sampled_from([0, 1, 2, 3, math.inf]),
    st.sampled_from([fan_out_in_tasks, fan_out_starting]),
)
@pytest.mark.no_cover
def test_any_times(
    schedule: object, script: list[tuple[int, BaseException | None]], stagger: float, fan_out: FanOut
) -> None:
    """At equal times anything may be first, but no call is made once all is settled, and every time is exact."""
    calls = Calls({f"{i}": taken for i, taken in enumerate(script)})
    tasks: list[int] = []
    ended_at: list[float] = []

    async def main() -> None:
        tasks.append(trio.lowlevel.current_statistics().tasks_living)
        await calls.make(fan_out, stagger)
        ended_at.append(trio.current_time())
        tasks.append(trio.lowlevel.current_statistics().tasks_living)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    start = 0.0
    for member, (seconds, _) in calls.script.items():
        starts[member], ends[member] = start, start + seconds
        if stagger:
            start = min(start + stagger, start + seconds)
    wins = [ends[member] for member, (_, error) in calls.script.items() if error is None]
    end = min(wins) if wins else max(ends.values())
    assert ended_at == [end]
    assert calls.called == {member: starts[member] for member in calls.called}
    assert calls.called.keys() >= {member for member, start in starts.items() if start < end}
    assert all(starts[member] <= end for member in calls.called)
    assert calls.settled == {member: ends[member] for member in calls.settled}
    assert calls.settled.keys() | calls.cancelled.keys() == calls.called.keys()
    assert bool(calls.values) == bool(wins)
    assert not calls.called_in_vain
    assert tasks[0] == tasks[1]


@WAYS
async def test_no_members(fan_out: FanOut) -> None:
    calls = Calls({})
    await calls.make(fan_out)
    assert not calls.settled


async def test_a_call_that_ignores_its_cancellation_is_waited_for_and_settled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls({"a": (5, None), "b": (1, None)})

    async def call(member: str) -> str:
        scope = trio.CancelScope(shield=member == "a")
        with scope:
            await calls.call(member)
        return member

    await fan_out(["a", "b"], call, calls.settle)
    assert calls.settled == {"b": 1, "a": 5}
    assert trio.current_time() == 5


# Exceptions of members


@pytest.mark.parametrize("members", [["a"], ["a", "b"], ["a", "b", "c"]])
@pytest.mark.parametrize(
    "failure",
    [BROKEN, GeneratorExit(), ExceptionGroup("both", [BROKEN, ExceptionGroup("", [ValueError(1)])])],
    ids=lambda failure: type(failure).__name__,
)
@WAYS
def test_whatever_a_member_raises_is_its_failure(
    run: Run, fan_out: FanOut, members: list[str], failure: BaseException
) -> None:
    calls = Calls(dict.fromkeys(members, (1, failure)))
    run(partial(calls.make, fan_out))
    assert [repr(error) for error in calls.errors] == [repr(failure)] * len(members)


async def cancelled_in_a_nursery() -> None:
    """Fail, while being cancelled, within a nursery: what comes out is a group of both."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise OSError("clean-up") from None  # noqa: ASYNC104  (as a store may)


@OPERATIONS
@pytest.mark.parametrize("stagger", [0, 0.5])
def test_a_loser_that_fails_in_a_nursery_does_not_disturb_the_winner(run: Run, fan_out: FanOut, stagger: float) -> None:
    calls = Calls({"loser": (9, None), "winner": (1, None), "another": (9, None)})

    async def call(member: str) -> str:
        if member == "loser":
            await cancelled_in_a_nursery()
        return await calls.call(member)

    async def main() -> None:
        await fan_out(list(calls.script), call, calls.settle, stagger=stagger)
        assert trio.current_time() == 1 + stagger

    run(main)
    assert calls.values == ["winner"]


@WAYS
def test_a_loser_that_fails_is_settled_if_it_was_awaited(run: Run, fan_out: FanOut) -> None:
    calls = Calls({"loser": (9, None), "winner": (1, None)})

    async def call(member: str) -> str:
        try:
            return await calls.call(member)
        except trio.Cancelled:
            raise BROKEN from None  # noqa: ASYNC104  (as a store may)

    run(partial(fan_out, list(calls.script), call, calls.settle))
    if fan_out is fan_out_starting:  # which hears no more of what it has cancelled
        assert calls.settled == {"winner": 1}
    else:
        assert calls.settled == {"winner": 1, "loser": 1}
        assert calls.errors == [BROKEN]


@pytest.mark.parametrize("members", [["a"], ["a", "b"], ["a", "b", "c"]])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("stagger", [0, 0.5])
@OPERATIONS
def test_an_exit_comes_out_bare(
    run: Run, fan_out: FanOut, members: list[str], kind: type[BaseException], *, wrapped: bool, stagger: float
) -> None:
    leave = kind()
    raised = BaseExceptionGroup("all", [BROKEN, BaseExceptionGroup("deep", [leave])]) if wrapped else leave
    calls = Calls(dict.fromkeys(members, (9, None)) | {members[-1]: (2, raised)})
    with pytest.raises(kind) as caught:
        run(partial(calls.make, fan_out, stagger))
    assert caught.value is leave
    assert calls.settled == {}
    assert calls.cancelled.keys() == set(members[:-1])


@WAYS
@pytest.mark.parametrize("members", [["a"], ["a", "b"]])
def test_an_interrupt_comes_out_bare(run: Run, fan_out: FanOut, members: list[str]) -> None:
    async def call(member: str) -> None:
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(partial(fan_out, members, call, lambda _member, _ended: False))


@WAYS
def test_a_settle_that_raises_is_not_hidden(run: Run, fan_out: FanOut) -> None:
    def settle(member: str, ended: Ended[str]) -> bool:
        raise AssertionError(member)

    calls = Calls({"a": (1, None), "b": (2, None)})
    ended = outcome.capture(run, partial(fan_out, ["a", "b"], calls.call, settle))
    assert isinstance(ended, outcome.Error)
    assert "AssertionError('a')" in repr(ended.error)


# Being cancelled


@pytest.mark.parametrize("script", [{"a": 9.0}, {"a": 9.0, "b": 9.0}, {"a": 9.0, "b": 1.0, "c": 9.0}])
@pytest.mark.parametrize("stagger", [0, 0.5, 3, math.inf])
@pytest.mark.parametrize("deadline", [0, 2])
@OPERATIONS
def test_a_cancellation_comes_out_bare(
    run: Run, fan_out: FanOut, script: dict[str, float], stagger: float, deadline: float
) -> None:
    calls = Calls({member: (seconds, BROKEN) for member, seconds in script.items()})

    caught: list[type[BaseException]] = []

    async def main() -> None:
        with trio.CancelScope(deadline=deadline) as scope:
            try:
                await calls.make(fan_out, stagger)
            except BaseException as exc:
                caught.append(type(exc))
                raise
        assert scope.cancelled_caught
        assert trio.current_time() == deadline

    run(main)
    assert caught == [trio.Cancelled]
    assert calls.cancelled == dict.fromkeys(calls.called.keys() - calls.settled.keys(), deadline)
    assert stagger or not deadline or calls.called.keys() == script.keys()


@WAYS
@pytest.mark.parametrize("members", [["a"], ["a", "b"]])
def test_a_cancellation_goes_on_though_members_fail_too(run: Run, fan_out: FanOut, members: list[str]) -> None:
    async def call(member: str) -> None:
        await cancelled_in_a_nursery()

    caught: list[type[BaseException]] = []

    async def main() -> None:
        with trio.move_on_after(2) as scope:
            try:
                await fan_out(members, call, lambda _member, _ended: False)
            except BaseException as exc:
                caught.append(type(exc))
                raise
        assert scope.cancelled_caught

    run(main)
    assert caught == [trio.Cancelled]


# attempt


async def test_attempt(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls({"good": (1, None), "bad": (1, BROKEN)})
    assert await attempt(calls.call, "good") == outcome.Value("good")
    assert await attempt(calls.call, "bad") == outcome.Error(BROKEN)


# Memory


async def leave_nothing(fan_out: FanOut, members: int, how: str) -> None:
    payloads: list[weakref.ref[Payload]] = []

    async def call(member: int) -> None:
        payload = Payload()
        payloads.append(weakref.ref(payload))
        if how.startswith("fails"):
            raise OSError if how == "fails" else ExceptionGroup("", [OSError()])
        if how == "exits" and member == members - 1:
            await trio.sleep(1)
            raise SystemExit
        if how.startswith("loses") and member == 0:
            await trio.sleep(1)
        elif how == "loses and fails":
            await cancelled_in_a_nursery()
        else:
            await trio.sleep_forever()

    with trio.move_on_after(2), suppress(SystemExit):
        await fan_out(range(members), call, lambda _member, ended: isinstance(ended, outcome.Value))
    await trio.lowlevel.checkpoint()  # until then Trio remembers what woke this task
    assert len(payloads) == members
    assert [payload() for payload in payloads] == [None] * members


@WAYS
@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("how", ["fails", "fails in a group", "loses", "loses and fails", "is cancelled"])
def test_no_cycle_keeps_anything_alive(run: Run, no_gc: None, fan_out: FanOut, members: int, how: str) -> None:
    run(partial(leave_nothing, fan_out, members, how))


@WAYS
@pytest.mark.parametrize("members", [1, 2, 3])
def test_no_cycle_keeps_anything_alive_when_one_exits(no_gc: None, fan_out: FanOut, members: int) -> None:
    # With strict groups: a nursery with loose ones makes a cycle of its own.
    trio.run(leave_nothing, fan_out, members, "exits", clock=trio.testing.MockClock(autojump_threshold=0))
