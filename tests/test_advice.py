"""The advice on queue sizes: how large it is by formulas, and what it says."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import trio_replica as replica
from trio_replica import NoQueueSizeError, QueueAdvice, recommend_queue_size
from trio_replica._advice.arrivals import exceeding, excess
from trio_replica._advice.calls import BatchCost, Calls
from trio_replica._advice.disturbances import least_for_burst, least_for_burst_at
from trio_replica._advice.levels import Batches, Nodes, Singles

if TYPE_CHECKING:
    from trio_replica._advice.levels import Queue

ROOMY: Final[dict[str, Any]] = {"blob_size": 1000, "memory": 10**12, "callers": 3}


def advice(**changed: Any) -> QueueAdvice:
    return recommend_queue_size(**{"rate": 90.0, "service_time": 0.01, **ROOMY, **changed})


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8, 0.9, 0.99, pytest.param(0.9999, marks=pytest.mark.deep)])
@pytest.mark.parametrize("share", [0.2, 0.01, 0.001, 1e-6])
def test_with_exponential_times_all_is_as_the_formulas_say(load: float, share: float) -> None:
    advised = advice(rate=100 * load, wait_share=share)
    size = max(1, math.ceil(math.log(share) / math.log(load) - 1 - 1e-9))
    waits = load ** (size + 1)
    assert (advised.queue_size, advised.batch_size, advised.limited_by) == (size, 1, "steady load")
    assert advised.wait_share == pytest.approx(waits, rel=1e-5, abs=1e-11)
    assert advised.mean_wait == pytest.approx(waits / (100 * (1 - load)), rel=1e-4, abs=1e-9)
    assert advised.mean_loss == pytest.approx(load * (1 - waits) / (1 - load), rel=1e-6)
    assert advised.worst_loss == size + 1
    assert advised.drain_seconds == pytest.approx(0.01 * (size + 1))
    assert advised.memory_bytes == (size + 4) * 1000


# The figures of the Pollaczek–Khinchine recursion, for the probability that a put waits.
@pytest.mark.parametrize(
    ("load", "cv", "queue_size", "share"), [(0.9, 0, 16, 0.03393), (0.8, 2, 4, 0.47329), (0.8, 2, 16, 0.16534)]
)
def test_single_puts_wait_as_the_recursion_of_m_g_1_says(load: float, cv: float, queue_size: int, share: float) -> None:
    assert Singles(Calls(load, 1, cv), 256).share(queue_size) == pytest.approx(share, abs=6e-6)


@pytest.mark.parametrize("cv", [0, 0.3, 1])
def test_the_chain_for_batches_says_the_same_of_batches_of_one(cv: float) -> None:
    calls = Calls(0.7, 1, cv, BatchCost(0.5, 0.5))
    one, other = Singles(calls, 120), Batches(Nodes(calls, 120, 120), 1)
    for size in (1, 2, 5, 10):
        assert other.share(size) == pytest.approx(one.share(size), abs=1e-8)
        assert other.mean_wait(size) == pytest.approx(one.mean_wait(size), abs=1e-6)
        assert other.mean_loss(size) == pytest.approx(one.mean_loss(size), abs=1e-6)
    assert other.idle == pytest.approx(one.idle, abs=1e-8)
    assert other.left[:50] == pytest.approx(one.left[:50], abs=1e-8)
    assert other.walk[:50] == pytest.approx(one.walk[:50], abs=1e-8)
    assert other.least(0.01) == one.least(0.01)


@pytest.mark.parametrize("cv", [*(pytest.param(cv, marks=pytest.mark.deep) for cv in (1e-4, 0.01)), 0.3, 1, 2])
def test_what_comes_during_a_call_has_the_right_moments(cv: float) -> None:
    means, at = np.array([0.3, 4.0, 90.0]), np.arange(3000)
    assert excess(means, cv, at)[:, 0] == pytest.approx(means, rel=1e-5)
    squares = excess(means, cv, at, second=True)[:, 0]
    assert squares == pytest.approx(means**2 * (1 + cv**2) / 2, rel=1e-4)
    assert excess(means, cv, at)[0, 1:].sum() == pytest.approx(squares[0], rel=1e-4)
    assert exceeding(4.0, cv, 3000) == pytest.approx(-np.diff(excess(means, cv, np.arange(3002))[1]), abs=1e-5)


@pytest.mark.parametrize(
    ("rate", "cv", "cost"),
    [
        (0.5, 0.5, (0.6, 0.4)),
        pytest.param(4, 1, (0.875, 0.125), marks=pytest.mark.deep),
        pytest.param(4, 0, (0.875, 0.125), marks=pytest.mark.deep),
        pytest.param(1.2, 1, (0.8, 0.2), marks=pytest.mark.deep),
        pytest.param(2, 0, (1.5, 0), marks=pytest.mark.deep),
    ],
)
def test_no_other_batch_size_holds_less(rate: float, cv: float, cost: tuple[float, float]) -> None:
    calls = Calls(rate, 1, cv, BatchCost(*cost))
    nodes = Nodes(calls, 390, 390)
    queues: list[Queue] = [Batches(nodes, size) for size in range(2, 60) if calls.means(np.array([size]))[0] < size]
    queues += [Singles(calls, 256)] if rate < 1 else []
    sizes = [(size + queue.batch_size, queue.batch_size) for queue in queues if (size := queue.least(0.01))]
    advised = recommend_queue_size(rate=rate, service_time=1, service_cv=cv, batch_cost=cost, **ROOMY)
    assert (advised.worst_loss, advised.batch_size) == min(sizes)
    assert advised.mean_wait > 0
    assert advised.drain_seconds == pytest.approx(
        sum(calls.seconds(np.array([advised.batch_size] * (1 + advised.queue_size // advised.batch_size))))
        + (rest := advised.queue_size % advised.batch_size) * cost[1]
        + (rest > 1) * cost[0]
        + (rest == 1) * (1 - cost[1])
    )


def test_calls_take_what_their_batches_cost() -> None:
    cost = BatchCost(0.5, 0.25)
    assert Calls(1, 2, 1, cost).seconds(np.array([1, 2, 4])).tolist() == [2, cost.of(2), cost.of(4)] == [2, 1, 1.5]


def test_batches_are_of_one_where_they_gain_nothing() -> None:
    assert advice(batch_cost=(0.03, 0.01)).batch_size == 1
    assert advice(batch_cost=(1.0, 0.02)) == advice()


STORES: Final[list[dict[str, Any]]] = [{}, {"service_cv": 0}, {"batch_cost": (0.02, 0.002)}]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("wait_share", [0.3, 0.1, 0.01, 0.001]),
        ("rate", [20, 50, 80, 95]),
        ("stall", [0, 0.1, 1, 5]),
        ("burst", [None, 20, 100, 1000]),
    ],
)
def test_more_is_advised_where_more_is_asked_for(store: dict[str, Any], name: str, values: list[Any]) -> None:
    held = [advice(**store, **{name: value}).worst_loss for value in values]
    assert held == sorted(set(held))


@pytest.mark.parametrize(
    "store", [STORES[1], *(pytest.param(store, marks=pytest.mark.deep) for store in (STORES[0], STORES[2]))]
)
def test_a_burst_needs_less_the_slower_it_comes(store: dict[str, Any]) -> None:
    speeds = [None, 10_000, 1000, 200, 101]
    advised = [advice(**store, burst=500, burst_rate=speed, rate=50) for speed in speeds]
    held = [one.worst_loss for one in advised]
    assert held[0] == pytest.approx(held[1], abs=6)
    assert held[1:] == sorted(set(held), reverse=True)[-4:]
    assert [one.limited_by for one in advised] == ["burst"] * 5


@pytest.mark.parametrize("cv", [0, 1, 2])
def test_what_is_more_than_the_highest_node_counts_all_the_same(cv: float) -> None:
    calls = Calls(4, 1, cv, BatchCost(0.875, 0.125))
    low, high = (Batches(Nodes(calls, top, 100), 14) for top in (60, 390))
    assert low.share(20) == pytest.approx(high.share(20), rel=1e-3)
    assert low.mean_wait(20) == pytest.approx(high.mean_wait(20), rel=1e-3)
    assert low.mean_loss(20) == pytest.approx(high.mean_loss(20), rel=1e-3)
    assert low.walk[:30] == pytest.approx(high.walk[:30], rel=1e-3)
    assert low.left[:30] == pytest.approx(high.left[:30], rel=2e-2, abs=1e-6)


@pytest.mark.parametrize(("load", "cv", "blobs", "missed"), [(0.95, 1, 3, 0.3), (0.9, 0.5, 5, 0.1), (0.6, 0, 2, 0.001)])
def test_a_burst_is_ridden_out_as_by_the_chain_from_one_call_to_the_next(
    load: float, cv: float, blobs: int, missed: float
) -> None:
    queue = Singles(Calls(load, 1, cv), 512)
    comes = -np.diff(exceeding(load, cv, 512), prepend=1.0)

    def ridden_out(size: int) -> float:
        """The chance that no more than `size` blobs wait to be taken until it is one, the last."""
        steps = np.array(
            [[comes[to - wait + 1] if to >= wait - 1 else 0.0 for to in range(size + 1)] for wait in range(size + 1)]
        )
        steps[:2] = 0.0
        chances = np.linalg.solve(np.eye(size + 1) - steps, [1.0, 1.0, *np.zeros(size - 1)])
        busy = queue.left[: max(0, size + 1 - blobs)] @ chances[blobs:]
        return float(busy + queue.idle * (comes[: size + 2 - blobs] @ chances[blobs - 1 :]))

    size = least_for_burst(queue, blobs, missed)
    assert size is not None
    assert ridden_out(size) >= 1 - missed > ridden_out(size - 1)


def test_a_long_burst_fills_the_queue_by_what_the_store_does_not_take() -> None:
    blobs = 300_000
    advised = advice(rate=50, burst=blobs, burst_rate=200)
    # Of the burst's Poisson process and the exponential service each adds half as much to the variance as the blobs.
    spread = 2.33 * math.sqrt(blobs * (1 / 4 + 1 / 2))
    assert blobs / 2 < advised.queue_size < blobs / 2 + 1.5 * spread + 100


def test_a_long_burst_that_the_store_keeps_up_with_is_like_a_steady_load() -> None:
    by_formula = math.log(0.01 / 1e6) / math.log(0.8) - 1
    assert advice(rate=50, burst=10**6, burst_rate=80).queue_size == math.ceil(by_formula)
    batched = advice(rate=50, burst=10**6, burst_rate=80, batch_cost=(0.01, 0.001))
    assert 10 < batched.worst_loss < by_formula


@pytest.mark.deep
def test_the_rarest_failures_of_a_burst_are_found_from_its_moments() -> None:
    sizes = [advice(rate=50, burst=500, burst_rate=200, wait_share=share).queue_size for share in (1e-2, 1e-3, 1e-6)]
    assert sizes == sorted(sizes)
    mean, deviation = 250, math.sqrt(500 * 3 / 4)
    for size, z in zip(sizes, (2.33, 3.09, 4.75), strict=True):
        assert size == pytest.approx(mean + z * deviation, rel=0.08)


def test_a_burst_of_a_store_that_is_always_as_fast_needs_the_same_by_its_moments() -> None:
    queue = Singles(Calls(1e-9, 1e-9, 0), 256)
    assert least_for_burst(queue, 5, 1e-6) == 4
    assert least_for_burst_at(queue, 5, 1e12, 1e-6) == 4


@pytest.mark.parametrize(
    ("asked", "limited_by"),
    [
        ({}, "steady load"),
        ({"burst": 500}, "burst"),
        ({"stall": 0.001}, "stall"),
        ({"stall": 10}, "stall"),
        ({"stall": 10, "burst": 500}, "stall"),
        ({"stall": 10, "burst": 2000}, "burst"),
        ({"stall": 10, "burst": 2000, "burst_rate": 95}, "stall"),
        ({"rate": 1}, "steady load"),
    ],
)
def test_the_reason_is_a_sentence_with_the_numbers(asked: dict[str, Any], limited_by: str) -> None:
    advised = advice(**{"rate": 60, "wait_share": 0.02, **asked})
    assert advised.limited_by == limited_by
    assert re.fullmatch(r"[A-Z][^\n]*[^.]\.", advised.reason)
    assert ". " not in advised.reason
    assert f"a queue of {advised.queue_size} and batches of 1" in advised.reason
    assert f"{asked.get(limited_by, 60 if 'rate' not in asked else 1):g}" in advised.reason
    assert ("0.98" if limited_by != "steady load" else "0.02") in advised.reason


def test_a_reason_has_as_many_digits_as_tell_its_figures_apart() -> None:
    reason = advice(rate=99.9).reason
    share, more, allowed = (float(figure) for figure in re.findall(r"0\.\d+", reason))
    assert share <= allowed < more
    assert reason.startswith("The store is busy 99.9% ")
    assert advice(rate=99.99).reason.startswith("The store is busy over 99.9% ")


def test_one_reason_in_full() -> None:
    assert advice().reason == (
        "The store is busy 90.0% of the time, and with a queue of 43 and batches of 1 the share of puts that wait is "
        "0.0097; with a queue of 42 it would be 0.0108, more than 0.01."
    )
    assert advice(rate=1).reason == (
        "The store is busy 1.0% of the time, and with a queue of 1 and batches of 1 the share of puts that wait is "
        "0.0001; no queue is smaller, and it may be 0.01."
    )


# The margin


@pytest.mark.parametrize("asked", [{}, {"stall": 1}, {"burst": 100}, {"wait_share": 0.2}])
def test_a_margin_makes_the_queue_larger(asked: dict[str, Any]) -> None:
    plain, larger = advice(**asked), advice(**asked, margin=2.5)
    assert larger.queue_size == math.ceil(2.5 * plain.queue_size)
    assert (larger.batch_size, larger.limited_by) == (plain.batch_size, plain.limited_by)
    assert larger.wait_share == plain.wait_share
    assert larger.mean_wait == 2.5 * plain.mean_wait
    assert larger.mean_loss == 2.5 * plain.mean_loss
    assert larger.worst_loss == larger.queue_size + 1
    assert larger.memory_bytes == (larger.queue_size + 4) * 1000
    assert larger.drain_seconds == pytest.approx(0.01 * (larger.queue_size + 1))
    assert larger.reason == f"{plain.reason} The margin of 2.5 makes it a queue of {larger.queue_size}."


def test_with_a_margin_larger_batches_may_hold_less() -> None:
    cheap = {"rate": 400, "batch_cost": (0.00875, 0.00125)}
    plain, larger = advice(**cheap), advice(**cheap, margin=4)
    assert larger.queue_size % 4 == 0
    assert larger.batch_size > plain.batch_size
    assert larger.worst_loss < 4 * plain.queue_size + plain.batch_size


def test_a_margin_needs_its_memory() -> None:
    needed = advice(margin=3).memory_bytes
    assert needed == (3 * 43 + 4) * 1000
    assert advice(margin=3, memory=needed) == advice(margin=3)
    with pytest.raises(NoQueueSizeError, match=r"a queue of 129, batches of 1 and 3 callers hold 133000 bytes"):
        advice(margin=3, memory=needed - 1)


def test_the_assumptions_are_stated() -> None:
    assert advice().assumptions == (
        "This assumes that puts arrive independently of each other (a Poisson process) and that service times are not "
        "correlated. A store whose slow calls come together needs more: see the margin."
    )
    assert advice(margin=3).assumptions.endswith("service times are as correlated as the margin of 3 allows for.")
    assert "assumptions" in (recommend_queue_size.__doc__ or "")


# numpy


def test_numpy_is_not_imported_with_the_library() -> None:
    program = "import sys, trio_replica; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_numpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trio_replica._advice.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        advice()
    assert str(caught.value) == "recommend_queue_size needs numpy: pip install 'trio-replica[advice]'"
    with pytest.raises(ValueError, match=r"^rate must be"):  # which is said first
        advice(rate=0)


def test_another_module_that_is_missing_is_no_matter_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_replica._advice.remedies", None)
    with pytest.raises(ModuleNotFoundError, match="remedies"):
        advice()


# The result


def test_the_result_is_public_and_frozen() -> None:
    advised = replica.recommend_queue_size(rate=90, service_time=0.01)
    assert isinstance(advised, QueueAdvice)
    assert advised.memory_bytes == (44 + 64) * 64 * 1024
    with pytest.raises(dataclasses.FrozenInstanceError):
        advised.queue_size = 1  # type: ignore[misc]


@pytest.mark.deep
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"rate": 99.99, "service_cv": 1.5}, marks=pytest.mark.deep),
        {"rate": 1, "service_cv": 100},
        {"rate": 480, "batch_cost": (0.02, 0.002)},
        {"rate": 10_000, "service_time": 0.05, "service_cv": 0.5, "batch_cost": (0.05, 5e-5)},
        {"rate": 1e-300, "service_time": 1e-300, "stall": 1e-300, "burst": 1, "burst_rate": 1e-300},
        {"rate": 1e300, "service_time": 1e-305, "burst": 10**9, "burst_rate": 1e-300},
        {"burst": 10**9, "burst_rate": 1e300},
        pytest.param({"burst": 10**7, "burst_rate": 100}, marks=pytest.mark.deep),
        pytest.param({"burst": 10**9, "burst_rate": 400, "batch_cost": (0.02, 0.002)}, marks=pytest.mark.deep),
        {"stall": 1e7},
        {"rate": 20, "service_cv": 20, "stall": 1},  # beyond the first numbers that are looked at
        {"service_cv": 1e-9},
        {"wait_share": 0.999},
        {"wait_share": 1e-9, "service_cv": 2, "stall": 1, "burst": 100, "burst_rate": 200},
    ],
)
def test_what_is_extreme_is_answered_all_the_same(asked: dict[str, Any]) -> None:
    advised = advice(**{**asked, "memory": 10**15})
    assert all(value >= 0 for value in dataclasses.astuple(advised) if not isinstance(value, str))
    assert advised.wait_share <= asked.get("wait_share", 0.01)
