"""`attempt`: awaiting a call of a store and returning its result or failure, but raising cancellations and exits."""

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
    """Return the result of ``await call(member)``, or its failure, which may be any exception or a group.

    Raises:
      trio.Cancelled, KeyboardInterrupt, SystemExit: if the call raised one, also within a group. It is raised bare.

    """
    try:
        return outcome.Value(await call(member))
    except BaseException as exc:  # noqa: ASYNC103  (cancellations and exits are raised below)
        raised = exc
    # This is outside of the handler. Within it, the exception that is raised and the group that it came from would
    # refer to each other.
    try:
        return outcome.Error(failure_in(raised))  # noqa: ASYNC910  (the call's own are enough)
    finally:
        del raised  # its traceback refers to this frame


def failure_in(raised: BaseException) -> BaseException:
    """Return the failure in an exception, or raise the cancellation, `KeyboardInterrupt` or `SystemExit` in it."""
    failure = cancelled = None
    try:
        failure, cancelled = split_failure(raised)
        if cancelled is not None:
            raise cancelled
        assert failure is not None
        return failure
    finally:
        del raised, failure, cancelled
