"""How a simulated store answers: the times it takes, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from .trace import Trace

ResultT = TypeVar("ResultT")

HANG_SECONDS: Final = 500.0
"""Seconds that a call hangs unless it is cancelled: far longer than everything else, and yet not for ever."""


@final
@dataclass
class Weather:
    """How one store answers during one session."""

    draw: random.Random
    trace: Trace
    name: str
    pace: float = 0.0
    """Seconds that a step of a call takes at most."""
    error_rate: float = 0.0
    hang_rate: float = 0.0
    garble_rate: float = 0.0
    """Of the gets that return other bytes."""
    outage: tuple[float, float] | None = None
    """The seconds from which, and to which, all calls fail, or are held up."""
    outage_holds: bool = False
    page_size: int = 1000
    is_shielded: bool = False
    """Whether its calls can't be interrupted."""

    def __post_init__(self) -> None:
        self._fails_next = False
        self.is_healthy = not (self.error_rate or self.hang_rate or self.garble_rate or self.outage)
        """Whether nothing ever goes wrong."""

    def fail_next(self) -> None:
        """Let the next call fail."""
        self._fails_next = True
        self.is_healthy = False

    def be_away(self, seconds: float) -> None:
        """Let all calls fail in the first seconds of the session."""
        self.outage, self.outage_holds = (0.0, seconds), False
        self.is_healthy = False

    async def pause(self) -> None:
        """Wait as long as a step of a call takes."""
        await trio.sleep(self.draw.choice((0.0, self.pace, self.pace * self.draw.random())))

    async def serve(self, operation: str, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Do ``work()`` as a call of the store."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=self.is_shielded):
            await self.pause()
            await self._hold_up()
            fails = self._fails()
            if fails and self.draw.random() < 0.5:
                self._fail(operation, "before it did anything")
            result = await work()
            if fails:
                self._fail(operation, "after it was done")
            await self.pause()
        return result

    def garbles(self, operation: str) -> bool:
        """Return whether a read brings other bytes than those there."""
        garbles = self.draw.random() < self.garble_rate
        if garbles:
            self.trace.note("garbled", f"{self.name} {operation}")
        return garbles

    async def _hold_up(self) -> None:
        if self.draw.random() < self.hang_rate:
            self.trace.note("hang", self.name)
            await trio.sleep(HANG_SECONDS)
        if self._is_away() and self.outage_holds:
            assert self.outage is not None
            self.trace.note("outage", f"{self.name} holds up")
            await trio.sleep_until(self.outage[1])

    def _is_away(self) -> bool:
        return self.outage is not None and self.outage[0] <= trio.current_time() < self.outage[1]

    def _fails(self) -> bool:
        fails = self._fails_next or self._is_away() or self.draw.random() < self.error_rate
        self._fails_next = False
        return fails

    def _fail(self, operation: str, when: str) -> None:
        self.trace.note("failure", f"{self.name} {operation} {when}")
        raise self.draw.choice(
            [OSError("away"), TimeoutError("slow"), RuntimeError("odd"), ExceptionGroup("several", [OSError("away")])]
        )
