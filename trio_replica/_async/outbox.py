"""The outbox of a replica, which numbers the entries of each put and hands them to queues or leaves them to relays.

Entries are rows in an `OutboxStorage`, one for each put and async store, under a number that the put draws here. A put
writes its entries beside its writes to the sync stores, and has ended when all are done. An entry is acknowledged when
its store has the blob. Every change of state is synchronous and complete, so a put is always under way, given, or
abandoned.
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
from .storage import Acknowledgement, Changes, LostFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._blob import Blob, Ref
    from .._calls.start import CallEnd, Cancel, Done
    from .._life import Life
    from .queue import BlobQueue
    from .storage import OutboxState, OutboxStorage

NAME: Final = "outbox"
"""The name under which a `StoreError` reports a failed outbox, beside the names of the stores."""

COMMIT_SECONDS: Final = 0.1
"""Seconds after which acknowledgements, and the ends of the last puts, are committed if no later put has committed
them."""

END_SECONDS: Final = 5.0
"""Seconds for the last commit. If it does not commit an acknowledgement, that blob is delivered again, which is
harmless."""

UNCOMMITTED_LIMIT: Final = 10_000
"""The number of acknowledgements that may wait for a commit. If there are more, as on a full disk, workers wait."""


class _Uncommitted(NamedTuple):
    """Acknowledgements that are to be committed, and the callback for their commit."""

    acknowledgements: Sequence[Acknowledgement]
    confirm: Callable[[], None]

    @property
    def size(self) -> int:
        """The number of acknowledged entries."""
        return sum(len(one.seqs) for one in self.acknowledgements)


@final
class Intent:
    """The entries of one put. They are one more participant of its write, beside the sync stores."""

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
        """Start to write the entries: see `StartableStore.start_put`. The value of the outcome is None.

        Raises:
          ReplicaError: if the outbox fails and too many acknowledgements wait already. The entries of this put might
            have to be withdrawn, which would be one more.

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
        """Count nothing: the `StoreError` of the put tells why."""


