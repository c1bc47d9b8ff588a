"""The interface between an outbox and its file, which `outbox_file` implements.

A session begins in two steps. Opening the storage locks the file and reads which stores it has noted. Once the stores
have told their identities, `OutboxStorage.begin` notes them. Only then are entries committed and read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._blob import Ref
    from .._calls.start import Cancel, Done


class OutboxInUseError(ReplicaError):
    """Another replica has the outbox open, or another program the file."""


class LostFileError(ReplicaError):
    """The file of an outbox was removed or replaced while it was open, so its content no longer counts."""


class NotedStore(NamedTuple):
    """A store as the outbox has noted it in an earlier session."""

    role: str | None
    """``"sync"`` or ``"async"``; None if it was noted before outboxes recorded roles."""
    identity: str | None
    is_incomplete: bool
    """Whether it may lack blobs that have no entry."""


class SessionStore(NamedTuple):
    """A store with a name, as it is in the current session."""

    name: str
    role: str
    """``"sync"`` or ``"async"``."""
    identity: str | None


class Entry(NamedTuple):
    """One blob that is pending for one async store."""

    seq: int
    ref: Ref


class Acknowledgement(NamedTuple):
    """Entries of one store to drop, because the store has their blobs, or because their put failed."""

    store: int
    seqs: Sequence[int]


class Changes(NamedTuple):
    """Changes that become durable together."""

    seqs: Sequence[int] = ()
    """The numbers of new entries."""
    refs: Sequence[Ref] = ()
    """The refs of the blobs that are pending for every store of `stores`, in the order of the numbers."""
    sizes: Sequence[int] = ()
    """The bytes of these blobs."""
    stores: Sequence[int] = ()
    acknowledgements: Sequence[Acknowledgement] = ()
    watermark: int = 0
    """The number below which every put has ended. 0 leaves the stored number as it is."""


@dataclass(frozen=True, slots=True)
class OutboxState:
    """The state of an outbox when a session begins."""

    ids: Mapping[str, int]
    """The number of each store by its name, including stores of former sessions."""
    pending: Mapping[str, int]
    """The number of entries of each store by its name."""
    next_seq: int
    """The number of the next put."""
    in_doubt: Sequence[range]
    """Numbers of entries whose puts may never have returned, because a crash ended their session before its watermark
    had passed them. Each session leaves at most one range. A range is kept until all its entries are dropped."""


class OutboxStorage(ABC):
    """The storage of the entries, locked against other replicas. It serves requests in the order of the calls."""

    noted: Mapping[str, NotedStore]
    """The stores that it had noted when it was opened, by name. Opening alone changes nothing in it."""

    @abstractmethod
    async def begin(self, stores: Sequence[SessionStore]) -> OutboxState:
        """Begin the session in one durable step, before any other request. If it fails, nothing has changed.

        It notes the stores and their identities. It also notes, for this session and all later ones, that every entry
        at or above the watermark is in doubt. The watermark then moves above these entries.
        """

    @abstractmethod
    def start_commit(self, changes: Changes, done: Done) -> Cancel:
        """Start to make all of the changes or none. Once ``done(Value(None))`` is called, they survive a power cut."""

    @abstractmethod
    def start_page(self, store: int, after: int, before: int, limit: int, done: Done) -> Cancel:
        """Start to read up to `limit` entries of a store, in order, with numbers above `after` and below `before`."""
