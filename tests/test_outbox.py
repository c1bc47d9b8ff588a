"""The outbox and its relays, under the mock clock with exact times, and with crashes between steps."""

from __future__ import annotations

import logging
import math
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import Blob, BlobNotFoundError, MemoryStore, PoisonedError, PutResult, RetryingStore, StoreError
from trio_replica._async import outbox as internals
from trio_replica._async.delivery import OutboxDelivery
from trio_replica._async.storage import LostFileError, NotedStore
from trio_replica.testing import Batched, SimulatedStore

from .common import BROKEN, Ended, count_blobs, open_and_close, put_numbers, refs, without_gc
from .outboxes import FULL, Disk, MemoryOutbox, open_with_outbox

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_replica import AsyncStoreStatistics, ReplicaStore


def of(store: ReplicaStore, name: str = "copy") -> AsyncStoreStatistics:
    return store.statistics().async_stores[name]


async def filled(*numbers: int) -> MemoryStore:
    store = MemoryStore()
    await put_numbers(store, numbers)
    return store


def lacking(*numbers: int, watermark: int = 1) -> Disk:
    """Return an outbox with entries for ``copy``, under the numbers 1, 2, …."""
    return Disk(["copy"], {(0, seq): ref for seq, ref in enumerate(refs(*numbers), 1)}, watermark)


# Puts


@pytest.mark.parametrize(("sync", "commit", "expected"), [(3, 5, 5), (5, 3, 5)])
async def test_a_put_returns_when_the_stores_have_it_and_the_outbox_does(
    autojump_clock: MockClock, sync: float, commit: float, expected: float
) -> None:
    copy = SimulatedStore()
    outbox = MemoryOutbox(Disk(), commit)
    async with open_with_outbox([SimulatedStore(put=sync, put_many=Batched(sync, 0))], {"copy": copy}, outbox) as store:
        assert await store.put(b"0") == (refs(0)[0], True)
        assert trio.current_time() == expected
        assert outbox.disk.pending("copy") == [*refs(0)]
        assert of(store).pending == 1
        await store.put_many([b"1", b"2"])
        assert trio.current_time() == 2 * expected
        await store.flush()
        assert (of(store).pending, outbox.disk.pending("copy")) == (0, [])
    assert tuple(copy.blobs) == refs(0, 1, 2)


async def test_a_put_that_the_outbox_fails_is_no_put(autojump_clock: MockClock) -> None:
    copy = SimulatedStore()
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox) as store:
        for put in (lambda: store.put(b"0"), lambda: store.put_many([b"0", b"1"])):
            await trio.testing.wait_all_tasks_blocked()
            outbox.failures.append(FULL)
            with pytest.raises(StoreError, match=r"failed: outbox: ReplicaError: the disk is full$"):
                await put()
            assert store.unreplicated == {"copy": ()}
            assert of(store).pending == 0
        await store.put(b"2")
    assert tuple(copy.blobs) == refs(2)
    assert outbox.disk.entries == {}
    assert outbox.disk.watermark == 5


async def test_the_entry_of_a_put_that_a_store_fails_is_withdrawn_at_once(autojump_clock: MockClock) -> None:
    sync, copy = SimulatedStore(put=2), SimulatedStore()
    sync.fail(BROKEN, "put", count=1)
    outbox = MemoryOutbox(Disk(), 1)
    async with open_with_outbox([sync], {"copy": copy}, outbox) as store:
        with pytest.raises(StoreError, match=r"^put of .* failed: sync-0: OSError: broken$"):
            await store.put(b"0")
        assert outbox.disk.pending("copy") == [*refs(0)]
        await trio.sleep(1.5)
        assert outbox.disk.entries == {}
        assert outbox.disk.watermark == 1, "a crash undoes the withdrawal, and then it has not ended"
    assert copy.calls == []
    assert outbox.disk.watermark == 2


async def test_a_put_that_fails_leaves_the_acknowledgements_that_its_commit_carried_to_the_next(
    autojump_clock: MockClock,
) -> None:
    outbox, failing = MemoryOutbox(Disk()), SimulatedStore(put=1)
    failing.fail(BROKEN, "put", after=1)
    async with open_with_outbox([failing], {"copy": SimulatedStore()}, outbox) as store:
        await put_numbers(store, [0])
        await trio.testing.wait_all_tasks_blocked()
        assert of(store, "copy").pending == 1, "it is delivered, and its acknowledgement waits for a commit"
        outbox.is_stuck = True
        with pytest.raises(StoreError):  # its commit, which carries the acknowledgement, is withdrawn
            await put_numbers(store, [1])
        outbox.is_stuck = False
        await store.flush()
        assert of(store, "copy").pending == 0
    assert outbox.disk.entries == {}


async def test_the_entry_of_a_cancelled_put_is_withdrawn(autojump_clock: MockClock) -> None:
    sync = SimulatedStore(put=2)
    outbox = MemoryOutbox(Disk(), 1)
    async with open_with_outbox([sync], {"copy": SimulatedStore()}, outbox) as store:
        with trio.move_on_after(1.5) as scope:
            await store.put(b"0")
        assert scope.cancelled_caught
        with trio.move_on_after(0.5):  # before its entry is on the disk
            await store.put(b"1")
        await trio.sleep(5)
        assert of(store).pending == 0
    assert outbox.disk.entries == {}


async def test_a_cancelled_put_leaves_the_acknowledgements_that_its_commit_carried_to_the_next(
    autojump_clock: MockClock,
) -> None:
    outbox = MemoryOutbox(Disk(), 0.001)
    async with open_with_outbox([SimulatedStore(put=[0, 9])], {"copy": SimulatedStore()}, outbox) as store:
        await store.put(b"0")
        await trio.testing.wait_all_tasks_blocked()
        assert outbox.disk.pending("copy") == [*refs(0)], "it is delivered, and its acknowledgement waits for a commit"
        outbox.is_stuck = True
        with trio.move_on_after(0.01) as scope:  # before the acknowledgement would be committed without a put
            await store.put(b"1")
        assert scope.cancelled_caught
        outbox.is_stuck = False
        await trio.sleep(1)
        assert (of(store).pending, outbox.disk.entries) == (0, {})


