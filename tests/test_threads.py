"""The threads of a blocking store: batches, cancellation, failures, opening and closing."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import weakref
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import outcome
import pytest
import trio
import trio.testing

from trio_replica import Call, ReplicaError, StoreThreads, open_store_threads
from trio_replica._calls.threads import BATCH_BYTES

from .held import PATIENCE, Held, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from trio_replica._calls.start import Cancel
    from trio_replica._calls.threads import Handler

NAME: Final = "the store"
MIB: Final = 1024 * 1024


def nothing() -> None:
    pass


class Serving:
    """The handler of a test's threads: each request is a function to be called, or a value to be returned."""

    def __init__(self, enter: Callable[[], object] = nothing, leave: Callable[[], object] = nothing) -> None:
        self.batches: list[list[object]] = []
        self.entered: list[str] = []
        self.left: list[str] = []
        self._enter = enter
        self._leave = leave

    @contextmanager
    def __call__(self) -> Generator[Handler[object], None, None]:
        self._enter()
        self.entered.append(threading.current_thread().name)
        yield self.handle
        self.left.append(threading.current_thread().name)
        self._leave()

    def handle(self, batch: Sequence[Call[object]]) -> None:
        self.batches.append([call.request for call in batch])
        for call in batch:
            call.outcome = outcome.capture(call.request) if callable(call.request) else outcome.Value(call.request)


class Caller:
    """A task that makes one call, and how that ended."""

    def __init__(self, threads: StoreThreads[Any], request: object, **options: Any) -> None:
        self.scope = trio.CancelScope()
        self.ended: outcome.Value[object] | outcome.Error | None = None
        self._call = partial(threads.run, request, **options)

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.ended = outcome.Value(await self._call())
            except Exception as error:
                self.ended = outcome.Error(error)


async def make_calls(
    nursery: trio.Nursery, threads: StoreThreads[Any], *requests: object, **options: Any
) -> list[Caller]:
    """Make the calls one after another, each in a task of its own, and return when all wait."""
    callers = [Caller(threads, request, **options) for request in requests]
    for caller in callers:
        nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
    return callers


def error_of(caller: Caller) -> BaseException:
    assert isinstance(caller.ended, outcome.Error)
    return caller.ended.error


def handing_to(handle: Callable[[Sequence[Call[Any]]], None]) -> AbstractAsyncContextManager[StoreThreads[Any]]:
    @contextmanager
    def serve() -> Generator[Handler[Any], None, None]:
        yield handle

    return open_store_threads(NAME, serve)


async def open_and_close(serving: Serving, threads: int = 1) -> None:
    async with open_store_threads(NAME, serving, threads=threads) as store_threads:
        assert await store_threads.run("open") == "open"


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Generator[None, None, None]:
    yield
    assert threads_left() == []


# Calls


async def test_a_call_returns_or_raises_what_it_is_given() -> None:
    def fail() -> None:
        raise LookupError("no")

    async with open_store_threads(NAME, Serving()) as threads:
        assert await threads.run(lambda: 42) == 42
        with pytest.raises(LookupError, match="no"):
            await threads.run(fail)


async def test_10000_calls_of_1000_tasks_all_end_right() -> None:
    async def call_ten_times(first: int) -> None:
        for i in range(first, first + 10):
            assert await threads.run(lambda i=i: -i) == -i
            right.append(i)

    right: list[int] = []
    async with open_store_threads(NAME, Serving(), threads=3) as threads, trio.open_nursery() as nursery:
        for task in range(1000):
            nursery.start_soon(call_ten_times, 10 * task)
    assert sorted(right) == list(range(10_000))


