"""`ReplicaStore`, whose methods state their promises, check arguments, and call the parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

import trio

from ._blob import Blob, Ref
from ._frozen import FrozenDict
from ._listing import RefIterator, check_page_request, check_ref, check_refs
from ._parts import PAGE_LIMIT, in_parts
from ._statistics import ReplicaStatistics
from ._store import PutResult, Store, are_put_results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from ._async.delivery import Delivery
    from ._blob import BytesLike
    from ._errors import PoisonedError
    from ._life import Life
    from ._sync.fallback import ReadRepair
    from ._sync.readers import Readers
    from ._sync.sync_stores import SyncStores


@final
class ReplicaStore(Store):
    """A store that keeps every blob in several stores: see `open`, which makes it."""

    def __init__(self, life: Life, sync_stores: SyncStores, reads: Readers | ReadRepair, delivery: Delivery) -> None:
        self._life = life
        self._sync_stores = sync_stores
        self._reads = reads
        self._delivery = delivery

    def __repr__(self) -> str:
        shown = [", ".join(self._sync_stores.names), *map(str, self._delivery.shown())]
        return f"<ReplicaStore {self._life.state}, {'; '.join(shown)}>"

    # The methods of every store

    @property
    def is_durable(self) -> bool:
        """Whether any of the sync stores is durable: see `Store.is_durable`."""
        return any(member.store.is_durable for member in self._sync_stores.members)

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Write a blob to all sync stores, then queue it for every async store. Repeating it is harmless.

        Returning means that every sync store has the blob, and that every async store will be given it. The blob is in
        every queue, and the put has waited where a queue was full. With an outbox, the blob is durably pending for
        every async store instead, and the put never waits for room. `PutResult.added` is that of the sync store that
        finished first. Being cancelled means that some stores may have the blob, or will get it. Repeat the put to be
        sure.

        Raises:
          TypeError: if `blob` is neither a `Blob` nor bytes-like.
          StoreError: if a sync store or the outbox failed. The writes to the other stores were cancelled, and nothing
            was queued.
          PoisonedError: if an async store has failed, also while the blob waited for room in a queue.
          trio.ClosedResourceError: if the block has ended, also in the meantime.

        """
        self._life.check_accepting()
        blob = await self._sync_stores.hashed(Blob(blob))
        _, added = await self._delivery.accept([blob], partial(self._sync_stores.put, blob))
        return PutResult(blob.ref, added)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Write many blobs through the `Store.put_many` of every sync store, then queue them for every async store.

        Returning and being cancelled have the same meaning for all blobs as for one with `put`. The results are in the
        order of `blobs`. More than 1000 are written in parts, one after another, so that other tasks run in
        between. If there are no blobs, no store is called.

        Raises:
          TypeError: if one is neither a `Blob` nor bytes-like; then no store is called.
          StoreError: in the same cases as with `put`. Any part of the blobs may be stored. Its `ref` is None.
          PoisonedError, trio.ClosedResourceError: in the same cases as with `put`.

        """
        self._life.check_accepting()
        blobs = await self._sync_stores.all_hashed(blobs)
        if not blobs:
            return []
        results: list[PutResult] = []
        for part in in_parts(blobs):
            self._life.check_accepting()
            told = await self._delivery.accept(part, partial(self._sync_stores.put_many, part))
            if are_put_results(told):
                results += told
            else:
                results += [PutResult(blob.ref, added) for blob, (_, added) in zip(part, told, strict=True)]
        return results

    async def get(self, ref: Ref) -> bytes:
        """Ask the sync stores, and return the first answer that is right.

        If no sync store gives one, the async stores that the `fallback` of `open` names are asked in the same way.
        Other async stores are never read. An answer whose hash is not `ref` is a failure of that store. Being
        cancelled changes nothing.

        Raises:
          BlobNotFoundError: if every store that is read is sure that it has no such blob.
          StoreError: if no store gave the blob and at least one failed.
          TypeError: if `ref` is not a `Ref`.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended, or was cancelled during the call and its `grace` is over.

        """
        check_ref(ref)
        self._life.check_accepting()
        return await self._reads.get(ref)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Ask the `Store.get_many` of the sync stores, and return for each ref the first answer that is right.

        The stores of the `fallback` of `open` are asked for the rest. A ref is absent only if every store that is read
        lacks it. Being cancelled changes nothing.

        Raises:
          StoreError: if no store gave the blob of a ref and at least one failed.
          TypeError: if one is not a `Ref`.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended, or was cancelled during the call and its `grace` is over.

        """
        wanted = check_refs(refs)
        self._life.check_accepting()
        if not wanted:
            await trio.lowlevel.checkpoint()
            return {}
        found: dict[Ref, bytes] = {}
        for part in in_parts(wanted):
            found |= await self._reads.get_many(part)
        return found  # noqa: ASYNC910  (there is at least one part)

    async def contains(self, ref: Ref) -> bool:
        """Return whether any sync store, or any of the `fallback` of `open`, has the blob that `ref` names.

        Being cancelled changes nothing.

        Raises:
          StoreError: if no store said yes and at least one failed.
          TypeError: if `ref` is not a `Ref`.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended, or was cancelled during the call and its `grace` is over.

        """
        check_ref(ref)
        self._life.check_accepting()
        return await self._reads.contains(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the first `limit` refs after `after` in the ordered union of the sync stores.

        The stores of a `fallback` are not listed. Being cancelled changes nothing.

        Raises:
          StoreError: if a sync store fails, or answers with a page that breaks the promise of `Store.list_page`.
          TypeError: if `after` is not a `Ref`, or `limit` is not an `int`.
          ValueError: if `limit` is less than 1.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended, or was cancelled during the call and its `grace` is over.

        """
        check_page_request(after, limit)
        self._life.check_accepting()
        limit = min(limit, PAGE_LIMIT)
        page = await self._sync_stores.union_page(after, limit)
        return page[:limit]

    def list_refs(self, after: Ref = Ref.ZERO) -> AsyncIterator[Ref]:
        """Return an asynchronous iterator over the ordered union of the sync stores: see `Store.list_refs`.

        The stores of a `fallback` are not listed. The listing goes on if the replica is poisoned in the meantime.

        Raises:
          TypeError: if `after` is not a `Ref`.
          PoisonedError: if an async store has failed.
          StoreError: while iterating, in the same cases as with `list_page`.
          trio.ClosedResourceError: if the block has ended, also while iterating.

        """
        self._life.check_accepting()
        return RefIterator(self._next_page, after)

    # The methods of a replica

    async def flush(self) -> None:
        """Wait until every blob that was queued before this call is in every async store.

        With an outbox, wait until every entry of a put that returned before is acknowledged, including those of earlier
        sessions. While a store is catching up, its entries that came after a put still under way wait for that put.
        Being cancelled changes nothing.

        Raises:
          StoreError: with an outbox, if there are blobs that can't be delivered because no sync store returns them, or
            if the outbox fails.
          PoisonedError: if an async store has failed, also in the meantime.
          trio.ClosedResourceError: if the block has ended, also in the meantime.

        """
        self._life.check_accepting()
        await self._delivery.flush()

    async def wait_poisoned(self) -> PoisonedError:
        """Wait until an async store has failed, and return (not raise) the error that says so.

        Being cancelled changes nothing.

        Raises:
          trio.ClosedResourceError: if the block has ended, or ends before an async store has failed.

        """
        return await self._life.wait_poisoned()

    @property
    def unreplicated(self) -> Mapping[str, tuple[Ref, ...]]:
        """The refs that each async store has not confirmed, by its name; each ref once, in queue order.

        While the replica is open, these are the refs queued and being written. After that, they are the refs that were
        left. They include every accepted ref that the store lacks. They may also include refs whose put raised, and
        refs that the store has but did not confirm. With an outbox, they do not include blobs that wait in the outbox
        for room in the queue. The statistics count those as pending.
        """
        return FrozenDict(self._delivery.unreplicated())

    def statistics(self) -> ReplicaStatistics:
        """Return the counts so far, in every state."""
        now = trio.current_time() if self._life.ended_at is None else self._life.ended_at
        return ReplicaStatistics(
            sync_stores=FrozenDict(self._sync_stores.statistics()),
            async_stores=FrozenDict(self._delivery.statistics(now)),
        )

    async def _next_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return a page for a listing that goes on when the replica is poisoned."""
        self._life.check_open()
        return await self._sync_stores.union_page(after, limit)
