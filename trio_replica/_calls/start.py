"""Starting one call, with the ways to report its end and to cancel it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

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


@enable_ki_protection
async def ended_call(start: Callable[[Done], Cancel]) -> Any:
    """Start a call with ``start(done)``, and return its value or raise its error.

    Being cancelled cancels the call. If the call can no longer be cancelled, this waits for its outcome.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    task = trio.lowlevel.current_task()
    ended: CallEnd | None = None
    is_parked = False

    def done(how: CallEnd) -> None:
        nonlocal ended
        if is_parked:
            trio.lowlevel.reschedule(task, outcome.Value(how) if isinstance(how, Unfinished) else how)
        else:
            ended = how

    try:
        cancel = start(done)
        if ended is None:
            is_parked = True
            value = await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.SUCCEEDED if cancel() else Abort.FAILED)
        else:
            await trio.lowlevel.checkpoint()
            value = ended if isinstance(ended, Unfinished) else ended.unwrap()
        return await value.call() if isinstance(value, Unfinished) else value
    finally:
        del ended, done  # a traceback that the outcome leads to may refer to this frame
