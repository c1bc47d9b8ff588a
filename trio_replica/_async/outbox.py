"""The outbox of a replica: it numbers the entries of each put, and hands them to queues or leaves them to relays.

Entries are rows in an `OutboxStorage`, one for each put and async store, under a number that the put draws here. A put
writes its entries beside its writes to the sync stores, and has ended when all are done. An entry is acknowledged when
its store has the blob. Every method is synchronous and leaves the state whole, so a put is under way, given, or
abandoned, and never anything between.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import outcome
import trio
from trio.lowlevel import enable_ki_protection

from .._calls.start import ended_call
from .._errors import ReplicaError, describe_failure
from .._life import BackgroundTask
from .._log import log
from .backlog import Backlog, Page
from .storage import Acknowledgement, Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._blob import Blob, Ref
    from .._calls.start import CallEnd, Cancel, Done
    from .._life import Life
    from .queue import BlobQueue
    from .storage import OutboxState, OutboxStorage

NAME: Final = "outbox"
"""The name of an outbox that fails in a `StoreError`, beside the names of the stores."""

COMMIT_SECONDS: Final = 0.1
"""Seconds after which acknowledgements, and the end of the last puts, are committed if no put has taken them along."""

END_SECONDS: Final = 5.0
"""Seconds for the last commit. Blobs whose acknowledgement it does not make are delivered again, which is harmless."""

UNCOMMITTED_LIMIT: Final = 10_000
"""Acknowledgements that may wait for a commit. If there are more, on a full disk for example, workers wait."""


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
    """The entries of one put: beside the sync stores, one more participant of its write."""

    __slots__ = ("_outbox", "_refs", "_sizes", "seqs", "was_started")

    name = NAME
    has_results = False

    def __init__(self, outbox: Outbox, seqs: range, refs: Sequence[Ref], sizes: Sequence[int]) -> None:
        self.seqs = seqs
        self.was_started = False
        self._outbox = outbox
        self._refs = refs
        self._sizes = sizes

    def start_put(self, _: object, done: Done) -> Cancel:
        """Start to write the entries, whose outcome is None: see `StartableStore.start_put`.

        Raises:
          ReplicaError: if too many acknowledgements wait for an outbox that fails, because the entries of this put may
            have to be withdrawn as well.

        """
        if self._outbox.is_failing and not self._outbox.has_room:
            count = self._outbox._uncommitted_count
            raise ReplicaError(f"{count} delivered blobs can't be acknowledged: see the log")
        self.was_started = True
        return self._outbox._start_commit(done, self.seqs, self._refs, self._sizes)

    start_put_many = start_put

    def note_put(self, *_: object) -> None:
        """Return None, because a commit has no results that could be wrong, and nobody counts it."""

    def note_put_failure(self) -> None:
        """Count nothing: the log tells why an outbox fails."""


@final
class Outbox:
    """The outbox of one replica."""

    def __init__(self, storage: OutboxStorage, state: OutboxState, names: Iterable[str], life: Life) -> None:
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
        self._commits = BackgroundTask("replica outbox", self._commit_in_time, life)
        for name, count in state.pending.items():
            if count and name not in self.backlogs:
                log(
                    logging.WARNING,
                    f"the outbox has {count} pending for {name}, which is no async store: it keeps them",
                )

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
        """Whether the put of an entry may never have returned, in an earlier session: then perhaps no store has it."""
        return any(seq in seqs for seqs in self._in_doubt)

    # Puts

    def intent(self, blobs: Sequence[Blob]) -> Intent:
        """Begin a put, which is under way until its blobs are given, or it is abandoned."""
        seqs = range(self._next, self._next + len(blobs))
        self._next = seqs.stop
        self._under_way[seqs.start] = None
        return Intent(self, seqs, [blob.ref for blob in blobs], [len(blob) for blob in blobs])

    @enable_ki_protection
    def give(self, intent: Intent, blobs: Sequence[Blob], queues: Iterable[BlobQueue]) -> None:
        """End a put whose blobs are in every sync store: queue them where there is room; leave the rest to relays."""
        # One step without a checkpoint, so an entry is in hand or left to a relay before anybody can look. The put ends
        # last: while it is under way, `bound` is at most its own first number, so the cursor that `leave` sets stands
        # below its entries. Ended before, it would let a cursor pass them, and they would wait for the next session.
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
            return  # noqa: ASYNC910  (likewise)
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

    def _start_commit(
        self, done: Done, seqs: Sequence[int] = (), refs: Sequence[Ref] = (), sizes: Sequence[int] = ()
    ) -> Cancel:
        """Start to commit entries, all acknowledgements that wait, and how far all puts have ended."""
        self._committed = watermark = self.watermark
        if not self._uncommitted:
            return self._storage.start_commit(Changes(seqs, refs, sizes, self._numbers, (), watermark), done)
        carried, self._uncommitted, self._uncommitted_count = self._uncommitted, [], 0
        acknowledgements = [one for uncommitted in carried for one in uncommitted.acknowledgements]

        def ended(how: CallEnd) -> None:
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

        changes = Changes(seqs, refs, sizes, self._numbers, acknowledgements, watermark)
        cancel_commit = self._storage.start_commit(changes, ended)
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
        except BaseException:
            # Cancelled, too. `_committed` is the watermark that the disk is believed to have; 0 says that this is not
            # known any more. Otherwise nothing might tell the disk how far the puts have ended before a crash, and the
            # last entries would be in doubt.
            self._committed = 0
            self._to_commit.set()
            raise

    @enable_ki_protection
    async def _commit_in_time(self) -> None:
        """Until it is stopped, commit the acknowledgements and the ends of puts that no later put has carried."""
        was_logged = False
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

    # The life of a part

    def start(self, nursery: trio.Nursery) -> None:
        """Start to commit what no later put carries."""
        self._commits.start(nursery)

    def close(self) -> None:
        """Go on: the last acknowledgements are still to come."""

    def stop(self, grace: float) -> None:
        """Go on: the last commit has a deadline of its own."""

    async def ended(self) -> None:
        """Commit the last acknowledgements, within `END_SECONDS`. Nothing else of the replica may still run."""
        self._commits.stop()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
                needs_second = self.watermark < self._next
                await self.commit(self._next)
                if needs_second:  # only now the watermark can pass the entries that have been withdrawn
                    await self.commit(self._next)
        except ReplicaError as error:
            log(logging.ERROR, f"delivered blobs can't be acknowledged, so they will be delivered again: {error}")
        await self._commits.ended()

    # Reading

    async def page(self, backlog: Backlog, limit: int) -> tuple[Page, int]:
        """Return the next entries that are left to the relay, and the bound below which they are all there are."""
        # Entries of a put that is under way may be committed after this page is read. The page must not go past them,
        # because the relay never looks at numbers below its cursor again.
        before = self.bound

        def start(done: Done) -> Cancel:
            def arrived(ended: CallEnd) -> None:
                done(outcome.Value(backlog.take(ended.value)) if isinstance(ended, outcome.Value) else ended)

            return self._storage.start_page(backlog.number, backlog.cursor, before, limit, arrived)

        found: Page = await ended_call(start)
        return found, before


def _acknowledged(backlog: Backlog, seqs: Sequence[int]) -> None:
    backlog.acknowledging.difference_update(seqs)
    backlog.pending -= len(seqs)


def _ignore(_: object) -> None:
    """Ignore an outcome that nobody waits for."""
