"""The sync stores of a replica. A put goes to all of them, and a listing is their union."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

import outcome

from .._blob import hashed, takes_thread, to_blobs
from .._calls.operation import Operation
from .._errors import ReplicaError, StoreError
from .._statistics import SyncStoreStatistics
from .._store import results_error, startable
from .union import check_page, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._blob import Blob, BytesLike, Ref
    from .._calls.attempt import Ended
    from .._calls.operation import Operations
    from .._calls.start import Cancel, Done
    from .._store import PutResult, Store


@final
class Member:
    """A store with its name and its counts.

    The ``start_…`` methods start its calls, whether or not the store is startable. No other code has to ask which it
    is.
    """

    has_results = True

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.puts = 0
        self.put_failures = 0
        self.gets_won = 0
        self.get_failures = 0
        self.repaired = 0
        self.unrepairable = 0
        started = startable(store)
        self.start_put = started.start_put
        self.start_put_many = started.start_put_many
        self.start_get = started.start_get
        self.start_get_many = started.start_get_many
        self.start_contains = started.start_contains
        self.start_list_page = started.start_list_page

    def note_put(self, blobs: Sequence[Blob], results: Sequence[PutResult]) -> ReplicaError | None:
        """Count a write that has returned, and return the error in its results, if there is one."""
        error = results_error(blobs, results)
        if error is None:
            self.puts += len(blobs)
        else:
            self.put_failures += 1
        return error

    def note_put_failure(self) -> None:
        """Count a write that has failed."""
        self.put_failures += 1


class Participant(Protocol):
    """A sync store, or the outbox with the entries of the put. A write is complete when all have done their part."""

    has_results: bool
    """Whether the value of its part is a result for each blob. The value of the outbox is None."""

    @property
    def name(self) -> str:
        """The name under which its failure is reported."""

    def start_put(self, blob: Blob, done: Done, /) -> Cancel:
        """Start its part of a put. The value is the `PutResult` of a store, and None for the outbox."""

    def start_put_many(self, blobs: Sequence[Blob], done: Done, /) -> Cancel:
        """Start its part of a `put_many`. The value is a list of results from a store, and None for the outbox."""

    def note_put(self, blobs: Sequence[Blob], results: Sequence[PutResult]) -> ReplicaError | None:
        """Count its part as done, and return the error in the results, if there is one."""

    def note_put_failure(self) -> None:
        """Count its part as failed."""


class _PutMany(Operation[Participant]):
    """One write of some blobs to all participants, which ends with the first failure."""

    def __init__(self, participants: Sequence[Participant], blobs: Sequence[Blob]) -> None:
        super().__init__(participants)
        self._blobs = blobs
        self.results: Sequence[PutResult] = ()
        """The results of the store that finished first."""

    def start_call(self, participant: Participant, done: Done) -> Cancel:
        return participant.start_put_many(self._blobs, done)

    def settle(self, participant: Participant, ended: Ended[Any]) -> bool:
        if isinstance(ended, outcome.Error):
            participant.note_put_failure()
            self.fail(participant.name, ended.error)
            return True
        results = self.results_in(ended.value)
        error = participant.note_put(self._blobs, results)
        if error is not None:
            self.fail(participant.name, error)
            return True
        if participant.has_results and not self.results:
            self.results = results
        return False

    def results_in(self, value: Any) -> Sequence[PutResult]:
        """Return the results in the value of a store's part."""
        results: Sequence[PutResult] = value
        return results


class _Put(_PutMany):
    """One write of one blob to all participants, with the `Store.put` of the stores."""

    def start_call(self, participant: Participant, done: Done) -> Cancel:
        return participant.start_put(self._blobs[0], done)

    def results_in(self, value: Any) -> Sequence[PutResult]:
        return [value]


class _ListPage(Operation[Member]):
    """One page of each store, which ends with the first failure."""

    def __init__(self, members: list[Member], after: Ref, limit: int) -> None:
        super().__init__(members)
        self._after = after
        self._limit = limit
        self.pages: list[list[Ref]] = []

    def start_call(self, member: Member, done: Done) -> Cancel:
        return member.start_list_page(self._after, self._limit, done)

    def settle(self, member: Member, ended: Ended[Any]) -> bool:
        if isinstance(ended, outcome.Error):
            self.fail(member.name, ended.error)
            return True
        try:
            self.pages.append(check_page(ended.value, self._after, self._limit))
        except ReplicaError as error:
            self.fail(member.name, error)
        return bool(self.failures)


@final
class SyncStores:
    """The sync stores of one replica, in the order of preference, for writes and listings."""

    def __init__(self, members: list[Member], operations: Operations) -> None:
        self.members = members
        self._operations = operations

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    def statistics(self) -> dict[str, SyncStoreStatistics]:
        return {member.name: _statistics(member) for member in self.members}

    async def hashed(self, blob: Blob) -> Blob:
        """Return `blob` with its ref computed, in a thread if it is large."""
        if takes_thread(blob):
            with self._operations.until_closed():
                await hashed(blob)
        return blob  # noqa: ASYNC910  (the write has a checkpoint)

    async def all_hashed(self, items: Iterable[Blob | BytesLike]) -> list[Blob]:
        """Return blobs with their refs computed."""
        with self._operations.until_closed():
            return await to_blobs(items)

    async def put(self, blob: Blob, others: Sequence[Participant]) -> PutResult:
        """Put `blob`, which is hashed, to all stores, and return the result of the one that finished first.

        Returning means that all `others` have done their part as well. Being cancelled means that some stores may
        have the blob.
        """
        put = _Put((*self.members, *others) if others else self.members, [blob])
        failures = await self._operations.write(put)
        try:
            if failures:
                raise StoreError("put", blob.ref, failures)
            return put.results[0]
        finally:
            del failures  # see `Operation.run`

    async def put_many(self, blobs: Sequence[Blob], others: Sequence[Participant]) -> Sequence[PutResult]:
        """Put blobs, which are hashed, to all stores, and return the results of the one that finished first."""
        put_many = _PutMany((*self.members, *others), blobs)
        failures = await self._operations.write(put_many)
        try:
            if failures:
                raise StoreError("put_many", None, failures)
            return put_many.results
        finally:
            del failures  # see `Operation.run`

    async def union_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the union of one page of each store as far as it is complete. It may have more than `limit` refs."""
        listing = _ListPage(self.members, after, limit)
        failures = await self._operations.read(listing, hedged=False)
        try:
            if failures:
                raise StoreError("list_page", None, failures)
            return union(listing.pages)
        finally:
            del failures  # see `Operation.run`


def _statistics(member: Member) -> SyncStoreStatistics:
    return SyncStoreStatistics(
        member.puts,
        member.put_failures,
        member.gets_won,
        member.get_failures,
        member.repaired,
        member.unrepairable,
    )
