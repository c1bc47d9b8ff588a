"""The outbox of a replica: the entries that are pending for its async stores, and the puts that are under way.

Entries are rows in an `OutboxStorage`, one for each put and async store, under a number that the put draws here. A put
writes its entries beside its writes to the sync stores, and has ended when all are done. An entry is acknowledged when
its store has the blob. Every method is synchronous and leaves the state whole, so a put is under way, given, or
abandoned, and never anything between.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import outcome
import trio
from trio.lowlevel import enable_ki_protection

from .._calls.started import ended_call
from .._errors import ReplicaError, describe_failure
from .._log import log
from .storage import Acknowledgement, Changes, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._blob import Blob, Ref
    from .._calls.started import Cancel, Done
    from .queue import BlobQueue
    from .storage import OutboxState, OutboxStorage

NAME: Final = "outbox"
"""The name of an outbox that fails in a `StoreError`, beside the names of the stores."""

COMMIT_SECONDS: Final = 0.1
"""Seconds after which acknowledgements, and the end of the last puts, are committed if no put has taken them along."""

UNCOMMITTED_LIMIT: Final = 10_000
"""Acknowledgements that may wait for a commit. If there are more, because the disk is full say, workers wait."""


class Page(NamedTuple):
    """Some entries of one store that are not in hand, and how far they go."""

    entries: list[Entry]
    last: int | None
    """The number of the last entry that was looked at; None if there was none."""


class _Uncommitted(NamedTuple):
    """Acknowledgements that are to be committed, and the callback for when they are."""

    acknowledgements: Sequence[Acknowledgement]
    confirm: Callable[[], None]

    @property
    def size(self) -> int:
        """How many entries are acknowledged."""
        return sum(len(one.seqs) for one in self.acknowledgements)


@final
class Intent:
    """The entries of one put: beside the sync stores, one more member of its write."""

    __slots__ = ("_outbox", "_refs", "seqs", "was_started")

    name = NAME

    def __init__(self, outbox: Outbox, seqs: range, refs: Sequence[Ref]) -> None:
        self.seqs = seqs
        self.was_started = False
        self._outbox = outbox
        self._refs = refs

    def start(self, done: Done) -> Cancel:
        """Start to write the entries: see `StartableStore.start_put`.

        Raises:
          ReplicaError: if too many acknowledgements wait for an outbox that fails, because the entries of this put may
            have to be withdrawn as well.

        """
        if self._outbox.is_failing and not self._outbox.has_room:
            count = self._outbox._uncommitted_count
            raise ReplicaError(f"{count} delivered blobs can't be acknowledged: see the log")
        self.was_started = True
        return self._outbox._start_commit(done, self.seqs, self._refs)


@final
class Backlog:
    """The entries of one async store.

    An entry is *in hand* while its blob is in the store's queue, or being written. Then it is in `acknowledging` until
    its acknowledgement is committed, and so are the entries of puts that failed, which are withdrawn. The relay skips
    both. The store is *catching up* when there are other entries, which no put brings to the queue any more: all of
    these have numbers above `cursor`.
    """

    def __init__(self, name: str, number: int, pending: int) -> None:
        self.name = name
        self.number = number
        self.pending = pending
        self.missing = 0
        """Entries that are deferred because no sync store has the blob any more."""
        self.unreadable = 0
        """Entries that are deferred because the blob can't be read."""
        self.in_hand: set[int] = set()
        self.acknowledging: set[int] = set()
        self.is_catching_up = pending > 0
        self.cursor = 0
        self.left = 0
        """The highest number that was left to the relay."""
        self.changed = trio.lowlevel.ParkingLot()
        """Woken when the relay has something to do, or something has been acknowledged."""

    @property
    def deferred(self) -> int:
        """Entries that failed alone: their blobs can't be read from any sync store."""
        return self.missing + self.unreadable

    def counts(self) -> dict[str, int]:
        """Return what `AsyncStoreStatistics` has of it."""
        return {"pending": self.pending, "deferred": self.deferred}

    def has_caught_up(self, before: int) -> bool:
        """Whether no entry with a number below `before` is left, except those that are deferred."""
        return (not self.is_catching_up or self.cursor >= before - 1) and all(seq >= before for seq in self.in_hand)

    def has_uncommitted(self, before: int) -> bool:
        """Whether an entry with a number below `before` has an acknowledgement that is not committed yet."""
        return any(seq < before for seq in self.acknowledging)

    def take(self, page: Sequence[Entry]) -> Page:
        """Return what of a page is not in hand.

        Call it as the page arrives: an entry that is dropped later is still in `acknowledging` then.
        """
        entries = [entry for entry in page if entry.seq not in self.in_hand and entry.seq not in self.acknowledging]
        return Page(entries, page[-1].seq if page else None)

    def hold(self, seqs: Sequence[int]) -> None:
        """Have entries in hand, because their blobs have entered the queue."""
        self.in_hand.update(seqs)

    def acknowledge(self, seqs: Sequence[int]) -> None:
        """Expect entries to be dropped, because their blobs are delivered or their put has failed."""
        self.in_hand.difference_update(seqs)
        self.acknowledging.update(seqs)

    def leave(self, seqs: Sequence[int], bound: int) -> None:
        """Leave entries to the relay, when every put with a number below `bound` has ended."""
        if not self.is_catching_up:
            self.is_catching_up = True
            self.cursor = bound - 1
        self.left = max(self.left, seqs[-1])
        self.changed.unpark_all()

    def end_catching_up(self, before: int) -> bool:
        """End catching up, unless an entry numbered `before` or higher was left to the relay in the meantime.

        To be called when no entry with a lower number is there. Returns whether the store has caught up.
        """
        if self.left < before:
            self.is_catching_up = False
            self.changed.unpark_all()
        return not self.is_catching_up