async def test_a_put_that_is_cancelled_as_its_commit_carries_acknowledgements(autojump_clock: MockClock) -> None:
    outbox = MemoryOutbox(Disk(), 1)
    copy = SimulatedStore()
    async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox) as store:
        await store.put(b"0")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await store.put(b"1")
        assert trio.current_time() == 2, "a commit that runs can't be withdrawn, so the put may return as well"
        assert outbox.disk.pending("copy") == [*refs(1)]
        await trio.sleep(2.5)
        assert outbox.disk.entries == {}
    assert tuple(copy.blobs) == (refs(0) if scope.cancelled_caught else refs(0, 1))


async def test_a_put_has_its_entry_whether_it_adds_the_blob_or_not(autojump_clock: MockClock) -> None:
    copy = SimulatedStore(put=10)
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([await filled(0)], {"copy": copy}, outbox) as store:
        assert await store.put(b"0") == (refs(0)[0], False)
        assert await store.put(b"0") == (refs(0)[0], False)
        assert outbox.disk.pending("copy") == [*refs(0, 0)]
        assert store.unreplicated == {"copy": refs(0)}
        assert repr(store) == "<ReplicaStore open, sync-0; copy: 1 unreplicated, 2 pending>"


async def test_a_put_withdraws_no_other_puts_entry(autojump_clock: MockClock) -> None:
    sync, copy = SimulatedStore(put=[1, 2]), SimulatedStore(put=100)
    sync.fail(BROKEN, "put", after=1, count=1)
    outbox = MemoryOutbox(Disk(), 0.5)
    with trio.move_on_after(10):
        async with open_with_outbox([sync], {"copy": copy}, outbox) as store, trio.open_nursery() as nursery:
            good = Ended(nursery, store.put, b"0")
            await trio.testing.wait_all_tasks_blocked()
            bad = Ended(nursery, store.put, b"0")
            await good.done.wait()
            await bad.done.wait()
            assert (good.at, bad.at) == (1, 2)
            await trio.sleep(1)
            crashed = outbox.disk.copy()
            await trio.sleep_forever()
    assert crashed.pending("copy") == [*refs(0)]
    copy = SimulatedStore()
    async with open_with_outbox([sync], {"copy": copy}, MemoryOutbox(crashed)) as store:
        await store.flush()
        assert tuple(copy.blobs) == refs(0)


async def test_a_full_queue_holds_up_no_put(autojump_clock: MockClock) -> None:
    slow, quick = SimulatedStore(put=1), SimulatedStore()
    outbox = MemoryOutbox(Disk())
    stores = {"slow": slow, "quick": quick}
    async with open_with_outbox([MemoryStore()], stores, outbox, queue_size=2, batch_size=1) as store:
        await put_numbers(store, range(50))
        assert trio.current_time() == 0
        assert of(store, "slow").pending == 50
        await trio.sleep(0.5)
        assert len(quick.blobs) == 50
        await store.flush()
        assert trio.current_time() == 50
        assert tuple(slow.blobs) == refs(*range(50))
        statistics = of(store, "slow")
        assert (statistics.peak_queued, statistics.blocked_puts, statistics.written) == (2, 0, 50)
        assert statistics.peak_bytes <= 4 * 2
        await put_numbers(store, [50, 51])  # which it is given without a relay again
        assert store.unreplicated["slow"] == refs(50, 51)
    assert tuple(slow.blobs) == refs(*range(52))


async def test_of_a_put_many_what_has_room_enters_the_queue(autojump_clock: MockClock) -> None:
    slow = SimulatedStore(put=1, put_many=Batched(1, 0))
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"copy": slow}, outbox, queue_size=4) as store:
        await store.put_many([b"%d" % number for number in range(10)])
        assert store.unreplicated == {"copy": refs(0, 1, 2, 3, 4)}, "one goes to the worker, which has been waiting"
        await store.flush()
    assert [call.refs for call in slow.calls] == [refs(0, 1, 2, 3), refs(4, 5, 6, 7), refs(8, 9)]


@pytest.mark.deep
@pytest.mark.no_cover
async def test_an_hour_of_outage_loses_nothing_and_holds_up_nothing(autojump_clock: MockClock) -> None:
    far = SimulatedStore(put=0.1, put_many=Batched(0, 0.1))
    far.outage(10, 3610, BROKEN)
    outbox = MemoryOutbox(Disk(), 0.001)
    retrying = RetryingStore(far, attempts=10**6, seconds=2 * 3600)
    async with open_with_outbox([MemoryStore()], {"copy": retrying}, outbox, queue_size=8) as store:
        for number in range(3600):
            before = trio.current_time()
            await store.put(b"%d" % number)
            assert trio.current_time() == pytest.approx(before + 0.001)
            await trio.sleep_until(number + 1)
        assert of(store).pending > 3500
        assert of(store).peak_queued <= 8
        assert of(store).peak_bytes <= 4 * 16
        await store.flush()
        # The retries may be a minute apart (RetryingStore); then the backlog goes at the store's own speed.
        assert trio.current_time() <= 3610 + 60 + 3600 * 0.1 * 1.05
    assert set(far.blobs) == set(refs(*range(3600)))


# Crashes and what comes after them


async def test_what_a_crash_leaves_is_delivered_when_it_is_opened_again(autojump_clock: MockClock) -> None:
    sync = MemoryStore()
    outbox = MemoryOutbox(Disk())
    with trio.move_on_after(3.5):
        async with open_with_outbox(
            [sync], {"copy": SimulatedStore(put=1)}, outbox, queue_size=2, batch_size=1
        ) as store:
            await put_numbers(store, range(20))
            await trio.sleep_forever()
    assert of(store).pending == 17
    copy = SimulatedStore(put=1)
    outbox = MemoryOutbox(outbox.disk.copy())
    async with open_with_outbox([sync], {"copy": copy}, outbox, queue_size=2, batch_size=1) as store:
        assert of(store).pending == 17
        await put_numbers(store, [20])
        assert of(store).pending == 18
    assert tuple(copy.blobs) == refs(*range(3, 21)), "in the order of their puts, and before the block ends"
    assert outbox.disk.entries == {}
    assert trio.current_time() == 3.5 + 18


