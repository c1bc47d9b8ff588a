"""One call to each of several stores whose calls can be started without a task: what `fan_out` does, for less."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, final

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from .fan_out import attempt, failure_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .fan_out import Cancellable, Ended

MemberT = TypeVar("MemberT")

Done: TypeAlias = "Callable[[outcome.Value[Any] | outcome.Error], None]"
"""What is called, in Trio's thread, with the outcome of a call; never before starting that call has returned."""

Cancel: TypeAlias = "Callable[[], bool]"
"""What cancels a call, and returns whether `Done` will not be called for it: False if that is too late."""


_BEING_STARTED: Final[Cancel] = partial(bool)
"""Stands for what cancels a call that is being started: it can't be cancelled."""


@enable_ki_protection
async def ended_call(start: Callable[[Done], Cancel]) -> Any:
    """Start a call with ``start(done)``, and return what it returns, or raise what it raises.

    Being cancelled cancels the call; if it can't be cancelled any more, its outcome is waited for.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    cancel = start(partial(trio.lowlevel.reschedule, trio.lowlevel.current_task()))
    return await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.SUCCEEDED if cancel() else Abort.FAILED)


@enable_ki_protection
async def fan_out_started(
    calls: StartedCalls[MemberT],
    settle: Callable[[MemberT, Ended[Any]], bool],
    *,
    finish: Callable[[Any], Awaitable[Any] | None] | None = None,
    cancellable: set[Cancellable] | None = None,
) -> None:
    """Start `calls`, and hand each outcome to `settle` as it comes.

    Once `settle` returns True, the calls still under way are cancelled and no more are started. Returning means that
    none is left, and so does being cancelled, which waits for those that can't be cancelled any more.

    What a call returned may take more to be an answer: if `finish` returns something to wait for, that is what comes
    to `settle`. The calls stand in `cancellable` meanwhile. When somebody cancels them there, this returns.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: bare, never in a group.

    """
    await trio.lowlevel.checkpoint_if_cancelled()
    if cancellable is None:
        cancellable = set()
    cancellable.add(calls)
    ended: Ended[Any] | None = None
    settled = False
    try:
        calls.start()
        while calls.pending or calls.ended:
            if not calls.ended:
                await calls.park()
                continue
            member, ended = calls.ended.pop(0)
            if not isinstance(ended, outcome.Value):
                ended = outcome.Error(failure_in(ended.error))
            elif finish is not None and not settled and (finishing := finish(ended.value)) is not None:
                ended = await attempt(_awaited, finishing)
            if settle(member, ended):
                settled = True
                calls.cancel()
            else:
                calls.go_on_after(member)
        if calls.were_interrupted:
            await trio.lowlevel.checkpoint_if_cancelled()
    finally:
        cancellable.discard(calls)
        calls.cancel()
        while calls.pending:
            await calls.park()  # noqa: ASYNC102  (not to be cancelled: nothing is to be left)
        calls.ended.clear()
        del ended, settle, finish  # tracebacks that they lead to may refer to this frame


async def _awaited(something: Awaitable[Any]) -> Any:
    return await something


@final
class StartedCalls(Generic[MemberT]):
    """The calls of one operation, each started with ``start(member, done)``.

    All are started at once, or with `hedges` one after another, as these say. The operation's task, which makes this,
    is woken when a call has ended; if it needs them all, when all have or one has failed.
    """

    __slots__ = (
        "_hedges",
        "_members",
        "_needs_all",
        "_parked",
        "_start",
        "_started",
        "_task",
        "ended",
        "pending",
        "were_interrupted",
    )

    def __init__(
        self,
        members: Sequence[MemberT],
        start: Callable[[MemberT, Done], Cancel],
        *,
        hedges: Hedges | None = None,
        needs_all: bool = False,
    ) -> None:
        self.pending: dict[MemberT, Cancel] = {}
        self.ended: list[tuple[MemberT, Ended[Any]]] = []
        self.were_interrupted = False
        self._members = members
        self._started = 0  # of the members, in their order
        self._start = start
        self._hedges = hedges
        self._needs_all = needs_all
        self._task = trio.lowlevel.current_task()
        self._parked = False

    def start(self) -> None:
        """Start the first call, and without hedges all others."""
        self.start_next()
        while self._hedges is None and self._started < len(self._members):
            self.start_next()

    def start_next(self) -> None:
        """Start the next call, if there is one."""
        if self._started == len(self._members):
            return
        member = self._members[self._started]
        self._started += 1
        done = partial(self._done, member)
        self.pending[member] = _BEING_STARTED
        try:
            self.pending[member] = self._start(member, done)
        except BaseException as exc:  # noqa: ASYNC103  (that is its outcome, which comes as any other does)
            self.pending[member] = lambda: False
            trio.lowlevel.current_trio_token().run_sync_soon(done, outcome.Error(exc))
        if self._hedges is not None:
            self._hedges.discard(self)
            if self._started < len(self._members):
                self._hedges.add(self)

    def go_on_after(self, member: MemberT) -> None:
        """Start the next call if the one of `member`, which has ended, was the last one that was started."""
        if member is self._members[self._started - 1]:
            self.start_next()

    def cancel(self) -> None:
        """Cancel the calls, and start no more. Those that can't be cancelled any more, still end."""
        self._withdraw()
        if self._parked and not self.pending:
            self._wake()

    async def park(self) -> None:
        """Wait until a call has ended, or all are cancelled, which being cancelled does."""

        def abort(_: object) -> Abort:
            self.were_interrupted = True
            self._withdraw()
            if self.pending:
                return Abort.FAILED
            self._parked = False
            return Abort.SUCCEEDED

        self._parked = True
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _withdraw(self) -> None:
        self._started = len(self._members)
        if self._hedges is not None:
            self._hedges.discard(self)
        for member, cancel in tuple(self.pending.items()):
            if cancel():
                del self.pending[member]

    def _wake(self) -> None:
        self._parked = False
        trio.lowlevel.reschedule(self._task)

    def _done(self, member: MemberT, ended: Ended[Any]) -> None:
        if self.pending.get(member) is _BEING_STARTED:
            raise RuntimeError("a store said that a call has ended before it had returned from starting it")
        del self.pending[member]
        self.ended.append((member, ended))
        if self._parked and not (self._needs_all and self.pending and isinstance(ended, outcome.Value)):
            self._wake()


