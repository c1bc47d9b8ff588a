"""The real code in virtual time: a replica of simulated stores under a mock clock, given the times that R was given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import trio
from trio.testing import MockClock

import trio_replica as replica
from trio_replica import MemoryStore
from trio_replica.testing import Batched, Serial, SimulatedStore

from .points import Path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_replica._advice.calls import BatchCost, Floats
    from trio_replica.testing import PutManyCost

    from .recursion import Stall

Put: TypeAlias = Callable[[], Awaitable[None]]


class Ran(NamedTuple):
    """A run of the real code."""

    path: Path
    """Put by put; `alone` is not known, and is when the blob was written. `blocked_puts` is what the statistics say."""
    drain: float
    """Seconds from the last put's return to the end of the block."""


@dataclass(frozen=True)
class Scaled:
    """The cost of a batch, each time scaled by the next of some factors."""

    cost: BatchCost
    factor: Callable[[], float]

    def completions(self, count: int, put_time: Callable[[], float]) -> Sequence[float]:
        """Return the seconds until each blob is stored."""
        return [self.cost.of(count) * self.factor()] * count


def store(
    service: Floats, cost: BatchCost | None = None, factors: Floats | None = None, stall: Stall | None = None
) -> SimulatedStore:
    """Return a store that takes these times: see `recursion.drain` and `recursion.drain_at_cost`."""
    put_many: PutManyCost = Serial()
    if cost is not None:
        put_many = Batched(*cost) if factors is None else Scaled(cost, iter(factors.tolist()).__next__)
    made = SimulatedStore(put=service.tolist(), put_many=put_many)
    if stall is not None:
        made.outage(*stall)
    return made


def run_open_loop(came: Floats, stores: Sequence[SimulatedStore], queue_size: int, batch_size: int) -> Ran:
    """Let puts come at these times, each in a task of its own."""

    async def produce(put: Put) -> None:
        async with trio.open_nursery() as nursery:
            for time in came.tolist():
                await trio.sleep_until(time)
                nursery.start_soon(put)

    return _run(produce, len(came), stores, queue_size, batch_size)


def run_closed_loop(
    pauses: Floats, producers: int, puts: int, stores: Sequence[SimulatedStore], *, queue_size: int, batch_size: int
) -> Ran:
    """Let so many producers put one blob after another, each after a pause: see `recursion.drain_closed_loop`."""
    pause, left = iter(pauses.tolist()), count(puts, -1)

    async def produce_one(put: Put) -> None:
        await trio.sleep(next(pause))
        while next(left) > 0:
            await put()
            await trio.sleep(next(pause))

    async def produce(put: Put) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(producers):
                nursery.start_soon(produce_one, put)

    return _run(produce, puts, stores, queue_size, batch_size)


def _run(
    produce: Callable[[Put], Awaitable[None]],
    puts: int,
    stores: Sequence[SimulatedStore],
    queue_size: int,
    batch_size: int,
) -> Ran:
    came, entered = np.zeros(puts), np.zeros(puts)
    places = count()

    async def main() -> tuple[tuple[int, ...], float]:
        async def put() -> None:
            place = next(places)
            came[place] = trio.current_time()
            await opened.put(place.to_bytes(4, "big"))
            entered[place] = trio.current_time()

        async with replica.open([MemoryStore()], stores, queue_size=queue_size, batch_size=batch_size) as opened:
            await produce(put)
            returned = trio.current_time()
        statistics = opened.statistics().async_stores.values()
        return tuple(one.blocked_puts for one in statistics), trio.current_time() - returned

    blocked_puts, drain = trio.run(main, clock=MockClock(autojump_threshold=0))
    written = np.maximum.reduce([_written(one) for one in stores])
    return Ran(Path(came, entered, written, written, blocked_puts), drain)


def _written(one: SimulatedStore) -> Floats:
    """Return when the store had confirmed each blob, in the order in which it got them."""
    return np.repeat([call.ended for call in one.calls], [len(call.refs) for call in one.calls])
