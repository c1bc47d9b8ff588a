"""`attempt`: awaiting a call of a store, and returning its result or failure; cancellations and exits go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

import outcome

from .._errors import split_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
    except BaseException as exc:  # noqa: ASYNC103  (what goes on is raised below)
        raised = exc
    # Out here: raised within the handler, what goes on and the group that it came from would refer to each other.
    try:
        return outcome.Error(failure_in(raised))  # noqa: ASYNC910  (the call's own are enough)
    finally:
        del raised  # its traceback refers to this frame


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