@final
class Hedges:
    """The operations that start their next call when the last one is late: by `delay` seconds, the same for all.

    They become late in the order in which they were added, so one task, `watch`, waits for all of them.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self._due: dict[StartedCalls[Any], float] = {}  # in that order
        self._added: trio.Event | None = None  # while there is none
        self._scope = trio.CancelScope(shield=True)  # of `watch`

    def add(self, calls: StartedCalls[Any]) -> None:
        """Have the next call of `calls` started after the delay."""
        if self._scope.cancel_called:  # nobody watches any more, so the others are not waited for
            calls.start_next()
            return
        self._due[calls] = trio.current_time() + self.delay
        if self._added is not None:
            self._added.set()

    def discard(self, calls: StartedCalls[Any]) -> None:
        """Forget `calls`."""
        self._due.pop(calls, None)

    def stop(self) -> None:
        """Let `watch` end. From now on, an operation does not wait before it starts its next call."""
        self._scope.cancel()
        for calls in tuple(self._due):
            calls.start_next()

    @enable_ki_protection
    async def watch(self) -> None:
        """Start what is late, until `stop`. Being cancelled has no effect: gets that are shielded need their hedges."""
        with self._scope:
            while True:  # noqa: ASYNC913  (to start a call takes no waiting)
                calls, due = next(iter(self._due.items()), (None, 0.0))
                if calls is None:
                    self._added = trio.Event()
                    await self._added.wait()
                    self._added = None
                elif due > trio.current_time():
                    await trio.sleep_until(due)
                else:
                    calls.start_next()
