"""The outbox of a replica: what is still owed to its async stores, and which puts are under way.

Debts are rows in an `OutboxStorage`, one for each put and async store, under a number that the put draws here. A put
notes its debts beside its writes to the sync stores, and has ended when all are done; a debt is struck when its store
has the blob. Every method is synchronous and leaves the books whole, so a put is under way, given, or abandoned, and
never anything between.
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
from .storage import Changes, Debt, Strike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._blob import Blob, Ref
    from .._calls.started import Cancel, Done
    from .queue import BlobQueue
    from .storage import Books, OutboxStorage

NAME: Final = "outbox"
"""What an outbox that fails is called in a `StoreError`, beside the stores."""

SETTLE_SECONDS: Final = 0.1
"""Seconds after which is committed what no put has taken along: strikes, and that all puts have ended."""

PENDING_LIMIT: Final = 10_000
"""Strikes that may wait for a commit: with more, because the disk is full say, workers wait."""


class Page(NamedTuple):
    """Some debts to one store, which nobody has in hand, and how far they go."""

    debts: list[Debt]
    last: int | None
    """The number of the last debt that was looked at; None if there was none."""


class _Settlement(NamedTuple):
    """Strikes that are to be committed, and what is done once they are."""

    strikes: Sequence[Strike]
    confirm: Callable[[], None]

    @property
    def size(self) -> int:
        """How many debts are struck."""
        return sum(len(strike.seqs) for strike in self.strikes)


@final
class Intent:
    """The debts of one put: beside the sync stores, one more member of its write."""

    __slots__ = ("_outbox", "_refs", "seqs", "was_started")

    name = NAME

    def __init__(self, outbox: Outbox, seqs: range, refs: Sequence[Ref]) -> None:
        self.seqs = seqs
        self.was_started = False
        self._outbox = outbox
        self._refs = refs

    def start(self, done: Done) -> Cancel:
        """Start to note the debts: see `StartableStore.start_put`.

        Raises:
          ReplicaError: if too many strikes wait for an outbox that fails: this put may have to be struck as well.

        """
        if self._outbox.is_failing and not self._outbox.has_room:
            raise ReplicaError(f"{self._outbox._pending_count} debts that are paid can't be struck: see the log")
        self.was_started = True
        return self._outbox._commit(done, self.seqs, self._refs)


@final
class Account:
    """What one async store is owed.

    Debts are *unpaid* while the blob is in the store's queue, or being written. Then they are *settling* until they are
    struck, and so are those of puts that failed. The feeder passes over both. The store is *behind* when there are
    others, which no put brings to the queue any more: all these have numbers above `cursor`.
    """

    def __init__(self, name: str, number: int, owed: int) -> None:
        self.name = name
        self.number = number
        self.owed = owed
        self.missing = 0
        self.unreadable = 0
        self.unpaid: set[int] = set()
        self.settling: set[int] = set()
        self.is_behind = owed > 0
        self.cursor = 0
        self.left = 0
        """The highest number that was left to the feeder."""
        self.changed = trio.lowlevel.ParkingLot()
        """Woken when there is something to feed, or something has been paid."""

    def counts(self) -> dict[str, int]:
        """Return what `AsyncStoreStatistics` has of it."""
        return {"owed": self.owed, "missing": self.missing, "unreadable": self.unreadable}

    def has_caught_up(self, before: int) -> bool:
        """Whether no debt with a number below `before` is left, but for those that can't be read."""
        return (not self.is_behind or self.cursor >= before - 1) and all(seq >= before for seq in self.unpaid)

    def has_strikes(self, before: int) -> bool:
        """Whether a debt with a number below `before` is to be struck, and is not yet."""
        return any(seq < before for seq in self.settling)

    def take(self, page: Sequence[Debt]) -> Page:
        """Return what of a page is not in hand. To be called as it arrives: what is struck later is settling still."""
        debts = [debt for debt in page if debt.seq not in self.unpaid and debt.seq not in self.settling]
        return Page(debts, page[-1].seq if page else None)

    def hold(self, seqs: Sequence[int]) -> None:
        """Have debts in hand, for their blobs have entered the queue."""
        self.unpaid.update(seqs)

    def settle(self, seqs: Sequence[int]) -> None:
        """Have debts that are to be struck, for they are paid, or their put has failed."""
        self.unpaid.difference_update(seqs)
        self.settling.update(seqs)

    def leave(self, seqs: Sequence[int], bound: int) -> None:
        """Leave debts to the feeder, when every put with a number below `bound` has ended."""
        if not self.is_behind:
            self.is_behind = True
            self.cursor = bound - 1
        self.left = max(self.left, seqs[-1])
        self.changed.unpark_all()

    def end_behind(self, before: int) -> bool:
        """Be no longer behind, if nothing was left with a number of `before` or more; no lower one is there."""
        if self.left < before:
            self.is_behind = False
            self.changed.unpark_all()
        return not self.is_behind


