"""The two engines of the queue-size laboratory agree: the recursion, and the real code in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.queueing.model import recursion, virtual
from benchmarks.queueing.model.draws import GRID, on_grid, poisson_arrivals, service_times
from benchmarks.queueing.model.points import Path, Point, lag
from benchmarks.queueing.model.recursion import Stall, lacking
from benchmarks.queueing.model.scenarios import Burst, Producers, Scenario, Stalled, Steady, scenarios
from trio_replica._advice.calls import BatchCost, factors

pytestmark = pytest.mark.deep

ALL = scenarios()


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_every_put_waits_as_long_in_the_real_code_as_by_the_recursion(scenario: Scenario, batches: bool) -> None:
    drawn = scenario.draw(1, 200)
    for queue_size in (1, 4, 64):
        path = drawn.path(queue_size, batches=batches)
        ran = drawn.run(queue_size, batches=batches)
        assert np.array_equal(ran.path.came, path.came)
        assert np.array_equal(ran.path.entered, path.entered)
        assert np.array_equal(ran.path.written, path.written)
        assert ran.path.blocked_puts == path.blocked_puts
        if not isinstance(scenario, Producers):  # whose block ends after their last pause
            assert ran.drain == path.alone[-1] - path.entered[-1]


@pytest.mark.parametrize("stall", [None, Stall(20.0, 60.0)])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_they_agree_on_batches_whose_times_vary(batch_size: int, stall: Stall | None) -> None:
    source = np.random.default_rng(5)
    came = poisson_arrivals(source, 400, 2.0)
    service = service_times(source, 400, 1.0, 1.0)
    scales = np.round(factors(source, 400, 0.5) * 2**20) / 2**20  # so that the products are on the grid
    cost = BatchCost(0.75, 0.25)
    worker = recursion.drain_at_cost(came, service, batch_size, cost, factors=scales, stall=stall)
    for queue_size in (1, 5, 40):
        path = Path.of([worker], queue_size)
        ran = virtual.run_open_loop(came, [virtual.store(service, cost, scales, stall)], queue_size, batch_size)
        assert np.array_equal(ran.path.entered, path.entered)
        assert np.array_equal(ran.path.written, path.written)


def test_a_batch_of_one_is_a_put() -> None:
    source = np.random.default_rng(6)
    came, service = poisson_arrivals(source, 300, 0.8), service_times(source, 300, 1.0, 1.0)
    one_by_one = recursion.drain(came, service)
    for same in (
        recursion.drain_in_batches(came, service, 1),
        recursion.drain_at_cost(came, service, 1, BatchCost(9.0, 9.0)),
    ):
        assert np.array_equal(same.taken, one_by_one.taken)
        assert np.array_equal(same.written, one_by_one.written)
        assert np.array_equal(same.alone, one_by_one.alone)


def test_what_is_written_alone_is_what_is_written_when_nothing_comes_after_it() -> None:
    source = np.random.default_rng(7)
    came, service = poisson_arrivals(source, 60, 3.0), service_times(source, 60, 1.0, 1.0)
    scales = factors(source, 60, 1.0)
    whole = recursion.drain_at_cost(came, service, 6, BatchCost(1.0, 0.25), factors=scales)
    for count in range(1, 61):
        part = recursion.drain_at_cost(came[:count], service, 6, BatchCost(1.0, 0.25), factors=scales)
        sizes = np.unique(part.taken, return_counts=True)[1]
        if sizes[-1] > 1 or whole.written[count - 1] == part.written[-1]:  # else a put stands where a batch did
            assert whole.alone[count - 1] == part.written[-1]


# Points


def by_hand() -> Path:
    """Four puts, a queue of one, a second each: the third waits until the second is taken."""
    return Path.of([recursion.drain(np.array([0.0, 0.25, 0.5, 3.0]), np.ones(4))], 1)


def test_the_figures_of_a_path_done_by_hand() -> None:
    path = by_hand()
    assert path.entered.tolist() == [0, 0.25, 1, 3]
    assert path.written.tolist() == [1, 2, 3, 4]
    assert path.blocked_puts == (1,)
    assert Point.of(path) == Point(
        puts=4,
        blocked_puts=1,
        wait_share=0.25,
        mean_wait=0.125,
        p50_wait=0.0,
        p99_wait=0.5,
        p999_wait=0.5,
        throughput=1.0,
        # The oldest is 0 to 1 old in the first second, then 0.75 to 1.75, 1 to 2, and 0 to 1.
        mean_lag=(0.5 + 1.25 + 1.5 + 0.5) / 4,
        peak_lag=2.0,
        mean_held=(1 + 1.75 + 2.5 + 1) / 4,
        peak_held=3.0,
        mean_loss=(1 + 1.75 + 2 + 1) / 4,
        worst_loss=2.0,
        # Until 1 before 0.25, until 2 before 1, until 3 before 3, until 4 before 4.
        mean_drain=(0.25 * 0.875 + 0.75 * 1.375 + 2 * 1 + 1 * 0.5) / 4,
        worst_drain=2.0,
    )


def test_a_window_looks_at_some_of_the_puts() -> None:
    assert Point.of(by_hand(), 1, 3).wait_share == 0.5
    assert Point.of(by_hand(), 1, 3).puts == 2
    assert Point.of(by_hand(), 3).blocked_puts == 0


def test_lag_is_the_age_of_the_oldest_that_is_not_written() -> None:
    at = np.array([0.0, 0.5, 1.0, 1.5, 2.5, 3.0, 3.5, 4.0, 9.0])
    assert lag(by_hand(), at).tolist() == [0, 0.5, 0.75, 1.25, 1.5, 0, 0.5, 0, 0]


def test_a_quantile_is_a_wait_that_happened() -> None:
    # A stall of 100: ten waits, of 91 to 100 less what has come since.
    came = np.arange(1000.0)
    path = Path(came, came + np.r_[np.arange(1.0, 11.0), np.zeros(990)], came + 20, came + 20, (10,))
    point = Point.of(path)
    assert (point.p50_wait, point.p99_wait, point.p999_wait) == (0.0, 0.0, 9.0)
    assert point.blocked_puts == 10


@pytest.mark.parametrize("queue_size", [1, 3, 10, 99, 100, 1000])
def test_no_more_blobs_are_lost_than_the_queue_and_the_batch_hold(queue_size: int) -> None:
    source = np.random.default_rng(8)
    came, service = poisson_arrivals(source, 100, 5.0), service_times(source, 100, 1.0, 1.0)
    point = Point.of(Path.of([recursion.drain_in_batches(came, service, 4)], queue_size))
    assert point.worst_loss <= min(queue_size + 4, 100)
    assert point.worst_loss >= min(queue_size, 70)


def test_what_is_lacking_at_a_time() -> None:
    entered, written = np.array([0.0, 1.0, 2.0]), np.array([1.0, 5.0, 6.0])
    assert lacking(entered, written, np.array([0.0, 1.0, 2.0, 5.5, 6.0])).tolist() == [1, 1, 2, 1, 0]


# Draws


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0])
def test_service_times_have_the_mean_and_the_variation_asked_for(cv: float) -> None:
    drawn = service_times(np.random.default_rng(3), 400_000, 0.02, cv)
    assert drawn.mean() == pytest.approx(0.02, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.05, abs=1e-6)


def test_times_are_on_the_grid_and_never_nothing() -> None:
    times = on_grid(np.array([0.0, 1e-15, 0.1, 3.0]))
    assert times[:2].tolist() == [GRID, GRID]
    assert (times % GRID == 0).all()
    assert np.allclose(times[2:], [0.1, 3.0], atol=GRID)
    assert (np.diff(poisson_arrivals(np.random.default_rng(4), 10_000, 1000.0)) > 0).all()


# Scenarios


def test_a_seed_draws_the_same_again_and_another_does_not() -> None:
    for scenario in ALL:
        one, again, other = (scenario.draw(seed, 50).path(4, batches=True) for seed in (1, 1, 2))
        assert np.array_equal(one.entered, again.entered)
        assert not np.array_equal(one.entered[:50], other.entered[:50])


def test_scenarios_have_names_of_their_own_and_known_kinds() -> None:
    assert len({scenario.name for scenario in ALL}) == len(ALL)
    assert {type(scenario) for scenario in ALL} == {Steady, Burst, Stalled, Producers}
    for scenario in ALL:
        sizes = scenario.queue_sizes()
        assert sizes == [2**power for power in range(len(sizes))]


def test_a_steady_scenario_begins_with_what_a_queue_has_to_do_after_a_long_time() -> None:
    scenario = next(scenario for scenario in ALL if scenario.name == "steady, exponential service, ρ = 0.9")
    backlogs = [scenario.draw(seed, 1).window[0] for seed in range(400)]
    assert np.mean(backlogs) == pytest.approx(9, abs=4 * np.sqrt(90 / 400))  # geometric: mean ρ/(1-ρ), variance 90
