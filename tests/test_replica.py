"""The life of a replica: puts, poison, and the end of the block, under the mock clock with exact times."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import signal
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import (
    Blob,
    BlobNotFoundError,
    CorruptBlobError,
    MemoryStore,
    PoisonedError,
    PutResult,
    Ref,
    ReplicaError,
    StoreError,
)
from trio_replica.testing import SimulatedStore, StoreContract

from .common import BROKEN, Ended, put_numbers, refs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.testing import MockClock

    from trio_replica import ReplicaStore


class TestReplicaStore(StoreContract):
    """A replica is a store. A put's ``added`` is that of the sync store that finished first, which differs in races."""

    counts_racers = False

    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[ReplicaStore, None]:
        async with replica.open([MemoryStore(), MemoryStore()], [MemoryStore()], queue_size=3) as store:
            yield store


# Putting


async def test_put_waits_for_every_sync_store(autojump_clock: MockClock) -> None:
    one, three = SimulatedStore(put=1), SimulatedStore(put=3)
    await three.put(b"blob")  # it has it already, but finishes last
    start = trio.current_time()
    async with replica.open([three, one]) as store:
        assert await store.put(b"blob") == PutResult(Ref.of(b"blob"), added=True)
        assert trio.current_time() == start + 3
        assert await store.put(b"blob") == PutResult(Ref.of(b"blob"), added=False)
    assert one.blobs == three.blobs == {Ref.of(b"blob"): b"blob"}


async def test_a_failing_sync_store_fails_one_put(autojump_clock: MockClock) -> None:
    good, bad, far = SimulatedStore(put=3), SimulatedStore(put=1), SimulatedStore()
    bad.fail(BROKEN, "put", count=1)
    async with replica.open({"good": good, "bad": bad}, {"far": far}) as store:
        with pytest.raises(StoreError) as caught:
            await store.put(b"blob")
        assert trio.current_time() == 1
        assert caught.value.failures == {"bad": BROKEN}
        assert (caught.value.operation, caught.value.ref) == ("put", Ref.of(b"blob"))
        assert caught.value.__cause__ is BROKEN
        assert isinstance(good.calls[0].error, trio.Cancelled)
        assert store.unreplicated == {"far": ()}
        assert await store.put(b"blob") == PutResult(Ref.of(b"blob"), added=True)
        assert trio.current_time() == 4
        assert store.statistics().sync_stores["bad"] == replica.SyncStoreStatistics(1, 1, 0, 0)
        assert store.statistics().sync_stores["good"] == replica.SyncStoreStatistics(1, 0, 0, 0)
    assert far.blobs == good.blobs == bad.blobs


async def test_sync_stores_that_fail_together(autojump_clock: MockClock) -> None:
    class Stubborn(SimulatedStore):
        interruptible = False

        async def put(self, blob: Any) -> PutResult:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise BROKEN

    async with replica.open([Stubborn(), Stubborn()]) as store:
        with pytest.raises(StoreError) as caught:
            await store.put(b"blob")
        assert caught.value.failures == {"sync-0": BROKEN, "sync-1": BROKEN}
        assert isinstance(caught.value.__cause__, ExceptionGroup)


class Liar(SimulatedStore):
    """A store whose put results are what it is told."""

    def __init__(self, *results: Any) -> None:
        super().__init__()
        self.results = list(results)

    async def put(self, blob: Any) -> Any:
        await super().put(blob)
        return self.results[0]

    async def put_many(self, blobs: Any) -> Any:
        await super().put_many(blobs)
        return self.results


async def test_a_store_that_names_another_ref_has_failed() -> None:
    for result, kind in [
        (PutResult(Ref.ZERO, added=True), CorruptBlobError),
        ((Ref.of(b"blob"), True, "more"), ReplicaError),
        ((), ReplicaError),
        (None, ReplicaError),
    ]:
        async with replica.open([MemoryStore(), Liar(result)]) as store:
            with pytest.raises(StoreError) as caught:
                await store.put(b"blob")
            assert isinstance(caught.value.failures["sync-1"], kind)


async def test_put_many_with_too_few_or_wrong_results() -> None:
    right = PutResult(Ref.of(b"blob"), added=True)
    for results, kind in [([right], ReplicaError), ([right, PutResult(Ref.ZERO, added=True)], CorruptBlobError)]:
        async with replica.open([MemoryStore(), Liar(*results)]) as store:
            with pytest.raises(StoreError, match="put_many failed: sync-1") as caught:
                await store.put_many([b"blob", b"other"])
            assert isinstance(caught.value.failures["sync-1"], kind)
            assert caught.value.ref is None


async def test_a_put_many_that_returns_no_list() -> None:
    class Silent(SimulatedStore):
        async def put_many(self, blobs: Any) -> Any:
            await super().put_many(blobs)

    async with replica.open([MemoryStore(), Silent()]) as store:
        with pytest.raises(StoreError, match="a put_many returned None, which is not a list of results"):
            await store.put_many([b"blob", b"other"])


