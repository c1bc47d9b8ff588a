"""The advice: the least queue size, and batch size, that keep a promise.

Puts come as a Poisson process and one async store takes them. What is asked for is that few puts wait in the steady
state, and that bursts and stalls are ridden out. All but bursts at a rate, which are drawn, and the 99th percentile is
calculated: see `levels` and `disturbances`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from . import recursion
from .disturbances import least_for_burst, least_for_burst_at, least_for_stall
from .draws import factors, poisson_arrivals, service_times
from .levels import LARGEST, Batches, Calls, Nodes, Singles
from .recursion import BatchCost

if TYPE_CHECKING:
    from collections.abc import Callable

    from .levels import Queue

LEAST_SHARE: Final = 1e-9
"""Nothing that is rarer can be told from rounding errors."""

MOST: Final = 10**9
"""Blobs. Bursts and stalls that bring more are refused."""

LOADS: Final = (0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.01)
"""Of what the store can take at most, so much is tried where it is too much."""

SHARES: Final = tuple(digit * 10.0**-place for place in range(9, 0, -1) for digit in (1, 2, 5))
"""So large a `wait_share` is tried where there is too little memory."""

SEED: Final = 20240228
DRAWN: Final = 200_000
"""From so many puts, always the same ones, is the 99th percentile found."""


class NoQueueWillDo(ValueError):  # noqa: N818 - it says what is the case
    """There is no queue size that keeps the promise."""

    def __init__(self, reason: str, remedy: str) -> None:
        """Say why, and what would."""
        super().__init__(f"{reason}; {remedy}")
        self.remedy = remedy
        """What would do: it was tried."""


@dataclass(frozen=True)
class Recommendation:
    """A queue size and what it leads to. Times are in seconds."""

    queue_size: int
    batch_size: int
    memory_bytes: int
    """Of a full queue, a batch that is being written, and one blob of each caller."""
    wait_share: float
    """The share of puts that wait in the steady state."""
    mean_wait: float
    """Of all puts in the steady state, also those that don't wait."""
    p99_wait: float
    """So long a wait 1 % of the puts exceed in the steady state: 0 if fewer wait, and else by a simulation."""
    mean_loss: float
    """Blobs acknowledged and not yet written if the process is killed at a random moment of the steady state."""
    worst_loss: int
    """The same at the worst moment."""
    drain_seconds: float
    """Mean time to write a full queue, after a full batch that has just begun."""
    limited_by: str
    """What needs so large a queue: "steady load", "burst" or "stall"."""
    reason: str
    """The same in a sentence."""


class Workload(NamedTuple):
    """What is asked for: the arguments of `recommend` that the queue size follows from."""

    calls: Calls
    burst: int | None
    burst_rate: float | None
    stall: float
    wait_share: float


class Plan(NamedTuple):
    """A queue size for one batch size."""

    queue: Queue
    needs: dict[str, int]
    """The least queue size for each thing that is asked for."""

    @property
    def batch_size(self) -> int:
        """The most blobs that are written at once."""
        return self.queue.batch_size

    @property
    def queue_size(self) -> int:
        """The largest of the needs."""
        return max(self.needs.values())

    @property
    def blobs(self) -> int:
        """What queue and batch hold together, the least of which is looked for."""
        return self.queue_size + self.batch_size


def recommend(
    *,
    rate: float,
    service_time: float,
    service_cv: float = 1.0,
    batch_cost: tuple[float, float] | None = None,
    burst: int | None = None,
    burst_rate: float | None = None,
    stall: float = 0.0,
    blob_size: float,
    memory: float,
    callers: int,
    wait_share: float = 0.01,
) -> Recommendation:
    """Return the queue size and the batch size that are together the least of those that keep the promise.

    Of several with the same sum it is the one with the smaller batch size. The promise is that in the steady state the
    share of puts that wait is at most `wait_share`, and that a burst and a stall are ridden out with a probability of
    at least 1 - `wait_share`: that no put waits from its beginning until the queue is empty again.

    The smallest sum is found by halving, on the assumption that a larger batch never needs a larger queue.

    Args:
      rate: puts a second. They come at random, as a Poisson process.
      service_time: mean seconds that the store takes for a put.
      service_cv: the standard deviation of its times, divided by the mean. With 0 they are always the same, with 1
        exponential, and else log-normal: see `draws.factors`.
      batch_cost: seconds a and b, if a ``put_many`` of k blobs, 2 or more, takes a + b·k on average. None means as long
        as its puts one after another: then batches gain nothing, and the batch size is 1.
      burst: so many blobs come now and then in place of the steady stream, beginning at a random moment.
      burst_rate: the rate a second with which they come, at random. None means all at once.
      stall: for so many seconds the store stops answering now and then, beginning at a random moment; then the call
        that is in flight goes on.
      blob_size: mean bytes of a blob.
      memory: bytes that there are for the blobs in the queue, in the batch that is being written, and of the callers.
      callers: tasks that put at the same time, each of which has a blob of its own.
      wait_share: between 1e-9 and 1.

    Raises:
      NoQueueWillDo: if the store does not keep up with the puts, or hardly, or there is too little memory.
      ValueError: if a number is not positive, or not finite, or out of its bounds.
      TypeError: if something is of a wrong type.

    """
    _check_number("rate", rate, "puts a second")
    _check_number("service_time", service_time, "seconds")
    _check_number("service_cv", service_cv, "times the mean", least=0)
    cost = None if batch_cost is None else _checked_cost(batch_cost)
    _check_burst(burst, burst_rate)
    _check_number("stall", stall, "seconds", least=0)
    _check_number("blob_size", blob_size, "bytes")
    _check_number("memory", memory, "bytes")
    _check_count("callers", callers)
    _check_number("wait_share", wait_share, "of the puts", least=LEAST_SHARE)
    if wait_share >= 1:
        raise ValueError(f"wait_share is less than 1, not {wait_share}")
    workload = Workload(Calls(rate, service_time, service_cv, cost), burst, burst_rate, stall, wait_share)
    room = math.floor(memory / blob_size) - callers
    _check_flood(workload)
    plan = _least(workload)
    if plan is None:
        raise NoQueueWillDo(_overload(workload), _lighter(workload, room, memory, blob_size))
    if plan.blobs > room:
        raise _too_little_memory(workload, plan, blob_size, memory, callers)
    return _recommendation(workload, plan, math.ceil((plan.blobs + callers) * blob_size))