async def test_a_batch_has_256_calls_at_most_in_the_order_in_which_they_came() -> None:
    serving = Serving()
    async with open_store_threads(NAME, serving) as threads, trio.open_nursery() as nursery:
        with Held() as held:
            await make_calls(nursery, threads, held)
            await held.wait_running()
            await make_calls(nursery, threads, *range(300))
    assert serving.batches == [[held], list(range(256)), list(range(256, 300))]


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([32, 32, 1], [[32, 32], [1]]),
        ([40, 41, 23, 1], [[40], [41, 23], [1]]),
        ([1, 100, 2], [[1], [100], [2]]),
        ([100, 101], [[100], [101]]),
    ],
)
async def test_a_batch_has_64_mib_at_most_or_one_call(sizes: list[int], batches: list[list[int]]) -> None:
    assert BATCH_BYTES == 64 * MIB
    serving = Serving()
    async with open_store_threads(NAME, serving) as threads, trio.open_nursery() as nursery:
        with Held() as held:
            await make_calls(nursery, threads, held)
            await held.wait_running()
            for size in sizes:
                await make_calls(nursery, threads, size, size=size * MIB)
    assert serving.batches == [[held], *batches]


async def test_a_thread_takes_its_share_of_what_waits() -> None:
    serving = Serving()
    async with open_store_threads(NAME, serving, threads=4) as threads, trio.open_nursery() as nursery:
        with Held() as first, Held() as second, Held() as third, Held() as fourth:
            for held in (first, second, third, fourth):
                await make_calls(nursery, threads, held)
                await held.wait_running()
            async with trio.open_nursery() as answered_by_the_first:
                await make_calls(answered_by_the_first, threads, *range(10))
                first.release()
    # A quarter of those that wait, and of those that the other three run.
    assert serving.batches[4:] == [[0, 1, 2, 3], [4, 5, 6], [7, 8], [9]]


async def test_a_burst_of_calls_wakes_all_threads() -> None:
    all_at_once = threading.Barrier(4)
    async with open_store_threads(NAME, Serving(), threads=4) as threads, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(threads.run, partial(all_at_once.wait, PATIENCE))


async def test_another_trio_run_is_refused() -> None:
    async with open_store_threads(NAME, Serving()) as threads:
        with pytest.raises(RuntimeError, match=r"the store belongs to the trio\.run that opened it"):
            await trio.to_thread.run_sync(partial(trio.run, threads.run, 1))


async def test_repr() -> None:
    async with open_store_threads(NAME, Serving(), threads=2) as threads, trio.open_nursery() as nursery:
        assert repr(threads) == "<StoreThreads 'the store' open, 2 threads, 0 calls waiting>"
        with Held() as first, Held() as second:
            for held in (first, second):
                await make_calls(nursery, threads, held)
                await held.wait_running()
            await make_calls(nursery, threads, 1, 2, 3)
            assert repr(threads) == "<StoreThreads 'the store' open, 2 threads, 3 calls waiting>"
    assert repr(threads) == "<StoreThreads 'the store' closed, 0 threads, 0 calls waiting>"


# Cancellation


async def test_cancelled_while_it_waits_a_call_is_withdrawn() -> None:
    serving = Serving()
    async with open_store_threads(NAME, serving) as threads, trio.open_nursery() as nursery:
        with Held() as held:
            await make_calls(nursery, threads, held)
            await held.wait_running()
            withdrawn, _ = await make_calls(nursery, threads, "withdrawn", "stays")
            withdrawn.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert withdrawn.scope.cancelled_caught
            assert not held.ended
    assert serving.batches == [[held], ["stays"]]


async def test_cancelled_already_a_call_is_not_made() -> None:
    serving = Serving()
    async with open_store_threads(NAME, serving) as threads:
        with trio.CancelScope() as scope:
            scope.cancel()
            await threads.run("never made")
    assert scope.cancelled_caught
    assert serving.batches == []


@pytest.mark.parametrize("failure", [None, OSError("the disk")])
async def test_cancelled_while_it_runs_a_call_delivers_its_real_outcome(failure: OSError | None) -> None:
    async with open_store_threads(NAME, Serving()) as threads, trio.open_nursery() as nursery:
        with Held(failure) as held:
            (caller,) = await make_calls(nursery, threads, held)
            await held.wait_running()
            caller.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert caller.ended is None  # it can't be interrupted
    assert caller.ended == (outcome.Error(failure) if failure else outcome.Value("held"))
    assert not caller.scope.cancelled_caught  # only what comes after the call is


