"""Starting one call, with the ways to report its end and to cancel it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from .._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Unfinished(NamedTuple):
    """The end of a call that can't go on without waiting. The rest of it is `call`, which is awaited in a task.

    The call then ends as ``await call()`` does. In this way a store whose methods are coroutines, a retry after a
    pause, and the hashing of a large answer become part of a call that was started without a task.
    """

    call: Callable[[], Awaitable[Any]]


CallEnd: TypeAlias = "outcome.Value[Any] | outcome.Error | Unfinished"
"""The end of a call: its outcome, or an `Unfinished` if it goes on in a task."""

Done: TypeAlias = "Callable[[outcome.Value[Any] | outcome.Error | Unfinished], None]"
"""A callback for the end of a call. It is called once, in Trio's thread, possibly before the start has returned."""

Cancel: TypeAlias = "Callable[[], bool]"
"""A function that cancels a call. It returns True if `Done` will not be called, and False if the call still ends."""


never: Final[Cancel] = partial(bool)
"""The `Cancel` of a call that can't be cancelled, or has already ended. It returns False."""


def start_in_task(call: Callable[[], Awaitable[Any]], done: Done) -> Cancel:
    """Start a call that has to be awaited."""
    done(Unfinished(call))
    return never


def checked_end(how: CallEnd) -> CallEnd:
    """Return the end of a call as its store reports it; a failure if it is none of what it may be."""
    return how if isinstance(how, (outcome.Value, outcome.Error, Unfinished)) else no_end(how)


def no_end(how: object) -> outcome.Error:
    """Return the failure of a call that its store has ended with something else than an end."""
    return outcome.Error(ReplicaError(f"the store ended a call with {how!r}, which is not an outcome"))


@enable_ki_protection
async def ended_call(start: Callable[[Done], Cancel]) -> Any:
    """Start a call with ``start(done)``, and return its value or raise its error.

    Being cancelled cancels the call. If the call can no longer be cancelled, this waits for its outcome.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    task = trio.lowlevel.current_task()
    ended: CallEnd | None = None
    is_over = is_parked = False

    # The call is over with the first end that the store reports, or when it has been withdrawn. A store that breaks its
    # promise may report another end later. That must not wake the task again, which waits for something else by then.

    def done(how: CallEnd) -> None:
        nonlocal ended, is_over
        if not is_over:
            is_over = True
            ended = checked_end(how)
            if is_parked:
                trio.lowlevel.reschedule(task)

    def abort(_: object) -> Abort:
        nonlocal is_over, is_parked
        is_parked = False  # the store may report the end while it cancels
        is_withdrawn = cancel()
        if is_over:
            trio.lowlevel.reschedule(task)
        elif is_withdrawn:
            is_over = True
            return Abort.SUCCEEDED
        else:
            is_parked = True
        return Abort.FAILED

    try:
        cancel = start(done)
        if not is_over:
            is_parked = True
            await trio.lowlevel.wait_task_rescheduled(abort)
        elif isinstance(ended, outcome.Error):
            await trio.lowlevel.cancel_shielded_checkpoint()  # it may be an exit request, which no cancellation hides
        else:
            await trio.lowlevel.checkpoint()
        assert ended is not None
        if isinstance(ended, outcome.Value):
            return ended.value
        return await ended.call() if isinstance(ended, Unfinished) else ended.unwrap()
    finally:
        ended = None  # a traceback that it leads to may refer to this frame
        del done, abort
