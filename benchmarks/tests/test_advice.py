"""The recursion R confirms that the advice is enough, and that half of it is not."""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pytest

from benchmarks.queueing.measure.service import PutTimes
from benchmarks.queueing.model.draws import on_grid, poisson_arrivals, service_times
from benchmarks.queueing.model.recursion import Drained, Stall, drain, drain_at_cost
from trio_replica import QueueAdvice, recommend_queue_size
from trio_replica._advice.calls import BatchCost, Calls, factors
from trio_replica._advice.levels import Batches, Nodes

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future

    from trio_replica._advice.calls import Floats

pytestmark = pytest.mark.deep

WORKLOADS: Final = 200
"""How many are drawn."""

PATHS: Final = 12
"""Of each steady state; a standard error is that of their mean."""


class Workload(NamedTuple):
    """A workload. The mean service time is a second."""

    rate: float
    cv: float
    share: float
    cost: BatchCost | None = None
    burst: int | None = None
    burst_rate: float | None = None
    stall: float = 0.0

    def advice(self) -> QueueAdvice:
        return recommend_queue_size(
            rate=self.rate,
            service_time=1.0,
            service_cv=self.cv,
            batch_cost=self.cost,
            burst=self.burst,
            burst_rate=self.burst_rate,
            stall=self.stall,
            wait_share=self.share,
            blob_size=1000,
            memory=10**12,
            callers=3,
        )

    def drain(self, source: np.random.Generator, came: Floats, batch_size: int, stall: Stall | None = None) -> Drained:
        service = service_times(source, len(came), 1.0, self.cv)
        if self.cost is None or batch_size == 1:
            return drain(came, service, stall)
        scales = factors(source, len(came), self.cv)
        return drain_at_cost(came, service, batch_size, self.cost, factors=scales, stall=stall)

    def spare(self, batch_size: int) -> float:
        """Return the share of time that the store has left with full batches."""
        seconds = 1.0 if self.cost is None or batch_size == 1 else self.cost.of(batch_size) / batch_size
        return 1 - self.rate * seconds


def drawn(number: int) -> Workload:
    """Draw one of the workloads: a third of them with batches, and half with a burst or a stall."""
    source = np.random.default_rng([4, number])
    has_batches, is_disturbed = number % 3 == 0, number % 9 < 5
    load = source.uniform(0.1, 0.7 if has_batches else 0.9)
    cv = float(source.choice([0.0, 1.0, source.uniform(0.05, 2.0)]))
    share = math.exp(source.uniform(math.log(0.01 if is_disturbed else 0.001), math.log(0.2)))
    workload = Workload(load, cv, share)
    if has_batches:
        fixed = source.uniform(0.5, 0.9)
        workload = workload._replace(rate=load / (1 - fixed), cost=BatchCost(fixed, 1 - fixed))
    if not is_disturbed:
        return workload
    if number % 9 in {1, 3}:
        return workload._replace(stall=source.uniform(5, 60) / workload.rate)
    burst_rate = workload.rate * source.uniform(1.5, 8) if number % 2 else None
    return workload._replace(burst=int(source.integers(20, 120)), burst_rate=burst_rate)


