"""The search for the least queue and batch that suit a workload."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from .disturbances import DRAWN, least_for_burst, least_for_burst_at, least_for_stall
from .levels import LONGEST, Batches, Nodes, Singles

if TYPE_CHECKING:
    from .calls import BatchCost, Calls
    from .levels import Queue

Need: TypeAlias = Literal["steady load", "burst", "stall"]
"""A part of the workload that a queue has to be large enough for."""

HARDLY: Final = 200
"""The search ignores savings of less than one blob in this many."""

HARDLY_KEEPS_UP: Final = 1e-9
"""A store that is idle for a smaller share of the time counts as one that does not keep up."""

FEW: Final = DRAWN // 8
"""Calls to draw for each batch size that is tried. For the chosen one, `DRAWN` calls are drawn."""

MISSED: Final = 1 / 20
"""The share of the allowed misses (bursts and stalls in which puts may wait) that the calculated numbers may leave
out."""


class Workload(NamedTuple):
    """The puts and the store, and the promise: see `recommend_queue_size`."""

    calls: Calls
    burst: int | None
    burst_rate: float | None
    stall: float
    wait_share: float
    margin: float = 1.0


class Plan(NamedTuple):
    """A queue size for one batch size."""

    queue: Queue
    needs: dict[Need, int]
    """The least queue size for each need, without the margin."""
    margin: float

    @property
    def batch_size(self) -> int:
        """The most blobs that the worker writes at once."""
        return self.queue.batch_size

    @property
    def queue_size(self) -> int:
        """The largest of the needs, made larger by the margin."""
        return math.ceil(self.margin * max(self.needs.values()) - 1e-9)

    @property
    def blobs(self) -> int:
        """The blobs in a full queue and a full batch, which the search minimizes."""
        return self.queue_size + self.batch_size

    @property
    def limited_by(self) -> Need:
        """The largest need."""
        return max(self.needs, key=self.needs.__getitem__)

    @property
    def drain_seconds(self) -> float:
        """The mean time to write a full queue, after a full batch that the worker has just taken."""
        batches, rest = divmod(self.queue_size, self.batch_size)
        full, last = self.queue.calls.seconds(np.array([self.batch_size, rest])).tolist()
        return float(full * (1 + batches) + (last if rest else 0.0))


def least(workload: Workload) -> Plan | None:
    """Return the plan that holds the fewest blobs, with the smallest batch size if there are several.

    Returns None if there is no such plan, or if it needs more than `levels.LONGEST` blobs.
    """
    single = _single(workload)
    return single if workload.calls.cost is None else _in_batches(workload, workload.calls.cost, single)


def _single(workload: Workload) -> Plan | None:
    """Return the plan for a batch size of 1."""
    if 1 - workload.calls.rate * workload.calls.service_time < HARDLY_KEEPS_UP:
        return None
    top = 256
    while top <= LONGEST:
        plan = _planned(workload, Singles(workload.calls, top))
        if plan is not None and _is_known(workload, plan):
            return plan
        top *= 4
    return None


def _in_batches(workload: Workload, cost: BatchCost, single: Plan | None) -> Plan | None:
    """Return the least plan with any batch size."""
    calls = workload.calls
    each = calls.rate * cost.each
    if 1 - each < HARDLY_KEEPS_UP:
        return single
    usual = calls.rate * cost.fixed / (1 - each)  # the mean batch, below which the store does not keep up
    first = max(2, int(usual) + 1)
    top = 64 + 3 * first + 8 * int(math.sqrt(usual * (1 + usual * calls.cv**2)))
    if workload.burst is not None and workload.burst_rate is not None:
        # The best batch is so long that one blob more makes the queue shorter by one.
        longest = math.sqrt(cost.fixed * workload.burst / workload.burst_rate) - cost.fixed
        # Four times the batch with which the store would keep up with the burst is as good as any larger one.
        during = max(1e-9, 1 - workload.burst_rate * cost.each)
        most = 4 * workload.burst_rate * cost.fixed / during
        top = int(max(top, min(LONGEST // 2, 2 * workload.burst, 2 * longest / max(cost.each, 1e-300), most)))
    while top <= LONGEST:
        nodes = Nodes(calls, top, 8 * first)
        roomy = _planned(workload, Batches(nodes, 2 * first), drawn=FEW)
        if roomy is not None and roomy.needs["steady load"] + 2 * first < 0.6 * top and _is_known(workload, roomy):
            found = _search(workload, nodes, first, _less(roomy, single))
            return _less(_planned(workload, found.queue) or found, single)
        top *= 2
    return single


def _search(workload: Workload, nodes: Nodes, first: int, best: Plan) -> Plan:
    """Return the least of `best` and the plans for batches of `first` blobs or more.

    Each batch size tried is half as large again as the one before. Then the gaps between them are halved. The search
    assumes that no queue within a gap is smaller than that of the better end, so a plan in the gap holds at least that
    queue and the gap's smallest batch. A gap in which that would be hardly less than the best is left alone.
    """
    tried: dict[int, float] = {}

    def attempt(size: int) -> None:
        nonlocal best
        tried[size] = math.inf
        if (size - nodes.calls.means(np.array([size]))[0]) / size < HARDLY_KEEPS_UP:
            return
        plan = _planned(workload, Batches(nodes, size), enough=best.blobs, drawn=FEW)
        if plan is not None:
            tried[size] = plan.queue_size
            best = _less(best, plan)

    size = first
    while size < min(best.blobs, nodes.top):
        attempt(size)
        size = max(size + 1, size * 3 // 2)
    while True:
        pairs = itertools.pairwise(sorted(tried))
        gaps = [(low + 1 + min(tried[low], tried[high]), low + 1, high) for low, high in pairs if low + 1 < high]
        blobs, low, high = min(gaps, default=(math.inf, 0, 0))
        if (blobs, low) >= (best.blobs - best.blobs // HARDLY, best.batch_size):
            return best
        attempt(math.isqrt(low * high))


def _less(plan: Plan, other: Plan | None) -> Plan:
    """Return the plan that holds less, or the one with smaller batches."""
    if other is None or (plan.blobs, plan.batch_size) <= (other.blobs, other.batch_size):
        return plan
    return other


def _planned(workload: Workload, queue: Queue, enough: float = math.inf, drawn: int = DRAWN) -> Plan | None:
    """Return the plan with the batch size of `queue`, or None if a need is beyond the numbers that `queue` knows.

    If the batch and the queue for the steady load alone hold more than `enough`, the other needs are left out.
    """
    share, burst = workload.wait_share, workload.burst
    steady = queue.least(share)
    if steady is None:
        return None
    needs: dict[Need, int | None] = {"steady load": steady}
    if queue.batch_size + steady > enough:
        return Plan(queue, {"steady load": steady}, workload.margin)
    if workload.stall:
        needs["stall"] = least_for_stall(queue, workload.stall, share)
    if burst is not None:
        needs["burst"] = least_for_burst(queue, burst, share)
    known = {need: size for need, size in needs.items() if size is not None}
    if len(known) < len(needs):
        return None
    if burst is not None and workload.burst_rate is not None and max(known, key=known.__getitem__) == "burst":
        # A burst at a rate needs less than all at once, so it is drawn only if that may matter.
        at_rate = least_for_burst_at(queue, burst, workload.burst_rate, share, drawn)
        known["burst"] = min(known["burst"], at_rate or known["burst"])
    return Plan(queue, known, workload.margin)


def _is_known(workload: Workload, plan: Plan) -> bool:
    """Return whether the probability beyond the numbers that the queue knows is too small to matter."""
    is_disturbed = workload.burst is not None or workload.stall > 0
    queue = plan.queue
    return not is_disturbed or 1 - queue.idle - float(queue.left.sum()) <= workload.wait_share * MISSED
