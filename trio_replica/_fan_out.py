"""One call to each of several stores at once: the only nursery that an operation opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import outcome
import trio

from ._errors import split_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from typing_extensions import TypeAlias

MemberT = TypeVar("MemberT")
ResultT = TypeVar("ResultT")
Ended: TypeAlias = "outcome.Value[ResultT] | outcome.Error"


async def attempt(call: Callable[[MemberT], Awaitable[ResultT]], member: MemberT) -> Ended[ResultT]:
    """Return what ``await call(member)`` returned or, whatever its shape, what it raised.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: bare, if it raised one, also within a group.

    """
    try:
        return outcome.Value(await call(member))
    except BaseException as raised:  # a store may raise anything
        failure, cancelled = split_failure(raised)
        if cancelled is not None:
            raise cancelled from None
        assert failure is not None
        return outcome.Error(failure)


async def fan_out(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    *,
    stagger: float = 0.0,
) -> None:
    """Make ``call(member)`` for all `members` concurrently, and hand each outcome to `settle` as it comes.

    Once `settle` returns True, the calls still under way are cancelled and no more are made. Returning means that no
    task is left. With a `stagger`, each call but the first is made that many seconds after the one before it was, or
    at once when that one ends.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: bare, never in a group.

    """
    if len(members) == 1:
        settle(members[0], await attempt(call, members[0]))
        return

    async def run(member: MemberT, ended: trio.Event) -> None:
        if settle(member, await attempt(call, member)):
            nursery.cancel_scope.cancel()
        ended.set()

    try:
        async with trio.open_nursery() as nursery:
            for member in members:
                ended = trio.Event()
                nursery.start_soon(run, member, ended)
                if stagger > 0 and member is not members[-1]:
                    with trio.move_on_after(stagger):
                        await ended.wait()
                    if nursery.cancel_scope.cancel_called:
                        break
    except BaseExceptionGroup as group:
        raised = group
    else:
        return
    # Raised anew out here, for inside the handler it and the group would refer to each other.
    try:
        failure, cancelled = split_failure(raised)
        raise cancelled or failure or raised
    finally:
        del raised
