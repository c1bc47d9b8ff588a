"""The statistics of a replica and of its stores."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ._errors import picklable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SyncStoreStatistics:
    """The counts of one sync store, since the replica was opened."""

    puts: int
    """Blobs that it stored, including those that it had already. Of cancelled puts, only some are counted."""
    put_failures: int
    """Calls of its ``put`` or ``put_many`` that failed. Calls cancelled because another store failed do not count."""
    gets_won: int
    """Blobs for which its answer was the first good one."""
    get_failures: int
    """Gets that it failed, or answered with a corrupt blob. Misses and cancelled calls do not count."""
    repaired: int = 0
    """Blobs that were written back to it because a get had found them missing or corrupt. They do not count as
    `puts`."""
    unrepairable: int = 0
    """Blobs that could not be written back: corrupt ones if it has no ``replace``, and those whose write failed."""


@dataclass(frozen=True, slots=True)
class AsyncStoreStatistics:
    """The counts of one async store, since the replica was opened, and the state of its queue."""

    capacity: int
    """Blobs that its queue can hold: the replica's ``queue_size``."""
    queued: int
    """Blobs in the queue, accepted and not yet taken by the worker."""
    in_flight: int
    """Blobs that the worker is writing."""
    peak_queued: int
    """The most blobs that were queued at once. This may be `capacity` + 1 while a blob goes to an idle worker."""
    queued_bytes: int
    """Bytes of the blobs queued and in flight."""
    peak_bytes: int
    """The most bytes that were queued and in flight at once."""
    written: int
    """Blobs that the store has confirmed."""
    blocked_puts: int
    """Puts that found the queue full and waited for room."""
    blocked_seconds: float
    """Seconds that these waited for room in this queue, summed over the waits that have ended."""
    lag_seconds: float
    """Seconds since the oldest blob that is not yet written was queued, or 0 if all are written."""
    failure: BaseException | None
    """The exception that the store failed with, if it failed."""
    pending: int = 0
    """Entries that the outbox has for it, one for each blob of each put that has returned. 0 without an outbox."""
    deferred: int = 0
    """The pending entries whose blobs could not be read back since the replica was opened.

    Either no sync store has the blob any more, or each one failed to return it. The log has the reason.
    """

    def __getstate__(self) -> list[Any]:
        """Return the values for a pickle, in their order.

        A `failure` that can't be pickled becomes a `ReplicaError`.
        """
        return [picklable(getattr(self, one.name)) for one in fields(self)]


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """A snapshot of the counts of a replica."""

    sync_stores: Mapping[str, SyncStoreStatistics]
    """The counts of the sync stores by name."""
    async_stores: Mapping[str, AsyncStoreStatistics]
    """The counts of the async stores by name."""
