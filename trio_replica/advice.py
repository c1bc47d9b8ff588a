"""The advice: the least queue size, and batch size, that keep a promise.

Puts come as a Poisson process, and one async store takes them. Few of them are to wait in the steady state, and bursts
and stalls are to be ridden out. All is calculated but bursts at a rate, which are drawn: see `_advice`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from ._advice.calls import BatchCost, Calls
from ._advice.levels import LONGEST
from ._advice.search import STALL, STEADY_LOAD, Workload, least

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._advice.search import Plan

LEAST_SHARE: Final = 1e-9
"""Nothing that is rarer can be told from rounding errors."""

MOST: Final = 10**9
"""Blobs. Bursts and stalls that bring more are refused."""

MOST_UNEVEN: Final = 100
"""Of log-normal times with a larger coefficient of variation half are less than a hundredth of the mean."""

LOADS: Final = (0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.01)
"""So large shares of what the store can take are tried where it is given too much."""

SHARES: Final = tuple(digit / 10**places for places in range(8, 0, -1) for digit in (1, 2, 5))
"""So large a `wait_share` is tried where there is too little memory."""


class NoQueueWillDo(ValueError):  # noqa: N818 - it says what is the case
    """There is no queue size that keeps the promise."""

    def __init__(self, reason: str, remedy: str) -> None:
        """Say why, and what would do."""
        super().__init__(f"no queue will do: {reason}; {remedy}")
        self.remedy = remedy
        """What would do. All that it names was tried."""


@dataclass(frozen=True)
class Recommendation:
    """A queue size, and what follows from it. Times are in seconds; means are those of the steady state."""

    queue_size: int
    batch_size: int
    memory_bytes: int
    """Of the blobs in a full queue, those of a batch that is being written, and one of each caller."""
    wait_share: float
    """The share of puts that wait in the steady state."""
    mean_wait: float
    """Of all puts, also of those that don't wait."""
    mean_loss: float
    """Blobs that the store lacks, of those acknowledged, if the process is killed at a random moment."""
    worst_loss: int
    """The same at the worst moment."""
    drain_seconds: float
    """Until a full queue is written, and before it a full batch that has just been taken: the mean."""
    limited_by: str
    """What needs so large a queue: "steady load", "burst" or "stall"."""
    reason: str
    """The same in a sentence."""


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
    """Return the queue size and the batch size that keep the promise and are together the least.

    Of several with the same sum it is the one with the smaller batch. The promise is that in the steady state the share
    of puts that wait is at most `wait_share`, and that bursts and stalls are ridden out with a probability of at least
    1 - `wait_share`: from the beginning until the queue is empty again no put waits.

    Even a short stall needs more than the steady load, for not one put may wait until the queue is empty.

    The queue size is the least for its batch size. It is a little larger with a burst at a rate, that is drawn, and
    with batches where more than some hundred blobs are held: by 1 in 30, and 1 in 20 at 99.9 % of what the store takes
    at most. Among the batch sizes it is assumed that the sum has no narrow dips, and of large sums a saving of 1 in 200
    is not looked for: see `plans`.

    Args:
      rate: puts a second. They come at random, as a Poisson process.
      service_time: mean seconds that the store takes for a put.
      service_cv: the standard deviation of the store's times divided by the mean. With 0 they are always the same, with
        1 exponential, and else log-normal: see `draws.factors`.
      batch_cost: seconds a and b, if a ``put_many`` of k blobs, 2 or more, takes a + b·k on average, with the same
        `service_cv`. None if it takes as long as its puts one after another: then batches gain nothing, and are of 1.
      burst: so many blobs come now and then, in place of the steady stream, beginning at a random moment.
      burst_rate: as a Poisson process of so many a second; None means all at once.
      stall: so many seconds the store does not answer now and then, beginning at a random moment. A call that is in
        flight goes on afterwards.
      blob_size: mean bytes of a blob.
      memory: bytes that there are for the blobs in the queue, in the batch that is being written, and of the callers.
      callers: how many tasks put at the same time. Each has a blob of its own.
      wait_share: at least 1e-9 and less than 1.

    Raises:
      NoQueueWillDo: if the store does not keep up with the puts, or hardly, or if there is too little memory.
      ValueError: if a number is out of its bounds, or not finite.
      TypeError: if something is not a number, or not a pair of them.

    """
    _check_positive("rate", rate, "puts a second")
    _check_positive("service_time", service_time, "seconds")
    _check_not_negative("service_cv", service_cv, "times the mean")
    if service_cv > MOST_UNEVEN:
        raise ValueError(f"service_cv is at most {MOST_UNEVEN}, not {service_cv}")
    cost = None if batch_cost is None else _checked_cost(batch_cost)
    if burst is not None:
        _check_count("burst", burst, "blobs")
    if burst_rate is not None:
        _check_positive("burst_rate", burst_rate, "blobs a second")
        if burst is None:
            raise ValueError("burst_rate needs a burst: say how many blobs come at that rate")
    _check_not_negative("stall", stall, "seconds")
    _check_positive("blob_size", blob_size, "bytes")
    _check_positive("memory", memory, "bytes")
    _check_count("callers", callers, "tasks")
    if not LEAST_SHARE <= _checked_number("wait_share", wait_share, "waiting puts for each put") < 1:
        raise ValueError(f"wait_share is at least {LEAST_SHARE:g} and less than 1, not {wait_share}")
    if callers > MOST:
        raise ValueError(f"callers is at most {MOST} tasks, not {callers}")
    _check_flood(rate, burst, stall)
    workload = Workload(Calls(rate, service_time, service_cv, cost), burst, burst_rate, stall, wait_share)
    room = _Memory(memory, blob_size, callers)
    plan = least(workload)
    if plan is None:
        raise NoQueueWillDo(_overload(workload), _less_load(workload, room))
    if room.needed(plan) > memory:
        raise NoQueueWillDo(
            f"a queue of {plan.queue_size}, batches of {plan.batch_size} and {callers} callers hold "
            f"{room.needed(plan)} bytes, and there are {memory}",
            _more_memory(workload, plan, room),
        )
    return _recommendation(workload, plan, room.needed(plan))