@final
class Outbox:
    """The books of one replica."""

    def __init__(self, storage: OutboxStorage, books: Books, names: Iterable[str]) -> None:
        self.accounts = {name: Account(name, books.ids[name], books.owed[name]) for name in names}
        self._numbers = [account.number for account in self.accounts.values()]
        self._unproven = books.unproven
        self._storage = storage
        self._next = books.next_seq
        self._under_way: OrderedDict[int, None] = OrderedDict()  # puts, by the first of their numbers
        self._abandoned: set[int] = set()  # puts that failed and whose strikes are not yet committed, likewise
        self._pending: list[_Settlement] = []
        self._pending_count = 0
        self._settled = trio.lowlevel.ParkingLot()  # those who wait for the pending strikes to be fewer
        self.is_failing = False
        """Whether the last commit of strikes failed."""
        self._to_settle = trio.Event()
        self._committed = books.next_seq  # the watermark of the last commit that was started

    @property
    def bound(self) -> int:
        """Every put with a number below this has ended."""
        return next(iter(self._under_way), self._next)

    @property
    def watermark(self) -> int:
        """What `bound` is once a crash has undone the strikes that are not committed."""
        return min(self.bound, *self._abandoned) if self._abandoned else self.bound

    @property
    def next_seq(self) -> int:
        """The number of the next put."""
        return self._next

    def may_be_unacknowledged(self, seq: int) -> bool:
        """Whether a debt may be that of a put of a former session that never returned: no store may have the blob."""
        return any(seq in seqs for seqs in self._unproven)

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
            account = self.accounts[queue.name]
            entered = 0 if account.is_behind else queue.enter(blobs, seqs)
            account.hold(seqs[:entered])
            if entered < len(blobs):
                account.leave(seqs[entered:], self.bound)
            account.owed += len(blobs)
        self._end(seqs.start)

    @enable_ki_protection
    def abandon(self, intent: Intent) -> None:
        """End a put that has failed: its debts are struck, if they may have been noted."""
        seqs = intent.seqs
        if not intent.was_started:
            self._end(seqs.start)
            return
        for account in self.accounts.values():
            account.settle(seqs)
        self._abandoned.add(seqs.start)
        self._end(seqs.start)
        strikes = [Strike(account.number, seqs) for account in self.accounts.values()]
        self._add(_Settlement(strikes, partial(self._forget, seqs)))
        self._settle_now()

    def _forget(self, seqs: range) -> None:
        for account in self.accounts.values():
            account.settling.difference_update(seqs)
        self._abandoned.remove(seqs.start)
        self._to_settle.set()

    def _end(self, first: int) -> None:
        was_first = next(iter(self._under_way)) == first
        del self._under_way[first]
        self._to_settle.set()
        if was_first:
            for account in self.accounts.values():
                if account.is_behind:
                    account.changed.unpark_all()

    # Strikes

    def strike(self, account: Account, seqs: Sequence[int]) -> None:
        """Strike debts whose blobs the store has, with the next commit."""
        account.settle(seqs)
        if account.changed:
            account.changed.unpark_all()
        self._add(_Settlement([Strike(account.number, seqs)], partial(_struck, account, seqs)))

    @property
    def has_room(self) -> bool:
        """Whether not too many strikes wait for a commit."""
        return self._pending_count <= PENDING_LIMIT

    async def wait_room(self) -> None:  # noqa: ASYNC910  (a worker has just written)
        """Wait until there is room for strikes."""
        while not self.has_room:
            await self._settled.park()

    def _add(self, settlement: _Settlement) -> None:
        self._pending.append(settlement)
        self._pending_count += settlement.size
        self._to_settle.set()

    # Commits

    def _commit(self, done: Done, seqs: Sequence[int] = (), refs: Sequence[Ref] = ()) -> Cancel:
        """Start to commit debts, and all strikes that are pending, with how far all puts have ended."""
        self._committed = watermark = self.watermark
        if not self._pending:
            return self._storage.start_commit(Changes(seqs, refs, self._numbers, (), watermark), done)
        carried, self._pending, self._pending_count = self._pending, [], 0
        strikes = [strike for settlement in carried for strike in settlement.strikes]

        def ended(how: outcome.Value[Any] | outcome.Error) -> None:
            self.is_failing = isinstance(how, outcome.Error)
            if isinstance(how, outcome.Value):
                for settlement in carried:
                    settlement.confirm()
                if self._settled:
                    self._settled.unpark_all()
            else:
                self._put_back(carried)
            done(how)

        def cancel() -> bool:
            if is_withdrawn := withdraw():
                self._put_back(carried)
            return is_withdrawn

        try:
            withdraw = self._storage.start_commit(Changes(seqs, refs, self._numbers, strikes, watermark), ended)
        except BaseException:
            self._put_back(carried)
            raise
        return cancel

    def _put_back(self, carried: list[_Settlement]) -> None:
        self._pending[:0] = carried
        self._pending_count += sum(settlement.size for settlement in carried)
        self._to_settle.set()
        if not self.has_room:
            for account in self.accounts.values():
                account.changed.unpark_all()  # those who flush would wait for workers that wait for room

    def _settle_now(self) -> None:
        """Start to commit the pending strikes, and wait for nothing."""
        with suppress(trio.ClosedResourceError):
            self._commit(_ignore)

    async def settle(self, before: int = 0) -> None:
        """Commit what is pending, and again until no strike of a debt with a number below `before` is uncommitted.

        For another commit may be under way that carries some, and fail.

        Raises:
          ReplicaError: if a commit fails; then its strikes are pending still.

        """
        await self._settle_once()
        while any(account.has_strikes(before) for account in self.accounts.values()):
            await self._settle_once()

    async def _settle_once(self) -> None:
        try:
            await ended_call(self._commit)
        except BaseException:  # cancelled, too: it may be that nothing else tells the disk how far the puts have ended
            self._committed = 0
            self._to_settle.set()
            raise

    @enable_ki_protection
    async def settle_in_time(self, scope: trio.CancelScope) -> None:
        """Commit what no put takes along, until `scope` is cancelled: strikes, and that the last puts have ended."""
        was_logged = False
        with scope:
            while True:
                await self._to_settle.wait()
                await trio.sleep(SETTLE_SECONDS)
                self._to_settle = trio.Event()
                if not self._pending and self._committed == self.watermark:
                    continue
                try:
                    await self._settle_once()
                except Exception as error:
                    if not was_logged:
                        log(logging.ERROR, f"debts that are paid can't be struck: {describe_failure(error)}")
                    was_logged = True
                else:
                    was_logged = False

    # Reading

    async def page(self, account: Account, limit: int) -> tuple[Page, int]:
        """Return the next debts that are left to the feeder, and the bound below which they are all there are."""
        before = self.bound

        def start(done: Done) -> Cancel:
            def arrived(ended: outcome.Value[Any] | outcome.Error) -> None:
                done(outcome.Value(account.take(ended.value)) if isinstance(ended, outcome.Value) else ended)

            return self._storage.start_page(account.number, account.cursor, before, limit, arrived)

        found: Page = await ended_call(start)
        return found, before


def _struck(account: Account, seqs: Sequence[int]) -> None:
    account.settling.difference_update(seqs)
    account.owed -= len(seqs)


def _ignore(_: object) -> None:
    """Whatever it was: who started it does not wait."""