async def test_the_cancellation_comes_after_the_outcome() -> None:
    token = trio.lowlevel.current_trio_token()
    async with open_store_threads(NAME, Serving()) as threads:
        with trio.CancelScope() as scope:
            ended = await threads.run(lambda: trio.from_thread.run_sync(scope.cancel, trio_token=token) or "done")
            await trio.lowlevel.checkpoint()
    assert ended == "done"
    assert scope.cancelled_caught


@pytest.mark.parametrize("failure", [None, OSError("too late")])
async def test_abandoned_while_it_runs_its_late_outcome_is_dropped(failure: OSError | None) -> None:
    async with open_store_threads(NAME, Serving()) as threads, trio.open_nursery() as nursery:
        with Held(failure) as held:
            (caller,) = await make_calls(nursery, threads, held, abandon_on_cancel=True)
            await held.wait_running()
            caller.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert caller.scope.cancelled_caught
            assert not held.ended
        assert await threads.run("next") == "next"
    assert held.ended
    assert caller.ended is None


def test_interrupted_while_it_is_made_a_call_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_store_threads(NAME, serving) as threads:
            start = threads.start

            def start_interrupted(*arguments: Any, **options: Any) -> Cancel:
                cancel = start(*arguments, **options)
                signal.raise_signal(signal.SIGINT)
                return cancel

            with Held() as held:
                trio.lowlevel.spawn_system_task(threads.run, held)
                await held.wait_running()
                monkeypatch.setattr(threads, "start", start_interrupted)
                with pytest.raises(KeyboardInterrupt):
                    await threads.run("withdrawn")
                monkeypatch.undo()
            assert await threads.run("next") == "next"

    serving = Serving()
    trio.run(main)
    assert serving.batches[1:] == [["next"]]


async def test_a_call_either_ends_or_is_cancelled_never_both() -> None:
    async def call(i: int) -> None:
        with scopes[i]:
            await threads.run(partial(ran.add, i))
            ended.add(i)

    ran: set[int] = set()
    ended: set[int] = set()
    scopes = [trio.CancelScope() for _ in range(2000)]
    async with open_store_threads(NAME, Serving(), threads=2) as threads, trio.open_nursery() as nursery:
        for i in range(2000):
            nursery.start_soon(call, i)
        await trio.lowlevel.checkpoint()
        for scope in random.sample(scopes, 1000):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert ran == ended
    assert ended == {i for i in range(2000) if not scopes[i].cancelled_caught}


# Calls that no task waits for


async def test_a_started_call_tells_its_outcome_in_trios_thread() -> None:
    def fail() -> None:
        raise LookupError("no")

    def done(ended: object) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(ended)

    told: list[Any] = []
    async with open_store_threads(NAME, Serving()) as threads:
        threads.start(lambda: 42, done)
        threads.start(fail, done)
        assert told == [], "not before starting it has returned"
        await threads.run("last")
    assert told[0] == outcome.Value(42)
    assert repr(told[1].error) == "LookupError('no')"


async def test_started_calls_that_are_cancelled() -> None:
    told: list[object] = []
    serving = Serving()
    async with open_store_threads(NAME, serving) as threads:
        with Held() as held:
            cancel_running = threads.start(held, told.append)
            await held.wait_running()
            cancel_waiting = threads.start("waiting", told.append)
            assert cancel_waiting()
            assert not cancel_running()
            assert not held.ended
        with Held() as abandoned:
            cancel_abandoned = threads.start(abandoned, told.append, abandon_on_cancel=True)
            await abandoned.wait_running()
            assert cancel_abandoned()
        await threads.run("last")
    assert serving.batches == [[held], [abandoned], ["last"]]
    assert told == [outcome.Value("held")]


async def test_a_started_call_that_waits_when_the_block_ends() -> None:
    told: list[Any] = []
    with Held() as held:
        async with trio.open_nursery() as nursery, open_store_threads(NAME, Serving()) as threads:
            threads.start(held, told.append)
            await held.wait_running()
            threads.start("waiting", told.append)
            nursery.start_soon(release_when_blocked, held)
    assert [type(ended.error) for ended in told[:1]] == [trio.ClosedResourceError]
    assert told[1:] == [outcome.Value("held")]


