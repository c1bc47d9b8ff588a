"""One call to each of several stores at once: the only nursery that an operation opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import outcome
import trio

from .._errors import split_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

MemberT = TypeVar("MemberT")
ResultT = TypeVar("ResultT")


class Cancellable(Protocol):
    """What is under way and can be cancelled by who owns it."""

    def cancel(self) -> object:
        """Let it end."""


Ended: TypeAlias = "outcome.Value[ResultT] | outcome.Error"


async def attempt(call: Callable[[MemberT], Awaitable[ResultT]], member: MemberT) -> Ended[ResultT]:
    """Return what ``await call(member)`` returned or, whatever its shape, what it raised.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: bare, if it raised one, also within a group.

    """
    try:
        return outcome.Value(await call(member))
    except BaseException as exc:  # noqa: ASYNC103  (what goes on is raised below)
        raised = exc
    # Out here: raised within the handler, what goes on and the group that it came from would refer to each other.
    try:
        return outcome.Error(failure_in(raised))  # noqa: ASYNC910  (the call's own are enough)
    finally:
        del raised  # its traceback refers to this frame


async def fan_out(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    *,
    stagger: float = 0.0,
    cancellable: set[Cancellable] | None = None,
) -> None:
    """Make ``call(member)`` for all `members` concurrently, and hand each outcome to `settle` as it comes.

    Once `settle` returns True, the calls still under way are cancelled and no more are made. Returning means that no
    task is left. With a `stagger`, each call but the first is made that many seconds after the one before it was, or
    at once when that one ends.

    A cancel scope of the calls stands in `cancellable` meanwhile. When somebody cancels it there, this returns.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: bare, never in a group.

    """
    if len(members) == 1:
        await _call_one(members[0], call, settle, cancellable)
        return

    try:
        await _fan_out(members, call, settle, stagger, set() if cancellable is None else cancellable)
    except BaseExceptionGroup as group:
        raised = group
    else:
        return
    try:
        raise failure_in(raised)
    finally:
        del raised


async def _call_one(
    member: MemberT,
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    cancellable: set[Cancellable] | None,
) -> None:
    """Do without a nursery: a put to a replica of one store in memory takes a quarter more with one."""
    if cancellable is None:
        settle(member, await attempt(call, member))
        return
    with trio.CancelScope() as scope:
        cancellable.add(scope)
        try:
            settle(member, await attempt(call, member))
        finally:
            cancellable.discard(scope)


async def _fan_out(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    stagger: float,
    cancellable: set[Cancellable],
) -> None:
    async def run(member: MemberT, ended: trio.Event | None = None) -> None:
        if nursery.cancel_scope.cancel_called:
            return  # noqa: ASYNC910  (settled, or cancelled, before this one's turn came)
        if settle(member, await attempt(call, member)):
            nursery.cancel_scope.cancel()
        if ended is not None:
            ended.set()

    try:
        async with trio.open_nursery() as nursery:
            cancellable.add(nursery.cancel_scope)
            if stagger > 0:
                for member in members:
                    ended = trio.Event()
                    nursery.start_soon(run, member, ended)
                    with trio.move_on_after(stagger):
                        await ended.wait()
            else:
                for member in members[1:]:
                    nursery.start_soon(run, member)
                for member in members[:1]:
                    await run(member)  # here, for a task of its own would be one more to switch to
    finally:  # not before the last call has ended: also one that is waited for alone can be cancelled
        cancellable.discard(nursery.cancel_scope)


def failure_in(raised: BaseException) -> BaseException:
    """Return the failure in what was raised, or raise the cancellation, `KeyboardInterrupt` or `SystemExit` in it."""
    failure = cancelled = None
    try:
        failure, cancelled = split_failure(raised)
        if cancelled is not None:
            raise cancelled
        assert failure is not None
        return failure
    finally:
        del raised, failure, cancelled
