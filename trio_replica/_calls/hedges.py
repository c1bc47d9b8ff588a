"""Hedging: when an operation's last call is late, its next one is started here."""

from __future__ import annotations

from typing import Protocol, final

import trio
from trio.lowlevel import enable_ki_protection


class Hedged(Protocol):
    """An operation whose next call can be started."""

    def start_next(self) -> None:
        """Start the next call, if there is one, and add the operation again if there is another after that."""


@final
class Hedges:
    """The schedule of hedges: each operation in it starts its next call `delay` seconds after its last one.

    Since the delay is the same, operations become late in the order in which they were added. So one dictionary in that
    order is the whole schedule, and one task, `watch`, waits for its first entry. Every operation in it has a call that
    was not started yet. An operation that no longer needs a hedge is discarded at once; otherwise `watch` would start a
    call that nobody waits for.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._due: dict[Hedged, float] = {}  # in that order
        self._added: trio.Event | None = None  # while there is none
        self._scope = trio.CancelScope(shield=True)  # of `watch`

    def add(self, operation: Hedged) -> None:
        """Have the next call of `operation` started after the delay."""
        if self._scope.cancel_called:
            # `watch` has ended, so no call waits for its hedge. The operation adds itself again after each call, so
            # this starts all that are left, one within the other: there are as many as stores at most.
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
        `math.inf` and a first store that hangs, it would wait forever although the second store has the answer.
        """
        self._scope.cancel()
        for operation in tuple(self._due):
            operation.start_next()

    @enable_ki_protection
    async def watch(self) -> None:
        """Start hedges when they are due, until `stop`. Being cancelled has no effect, as shielded gets need them."""
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
