"""Explanations of why no queue suits a workload, and of which changes would help. Every change named was tried."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from .levels import LONGEST
from .search import least

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .calls import Calls
    from .search import Plan, Workload

LOADS: Final = (0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.01)
"""Shares of the store's capacity that are tried when it is given too much."""

SHARES: Final = tuple(digit / 10**places for places in range(8, 0, -1) for digit in (1, 2, 5))
"""Values of `wait_share` that are tried when there is too little memory."""


class Room(NamedTuple):
    """The memory for the blobs."""

    size: float
    """Bytes."""
    blob_size: float
    """Mean bytes of a blob."""
    callers: int
    """Tasks that put. Each of them holds a blob, too."""

    def needed(self, plan: Plan) -> int:
        """Return the bytes that a plan needs."""
        return math.ceil((plan.blobs + self.callers) * self.blob_size)

    def holds(self, plan: Plan) -> bool:
        """Return whether there is room for a plan."""
        return self.needed(plan) <= self.size

    def suits(self, workload: Workload) -> bool:
        """Return whether there is a plan for the workload, and room for it."""
        plan = least(workload)
        return plan is not None and self.holds(plan)


def refusal(workload: Workload, plan: Plan | None, room: Room) -> tuple[str, str]:
    """Return two clauses of a sentence: why there is no plan, or no room for it, and what would help."""
    if plan is None:
        return _overload(workload), _less_load(workload, room)
    held = f"a queue of {plan.queue_size}, batches of {plan.batch_size} and {room.callers} callers"
    return f"{held} hold {room.needed(plan)} bytes, and there are {room.size}", _more_memory(workload, plan, room)


def _overload(workload: Workload) -> str:
    rate, capacity = workload.calls.rate, _capacity(workload.calls)
    if rate < capacity:
        return f"{rate:g} puts a second would need a queue of more than {LONGEST} blobs"
    return f"{rate:g} puts arrive a second, and the store takes {capacity:.4g} at most"


def _capacity(calls: Calls) -> float:
    """Return how many puts a second the store takes, in batches of any size."""
    if calls.cost is None:
        return 1 / calls.service_time
    return max(1 / calls.service_time, 1 / calls.cost.each if calls.cost.each else math.inf)


def _less_load(workload: Workload, room: Room) -> str:
    """Name the largest rate, or service time, among some that would do."""
    calls = workload.calls
    rates = [_rounded(load * min(calls.rate, _capacity(calls))) for load in LOADS]
    slower = [workload._replace(calls=replace(calls, rate=rate)) for rate in rates]
    remedies = [f"{one.calls.rate:g} puts a second" for one in _first(slower, room.suits)]
    if calls.cost is None:
        times = [_rounded(load / calls.rate) for load in LOADS]
        faster = [workload._replace(calls=replace(calls, service_time=time)) for time in times]
        remedies += [f"a service_time of {one.calls.service_time:g} s" for one in _first(faster, room.suits)]
    if not remedies:  # there is too little memory as well
        enough = room._replace(size=math.inf)
        plans = [(one.calls.rate, least(one)) for one in _first(slower, enough.suits)]
        remedies = [f"{rate:g} puts a second and {room.needed(plan)} bytes of memory" for rate, plan in plans if plan]
    return f"{' or '.join(remedies) or 'a much faster store'} would do"


def _more_memory(workload: Workload, plan: Plan, room: Room) -> str:
    remedies = [f"{room.needed(plan)} bytes of memory"]
    blob_size = math.floor(room.size / (plan.blobs + room.callers))
    if blob_size:
        remedies.append(f"blobs of {blob_size} bytes")
    humbler = [workload._replace(wait_share=share) for share in SHARES if share > workload.wait_share]
    remedies += [f"a wait_share of {one.wait_share:g}" for one in _first(humbler, room.suits)]
    return f"{' or '.join(remedies)} would do"


def _first(candidates: Sequence[Workload], will_do: Callable[[Workload], bool]) -> Sequence[Workload]:
    """Return the first of the candidates that will do, if there is one. All candidates after it have to do as well."""
    place = bisect_left(candidates, x=True, key=will_do)
    return candidates[place : place + 1]


def _rounded(number: float) -> float:
    """Return the number rounded down to three digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return float(f"{math.floor(number / unit) * unit:.3g}")
