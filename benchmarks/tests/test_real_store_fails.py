"""Measuring a real store that fails or stalls, Ctrl-C, and the deletion of the blobs that were put."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from benchmarks.queueing.measure.own_blobs import PATIENCE, NotedStore, StoreFailedError, random_blobs
from benchmarks.queueing.measure.real_run import Load, run_replica
from benchmarks.queueing.measure.real_store import Measurement, measure
from trio_replica import PutResult, Ref
from trio_replica.testing import SimulatedStore

from .measured import PLAN, PUT, press, quiet, shown, store_with_batches

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_replica import Blob
    from trio_replica._blob import BytesLike

pytestmark = pytest.mark.deep


# Failures and interruptions


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


# Deleting


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