@final
class Outbox:
    """The outbox of one replica."""

    def __init__(
        self,
        storage: OutboxStorage,
        state: OutboxState,
        names: Iterable[str],
        life: Life,
        *,
        can_prove_absence: bool,
    ) -> None:
        self.backlogs = {name: Backlog(name, state.ids[name], state.pending[name]) for name in names}
        self._numbers = [backlog.number for backlog in self.backlogs.values()]
        self._in_doubt = state.in_doubt
        self.can_prove_absence = can_prove_absence
        """Whether a blob that every sync store lacks was in none of them before, so that no put of it returned."""
        self._storage = storage
        self._next = state.next_seq
        self._under_way: OrderedDict[int, None] = OrderedDict()  # puts, by the first of their numbers
        self._abandoned: set[int] = set()  # failed puts whose withdrawal is not committed yet, likewise
        self._uncommitted: list[_Uncommitted] = []
        self._uncommitted_count = 0
        self._has_committed = trio.lowlevel.ParkingLot()  # workers and relays that wait for room
        self._is_closed = False
        self.is_failing = False
        """Whether the last commit of acknowledgements failed."""
        self.is_lost = False
        """Whether the last commit of the block failed because the file was lost, and with it what was pending."""
        self._to_commit = trio.Event()
        self._committed = state.next_seq  # the watermark of the last commit that was started
        self._commits = BackgroundTask("replica outbox", self._commit_in_time, life)
        for name, count in state.pending.items():
            if count and name not in self.backlogs:
                log(
                    logging.WARNING,
                    f"the outbox has {count} pending for {name}, which is not an async store: it keeps them",
                )

    @property
    def bound(self) -> int:
        """The number below which every put has ended."""
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
        """Return whether the put of an entry, in an earlier session, may never have returned."""
        return any(seq in seqs for seqs in self._in_doubt)

    # Puts

    def intent(self, blobs: Sequence[Blob]) -> Intent:
        """Begin a put. It is under way until `give` or `abandon` ends it."""
        seqs = range(self._next, self._next + len(blobs))
        self._next = seqs.stop
        self._under_way[seqs.start] = None
        return Intent(self, seqs, [blob.ref for blob in blobs], [len(blob) for blob in blobs])

    @enable_ki_protection
    def give(self, intent: Intent, blobs: Sequence[Blob], queues: Iterable[BlobQueue]) -> None:
        """End a put whose blobs are in every sync store.

        Queue them where there is room, and leave the rest to relays.
        """
        # This is one step without a checkpoint, so an entry is in hand or left to a relay before any task can look. The
        # put ends last. While it is under way, `bound` is at most its first number, so the cursor that `leave` sets is
        # below its entries. If the put ended first, a cursor could pass its entries, and they would wait for the next
        # session.
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
        """End a put that has failed, and withdraw its entries if they may have been written."""
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
        """Whether more acknowledgements may wait for a commit."""
        return self._uncommitted_count <= UNCOMMITTED_LIMIT

    async def wait_room(self) -> None:  # noqa: ASYNC910  (a worker has just written)
        """Wait until there is room for acknowledgements, or until none is to be had before the block ends."""
        while not self.has_room and not (self._is_closed and self.is_failing):
            await self._has_committed.park()

    def _add(self, uncommitted: _Uncommitted) -> None:
        self._uncommitted.append(uncommitted)
        self._uncommitted_count += uncommitted.size
        self._to_commit.set()

    # Commits

    def _start_commit(
        self, done: Done, seqs: Sequence[int] = (), refs: Sequence[Ref] = (), sizes: Sequence[int] = ()
    ) -> Cancel:
        """Start to commit entries, all acknowledgements that wait, and the number below which all puts have ended."""
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
                backlog.changed.unpark_all()  # a flush would wait for workers that wait for room
        if self._is_closed:
            self._has_committed.unpark_all()  # and so would the end of the block

    def _commit_unawaited(self) -> None:
        """Start to commit the acknowledgements that wait, without waiting for the outcome."""
        self._start_commit(_ignore)

    async def commit(self, before: int = 0) -> None:
        """Commit the acknowledgements that wait, until those of all entries with numbers below `before` are committed.

        One commit may not be enough, because some of them may be part of another commit, which may fail. Being
        cancelled changes nothing.

        Raises:
          ReplicaError: if a commit fails. Its acknowledgements then wait for the next one.

        """
        await self._commit_once()
        while any(backlog.has_uncommitted(before) for backlog in self.backlogs.values()):
            await self._commit_once()

    async def _commit_once(self) -> None:
        try:
            await ended_call(self._start_commit)
        except BaseException:
            # This also runs after a cancellation. `_committed` is the watermark that the disk is believed to have, and
            # 0 means that this is unknown. Without this, no later commit might write the watermark before a crash, and
            # the last entries would be in doubt.
            self._committed = 0
            self._to_commit.set()
            raise

    @enable_ki_protection
    async def _commit_in_time(self) -> None:
        """Commit acknowledgements and ends of puts that no later put has committed, until stopped."""
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
                    log(logging.ERROR, f"the outbox can't be written: {describe_failure(error)}")
                was_logged = True
            else:
                was_logged = False

    # The life of a part

    def start(self, nursery: trio.Nursery) -> None:
        """Start to commit what no later put commits."""
        self._commits.start(nursery)

    def close(self) -> None:
        """Go on, because the last acknowledgements are still to come. Nobody waits for commits that fail any more."""
        self._is_closed = True
        self._has_committed.unpark_all()

    def stop(self, grace: float) -> None:
        """Do nothing, because the last commit has a deadline of its own."""

    async def ended(self) -> None:
        """Commit the last acknowledgements, within `END_SECONDS`. Everything else in the replica has to have ended."""
        self._commits.stop()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
                needs_second = self.watermark < self._next
                await self.commit(self._next)
                if needs_second:  # only now the watermark can pass the entries that have been withdrawn
                    await self.commit(self._next)
        except Exception as error:
            self.is_lost = isinstance(error, LostFileError)
            log(
                logging.ERROR,
                f"the last commit of the outbox failed, so delivered blobs may be delivered again: "
                f"{describe_failure(error)}",
            )
        await self._commits.ended()

    # Reading

    async def page(self, backlog: Backlog, limit: int) -> tuple[Page, int]:
        """Return the next entries that are left to the relay, and the bound below which there are no others."""
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
