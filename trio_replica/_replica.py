"""The replica: one store that keeps every blob in several."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio
from trio.lowlevel import enable_ki_protection

from ._async.delivery import OutboxDelivery
from ._async.queue import enqueue
from ._blob import Blob, Ref
from ._errors import PoisonedError, closed_error, describe_failures
from ._log import log
from ._statistics import ReplicaStatistics
from ._store import PutResult, RefIterator, Store, are_put_results, check_page_request, check_ref, check_refs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ._async.outbox import Intent
    from ._async.queue import BlobQueue
    from ._async.storage import OutboxState, OutboxStorage
    from ._blob import BytesLike
    from ._sync.fallback import ReadRepair
    from ._sync.sync_stores import SyncStores

ResultT = TypeVar("ResultT")

REFS_LOGGED: Final = 10
"""Of the refs that a store lacks at the end, how many the log names; `ReplicaStore.unreplicated` has all."""


@asynccontextmanager
@enable_ki_protection
async def opened_with(
    opening: AbstractAsyncContextManager[tuple[OutboxStorage, OutboxState]],
    replica: ReplicaStore,
    batch_size: int,
    grace: float,
) -> AsyncGenerator[ReplicaStore, None]:
    """Run a replica for a block, with an outbox; its relays read `batch_size` blobs at a time."""
    async with opening as (storage, state):
        replica._use_outbox(storage, state, batch_size)
        async with opened(replica, grace):
            yield replica


@asynccontextmanager
@enable_ki_protection
async def opened(replica: ReplicaStore, grace: float) -> AsyncGenerator[ReplicaStore, None]:
    """Run a replica for a block."""
    ended: BaseException | None = None
    interruption: BaseException | None = None
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            replica._start(nursery)
            try:
                yield replica
            except BaseException as exc:  # noqa: ASYNC103  (raised below, outside of the nursery)
                ended = exc
            interruption = await replica._shut_down(None if isinstance(ended, Exception) else ended, grace)
            interruption = await replica._commit_acknowledgements() or interruption
        raised = replica._end(ended, interruption)
        if raised is not None:
            raise raised
    finally:
        del ended, interruption, raised  # their tracebacks refer to this frame


@final
class ReplicaStore(Store):
    """A store that keeps every blob in several: see `open`, which makes it."""

    def __init__(self, sync_stores: SyncStores, queues: list[BlobQueue], read_repair: ReadRepair | None = None) -> None:
        self._sync_stores = sync_stores
        self._read_repair = read_repair
        self._reads = read_repair or sync_stores
        self._queues = queues
        self._delivery: OutboxDelivery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._failures: dict[str, BaseException] = {}  # of the async stores, in the order of their failing
        self._reported: set[str] = set()  # the failed async stores that a raised PoisonedError has named
        self._not_accepting = trio.Event()  # set when it is poisoned or closed
        self._closed = False
        self._ended_at: float | None = None
        self._workers = len(queues) + (0 if read_repair is None else len(read_repair.repairs))
        self._drained = trio.Event()
        self._exit_request: BaseException | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "poisoned" if self._failures else "open"
        stores = ", ".join(self._sync_stores.names)
        return f"<ReplicaStore {state}, {stores}{''.join(map(self._shown, self._queues))}>"

    # What a store does

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Write a blob to all sync stores, then queue it for every async store. Repeating it is harmless.

        Returning means that every sync store has the blob, and that every async store is going to be given it: it was
        queued for each, after waiting for room where there was none; with an outbox it is durably pending for each, and
        there is no waiting. `PutResult.added` is that of the sync store that finished first. Being cancelled means that
        some stores may have the blob, or get it; repeat it to be sure.

        Raises:
          TypeError: if `blob` is neither a `Blob` nor bytes-like.
          StoreError: if a sync store failed, or the outbox. The writes to the others were cancelled, and nothing was
            queued.
          PoisonedError: if an async store has failed; also while the blob waited for room in any queue.
          trio.ClosedResourceError: if the block has ended, also in the meantime.

        """
        self._check_accepting()
        blob = await self._sync_stores.hashed(Blob(blob))
        if self._delivery is None:
            _, added = await self._sync_stores.put(blob)
            await self._enqueue([blob])
        else:
            _, added = await self._put_with_entries(self._delivery, [blob], partial(self._sync_stores.put, blob))
        return PutResult(blob.ref, added)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Write many blobs through the `Store.put_many` of every sync store, then queue them for every async store.

        Returning, and being cancelled, mean for all what they mean for one with `put`. The results are in the order of
        `blobs`. Without any, no store is called.

        Raises:
          TypeError: if one is neither a `Blob` nor bytes-like; then no store is called.
          StoreError: as `put`; any part of the blobs may be stored. Its `ref` is None.
          PoisonedError, trio.ClosedResourceError: as `put`.

        """
        self._check_accepting()
        blobs = await self._sync_stores.all_hashed(blobs)
        if not blobs:
            return []
        if self._delivery is None:
            results = await self._sync_stores.put_many(blobs)
            await self._enqueue(blobs)
        else:
            results = await self._put_with_entries(self._delivery, blobs, partial(self._sync_stores.put_many, blobs))
        if are_put_results(results):
            return [*results]
        return [PutResult(blob.ref, added) for blob, (_, added) in zip(blobs, results, strict=True)]

    async def get(self, ref: Ref) -> bytes:
        """Ask the sync stores, and return the first answer that is right.

        If none gives one, the async stores that `open` was given as `fallback` are asked likewise; others are never
        read. An answer whose hash is not `ref` is a failure of that store. Being cancelled changes nothing.

        Raises:
          BlobNotFoundError: if every store that is read is sure that it has no such blob.
          StoreError: if none of them gave the blob and at least one failed.
          TypeError: if `ref` is no `Ref`.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended.

        """
        check_ref(ref)
        self._check_accepting()
        return await self._reads.get(ref)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Ask the `Store.get_many` of the sync stores, and return for each ref the first answer that is right.

        For what none of them gives, those of the `fallback` of `open` are asked. A ref is absent only if every store
        that is read lacks it. Being cancelled changes nothing.

        Raises:
          StoreError: if there is a ref that no store gave and that at least one failed to tell of.
          TypeError: if one is no `Ref`.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended.

        """
        wanted = check_refs(refs)
        self._check_accepting()
        if not wanted:
            await trio.lowlevel.checkpoint()
            return {}
        return await self._reads.get_many(wanted)

    async def contains(self, ref: Ref) -> bool:
        """Return whether any sync store, or any of the `fallback` of `open`, has the blob that `ref` names.

        Being cancelled changes nothing.

        Raises:
          StoreError: if none said yes and at least one failed.
          TypeError: if `ref` is no `Ref`.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended.

        """
        check_ref(ref)
        self._check_accepting()
        return await self._reads.contains(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the first refs after `after` of the ordered union of the sync stores, at most `limit`.

        The stores of a `fallback` are not listed. Being cancelled changes nothing.

        Raises:
          StoreError: if a sync store fails, or answers with a page that breaks the promise of `Store.list_page`.
          TypeError: if `after` is no `Ref` or `limit` no `int`.
          ValueError: if `limit` is less than 1.
          PoisonedError: if an async store has failed.
          trio.ClosedResourceError: if the block has ended.

        """
        check_page_request(after, limit)
        self._check_accepting()
        page = await self._sync_stores.union_page(after, limit)
        return page[:limit]

    def list_refs(self, after: Ref = Ref.ZERO) -> AsyncIterator[Ref]:
        """Return an asynchronous iterator over the ordered union of the sync stores: see `Store.list_refs`.

        The stores of a `fallback` are not listed. It goes on when the replica is poisoned in the meantime.

        Raises:
          TypeError: if `after` is no `Ref`.
          PoisonedError: if an async store has failed.
          StoreError: while iterating, what `list_page` raises.
          trio.ClosedResourceError: if the block has ended, also while iterating.

        """
        self._check_accepting()
        return RefIterator(self._next_page, after)

    # What a replica does

    async def flush(self) -> None:
        """Wait until every blob that was queued before this call is in every async store.

        With an outbox, until every entry of a put that returned before is acknowledged, those of earlier sessions
        included. While a store is catching up, its entries that came after a put that is still under way wait for that
        put. Being cancelled changes nothing.

        Raises:
          StoreError: with an outbox, if there are blobs that can't be delivered because no sync store gives them, or if
            the outbox fails.
          PoisonedError: if an async store has failed, also in the meantime.
          trio.ClosedResourceError: if the block has ended, also in the meantime.

        """
        self._check_accepting()
        if self._delivery is not None:
            if not await self._delivery.flush(self._not_accepting):
                raise self._unusable_error()
            return
        queued = [(queue, queue.accepted) for queue in self._queues]
        await trio.lowlevel.checkpoint()
        for queue, count in queued:
            if not await queue.wait_written(count):
                raise self._unusable_error()

    async def wait_poisoned(self) -> PoisonedError:
        """Wait until an async store has failed, and return, not raise, the error that says so.

        Being cancelled changes nothing.

        Raises:
          trio.ClosedResourceError: if the block has ended, or ends before one has failed.

        """
        self._check_here()
        if self._closed:
            raise self._unusable_error()
        await self._not_accepting.wait()
        if not self._failures:
            raise self._unusable_error()
        return self._poisoned_error()

    @property
    def unreplicated(self) -> Mapping[str, tuple[Ref, ...]]:
        """The refs that each async store has not confirmed, by its name; each ref once, in queue order.

        While the replica is open, what is queued and being written; later, what was left. It has every accepted ref
        that the store lacks. It may also have refs whose put raised, or that the store has without having said so. With
        an outbox, what waits there for room in the queue is not in it: the statistics count it as pending.
        """
        return MappingProxyType({queue.name: queue.unreplicated() for queue in self._queues})

    def statistics(self) -> ReplicaStatistics:
        """Return what has been counted so far, in every state."""
        now = trio.current_time() if self._ended_at is None else self._ended_at
        return ReplicaStatistics(
            sync_stores=MappingProxyType(self._sync_stores.statistics()),
            async_stores=MappingProxyType(
                {queue.name: queue.statistics(now, **self._backlog_counts(queue.name)) for queue in self._queues}
            ),
        )

    # The parts of the operations

    async def _enqueue(self, blobs: list[Blob]) -> None:
        # Between this check and the queues there is no checkpoint.
        self._check_accepting()
        if not await enqueue(self._queues, blobs):
            raise self._unusable_error()

    def _shown(self, queue: BlobQueue) -> str:
        pending = "" if self._delivery is None else f", {self._delivery.counts(queue.name)['pending']} pending"
        return f"; {queue.name}: {len(queue.unreplicated())} unreplicated{pending}"

    def _backlog_counts(self, name: str) -> dict[str, int]:
        return {} if self._delivery is None else self._delivery.counts(name)

    @enable_ki_protection  # an interrupted put has to end too: relays wait for those under way
    async def _put_with_entries(
        self, delivery: OutboxDelivery, blobs: list[Blob], put: Callable[[Intent], Awaitable[ResultT]]
    ) -> ResultT:
        intent = delivery.outbox.intent([blob.ref for blob in blobs])
        try:
            result = await put(intent)
            # From here to the end of the put there is no checkpoint.
            self._check_accepting()
            delivery.outbox.give(intent, blobs, self._queues)
        except BaseException:
            delivery.outbox.abandon(intent)
            raise
        return result

    async def _next_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return a page for a listing under way, which a poisoned replica does not end."""
        self._check_here()
        if self._closed:
            raise self._unusable_error()
        return await self._sync_stores.union_page(after, limit)

    # The life of a replica

    def _use_outbox(self, storage: OutboxStorage, state: OutboxState, batch_size: int) -> None:
        self._delivery = OutboxDelivery(storage, state, self._queues, self._sync_stores, batch_size)

    def _start(self, nursery: trio.Nursery) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._sync_stores.start(nursery)
        if self._delivery is not None:
            self._delivery.start(nursery, partial(self._exit, nursery.cancel_scope))
        for queue in self._queues:
            work = partial(self._drain, queue)
            nursery.start_soon(self._work, work, nursery.cancel_scope, name=f"replica worker of {queue.name}")
        if self._read_repair is not None:
            self._read_repair.start(nursery)
            for repairs in self._read_repair.repairs:
                name = f"replica repairs of {repairs.member.name}"
                nursery.start_soon(self._work, repairs.work, nursery.cancel_scope, name=name)
        if not self._workers:
            self._drained.set()

    @enable_ki_protection
    async def _drain(self, queue: BlobQueue) -> None:
        try:
            await queue.work(partial(self._poison, queue))
        finally:
            if self._delivery is not None:
                self._delivery.stop(queue.name)  # nobody writes any more what its relay queues

    @enable_ki_protection
    async def _work(  # noqa: ASYNC910  (a task of its own)
        self, work: Callable[[], Awaitable[None]], block: trio.CancelScope
    ) -> None:
        try:
            await work()
        except (KeyboardInterrupt, SystemExit) as request:
            self._exit(block, request)
        finally:
            self._workers -= 1
            if self._workers == 0:
                self._drained.set()

    def _exit(self, block: trio.CancelScope, request: BaseException) -> None:
        """Carry out a `KeyboardInterrupt` or `SystemExit` that a store has raised, by ending the block."""
        self._exit_request = request
        self._close()
        block.cancel()

    def _poison(self, queue: BlobQueue) -> None:
        assert queue.failure is not None
        self._failures[queue.name] = queue.failure
        self._stop_accepting()
        failure = describe_failures({queue.name: queue.failure})
        log(logging.ERROR, f"the replica is poisoned by an async store: {failure}", queue.failure)

    def _stop_accepting(self) -> None:
        self._not_accepting.set()
        for queue in self._queues:
            queue.close()
        if self._delivery is not None:
            self._delivery.fail_flushes()

    def _close(self) -> None:
        self._closed = True
        self._stop_accepting()
        self._sync_stores.close()
        if self._read_repair is not None:
            self._read_repair.close()
        if self._delivery is not None:
            self._delivery.close()

    async def _shut_down(self, interruption: BaseException | None, grace: float) -> BaseException | None:
        """Close the replica and wait for the workers. Returns what interrupted the block or this, at the last."""
        self._close()
        while True:  # noqa: ASYNC913  (at the end, which is waited for, it returns)
            if interruption is not None:
                if self._delivery is not None:
                    self._delivery.stop()
                for queue in self._queues:
                    queue.stop(grace)
                if self._read_repair is not None:
                    self._read_repair.stop(grace)
            try:
                with trio.CancelScope(shield=interruption is not None or self._drained.is_set()):
                    await self._drained.wait()
            except BaseException as exc:  # noqa: ASYNC103  (Cancelled, or KeyboardInterrupt: raised once all is quiet)
                if interruption is not None:
                    grace = 0.0
                interruption = exc
            else:
                return interruption

    async def _commit_acknowledgements(self) -> BaseException | None:
        """Commit the last acknowledgements, if there is an outbox. Returns what interrupted this."""
        if self._delivery is None:
            return None  # noqa: ASYNC910  (there is nothing to do)
        return await self._delivery.commit()

    def _end(self, ended: BaseException | None, interruption: BaseException | None) -> BaseException | None:
        """Log what is not replicated, and return what the block has to raise, if anything."""
        self._ended_at = trio.current_time()
        undelivered = None
        if self._delivery is None:
            self._log_unreplicated()
        else:
            undelivered = self._delivery.report()
        unreported = self._failures.keys() - self._reported
        failure = self._poisoned_error() if unreported else None
        interrupted = interruption is not None and not _is_cancellation(interruption)
        by_rank = (
            self._exit_request,
            interruption if interrupted else None,
            ended if isinstance(ended, Exception) else None,
            failure,
            interruption,
            undelivered,
        )
        raised = next((exc for exc in by_rank if exc is not None), None)
        for also in (failure, undelivered):
            if raised is not None and also is not None and raised is not also:
                raised.add_note(f"Moreover, {also}")
        return raised

    def _log_unreplicated(self) -> None:
        for queue in self._queues:
            if refs := queue.unreplicated():
                shown = ", ".join(map(str, refs[:REFS_LOGGED])) + (", …" if len(refs) > REFS_LOGGED else "")
                log(logging.WARNING, f"the replica is closed, and {queue.name} lacks {len(refs)} accepted: {shown}")

    def _check_here(self) -> None:
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("a replica belongs to the trio.run that opened it")

    def _check_accepting(self) -> None:
        self._check_here()
        if self._closed or self._failures:
            raise self._unusable_error()

    def _unusable_error(self) -> PoisonedError | trio.ClosedResourceError:
        """Return the error for a caller, who raises it."""
        if self._closed:
            return closed_error()
        self._reported.update(self._failures)
        return self._poisoned_error()

    def _poisoned_error(self) -> PoisonedError:
        return PoisonedError(self._failures, self.unreplicated)


def _is_cancellation(exc: BaseException) -> bool:
    """Whether `exc` is a `trio.Cancelled`, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)
