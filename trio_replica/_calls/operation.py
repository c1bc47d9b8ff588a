"""An operation of a replica, which is a call to each of several stores, and all the operations that are under way."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, final

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from .._errors import closed_error, exit_request_in, failure_of_started
from .attempt import attempt
from .hedges import Hedges
from .start import Unfinished, never

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence

    from .attempt import Ended
    from .start import Cancel, Done

MemberT = TypeVar("MemberT")

UnderWay: TypeAlias = "dict[Operation[Any], None]"
"""Operations that are under way, in the order in which they began, so that they end in the same order each time."""


class Operation(ABC, Generic[MemberT]):
    """One operation: a call to each of several members, which `start_call` starts and whose end `settle` is told.

    The task that runs the operation parks once and is woken once: when no call is left. Everything between happens in
    synchronous steps, in whatever task or callback a call ends. The invariant behind it: `_pending` has every call that
    was started and that can still come to `_done`. The task is parked only while `_pending` is not empty, and whoever
    empties it wakes the task. If a path removed a call without looking whether it was the last one, the operation would
    wait for ever.

    Calls run outside of the cancel scopes of the operation's task, and in its context. A call that has to be awaited
    (`Unfinished`) gets a task in the nursery of `run`.
    """

    # The state that most operations never change stands here: to set it for each of them would take longer.
    hedges: Hedges | None = None
    """What starts the calls one after another; without it all are started at once."""
    _nursery: trio.Nursery | None = None
    _started = 0  # of the members, if there are hedges
    _over = False  # no more calls are started
    _is_parked = False
    _was_interrupted = False  # the task was cancelled while a call could not be
    _raised: BaseException | None = None  # an exit, or that `cancel` came before `settle` had enough
    _ended: trio.Event | None = None

    failures: Mapping[str, BaseException] = MappingProxyType({})
    """The failures that `settle` has noted, by the names of the members."""

    def __init__(self, members: Sequence[MemberT]) -> None:
        self.members = members
        self._pending: dict[MemberT, Cancel] = {}

    def fail(self, name: str, failure: BaseException) -> None:
        """Note the failure of a member."""
        self.failures = {**self.failures, name: failure}

    @abstractmethod
    def start_call(self, member: MemberT, done: Done) -> Cancel:
        """Start the call to one member."""

    @abstractmethod
    def settle(self, member: MemberT, ended: Ended[Any]) -> bool | Unfinished:
        """Note the outcome of a call, in the step in which it ends, and return whether the operation needs no more.

        If so, the calls under way are cancelled, and no more are started. `Unfinished` says that it has to wait before
        it can tell: that is awaited in a task, and its outcome is settled in turn.
        """

    @enable_ki_protection
    async def run(self, under_way: UnderWay, nursery: trio.Nursery | None = None) -> None:
        """Start the calls, and return when none is left. The operation stands in `under_way` until then.

        Being cancelled cancels the calls, and waits for those that can't be cancelled any more.

        Raises:
          trio.ClosedResourceError: if `cancel` was called before `settle` said that no more is needed.
          KeyboardInterrupt, SystemExit: bare, if a call raised one, also within a group.

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
            else:
                await trio.lowlevel.checkpoint()  # every call has ended at once
            if self._raised is not None:
                raise self._raised
            if self._was_interrupted:
                await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            del under_way[self]
            if self._ended is not None:
                self._ended.set()
            self._raised = None  # its traceback refers to this frame, and so to this operation

    def take_failures(self) -> dict[str, BaseException]:
        """Return the failures, and keep them no longer.

        The traceback of a call that could not be started refers to this operation, so they would be a cycle, which
        keeps the blob of a put alive.
        """
        failures, self.failures = dict(self.failures), {}
        return failures

    async def wait_ended(self) -> None:
        """Wait until no call is left of an operation that is under way."""
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    def cancel(self) -> None:
        """Cancel the calls, and start no more. Those that can't be cancelled any more still end."""
        if not self._over and self._raised is None:
            self._raised = closed_error()
        self._withdraw()
        if self._is_parked and not self._pending:
            self._wake()

    def start_next(self) -> None:
        """Start the next call, if there is one, of an operation with hedges.

        Hedges and the end of another call come here, too, from other tasks. The call runs in the context of the
        operation's own task all the same, so that a trace, say, belongs to the caller and not to whoever was late.
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
        # A call may end, or turn out to need a task, before its start has returned. Then `never` does not stand for it
        # any more, and what the start returns cancels nothing.
        self._pending[member] = never
        try:
            cancel = self.start_call(member, partial(self._done, member))
        except BaseException as exc:  # noqa: ASYNC103  (that is its outcome, which is settled as any other)
            self._done(member, outcome.Error(exc))
            return  # noqa: ASYNC104  (likewise)
        if self._pending.get(member) is never:
            self._pending[member] = cancel
            if self._over:
                self._withdraw()

    def _done(self, member: MemberT, ended: Ended[Any] | Unfinished | None) -> None:
        """Settle the end of a call; None says that it was cancelled."""
        verdict: bool | Unfinished
        try:
            verdict = self.settle(member, ended) if isinstance(ended, outcome.Value) else self._verdict(member, ended)
        except BaseException as exc:  # noqa: ASYNC103  (a defect of `settle`, raised in the operation's task)
            self._raised = exc
            verdict = True
        finally:
            del ended
        del self._pending[member]
        if verdict is True:
            self._over = True
            if self._pending or self.hedges is not None:
                self._withdraw()
        elif isinstance(verdict, Unfinished):
            if not self._over:
                self._pending[member] = self._start_task(member, verdict)
        elif self.hedges is not None and member is self.members[self._started - 1]:
            self.start_next()  # the last one that was started makes way for the next
        if self._is_parked and not self._pending:
            self._wake()

    def _verdict(self, member: MemberT, ended: outcome.Error | Unfinished | None) -> bool | Unfinished:
        """Return what follows from an end that is no value."""
        if ended is None:
            return False
        if isinstance(ended, Unfinished):
            return ended
        if (request := exit_request_in(ended.error)) is not None:
            self._raised = request
            return True
        return self.settle(member, outcome.Error(failure_of_started(ended.error)))

    def _start_task(self, member: MemberT, unfinished: Unfinished) -> Cancel:
        assert self._nursery is not None
        scope = trio.CancelScope(shield=True)
        if self._is_parked:
            spawn = self._task.context.copy().run
            spawn(self._nursery.start_soon, self._finish, member, unfinished, scope)
        else:
            self._nursery.start_soon(self._finish, member, unfinished, scope)
        return partial(_cancel_task, scope)

    @enable_ki_protection
    async def _finish(  # noqa: ASYNC910  (a task of its own)
        self, member: MemberT, unfinished: Unfinished, scope: trio.CancelScope
    ) -> None:
        ended: Ended[Any] | None = None
        with scope:
            try:
                if not scope.cancel_called:
                    ended = await attempt(_rest, unfinished)
            except (KeyboardInterrupt, SystemExit) as request:
                ended = outcome.Error(request)
        self._done(member, ended)
        del ended

    def _withdraw(self) -> None:
        self._over = True
        if self.hedges is not None:
            self.hedges.discard(self)
        for member, cancel in tuple(self._pending.items()):
            if cancel():
                del self._pending[member]

    def _abort(self, _: object) -> Abort:
        self._withdraw()
        if self._pending:
            self._was_interrupted = True
            return Abort.FAILED
        self._is_parked = False
        return Abort.SUCCEEDED

    def _wake(self) -> None:
        self._is_parked = False
        trio.lowlevel.reschedule(self._task)


@final
class Operations:
    """All operations of one replica: a part of its life (see `Part`), with the nursery and the hedges of their calls.

    When the replica is closed, writes are cancelled and raise `trio.ClosedResourceError`, because nothing may be queued
    any more. Reads go on, and those that wait for their hedge ask the next store at once. The block waits for them:
    when it has ended, no call of it is left in any store, so the stores can be closed.
    """

    def __init__(self, hedge_delay: float) -> None:
        self._hedges = Hedges(hedge_delay) if hedge_delay > 0 else None
        self._nursery: trio.Nursery | None = None
        self._writes: UnderWay = {}
        self._reads: UnderWay = {}
        self._steps: dict[trio.CancelScope, None] = {}  # of puts, before their write
        self._deadline = math.inf

    def start(self, nursery: trio.Nursery) -> None:
        """Run the calls that take a task in `nursery`."""
        self._nursery = nursery
        if self._hedges is not None:
            nursery.start_soon(self._hedges.watch, name="replica hedges")

    def close(self) -> None:
        """Cancel the writes, and let no read wait for its hedge any more."""
        if self._hedges is not None:
            self._hedges.stop()
        for write in tuple(self._writes):
            write.cancel()
        for step in tuple(self._steps):
            step.cancel()

    def stop(self, grace: float) -> None:
        """Give what is under way `grace` more seconds."""
        self._deadline = min(self._deadline, trio.current_time() + grace)

    async def ended(self) -> None:  # noqa: ASYNC910  (nothing may be under way)
        """Wait until nothing is under way; what still is when `stop` says so is cancelled."""
        with trio.CancelScope(deadline=self._deadline):
            await self._wait_quiet()
        for operation in (*self._writes, *self._reads):
            operation.cancel()
        await self._wait_quiet()

    def write(self, operation: Operation[Any]) -> Awaitable[None]:
        """Run an operation that is cancelled when the replica is closed: see `Operation.run`."""
        return operation.run(self._writes, self._nursery)

    def read(self, operation: Operation[Any], *, hedged: bool = True) -> Awaitable[None]:
        """Run an operation that goes on when the replica is closed, until its grace is over: see `Operation.run`."""
        if hedged and self._hedges is not None and len(operation.members) > 1:
            operation.hedges = self._hedges
        return operation.run(self._reads, self._nursery)

    @contextmanager
    def until_closed(self) -> Generator[None, None, None]:
        """Cancel the steps within when the replica is closed, and raise `trio.ClosedResourceError` then."""
        with trio.CancelScope() as scope:
            self._steps[scope] = None
            try:
                yield
            finally:
                del self._steps[scope]
        if scope.cancel_called:
            raise closed_error()

    async def _wait_quiet(self) -> None:  # noqa: ASYNC910  (likewise)
        # One after another, because whoever of them has ended need not be waited for any more. A read that goes on to
        # the fallback is another operation, which has begun in the step in which the one before it has ended.
        while under_way := self._writes or self._reads:
            await next(iter(under_way)).wait_ended()


async def all_ended(
    members: Sequence[MemberT], start: Callable[[MemberT, Done], Cancel], *, absent: type[Exception] | None = None
) -> dict[MemberT, Any]:
    """Start a call for each of `members`, outside of any replica, and return their values.

    A member whose call raises an `absent` is left out. Being cancelled, or the first other failure, which is raised as
    it is, cancels the calls that can be cancelled.
    """
    calls = _All(members, start, absent)
    await calls.run({})
    if calls.failure is not None:
        try:
            raise calls.failure
        finally:
            del calls
    return calls.values


class _All(Operation[MemberT]):
    """Calls that are all needed: the first failure settles them."""

    def __init__(
        self,
        members: Sequence[MemberT],
        start: Callable[[MemberT, Done], Cancel],
        absent: type[Exception] | None,
    ) -> None:
        super().__init__(members)
        self._start_call = start
        self._absent = absent
        self.values: dict[MemberT, Any] = {}
        self.failure: BaseException | None = None

    def start_call(self, member: MemberT, done: Done) -> Cancel:
        return self._start_call(member, done)

    def settle(self, member: MemberT, ended: Ended[Any]) -> bool:
        if isinstance(ended, outcome.Value):
            self.values[member] = ended.value
        elif self._absent is None or not isinstance(ended.error, self._absent):
            self.failure = self.failure or ended.error
        return self.failure is not None


def _cancel_task(scope: trio.CancelScope) -> bool:
    scope.cancel()
    return False  # the task tells when it has ended


async def _rest(unfinished: Unfinished) -> Any:
    return await unfinished.call()
