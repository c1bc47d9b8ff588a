"""`Operation`, which is one call to each of several stores, and `Operations`, those that a replica has under way."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, final

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from .._errors import closed_error, exit_request_in, failure_of_started
from .._life import BackgroundTask
from .attempt import attempt
from .hedges import Hedges
from .start import Unfinished, no_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Mapping, Sequence

    from trio.lowlevel import RaiseCancelT

    from .._life import Life
    from .attempt import Ended
    from .start import CallEnd, Cancel, Done

MemberT = TypeVar("MemberT")

UnderWay: TypeAlias = "dict[Operation[Any], None]"
"""Operations under way, in the order in which they began, so that they end in the same order each time."""

_NO_FAILURES: Final[Mapping[str, BaseException]] = MappingProxyType({})

_BEING_STARTED: Final[Cancel] = partial(bool)
"""The stand-in for the `Cancel` of a call that is being started and can't be cancelled yet."""


class Operation(ABC, Generic[MemberT]):
    """One operation, which is a call to each of several members.

    `start_call` starts a call, and `settle` gets its outcome.

    The task that runs the operation parks once, and is woken once, when no call is left. Everything in between happens
    in synchronous steps, in the task or callback in which a call ends. The invariant is that `_pending` has every call
    that was started and that can still reach `_done`. The task is parked only while `_pending` is not empty, and the
    step that empties it wakes the task. If a step removed a call without checking whether it was the last one, the
    operation would wait forever.

    Calls run outside of the cancel scopes of the operation's task, and in its context. A call that has to be awaited
    (`Unfinished`) gets a task in the nursery of `run`.
    """

    # The state that every operation changes is in slots, because these make a get a tenth faster. The other attributes,
    # which most operations never change, have their defaults in the class.
    __slots__ = ("__dict__", "_is_parked", "_nursery", "_over", "_pending", "_task", "members")

    hedges: Hedges | None = None
    """The schedule that starts the calls one after another. None starts all of them at once."""
    failures: Mapping[str, BaseException] = _NO_FAILURES
    """The failures that `settle` has noted, by the names of the members. `run` returns them and drops them."""
    _started = 0  # members called so far, if there are hedges
    _raise_cancel: RaiseCancelT | None = None  # Trio's, if the task was cancelled before the operation was over
    _raised: BaseException | None = None  # an exit request, a defect of `settle`, or that `cancel` came first
    _ended: trio.Event | None = None

    def __init__(self, members: Sequence[MemberT]) -> None:
        self.members: Sequence[MemberT] = members
        self._pending: dict[MemberT, Cancel] = {}
        self._over = False  # no more calls are started
        self._is_parked = False

    @abstractmethod
    def start_call(self, member: MemberT, done: Done) -> Cancel:
        """Start the call to one member."""

    @abstractmethod
    def settle(self, member: MemberT, ended: Ended[Any]) -> bool | Unfinished:
        """Note the outcome of a call, in the step in which it ends, and return whether the operation has enough.

        If so, the calls under way are cancelled, and no more are started. Return `Unfinished` if the decision has to
        wait. It is awaited in a task, and its outcome is passed to this method in turn. If this raises an exception
        because of a value, that exception is passed to it as the failure of the call.
        """

    def fail(self, name: str, failure: BaseException) -> None:
        """Note the failure of a member."""
        self.failures = {**self.failures, name: failure}

    @enable_ki_protection
    async def run(self, under_way: UnderWay, nursery: trio.Nursery | None = None) -> Mapping[str, BaseException]:
        """Start the calls, and return the failures that `settle` has noted when none is left.

        The operation is in `under_way` until then. Being cancelled cancels the calls, and waits for those that can no
        longer be cancelled. If `settle` had enough before the cancellation came, while this waited for the other calls,
        its verdict is not lost, because this then returns, and the next checkpoint raises.

        Raises:
          trio.ClosedResourceError: if `cancel` was called before `settle` had enough.
          KeyboardInterrupt, SystemExit: if a call raised one, also within a group. It is raised bare.

        """
        await trio.lowlevel.checkpoint_if_cancelled()
        under_way[self] = None
        self._nursery = nursery
        self._task = trio.lowlevel.current_task()
        try:
            if self.hedges is None:
                for member in self.members:
                    self._start(member)
                    if self._over:
                        break
            else:
                self.start_next()
            if self._pending:
                self._is_parked = True
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            elif self._raised is None:
                await trio.lowlevel.checkpoint()  # every call has ended at once
            if self._raised is not None:
                raise self._raised
            if self._raise_cancel is not None:
                # This is Trio's own function. A checkpoint might not raise, because a scope within the cancelled one
                # may have been shielded in the meantime. But the calls that the cancellation has withdrawn are gone.
                self._raise_cancel()
            return self.failures
        finally:
            del under_way[self]
            if self._ended is not None:
                self._ended.set()
            # The traceback of an exit refers to this frame. The traceback of a call that could not be started refers to
            # frames that have its `Done`. Both lead to this operation, so keeping them here would make a cycle that
            # keeps blobs alive. From Python 3.12 on they also lead to the frames of the callers, which therefore drop
            # `failures`.
            if self._raised is not None or self.failures:
                self._raised, self.failures = None, _NO_FAILURES

    async def wait_ended(self) -> None:
        """Wait until no call is left. The operation has to be under way."""
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    def cancel(self) -> None:
        """Cancel the calls, and start no more. Calls that can no longer be cancelled still run to their end."""
        if not self._over and self._raised is None:
            self._raised = closed_error()
        self._withdraw()
        if self._is_parked and not self._pending:
            self._wake()

    def start_next(self) -> None:
        """Start the next call, if there is one, of an operation with hedges.

        `Hedges` and the end of another call also use this, in other tasks. The call still runs in the context of the
        operation's own task. So a trace, for example, belongs to the caller and not to the task that started the call.
        """
        assert self.hedges is not None
        self.hedges.discard(self)
        if self._over or self._started == len(self.members):
            return
        member = self.members[self._started]
        self._started += 1
        if self._is_parked:
            self._task.context.copy().run(self._start, member)
        else:
            self._start(member)
        if self._started < len(self.members) and not self._over:
            self.hedges.add(self)

    def _start(self, member: MemberT) -> None:
        # A call may end, or turn out to need a task, before `start_call` has returned. Then it is no longer marked as
        # being started, and the `Cancel` that `start_call` returns has no effect.
        self._pending[member] = _BEING_STARTED
        try:
            cancel = self.start_call(member, partial(self._done, member))
        except BaseException as exc:  # noqa: ASYNC103  (this is the outcome of the call, as any other)
            if self._pending.get(member) is _BEING_STARTED:
                self._done(member, outcome.Error(exc))
            else:  # the call had reported its end, or has a task, so only a request to exit still counts
                self._raised = self._raised or exit_request_in(exc)
                if self._raised is not None:
                    self._withdraw()
                    if self._is_parked and not self._pending:
                        self._wake()
            return  # noqa: ASYNC104  (likewise)
        if self._pending.get(member) is _BEING_STARTED:
            self._pending[member] = cancel
            if self._over:
                self._withdraw()

    def _done(self, member: MemberT, ended: CallEnd, task: _Task | None = None) -> None:
        """Take the end of a call, which the store or the `task` of the call reports.

        The end of a call that is not under way is dropped. Such an end comes twice, or after the call was withdrawn, or
        from the store once the call has a task. The call stays pending until `settle` has returned. So whatever
        `settle` causes, the operation does not count as done before that.
        """
        current = self._pending.get(member)
        if current is None or (type(current) is _Task and current is not task):
            return
        try:
            verdict = self.settle(member, ended) if isinstance(ended, outcome.Value) else self._verdict(member, ended)
        except BaseException as exc:  # noqa: ASYNC103  (`settle` raises it for a malformed value)
            verdict = self._verdict_of_error(member, exc)
        del self._pending[member]
        if verdict is True:
            self._over = True
            if self._pending or self.hedges is not None:
                self._withdraw()
        elif isinstance(verdict, Unfinished):
            if not self._over:
                self._pending[member] = self._start_task(member, verdict)
        elif self.hedges is not None and member is self.members[self._started - 1]:
            self.start_next()  # the call gave no answer, so the next one need not wait for its hedge
        if self._is_parked and not self._pending:
            self._wake()

    def _verdict(self, member: MemberT, ended: CallEnd) -> bool | Unfinished:
        """Return the verdict of `settle` about an end that is not a value."""
        if isinstance(ended, Unfinished):
            return ended
        if not isinstance(ended, outcome.Error):
            ended = no_end(ended)
        if (request := exit_request_in(ended.error)) is not None:
            self._raised = request
            return True
        return self.settle(member, outcome.Error(failure_of_started(ended.error)))

    def _verdict_of_error(self, member: MemberT, error: BaseException) -> bool | Unfinished:
        """Return the verdict of `settle` about an exception that it raised itself, as the failure of the call."""
        try:
            return self._verdict(member, outcome.Error(error))
        except BaseException as exc:  # noqa: ASYNC103  (a defect of `settle`, raised in the operation's task)
            self._raised = exc
            return True  # noqa: ASYNC104  (likewise)

    def _start_task(self, member: MemberT, unfinished: Unfinished) -> _Task:
        assert self._nursery is not None
        task = _Task()
        spawn = partial(self._nursery.start_soon, self._finish, member, unfinished, task)
        if self._is_parked:
            self._task.context.copy().run(spawn)
        else:
            spawn()
        return task

    @enable_ki_protection
    async def _finish(  # noqa: ASYNC910  (a task of its own)
        self, member: MemberT, unfinished: Unfinished, task: _Task
    ) -> None:
        ended: CallEnd | None = None
        with task.scope:
            try:
                if not task.scope.cancel_called:  # otherwise the store would be called although nobody waits for it
                    ended = await attempt(_rest, unfinished)
            except (KeyboardInterrupt, SystemExit) as request:
                ended = outcome.Error(request)
        if ended is not None:
            self._done(member, ended, task)
        else:  # it was cancelled
            del self._pending[member]
            if self._is_parked and not self._pending:
                self._wake()
        del ended

    def _withdraw(self) -> None:
        self._over = True
        if self.hedges is not None:
            self.hedges.discard(self)
        for member, cancel in tuple(self._pending.items()):
            if cancel():
                self._pending.pop(member, None)

    def _abort(self, raise_cancel: RaiseCancelT) -> Abort:
        had_verdict = self._over
        if not had_verdict:
            self._raise_cancel = raise_cancel
        self._withdraw()
        if self._pending or not self._is_parked:  # a call may end while it is cancelled
            return Abort.FAILED
        if had_verdict:  # an answer or an exit, which the cancellation does not hide
            self._wake()
            return Abort.FAILED
        self._is_parked = False
        return Abort.SUCCEEDED

    def _wake(self) -> None:
        self._is_parked = False
        trio.lowlevel.reschedule(self._task)