def waited(workload: Workload, queue_sizes: list[int], batch_size: int) -> Floats:
    """Return the shares of puts that waited: a row for each path, a column for each queue size."""
    many, most = (2000, 1_500_000) if batch_size == 1 else (2000, 600_000)
    puts = int(min(most, max(most / 5, many / workload.share))) // PATHS
    shares = []
    for seed in range(PATHS):
        source = np.random.default_rng([seed, puts])
        came = poisson_arrivals(source, puts, workload.rate)
        drained = workload.drain(source, came, batch_size)
        shares.append([float((drained.entered(size) > came)[puts // 10 :].mean()) for size in queue_sizes])
    return np.array(shares)


def needed(workload: Workload, batch_size: int, source: np.random.Generator) -> int:
    """Return the least queue size with which the burst or the stall is ridden out, after a steady stream."""
    spare = workload.spare(batch_size)
    begins = (200 + 10 * batch_size) / spare / workload.rate
    steady = poisson_arrivals(source, int(1.3 * workload.rate * begins), workload.rate)
    came = steady[: np.searchsorted(steady, begins)]
    first, stall = len(came), None
    if workload.burst is not None:
        gaps = np.zeros(workload.burst)
        if workload.burst_rate is not None:
            gaps = source.exponential(1 / workload.burst_rate, workload.burst)
        came = np.append(came, begins + np.cumsum(on_grid(gaps)))
        begins = float(came[-1])
    else:
        stall = Stall(begins, begins + workload.stall)
    more = 100 + int(3 * ((workload.burst or 0) + workload.rate * workload.stall) / spare)
    came = np.append(came, poisson_arrivals(source, more, workload.rate, begins))
    taken = workload.drain(source, came, batch_size, stall).taken
    over = int(np.searchsorted(taken, stall.end)) if stall else first + (workload.burst or 0) - 1
    emptied = np.append(came[1:] > taken[:-1], True)  # when the blob was taken, nothing was left
    until = over + int(emptied[over:].argmax()) + 1
    ahead = np.arange(first, until) - np.searchsorted(taken, came[first:until], side="right")
    return int(ahead.max(initial=-1)) + 1


class Judged(NamedTuple):
    """The result for a workload: the shares of the puts that waited, or of the disturbances in which any did."""

    workload: Workload
    advised: QueueAdvice
    whole: float
    whole_error: float
    """With the queue size that is advised, in a steady state: the share, and its standard error."""
    missed: float
    missed_error: float
    """The same of disturbances; nothing if the steady load is what limits."""
    half: float
    half_error: float
    """With half that queue size, of what limits it."""


def judged(number: int) -> Judged:
    workload = drawn(number)
    advised = workload.advice()
    sizes = [advised.queue_size, advised.queue_size // 2]
    shares = waited(workload, sizes, advised.batch_size)
    whole, half = shares.mean(axis=0).tolist()
    whole_error, half_error = (shares.std(axis=0, ddof=1) / math.sqrt(PATHS)).tolist()
    missed = missed_error = 0.0
    if advised.limited_by != "steady load":
        count = 600 if advised.batch_size == 1 else 200
        source = np.random.default_rng([5, number])
        needs = np.array([needed(workload, advised.batch_size, source) for _ in range(count)])
        missed, half = (float((needs > size).mean()) for size in sizes)
        missed_error = math.sqrt(workload.share * (1 - workload.share) / count)
        half_error = math.sqrt(half * (1 - half) / count)
    return Judged(workload, advised, whole, whole_error, missed, missed_error, half, half_error)


@pytest.fixture(scope="module")
def judgements() -> Generator[list[Future[Judged]], None, None]:
    """All workloads, judged on all processors."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        yield [pool.submit(judged, number) for number in range(WORKLOADS)]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("number", range(WORKLOADS))
def test_what_is_advised_for_a_drawn_workload_holds_and_half_of_it_does_not(
    judgements: list[Future[Judged]], number: int
) -> None:
    found = judgements[number].result()
    share = found.workload.share
    assert found.whole - 3 * found.whole_error <= share
    assert found.missed - 3 * found.missed_error <= share
    assert found.advised.queue_size == 1 or found.half - 3 * found.half_error > share


@pytest.mark.parametrize(("queue_size", "batch_size"), [(8, 8), (16, 16), (24, 12)])
def test_batches_wait_as_by_the_recursion(queue_size: int, batch_size: int) -> None:
    workload = Workload(4, 1, 0.05, BatchCost(0.875, 0.125))
    shares = waited(workload, [queue_size], batch_size)[:, 0]
    known = Batches(Nodes(Calls(4, 1, 1, workload.cost), 400, 60), batch_size).share(queue_size)
    assert abs(shares.mean() - known) < 4 * shares.std(ddof=1) / math.sqrt(PATHS)


def slow_moments(source: np.random.Generator, count: int, length: int) -> Floats:
    """Draw exponential times, a tenth of which are five times as long as the others, `length` in a row on average."""
    lengths = source.geometric(np.tile([1 / (9 * length), 1 / length], 2 * count // length))
    scales = np.repeat(np.tile([1.0, 5.0], len(lengths) // 2), lengths)[:count]
    times = scales * source.exponential(1.0, count)
    return on_grid(times / times.mean())


@pytest.mark.parametrize("load", [0.4, 0.63, 0.8])
@pytest.mark.parametrize("length", [1, 20, 100])
def test_the_margin_from_a_measurement_suits_a_store_with_slow_moments(load: float, length: int) -> None:
    source = np.random.default_rng([6, length])
    measured = PutTimes(slow_moments(source, 100_000, length))
    workload: dict[str, Any] = {"rate": load, "service_time": measured.mean, "service_cv": measured.cv}
    plain, larger = (recommend_queue_size(**workload, margin=margin) for margin in (1, measured.margin))
    shares = np.zeros(2)
    for _ in range(PATHS):
        came = poisson_arrivals(source, 50_000, load)
        drained = drain(came, slow_moments(source, len(came), length))
        shares += [(drained.entered(one.queue_size) > came).mean() / PATHS for one in (plain, larger)]
    if length == 1:
        assert measured.margin < 1.5
        assert shares[0] < 0.013
    else:
        assert shares[0] > 0.05  # what the advice says of times that are not correlated is far off
    assert shares[1] < 0.03