async def test_an_entry_in_doubt_is_withdrawn_if_every_store_misses_its_blob(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outbox = MemoryOutbox(lacking(0, 1, 2, watermark=2))
    copy = SimulatedStore()
    async with open_with_outbox([await filled(0, 2), MemoryStore()], {"copy": copy}, outbox) as store:
        await store.flush()
        assert (of(store).pending, of(store).deferred) == (0, 0)
    assert tuple(copy.blobs) == refs(0, 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{refs(1)[0]} is not pending for copy any more: its put may never have returned, and no sync store has it"
    ]


COMPLETE, INCOMPLETE = NotedStore("sync", None, False), NotedStore("sync", None, True)


@pytest.mark.parametrize(
    ("noted", "is_withdrawn"),
    [
        ({"a": COMPLETE, "b": COMPLETE}, True),
        ({"a": INCOMPLETE, "b": COMPLETE}, True),
        ({"a": INCOMPLETE, "b": INCOMPLETE}, False),
        ({"a": COMPLETE._replace(identity="1" * 32), "b": COMPLETE}, True),
        ({"away": COMPLETE}, False),
        ({"away": COMPLETE, "a": NotedStore("async", None, False)}, False),
        ({"copy": NotedStore("async", None, False)}, True),
    ],
)
async def test_the_word_of_a_store_that_is_new_or_incomplete_withdraws_no_entry(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, noted: dict[str, NotedStore], *, is_withdrawn: bool
) -> None:
    disk = lacking(0, 1)
    disk.noted |= noted
    identity = noted["a"].identity if "a" in noted else None
    sync, copy = {"a": MemoryStore(identity=identity), "b": MemoryStore()}, SimulatedStore()
    await put_numbers(sync["a"], [0])
    async with open_with_outbox(sync, {"copy": copy}, MemoryOutbox(disk)) as store:
        if is_withdrawn:
            await store.flush()
        else:
            with pytest.raises(StoreError, match="1 of the blobs pending for it can't be read from any sync store"):
                await store.flush()
    assert disk.pending("copy") == [*(() if is_withdrawn else refs(1))]
    why = "it can't be read: no sync store has it, and they are new or incomplete: reconcile the stores"
    assert (f"{refs(1)[0]} is deferred for copy, because {why}" in caplog.messages) is not is_withdrawn


async def test_the_word_of_a_store_that_had_no_identity_before_withdraws_no_entry(autojump_clock: MockClock) -> None:
    disk = lacking(1)
    disk.noted["a"] = COMPLETE
    with pytest.raises(StoreError, match=r"^drain failed: copy: "):
        async with open_with_outbox(
            {"a": MemoryStore(identity="1" * 32)}, {"copy": SimulatedStore()}, MemoryOutbox(disk)
        ):
            pass
    assert disk.pending("copy") == [*refs(1)]
    await open_and_close(
        open_with_outbox({"a": MemoryStore(identity="1" * 32)}, {"copy": SimulatedStore()}, MemoryOutbox(disk))
    )
    assert disk.pending("copy") == [], "it is the one that was noted"


async def test_the_word_of_stores_without_names_is_not_that_of_known_ones(autojump_clock: MockClock) -> None:
    disk = lacking(1)
    disk.noted["a"] = COMPLETE
    with pytest.raises(StoreError, match=r"^drain failed: copy: "):
        await open_and_close(open_with_outbox([MemoryStore()], {"copy": SimulatedStore()}, MemoryOutbox(disk)))
    assert disk.pending("copy") == [*refs(1)]


@pytest.mark.parametrize("is_down", [True, False])
async def test_an_entry_in_doubt_stays_so_in_sessions_that_leave_it(
    autojump_clock: MockClock, *, is_down: bool
) -> None:
    disk = lacking(0, 1)
    stores = [Down() if is_down else MemoryStore(), await filled(1)]
    with trio.CancelScope() as cut:
        async with open_with_outbox(stores, {"copy": SimulatedStore(put=1)}, MemoryOutbox(disk, 0.1)) as store:
            await store.put(b"2")
            if is_down:
                await trio.sleep(10)  # it comes to the entry, and can't read it
            cut.cancel()
    assert disk.watermark == 4
    copy = SimulatedStore()
    async with open_with_outbox([MemoryStore(), stores[1]], {"copy": copy}, MemoryOutbox(disk)) as store:
        await store.flush()
        assert (of(store).pending, of(store).deferred) == (0, 0)
    assert disk.entries == {}


async def test_an_acknowledged_blob_that_no_store_has_stays_pending(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = MemoryOutbox(lacking(0, 1, 2, watermark=4))
    copy = SimulatedStore()
    async with open_with_outbox([await filled(0, 2)], {"copy": copy}, outbox) as store:
        with pytest.raises(StoreError, match="flush failed: copy: ReplicaError: 1 of the blobs pending for it"):
            await store.flush()
        assert (of(store).pending, of(store).deferred) == (1, 1)
    assert tuple(copy.blobs) == refs(0, 2)
    assert outbox.disk.pending("copy") == [*refs(1)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{refs(1)[0]} is deferred for copy, because no sync store has it any more",
        "the replica is closed with 1 pending for copy: the outbox keeps them",
    ]


@pytest.mark.parametrize("watermark", [1, 13])
async def test_a_few_of_many_deferred_entries_are_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, watermark: int
) -> None:
    outbox = MemoryOutbox(lacking(*range(12), watermark=watermark))
    stores = [Down()] if watermark == 1 else [MemoryStore()]
    async with open_with_outbox(stores, {"copy": MemoryStore()}, outbox) as store:
        with pytest.raises(StoreError, match="12 of the blobs pending for it"):
            await store.flush()
    assert of(store).deferred == 12
    assert sum(" for copy" in record.getMessage() for record in caplog.records) == 10 + 1


class Down(SimulatedStore):
    """A store that can't be read."""

    def __init__(self) -> None:
        super().__init__()
        self.fail(BROKEN, "get")


@pytest.mark.parametrize("watermark", [1, 3])
async def test_nothing_is_withdrawn_while_a_store_is_down(autojump_clock: MockClock, watermark: int) -> None:
    disk = lacking(0, 1, watermark=watermark)
    with pytest.raises(StoreError, match=r"^drain failed: copy: ReplicaError: 1 of the blobs pending for it"):
        async with open_with_outbox([Down(), await filled(1)], {"copy": MemoryStore()}, MemoryOutbox(disk)) as store:
            pass
    assert (of(store).pending, of(store).deferred) == (1, 1)
    assert disk.pending("copy") == [*refs(0)]
    assert disk.watermark == 3
    assert disk.in_doubt == ([(1, 3)] if watermark == 1 else [])


async def test_a_store_that_was_emptied_is_no_proof(autojump_clock: MockClock) -> None:
    copy = SimulatedStore()
    outbox = MemoryOutbox(lacking(0, 1))
    await open_and_close(open_with_outbox([MemoryStore(), await filled(0, 1)], {"copy": copy}, outbox))
    assert tuple(copy.blobs) == refs(0, 1)


@pytest.mark.parametrize("verify", [True, False])
async def test_wrong_bytes_are_not_delivered(autojump_clock: MockClock, *, verify: bool) -> None:
    rotten = SimulatedStore()
    await put_numbers(rotten, [0, 1])
    rotten.corrupt(refs(0)[0])
    copy = SimulatedStore()
    disk = lacking(0, 1)
    with pytest.raises(StoreError, match="1 of the blobs pending for it can't be read"):
        async with open_with_outbox([rotten], {"copy": copy}, MemoryOutbox(disk), verify=verify) as store:
            pass
    assert of(store).deferred == 1
    assert tuple(copy.blobs) == refs(1)
    assert disk.pending("copy") == [*refs(0)]


async def test_the_bytes_of_another_blob_are_no_proof_that_one_is_missing(autojump_clock: MockClock) -> None:
    mixed_up = SimulatedStore()
    await put_numbers(mixed_up, [0, 1])
    mixed_up.corrupt(refs(0)[0], b"1")
    copy = SimulatedStore()
    disk = lacking(0, 1)
    with pytest.raises(StoreError, match="1 of the blobs pending for it can't be read"):
        await open_and_close(open_with_outbox([mixed_up], {"copy": copy}, MemoryOutbox(disk), verify=False))
    assert disk.pending("copy") == [*refs(0)]
    assert tuple(copy.blobs) == refs(1)


async def test_the_bodys_exception_wins_and_tells_what_is_not_delivered(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError) as caught:
        async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, MemoryOutbox(lacking(0, watermark=2))):
            raise KeyError(0)
    (note,) = caught.value.__notes__
    assert note == (
        "Moreover, drain failed: copy: ReplicaError: 1 of the blobs pending for it can't be read from any sync store, "
        "and 1 of them no sync store has any more: see the log, or trio-replica outbox"
    )