async def release_when_blocked(held: Held) -> None:
    await trio.testing.wait_all_tasks_blocked()
    held.release()


async def test_what_can_not_be_started_is_not_told() -> None:
    told: list[object] = []

    async def elsewhere() -> None:  # pragma: no cover  (Trio's thread may be older than the tracing of it)
        await trio.lowlevel.checkpoint()
        threads.start(1, told.append)

    async with open_store_threads(NAME, Serving()) as threads:
        with pytest.raises(RuntimeError, match=r"the store belongs to the trio\.run that opened it"):
            await trio.to_thread.run_sync(trio.run, elsewhere)
    with pytest.raises(trio.ClosedResourceError, match="the store is closed"):
        threads.start(1, told.append)
    assert told == []


# Failures


class Told(Exception):
    """An exception like most."""


class Renamed(Exception):
    """One whose copy would have another message."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class Demanding(Exception):
    """One whose copy can't be made."""

    def __init__(self, name: str, *, why: str) -> None:
        super().__init__(f"{name} {why}")


class Vanishing(Exception):
    """One whose copy is none."""

    def __copy__(self) -> None:
        pass


class Unprintable(Exception):
    """One that can't even be shown."""

    def __init__(self, *, secret: str) -> None:
        super().__init__()
        self.secret = secret

    def __str__(self) -> str:
        raise TypeError(self.secret)

    __repr__ = __str__


async def fail_three_calls_at_once(handle: Callable[[], object]) -> list[BaseException]:
    """Return what the calls of one batch raise when ``handle()`` raises instead of giving them outcomes."""

    def handle_batch(batch: Sequence[Call[object]]) -> None:
        if batch[0].request is held:
            held()
        handle()

    async with handing_to(handle_batch) as threads, trio.open_nursery() as nursery:
        with Held() as held:
            await make_calls(nursery, threads, held)
            await held.wait_running()
            callers = await make_calls(nursery, threads, 1, 2, 3)
    return [error_of(caller) for caller in callers]


async def test_a_handler_that_raises_fails_each_call_with_an_exception_of_its_own() -> None:
    def fail() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            failure = Told("broken", 1)
            failure.add_note("a note")
            raise failure from cause

    cause = OSError("cause")
    errors = await fail_three_calls_at_once(fail)
    assert len({*map(id, errors)}) == 3
    errors[0].add_note("of the first caller alone")
    for error in errors[1:]:
        assert type(error) is Told
        assert error.args == ("broken", 1)
        assert error.__notes__ == ["a note"]
        assert error.__cause__ is cause
        assert isinstance(error.__context__, KeyError)
        assert "fail" in [entry.name for entry in pytest.ExceptionInfo.from_exception(error).traceback]


async def test_a_context_stays_visible_unless_it_was_hidden() -> None:
    def fail(*, hide: bool) -> None:
        try:
            raise KeyError("context")
        except KeyError:
            if hide:
                raise Told("hidden") from None
            raise Told("shown")  # noqa: B904  (its context is what is tested)

    for hide in (False, True):
        for error in await fail_three_calls_at_once(partial(fail, hide=hide)):
            assert isinstance(error.__context__, KeyError)
            assert error.__suppress_context__ is hide


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (Renamed("name"), "Renamed: no name"),
        (Demanding("name", why="why"), "Demanding: name why"),
        (Vanishing("gone"), "Vanishing: gone"),
        (Unprintable(secret="secret"), "Unprintable: <exception str() failed>"),
    ],
)
async def test_an_exception_that_can_not_be_copied_is_the_cause_of_each(failure: Exception, message: str) -> None:
    def fail() -> None:
        raise failure

    errors = await fail_three_calls_at_once(fail)
    assert len({*map(id, errors)}) == 3
    for error in errors:
        assert type(error) is ReplicaError
        assert str(error).endswith(message)
        assert error.__cause__ is failure


