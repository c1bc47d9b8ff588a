"""The backlog of one async store: its entries in the outbox, and how far its relay has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .storage import Entry


class Page(NamedTuple):
    """Some entries of one store that are not in hand, and the number up to which the page looked."""

    entries: list[Entry]
    last: int | None
    """The number of the last entry that was looked at; None if there was none."""


@final
class Backlog:
    """The entries of one async store.

    An entry is *in hand* while its blob is in the store's queue, or being written. Then it is in `acknowledging` until
    its acknowledgement is committed. Withdrawn entries of failed puts are in `acknowledging` too. The relay skips both
    kinds. The store is *catching up* when there are other entries, because no put will queue those. All of them have
    numbers above `cursor`.
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
        """The number of entries that failed alone because their blobs can't be read from any sync store."""
        return self.missing + self.unreadable

    def counts(self) -> dict[str, int]:
        """Return the counts that `AsyncStoreStatistics` shows."""
        return {"pending": self.pending, "deferred": self.deferred}

    def has_caught_up(self, before: int) -> bool:
        """Return whether every entry with a number below `before` is gone or deferred."""
        return (not self.is_catching_up or self.cursor >= before - 1) and all(seq >= before for seq in self.in_hand)

    def has_uncommitted(self, before: int) -> bool:
        """Return whether an entry with a number below `before` has an acknowledgement that is not committed yet."""
        return any(seq < before for seq in self.acknowledging)

    def take(self, page: Sequence[Entry]) -> Page:
        """Return the entries of a page that are not in hand.

        Call this in the step in which the page arrives. Entries that are dropped later are still in `acknowledging`
        then.
        """
        entries = [entry for entry in page if entry.seq not in self.in_hand and entry.seq not in self.acknowledging]
        return Page(entries, page[-1].seq if page else None)

    def hold(self, seqs: Sequence[int]) -> None:
        """Note that entries are in hand, because their blobs have entered the queue."""
        self.in_hand.update(seqs)

    def acknowledge(self, seqs: Sequence[int]) -> None:
        """Note that entries are about to be dropped, because their blobs are delivered or their put has failed."""
        self.in_hand.difference_update(seqs)
        self.acknowledging.update(seqs)

    def leave(self, seqs: Sequence[int], bound: int) -> None:
        """Leave entries to the relay. Every put with a number below `bound` has ended."""
        # The relay never looks at numbers up to its cursor again. A put that is still under way may leave entries
        # later, with lower numbers than these. So a store that begins to catch up gets a cursor below the first such
        # put.
        if not self.is_catching_up:
            self.is_catching_up = True
            self.cursor = bound - 1
        self.left = max(self.left, seqs[-1])
        self.changed.unpark_all()

    def end_catching_up(self, before: int) -> bool:
        """End catching up, unless an entry numbered `before` or higher was left to the relay in the meantime.

        Call this when the storage has no entry with a lower number. Returns whether the store has caught up.
        """
        # A put that ended after the empty page was asked for may have left entries that are not in that page. They have
        # numbers of `before` or more, because every put with a lower one had ended by then.
        if self.left < before:
            self.is_catching_up = False
            self.changed.unpark_all()
        return not self.is_catching_up
