"""The service times of a store, and the cost of batches that fits them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.queueing.measure.service import BatchTimes, PutTimes, fit, stretch
from trio_replica._advice.calls import BatchCost


def test_the_cost_of_batches_is_found_again() -> None:
    sizes = np.tile([2.0, 4.0, 8.0, 64.0], 3)
    assert fit(sizes, 0.01 + 0.002 * sizes) == pytest.approx(BatchCost(0.01, 0.002))


def test_neither_part_of_the_cost_is_negative() -> None:
    sizes = np.array([2.0, 4.0, 8.0])
    assert fit(sizes, np.array([3.0, 3.0, 3.0]) - 0.01 * sizes)[1] == 0
    assert fit(sizes, 2 * sizes - 0.1) == pytest.approx(BatchCost(0.0, 1.98), abs=0.02)
    assert fit(sizes, 2 * sizes - 0.1).fixed == 0


def test_a_long_time_of_a_large_batch_weighs_no_more_than_a_short_one_of_a_small_batch() -> None:
    sizes = np.array([2.0, 2.0, 64.0, 64.0])
    # Each size's times are a fifth above and below what they would cost.
    assert fit(sizes, (1 + sizes) * np.array([0.8, 1.2, 0.8, 1.2])) == pytest.approx(BatchCost(1.0, 1.0))


def test_the_times_of_batches_are_told_by_size() -> None:
    times = BatchTimes.of([(2, 3.0), (4, 5.5), (2, 3.0), (4, 4.5)])
    assert times is not None
    assert times.means == {2: 3.0, 4: 5.0}
    assert times.cost == pytest.approx(BatchCost(1.0, 1.0))
    assert times.factors == pytest.approx([1.0, 1.1, 1.0, 0.9])
    assert times.spread == pytest.approx(math.sqrt(0.02 / 4))
    assert times.pay(PutTimes(np.array([1.4])))
    assert not times.pay(PutTimes(np.array([1.3])))  # 1.25 is no tenth less


def test_of_one_size_there_is_no_cost() -> None:
    assert BatchTimes.of([]) is None
    assert BatchTimes.of([(2, 3.0), (2, 3.5)]) is None


def test_the_times_of_puts_have_a_mean_a_spread_and_quantiles() -> None:
    times = PutTimes(np.array([1.0, 2.0, 3.0]))
    assert times.mean == times.quantile(0.5) == 2.0
    assert times.cv == pytest.approx(math.sqrt(2 / 3) / 2)


def test_a_stretch_goes_on_in_order_and_begins_anywhere() -> None:
    source = np.random.default_rng(1)
    stretches = {tuple(stretch(np.arange(3.0), 5, source).tolist()) for _ in range(50)}
    assert stretches == {(0, 1, 2, 0, 1), (1, 2, 0, 1, 2), (2, 0, 1, 2, 0)}


def test_too_few_times_say_nothing_of_a_margin() -> None:
    assert PutTimes(np.array([1.0, 9.0] * 7)).margin == 1.0
    assert PutTimes(np.array([1.0] * 16 + [9.0] * 16)).margin > 1.0