async def test_an_async_store_that_lies_poisons() -> None:
    async with replica.open([MemoryStore()], [Liar(PutResult(Ref.ZERO, added=True))]) as store:
        await store.put(b"blob")
        poisoned = await store.wait_poisoned()
        assert isinstance(poisoned.failures["async-0"], CorruptBlobError)
        with pytest.raises(PoisonedError):
            await store.put(b"other")


async def test_put_many_of_nothing() -> None:
    sync, far = SimulatedStore(), SimulatedStore()
    async with replica.open([sync], [far]) as store:
        with trio.testing.assert_checkpoints():
            assert await store.put_many([]) == []
    assert sync.calls == far.calls == []


async def test_a_put_is_queued_also_when_the_blob_was_there() -> None:
    sync, far = SimulatedStore(), SimulatedStore()
    await sync.put(b"blob")
    async with replica.open([sync], [far]) as store:
        assert await store.put(b"blob") == PutResult(Ref.of(b"blob"), added=False)
    assert far.blobs == {Ref.of(b"blob"): b"blob"}


@pytest.mark.parametrize("bad", ["text", None, 3, [1]])
async def test_what_is_no_blob_changes_nothing(bad: Any) -> None:
    sync, far = SimulatedStore(), SimulatedStore()
    async with replica.open([sync], [far]) as store:
        with pytest.raises(TypeError, match=type(bad).__name__):
            await store.put(bad)
        with pytest.raises(TypeError, match=type(bad).__name__):
            await store.put_many([b"good", bad])
        with pytest.raises(TypeError, match=f"not {type(bad).__name__}"):
            await store.get(bad)
    assert sync.calls == far.calls == []


async def test_a_buffer_that_changes_after_the_put() -> None:
    async with replica.open([MemoryStore()], [far := MemoryStore()]) as store:
        buffer = bytearray(b"before")
        ref, _ = await store.put(buffer)
        buffer[:] = b"after!"
        assert await store.get(ref) == b"before"
    assert await far.get(ref) == b"before"


async def test_a_blob_is_hashed_once_and_a_large_one_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[int, threading.Thread]] = []
    real = hashlib.sha256

    def sha256(data: bytes) -> object:
        hashed.append((len(data), threading.current_thread()))
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    async with replica.open([MemoryStore(), MemoryStore()], [MemoryStore()]) as store:
        small, large = bytes(2**20), bytes(64 * 2**20)
        await store.put(small)
        assert hashed == [(2**20, threading.main_thread())]
        hashed.clear()
        await store.put(large)
        await store.put_many([Blob(large[1:])])
        await store.flush()
        ref = Ref.of(Blob(small))
        assert len(hashed) == 3
        hashed.clear()
        assert await store.get(Ref(real(large).digest())) == large
        assert await store.get(ref) == small
    assert [thread for size, thread in hashed if size > 2**20 and thread is threading.main_thread()] == []
    assert len([size for size, _ in hashed if size == 64 * 2**20]) >= 1


@pytest.mark.deep
@pytest.mark.no_cover
async def test_ten_thousand_concurrent_puts() -> None:
    stores = [MemoryStore() for _ in range(3)]
    async with replica.open(stores[:2], stores[2:], queue_size=7) as store:
        async with trio.open_nursery() as nursery:
            for number in range(10_000):
                nursery.start_soon(store.put, b"%d" % number)
        assert store.statistics().sync_stores["sync-0"].puts == 10_000
    assert [len(store) for store in stores] == [10_000] * 3
    counts = store.statistics().async_stores["async-0"]
    assert (counts.written, counts.queued, counts.in_flight, counts.queued_bytes) == (10_000, 0, 0, 0)
    assert counts.peak_queued <= 8


async def test_a_replica_in_a_replica(autojump_clock: MockClock) -> None:
    inner_sync, inner_async, outer_sync, last = (SimulatedStore(put=1) for _ in range(4))
    async with (
        replica.open([inner_sync], [inner_async]) as inner,
        replica.open([outer_sync, inner], {"last": last}) as store,
    ):
        ref, added = await store.put(b"blob")
        assert added
        assert await store.get(ref) == b"blob"
        with pytest.raises(BlobNotFoundError):
            await store.get(Ref.ZERO)
        assert [ref async for ref in store.list_refs()] == [ref]
    for each in (inner_sync, inner_async, outer_sync, last):
        assert each.blobs == {ref: b"blob"}


async def test_an_inner_replica_that_is_poisoned() -> None:
    broken = SimulatedStore()
    broken.fail(BROKEN)
    with pytest.raises(StoreError, match=r"put of .* failed: inner: PoisonedError: .* async-0: OSError: broken"):
        async with replica.open([MemoryStore()], [broken]) as inner, replica.open({"inner": inner}) as store:
            await inner.put(b"first")
            await inner.wait_poisoned()
            await store.put(b"second")