@dataclass(frozen=True)
class _Memory:
    """What the blobs may take."""

    size: float
    blob_size: float
    callers: int

    def needed(self, plan: Plan) -> int:
        """Return the bytes that a plan needs."""
        return math.ceil((plan.blobs + self.callers) * self.blob_size)

    def holds(self, workload: Workload) -> bool:
        """Return whether there is a plan that it is enough for."""
        plan = least(workload)
        return plan is not None and self.needed(plan) <= self.size


def _recommendation(workload: Workload, plan: Plan, memory_bytes: int) -> Recommendation:
    calls, queue_size, batch_size = workload.calls, plan.queue_size, plan.batch_size
    batches, rest = divmod(queue_size, batch_size)
    full, last = calls.seconds(np.array([batch_size, rest])).tolist()
    share = plan.queue.share(queue_size)
    return Recommendation(
        queue_size=queue_size,
        batch_size=batch_size,
        memory_bytes=memory_bytes,
        wait_share=share,
        mean_wait=plan.queue.mean_wait(queue_size),
        mean_loss=plan.queue.mean_loss(queue_size),
        worst_loss=queue_size + batch_size,
        drain_seconds=full * (1 + batches) + (last if rest else 0.0),
        limited_by=plan.limited_by,
        reason=_reason(workload, plan, share),
    )


def _reason(workload: Workload, plan: Plan, share: float) -> str:
    chosen = f"a queue of {plan.queue_size} and batches of {plan.batch_size}"
    if plan.limited_by != STEADY_LOAD:
        return (
            f"{_disturbance(workload, plan.limited_by)}, is ridden out with a probability of "
            f"{1 - workload.wait_share:.10g} with {chosen}; for the steady load alone a queue of "
            f"{plan.needs[STEADY_LOAD]} would do."
        )
    smaller, busy = plan.queue_size - 1, 1 - plan.queue.idle
    told, otherwise = f"{share:.3g}", "no queue is smaller, and it may be"
    if smaller:
        told, more = _apart(share, plan.queue.share(smaller), workload.wait_share)
        otherwise = f"with a queue of {smaller} it would be {more}, more than"
    most = f"{busy:.1%}" if busy < 0.9995 else "over 99.9%"
    return (
        f"The store is busy {most} of the time, and with {chosen} the share of puts that wait is {told}; "
        f"{otherwise} {workload.wait_share:g}."
    )


def _apart(share: float, more: float, allowed: float) -> tuple[str, str]:
    """Return two shares with so many digits, three or more, that one is seen to be more than the other and allowed."""
    told = [(f"{share:.{digits}g}", f"{more:.{digits}g}") for digits in range(3, 18)]
    return next((less, over) for less, over in told if float(less) < float(over) > allowed)


def _disturbance(workload: Workload, name: str) -> str:
    if name == STALL:
        return f"A stall of {workload.stall:g} s, in which {workload.calls.rate * workload.stall:.3g} blobs come"
    speed = "all at once" if workload.burst_rate is None else f"{workload.burst_rate:g} a second"
    return f"A burst of {workload.burst} blobs, {speed}"


