"""Hedging, which starts an operation's next call when its last one is late."""

from __future__ import annotations

from typing import Protocol, final

import trio
from trio.lowlevel import enable_ki_protection


class Hedged(Protocol):
    """An operation whose next call can be started."""

    def start_next(self) -> None:
        """Start the next call, if there is one. Add the operation again if there is another call after that."""


@final
class Hedges:
    """The schedule of hedges, by which each operation starts its next call `delay` seconds after its last one.

    Since the delay is the same, operations become late in the order in which they were added. So one dictionary in that
    order is the whole schedule, and one task, `watch`, waits for its first entry. Every operation in the schedule has a
    call that was not started yet. An operation that no longer needs a hedge is discarded at once. Otherwise `watch`
    would start a call that nobody waits for.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._due: dict[Hedged, float] = {}  # in the order of their times
        self._added: trio.Event | None = None  # set only while the schedule is empty
        self._scope = trio.CancelScope(shield=True)  # of `watch`

    def add(self, operation: Hedged) -> None:
        """Have the next call of `operation` started after the delay."""
        if self._scope.cancel_called:
            # `watch` has ended, so no call waits for its hedge. The operation adds itself again after each call, so
            # this starts all calls that are left, one within the other. There are at most as many as stores.
            operation.start_next()
            return
        self._due[operation] = trio.current_time() + self._delay
        if self._added is not None:
            self._added.set()

    def discard(self, operation: Hedged) -> None:
        """Forget `operation`."""
        self._due.pop(operation, None)

    def stop(self) -> None:
        """Start the hedges that wait, and end `watch`. From now on no operation waits before its next call.

        A closed replica must not leave an operation waiting for a call that nobody will start. With a delay of
        `math.inf` and a first store that hangs, the operation would wait forever although the second has the answer.
        """
        self._scope.cancel()
        for operation in tuple(self._due):
            operation.start_next()

    @enable_ki_protection
    async def watch(self) -> None:
        """Start hedges when they are due, until `stop`.

        Being cancelled has no effect, because shielded gets need hedges.
        """
        with self._scope:
            while True:  # noqa: ASYNC913  (to start a call takes no waiting)
                operation, due = next(iter(self._due.items()), (None, 0.0))
                if operation is None:
                    self._added = trio.Event()
                    await self._added.wait()
                    self._added = None
                elif due > trio.current_time():
                    await trio.sleep_until(due)
                else:
                    operation.start_next()
