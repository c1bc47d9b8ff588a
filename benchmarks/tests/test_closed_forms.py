"""The recursion agrees with every closed form, by z-scores over independent seeds."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.queueing.model import closed_forms, recursion
from benchmarks.queueing.model.draws import on_grid, poisson_arrivals, service_times
from benchmarks.queueing.model.points import Path, Point
from benchmarks.queueing.model.recursion import Stall
from benchmarks.queueing.model.scenarios import LARGEST_SHOWN, Service, Steady, scenarios
from benchmarks.queueing.model.theory import theory
from trio_replica._advice.calls import BatchCost, Calls
from trio_replica._advice.levels import Batches, Nodes, Singles

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.deep


SEEDS = 24
PUTS = 40_000
LOADS = (0.5, 0.8, 0.9, 0.95)
SIZES = (1, 4, 16, 64)
CVS = {"exponential": 1.0, "deterministic": 0.0, "log-normal": 2.0}

ENOUGH = 1_000
"""Of fewer waits, over all seeds, the spread says too little."""

TOO_FEW = frozenset(
    {
        ("exponential", 0.5, 16),
        ("exponential", 0.5, 64),
        ("exponential", 0.8, 64),
        ("deterministic", 0.5, 16),
        ("deterministic", 0.5, 64),
        ("deterministic", 0.8, 16),
        ("deterministic", 0.8, 64),
        ("deterministic", 0.9, 64),
        ("log-normal", 0.5, 64),
    }
)
"""The steady cells in which fewer waits are expected than are enough."""

TOO_CLUSTERED = frozenset({("exponential", 0.9, 64), ("deterministic", 0.95, 64)})
"""Those in which more are expected, but in so few long clusters that z-scores of 24 seeds say nothing.

With other seeds some of theirs are over 4 in every fourth set of 24, whereas over 60 million puts of each cell they are
under 3.
"""


def z_score(values: Sequence[float], expected: float) -> float:
    """By how many standard errors the mean of independent values is away from what is expected."""
    return float((np.mean(values) - expected) / (np.std(values, ddof=1) / math.sqrt(len(values))))


@cache
def steady(load: float, cv: float) -> list[tuple[Point, ...]]:
    """The points for all sizes, of each seed; from a queue in its steady state."""
    found = []
    for seed in range(SEEDS):
        drawn = Steady("closed forms", f"{load} {cv}", load, (Service(cv=cv),)).draw(seed, PUTS)
        found.append(tuple(drawn.point(path) for path in drawn.paths(SIZES, batches=False)))
    return found


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", CVS)
def test_steady_queues_are_as_the_distribution_of_their_length_says(name: str, load: float) -> None:
    levels = Singles(Calls(load, 1.0, CVS[name]), 2 * LARGEST_SHOWN)
    for place, size in enumerate(SIZES):
        points = [of_seed[place] for of_seed in steady(load, CVS[name])]
        loss = z_score([point.mean_loss for point in points], levels.mean_loss(size))
        assert abs(loss) < 4
        if (name, load, size) in TOO_FEW | TOO_CLUSTERED:
            continue
        assert abs(z_score([point.wait_share for point in points], levels.share(size))) < 4
        assert abs(z_score([point.mean_wait for point in points], levels.mean_wait(size))) < 4


def test_the_cells_left_out_are_those_with_too_few_waits() -> None:
    few = {
        (name, load, size)
        for name, cv in CVS.items()
        for load in LOADS
        for size in SIZES
        if Singles(Calls(load, 1.0, cv), LARGEST_SHOWN).share(size) * SEEDS * PUTS < ENOUGH
    }
    assert few == TOO_FEW


@pytest.mark.parametrize("load", LOADS)
def test_the_formulas_for_exponential_service_are_those_for_any(load: float) -> None:
    levels = Singles(Calls(load, 1.0, 1.0), 2 * LARGEST_SHOWN)
    for size in (1, 2, 10, 100):
        exact = closed_forms.mm1(load, 1.0, size)
        assert levels.share(size) == pytest.approx(exact.share, rel=1e-6, abs=1e-12)
        assert levels.mean_wait(size) == pytest.approx(exact.mean_wait, rel=1e-6, abs=1e-9)
        assert levels.mean_loss(size) == pytest.approx(exact.mean_loss, rel=1e-9)
        assert load * exact.mean_wait + exact.mean_loss == pytest.approx(load / (1 - load))  # whatever the size


@pytest.mark.parametrize(("load", "place"), [(0.5, 0), (0.5, 1), (0.8, 0), (0.8, 1), (0.8, 2), (0.9, 1), (0.9, 2)])
def test_the_p99_wait_with_exponential_service(load: float, place: int) -> None:
    points = [of_seed[place] for of_seed in steady(load, 1.0)]
    expected = closed_forms.mm1_quantile(load, 1.0, SIZES[place], 0.99)
    assert abs(z_score([point.p99_wait for point in points], expected)) < 4


@pytest.mark.parametrize(
    ("cv", "load", "size", "share"),
    [(1, 0.9, 4, 0.59049), (0, 0.9, 16, 0.03393), (2, 0.8, 4, 0.47329), (2, 0.8, 16, 0.16534)],
)
def test_figures_worked_out_elsewhere(cv: float, load: float, size: int, share: float) -> None:
    assert Singles(Calls(load, 1.0, cv), LARGEST_SHOWN).share(size) == pytest.approx(share, abs=5e-6)


def test_a_displaced_poisson_process_is_one() -> None:
    """A sync store's time shifts when a put comes to the queue, and that changes nothing."""
    shares = []
    for seed in range(SEEDS):
        source = np.random.default_rng(seed)
        came = poisson_arrivals(source, PUTS + 2_000, 0.8)
        moved = np.sort(came + on_grid(source.exponential(25.0, len(came))))
        worker = recursion.drain(moved, service_times(source, len(came), 1.0, 1.0))
        shares.append(Point.of(Path.of([worker], 4), 2_000).wait_share)
    assert abs(z_score(shares, closed_forms.mm1(0.8, 1.0, 4).share)) < 4


