"""The queues of the async stores: room, order, batches and counts, under the mock clock with exact times."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import MemoryStore, PoisonedError, PutResult
from trio_replica.testing import Batched, SimulatedStore

from .common import BROKEN, Ended, count_blobs, put_numbers, refs

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio.testing import MockClock


async def test_put_waits_only_for_room_in_the_queues(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=100)
    async with replica.open([MemoryStore()], [slow], queue_size=3, batch_size=1) as store:
        await store.put(b"0")
        await trio.testing.wait_all_tasks_blocked()
        await put_numbers(store, range(1, 4))
        assert trio.current_time() == 0
        await store.put(b"4")
        assert trio.current_time() == 100
        assert store.unreplicated == {"async-0": refs(1, 2, 3, 4)}
        statistics = store.statistics().async_stores["async-0"]
        assert (statistics.queued, statistics.in_flight, statistics.peak_queued) == (3, 1, 3)
        assert (statistics.blocked_puts, statistics.blocked_seconds, statistics.written) == (1, 100, 1)
    assert trio.current_time() == 500
    assert tuple(slow.blobs) == refs(0, 1, 2, 3, 4)


async def test_a_full_or_hung_queue_does_not_hold_up_another(autojump_clock: MockClock) -> None:
    hung, quick = SimulatedStore(), SimulatedStore()
    hung.hang()
    with trio.move_on_after(10):
        async with replica.open([MemoryStore()], {"hung": hung, "quick": quick}, queue_size=2, batch_size=1) as store:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(store.put, b"%d" % number)
                await trio.sleep(1)
                assert len(quick.blobs) == 10
                assert store.statistics().async_stores["hung"].blocked_puts == 7
    assert len(store.unreplicated["hung"]) == 3
    assert store.unreplicated["quick"] == ()


async def test_puts_wait_for_all_full_queues_at_once(autojump_clock: MockClock) -> None:
    stores = {"three": SimulatedStore(put=3), "five": SimulatedStore(put=5)}
    async with replica.open([MemoryStore()], stores, queue_size=1, batch_size=1) as store:
        await put_numbers(store, [0])
        await trio.testing.wait_all_tasks_blocked()
        await put_numbers(store, [1, 2])
        assert trio.current_time() == 5
    counts = store.statistics().async_stores
    assert (counts["three"].blocked_seconds, counts["five"].blocked_seconds) == (3, 5)


async def test_waiting_puts_enter_in_their_order(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=1)
    async with replica.open([MemoryStore()], [slow], queue_size=1, batch_size=1) as store:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(store.put, b"%d" % number)
                await trio.testing.wait_all_tasks_blocked()
    assert tuple(slow.blobs) == refs(*range(10))
    assert trio.current_time() == 10


def test_a_newcomer_does_not_overtake_who_waits() -> None:
    async def main() -> None:
        slow = SimulatedStore(put=1)
        async with (
            replica.open([MemoryStore()], [slow], queue_size=1, batch_size=1) as store,
            trio.open_nursery() as nursery,
        ):
            await put_numbers(store, [0])
            await trio.testing.wait_all_tasks_blocked()
            await put_numbers(store, [1])
            nursery.start_soon(store.put, b"2")
            await trio.sleep(1)
            # The worker has taken a blob, or is about to: the place that this leaves is promised.
            nursery.start_soon(store.put, b"3")
            await trio.lowlevel.checkpoint()
            nursery.start_soon(store.put, b"4")
        assert tuple(slow.blobs)[:3] == refs(0, 1, 2)

    for _ in range(30):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_put_many_enters_in_parts(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put_many=Batched(1, 0), put=1)
    async with replica.open([MemoryStore()], [slow], queue_size=4) as store:
        results = await store.put_many([b"%d" % number for number in range(11)])
        assert results == [PutResult(ref, added=True) for ref in refs(*range(11))]
        # Batches of four; the last blobs enter when the second batch is taken.
        assert trio.current_time() == 1
    assert [len(call.refs) for call in slow.calls] == [4, 4, 3]
    assert trio.current_time() == 3
    assert tuple(slow.blobs) == refs(*range(11))


async def test_who_waits_fills_a_batch_that_is_larger_than_the_queue(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put_many=Batched(1, 0), put=1)
    async with replica.open([MemoryStore()], [slow], queue_size=2, batch_size=5) as store:
        await store.put_many([b"%d" % number for number in range(11)])
    assert [len(call.refs) for call in slow.calls] == [5, 5, 1]
    assert tuple(slow.blobs) == refs(*range(11))


async def test_workers_write_batches(autojump_clock: MockClock) -> None:
    for batch_size, batches in [(None, [1, 5, 5, 1]), (1, [1] * 12), (4, [1, 4, 4, 3])]:
        slow = SimulatedStore(put=1, put_many=Batched(1, 0))
        async with replica.open([MemoryStore()], [slow], queue_size=5, batch_size=batch_size) as store:
            await store.put(b"0")
            await trio.testing.wait_all_tasks_blocked()
            await put_numbers(store, range(1, 12))
        assert [len(call.refs) for call in slow.calls] == batches
        assert [call.operation for call in slow.calls] == ["put" if size == 1 else "put_many" for size in batches]


async def test_repeated_blobs_are_unreplicated_once(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=10)
    async with replica.open([MemoryStore()], [slow], batch_size=1) as store:
        await put_numbers(store, [0, 1, 0, 1])
        assert store.unreplicated == {"async-0": refs(0, 1)}
        assert store.statistics().async_stores["async-0"].queued == 3


@pytest.mark.parametrize("poisoned", [True, False])
async def test_all_who_wait_for_one_queue_are_woken(autojump_clock: MockClock, poisoned: bool) -> None:
    slow = SimulatedStore(put=7)
    if poisoned:
        slow.fail(BROKEN)
    async with trio.open_nursery() as nursery:
        async with replica.open([MemoryStore()], [slow], queue_size=1) as store:
            await put_numbers(store, range(1))
            await trio.testing.wait_all_tasks_blocked()
            await put_numbers(store, range(1, 2))
            tasks = [Ended(nursery, store.put, b"%d" % number) for number in range(2, 9)]
            tasks += [Ended(nursery, store.flush) for _ in range(3)]
            await trio.sleep(7 if poisoned else 3)
            await trio.testing.wait_all_tasks_blocked()
        for task in tasks:
            assert isinstance(task.error, PoisonedError if poisoned else trio.ClosedResourceError)
            assert task.at == (7 if poisoned else 3)
    assert store.unreplicated["async-0"] == (refs(0, 1) if poisoned else ())


async def test_statistics_in_every_state(autojump_clock: MockClock) -> None:
    sync, slow, failing = SimulatedStore(), SimulatedStore(put=10), SimulatedStore(put=15)
    failing.fail(BROKEN)
    stores = {"slow": slow, "failing": failing}
    with pytest.raises(PoisonedError):
        async with replica.open({"sync": sync}, stores, queue_size=4, batch_size=1) as store:
            await put_numbers(store, [0])
            await trio.sleep(3)
            await put_numbers(store, [1, 2])
            await trio.sleep(2)
            counts = store.statistics().async_stores["slow"]
            assert counts == replica.AsyncStoreStatistics(
                capacity=4,
                queued=2,
                in_flight=1,
                peak_queued=2,
                queued_bytes=3,
                peak_bytes=3,
                written=0,
                blocked_puts=0,
                blocked_seconds=0,
                lag_seconds=5,
                failure=None,
            )
            await trio.sleep(7)
            assert store.statistics().async_stores["slow"].lag_seconds == 9
            await store.wait_poisoned()
            assert trio.current_time() == 15
            assert store.statistics().async_stores["failing"].failure is BROKEN
            assert store.statistics().async_stores["slow"].failure is None
    assert trio.current_time() == 30
    closed = store.statistics()
    assert closed.sync_stores == {"sync": replica.SyncStoreStatistics(3, 0, 0, 0)}
    assert closed.async_stores["slow"].written == 3
    assert closed.async_stores["failing"].lag_seconds == 30
    assert (closed.async_stores["failing"].queued, closed.async_stores["failing"].in_flight) == (2, 1)
    with pytest.raises(AttributeError):
        closed.sync_stores = {}  # type: ignore[misc]


async def test_flush(autojump_clock: MockClock) -> None:
    stores = {"three": SimulatedStore(put=3), "five": SimulatedStore(put=5)}
    async with replica.open([MemoryStore()], stores, batch_size=1) as store:
        with trio.testing.assert_checkpoints():
            await store.flush()
        await put_numbers(store, [0])
        async with trio.open_nursery() as nursery:
            flushed = Ended(nursery, store.flush)
            await trio.sleep(1)
            await put_numbers(store, [1])
            with trio.move_on_after(1) as scope:
                await store.flush()
            assert scope.cancelled_caught
        assert flushed.at == 5
        await store.flush()
        assert trio.current_time() == 10
        assert store.statistics().async_stores["five"].lag_seconds == 0


@pytest.fixture
def only_new_objects() -> Generator[None, None, None]:
    """Hide from `gc` the objects that there are: in a run of all tests it takes a tenth of a second to show them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects")
