"""The figures of a run at one queue size, from the times at which each blob came, entered the queue and was written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .recursion import lacking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_replica._advice.calls import Floats

    from .recursion import Drained


class Path(NamedTuple):
    """The times of the blobs of one run, in seconds, in the order of their arrival."""

    came: Floats
    """When the put began."""
    entered: Floats
    """When the put returned: the blob was in the queue of every async store."""
    written: Floats
    """When every async store had confirmed it."""
    alone: Floats
    """When they would have, if nothing had come after it."""
    blocked_puts: tuple[int, ...]
    """For each async store, how many of the puts waited for room in its queue."""

    @classmethod
    def of(cls, workers: Sequence[Drained], queue_size: int) -> Path:
        """Return what happened with a worker for each async store, for queues of that size."""
        came = workers[0].came
        entered = [worker.entered(queue_size) for worker in workers]
        return cls(
            came,
            np.maximum.reduce(entered),
            np.maximum.reduce([worker.written for worker in workers]),
            np.maximum.reduce([worker.alone for worker in workers]),
            tuple(int((times > came).sum()) for times in entered),
        )


@dataclass(frozen=True)
class Point:
    """One run at one queue size. Times are in seconds, and means over time are over the window that is looked at."""

    puts: int
    """The puts that are counted."""
    blocked_puts: int
    """Those of them that waited for room."""
    wait_share: float
    """Their share."""
    mean_wait: float
    p50_wait: float
    p99_wait: float
    p999_wait: float
    throughput: float
    """Blobs a second, from the first put to the last blob written."""
    mean_lag: float
    """The mean age of the oldest blob that is queued and not yet written; 0 while there is none."""
    peak_lag: float
    mean_held: float
    """Blobs in memory: queued, being written, and those of puts that wait."""
    peak_held: float
    mean_loss: float
    """Blobs accepted and not yet in the store: it lacks these if the process is killed at a random moment."""
    worst_loss: float
    mean_drain: float
    """Until what is queued is written, if the block ends at a random moment."""
    worst_drain: float

    @classmethod
    def of(cls, path: Path, first: int = 0, last: int | None = None) -> Point:
        """Return the figures of the puts from `first` until `last`, as if no others were there."""
        came, entered, written, alone = (times[first:last] for times in path[:4])
        waits = entered - came
        blocked = waits[waits > 0]
        lasted = float(written[-1] - came[0])
        oldest = np.maximum(entered, np.concatenate([entered[:1], written[:-1]]))  # when it became the oldest
        until = np.concatenate([entered[1:], [np.inf]])  # when another one is the last to have entered
        return cls(
            puts=len(came),
            blocked_puts=len(blocked),
            wait_share=len(blocked) / len(came),
            mean_wait=float(waits.mean()),
            p50_wait=_quantile(blocked, len(came), 0.5),
            p99_wait=_quantile(blocked, len(came), 0.99),
            p999_wait=_quantile(blocked, len(came), 0.999),
            throughput=len(came) / lasted,
            mean_lag=_area(written - entered, oldest - entered) / lasted,
            peak_lag=float((written - entered).max()),
            mean_held=float((written - came).sum()) / lasted,
            peak_held=float(lacking(came, written, came).max()),
            mean_loss=float((written - entered).sum()) / lasted,
            worst_loss=float(lacking(entered, written, entered).max()),
            mean_drain=_area(alone - entered, alone - np.minimum(alone, until)) / lasted,
            worst_drain=float((alone - entered).max()),
        )


def _area(beginning: Floats, end: Floats) -> float:
    """Return the sum of the areas under lines of slope 1 or -1 between these heights."""
    return float(np.abs(beginning**2 - end**2).sum() / 2)


def _quantile(blocked: Floats, puts: int, share: float) -> float:
    """Return the least wait that so large a share of the puts did not exceed; `blocked` are those over 0."""
    place = math.ceil(share * puts) - 1 - (puts - len(blocked))
    return float(np.partition(blocked, place)[place]) if place >= 0 else 0.0


def lag(path: Path, at: Floats) -> Floats:
    """Return how old the oldest blob that is queued and not yet written is, at each of the times `at`."""
    oldest = np.searchsorted(path.written, at, side="right")
    entered = np.append(path.entered, np.inf)
    ages: Floats = np.maximum(at - entered[oldest], 0.0)
    return ages