# Bursts and stalls


def even_burst(blobs: int, rate: float, service_rate: float) -> recursion.Drained:
    return recursion.drain(np.arange(blobs) / rate, np.full(blobs, 1 / service_rate))


def test_even_bursts_do_what_the_formulas_say() -> None:
    source = np.random.default_rng(11)
    for _ in range(400):
        blobs, service_rate = int(source.integers(2, 400)), float(source.uniform(0.5, 2.0))
        rate = service_rate * float(source.uniform(1.05, 6.0))
        worker = even_burst(blobs, rate, service_rate)
        least = closed_forms.burst_least(blobs, rate, service_rate)
        for size in {1, 7, max(1, least - 1), max(1, least), least + 5}:
            waits = worker.entered(size) - worker.came
            waiting = int((waits > 1e-9).sum())
            assert waiting == closed_forms.burst_waiting(blobs, rate, service_rate, size)
            assert (waiting == 0) == (size >= least)
            longest = closed_forms.burst_longest(blobs, rate, service_rate, size)
            assert waits.max() == pytest.approx(longest, abs=1e-9)
            quantile = closed_forms.burst_quantile(blobs, rate, service_rate, size, 0.9)
            assert np.sort(waits)[math.ceil(0.9 * blobs) - 1] == pytest.approx(quantile, abs=1e-9)


@pytest.mark.parametrize("size", [10, 128, 400])
def test_an_even_stall_does_what_the_formulas_say(size: int) -> None:
    rate, service_rate, seconds = 200.0, 350.0, 5.0
    came = np.arange(5_000) / rate + 1e-5
    stall = Stall(1.0, 1.0 + seconds)
    worker = recursion.drain(came, np.full(len(came), 1 / service_rate), stall)
    waits = worker.entered(size) - came
    expected = closed_forms.stall_waiting(rate, service_rate, seconds, size)
    assert (waits > 1e-9).sum() == pytest.approx(expected, rel=0.005, abs=2)
    assert waits.max() == pytest.approx(closed_forms.stall_longest(rate, seconds, size), abs=2 / rate)
    caught_up = closed_forms.stall_caught_up(rate, service_rate, seconds)
    behind = worker.written - came > 1.5 / service_rate
    assert came[behind].max() == pytest.approx(1.0 + caught_up, abs=2 / rate)
    looked_at = waits[(came >= 1.0) & (came < 1.0 + caught_up)]
    assert (looked_at > 1e-9).mean() == pytest.approx(closed_forms.stall_share(rate, seconds, size), abs=0.003)
    assert np.quantile(looked_at, 0.9) == pytest.approx(closed_forms.stall_quantile(rate, seconds, size, 0.9), abs=0.02)


def test_a_stall_is_ridden_out_as_often_as_a_poisson_number_says() -> None:
    rate, seconds = 1.0, 400.0
    size = round(closed_forms.stall_size(rate, seconds, 1.0))
    waited = []
    for seed in range(600):
        source = np.random.default_rng(seed)
        came = poisson_arrivals(source, 600, rate)
        worker = recursion.drain(came, np.full(600, 0.05), Stall(20.0, 20.0 + seconds))
        waited.append(bool((worker.entered(size) > came).any()))
    assert np.mean(waited) == pytest.approx(0.159, abs=0.05)  # beyond one standard deviation


# Producers, batches, two stores


def test_producers_that_do_not_pause_get_what_the_store_gives() -> None:
    throughput, latency = closed_forms.producers_at_once(8, 1.0)
    source = np.random.default_rng(12)
    pauses = np.concatenate([np.arange(8) * 2.0**-30, np.zeros(20_000)])
    for size in (1, 4, 32):
        worker = recursion.drain_closed_loop(pauses, 8, service_times(source, 20_000, 1.0, 1.0), size, 1)
        point = Point.of(Path.of([worker], size), 100)
        assert point.throughput == pytest.approx(throughput, rel=0.03)
        assert point.mean_wait == pytest.approx(latency, rel=0.03)


