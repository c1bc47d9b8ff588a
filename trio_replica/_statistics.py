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
    """Blobs that it stored, those that it had already included; not all of those whose put was cancelled."""
    put_failures: int
    """Calls of its ``put`` or ``put_many`` that failed; not those that were cancelled because another store failed."""
    gets_won: int
    """Blobs for which its answer was the first good one."""
    get_failures: int
    """Gets that it failed, or answered with a corrupt blob; not counted are misses and calls that were cancelled."""
    repaired: int = 0
    """Blobs that were written back to it because a get had found them missing or corrupt; not counted as `puts`."""
    unrepairable: int = 0
    """Blobs that could not be: corrupt ones, if it has no ``replace``, and those whose writing failed."""


@dataclass(frozen=True, slots=True)
class AsyncStoreStatistics:
    """The counts of one async store, since the replica was opened, and the state of its queue."""

    capacity: int
    """Blobs that its queue holds: the replica's ``queue_size``."""
    queued: int
    """Blobs in the queue: accepted and not yet taken by the worker."""
    in_flight: int
    """Blobs that the worker is writing."""
    peak_queued: int
    """The most blobs that were queued at once: one more than `capacity` if an idle worker was being given one."""
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
    """Seconds since the oldest blob that is not yet written was queued; 0 if all are written."""
    failure: BaseException | None
    """The exception that the store failed with, if it did."""
    pending: int = 0
    """Entries that the outbox has for it: one for each put that has returned and blob; 0 without an outbox."""
    deferred: int = 0
    """Of these, those whose blobs could not be read back since the replica was opened.

    Either no sync store has the blob any more, or every one failed to give it: the log has the reason.
    """

    def __getstate__(self) -> list[Any]:
        """Return what a pickle has: the values, in their order, and a `ReplicaError` if `failure` can't be pickled."""
        return [picklable(getattr(self, one.name)) for one in fields(self)]


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """A snapshot of what a replica has counted."""

    sync_stores: Mapping[str, SyncStoreStatistics]
    """By the name of the sync store."""
    async_stores: Mapping[str, AsyncStoreStatistics]
    """By the name of the async store."""
