"""The advice holds, and half of it does not, by the recursion, for 200 drawn workloads."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from benchmarks.queueing import recursion
from benchmarks.queueing.advice import Recommendation, recommend
from benchmarks.queueing.draws import factors, poisson_arrivals, service_times
from benchmarks.queueing.recursion import BatchCost, Drained, Stall

PLENTY = {"blob_size": 1, "memory": 10**9, "callers": 1}

WORKLOADS = 200
SEED = 20261124


class Workload(NamedTuple):
    """One that was drawn; the mean service time is a second."""

    rate: float
    cv: float
    share: float
    cost: BatchCost | None = None
    burst: int | None = None
    burst_rate: float | None = None
    stall: float = 0.0

    def advice(self) -> Recommendation:
        return recommend(
            rate=self.rate,
            service_time=1.0,
            service_cv=self.cv,
            batch_cost=self.cost,
            burst=self.burst,
            burst_rate=self.burst_rate,
            stall=self.stall,
            wait_share=self.share,
            **PLENTY,
        )

    def drain(self, source: np.random.Generator, came: recursion.Floats, batch: int, stall: Stall | None) -> Drained:
        service = service_times(source, len(came), 1.0, self.cv)
        if self.cost is None or batch == 1:
            return recursion.drain(came, service, stall)
        scales = factors(source, len(came), self.cv)
        return recursion.drain_at_cost(came, service, batch, self.cost, factors=scales, stall=stall)


def drawn(number: int) -> Workload:
    """Workloads in turn: steady ones, with cheap batches, with bursts at once and at a rate, and with stalls."""
    source = np.random.default_rng([SEED, number])
    load = float(source.uniform(0.2, 0.9))
    cv = (0.0, 1.0, round(float(source.uniform(0.1, 2.0)), 2))[number % 3]
    share = float(10 ** source.uniform(-3, -0.7))
    kind = number % 5
    if kind == 1:
        fixed = float(source.uniform(0.3, 0.9))
        cost = BatchCost(fixed, 1.0 - fixed)
        return Workload(load / (1.0 - fixed), cv, share, cost)
    share = max(share, 0.02) if kind else share
    if kind == 2:
        return Workload(load, cv, share, burst=int(source.integers(20, 200)))
    if kind == 3:
        return Workload(load, cv, share, burst=int(source.integers(20, 200)), burst_rate=float(source.uniform(1.5, 6)))
    return Workload(load, cv, share, stall=float(source.uniform(20, 200)) if kind else 0.0)


def steady_shares(workload: Workload, advised: Recommendation, sizes: list[int]) -> list[list[float]]:
    """The share that waits for each queue size, in independent paths that are long enough for the rarest waits."""
    paths, puts = 20, int(min(60_000, max(8_000, 100 / workload.share)))
    found = []
    for seed in range(paths):
        source = np.random.default_rng([SEED, seed])
        came = poisson_arrivals(source, 4_000 + puts, workload.rate)
        worker = workload.drain(source, came, advised.batch_size, None)
        found.append([float((worker.entered(size) > came)[4_000:].mean()) for size in sizes])
    return found


def missed(workload: Workload, advised: Recommendation, sizes: list[int]) -> list[list[float]]:
    """For each queue size whether a put waits, from the beginning of a burst or a stall until its end is written."""
    found = []
    for seed in range(600):
        source = np.random.default_rng([SEED, seed])
        start = 400 / workload.rate  # when a put comes, the queue is longer than at a random moment
        before = poisson_arrivals(source, 600, workload.rate)
        before = before[before < start]
        if workload.stall:
            after = poisson_arrivals(source, int(workload.rate * workload.stall * 3) + 200, workload.rate, start)
            came, stall = np.concatenate([before, after]), Stall(start, start + workload.stall)
        else:
            assert workload.burst is not None
            rate = workload.burst_rate or 2.0**20
            burst = poisson_arrivals(source, workload.burst, rate, start)
            after = poisson_arrivals(source, 200, workload.rate, float(burst[-1]))
            came, stall = np.concatenate([before, burst, after]), None
        worker = workload.drain(np.random.default_rng([SEED, seed, 1]), came, advised.batch_size, stall)
        first = len(before)
        last = first + (workload.burst or int((after < start + workload.stall).sum()))
        idle = np.flatnonzero(came[last:] > worker.written[last - 1 : -1])
        end = last + (int(idle[0]) if len(idle) else len(came))
        found.append([float((worker.entered(size) > came)[first:end].any()) for size in sizes])
    return found


@pytest.mark.parametrize("number", range(WORKLOADS))
def test_the_advice_holds_and_half_of_it_does_not(number: int) -> None:
    workload = drawn(number)
    advised = workload.advice()
    sizes = [advised.queue_size, advised.queue_size // 2 or 1]
    is_steady = advised.limited_by == "steady load"
    outcomes = np.array((steady_shares if is_steady else missed)(workload, advised, sizes))
    means, errors = outcomes.mean(axis=0), outcomes.std(axis=0, ddof=1) / math.sqrt(len(outcomes))
    floor = math.sqrt(workload.share * (1 - workload.share) / len(outcomes)) if not is_steady else 0.0
    assert means[0] - 3 * max(errors[0], floor) <= workload.share
    if advised.queue_size > 1:
        assert means[1] + 3 * errors[1] > workload.share
