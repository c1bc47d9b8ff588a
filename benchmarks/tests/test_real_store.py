"""Measuring a real store: in virtual time to the last bit, and as its tables show it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio

from benchmarks.queueing.measure.own_blobs import NotedStore, StoreFailedError, random_blobs
from benchmarks.queueing.measure.real_run import DRAWS, Load, run_replica
from benchmarks.queueing.measure.real_store import Measurement, Plan, measure, measure_url
from benchmarks.queueing.measure.service import PutTimes
from trio_replica import MemoryStore, Ref, open_sqlite
from trio_replica._advice.calls import BatchCost
from trio_replica.testing import Batched, Exponential, SimulatedStore

from .measured import EACH, FIXED, PLAN, PUT, quiet, shown, store_with_batches

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trio.testing import MockClock


pytestmark = pytest.mark.deep


# Measurements


async def test_what_is_measured_is_what_the_store_takes_and_what_the_recursion_says(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    await measure(store, measurement, told=quiet)
    assert trio.current_time() == pytest.approx(PLAN.seconds, rel=0.1)

    assert measurement.puts is not None
    assert set(measurement.puts.seconds.tolist()) == {PUT}
    assert measurement.batches is not None
    assert measurement.batches.cost == pytest.approx(BatchCost(FIXED, EACH))
    assert list(measurement.batches.means) == [2, 4, 8, 16, 32, 64]
    assert measurement.batches_pay

    assert [(run.queue_size, run.batch_size) for run in measurement.runs] == [(1, 1), (4, 1), (4, 4)]
    for run in measurement.runs:
        assert not run.late.any()
        assert run.slower(measurement.puts, measurement.batches) == pytest.approx(1)
        predicted = run.by_times_alone(measurement.puts, measurement.batches)
        assert len(predicted) == DRAWS
        for point in (run.by_own_times(), *predicted):
            assert point.blocked_puts == run.real.blocked_puts
            if run.batch_size == 1:  # nothing was fitted
                assert point == run.real
            assert point.mean_wait == pytest.approx(run.real.mean_wait, abs=1e-12)
            assert point.p99_wait == pytest.approx(run.real.p99_wait, abs=1e-12)
            assert point.throughput == pytest.approx(run.real.throughput)
    assert [run.real.blocked_puts > 0 for run in measurement.runs] == [True, True, False]
    assert measurement.runs[0].real.puts == pytest.approx(PLAN.rate * 0.9 * PLAN.seconds * (1 - 2 * 0.15) / 3, rel=0.1)

    assert measurement.put == sum(len(call.refs) for call in store.calls if call.operation != "delete")
    assert (measurement.deleted, measurement.left) == (measurement.put, ())
    assert store.blobs == {}


class Slowing:
    """The times of `store_with_batches`, multiplied by a factor that can change."""

    factor = 1

    def sample(self, source: random.Random) -> float:
        return self.factor * PUT

    def completions(self, count: int, put_time: Callable[[], float]) -> Sequence[float]:
        return Batched(self.factor * FIXED, self.factor * EACH).completions(count, put_time)


async def test_the_advice_is_for_the_times_in_use(autojump_clock: MockClock) -> None:
    times, measurement = Slowing(), Measurement("store", PLAN)
    fixed_before = {}

    def told(text: str) -> None:
        if "1 of 3" in text:
            fixed_before.update(measurement.workload())
            times.factor = 2

    await measure(SimulatedStore(put=times, put_many=times), measurement, told=told)
    assert fixed_before == {
        "rate": 100.0,
        "service_time": PUT,
        "service_cv": 0,
        "blob_size": 16,
        "margin": 1.0,
        "batch_cost": pytest.approx((FIXED, EACH)),
    }
    assert measurement.workload() == {
        "rate": 100.0,
        "service_time": 2 * PUT,
        "service_cv": 0,
        "blob_size": 16,
        "margin": 1.0,
        "batch_cost": pytest.approx((2 * FIXED, 2 * EACH)),
    }


async def test_batches_that_do_not_pay_are_neither_run_nor_advised(autojump_clock: MockClock) -> None:
    measurement = Measurement("store", PLAN)
    await measure(SimulatedStore(put=PUT), measurement, told=quiet)
    assert measurement.batches is not None
    assert measurement.batches.cost == pytest.approx(BatchCost(0, PUT), abs=1e-12)
    assert [(run.queue_size, run.batch_size) for run in measurement.runs] == [(1, 1), (4, 1), (16, 1)]
    assert "batch_cost" not in measurement.workload()


async def test_a_store_that_takes_too_few_puts_is_run_with_short_queues_only(autojump_clock: MockClock) -> None:
    measurement = Measurement("store", Plan(100.0, 16, 8.0))
    await measure(SimulatedStore(put=1.0), measurement, told=quiet)
    assert measurement.puts is not None
    assert measurement.puts.seconds.tolist() == [1.0, 1.0]
    assert measurement.batches is None  # even two blobs take longer than the time allows
    (run,) = measurement.runs
    assert (run.queue_size, run.real.puts) == (1, 3)
    assert trio.current_time() <= 8.0


def test_nothing_is_run_if_calls_that_can_not_be_interrupted_took_all_the_time() -> None:
    assert Measurement("store", PLAN, PutTimes(np.array([20.0]))).loads(-12.0) == []


@pytest.mark.parametrize(("blob_size", "expected"), [(2**20, 128), (2**27, 1), (2**30, 1)])
def test_what_a_run_puts_is_bounded(blob_size: int, expected: int) -> None:
    measurement = Measurement("store", Plan(1e6, blob_size, 20.0), PutTimes(np.array([1e-6])))
    loads = measurement.loads(14.0)
    assert [queue_size for _, queue_size, _ in loads] == [1, 4, 16, 64]
    assert [load.most_puts for load, _, _ in loads] == [expected] * 4
    assert [len(load.arrivals(np.random.default_rng(1))) for load, _, _ in loads] == [expected] * 4


async def test_a_run_beyond_what_the_store_takes_ends_in_time_and_agrees(autojump_clock: MockClock) -> None:
    store = NotedStore("store", SimulatedStore(put=PUT))
    load = Load(rate=1000.0, seconds=2.0, most_puts=10**6, capacity=1 / PUT)
    run = await run_replica(store, load, queue_size=4, batch_size=1, blob=random_blobs(16))
    assert len(run.late) == len(run.sizes) == 1 + round(0.9 * 2.0 / PUT)
    assert 1.8 < trio.current_time() < 2.0
    assert run.real.wait_share > 0.9
    assert run.by_own_times() == run.real


async def test_what_is_not_written_in_time_is_left_out(autojump_clock: MockClock) -> None:
    simulated = SimulatedStore(put=PUT)
    simulated.outage(1.0, 100.0)
    store = NotedStore("store", simulated)
    load = Load(rate=100.0, seconds=2.0, most_puts=10**6, capacity=1 / PUT)
    run = await run_replica(store, load, queue_size=4, batch_size=1, blob=random_blobs(16))
    assert trio.current_time() == 2.0
    assert 80 < run.real.puts < 110 < len(run.late)
    assert run.real.puts == len(simulated.blobs) == len(store.given) - 1  # one was being written
    assert run.by_own_times() == run.real


async def test_a_run_in_which_nothing_is_written_has_no_puts(autojump_clock: MockClock) -> None:
    simulated = SimulatedStore()
    simulated.hang("put")
    store = NotedStore("store", simulated)
    run = await run_replica(store, Load(100.0, 2.0, 10, 1000.0), queue_size=1, batch_size=1, blob=random_blobs(16))
    assert (len(run.sizes), len(run.path.came), len(run.late)) == (0, 0, 10)


async def test_who_waited_is_told_from_who_did_not(autojump_clock: MockClock) -> None:
    store = NotedStore("store", SimulatedStore(put=Exponential(0.05), put_many=Batched(0.04, 0.01)))
    run = await run_replica(store, Load(50.0, 20.0, 500, 1000.0), queue_size=4, batch_size=4, blob=random_blobs(16))
    assert run.real.puts == 500
    assert run.path.blocked_puts == (run.real.blocked_puts,)
    assert 100 < run.real.blocked_puts < 500
    assert run.rate == pytest.approx(50, rel=0.15)
    assert run.sizes.sum() == 500


# At the door, and to the user


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_plan_has_a_rate_and_a_time(value: float) -> None:
    with pytest.raises(ValueError, match=f"^rate is a finite number above zero, not {value}$"):
        Plan(value, 100)
    with pytest.raises(ValueError, match=f"^seconds is a finite number above zero, not {value}$"):
        Plan(1.0, 100, value)


def test_blobs_are_large_enough_to_differ() -> None:
    with pytest.raises(ValueError, match=r"^blob_size is at least 16, so that no two are alike, not 15$"):
        Plan(1.0, 15)
    make = random_blobs(16)
    blobs = [make() for _ in range(100)]
    assert {len(blob) for blob in blobs} == {16}
    assert len(set(blobs)) == 100


async def test_the_tables_show_what_was_measured(autojump_clock: MockClock) -> None:
    measurement = Measurement("sqlite:here", PLAN)
    await measure(store_with_batches(), measurement, told=quiet)
    text = shown(measurement)
    for part in (
        "sqlite:here: single puts of 16 bytes",
        "7.81 ms",
        "a = 3.91 ms, b = 977 µs; a batch is 0% off, root mean square; batches pay.",
        "the replica, 100 puts/s",
        "× 1.00",
    ):
        assert part in " ".join(text.split())
    rows = [line.split("│")[6:] for line in text.splitlines() if "real │" in line or "R, " in line]
    by_run = [[row[1:] for row in rows[first : first + 3]] for first in (0, 3, 6)]
    assert all(real == own == alone for real, own, alone in by_run)


def test_the_stores_of_urls_are_measured_in_real_time(tmp_path: Path) -> None:
    url, plan = f"sqlite:{tmp_path / 'blobs.db'}", Plan(200.0, 4096, 1.0)
    measurement = Measurement(url, plan)
    measure_url(url, measurement, told=quiet)
    assert measurement.runs
    assert measurement.deleted == measurement.put > 10
    for run in measurement.runs:
        assert run.path.blocked_puts == (run.real.blocked_puts,)
        assert (run.path.entered >= run.path.came).all()
        assert (run.worker > 0).all()

    async def refs() -> list[Ref]:
        async with open_sqlite(tmp_path / "blobs.db") as store:
            return [ref async for ref in store.list_refs()]

    assert trio.run(refs) == []
    assert "single puts of 4,096 bytes" in shown(measurement)


async def test_a_store_in_memory_is_measured_in_real_time() -> None:
    store, measurement = MemoryStore(), Measurement("memory:", Plan(1000.0, 100, 0.3))
    await measure(store, measurement, told=quiet)
    assert len(store) == 0
    assert measurement.runs
    assert measurement.deleted == measurement.put > 10


def test_a_store_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'nowhere' / 'blobs.db'}"
    with pytest.raises(
        StoreFailedError, match=r"blobs\.db can't be opened: OperationalError: SQLITE_CANTOPEN: [^\n]*$"
    ):
        measure_url(url, Measurement(url, PLAN), told=quiet)
    with pytest.raises(ValueError, match="unknown store 'nowhere:'"):
        measure_url("nowhere:", Measurement("nowhere:", PLAN), told=quiet)
