"""What an outbox is kept in: a small interface, which `_sqlite_outbox` has a database behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._blob import Ref
    from .._calls.started import Cancel, Done


class Debt(NamedTuple):
    """One blob that one async store is owed."""

    seq: int
    ref: Ref


class Strike(NamedTuple):
    """Debts to one store that are none any more."""

    store: int
    seqs: Sequence[int]


class Changes(NamedTuple):
    """What becomes durable together."""

    seqs: Sequence[int] = ()
    """The numbers of new debts."""
    refs: Sequence[Ref] = ()
    """What every store of `stores` is owed, in the order of the numbers."""
    stores: Sequence[int] = ()
    strikes: Sequence[Strike] = ()
    watermark: int = 0
    """The number below which every put has ended; 0 leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Books:
    """What an outbox had when it was opened."""

    ids: Mapping[str, int]
    """The number of each store, by its name; those of former sessions included."""
    owed: Mapping[str, int]
    """Debts to each store, by its name."""
    next_seq: int
    """The number of the next put."""
    unproven: Sequence[range]
    """Numbers of debts of puts that may never have returned, for a crash ended their session before the watermark of
    that passed them. Each session leaves one range at most; it is there until no debt is in it."""


class OutboxStorage(ABC):
    """Where the debts are. What is asked of it is done in the order in which it was asked."""

    @abstractmethod
    def start_commit(self, changes: Changes, done: Done) -> Cancel:
        """Start to make changes, all or none. Once ``done(Value(None))`` is called, they survive a power cut."""

    @abstractmethod
    def start_page(self, store: int, after: int, before: int, limit: int, done: Done) -> Cancel:
        """Start to read the first debts to a store with numbers between two, at most `limit`, in their order."""
