"""The real replica in real time, on a real store; and beside it what the recursion R says of the same arrivals."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import trio

import trio_replica as replica
from trio_replica import BlobNotFoundError, PoisonedError, PutResult, Store, to_blob
from trio_replica._advice.calls import BatchCost

from ..model.draws import poisson_arrivals
from ..model.points import Path, Point
from ..model.recursion import Drained, drain, drain_at_cost
from .service import stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_replica import AsyncStoreStatistics, Blob, Ref, ReplicaStore
    from trio_replica._advice.calls import Floats
    from trio_replica._blob import BytesLike

    from .own_blobs import Call, NotedStore
    from .service import BatchTimes, PutTimes

DRAWS: Final = 40
"""Predictions from the times measured alone: from the 5 % to the 95 % quantile two are left out at either end."""

COMING: Final = 0.9
"""For this share of a run puts come; then the store may catch up."""


@dataclass(frozen=True)
class Load:
    """The puts to a replica."""

    rate: float
    """Puts a second, as a Poisson process."""
    seconds: float
    """The most time that a run takes."""
    most_puts: int
    capacity: float
    """Blobs a second that the store takes, as far as is known."""

    def arrivals(self, source: np.random.Generator) -> Floats:
        """Draw when puts come, in seconds from the beginning; so many as the store can write before the end."""
        coming = COMING * self.seconds * min(1.0, self.capacity / self.rate)
        return poisson_arrivals(source, min(self.most_puts, 1 + round(self.rate * coming)), self.rate)


@dataclass(frozen=True)
class Run:
    """One run of the real replica, with the blobs that were written before its end."""

    queue_size: int
    batch_size: int
    path: Path
    """Seconds from the beginning. A blob came when the sync store had it: from there on only the queue holds it up."""
    sizes: Floats
    """Blobs of each call of the store."""
    worker: Floats
    """Seconds that the worker spent on each: from the moment when the call before had ended and there was a
    blob, until it ended. So the time of the event loop is included."""
    late: Floats
    """For each put that was called, in seconds, how long after its time: the event loop was busy."""

    @cached_property
    def real(self) -> Point:
        """The figures."""
        return Point.of(self.path)

    @property
    def rate(self) -> float:
        """Puts that came a second: fewer than were asked for if the event loop is too slow for so many."""
        came = self.path.came
        return float((len(came) - 1) / (came[-1] - came[0])) if came[-1] > came[0] else math.inf

    def slower(self, puts: PutTimes, batches: BatchTimes | None) -> float:
        """Return how many times as long as alone the store took for the same calls."""
        return float(self.worker.sum() / _expected(self.sizes, puts, batches).sum())

    def by_own_times(self) -> Point:
        """Return what R says of the same arrivals, for the batches that there were and the worker's time for each."""
        taken = np.repeat(self.path.written[np.cumsum(self.sizes, dtype=int) - 1] - self.worker, self.sizes.astype(int))
        worker = Drained(self.path.came, taken, self.path.written, self.path.written)
        return Point.of(Path.of([worker], self.queue_size))

    def by_times_alone(self, puts: PutTimes, batches: BatchTimes | None, seed: int = 0) -> list[Point]:
        """Return what R says of the same arrivals if the store takes what it took alone: `DRAWS` possible outcomes."""
        source = np.random.default_rng(seed)
        drained = (self._drain(puts, batches, source) for _ in range(DRAWS))
        return [Point.of(Path.of([worker], self.queue_size)) for worker in drained]

    def _drain(self, puts: PutTimes, batches: BatchTimes | None, source: np.random.Generator) -> Drained:
        came = self.path.came
        service = stretch(puts.seconds, len(came), source)
        if self.batch_size == 1:
            return drain(came, service)
        assert batches is not None
        factors = stretch(batches.factors, len(came), source)
        return drain_at_cost(came, service, self.batch_size, batches.cost, factors=factors)


def _expected(sizes: Floats, puts: PutTimes, batches: BatchTimes | None) -> Floats:
    """Return how long calls with so many blobs take alone, in seconds."""
    cost = BatchCost(0.0, puts.mean) if batches is None else batches.cost
    return np.where(sizes == 1, puts.mean, cost.fixed + cost.each * sizes)