async def test_entries_are_those_of_a_name_and_not_of_a_place(autojump_clock: MockClock) -> None:
    sync, outbox = MemoryStore(), MemoryOutbox(Disk())
    for names in (("one", "two", "three"), ("three", "one"), ("new", "two", "one")):
        stores = {name: SimulatedStore() for name in names}
        stores["one"].hang("put", "put_many")
        with trio.CancelScope() as scope:
            async with open_with_outbox({"local": sync}, stores, MemoryOutbox(outbox.disk)) as store:
                await store.put(b"%d" % len(outbox.disk.pending("one") if outbox.disk.names else []))
                await trio.sleep(1)
                scope.cancel()
        pending = {name: outbox.disk.pending(name) for name in outbox.disk.names}
        assert {name for name, left in pending.items() if left} == {"one"}
    assert pending["one"] == [*refs(0, 1, 2)]


async def test_entries_for_a_name_that_is_gone_are_kept_and_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = lacking(0, 1)
    async with open_with_outbox([await filled(0, 1)], {"other": MemoryStore()}, MemoryOutbox(disk)) as store:
        await put_numbers(store, [2])
        await store.flush()
    assert disk.pending("copy") == [*refs(0, 1)]
    assert [record.getMessage() for record in caplog.records] == [
        "the outbox has 2 pending for copy, which is not an async store: it keeps them"
    ]


# Poison, flush and the end


async def test_a_failed_put_many_leaves_the_entries_of_its_whole_batch(autojump_clock: MockClock) -> None:
    copy = SimulatedStore(put=1, put_many=Batched(1, 0))
    copy.fail(BROKEN, "put_many")
    outbox = MemoryOutbox(Disk())
    with pytest.raises(PoisonedError):
        async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox) as store:
            await put_numbers(store, range(5))
            await trio.sleep(10)
    assert [call.operation for call in copy.calls] == ["put", "put_many"]
    assert outbox.disk.pending("copy") == [*refs(1, 2, 3, 4)]


async def test_a_poisoned_stores_entries_stay(autojump_clock: MockClock) -> None:
    bad, good = SimulatedStore(put=1), SimulatedStore(put=1)
    bad.fail(BROKEN, after=3)
    outbox = MemoryOutbox(Disk())
    sync = MemoryStore()
    with pytest.raises(PoisonedError):
        async with open_with_outbox([sync], {"bad": bad, "good": good}, outbox, queue_size=1, batch_size=1) as store:
            await put_numbers(store, range(10))
            with pytest.raises(PoisonedError):
                await store.flush()
            assert trio.current_time() == 4
            with pytest.raises(PoisonedError):
                await store.put(b"10")
            raise PoisonedError({"bad": BROKEN})
    assert tuple(good.blobs) == refs(*range(10)), "the others get theirs"
    assert outbox.disk.pending("bad") == [*refs(*range(3, 10))]
    assert of(store, "bad").pending == 7
    bad.recover()
    async with open_with_outbox([sync], {"bad": bad, "good": good}, outbox, queue_size=1, batch_size=1) as store:
        await store.flush()
    assert tuple(bad.blobs) == refs(*range(10))
    assert len(good.calls) == 10