@final
class _Task:
    """The `Cancel` of a call that has a task."""

    __slots__ = ("scope",)

    def __init__(self) -> None:
        self.scope = trio.CancelScope(shield=True)

    def __call__(self) -> bool:
        self.scope.cancel()
        return False  # the task reports its end itself


async def _rest(unfinished: Unfinished) -> Any:
    return await unfinished.call()


@final
class Operations:
    """All operations of one replica, with the nursery and the hedges of their calls. They are a `Part` of its life.

    When the replica is closed, writes are cancelled and raise `trio.ClosedResourceError`, because nothing may be queued
    any more. Reads go on, and reads that wait for their hedge ask the next store at once. The block waits for the
    reads. So when the block has ended, the replica has no call left in any store, and the stores can be closed.
    """

    def __init__(self, hedge_delay: float, life: Life) -> None:
        self._hedges = Hedges(hedge_delay) if hedge_delay > 0 else None
        self._watch = None if self._hedges is None else BackgroundTask("replica hedges", self._hedges.watch, life)
        self._nursery: trio.Nursery | None = None
        self._writes: UnderWay = {}
        self._reads: UnderWay = {}
        self._steps: dict[trio.CancelScope, None] = {}  # of puts, before their write
        self._deadline = math.inf

    def start(self, nursery: trio.Nursery) -> None:
        """Run the calls that take a task in `nursery`."""
        self._nursery = nursery
        if self._watch is not None:
            self._watch.start(nursery)

    def close(self) -> None:
        """Cancel the writes, and let no read wait for its hedge any more."""
        if self._hedges is not None:
            self._hedges.stop()
        for write in tuple(self._writes):
            write.cancel()
        for step in tuple(self._steps):
            step.cancel()

    def stop(self, grace: float) -> None:
        """Give the operations under way `grace` more seconds."""
        self._deadline = min(self._deadline, trio.current_time() + grace)

    async def ended(self) -> None:  # noqa: ASYNC910  (nothing may be under way)
        """Wait until no operation is under way.

        Operations that are left at the deadline that `stop` has set are cancelled.
        """
        # The deadline can be read once, because `stop` changes it only between two calls of this, when the first was
        # interrupted.
        with trio.CancelScope(deadline=self._deadline):
            await self._wait_quiet()
        for operation in (*self._writes, *self._reads):
            operation.cancel()
        await self._wait_quiet()
        if self._watch is not None:
            await self._watch.ended()

    def write(self, operation: Operation[Any]) -> Awaitable[Mapping[str, BaseException]]:
        """Run an operation that is cancelled when the replica is closed: see `Operation.run`."""
        return operation.run(self._writes, self._nursery)

    def read(self, operation: Operation[Any], *, hedged: bool = True) -> Awaitable[Mapping[str, BaseException]]:
        """Run an operation that goes on when the replica is closed, until its grace is over: see `Operation.run`."""
        if hedged and self._hedges is not None and len(operation.members) > 1:
            operation.hedges = self._hedges
        return operation.run(self._reads, self._nursery)

    @contextmanager
    def until_closed(self) -> Generator[None, None, None]:
        """Cancel the steps within the block when the replica is closed, and raise `trio.ClosedResourceError` then."""
        with trio.CancelScope() as scope:
            self._steps[scope] = None
            try:
                yield
            finally:
                del self._steps[scope]
        if scope.cancel_called:
            raise closed_error()

    async def _wait_quiet(self) -> None:  # noqa: ASYNC910  (likewise)
        # They can be awaited one after another, because one that has ended in the meantime needs no waiting. A read
        # that goes on to the fallback is another operation, which begins in the step in which the one before it ends.
        while under_way := self._writes or self._reads:
            await next(iter(under_way)).wait_ended()
