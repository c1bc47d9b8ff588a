"""The recursion R: what one worker does with the blobs of an open loop of puts, put by put, without running anything.

With the times A at which puts come and S that the store takes, and one blob at a time, the store has confirmed blob i
at D[i] = max(A[i], D[i-1]) + S[i]. A put enters the queue as soon as fewer than `queue_size` blobs that came before it
are still to be taken: when blob i - queue_size is taken, or at once if that has happened. Nothing in D depends on
the queue's size: one path of the worker gives the waits for every size.

All times are in seconds. They agree with those of the real code to the last bit if they lie on a grid: see
`draws.on_grid`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from trio_replica._advice.calls import BatchCost, Floats


class Stall(NamedTuple):
    """The store stops answering for a while, and then goes on where it was."""

    start: float
    end: float

    def delay(self, began: float, seconds: float) -> float:
        """Return how much longer a call takes that `began` then and would have taken `seconds`."""
        held_up = began < self.end and began + seconds >= self.start
        return self.end - max(began, self.start) if held_up else 0.0


@dataclass(frozen=True)
class Drained:
    """The times of the blobs at one worker, in the order of their arrival. They are the same for every queue size."""

    came: Floats
    """When the put began."""
    taken: Floats
    """When the worker took the blob: the beginning of its batch."""
    written: Floats
    """When the store had confirmed it: the end of its batch."""
    alone: Floats
    """When the store would have confirmed it if no blob had come after it."""

    def entered(self, queue_size: int) -> Floats:
        """Return when each blob entered a queue of that size: when its put came, or when there was room."""
        entered = self.came.copy()
        np.maximum(entered[queue_size:], self.taken[: max(0, len(entered) - queue_size)], out=entered[queue_size:])
        return entered


def drain(came: Floats, service: Floats, stall: Stall | None = None) -> Drained:
    """Let the worker write one blob after another: ``batch_size=1``."""
    written = _written(came, service, stall)
    taken = came.copy()
    np.maximum(taken[1:], written[:-1], out=taken[1:])
    return Drained(came, taken, written, written)


def drain_in_batches(came: Floats, service: Floats, batch_size: int, stall: Stall | None = None) -> Drained:
    """Let the worker write batches, to a store whose ``put_many`` takes as long as its puts one after another.

    Whenever it is free it takes what has come, at most `batch_size` blobs. These include blobs whose puts wait for
    room, because taking some lets others in. A batch ends when its last blob would have ended alone, so the ends of the
    batches are found by walking along the path of `drain`.
    """
    alone = drain(came, service, stall)
    places = np.arange(len(came))
    arrived = np.searchsorted(came, alone.written, side="right")
    next_last = np.minimum(places + np.clip(arrived - places - 1, 1, batch_size), len(came) - 1).tolist()
    last = [0]  # the worker was idle, and took the first blob alone
    while last[-1] < len(came) - 1:
        last.append(next_last[last[-1]])
    first = np.array([0, *(np.array(last[:-1]) + 1)])
    sizes = np.diff(last, prepend=-1)
    taken, written = np.repeat(alone.taken[first], sizes), np.repeat(alone.written[last], sizes)
    return Drained(came, taken, written, alone.written)


def drain_at_cost(
    came: Floats,
    service: Floats,
    batch_size: int,
    cost: BatchCost,
    *,
    factors: Floats | None = None,
    stall: Stall | None = None,
) -> Drained:
    """Let the worker write batches, to a store that has a price for a batch.

    A batch of one is a ``put`` and takes the next time of `service`; a batch of more takes its cost, times the next of
    `factors` (of mean 1) if there are any. Both are taken in order, as they are needed.
    """
    times, arrivals = iter(service.tolist()), came.tolist()
    scales = itertools.repeat(1.0) if factors is None else iter(factors.tolist())
    taken: list[float] = []
    written: list[float] = []
    alone: list[float] = []
    free = 0.0

    def ends(start: float, seconds: float) -> float:
        return start + seconds + (stall.delay(start, seconds) if stall else 0.0)

    while len(taken) < len(arrivals):
        place = len(taken)
        start = max(free, arrivals[place])
        size = bisect_right(arrivals, start, place, min(place + batch_size, len(arrivals))) - place
        if size == 1:
            free = ends(start, next(times))
            alone.append(free)
        else:
            scale = next(scales)
            alone.extend(ends(start, cost.of(blobs) * scale) for blobs in range(1, size + 1))
            free = alone[-1]
        taken.extend([start] * size)
        written.extend([free] * size)
    return Drained(came, np.array(taken), np.array(written), np.array(alone))


def drain_closed_loop(pauses: Floats, producers: int, service: Floats, queue_size: int, batch_size: int) -> Drained:
    """Let so many producers put one blob after another, each after a pause, until `service` is used up.

    The time of a put depends on the return of the one before it, and so on the queue. Whenever a producer pauses, also
    at its beginning, it takes the next of `pauses`. There are as many of these as of `service` and `producers`
    together. A ``put_many`` takes as long as its puts one after another.
    """
    pause = iter(pauses.tolist())
    coming = sorted(next(pause) for _ in range(producers))
    came: list[float] = []
    last = [-1]
    began: list[float] = []
    entered = taken = 0
    free = -math.inf
    work = [0.0, *service.cumsum().tolist()]

    def come() -> None:
        nonlocal entered
        came.append(heapq.heappop(coming))
        if len(came) <= taken + queue_size:
            entered += 1
            heapq.heappush(coming, came[-1] + next(pause))

    while taken < len(service):
        while coming and coming[0] <= free and len(came) < len(service):
            come()
        if len(came) == taken:
            come()
            free = came[-1]
        size = min(len(came) - taken, batch_size)
        began.append(free)
        free += work[taken + size] - work[taken]
        taken += size
        last.append(taken - 1)
        while entered < min(len(came), taken + queue_size):  # those who waited, and now have room
            entered += 1
            heapq.heappush(coming, began[-1] + next(pause))
    arrivals, sizes = np.array(came), np.diff(last)
    alone = drain(arrivals, service).written
    return Drained(arrivals, np.repeat(began, sizes), np.repeat(alone[last[1:]], sizes), alone)


def lacking(entered: Floats, written: Floats, at: Floats) -> npt.NDArray[np.intp]:
    """Return how many blobs had entered and were not yet written at each of the times `at`."""
    return np.searchsorted(entered, at, side="right") - np.searchsorted(written, at, side="right")


def _written(came: Floats, service: Floats, stall: Stall | None) -> Floats:
    if stall is not None:
        # Seen from a clock that stands still during the stall, it does not happen.
        length = stall.end - stall.start
        came = np.where(came < stall.start, came, np.maximum(came - length, stall.start))
    work = np.cumsum(service)
    written: Floats = work + np.maximum.accumulate(came - (work - service))
    return written if stall is None else np.where(written < stall.start, written, written + length)