async def test_a_store_that_fails_at_once_as_it_catches_up(autojump_clock: MockClock) -> None:
    """The relay waits for room, is woken, and only then finds that the worker is gone."""

    class Failing(SimulatedStore):
        async def put(self, blob: object) -> Any:  # no checkpoint: that is the point
            raise BROKEN

    outbox = MemoryOutbox(lacking(*range(9)))
    with pytest.raises(PoisonedError):
        async with open_with_outbox([await filled(*range(9))], {"copy": Failing()}, outbox, queue_size=1) as store:
            await store.flush()
    assert of(store).pending == 9
    assert len(outbox.disk.entries) == 9


@pytest.mark.parametrize("grace", [0, math.inf])
async def test_a_sync_store_that_asks_to_exit_as_it_is_read(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, grace: float
) -> None:
    asking = SimulatedStore()
    asking.fail(SystemExit(3), "get")
    outbox = MemoryOutbox(lacking(0, 1))
    with pytest.raises(SystemExit):
        async with open_with_outbox([asking], {"copy": SimulatedStore()}, outbox, grace=grace) as store:
            with trio.CancelScope(shield=True), pytest.raises(trio.ClosedResourceError):
                await store.flush()
            await trio.sleep_forever()
    assert [record.getMessage() for record in caplog.records] == [
        "the replica is closed with 2 pending for copy: the outbox keeps them"
    ]


@pytest.mark.parametrize("is_shielded", [True, False])
async def test_an_async_store_that_asks_to_exit_as_it_catches_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, *, is_shielded: bool
) -> None:
    """The relay waits for room, which nobody makes any more."""
    asking = SimulatedStore(put=1)
    asking.fail(SystemExit(3))
    outbox = MemoryOutbox(lacking(*range(9)))
    with pytest.raises(SystemExit):
        async with open_with_outbox([await filled(*range(9))], {"copy": asking}, outbox, queue_size=1):
            with trio.CancelScope(shield=is_shielded):
                await trio.sleep(10)
    assert trio.current_time() == (10 if is_shielded else 1)
    assert [record.getMessage() for record in caplog.records] == [
        "the replica is closed with 9 pending for copy: the outbox keeps them"
    ]


async def test_a_flush_that_begins_as_it_is_poisoned_is_told(autojump_clock: MockClock) -> None:
    copy = SimulatedStore()
    copy.fail(BROKEN)
    with pytest.raises(PoisonedError):
        async with open_with_outbox([MemoryStore()], {"copy": copy}, MemoryOutbox(Disk())) as store:
            await put_numbers(store, [0])
            await store.flush()


async def test_a_flush_waits_for_what_was_put_before_it_alone(autojump_clock: MockClock) -> None:
    outbox = MemoryOutbox(Disk(), 0.25)
    copy = SimulatedStore(put=1)
    async with (
        open_with_outbox([MemoryStore()], {"copy": copy}, outbox, queue_size=1, batch_size=1) as store,
        trio.open_nursery() as nursery,
    ):
        await store.put_many([b"%d" % number for number in range(4)])
        flushed = Ended(nursery, store.flush)
        await trio.sleep(0.5)
        await store.put_many([b"%d" % number for number in range(4, 20)])
        await flushed.done.wait()
        assert flushed.at == pytest.approx(0.25 + 4, abs=0.75)
        assert set(refs(*range(4))) <= set(copy.blobs)
        assert of(store).pending > 12


async def test_a_flush_ends_when_the_replica_is_closed(autojump_clock: MockClock) -> None:
    copy = SimulatedStore(put=1)
    async with trio.open_nursery() as nursery:
        async with open_with_outbox([MemoryStore()], {"copy": copy}, MemoryOutbox(Disk()), queue_size=1) as store:
            await put_numbers(store, range(9))
            flushed = Ended(nursery, store.flush)
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(flushed.error, trio.ClosedResourceError)
        assert flushed.at == 0
        assert len(copy.blobs) == 9


async def test_a_flush_commits_the_acknowledgements_that_a_failed_put_had_taken_along(
    autojump_clock: MockClock,
) -> None:
    outbox = MemoryOutbox(Disk(), 1)
    async with (
        open_with_outbox([MemoryStore()], {"copy": SimulatedStore()}, outbox) as store,
        trio.open_nursery() as nursery,
    ):
        await store.put(b"0")
        await trio.testing.wait_all_tasks_blocked()
        failing = Ended(nursery, store.put, b"1")
        await trio.sleep(0.5)
        outbox.failures.append(FULL)
        await store.flush()
        assert isinstance(failing.error, StoreError)
        assert (of(store).pending, outbox.disk.pending("copy")) == (0, [])


async def test_what_a_cancelled_flush_has_not_told_the_end_tells(autojump_clock: MockClock) -> None:
    outbox = MemoryOutbox(lacking(0, watermark=2))
    with pytest.raises(StoreError, match=r"^drain failed: copy: ReplicaError: 1 of the blobs pending for it"):
        async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
            await trio.testing.wait_all_tasks_blocked()
            outbox.is_stuck = True
            with trio.move_on_after(1) as scope:
                await store.flush()
            assert scope.cancelled_caught
            outbox.is_stuck = False


@pytest.mark.parametrize(("grace", "written"), [(0, 2), (2.5, 4)])
async def test_a_cut_exit_stops_the_relay_and_acknowledges_what_is_written(
    autojump_clock: MockClock, grace: float, written: int
) -> None:
    copy = SimulatedStore(put=1)
    outbox = MemoryOutbox(Disk(), 0.05)
    options: dict[str, Any] = {"queue_size": 2, "batch_size": 1, "grace": grace}
    with trio.move_on_after(2.06):
        async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox, **options) as store:
            await store.put_many([b"%d" % number for number in range(20)])
            await trio.sleep_forever()
    assert tuple(copy.blobs) == refs(*range(written))
    assert outbox.disk.pending("copy") == [*refs(*range(written, 20))]
    assert of(store).pending == 20 - written


