"""`recommend_queue_size`, which calculates how large a queue should be.

`docs/queue-size.md` derives the formulas. They are in `_advice/`, which needs numpy (the extra ``advice``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

from ._errors import ReplicaError

if TYPE_CHECKING:
    from ._advice.search import Plan, Workload

LEAST_SHARE: Final = 1e-9
"""The least `wait_share`, because rarer waits can't be distinguished from rounding errors."""

MOST_BLOBS: Final = 10**9
"""The most blobs that may arrive in a burst or a stall."""

MOST_UNEVEN: Final = 100
"""The largest `service_cv`. Half of such log-normal times are below a hundredth of the mean."""

MOST_MARGIN: Final = 10_000

ALMOST_ALWAYS: Final = 0.9995
"""The share of busy time above which the advice says "over 99.9%"."""


@final
class NoQueueSizeError(ReplicaError, ValueError):
    """No queue size keeps the promise. The message says why, and `remedy` says which changes would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        """Make the error from two clauses of a sentence."""
        super().__init__(reason, remedy)
        self.remedy = remedy
        """The changes that would help. Each of them was tried."""

    def __str__(self) -> str:
        return f"no queue will do: {self.args[0]}; {self.remedy}"


@final
@dataclass(frozen=True)
class QueueAdvice:
    """A queue size and its consequences, from `recommend_queue_size`. Times are seconds.

    The shares and means are those of the steady load. They hold under the `assumptions`.
    """

    queue_size: int
    """The `queue_size` for `open`, in blobs."""
    batch_size: int
    """The `batch_size` for `open`, in blobs."""
    memory_bytes: int
    """Bytes of the blobs in a full queue, in the batch being written, and held by the callers (one each)."""
    wait_share: float
    """The share of the puts that wait for room in the queue."""
    mean_wait: float
    """The mean wait of all puts. Puts that do not wait count as 0."""
    mean_loss: float
    """The mean number of accepted blobs that the store lacks if the process is killed at a random moment."""
    worst_loss: int
    """The number of accepted blobs that the store lacks if the process is killed at the worst moment."""
    drain_seconds: float
    """The mean time to write a full queue, after a full batch that the worker has just taken."""
    limited_by: Literal["steady load", "burst", "stall"]
    """The part of the workload that needs so large a queue."""
    reason: str
    """The reason why the queue is not smaller, in words."""
    assumptions: str
    """The conditions under which this holds, in words."""


def recommend_queue_size(
    *,
    rate: float,
    service_time: float,
    service_cv: float = 1.0,
    batch_cost: tuple[float, float] | None = None,
    burst: int | None = None,
    burst_rate: float | None = None,
    stall: float = 0.0,
    blob_size: float = 64 * 1024,
    memory: float = 256 * 1024 * 1024,
    callers: int = 64,
    wait_share: float = 0.01,
    margin: float = 1.0,
) -> QueueAdvice:
    """Return the `queue_size` and the `batch_size` that one async store needs.

    With these, at most `wait_share` of the puts wait for room in the steady state. With a probability of at least 1 -
    `wait_share`, no put waits from the beginning of a burst or a stall until the queue is empty again. The sum of the
    two sizes is the least that keeps this promise. Of equal sums, the one with the smaller batch is chosen.

    The calculation makes two assumptions. **Puts arrive independently of each other**, as a Poisson process; give
    bursts with `burst`. **Service times are not correlated**, so a slow call says nothing about the next one. Real
    stores have slow moments, and then many more puts wait. For one directory store with a mean of 2 ms, the advice for
    1 % of the puts was a queue of 9, and 25 % waited. The `margin` multiplies the queue size to allow for that.

    To choose a `margin`, measure several thousand calls one after another. Let cv be the standard deviation of their
    times divided by the mean. Add up the times of each m consecutive calls, and let I be the variance of these sums
    divided by m times the square of the mean time. Double m until I no longer grows, or until fewer than 16 sums are
    left. Then ``margin = (1 + I) / (1 + cv**2)``, at least 1. ``python -m benchmarks queue --store URL`` does so. If I
    never stops growing, the store has slow periods longer than the measurement. Then give their length as a `stall`.

    The result is the same each time. The calculation takes about 0.1 seconds, and up to a few seconds for a
    `batch_cost` with a `burst_rate`. It is fastest with ``OPENBLAS_NUM_THREADS=1`` in the environment, because its
    matrices are small.

    M/G/1 queues use the recursion for their departures and the formula of Pollaczek and Khinchine (Kleinrock, *Queueing
    Systems* 1, chapter 5). Bursts and stalls use the ballot theorem of Takács (*Combinatorial Methods in the Theory of
    Stochastic Processes*, 1967). Batches use a Markov chain from batch to batch. The margin uses the heavy-traffic
    limit for dependent service times (Fendick, Saksena and Whitt, "Dependence in packet queues", *IEEE Transactions on
    Communications* 37, 1989). ``docs/queue-size.md`` derives the formulas and says how they were checked.

    Args:
      rate: puts a second.
      service_time: the mean seconds that the store takes for a put, measured in use rather than alone.
      service_cv: the standard deviation of the store's times divided by their mean. Times are constant for 0,
        exponential for 1, and otherwise log-normal.
      batch_cost: seconds a and b, if a ``put_many`` of k blobs (2 or more) takes a + b·k on average, with the same
        `service_cv`. None if it takes as long as its puts one after another, so that batches gain nothing.
      burst: the number of blobs in an occasional burst, which replaces the steady stream and begins at a random moment.
      burst_rate: the puts a second in a burst, as a Poisson process. None if they arrive all at once.
      stall: the seconds of an occasional stall in which the store does not answer, beginning at a random moment. A call
        in progress goes on afterwards.
      blob_size: the mean bytes of a blob.
      memory: the bytes for the blobs in the queue, in the batch being written, and of the callers.
      callers: the number of tasks that put at the same time. Each holds one blob.
      wait_share: the share of the puts that may wait, and of the bursts and stalls in which any put may wait, from 1e-9
        to below 1.
      margin: the factor by which the queue is made larger, from 1 to 10,000, because slow calls come together. The
        `wait_share` of the result is that of the queue before it is made larger, because the larger queue should have
        this share with correlated times. `mean_wait` and `mean_loss` are scaled up accordingly.

    Raises:
      NoQueueSizeError: if the store does not or hardly keep up with the puts, or there is too little memory. It is a
        `ValueError`, and says what would help.
      ValueError: if a number is out of its bounds or not finite. The message begins with the name of the argument.
      TypeError: if an argument is not a number, or `batch_cost` is not a pair of numbers.
      ModuleNotFoundError: if numpy is missing. Then run ``pip install 'trio-replica[advice]'``.

    """
    _check_positive("rate", rate, "puts a second")
    _check_positive("service_time", service_time, "seconds")
    _check_between("service_cv", service_cv, "times the mean", 0, MOST_UNEVEN)
    cost = None if batch_cost is None else _checked_cost(batch_cost)
    if burst is not None:
        _check_count("burst", burst, "blobs")
    if burst_rate is not None:
        _check_positive("burst_rate", burst_rate, "puts a second")
        if burst is None:
            raise ValueError("burst_rate needs a burst: say how many blobs arrive at that rate")
    _check_between("stall", stall, "seconds", 0, MOST_BLOBS / rate)  # its arrivals have the same bound
    _check_positive("blob_size", blob_size, "bytes")
    _check_positive("memory", memory, "bytes")
    _check_count("callers", callers, "tasks")
    if not LEAST_SHARE <= _checked_number("wait_share", wait_share, "waiting puts for each put") < 1:
        raise ValueError(f"wait_share must be at least {LEAST_SHARE:g} and less than 1, not {wait_share}")
    _check_between("margin", margin, "times the queue", 1, MOST_MARGIN)
    try:
        from ._advice.calls import BatchCost, Calls  # noqa: PLC0415  (numpy takes a while to import)
        from ._advice.remedies import Room, refusal  # noqa: PLC0415
        from ._advice.search import Workload, least  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        needed = "recommend_queue_size needs numpy: pip install 'trio-replica[advice]'"
        raise ModuleNotFoundError(needed, name="numpy") from None
    calls = Calls(rate, service_time, service_cv, None if cost is None else BatchCost(*cost))
    workload = Workload(calls, burst, burst_rate, stall, wait_share, margin)
    room = Room(memory, blob_size, callers)
    plan = least(workload)
    if plan is None or not room.holds(plan):
        raise NoQueueSizeError(*refusal(workload, plan, room))
    return _advice(workload, plan, room.needed(plan))


def _advice(workload: Workload, plan: Plan, memory_bytes: int) -> QueueAdvice:
    size, margin = max(plan.needs.values()), workload.margin
    return QueueAdvice(
        queue_size=plan.queue_size,
        batch_size=plan.batch_size,
        memory_bytes=memory_bytes,
        wait_share=plan.queue.share(size),
        mean_wait=margin * plan.queue.mean_wait(size),
        mean_loss=margin * plan.queue.mean_loss(size),
        worst_loss=plan.blobs,
        drain_seconds=plan.drain_seconds,
        limited_by=plan.limited_by,
        reason=_reason(workload, plan, size),
        assumptions=_assumptions(margin),
    )


def _reason(workload: Workload, plan: Plan, size: int) -> str:
    chosen = f"a queue of {size} and batches of {plan.batch_size}"
    more = "" if workload.margin == 1 else f" The margin of {workload.margin:g} makes it a queue of {plan.queue_size}."
    if plan.limited_by != "steady load":
        return (
            f"{_disturbance(workload, plan.limited_by)}, passes without a waiting put with a probability of "
            f"{1 - workload.wait_share:.10g} with {chosen}; for the steady load alone a queue of "
            f"{plan.needs['steady load']} would do.{more}"
        )
    share, busy = plan.queue.share(size), 1 - plan.queue.idle
    told, otherwise = f"{share:.3g}", "no queue is smaller, and it may be"
    if size > 1:
        told, larger = _apart(share, plan.queue.share(size - 1), workload.wait_share)
        otherwise = f"with a queue of {size - 1} it would be {larger}, more than"
    most = f"{busy:.1%}" if busy < ALMOST_ALWAYS else "over 99.9%"
    return (
        f"The store is busy {most} of the time, and with {chosen} the share of puts that wait is {told}; "
        f"{otherwise} {workload.wait_share:g}.{more}"
    )


def _apart(share: float, more: float, allowed: float) -> tuple[str, str]:
    """Return two shares with enough digits (at least three) to distinguish `more` from `share` and from `allowed`."""
    told = [(f"{share:.{digits}g}", f"{more:.{digits}g}") for digits in range(3, 18)]
    return next((less, over) for less, over in told if float(less) < float(over) > allowed)


def _disturbance(workload: Workload, name: str) -> str:
    if name == "stall":
        return f"A stall of {workload.stall:g} s, in which {workload.calls.rate * workload.stall:.3g} blobs arrive"
    speed = "all at once" if workload.burst_rate is None else f"{workload.burst_rate:g} a second"
    return f"A burst of {workload.burst} blobs, {speed}"


def _assumptions(margin: float) -> str:
    puts = "This assumes that puts arrive independently of each other (a Poisson process)"
    if margin > 1:
        return f"{puts} and that service times are as correlated as the margin of {margin:g} allows for."
    return (
        f"{puts} and that service times are not correlated. A store whose slow calls come together needs more: see "
        "the margin."
    )


def _checked_cost(cost: object) -> tuple[float, float]:
    match cost:
        case (one, other):
            fixed = _check_between("batch_cost[0]", one, "seconds")
            each = _check_between("batch_cost[1]", other, "seconds")
        case _:
            raise TypeError(f"batch_cost must be a pair of seconds, for a batch and for each blob in it, not {cost!r}")
    if fixed + each == 0:
        raise ValueError("batch_cost must not be 0 both for a batch and for each blob in it")
    return fixed, each


def _check_positive(name: str, number: object, unit: str) -> None:
    if not _checked_number(name, number, unit) > 0:
        raise ValueError(f"{name} must be more than 0 {unit} and finite, not {number}")


def _check_between(name: str, number: object, unit: str, least: float = 0, most: float = math.inf) -> float:
    checked = _checked_number(name, number, unit)
    if not least <= checked <= most:
        bound = "and finite" if most == math.inf else f"and at most {most:g}"
        raise ValueError(f"{name} must be at least {least:g} {unit} {bound}, not {number}")
    return checked


def _checked_number(name: str, number: object, unit: str) -> float:
    """Return the number, or NaN if it is not finite, because no comparison with NaN holds."""
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number of {unit}, not {number!r}")
    try:
        return number if math.isfinite(number) else math.nan
    except OverflowError:  # an int larger than any float
        return math.nan


def _check_count(name: str, count: object, unit: str) -> None:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} must be an int, a number of {unit}, not {count!r}")
    if not 1 <= count <= MOST_BLOBS:
        raise ValueError(f"{name} must be at least 1 and at most {MOST_BLOBS} {unit}, not {count}")