def _overload(workload: Workload) -> str:
    """Return why there is no plan."""
    rate, capacity = workload.calls.rate, _capacity(workload.calls)
    if rate < capacity:
        return f"for {rate:g} puts a second more than {LONGEST} blobs would have to be queued"
    return f"{rate:g} puts come a second, and the store takes {capacity:.4g} at most"


def _capacity(calls: Calls) -> float:
    """Return how many puts a second the store takes, in batches of whatever size."""
    if calls.cost is None:
        return 1 / calls.service_time
    return max(1 / calls.service_time, 1 / calls.cost.each if calls.cost.each else math.inf)


def _less_load(workload: Workload, room: _Memory) -> str:
    """Return what would do where there is no plan: the largest rate, or service time, of some."""
    calls = workload.calls
    rates = [_rounded(load * min(calls.rate, _capacity(calls))) for load in LOADS]
    slower = [workload._replace(calls=replace(calls, rate=rate)) for rate in rates]
    remedies = [f"{one.calls.rate:g} puts a second" for one in _first(slower, room.holds)]
    if calls.cost is None:
        times = [_rounded(load / calls.rate) for load in LOADS]
        faster = [workload._replace(calls=replace(calls, service_time=time)) for time in times]
        remedies += [f"a service_time of {one.calls.service_time:g} s" for one in _first(faster, room.holds)]
    if not remedies:  # too little memory as well
        enough = _Memory(math.inf, room.blob_size, room.callers)
        plans = [(one.calls.rate, least(one)) for one in _first(slower, enough.holds)]
        remedies = [f"{rate:g} puts a second and {room.needed(plan)} bytes of memory" for rate, plan in plans if plan]
    return f"{' or '.join(remedies) or 'a much faster store'} would do"


def _first(candidates: Sequence[Workload], will_do: Callable[[Workload], bool]) -> Sequence[Workload]:
    """Return the first of the candidates that will do, if there is one; all that follow it will, too."""
    place = bisect_left(candidates, x=True, key=will_do)
    return candidates[place : place + 1]


def _rounded(number: float) -> float:
    """Return the number rounded down to three digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return float(f"{math.floor(number / unit) * unit:.3g}")


def _more_memory(workload: Workload, plan: Plan, room: _Memory) -> str:
    """Return what would do where there is a plan, and too little memory for it."""
    remedies = [f"{room.needed(plan)} bytes of memory"]
    blob_size = math.floor(room.size / (plan.blobs + room.callers))
    if blob_size:
        remedies.append(f"blobs of {blob_size} bytes")
    humbler = [workload._replace(wait_share=share) for share in SHARES if share > workload.wait_share]
    remedies += [f"a wait_share of {one.wait_share:g}" for one in _first(humbler, room.holds)]
    return f"{' or '.join(remedies)} would do"


def _check_flood(rate: float, burst: int | None, stall: float) -> None:
    if burst is not None and burst > MOST:
        raise ValueError(f"burst is at most {MOST} blobs, not {burst}")
    if rate * stall > MOST:
        raise ValueError(f"stall is at most {MOST / rate:g} seconds at that rate, for {MOST} blobs, not {stall}")


def _checked_cost(cost: object) -> BatchCost:
    if not isinstance(cost, (tuple, list)) or len(cost) != 2:
        raise TypeError(f"batch_cost is a pair of seconds, for a batch and for each blob in it, not {cost!r}")
    fixed, each = cost
    _check_not_negative("batch_cost[0]", fixed, "seconds")
    _check_not_negative("batch_cost[1]", each, "seconds")
    if fixed + each == 0:
        raise ValueError("batch_cost is not 0 both for a batch and for each blob in it")
    return BatchCost(fixed, each)


def _check_positive(name: str, number: object, unit: str) -> None:
    if not _checked_number(name, number, unit) > 0:
        raise ValueError(f"{name} is more than 0 {unit}, and finite, not {number}")


def _check_not_negative(name: str, number: object, unit: str) -> None:
    if not _checked_number(name, number, unit) >= 0:
        raise ValueError(f"{name} is 0 or more {unit}, and finite, not {number}")


def _checked_number(name: str, number: object, unit: str) -> float:
    """Return the number; NaN, with which no comparison holds, if it is not finite."""
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise TypeError(f"{name} is a number of {unit}, not {number!r}")
    try:
        return number if math.isfinite(number) else math.nan
    except OverflowError:  # an int that is larger than any float
        return math.nan


def _check_count(name: str, count: object, unit: str) -> None:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} is an int, a number of {unit}, not {count!r}")
    if count < 1:
        raise ValueError(f"{name} is 1 or more {unit}, not {count}")
