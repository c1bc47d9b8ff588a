"""Calling several members at once in a nursery of their own. This is for code that runs outside of any replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import outcome
import trio

from .attempt import attempt, failure_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .attempt import Ended

ItemT = TypeVar("ItemT")
MemberT = TypeVar("MemberT")
ResultT = TypeVar("ResultT")

CONCURRENCY: Final = 16
"""Operations that the default `Store.put_many` and `Store.get_many` run at once."""


async def fan_out(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
) -> None:
    """Make ``call(member)`` for all `members` concurrently, and hand each outcome to `settle` as it comes.

    Once `settle` returns True, the calls still under way are cancelled and no more are made. Returning means that no
    task is left. Being cancelled cancels all calls. The operations of a replica need no nursery: see `Operation`.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: if this or a call is interrupted. It is bare, never in a group.

    """

    async def run(member: MemberT) -> None:
        if nursery.cancel_scope.cancel_called:
            return  # noqa: ASYNC910  (decided, or cancelled, before this call's turn)
        if settle(member, await attempt(call, member)):
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for member in members[1:]:
                nursery.start_soon(run, member)
            for member in members[:1]:
                await run(member)  # here, because a task of its own would cost one more switch
    except BaseExceptionGroup as group:
        raised = group
    else:
        return
    try:
        raise failure_in(raised)
    finally:
        del raised


async def concurrently(call: Callable[[ItemT], Awaitable[None]], items: list[ItemT]) -> None:
    """Make ``call(item)`` for all `items`, 16 at a time.

    Being cancelled cancels the calls under way, and no more are made. The first failure does the same, and is raised as
    it is.
    """
    remaining = iter(items)
    failures: list[BaseException] = []

    async def lane(_: int) -> None:  # noqa: ASYNC910  (the calls' own are enough)
        for item in remaining:
            await trio.lowlevel.checkpoint_if_cancelled()  # a call may have ended in spite of a cancellation
            await call(item)

    def settle(_: int, ended: Ended[None]) -> bool:
        if isinstance(ended, outcome.Error):
            failures.append(ended.error)
        return bool(failures)

    await trio.lowlevel.checkpoint()
    await fan_out(range(min(CONCURRENCY, len(items))), lane, settle)
    if failures:
        try:
            raise failures[0]
        finally:
            del failures
