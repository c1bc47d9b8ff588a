"""Measuring a real store: what it measures, in virtual time to the last bit, and that it leaves nothing behind."""

from __future__ import annotations

import io
import math
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio
from rich.console import Console

from benchmarks.queueing.measure.own_blobs import PATIENCE, NotedStore, StoreFailedError, random_blobs
from benchmarks.queueing.measure.real_run import DRAWS, Load, run_replica
from benchmarks.queueing.measure.real_store import Measurement, Plan, measure, measure_url
from benchmarks.queueing.measure.service import BatchTimes, PutTimes, fit, stretch
from benchmarks.queueing.report.real_tables import tables
from trio_replica import MemoryStore, PutResult, Ref, open_sqlite
from trio_replica._advice.calls import BatchCost
from trio_replica.testing import Batched, Exponential, SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica import Blob
    from trio_replica._blob import BytesLike

pytestmark = pytest.mark.deep

PUT = 2.0**-7
FIXED = 2.0**-8
EACH = 2.0**-10
"""Seconds, on the grid: nothing is rounded."""

PLAN = Plan(rate=100.0, blob_size=16, seconds=8.0)


def quiet(_: str) -> None:
    pass


def store_with_batches() -> SimulatedStore:
    return SimulatedStore(put=PUT, put_many=Batched(FIXED, EACH))


def press(after: str, *, times: int = 1) -> Callable[[str], None]:
    """Return what presses Ctrl-C so many times: whenever it is told what contains `after`."""
    left = iter(range(times))

    def told(text: str) -> None:
        if after in text and next(left, None) is not None:
            signal.raise_signal(signal.SIGINT)

    return told


def shown(measurement: Measurement) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in tables(measurement):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# Service times


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


# What is measured


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