@final
class Outbox:
    """The outbox of one replica."""

    def __init__(self, storage: OutboxStorage, state: OutboxState, names: Iterable[str]) -> None:
        self.backlogs = {name: Backlog(name, state.ids[name], state.pending[name]) for name in names}
        self._numbers = [backlog.number for backlog in self.backlogs.values()]
        self._in_doubt = state.in_doubt
        self._storage = storage
        self._next = state.next_seq
        self._under_way: OrderedDict[int, None] = OrderedDict()  # puts, by the first of their numbers
        self._abandoned: set[int] = set()  # puts that failed and whose withdrawal is not yet committed, likewise
        self._uncommitted: list[_Uncommitted] = []
        self._uncommitted_count = 0
        self._has_committed = trio.lowlevel.ParkingLot()  # workers and relays that wait for room
        self.is_failing = False
        """Whether the last commit of acknowledgements failed."""
        self._to_commit = trio.Event()
        self._committed = state.next_seq  # the watermark of the last commit that was started

    @property
    def bound(self) -> int:
        """Every put with a number below this has ended."""
        return next(iter(self._under_way), self._next)

    @property
    def watermark(self) -> int:
        """The value of `bound` once a crash has undone the withdrawals that are not committed."""
        return min(self.bound, *self._abandoned) if self._abandoned else self.bound

    @property
    def next_seq(self) -> int:
        """The number of the next put."""
        return self._next

    def is_in_doubt(self, seq: int) -> bool:
        """Whether an entry may be that of a put of an earlier session that never returned: no store may have it."""
        return any(seq in seqs for seqs in self._in_doubt)

    # Puts

    def intent(self, refs: Sequence[Ref]) -> Intent:
        """Begin a put, which is under way until its blobs are given, or it is abandoned."""
        seqs = range(self._next, self._next + len(refs))
        self._next = seqs.stop
        self._under_way[seqs.start] = None
        return Intent(self, seqs, refs)

    @enable_ki_protection
    def give(self, intent: Intent, blobs: Sequence[Blob], queues: Iterable[BlobQueue]) -> None:
        """End a put whose blobs are in every sync store: queue them where there is room, and leave the others."""
        seqs = intent.seqs
        for queue in queues:
            backlog = self.backlogs[queue.name]
            entered = 0 if backlog.is_catching_up else queue.enter(blobs, seqs)
            backlog.hold(seqs[:entered])
            if entered < len(blobs):
                backlog.leave(seqs[entered:], self.bound)
            backlog.pending += len(blobs)
        self._end(seqs.start)

    @enable_ki_protection
    def abandon(self, intent: Intent) -> None:
        """End a put that has failed: its entries are withdrawn, if they may have been written."""
        seqs = intent.seqs
        if not intent.was_started:
            self._end(seqs.start)
            return
        for backlog in self.backlogs.values():
            backlog.acknowledge(seqs)
        self._abandoned.add(seqs.start)
        self._end(seqs.start)
        withdrawals = [Acknowledgement(backlog.number, seqs) for backlog in self.backlogs.values()]
        self._add(_Uncommitted(withdrawals, partial(self._withdrawn, seqs)))
        self._commit_unawaited()

    def _withdrawn(self, seqs: range) -> None:
        for backlog in self.backlogs.values():
            backlog.acknowledging.difference_update(seqs)
        self._abandoned.remove(seqs.start)
        self._to_commit.set()

    def _end(self, first: int) -> None:
        was_first = next(iter(self._under_way)) == first
        del self._under_way[first]
        self._to_commit.set()
        if was_first:
            for backlog in self.backlogs.values():
                if backlog.is_catching_up:
                    backlog.changed.unpark_all()

    # Acknowledgements

    def acknowledge(self, backlog: Backlog, seqs: Sequence[int]) -> None:
        """Drop entries whose blobs the store has, with the next commit."""
        backlog.acknowledge(seqs)
        if backlog.changed:
            backlog.changed.unpark_all()
        self._add(_Uncommitted([Acknowledgement(backlog.number, seqs)], partial(_acknowledged, backlog, seqs)))

    @property
    def has_room(self) -> bool:
        """Whether not too many acknowledgements wait for a commit."""
        return self._uncommitted_count <= UNCOMMITTED_LIMIT

    async def wait_room(self) -> None:  # noqa: ASYNC910  (a worker has just written)
        """Wait until there is room for acknowledgements."""
        while not self.has_room:
            await self._has_committed.park()

    def _add(self, uncommitted: _Uncommitted) -> None:
        self._uncommitted.append(uncommitted)
        self._uncommitted_count += uncommitted.size
        self._to_commit.set()

    # Commits

    def _start_commit(self, done: Done, seqs: Sequence[int] = (), refs: Sequence[Ref] = ()) -> Cancel:
        """Start to commit entries, all acknowledgements that wait, and how far all puts have ended."""
        self._committed = watermark = self.watermark
        if not self._uncommitted:
            return self._storage.start_commit(Changes(seqs, refs, self._numbers, (), watermark), done)
        carried, self._uncommitted, self._uncommitted_count = self._uncommitted, [], 0
        acknowledgements = [one for uncommitted in carried for one in uncommitted.acknowledgements]

        def ended(how: outcome.Value[Any] | outcome.Error) -> None:
            self.is_failing = isinstance(how, outcome.Error)
            if isinstance(how, outcome.Value):
                for uncommitted in carried:
                    uncommitted.confirm()
                if self._has_committed:
                    self._has_committed.unpark_all()
            else:
                self._put_back(carried)
            done(how)

        def cancel() -> bool:
            if is_cancelled := cancel_commit():
                self._put_back(carried)
            return is_cancelled

        changes = Changes(seqs, refs, self._numbers, acknowledgements, watermark)
        try:
            cancel_commit = self._storage.start_commit(changes, ended)
        except BaseException:
            self._put_back(carried)
            raise
        return cancel

    def _put_back(self, carried: list[_Uncommitted]) -> None:
        self._uncommitted[:0] = carried
        self._uncommitted_count += sum(uncommitted.size for uncommitted in carried)
        self._to_commit.set()
        if not self.has_room:
            for backlog in self.backlogs.values():
                backlog.changed.unpark_all()  # those who flush would wait for workers that wait for room

    def _commit_unawaited(self) -> None:
        """Start to commit the acknowledgements that wait, without waiting for the outcome."""
        with suppress(trio.ClosedResourceError):
            self._start_commit(_ignore)

    async def commit(self, before: int = 0) -> None:
        """Commit the acknowledgements that wait, until those of all entries with numbers below `before` are committed.

        One commit may not be enough, because another may be under way that carries some of them, and fail.

        Raises:
          ReplicaError: if a commit fails; its acknowledgements then wait for the next.

        """
        await self._commit_once()
        while any(backlog.has_uncommitted(before) for backlog in self.backlogs.values()):
            await self._commit_once()

    async def _commit_once(self) -> None:
        try:
            await ended_call(self._start_commit)
        except BaseException:  # cancelled, too: it may be that nothing else tells the disk how far the puts have ended
            self._committed = 0
            self._to_commit.set()
            raise

    @enable_ki_protection
    async def commit_in_time(self, scope: trio.CancelScope) -> None:
        """Commit, until `scope` is cancelled, the acknowledgements and the end of puts that no put takes along."""
        was_logged = False
        with scope:
            while True:
                await self._to_commit.wait()
                await trio.sleep(COMMIT_SECONDS)
                self._to_commit = trio.Event()
                if not self._uncommitted and self._committed == self.watermark:
                    continue
                try:
                    await self._commit_once()
                except Exception as error:
                    if not was_logged:
                        log(logging.ERROR, f"delivered blobs can't be acknowledged: {describe_failure(error)}")
                    was_logged = True
                else:
                    was_logged = False

    # Reading

    async def page(self, backlog: Backlog, limit: int) -> tuple[Page, int]:
        """Return the next entries that are left to the relay, and the bound below which they are all there are."""
        before = self.bound

        def start(done: Done) -> Cancel:
            def arrived(ended: outcome.Value[Any] | outcome.Error) -> None:
                done(outcome.Value(backlog.take(ended.value)) if isinstance(ended, outcome.Value) else ended)

            return self._storage.start_page(backlog.number, backlog.cursor, before, limit, arrived)

        found: Page = await ended_call(start)
        return found, before


def _acknowledged(backlog: Backlog, seqs: Sequence[int]) -> None:
    backlog.acknowledging.difference_update(seqs)
    backlog.pending -= len(seqs)


def _ignore(_: object) -> None:
    """Ignore an outcome that nobody waits for."""