async def test_a_handler_that_forgets_an_outcome_fails_the_call() -> None:
    for error in await fail_three_calls_at_once(nothing):
        assert type(error) is ReplicaError
        assert str(error) == "the store gave a call no outcome"


async def test_calls_that_had_an_outcome_keep_it() -> None:
    def handle(batch: Sequence[Call[object]]) -> None:
        for call in batch:
            if call.request is held:
                held()
            if call.request == "stop":
                raise Told("stopped")
            call.outcome = outcome.Value(call.request)

    async with handing_to(handle) as threads, trio.open_nursery() as nursery:
        with Held() as held:
            await make_calls(nursery, threads, held)
            await held.wait_running()
            before, stop, after = await make_calls(nursery, threads, "before", "stop", "after")
    assert before.ended == outcome.Value("before")
    assert isinstance(error_of(stop), Told)
    assert isinstance(error_of(after), Told)


async def test_the_thread_goes_on_whatever_the_handler_raises() -> None:
    def handle(batch: Sequence[Call[type[BaseException]]]) -> None:
        raise batch[0].request("stopped")

    async with handing_to(handle) as threads:
        for kind in (Told, SystemExit, KeyboardInterrupt, Told):
            with pytest.raises(kind, match="stopped"):
                await threads.run(kind)


# Memory


class Payload:
    """A request that takes much memory."""


@pytest.mark.usefixtures("no_gc")
async def test_a_payload_is_released_while_the_thread_idles() -> None:
    def handle(batch: Sequence[Call[Payload]]) -> None:
        for call in batch:
            call.outcome = outcome.Value(None)

    released = threading.Event()
    async with handing_to(handle) as threads:
        payload = Payload()
        weakref.finalize(payload, released.set)
        await threads.run(payload)
        del payload
        await wait_for(released)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.usefixtures("no_gc")
async def test_an_exception_that_is_kept_does_not_keep_the_payloads_of_others(*, alone: bool) -> None:
    def fail() -> None:
        raise Told("broken")

    def handle(batch: Sequence[Call[object]]) -> None:
        for call in batch:
            call.outcome = outcome.capture(call.request) if callable(call.request) else outcome.Value(None)
        if not alone:
            for call in batch:
                call.outcome = None
            fail()

    async def call_with_a_payload() -> None:
        payload = Payload()
        weakref.finalize(payload, released.set)
        await outcome.acapture(threads.run, payload)

    released = threading.Event()
    async with handing_to(handle) as threads, trio.open_nursery() as nursery:
        with Held() as held:
            await make_calls(nursery, threads, held)
            await held.wait_running()
            (failing,) = await make_calls(nursery, threads, fail)
            nursery.start_soon(call_with_a_payload)
            await trio.testing.wait_all_tasks_blocked()
        await wait_for(released)
    assert isinstance(error_of(failing), Told)


# Opening


@pytest.mark.deep
async def test_many_opens_and_closes_leave_no_thread() -> None:
    for _ in range(100):
        await open_and_close(Serving(), threads=3)
        assert threads_left() == []