async def test_the_advice_is_for_the_times_in_use(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    fixed_before = {}

    def told(text: str) -> None:
        if "1 of 3" in text:  # from now on, the store takes twice as long
            fixed_before.update(measurement.workload())
            store.__init__(put=2 * PUT, put_many=Batched(2 * FIXED, 2 * EACH))  # type: ignore[misc]

    await measure(store, measurement, told=told)
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


def test_too_few_times_say_nothing_of_a_margin() -> None:
    assert PutTimes(np.array([1.0, 9.0] * 7)).margin == 1.0
    assert PutTimes(np.array([1.0] * 16 + [9.0] * 16)).margin > 1.0


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


# What goes wrong


@pytest.mark.parametrize(("operation", "after", "steps"), [("put", 100, 1), ("put_many", 7, 2), ("put", 500, 3)])
async def test_a_store_that_fails_is_named_and_cleared(
    operation: str, after: int, steps: int, autojump_clock: MockClock
) -> None:
    store, measurement = store_with_batches(), Measurement("sqlite:here", PLAN)
    store.fail(OSError("disk\nfull"), operation, after=after, stored=True)
    with pytest.raises(StoreFailedError, match=r"^sqlite:here failed a put: OSError: disk full$"):
        await measure(store, measurement, told=quiet)
    assert store.blobs == {}
    assert measurement.put == measurement.deleted > 0
    assert measurement.puts is not None
    assert (measurement.batches is not None) == (steps > 1)
    assert (len(measurement.runs) > 0) == (steps > 2)
    assert sum(title in shown(measurement) for title in ("single puts", "put_many", "the replica")) == steps


async def test_a_run_ends_when_the_store_fails(autojump_clock: MockClock) -> None:
    simulated = SimulatedStore(put=PUT)
    simulated.fail(OSError("disk full"), after=10)
    store = NotedStore("store", simulated)
    with pytest.raises(StoreFailedError, match=r"^store failed a put: OSError: disk full$"):
        await run_replica(store, Load(100.0, 10.0, 1000, 1 / PUT), queue_size=4, batch_size=1, blob=random_blobs(16))
    assert trio.current_time() < 1.0
    assert len(store.given) == 11


class Misnaming(SimulatedStore):
    async def put(self, blob: Blob | BytesLike) -> PutResult:
        await super().put(blob)
        return PutResult(Ref.ZERO, added=True)


async def test_a_store_whose_results_are_wrong_is_named(autojump_clock: MockClock) -> None:
    store = NotedStore("store", Misnaming(put=PUT))
    with pytest.raises(StoreFailedError, match=r"^store failed a put: CorruptBlobError: [^\n]*$"):
        await run_replica(store, Load(100.0, 10.0, 1000, 1 / PUT), queue_size=4, batch_size=1, blob=random_blobs(16))


async def test_a_store_that_stops_answering_has_no_more_runs(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    store.outage(2.5, 50.0)
    await measure(store, measurement, told=quiet)
    assert trio.current_time() == 50.0
    (run,) = measurement.runs  # of three
    assert 0 < run.real.puts < 40
    assert store.blobs == {}


async def test_a_store_that_does_not_answer_is_named(autojump_clock: MockClock) -> None:
    store, measurement = SimulatedStore(), Measurement("store", PLAN)
    store.hang("put")
    with pytest.raises(StoreFailedError, match=r"^store: no put ended within 2\.4 s$"):
        await measure(store, measurement, told=quiet)
    assert trio.current_time() == pytest.approx(2.4)
    assert shown(measurement) == ""


async def test_a_cancellation_waits_for_the_deletions(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    with trio.move_on_after(6.0) as scope:
        await measure(store, measurement, told=quiet)
    assert scope.cancelled_caught
    assert trio.current_time() == 6.0
    assert measurement.runs
    assert measurement.deleted == measurement.put > 0
    assert store.blobs == {}


@pytest.mark.parametrize("step", ["single puts", "batches", "queue_size=4"])
async def test_ctrl_c_ends_the_measuring_and_leaves_nothing(step: str, autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    with pytest.raises(KeyboardInterrupt):
        await measure(store, measurement, told=press(step))
    assert store.blobs == {}
    assert measurement.left == ()
    assert len(measurement.runs) == (1 if step == "queue_size=4" else 0)
    assert trio.current_time() < 6.0


async def test_deleting_goes_on_after_ctrl_c_and_ends_after_a_second_one(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    with pytest.raises(KeyboardInterrupt):
        await measure(store, measurement, told=press("deleting what was put:"))
    assert store.blobs == {}
    assert measurement.deleted == measurement.put

    told: list[str] = []
    again = press("deleting what was put:", times=2)

    def tell(text: str) -> None:
        told.append(text)
        again(text)

    measurement = Measurement("store", PLAN)
    with pytest.raises(KeyboardInterrupt):
        await measure(store, measurement, told=tell)
    assert "deleting what was put goes on; Ctrl-C once more leaves the rest there" in told
    assert 0 < measurement.deleted < measurement.put
    assert set(measurement.left) == set(store.blobs)
    assert measurement.deleted + len(measurement.left) == measurement.put


async def test_who_ignores_ctrl_c_goes_on_to(autojump_clock: MockClock) -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        measurement = Measurement("store", PLAN)
        await measure(store_with_batches(), measurement, told=press("single puts"))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)
    assert len(measurement.runs) == 3


@pytest.mark.parametrize("after", [10, 500])
async def test_a_keyboard_interrupt_that_a_store_raises_comes_out_bare(after: int, autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    store.fail(KeyboardInterrupt(), "put", after=after, count=1)
    with pytest.raises(KeyboardInterrupt):
        await measure(store, measurement, told=quiet)
    assert store.blobs == {}
    assert measurement.put == measurement.deleted > 10


async def test_a_keyboard_interrupt_while_deleting_comes_out_bare(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    store.fail(KeyboardInterrupt(), "delete", after=100, count=1)
    with pytest.raises(KeyboardInterrupt):
        await measure(store, measurement, told=quiet)
    assert 0 < measurement.deleted < measurement.put
    assert set(measurement.left) == set(store.blobs)


# What is deleted


async def test_what_was_there_before_stays(autojump_clock: MockClock) -> None:
    store = store_with_batches()
    ref, _ = await store.put(b"somebody's")
    await measure(store, Measurement("store", PLAN), told=quiet)
    assert store.blobs == {ref: b"somebody's"}
    noted = NotedStore("store", store)
    assert await noted.put(b"somebody's") == PutResult(ref, added=False)
    (_, new) = await noted.put_many([b"somebody's", b"ours"])
    assert noted.given == (new.ref,)
    assert repr(noted) == "<NotedStore of <SimulatedStore of 2 blobs>, 1 blobs given>"
    assert await noted.get(new.ref) == b"ours"
    assert [found async for found in noted.list_refs()] == sorted([ref, new.ref])


async def test_a_store_that_can_not_delete_is_refused_unless_all_may_stay(autojump_clock: MockClock) -> None:
    simulated = SimulatedStore(put=PUT)
    store, measurement = NotedStore("store", simulated), Measurement("store", PLAN)
    with pytest.raises(ValueError, match=r"^store can't delete, and what is put there would stay$"):
        await measure(store, measurement, told=quiet)
    assert simulated.calls == []
    await measure(store, measurement, told=quiet, keep=True)
    assert (measurement.put, measurement.deleted) == (len(simulated.blobs), 0)
    assert set(measurement.left) == set(simulated.blobs)


async def test_a_blob_that_can_not_be_deleted_is_passed_over(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    failure = OSError("busy")
    store.fail(failure, "delete", after=3, count=PATIENCE - 1)
    store.fail(OSError("busy again"), "delete", after=50, count=PATIENCE - 1)
    await measure(store, measurement, told=quiet)
    assert set(measurement.left) == set(store.blobs)
    assert len(measurement.left) == 2 * (PATIENCE - 1)
    assert measurement.deleted == measurement.put - len(measurement.left)
    assert measurement.deletion_failure is failure


async def test_deleting_ends_when_the_store_has_ended(autojump_clock: MockClock) -> None:
    store, measurement = store_with_batches(), Measurement("store", PLAN)
    store.fail(OSError("gone"), "delete", after=100)
    await measure(store, measurement, told=quiet)
    assert measurement.deleted == 100
    tried = sum(call.operation == "delete" for call in store.calls)
    assert 100 + PATIENCE <= tried < 100 + 2 * PATIENCE


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