class _Seen(NamedTuple):
    """A moment in the life of a put."""

    time: float
    """Seconds on Trio's clock."""
    blocked_puts: int
    """The puts that had found the queue full by then."""


class _Door(Store):
    """The sync store of the replica, and its caller: both see when a put passes.

    It takes no time and keeps nothing, so that a run needs no memory.
    """

    def __init__(self) -> None:
        self.replica: ReplicaStore
        self.late: list[float] = []
        self._came: dict[Ref, _Seen] = {}
        self._returned: dict[Ref, _Seen] = {}

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        blob = await to_blob(blob)
        self._came[blob.ref] = self._see()
        return PutResult(blob.ref, added=True)

    async def get(self, ref: Ref) -> bytes:
        await trio.lowlevel.checkpoint()
        raise BlobNotFoundError(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        return []

    async def let_come(self, blobs: Sequence[Blob], times: Floats) -> None:
        """Put each blob at its time, on Trio's clock, until the replica is poisoned."""
        async with trio.open_nursery() as nursery:
            for blob, time in zip(blobs, times.tolist(), strict=True):
                await trio.sleep_until(time)
                nursery.start_soon(self._put, blob, time, nursery.cancel_scope)

    async def _put(self, blob: Blob, time: float, others: trio.CancelScope) -> None:
        self.late.append(trio.current_time() - time)
        try:
            await self.replica.put(blob)
        except PoisonedError:  # the failure is in the statistics
            others.cancel()
        else:
            self._returned[blob.ref] = self._see()

    def statistics(self) -> AsyncStoreStatistics:
        (statistics,) = self.replica.statistics().async_stores.values()
        return statistics

    def _see(self) -> _Seen:
        return _Seen(trio.current_time(), self.statistics().blocked_puts)

    def path(self, calls: Sequence[Call], began: float) -> Path:
        """Return what happened to the blobs that the store was given with these calls."""
        refs = [ref for call in calls for ref in call.refs]
        came, returned = [self._came[ref] for ref in refs], [self._returned[ref] for ref in refs]
        # Between a blob's coming and the queue there is no checkpoint: a wait that was counted in between is its own.
        blocked = [then.blocked_puts < now.blocked_puts for then, now in zip(came, returned, strict=True)]
        entered = [(now if waited else then).time for then, now, waited in zip(came, returned, blocked, strict=True)]
        written = np.array([call.ended for call in calls for _ in call.refs]) - began
        return Path(
            came=np.array([seen.time for seen in came]) - began,
            entered=np.array(entered) - began,
            written=written,
            alone=written,
            blocked_puts=(sum(blocked),),
        )


async def run_replica(
    store: NotedStore, load: Load, *, queue_size: int, batch_size: int, blob: Callable[[], Blob], seed: int = 0
) -> Run:
    """Put blobs to a replica with `store` as its only async one, each in a task of its own, when their times come.

    When the time is up, what waits and what is queued is cancelled, and left out of the figures.

    Raises:
      StoreFailedError: if the store fails.

    """
    arrivals = load.arrivals(np.random.default_rng(seed))
    blobs = [blob() for _ in arrivals]  # before the run, because it takes some time
    earlier, door = len(store.calls), _Door()
    began = trio.current_time()
    with suppress(PoisonedError), trio.move_on_after(load.seconds):
        async with replica.open([door], [store], queue_size=queue_size, batch_size=batch_size) as door.replica:
            await door.let_come(blobs, began + arrivals)
    failure = door.statistics().failure
    if failure is not None:  # of a put, or a result that the replica takes for none
        raise store.failed(failure) from failure
    calls = store.calls[earlier:]
    path = door.path(calls, began)
    sizes = np.array([len(call.refs) for call in calls], dtype=float)
    ended = np.array([call.ended for call in calls]) - began
    came = path.came[np.cumsum(sizes, dtype=int) - sizes.astype(int)]  # the first of each
    worker = ended - np.maximum(came, np.concatenate([[0.0], ended[:-1]]))
    return Run(queue_size, batch_size, path, sizes, worker, np.array(door.late))