@pytest.mark.parametrize("threads", [0, -1])
async def test_no_threads_is_an_error(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads is at least 1, not {threads}"):
        await open_and_close(Serving(), threads)


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_a_thread_that_can_not_be_started_undoes_the_others(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        if thread.name == f"{NAME} {failing}":
            raise RuntimeError("can't start new thread")
        really_start(thread)

    really_start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    serving = Serving()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await open_and_close(serving, threads=3)
    assert len(serving.left) == len(serving.entered) == failing


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_a_thread_that_can_not_serve_undoes_the_others(failing: int) -> None:
    def enter() -> None:
        if threading.current_thread().name == f"{NAME} {failing}":
            raise OSError("refused")

    serving = Serving(enter)
    with pytest.raises(OSError, match="refused"):
        await open_and_close(serving, threads=3)
    assert len(serving.left) == len(serving.entered) == 2


async def test_several_threads_that_can_not_serve_raise_one_of_their_errors() -> None:
    numbers = itertools.count()

    def enter() -> None:
        raise OSError(next(numbers), "refused")

    with pytest.raises(OSError, match="refused"):
        await open_and_close(Serving(enter), threads=3)


async def test_cancelled_while_it_opens_it_waits_for_the_threads() -> None:
    async def cancel() -> None:
        await held.wait_running()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert threads_left() == [f"{NAME} 0"]
        held.release()

    serving = Serving(enter=(held := Held()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with trio.CancelScope() as scope:
            await open_and_close(serving)
        assert scope.cancelled_caught
        assert len(serving.left) == 1
        assert serving.batches == []


# Closing


async def test_closing_fails_calls_that_wait_and_waits_for_one_that_runs() -> None:
    async def see_it_close() -> None:
        await trio.testing.wait_all_tasks_blocked()
        for caller in waiting:
            assert isinstance(error_of(caller), trio.ClosedResourceError)
            assert str(error_of(caller)) == "the store is closed"
        assert running.ended is None
        with pytest.raises(trio.ClosedResourceError, match="the store is closed"):
            await threads.run("too late")
        held.release()

    serving = Serving()
    async with trio.open_nursery() as nursery:
        async with open_store_threads(NAME, serving) as threads:
            (running,) = await make_calls(nursery, threads, held := Held())
            await held.wait_running()
            waiting = await make_calls(nursery, threads, 1, 2)
            nursery.start_soon(see_it_close)
        assert held.ended
    assert running.ended == outcome.Value("held")
    assert serving.batches == [[held]]
    with pytest.raises(trio.ClosedResourceError):
        await threads.run("too late")


async def test_cancelled_while_it_closes_it_waits_all_the_same() -> None:
    async def cancel() -> None:
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert threads_left() == [f"{NAME} 0"]
        held.release()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_store_threads(NAME, Serving()) as threads:
                (running,) = await make_calls(nursery, threads, held := Held())
                await held.wait_running()
                nursery.start_soon(cancel)
            assert held.ended
            assert threads_left() == []
    assert running.ended == outcome.Value("held")


def test_interrupted_while_it_closes_it_waits_all_the_same() -> None:
    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        await trio.testing.wait_all_tasks_blocked()
        assert threads_left() == [f"{NAME} 0"]
        held.release()

    async def main() -> None:
        async with open_store_threads(NAME, Serving()) as threads:
            trio.lowlevel.spawn_system_task(threads.run, held)
            await held.wait_running()
            trio.lowlevel.spawn_system_task(interrupt)
        closed.append(held.ended)
        await trio.lowlevel.checkpoint()

    held = Held()
    closed: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert closed == [True]


def test_interrupted_while_it_joins_a_thread_it_closes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def join(thread: threading.Thread) -> None:
        signal.raise_signal(signal.SIGINT)
        really_join(thread)
        joined.append(thread.name)

    async def main() -> None:
        async with open_store_threads(NAME, Serving(), threads=2):
            pass
        await trio.lowlevel.checkpoint()

    joined: list[str] = []
    really_join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert joined == [f"{NAME} 0", f"{NAME} 1"]


async def test_what_a_thread_raises_when_it_leaves_is_raised_after_a_normal_end() -> None:
    def leave() -> None:
        raise OSError("can't be closed")

    with pytest.raises(OSError, match="can't be closed"):
        await open_and_close(Serving(leave=leave), threads=3)


async def test_what_a_thread_raises_when_it_leaves_does_not_hide_what_the_block_raises() -> None:
    def leave() -> None:
        raise OSError("can't be closed")

    with pytest.raises(LookupError, match="no"):
        async with open_store_threads(NAME, Serving(leave=leave)):
            raise LookupError("no")


def test_a_thread_that_outlives_its_run_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_off() -> StoreThreads[object]:
        threads = StoreThreads(NAME, Serving(), 1)
        threads._start()
        trio.lowlevel.spawn_system_task(partial(threads.run, held, abandon_on_cancel=True))
        await held.wait_running()
        return threads

    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    held = Held()
    threads = trio.run(break_off)
    held.release()
    threads._refuse()
    for thread in threads._threads:
        thread.join(PATIENCE)
    assert held.ended
    assert failures == []