async def test_the_last_acknowledgements_have_a_limited_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = MemoryOutbox(Disk(), 1)
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
        await put_numbers(store, [0])
        await trio.testing.wait_all_tasks_blocked()
        outbox.is_stuck = True
    assert trio.current_time() == 1 + 5
    assert of(store).pending == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the replica is closed with 1 pending for copy: the outbox keeps them"
    ]


async def test_last_acknowledgements_that_fail_are_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
        await put_numbers(store, [0])
        await trio.testing.wait_all_tasks_blocked()
        outbox.failures.append(FULL)
    assert outbox.disk.pending("copy") == [*refs(0)]
    assert caplog.records[0].getMessage() == (
        "the last commit of the outbox failed, so delivered blobs may be delivered again: "
        "ReplicaError: the disk is full"
    )
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "the replica is closed with 1 pending for copy: the outbox keeps them"
    ]


async def test_a_lost_outbox_is_not_said_to_keep_what_is_pending(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
        await put_numbers(store, [0])
        await trio.testing.wait_all_tasks_blocked()
        outbox.failures.append(LostFileError("the outbox was removed"))
    assert of(store).pending == 1
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage() == (
        "the last commit of the outbox failed, so delivered blobs may be delivered again: "
        "LostFileError: the outbox was removed"
    )


async def test_a_last_commit_that_breaks_does_not_hide_the_error_of_the_block(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = MemoryOutbox(Disk())
    with pytest.raises(ValueError, match="of the block"):
        async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
            await put_numbers(store, [0])
            outbox.failures.append(MemoryError("none left"))
            raise ValueError("of the block")
    assert "delivered blobs may be delivered again: MemoryError: none left" in caplog.text


async def test_the_end_does_not_wait_for_room_in_an_outbox_that_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "UNCOMMITTED_LIMIT", 2)
    outbox = MemoryOutbox(Disk())
    copy = SimulatedStore(put=1)
    async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox, batch_size=1) as store:
        await put_numbers(store, range(10))
        outbox.is_full = True
    assert len(copy.blobs) == 10
    assert trio.current_time() < 20


async def test_an_interruption_of_the_last_acknowledgements_comes_out(autojump_clock: MockClock) -> None:
    outbox = MemoryOutbox(Disk())
    with pytest.raises(KeyboardInterrupt):
        async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
            await put_numbers(store, [0])
            outbox.failures.append(KeyboardInterrupt())


@pytest.mark.parametrize("fails", ["the store", "the outbox"])
async def test_a_clean_exit_leaves_the_watermark_above_a_put_that_failed_last(
    autojump_clock: MockClock, fails: str
) -> None:
    """Otherwise later entries would be in doubt in the next session, although nothing has crashed."""
    sync, copy = SimulatedStore(), SimulatedStore()
    outbox = MemoryOutbox(Disk(), 0.01)
    with trio.CancelScope() as scope:
        async with open_with_outbox([sync], {"copy": copy}, outbox) as store:
            copy.hang("put", "put_many")
            await put_numbers(store, [0])
            if fails == "the store":
                sync.fail(BROKEN, "put", count=1)
            else:
                await trio.sleep(1)
                outbox.failures.append(FULL)
            with pytest.raises(StoreError):
                await store.put(b"1")
            scope.cancel()
    assert (outbox.disk.watermark, outbox.disk.pending("copy")) == (3, [*refs(0)])
    async with open_with_outbox([sync], {"copy": SimulatedStore()}, MemoryOutbox(outbox.disk)):
        assert outbox.disk.in_doubt == []


async def test_a_put_that_ends_after_the_body_is_withdrawn_by_the_last_commit(autojump_clock: MockClock) -> None:
    class Stubborn(SimulatedStore):
        async def put(self, blob: Any) -> PutResult:
            with trio.CancelScope(shield=True):
                result = await super().put(blob)
            return result

    outbox = MemoryOutbox(Disk())
    async with trio.open_nursery() as nursery:
        async with open_with_outbox([Stubborn(put=5)], {"copy": MemoryStore()}, outbox) as store:
            putting = Ended(nursery, store.put, b"0")
            await trio.sleep(1)
    assert isinstance(putting.error, trio.ClosedResourceError)
    assert putting.at == 5
    assert outbox.disk.pending("copy") == []
    assert outbox.disk.watermark == 2


# Acknowledgements


async def test_acknowledgements_ride_with_the_next_put_or_are_committed_in_time(autojump_clock: MockClock) -> None:
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
        await put_numbers(store, [0])
        await trio.sleep(0.05)
        await put_numbers(store, [1])
        assert (outbox.commits, outbox.disk.pending("copy")) == (2, [*refs(1)])
        await trio.sleep(0.04)
        assert outbox.commits == 2
        await trio.sleep(0.02)
        assert (outbox.commits, outbox.disk.pending("copy")) == (3, [])
        await trio.sleep(10)
        assert outbox.commits == 3


@pytest.mark.parametrize("fails", [False, True])
async def test_soon_after_a_put_has_returned_a_crash_leaves_it_not_in_doubt(
    autojump_clock: MockClock, fails: bool
) -> None:
    outbox, copy = MemoryOutbox(Disk()), SimulatedStore()
    copy.hang("put", "put_many")
    with trio.CancelScope() as scope:
        async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox) as store:
            await put_numbers(store, range(3))
            assert outbox.disk.watermark == 3
            outbox.is_full = fails
            await trio.sleep(0.11)
            assert outbox.disk.watermark == (3 if fails else 4)
            outbox.is_full = False
            await trio.sleep(0.1)
            after, commits = outbox.disk.copy(), outbox.commits
            await trio.sleep(10)
            assert outbox.commits == commits
            scope.cancel()
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, MemoryOutbox(after)) as store:
        with pytest.raises(StoreError, match="3 of the blobs pending for it can't be read"):
            await store.flush()
    assert after.pending("copy") == [*refs(0, 1, 2)], "blobs of returned puts stay pending when a sync store is emptied"