@pytest.mark.parametrize("size", [1, 4])
def test_producers_that_pause(size: int) -> None:
    share, wait = closed_forms.producers_with_pauses(8, 10.0, 1.0, size)
    points = []
    for seed in range(SEEDS):
        source = np.random.default_rng(seed)
        pauses = on_grid(source.exponential(10.0, 8_008))
        worker = recursion.drain_closed_loop(pauses, 8, service_times(source, 8_000, 1.0, 1.0), size, 1)
        points.append(Point.of(Path.of([worker], size), 500))
    assert abs(z_score([point.wait_share for point in points], share)) < 4
    assert abs(z_score([point.mean_wait for point in points], wait)) < 4
    if size == 4:
        assert (share, wait) == pytest.approx((0.1924, 0.4023), abs=5e-5)


@pytest.mark.parametrize(("batch_size", "size"), [(8, 8), (8, 20), (12, 12), (16, 6)])
def test_batches_are_as_the_chain_of_their_beginnings_says(batch_size: int, size: int) -> None:
    cost = BatchCost(0.875, 0.125)
    queue = Batches(Nodes(Calls(4.0, 1.0, 0.0, cost), 300, 64), batch_size)
    points = []
    for seed in range(SEEDS):
        came = poisson_arrivals(np.random.default_rng(seed), 20_500, 4.0)
        worker = recursion.drain_at_cost(came, np.ones(len(came)), batch_size, cost)
        points.append(Point.of(Path.of([worker], size), 500))
    assert abs(z_score([point.wait_share for point in points], queue.share(size))) < 4
    assert abs(z_score([point.mean_wait for point in points], queue.mean_wait(size))) < 4
    assert abs(z_score([point.mean_loss for point in points], queue.mean_loss(size))) < 4


def test_which_batches_keep_up_and_how_large_they_are() -> None:
    assert not closed_forms.batches_keep_up(4.0, 0.875, 0.125, 7)
    assert closed_forms.batches_keep_up(4.0, 0.875, 0.125, 8)
    rate, fixed, each = 100.0, 0.1, 0.005
    usual = closed_forms.mean_batch(rate, fixed, each)
    assert usual == pytest.approx(20.0)
    came = poisson_arrivals(np.random.default_rng(13), 60_000, rate)
    worker = recursion.drain_at_cost(came, np.full(60_000, fixed + each), 1_000, BatchCost(fixed, each))
    assert len(came) / len(np.unique(worker.taken)) == pytest.approx(usual, rel=0.02)
    size = round(closed_forms.batch_safe_start(rate, fixed, each, 2.33))
    assert Point.of(Path.of([worker], size), 500).wait_share < 0.02


@pytest.mark.parametrize("other", [0.6, 0.8])
def test_two_stores_make_as_many_puts_wait_as_the_bounds_allow(other: float) -> None:
    low, high = closed_forms.two_stores(0.9, (1.0, 0.9 / other), 4)
    scenario = next(one for one in scenarios() if one.name == f"two async stores, ρ = 0.9 and {other}")
    shares = []
    for seed in range(SEEDS):
        drawn = scenario.draw(seed, 20_000)
        shares.append(drawn.point(drawn.path(4, batches=False)).wait_share)
    assert z_score(shares, low) > -4
    assert z_score(shares, high) < 4
    assert low < np.mean(shares) < high


# At the door, and what is drawn dashed


def test_there_is_no_steady_state_where_the_store_does_not_keep_up() -> None:
    for call in (
        lambda: closed_forms.mm1(1.0, 1.0, 4),
        lambda: closed_forms.mm1_quantile(2.0, 1.0, 4, 0.5),
        lambda: closed_forms.stall_caught_up(1.0, 1.0, 5.0),
    ):
        with pytest.raises(ValueError, match="there is no steady state"):
            call()


@pytest.mark.parametrize("size", [1, 4, 16])
def test_theory_is_near_what_the_recursion_finds_wherever_there_is_one(size: int) -> None:
    compared = 0
    for scenario in scenarios():
        drawn = [scenario.draw(seed, 40_000) for seed in range(8)]
        for batches in (False, True):
            known = theory(scenario, size, batches=batches)
            if known is None:
                continue
            points = [one.point(one.path(size, batches=batches)) for one in drawn]
            for name, figure in (
                ("wait_share", known.share),
                ("p99_wait", known.p99_wait),
                ("mean_loss", known.mean_loss),
            ):
                found = np.mean([getattr(point, name) for point in points])
                if figure is not None and (known.share or 0) > 0.02:
                    assert found == pytest.approx(figure, rel=0.25), (scenario.name, name)
                    compared += 1
    assert compared >= 14
