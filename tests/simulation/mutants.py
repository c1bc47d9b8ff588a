"""Bugs that are planted in the package, one at a time, to see that the simulation finds them.

Each function replaces another one of the package, which it is given as `right`. Its name says what is wrong then.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from unittest import mock

import outcome
import trio

from trio_replica import BlobNotFoundError, PutResult, StoreError
from trio_replica._async import outbox_file as _sqlite_outbox
from trio_replica._async.backlog import Backlog, Page
from trio_replica._async.delivery import Delivery, OutboxDelivery
from trio_replica._async.outbox import NAME, Intent, Outbox
from trio_replica._async.outbox_file import _Database
from trio_replica._async.queue import BlobQueue
from trio_replica._async.relay import Relay
from trio_replica._async.storage import Acknowledgement, Changes
from trio_replica._sync import readers as _readers
from trio_replica._sync import sync_stores as _sync_stores
from trio_replica._sync.readers import Readers
from trio_replica._sync.sync_stores import SyncStores, _PutMany
from trio_replica._upkeep import gaps as _gaps
from trio_replica._upkeep import scrub as _scrub
from trio_replica._upkeep import scrubbed as _scrubbed
from trio_replica._upkeep.gaps import Gap, Member
from trio_replica._upkeep.reconcile import _Reconciliation
from trio_replica._upkeep.scrubbed import ScrubbedStore

from .disks import File
from .outbox import Connection

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from trio_replica import Blob, Ref, ScrubFinding, Store
    from trio_replica._async.queue import Acknowledge
    from trio_replica._async.storage import Entry, OutboxState
    from trio_replica._calls.attempt import Ended
    from trio_replica._calls.start import Cancel, Done
    from trio_replica._calls.threads import Call

Right: TypeAlias = "Callable[..., Any]"

MUTANTS: Final[dict[str, Callable[[], AbstractContextManager[object]]]] = {}
"""Context managers that each plant a bug for a block, by a name that says what is wrong."""


def _planted(owner: object, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def plant(function: Callable[..., Any]) -> Callable[..., Any]:
        right = getattr(owner, name)

        def wrong(*arguments: object, **options: object) -> Any:
            return function(right, *arguments, **options)

        replacement = property(wrong) if isinstance(right, property) else wrong
        MUTANTS[function.__name__] = partial(mock.patch.object, owner, name, replacement)
        return function

    return plant


# Puts


@_planted(Intent, "start_put")
def a_put_returns_before_its_entries_are_committed(right: Right, self: Intent, blob: object, done: Done) -> Cancel:
    right(self, blob, lambda _: None)
    trio.lowlevel.current_trio_token().run_sync_soon(done, outcome.Value(None))
    return lambda: False


@_planted(_PutMany, "settle")
def a_put_returns_although_a_store_has_failed(right: Right, self: _PutMany, member: Any, ended: Ended[Any]) -> bool:
    has_failed: bool = right(self, member, ended)
    self.failures = {} if self.results else self.failures
    return has_failed


@_planted(Outbox, "__init__")
def a_put_is_pending_for_one_store_only(right: Right, self: Outbox, *arguments: Any, **options: Any) -> None:
    right(self, *arguments, **options)
    del self._numbers[1:]


@_planted(SyncStores, "put")
async def a_put_says_the_contrary_of_what_it_has_added(right: Right, self: SyncStores, *arguments: Any) -> PutResult:
    ref, added = await right(self, *arguments)
    return PutResult(ref, not added)


# Queues


@_planted(BlobQueue, "__init__")
def a_queue_is_longer_than_it_should_be(
    right: Right, self: BlobQueue, name: str, store: object, capacity: int, *arguments: Any
) -> None:
    right(self, name, store, capacity + 1, *arguments)


@_planted(BlobQueue, "close")
def a_put_is_not_woken_by_poison(right: Right, self: BlobQueue) -> None:
    waiting, self._waiting = self._waiting, OrderedDict()
    right(self)
    self._waiting = waiting


@_planted(BlobQueue, "_admit_waiting")
def a_put_that_waits_is_never_let_in(right: Right, self: BlobQueue) -> None:
    """Do nothing."""


@_planted(BlobQueue, "unreplicated")
def what_is_unreplicated_forgets_the_batch_in_flight(right: Right, self: BlobQueue) -> tuple[Ref, ...]:
    return tuple(right(self)[self._taken - self._written :])


@_planted(BlobQueue, "wait_written")
async def a_flush_forgets_the_batch_in_flight(right: Right, self: BlobQueue, count: int) -> bool:
    is_written: bool = await right(self, count - (self._taken - self._written))
    return is_written


@_planted(Delivery, "close")
def a_block_ends_without_the_batch_in_flight(right: Right, self: Delivery) -> None:
    right(self)
    self.stop(0)


@_planted(Delivery, "fail")
def poison_wakes_who_waits_for_its_own_queue_only(right: Right, self: Delivery) -> None:
    failed = [queue for queue in self.queues if queue.failure is not None]
    if not failed or vars(self).setdefault("is_poisoned", False):
        right(self)
        return
    vars(self)["is_poisoned"] = True
    for queue in failed:
        queue.close()


@_planted(Delivery, "fail")
def a_poisoned_replica_lets_those_wait_who_flush(right: Right, self: Delivery) -> None:
    for queue in self.queues:
        queue._progress = trio.lowlevel.ParkingLot()
    right(self)


# Entries


@_planted(BlobQueue, "add_relay")
def an_entry_is_acknowledged_when_it_is_taken(right: Right, self: Any, acknowledge: Acknowledge) -> None:
    async def acknowledge_and_write(batch: list[Blob]) -> None:
        await acknowledge([seq for *_, seq in islice(self._unconfirmed, len(batch))])
        await write(batch)

    write = self._write
    self._write = acknowledge_and_write
    right(self, _say_nothing)


@_planted(Relay, "_read")
async def an_error_is_proof_of_absence(right: Right, self: Relay, refs: Sequence[Ref]) -> Any:
    found, _ = await right(self, refs)
    return found, {}


@_planted(Relay, "_read")
async def one_miss_is_proof_of_absence(right: Right, self: Relay, refs: Sequence[Ref]) -> Any:
    found, failures = await right(self, refs)
    for ref in [*failures]:
        for member in self._sync_stores.members:
            with suppress(Exception):  # who fails does not tell
                try:
                    await member.store.get(ref)
                except BlobNotFoundError:
                    failures.pop(ref, None)
    return found, failures


@_planted(Outbox, "watermark")
def the_watermark_passes_puts_under_way(right: property, self: Outbox) -> int:
    return self.next_seq


@_planted(_sqlite_outbox, "note_in_doubt")
def what_a_crash_leaves_in_doubt_is_taken_for_certain(right: Right, connection: sqlite3.Connection) -> None:
    right(connection)
    connection.execute("DELETE FROM in_doubt")


@_planted(_Database, "_transact")
def a_put_that_fails_withdraws_the_entries_of_others(right: Right, self: _Database, changes: Sequence[Changes]) -> None:
    with self._usable() as connection:
        rows = connection.execute("SELECT store, seq, ref FROM entries").fetchall()
    dropped = {(store, seq) for one in changes for store, seqs in one.acknowledgements for seq in seqs}
    refs = {(store, ref) for store, seq, ref in rows if (store, seq) in dropped}
    others = [Acknowledgement(store, [seq]) for store, seq, ref in rows if (store, ref) in refs]
    right(self, [*changes, Changes(acknowledgements=others)])


@_planted(Backlog, "__init__")
def entries_of_earlier_sessions_are_forgotten(right: Right, self: Backlog, *arguments: Any) -> None:
    right(self, *arguments)
    self.is_catching_up = False


@_planted(Backlog, "take")
def an_entry_in_hand_is_delivered_again(right: Right, self: Backlog, page: Sequence[Entry]) -> Page:
    return Page([*page], page[-1].seq if page else None)


@_planted(Backlog, "leave")
def entries_of_earlier_puts_are_skipped(right: Right, self: Backlog, seqs: Sequence[int], bound: int) -> None:
    right(self, seqs, seqs[0])


@_planted(Backlog, "end_catching_up")
def what_is_left_in_the_meantime_is_forgotten(right: Right, self: Backlog, before: int) -> bool:
    self.left = 0
    is_over: bool = right(self, before)
    return is_over


@_planted(OutboxDelivery, "close")
def a_block_ends_with_entries_and_says_nothing(right: Right, self: OutboxDelivery) -> None:
    right(self)
    for relay in self._relays.values():
        relay.stop()


@_planted(BlobQueue, "_write")
async def a_batch_that_failed_is_acknowledged(right: Right, self: BlobQueue, batch: list[Blob]) -> None:
    try:
        await right(self, batch)
    except Exception:
        if self._acknowledge is not None and len(batch) > 1:
            seqs = [seq for *_, seq in islice(self._unconfirmed, len(batch))]
            await self._acknowledge(seqs)  # noqa: ASYNC120  (a planted bug may)
        raise


@_planted(Outbox, "__init__")
def an_entry_is_written_for_a_position(
    right: Right, self: Outbox, storage: object, state: OutboxState, names: Iterable[str], *rest: Any, **options: Any
) -> None:
    given = [*names]
    ids = dict(zip(given, sorted(state.ids[name] for name in given), strict=True))
    right(self, storage, replace(state, ids={**state.ids, **ids}), given, *rest, **options)


@_planted(Outbox, "_start_commit")
def acknowledgements_that_a_cancelled_put_carried_are_lost(right: Right, self: Outbox, *arguments: Any) -> Cancel:
    def lose() -> bool:
        with mock.patch.object(Outbox, "_put_back"):
            return cancel()

    cancel: Cancel = right(self, *arguments)
    return lose


@_planted(Outbox, "ended")
async def a_clean_exit_leaves_the_watermark_behind_an_abandoned_put(right: Right, self: Outbox) -> None:
    commit = self.commit
    has_committed = False

    async def commit_once(*arguments: int) -> None:
        nonlocal has_committed
        if not has_committed:
            has_committed = True
            await commit(*arguments)

    with mock.patch.object(self, "commit", commit_once):
        await right(self)


async def _say_nothing(seqs: Sequence[int]) -> None:
    """Be told what has been delivered."""


@_planted(Outbox, "wait_room")
async def a_worker_is_not_woken_when_acknowledgements_have_room(right: Right, self: Outbox) -> None:
    if not self.has_room:
        await trio.sleep_forever()


# Commits


@_planted(Connection, "execute")
def an_entry_is_acknowledged_by_its_ref(right: Right, self: Connection, sql: str, *arguments: Any) -> sqlite3.Cursor:
    match = re.fullmatch(r"DELETE FROM (\w+) WHERE store = \? AND seq IN (\(.*\))", sql)
    if match and match[1] in {"debts", "entries"}:
        ((store, *seqs),) = arguments
        table, marks = match.groups()
        same = f"SELECT ref FROM {table} WHERE store = ? AND seq IN {marks}"
        sql, arguments = f"DELETE FROM {table} WHERE store = ? AND ref IN ({same})", ((store, store, *seqs),)
    cursor: sqlite3.Cursor = right(self, sql, *arguments)
    return cursor


@_planted(Connection, "execute")
def a_doubt_is_dropped_while_its_last_entry_is_there(
    right: Right, self: Connection, sql: str, *arguments: Any
) -> sqlite3.Cursor:
    if sql.startswith("DELETE FROM") and "NOT EXISTS" in sql:
        sql = sql.replace("seq < after", "seq < after - 1")
    cursor: sqlite3.Cursor = right(self, sql, *arguments)
    return cursor


@_planted(Connection, "execute")
def an_outbox_is_not_synced(right: Right, self: Connection, sql: str, *arguments: Any) -> sqlite3.Cursor:
    cursor: sqlite3.Cursor = right(self, sql.replace("synchronous = FULL", "synchronous = NORMAL"), *arguments)
    return cursor


@_planted(_Database, "_commit")
def an_outcome_is_kept_although_its_commit_failed(right: Right, self: _Database, calls: Sequence[Call[Any]]) -> None:
    right(self, calls)
    for call in calls:
        call.outcome = outcome.Value(None)


@_planted(Outbox, "_put_back")
def acknowledgements_are_lost_when_a_commit_fails(right: Right, self: Outbox, carried: list[Any]) -> None:
    """Do nothing."""


@_planted(_PutMany, "settle")
def an_outbox_that_fails_is_named_as_a_store(right: Right, self: _PutMany, member: Any, ended: Ended[Any]) -> bool:
    has_failed: bool = right(self, member, ended)
    self.failures = {"sync-0" if name == NAME else name: failure for name, failure in self.failures.items()}
    return has_failed


# Reading


@_planted(_readers, "_is_right")
def a_winner_is_not_verified(right: Right, ref: Ref, answer: bytes) -> bool:
    return True


@_planted(Readers, "get")
async def a_failure_is_taken_for_a_miss(right: Right, self: Readers, ref: Ref, lacks: Any = None) -> bytes:
    try:
        return cast("bytes", await right(self, ref, lacks))
    except StoreError:
        raise BlobNotFoundError(ref) from None


@_planted(Readers, "contains")
async def contains_says_yes_of_everything(right: Right, self: Readers, ref: Ref) -> bool:
    await right(self, ref)
    return True


@_planted(_sync_stores, "union")
def a_listing_ends_at_the_shorter_store(right: Right, pages: Sequence[list[Ref]]) -> list[Ref]:
    merged: list[Ref] = right(pages) if all(pages) else []
    return merged


@_planted(_sync_stores, "union")
def a_listing_goes_on_after_the_longer_page(right: Right, pages: Sequence[list[Ref]]) -> list[Ref]:
    return sorted({ref for page in pages for ref in page})


# Repairing


@_planted(Member, "settle_page")
def a_store_that_can_not_be_listed_has_ended(right: Right, self: Member, ended: Ended[list[Ref]]) -> bool:
    goes_on: bool = right(self, outcome.Value([]) if isinstance(ended, outcome.Error) else ended)
    return goes_on


# Stores that contradict themselves


@_planted(_Reconciliation, "_to_ask")
def a_reconcile_believes_a_listing(right: Right, self: _Reconciliation, *arguments: Any) -> tuple[()]:
    return ()


@_planted(_gaps, "is_listed")
async def a_reconcile_believes_contains(right: Right, store: Store, ref: Ref) -> bool:
    await right(store, ref)
    return True


@_planted(Gap, "_is_confirmed")
async def a_reconcile_believes_a_put(right: Right, self: Gap, member: Member) -> bool:
    await trio.lowlevel.checkpoint()
    return True


@_planted(Gap, "_write")
async def a_reconcile_believes_that_a_blob_was_there(right: Right, self: Gap, blob: Blob) -> None:
    for member in [*self._lacking]:
        _, added = await member.store.put(blob)
        if not added:
            member.copied += 1
            self._lacking.remove(member)
    await right(self, blob)


@_planted(Gap, "_is_confirmed")
async def a_reconcile_believes_who_has_lied_before(right: Right, self: Gap, member: Member) -> bool:
    self._doubtful.clear()
    is_confirmed: bool = await right(self, member)
    return is_confirmed


@_planted(_scrubbed, "claim_of")
async def a_scrub_takes_a_ghost_for_deleted(right: Right, store: Store, ref: Ref, **options: Any) -> None:
    await right(store, ref, **options)


@_planted(_scrubbed, "denial_of")
async def a_scrub_asks_no_more_once_it_has_read(right: Right, store: Store, ref: Ref, **options: Any) -> None:
    await trio.lowlevel.checkpoint()


@_planted(_scrub, "compare")
async def a_scrub_believes_that_a_listing_is_whole(right: Right, *arguments: Any, **options: Any) -> None:
    await trio.lowlevel.checkpoint()


@_planted(ScrubbedStore, "_write")
async def a_repair_believes_a_write(
    right: Right, self: ScrubbedStore, finding: ScrubFinding, blob: Blob, became: str
) -> ScrubFinding:
    await self.store.put(blob)
    return replace(finding, is_repaired=True, outcome=became)


# Stores: what the simulation would find in those that it has not simulated


@_planted(File, "sync")
def a_store_names_a_file_that_is_not_synced(right: Right, self: File) -> None:
    """Do nothing."""