async def test_what_is_not_written_is_let_go(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1):
        async with replica.open([MemoryStore()], [slow := SimulatedStore(put=9)], batch_size=1) as store:
            await put_numbers(store, range(8))
            assert count_blobs() == 8
            await trio.sleep_forever()
    assert len(store.unreplicated["async-0"]) == 8
    slow.calls.clear()  # the exception there has the blob that was being put
    gc.collect()
    assert count_blobs() == 0


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("batch_size", [*(pytest.param(size, marks=pytest.mark.deep) for size in (1, 3)), 5])
async def test_memory_is_bounded(autojump_clock: MockClock, batch_size: int) -> None:
    peak = 0

    async def put_some(store: replica.Store, first: int) -> None:
        nonlocal peak
        for number in range(first, first + 20):
            await store.put(b"%d" % number)
            peak = max(peak, count_blobs())

    slow = SimulatedStore(put=1)
    async with replica.open([MemoryStore()], [slow], queue_size=5, batch_size=batch_size) as store:
        async with trio.open_nursery() as nursery:
            for caller in range(4):
                nursery.start_soon(put_some, store, 1000 * caller)
        await store.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert count_blobs() == 0, "a put that waits keeps nothing"
    assert len(slow.blobs) == 80
    assert 5 < peak <= 5 + batch_size + 4