class Relaying(SimulatedStore):
    """A store that answers every call with the cancellation of some other task."""

    async def relay(self, *_: Any) -> Any:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                kept.append(cancelled)
                raise
        raise kept[0]

    put = put_many = get = get_many = contains = list_page = relay  # type: ignore[assignment]


async def test_a_cancellation_of_another_task_is_a_failure_of_the_store() -> None:
    async with replica.open({"good": MemoryStore(), "relaying": Relaying()}) as store:
        for call in (
            partial(store.put, b"blob"),
            partial(store.put_many, [b"blob", b"other"]),
            partial(store.get, Ref.ZERO),
            partial(store.get_many, [Ref.ZERO]),
            partial(store.contains, Ref.ZERO),
            partial(store.list_page, Ref.ZERO, 1),
        ):
            with pytest.raises(StoreError, match="relaying: ReplicaError: the store raised a Cancelled"):
                await call()
    with pytest.raises(PoisonedError, match="relaying: ReplicaError: the store raised a Cancelled"):
        async with replica.open([MemoryStore()], {"relaying": Relaying()}) as store:
            await store.put(b"blob")
            await store.wait_poisoned()


async def test_a_result_that_is_a_plain_tuple() -> None:
    class Plain(SimulatedStore):
        async def put(self, blob: Any) -> Any:
            return tuple(await super().put(blob))

    async with replica.open([Plain()], [Plain()]) as store:
        assert await store.put(b"blob") == PutResult(Ref.of(b"blob"), added=True)


# Poison


async def test_poison_wakes_everybody_at_that_moment(autojump_clock: MockClock) -> None:
    failing, healthy = SimulatedStore(put=7), SimulatedStore(put=100)
    failing.fail(BROKEN)
    stores = {"failing": failing, "healthy": healthy}
    with pytest.raises(PoisonedError) as caught:
        async with replica.open([MemoryStore()], stores, queue_size=2, batch_size=1) as store:
            async with trio.open_nursery() as nursery:
                await put_numbers(store, [0])
                await trio.testing.wait_all_tasks_blocked()
                await put_numbers(store, [1, 2])
                tasks = {
                    "both full": Ended(nursery, store.put, b"3"),
                    "many": Ended(nursery, store.put_many, [b"4", b"5"]),
                    "flush": Ended(nursery, store.flush),
                }
                watcher = Ended(nursery, store.wait_poisoned)
            for name, task in tasks.items():
                assert task.at == 7, name
                assert isinstance(task.error, PoisonedError), name
                assert task.error.failures == {"failing": BROKEN}, name
                assert task.error.store == "failing", name
                assert task.error.__cause__ is BROKEN, name
                assert task.error.unreplicated == {"failing": refs(0, 1, 2), "healthy": refs(0, 1, 2)}, name
                assert "open the replica again. With an outbox it then delivers" in task.error.__notes__[0]
            errors = {id(task.error) for task in tasks.values()}
            assert len(errors) == 3, "each caller has its own"
            assert watcher.at == 7
            assert isinstance(watcher.value, PoisonedError)
            assert repr(store).startswith("<ReplicaStore poisoned, sync-0; failing: 3 unreplicated")
            for call in (
                partial(store.put, b"more"),
                partial(store.put_many, [b"more"]),
                partial(store.get, Ref.ZERO),
                partial(store.get_many, [Ref.ZERO]),
                partial(store.contains, Ref.ZERO),
                partial(store.list_page, Ref.ZERO, 1),
            ):
                with pytest.raises(PoisonedError):
                    await call()
            with pytest.raises(PoisonedError):
                store.list_refs()
            with pytest.raises(PoisonedError):
                await store.flush()
            raise tasks["flush"].error or AssertionError
    assert caught.value is tasks["flush"].error
    # The healthy store got everything that was queued for it.
    assert trio.current_time() == 300
    assert tuple(healthy.blobs) == refs(0, 1, 2)
    assert store.unreplicated == {"failing": refs(0, 1, 2), "healthy": ()}


async def test_poison_wakes_a_put_that_waits_for_a_healthy_store(autojump_clock: MockClock) -> None:
    failing, healthy = SimulatedStore(put=7), SimulatedStore(put=100)
    failing.fail(BROKEN)
    async with replica.open([MemoryStore()], [failing, healthy], queue_size=1) as store:
        async with trio.open_nursery() as nursery:
            await put_numbers(store, [0])
            await trio.testing.wait_all_tasks_blocked()
            failing.recover()
            await put_numbers(store, [1])
            waiting = Ended(nursery, store.put, b"2")
        assert waiting.at == 7
        assert isinstance(waiting.error, PoisonedError)
        # Its blob was in no queue when the replica was poisoned.
        assert refs(2)[0] not in waiting.error.unreplicated["async-1"]