async def test_acknowledgements_that_fail_are_kept_for_the_next_commit(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store:
        await put_numbers(store, [0])
        outbox.failures.extend([FULL] * 4)
        await trio.sleep(0.35)
        with pytest.raises(StoreError, match="flush failed: outbox: ReplicaError: the disk is full"):
            await store.flush()
        assert (of(store).pending, outbox.disk.pending("copy")) == (1, [*refs(0)])
        await trio.sleep(0.1)
        assert (of(store).pending, outbox.disk.pending("copy")) == (0, [])
    assert [record.getMessage() for record in caplog.records] == [
        "the outbox can't be written: ReplicaError: the disk is full"
    ]


async def test_a_flush_waits_for_acknowledgements_that_another_commit_carries(autojump_clock: MockClock) -> None:
    outbox = MemoryOutbox(Disk(), 0.03)
    async with (
        open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox) as store,
        trio.open_nursery() as nursery,
    ):
        await store.put(b"0")
        await trio.testing.wait_all_tasks_blocked()
        putting = Ended(nursery, store.put, b"1")  # whose commit has the acknowledgement of the first
        await trio.sleep(0.01)
        outbox.failures.append(FULL)
        await store.flush()
        assert isinstance(putting.error, StoreError)
        assert outbox.disk.pending("copy") == []
        assert of(store).pending == 0


async def test_too_many_acknowledgements_hold_up_the_worker_and_fail_puts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "UNCOMMITTED_LIMIT", 3)
    outbox = MemoryOutbox(lacking(*range(9)))
    copy = SimulatedStore(put=0.01)
    sync = await filled(*range(9))
    async with open_with_outbox([sync], {"copy": copy}, outbox, batch_size=2) as store:
        await trio.sleep(0.001)  # the first page has been read
        outbox.is_full = True
        await trio.sleep(0.5)
        assert len(copy.blobs) == 4
        with pytest.raises(StoreError, match="outbox: ReplicaError: 4 delivered blobs can't be acknowledged"):
            await store.put(b"9")
        assert refs(9)[0] not in copy.blobs
        with pytest.raises(StoreError, match=r"^flush failed: outbox: ReplicaError: the disk is full$"):
            await store.flush()
        outbox.is_full = False
        await store.flush()
        assert len(copy.blobs) == 9
        await store.put(b"10")
    assert outbox.disk.entries == {}


async def test_a_flush_that_is_cancelled_leaves_it_to_others_to_say_how_far_puts_have_ended(
    autojump_clock: MockClock,
) -> None:
    outbox, copy = MemoryOutbox(Disk()), SimulatedStore()
    copy.hang("put", "put_many")
    with trio.CancelScope() as scope:
        async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox) as store:
            await put_numbers(store, [0])
            outbox.is_stuck = True
            with trio.move_on_after(0.01) as flushing:
                assert isinstance(store._delivery, OutboxDelivery)
                await store._delivery.outbox.commit()
            assert flushing.cancelled_caught
            outbox.is_stuck = False
            await trio.sleep(0.1)
            watermark = outbox.disk.watermark
            scope.cancel()
    assert watermark == 2


async def test_acknowledgements_that_wait_for_a_commit_fail_no_put(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "UNCOMMITTED_LIMIT", 2)
    outbox = MemoryOutbox(Disk())
    async with open_with_outbox([MemoryStore()], {"one": MemoryStore(), "other": MemoryStore()}, outbox) as store:
        await store.put_many([b"0", b"1", b"2"])
        await trio.sleep(0.01)
        assert (outbox.commits, of(store, "one").pending, of(store, "other").pending) == (1, 3, 3)
        await store.put(b"3")
        assert (outbox.commits, of(store, "one").pending, of(store, "other").pending) == (2, 1, 1)
    assert outbox.disk.entries == {}


async def test_a_flush_that_waits_as_acknowledgements_become_too_many_is_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "UNCOMMITTED_LIMIT", 3)
    outbox = MemoryOutbox(lacking(*range(9)))
    async with (
        open_with_outbox([await filled(*range(9))], {"copy": SimulatedStore(put=1)}, outbox, batch_size=2) as store,
        trio.open_nursery() as nursery,
    ):
        flushed = Ended(nursery, store.flush)
        await trio.sleep(0.5)
        outbox.is_full = True
        await flushed.done.wait()
        assert isinstance(flushed.error, StoreError)
        outbox.is_full = False
    assert outbox.disk.entries == {}


async def test_too_many_acknowledgements_hold_up_the_relay(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "UNCOMMITTED_LIMIT", 3)
    outbox = MemoryOutbox(lacking(*range(100)))
    outbox.is_full = True
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, outbox, batch_size=2) as store:
        await trio.sleep(10)
        with pytest.raises(StoreError, match="outbox: ReplicaError: 4 delivered blobs can't be acknowledged"):
            await store.put(b"new")
        outbox.is_full = False
        await store.flush()
    assert outbox.disk.entries == {}


async def test_puts_that_fail_beside_an_outbox_that_fails_are_withdrawn_later(autojump_clock: MockClock) -> None:
    """A commit may have reported an error and persist all the same."""

    class Persisting(MemoryOutbox):
        def _ended(self, request: Any) -> Any:
            failed = self.failures.popleft() if self.failures else None
            ended = super()._ended(request)
            return ended if failed is None else outcome.Error(failed)

    outbox = Persisting(Disk())
    copy = SimulatedStore(put=1)
    async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox, queue_size=1, batch_size=1) as store:
        await put_numbers(store, range(4))  # so that it has a backlog
        await trio.testing.wait_all_tasks_blocked()
        outbox.failures.append(FULL)
        with pytest.raises(StoreError, match="outbox"):
            await store.put(b"4")
        assert outbox.disk.pending("copy")[-1] == refs(4)[0]
        await store.flush()
        assert tuple(copy.blobs) == refs(*range(4))
    assert outbox.disk.entries == {}


