"""The operations of a replica that are under way, and how they end with its block."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._errors import closed_error
from .hedges import Hedges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from .operation import Operation, UnderWay


MemberT = TypeVar("MemberT")


@final
class Operations:
    """All operations of one replica: a part of its life (see `Part`), with the nursery and the hedges of their calls.

    When the replica is closed, writes are cancelled and raise `trio.ClosedResourceError`, because nothing may be queued
    from then on. Reads go on, and those that wait for their hedge ask the next store at once. The block waits for them:
    when it has ended, the replica has no call left in any store, so the stores can be closed.
    """

    def __init__(self, hedge_delay: float) -> None:
        self._hedges = Hedges(hedge_delay) if hedge_delay > 0 else None
        self._nursery: trio.Nursery | None = None
        self._writes: UnderWay = {}
        self._reads: UnderWay = {}
        self._steps: dict[trio.CancelScope, None] = {}  # of puts, before their write
        self._deadline = math.inf

    def start(self, nursery: trio.Nursery) -> None:
        """Run the calls that take a task in `nursery`."""
        self._nursery = nursery
        if self._hedges is not None:
            nursery.start_soon(self._hedges.watch, name="replica hedges")

    def close(self) -> None:
        """Cancel the writes, and start the hedges that wait."""
        if self._hedges is not None:
            self._hedges.stop()
        for write in tuple(self._writes):
            write.cancel()
        for step in tuple(self._steps):
            step.cancel()

    def stop(self, grace: float) -> None:
        """Give the operations under way `grace` more seconds."""
        self._deadline = min(self._deadline, trio.current_time() + grace)

    async def ended(self) -> None:  # noqa: ASYNC910  (nothing may be under way)
        """Wait until no operation is under way. Those left at the deadline that `stop` has set are cancelled."""
        with trio.CancelScope(deadline=self._deadline):
            await self._wait_quiet()
        for operation in (*self._writes, *self._reads):
            operation.cancel()
        await self._wait_quiet()

    def write(self, operation: Operation[Any]) -> Awaitable[None]:
        """Run an operation that is cancelled when the replica is closed: see `Operation.run`."""
        return operation.run(self._writes, self._nursery)

    def read(self, operation: Operation[Any], *, hedged: bool = True) -> Awaitable[None]:
        """Run an operation that goes on when the replica is closed, until its grace is over: see `Operation.run`."""
        if hedged and self._hedges is not None and len(operation.members) > 1:
            operation.hedges = self._hedges
        return operation.run(self._reads, self._nursery)

    @contextmanager
    def until_closed(self) -> Generator[None, None, None]:
        """Cancel the steps within when the replica is closed, and raise `trio.ClosedResourceError` then."""
        with trio.CancelScope() as scope:
            self._steps[scope] = None
            try:
                yield
            finally:
                del self._steps[scope]
        if scope.cancel_called:
            raise closed_error()

    async def _wait_quiet(self) -> None:  # noqa: ASYNC910  (likewise)
        # They are waited for one after another, and those that end in the meantime need no waiting. A read that goes on
        # to the fallback is a new operation. It begins in the step in which the one before it ends, so this loop does
        # not miss it.
        while under_way := self._writes or self._reads:
            await next(iter(under_way)).wait_ended()