async def test_poison_wakes_those_who_wait_for_the_queue_of_another_store_alone(autojump_clock: MockClock) -> None:
    failing, healthy = SimulatedStore(put=[0, 0, 7]), SimulatedStore(put=100)
    failing.fail(BROKEN, "put", after=2)
    stores = {"healthy": healthy, "failing": failing}
    async with replica.open([MemoryStore()], stores, queue_size=1, batch_size=1) as store:
        async with trio.open_nursery() as nursery:
            for number in range(2):
                await put_numbers(store, [number])
                await trio.testing.wait_all_tasks_blocked()
            waiting = [Ended(nursery, store.put, b"2"), Ended(nursery, store.flush)]
            await trio.testing.wait_all_tasks_blocked()
            assert store.statistics().async_stores["failing"].queued == 0, "it has room, and its worker has the blob"
        assert [task.at for task in waiting] == [7, 7]
        assert all(isinstance(task.error, PoisonedError) for task in waiting)


async def test_a_put_in_the_sync_stores_when_the_replica_is_poisoned(autojump_clock: MockClock) -> None:
    failing, slow_sync = SimulatedStore(put=2), SimulatedStore(put=[1, 5])
    failing.fail(BROKEN)
    async with replica.open([slow_sync], [failing]) as store:
        await put_numbers(store, [0])
        with pytest.raises(PoisonedError) as caught:
            await store.put(b"1")
        assert trio.current_time() == 6
        assert caught.value.unreplicated == {"async-0": refs(0)}, "nothing was queued"
    assert slow_sync.blobs.keys() == set(refs(0, 1))


async def test_gets_and_listings_under_way_run_on(autojump_clock: MockClock) -> None:
    sync, failing = SimulatedStore(get=5, list_page=5, page_size=1), SimulatedStore(put=1)
    failing.fail(BROKEN)
    async with replica.open([sync], [failing]) as store:
        await put_numbers(store, [0, 1])
        listing = store.list_refs()
        async with trio.open_nursery() as nursery:
            got = Ended(nursery, store.get, refs(0)[0])
            page = Ended(nursery, store.list_page, Ref.ZERO, 10)
        assert (got.at, got.value) == (5, b"0")
        assert (page.at, page.value) == (5, [min(refs(0, 1))])
        assert [ref async for ref in listing] == sorted(refs(0, 1))
        with pytest.raises(PoisonedError):
            await store.get(refs(0)[0])


async def test_two_stores_that_fail_in_the_same_tick(autojump_clock: MockClock) -> None:
    stores = {"one": SimulatedStore(put=1), "two": SimulatedStore(put=1)}
    for each in stores.values():
        each.fail(BROKEN)
    with pytest.raises(PoisonedError) as caught:
        async with replica.open([MemoryStore()], stores) as store:
            await store.put(b"blob")
            await store.flush()
    assert caught.value.failures == {"one": BROKEN, "two": BROKEN}


async def test_the_exit_raises_what_nobody_was_told(autojump_clock: MockClock) -> None:
    failing = SimulatedStore()
    failing.fail(BROKEN)
    with pytest.raises(PoisonedError) as caught:
        async with replica.open([MemoryStore()], [failing]) as store:
            await store.put(b"blob")
    assert caught.value.failures == {"async-0": BROKEN}
    assert caught.value.unreplicated == {"async-0": (Ref.of(b"blob"),)}


async def test_the_exit_is_silent_about_what_was_told(autojump_clock: MockClock) -> None:
    failing = SimulatedStore()
    failing.fail(BROKEN)
    async with replica.open([MemoryStore()], [failing]) as store:
        await store.put(b"blob")
        with pytest.raises(PoisonedError):
            await store.flush()


async def test_the_exit_raises_a_second_failure(autojump_clock: MockClock) -> None:
    first, second = SimulatedStore(put=1), SimulatedStore(put=5)
    first.fail(BROKEN)
    late = OSError("late")
    second.fail(late)
    with pytest.raises(PoisonedError) as caught:
        async with replica.open([MemoryStore()], {"first": first, "second": second}) as store:
            await store.put(b"blob")
            with pytest.raises(PoisonedError) as told:
                await store.flush()
            assert told.value.failures == {"first": BROKEN}
    assert trio.current_time() == 5
    assert caught.value.failures == {"first": BROKEN, "second": late}
    assert caught.value.store == "first"


async def test_the_bodys_exception_wins_over_poison(autojump_clock: MockClock) -> None:
    failing = SimulatedStore()
    failing.fail(BROKEN)
    error = ValueError("the body's own")
    with pytest.raises(ValueError, match="own") as caught:
        async with replica.open([MemoryStore()], {"failing": failing}) as store:
            await store.put(b"blob")
            await store.wait_poisoned()
            raise error
    assert caught.value is error
    assert "failing: OSError: broken" in caught.value.__notes__[0]


@pytest.mark.parametrize("hedge_delay", [0, 1])
async def test_a_cancellation_does_not_hide_poison(autojump_clock: MockClock, hedge_delay: float) -> None:
    failing = SimulatedStore(put=1)
    failing.fail(BROKEN)
    with pytest.raises(PoisonedError):
        with trio.move_on_after(5):
            async with replica.open([MemoryStore(), MemoryStore()], [failing], hedge_delay=hedge_delay) as store:
                await store.put(b"blob")
                await trio.sleep_forever()
    assert trio.current_time() == 5