@pytest.mark.parametrize("is_many", [False, True])
@pytest.mark.parametrize("moment", ["intent", "give", "abandon"])
def test_a_put_that_is_interrupted_as_it_begins_or_ends_is_not_under_way(
    monkeypatch: pytest.MonkeyPatch, moment: str, *, is_many: bool
) -> None:
    real = getattr(internals.Outbox, moment)

    def interrupting(*arguments: Any) -> Any:
        if moment == "intent":
            result = real(*arguments)
            signal.raise_signal(signal.SIGINT)
            return result
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    async def main() -> None:
        outbox = MemoryOutbox(Disk())
        copy = SimulatedStore(put=1)
        async with open_with_outbox([MemoryStore()], {"copy": copy}, outbox, queue_size=1, batch_size=1) as store:
            monkeypatch.setattr(internals.Outbox, moment, interrupting)
            if moment == "abandon":
                outbox.failures.append(FULL)
            with pytest.raises(KeyboardInterrupt):
                with suppress(StoreError):
                    await (store.put_many([b"0"]) if is_many else store.put(b"0"))
                await trio.lowlevel.checkpoint()
            monkeypatch.setattr(internals.Outbox, moment, real)
            await put_numbers(store, range(1, 9))
        assert set(copy.blobs) >= set(refs(*range(1, 9)))
        assert outbox.disk.watermark == 10

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# Reading the outbox


async def test_an_outbox_that_cant_be_read_is_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    outbox = MemoryOutbox(lacking(0, 1))
    outbox.failures.append(FULL)
    async with open_with_outbox([await filled(0, 1)], {"copy": MemoryStore()}, outbox) as store:
        with pytest.raises(StoreError, match=r"^flush failed: copy: ReplicaError: the disk is full$"):
            await store.flush()
        await store.put(b"2")
    assert of(store).pending == 3
    assert caplog.records[0].getMessage() == "copy does not catch up in this session: ReplicaError: the disk is full"


async def test_what_is_put_while_a_store_catches_up_is_delivered_too(autojump_clock: MockClock) -> None:
    """The page that finds nothing left is under way when another put ends."""
    outbox = MemoryOutbox(lacking(0), 1)
    copy = SimulatedStore()
    async with open_with_outbox([await filled(0)], {"copy": copy}, outbox) as store, trio.open_nursery() as nursery:
        for number in range(1, 40):
            nursery.start_soon(store.put, b"%d" % number)
            await trio.sleep(0.13)
        await store.flush()
        assert set(copy.blobs) == set(refs(*range(40)))
        assert of(store).pending == 0


async def test_a_relay_does_not_pass_a_put_that_is_under_way(autojump_clock: MockClock) -> None:
    sync = SimulatedStore(put=[0, 0, 0, 10, 0])
    copy = SimulatedStore(put=1)
    outbox = MemoryOutbox(Disk())
    async with (
        open_with_outbox([sync], {"copy": copy}, outbox, queue_size=1, batch_size=1) as store,
        trio.open_nursery() as nursery,
    ):
        await put_numbers(store, range(3))
        slow = Ended(nursery, store.put, b"3")
        await trio.testing.wait_all_tasks_blocked()
        await store.put(b"4")
        await trio.sleep(9)
        assert outbox.disk.watermark <= 4
        await slow.done.wait()
        await store.flush()
    assert tuple(copy.blobs) == refs(0, 1, 2, 3, 4)


async def test_a_missing_blob_that_is_read_alone(autojump_clock: MockClock) -> None:
    """One that can't be read makes the others be read one by one."""
    sync, copy = SimulatedStore(), SimulatedStore()
    await put_numbers(sync, [0, 2])
    sync.corrupt(refs(0)[0])
    outbox = MemoryOutbox(lacking(0, 1, 2, watermark=2))
    with pytest.raises(StoreError, match="drain"):
        async with open_with_outbox([sync], {"copy": copy}, outbox) as store:
            pass
    assert (of(store).deferred, of(store).pending) == (1, 1)
    assert tuple(copy.blobs) == refs(2)


async def test_what_cant_be_read_keeps_no_blob_alive(autojump_clock: MockClock) -> None:
    rotten = SimulatedStore()
    await put_numbers(rotten, [0, 1])
    rotten.corrupt(refs(0)[0])
    async with open_with_outbox([rotten], {"copy": MemoryStore()}, MemoryOutbox(lacking(0, 1))) as store:
        with without_gc():
            before = count_blobs()
            with pytest.raises(StoreError):
                await store.flush()
            assert count_blobs() == before


async def test_a_relay_reads_blobs_as_a_get_does(autojump_clock: MockClock) -> None:
    async with open_with_outbox([MemoryStore()], {"copy": MemoryStore()}, MemoryOutbox(Disk())) as store:
        assert await store.put_many([]) == []
        await store.put(bytearray(b"0"))
        with pytest.raises(BlobNotFoundError):
            await store.get(refs(1)[0])
        assert Blob(await store.get(refs(0)[0])).ref == refs(0)[0]


# The door


def test_entries_are_kept_by_name() -> None:
    with pytest.raises(ValueError, match=r"^with an outbox, async_stores has to be a mapping"):
        replica.open([MemoryStore()], [MemoryStore()], outbox="outbox.db")


@pytest.mark.parametrize("stores", [({"outbox": MemoryStore()}, {}), ({"a": MemoryStore()}, {"outbox": MemoryStore()})])
def test_the_outbox_has_its_name(stores: Any) -> None:
    with pytest.raises(ValueError, match=r"^no store can have the name 'outbox' beside an outbox"):
        replica.open(*stores, outbox="outbox.db")
    replica.open(*stores)


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        (5, TypeError, "outbox is the path of a file, not 5"),
        ("", ValueError, "outbox is the path of a file, not ''"),
        ("a\0b", ValueError, r"outbox is the path of a file, not 'a\\x00b'"),
        (
            "sqlite:a",
            ValueError,
            r"outbox is the path of a file, not 'sqlite:a'; write './' before the name of such a file",
        ),
        (
            ":memory:",
            ValueError,
            r"outbox is the path of a file, not ':memory:'; write './' before the name of such a file",
        ),
        ("s3://a:b@c/", ValueError, r"outbox is the path of a file, not 's3://a:\*\*\*@c/'; .*"),
    ],
)
def test_a_path_that_is_none(path: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        replica.open([MemoryStore()], {}, outbox=path)