async def test_a_cancellation_after_poison_was_told(autojump_clock: MockClock) -> None:
    failing = SimulatedStore(put=1)
    failing.fail(BROKEN)
    with trio.move_on_after(5) as scope:
        async with replica.open([MemoryStore()], [failing]) as store:
            await store.put(b"blob")
            with pytest.raises(PoisonedError):
                await store.flush()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_poison_is_logged(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    failing = SimulatedStore()
    failing.fail(BROKEN)
    async with replica.open([MemoryStore()], {"offsite": failing}) as store:
        await put_numbers(store, [0])
        await store.wait_poisoned()
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("trio_replica", logging.ERROR)
        assert "offsite: OSError: broken" in record.getMessage()
        with pytest.raises(PoisonedError):
            await store.flush()
    _, record = caplog.records
    assert (record.name, record.levelno) == ("trio_replica", logging.WARNING)
    assert "offsite" in record.getMessage()
    assert str(refs(0)[0]) in record.getMessage()


async def test_a_logging_filter_that_raises(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise BROKEN

    monkeypatch.setattr(logging.getLogger("trio_replica"), "filters", [refuse])
    failing = SimulatedStore()
    failing.fail(BROKEN)
    with pytest.raises(OSError, match="broken"):
        async with replica.open([MemoryStore()], [failing]) as store:
            await store.put(b"blob")
            with pytest.raises(PoisonedError):
                await store.flush()
            monkeypatch.undo()
            raise BROKEN


async def test_a_logging_filter_that_raises_at_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise BROKEN

    monkeypatch.setattr(logging.getLogger("trio_replica"), "filters", [refuse])
    with trio.move_on_after(5) as scope:
        async with replica.open([MemoryStore()], [SimulatedStore(put=9)]) as store:
            await store.put(b"blob")
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_store_that_raises_groups(autojump_clock: MockClock) -> None:
    class Grouping(SimulatedStore):
        async def put(self, blob: Any) -> PutResult:
            try:
                return await super().put(blob)
            except OSError as error:
                raise ExceptionGroup("of a nursery", [error]) from None

    failing = Grouping()
    failing.fail(BROKEN)
    with pytest.raises(PoisonedError) as caught:
        async with replica.open([MemoryStore()], [failing]) as store:
            await store.put(b"blob")
    (failure,) = caught.value.failures.values()
    assert isinstance(failure, ExceptionGroup)
    assert failure.exceptions == (BROKEN,)
    async with replica.open([failing]) as store:
        with pytest.raises(StoreError):
            await store.put(b"blob")


async def test_a_group_with_a_cancellation_in_it_is_both(autojump_clock: MockClock) -> None:
    class CleanupFails(SimulatedStore):
        async def put(self, blob: Any) -> Any:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await super().put(blob)
                finally:
                    raise BROKEN

    hung = CleanupFails()
    hung.hang()
    with pytest.raises(PoisonedError) as caught:
        with trio.move_on_after(5):
            async with replica.open([MemoryStore()], [hung]) as store:
                await store.put(b"blob")
                await trio.sleep_forever()
    assert trio.current_time() == 5
    assert isinstance(caught.value.failures["async-0"], ExceptionGroup)


@pytest.mark.parametrize("request_type", [KeyboardInterrupt, SystemExit])
async def test_an_async_store_that_asks_to_exit(autojump_clock: MockClock, request_type: type[BaseException]) -> None:
    asking = SimulatedStore(put=1)
    asking.fail(BaseExceptionGroup("deep", [request_type("now")]), count=1)
    with pytest.raises(request_type, match="now"):
        async with replica.open([MemoryStore()], [asking, SimulatedStore(put=1)]) as store:
            await store.put(b"blob")
            await trio.sleep_forever()
    assert trio.current_time() == 1
    assert store.unreplicated["async-0"] == (Ref.of(b"blob"),)


async def test_nothing_is_accepted_once_a_store_asked_to_exit(autojump_clock: MockClock) -> None:
    asking = SimulatedStore(put=1)
    asking.fail(KeyboardInterrupt("now"))
    with pytest.raises(KeyboardInterrupt, match="now"):
        async with replica.open([MemoryStore()], [asking], queue_size=1, batch_size=1) as store:
            await put_numbers(store, [0])
            await trio.testing.wait_all_tasks_blocked()
            await put_numbers(store, [1])
            with trio.CancelScope(shield=True):
                with pytest.raises(trio.ClosedResourceError):
                    await store.put(b"2")
                assert trio.current_time() == 1
                with pytest.raises(trio.ClosedResourceError):
                    await store.put(b"3")
            await trio.sleep_forever()
    assert store.unreplicated == {"async-0": refs(0, 1)}


async def test_a_sync_store_that_asks_to_exit(autojump_clock: MockClock) -> None:
    asking = SimulatedStore(put=1, get=1)
    asking.fail(KeyboardInterrupt("now"))
    async with replica.open([asking, SimulatedStore(put=9, get=9)]) as store:
        with pytest.raises(KeyboardInterrupt, match="now"):
            await store.put(b"blob")
        with pytest.raises(KeyboardInterrupt, match="now"):
            await store.get(Ref.of(b"blob"))
        assert trio.current_time() == 2


# The end of the block


class Stubborn(SimulatedStore):
    """A store whose puts, once begun, can't be interrupted."""

    interruptible = False

    async def put(self, blob: Any) -> PutResult:
        with trio.CancelScope(shield=True):
            result = await super().put(blob)
        return result


async def test_a_normal_exit_drains(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=10)
    async with replica.open([MemoryStore()], [slow], batch_size=1) as store:
        await put_numbers(store, range(5))
        assert trio.current_time() == 0
    assert trio.current_time() == 50
    assert tuple(slow.blobs) == refs(*range(5))
    assert store.unreplicated == {"async-0": ()}
    assert repr(store) == "<ReplicaStore closed, sync-0; async-0: 0 unreplicated>"


async def test_an_exit_by_an_exception_drains(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=10)
    error = ValueError("own")
    with pytest.raises(ValueError, match="own") as caught:
        async with replica.open([MemoryStore()], [slow], batch_size=1) as store:
            await put_numbers(store, range(3))
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert trio.current_time() == 30
    assert store.unreplicated == {"async-0": ()}


@pytest.mark.parametrize(
    ("grace", "ended", "written"), [(0, 25, 2), (4, 29, 2), (6, 31, 3), (12, 37, 3), (math.inf, 50, 5)]
)
async def test_a_cancelled_block(autojump_clock: MockClock, grace: float, ended: float, written: int) -> None:
    slow = SimulatedStore(put=10)
    with trio.move_on_after(25) as scope:
        async with replica.open([MemoryStore()], [slow], batch_size=1, grace=grace) as store:
            await put_numbers(store, range(5))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == ended
    assert tuple(slow.blobs) == refs(*range(written))
    assert store.unreplicated == {"async-0": refs(*range(written, 5))}


@pytest.mark.parametrize(("grace", "ended", "written"), [(0, 25, 2), (6, 31, 3), (12, 37, 3), (math.inf, 50, 5)])
async def test_a_cancelled_drain(autojump_clock: MockClock, grace: float, ended: float, written: int) -> None:
    slow = SimulatedStore(put=10)
    with trio.move_on_after(25) as scope:
        async with replica.open([MemoryStore()], [slow], batch_size=1, grace=grace) as store:
            await put_numbers(store, range(5))
    assert scope.cancelled_caught
    assert trio.current_time() == ended
    assert store.unreplicated == {"async-0": refs(*range(written, 5))}


async def test_an_exception_wins_over_the_cancellation_of_its_drain(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=10)
    with pytest.raises(ValueError, match="own"):
        with trio.move_on_after(5):
            async with replica.open([MemoryStore()], [slow]) as store:
                await store.put(b"blob")
                raise ValueError("own")
    assert trio.current_time() == 5


async def test_a_cancellation_when_there_is_nothing_to_drain() -> None:
    with trio.CancelScope() as scope:
        async with replica.open([MemoryStore()]) as store:
            await store.put(b"blob")
            scope.cancel()
    assert not scope.cancelled_caught


async def test_a_group_with_a_cancellation_ends_at_once_and_comes_out_as_itself(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=10)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: ASYNC401  (what is in the inner group is tested below)
        with trio.move_on_after(5):
            async with replica.open([MemoryStore()], [slow]) as store:
                await store.put(b"blob")
                async with trio.open_nursery():
                    try:
                        await trio.sleep_forever()
                    except trio.Cancelled as cancelled:
                        raise BaseExceptionGroup("both", [cancelled, BROKEN]) from None  # noqa: ASYNC104
    assert trio.current_time() == 5
    assert store.unreplicated == {"async-0": (Ref.of(b"blob"),)}
    assert caught.group_contains(OSError, match="broken", depth=2)


async def test_a_write_that_can_not_be_interrupted(autojump_clock: MockClock) -> None:
    stubborn = Stubborn(put=10)
    with trio.move_on_after(5):
        async with replica.open([MemoryStore()], [stubborn], batch_size=1) as store:
            await put_numbers(store, range(3))
            await trio.sleep_forever()
    assert trio.current_time() == 10
    assert store.unreplicated == {"async-0": refs(1, 2)}, "the one that was written is not among them"


async def test_other_tasks_when_the_block_ends(autojump_clock: MockClock) -> None:
    sync, slow = SimulatedStore(put=[0, 0, 0, 5], get=5, list_page=5), SimulatedStore(put=10)
    async with trio.open_nursery() as nursery:
        async with replica.open([sync], [slow], queue_size=1, batch_size=1) as store:
            await put_numbers(store, [0])
            await trio.testing.wait_all_tasks_blocked()
            await put_numbers(store, [1])
            waiting = Ended(nursery, store.put, b"2")
            await trio.testing.wait_all_tasks_blocked()
            writing = Ended(nursery, store.put, b"3")
            flush = Ended(nursery, store.flush)
            watcher = Ended(nursery, store.wait_poisoned)
            got = Ended(nursery, store.get, refs(0)[0])
            listing = store.list_refs()
            await trio.sleep(1)
        for task in (waiting, writing, flush, watcher):
            assert isinstance(task.error, trio.ClosedResourceError)
            assert task.at == 1
        assert (got.at, got.value) == (5, b"0")
        assert trio.current_time() == 20
        assert tuple(slow.blobs) == refs(0, 1)
        for call in (store.flush, store.wait_poisoned, partial(store.get, Ref.ZERO), partial(store.put, b"more")):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        with pytest.raises(trio.ClosedResourceError):
            store.list_refs()
        with pytest.raises(trio.ClosedResourceError):
            await anext(listing)


@pytest.mark.parametrize("quick_first", [True, False])
@pytest.mark.parametrize("many", [True, False])
async def test_a_put_that_waits_for_one_last_store_ends_with_the_block(
    autojump_clock: MockClock, *, quick_first: bool, many: bool
) -> None:
    hung = SimulatedStore()
    hung.hang()
    stores = [SimulatedStore(), hung] if quick_first else [hung, SimulatedStore()]
    async with trio.open_nursery() as nursery:
        async with replica.open(stores) as store:
            putting = Ended(nursery, store.put_many, [b"1", b"2"]) if many else Ended(nursery, store.put, b"1")
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(putting.error, trio.ClosedResourceError)
        assert putting.at == 1


async def test_a_block_waits_for_a_write_that_can_not_be_interrupted(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with replica.open([Stubborn(put=5)], [far := SimulatedStore()]) as store:
            writing = Ended(nursery, store.put, b"blob")
            await trio.sleep(1)
        assert trio.current_time() == 5, "no call of a replica outlives its block"
    assert writing.at == 5
    assert isinstance(writing.error, trio.ClosedResourceError)
    assert far.blobs == {}


async def test_a_put_that_is_hashing_when_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    real = hashlib.sha256

    def sha256(data: bytes) -> object:  # pragma: no cover  (Trio's thread may be older than the tracing of it)
        started.set()
        go_on.wait()
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    async with trio.open_nursery() as nursery:
        async with replica.open([MemoryStore()]) as store:
            hashing = Ended(nursery, store.put, bytes(2**20 + 1))
            await trio.to_thread.run_sync(started.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(hashing.error, trio.ClosedResourceError)
        go_on.set()


async def test_wait_poisoned_of_a_closed_replica_that_was_poisoned() -> None:
    failing = SimulatedStore()
    failing.fail(BROKEN)
    with pytest.raises(PoisonedError):
        async with replica.open([MemoryStore()], [failing]) as store:
            await store.put(b"blob")
    with pytest.raises(trio.ClosedResourceError):
        await store.wait_poisoned()


async def test_what_is_left_is_logged_briefly(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    hung = SimulatedStore()
    hung.hang()
    with trio.move_on_after(1):
        async with replica.open([MemoryStore()], {"hung": hung}, queue_size=20) as store:
            await put_numbers(store, range(15))
            await trio.sleep_forever()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "hung lacks 15" in record.getMessage()
    assert str(refs(9)[0]) in record.getMessage()
    assert str(refs(10)[0]) not in record.getMessage()


# KeyboardInterrupt


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def run_interrupted(grace: float, when: str) -> tuple[float, dict[str, tuple[Ref, ...]]]:
    """Interrupt a replica that has five blobs queued for a store that takes 10 s each, 25 s after it was opened."""
    found: dict[str, tuple[Ref, ...]] = {}
    ended = 0.0

    async def main() -> None:
        nonlocal ended
        slow = SimulatedStore(put=10)
        trio.lowlevel.spawn_system_task(interrupt_later)
        try:
            async with replica.open([MemoryStore()], [slow], batch_size=1, grace=grace) as store:
                await put_numbers(store, range(5))
                if when == "body":
                    await trio.sleep_forever()
        finally:
            found.update(store.unreplicated)
            ended = trio.current_time()

    async def interrupt_later() -> None:
        await trio.sleep(25)
        interrupt()

    with pytest.raises(KeyboardInterrupt) as caught:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert type(caught.value) is KeyboardInterrupt
    return ended, found


@pytest.mark.parametrize("when", ["body", "drain"])
@pytest.mark.parametrize(("grace", "ended", "written"), [(0, 25, 2), (6, 31, 3), (12, 37, 3)])
def test_a_keyboard_interrupt(when: str, grace: float, ended: float, written: int) -> None:
    assert run_interrupted(grace, when) == (ended, {"async-0": refs(*range(written, 5))})


def test_a_second_keyboard_interrupt_ends_the_grace() -> None:
    async def main() -> None:
        slow = SimulatedStore(put=10)
        trio.lowlevel.spawn_system_task(interrupt_twice)
        async with replica.open([MemoryStore()], [slow], batch_size=1, grace=math.inf) as store:
            await put_numbers(store, range(5))

    async def interrupt_twice() -> None:
        await trio.sleep(5)
        interrupt()
        await trio.sleep(20)
        assert trio.current_time() == 25
        interrupt()

    clock = trio.testing.MockClock(autojump_threshold=0)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main, clock=clock)


def test_a_keyboard_interrupt_wins_over_everything_else() -> None:
    failing = SimulatedStore()
    failing.fail(BROKEN)
    slow = SimulatedStore(put=10)

    async def main() -> None:
        trio.lowlevel.spawn_system_task(interrupt_later)
        async with replica.open([MemoryStore()], {"failing": failing, "slow": slow}) as store:
            await store.put(b"blob")
            await store.wait_poisoned()
            raise ValueError("own")

    async def interrupt_later() -> None:
        await trio.sleep(5)
        interrupt()

    with pytest.raises(KeyboardInterrupt) as caught:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert "failing: OSError: broken" in caught.value.__notes__[0]


# At the door


def test_the_door() -> None:
    one, two = MemoryStore(), MemoryStore()
    bad: Any
    for arguments, options, kind, text in [
        (([],), {}, ValueError, "at least one sync store"),
        (({},), {}, ValueError, "at least one sync store"),
        (([one, one],), {}, ValueError, "given twice: as 'sync-0' and as 'sync-1'"),
        (([one], [one]), {}, ValueError, "given twice: as 'sync-0' and as 'async-0'"),
        (({"a": one}, {"a": two}), {}, ValueError, "the name 'a' is given twice"),
        (({"": one},), {}, ValueError, "not empty"),
        (({1: one},), {}, TypeError, "a str, not 1"),
        (("sqlite:x",), {}, TypeError, "'sqlite:x'"),
        ((one,), {}, TypeError, "an iterable of stores or a mapping"),
        ((["sqlite:x"],), {}, TypeError, "open_store('sqlite:x')"),
        (([one], {"far": "memory:"}), {}, TypeError, "far is of type str"),
        (([None],), {}, TypeError, "NoneType, not a Store"),
        (([replica.open_store("memory:")],), {}, TypeError, "enter it first"),
        (([one],), {"queue_size": 0}, ValueError, "queue_size is at least 1, not 0"),
        (([one],), {"queue_size": 1.5}, TypeError, "queue_size is an int, not 1.5"),
        (([one],), {"queue_size": True}, TypeError, "queue_size is an int, not True"),
        (([one],), {"queue_size": math.inf}, TypeError, "queue_size is an int, not inf"),
        (([one],), {"batch_size": 0}, ValueError, "batch_size is at least 1, not 0"),
        (([one],), {"batch_size": "3"}, TypeError, "batch_size is an int, not '3'"),
        (([one],), {"grace": -1}, ValueError, "grace is 0 or more seconds, not -1"),
        (([one],), {"grace": math.nan}, ValueError, "grace is 0 or more seconds, not nan"),
        (([one],), {"grace": None}, TypeError, "grace is a number of seconds, not None"),
        (([one],), {"hedge_delay": -0.1}, ValueError, "hedge_delay is 0 or more seconds, not -0.1"),
        (([one],), {"hedge_delay": True}, TypeError, "hedge_delay is a number of seconds, not True"),
    ]:
        bad = arguments
        with pytest.raises(kind, match=re.escape(text)) as caught:
            replica.open(*bad, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    replica.open([one], [two], grace=math.inf, hedge_delay=math.inf, queue_size=1, batch_size=1)


async def test_a_generator_of_stores() -> None:
    async with replica.open((MemoryStore() for _ in range(2)), iter([MemoryStore()])) as store:
        await store.put(b"blob")
        assert set(store.statistics().sync_stores) == {"sync-0", "sync-1"}


def test_a_replica_belongs_to_its_run() -> None:
    kept: list[ReplicaStore] = []

    async def first() -> None:
        async with replica.open([MemoryStore()]) as store:
            kept.append(store)

    async def second() -> None:
        for call in (kept[0].flush, kept[0].wait_poisoned, partial(kept[0].put, b"blob")):
            with pytest.raises(RuntimeError, match=r"belongs to the trio\.run"):
                await call()

    trio.run(first)
    trio.run(second)
    assert kept[0].statistics().sync_stores["sync-0"].puts == 0
    assert kept[0].unreplicated == {}


async def test_results_that_are_only_equal_to_put_results_become_such() -> None:
    class Tuples(SimulatedStore):
        async def put_many(self, blobs: Any) -> Any:
            return [(bytes(ref), added) for ref, added in await super().put_many(blobs)]

    async with replica.open([Tuples()]) as store:
        (result,) = await store.put_many([b"blob"])
    assert type(result) is PutResult
    assert type(result.ref) is Ref
    assert result == (Ref.of(b"blob"), True)
