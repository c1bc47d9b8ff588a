"""Opening a replica: the checks, and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from trio.lowlevel import enable_ki_protection

from ._async.delivery import OutboxDelivery, QueueDelivery
from ._async.outbox import NAME, Outbox
from ._async.outbox_file import open_sqlite_outbox
from ._async.queue import BlobQueue
from ._calls.operations import Operations
from ._checks import check_seconds, check_size, checked_path, fallback_stores, named_stores
from ._life import Life
from ._replica import ReplicaStore
from ._sync.fallback import ReadRepair
from ._sync.member import Member
from ._sync.readers import Readers
from ._sync.repairs import Repairs
from ._sync.sync_stores import SyncStores

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from ._async.delivery import Delivery
    from ._async.storage import OutboxState, OutboxStorage
    from ._checks import Stores
    from ._life import Part
    from ._store import Store

OpenOutbox: TypeAlias = "Callable[[list[str]], AbstractAsyncContextManager[tuple[OutboxStorage, OutboxState]]]"
"""What opens an outbox for a block, given the names of the async stores."""


def open(  # noqa: A001  (read as replica.open)
    sync_stores: Stores,
    async_stores: Stores = (),
    *,
    queue_size: int = 10,
    batch_size: int | None = None,
    grace: float = 0.0,
    hedge_delay: float = 0.0,
    verify: bool = True,
    outbox: str | os.PathLike[str] | None = None,
    fallback: Iterable[str] = (),
    repair_reads: bool = False,
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica of some stores: ``async with replica.open([primary, second], [offsite]) as store: …``.

    The block runs the workers that drain the queues of the async stores. It does not open or close the stores.

    When the block ends normally or with an `Exception`, nothing is accepted any more and the workers write what is
    queued, without a limit: to bound that, set the deadline of the enclosing cancel scope. When it is cancelled or
    interrupted, also while it drains, the workers get `grace` seconds, and any write that can't be interrupted ends.
    What an async store was not given is then in `ReplicaStore.unreplicated`, and logged.

    The body's exception comes out as itself. Leaving the block raises `PoisonedError` if an async store has failed
    and no `PoisonedError` has said so yet, also instead of a cancellation; if the body is raising, its exception
    wins, with a note.

    Args:
      sync_stores: the stores that have a blob before its put returns, and that are read. An iterable of stores,
        which are named ``sync-0``, ``sync-1``, …, or a mapping of names to stores. At least one.
      async_stores: the stores that blobs are delivered to in the background, likewise; named ``async-0``, ….
      queue_size: the blobs that wait for one async store before a put waits for room.
      batch_size: the most blobs that a worker writes with one `Store.put_many`; None means `queue_size`, and 1 a
        `Store.put` for each.
      grace: the seconds that the workers are given after a cancellation; `math.inf` for as many as they need.
      hedge_delay: the seconds after which a get asks the next sync store too, in the order of `sync_stores`, which it
        does at once when one fails or misses. 0 asks all at once; `math.inf` one after another.
      verify: whether what the stores return for a get is checked against its ref.
      outbox: a file that keeps what is pending for the async stores, which have to be given with names, because the
        entries are kept by name. A put then returns when its entries are on the disk as well, and never waits for room.
        Blobs that a crash, a failed store or a cut exit leaves are delivered when the outbox is opened the next time.
        One replica at a time can have it. It is created if need be, in a folder that exists, on a local file system.
      fallback: the names of async stores that `ReplicaStore.get`, `ReplicaStore.get_many` and `ReplicaStore.contains`
        ask, as they ask the sync stores, when every one of these has missed or failed: in case a disk is lost, or for
        a cache in front of a slow store. What they fail with poisons nothing. A blob that waits in the queue of such
        a store is not there yet. Listings are those of the sync stores still.
      repair_reads: whether a get writes a blob that it has found to the sync stores that had answered before, and
        missed it (with `Store.put`) or had it corrupt (with `DeletableStore.replace`), so that the next get finds it
        there. That is done in the background, and neither delays a get nor fails it. What would be more than 64 blobs
        or 16 MiB at once for one store is left to a later get. Each store is given each blob once in a session, as
        far as the last 10,000 of its blobs go; what fails is counted, and logged the first time. When the block ends,
        repairs that have not begun are dropped, and those under way have 5 seconds, and no more than `grace` if it was
        cancelled.

    Raises:
      ValueError: if there is no sync store, a size is less than 1, a time is negative or NaN, a name or a store is
        given twice, the async stores have no names for the outbox, one is called ``outbox`` beside it, that is no path
        or looks like a URL, or `fallback` has what is no name of one.
      TypeError: if a size is no `int`, a time no number, a store no `Store`, or `fallback` no iterable of names.
      ReplicaError: on entering the block, if the outbox can't be used: with its path and what is wrong.
      PoisonedError: when the block ends; see above.
      StoreError: when the block ends, with an outbox, if it has blobs that can't be delivered because no sync store
        gives them, and no flush has said so.

    """
    if outbox is not None and not isinstance(async_stores, Mapping):
        raise ValueError(
            "with an outbox, async_stores has to be a mapping of names to stores: entries are kept by name"
        )
    opening = None if outbox is None else partial(open_sqlite_outbox, checked_path("outbox", outbox))
    return open_with(
        sync_stores,
        async_stores,
        opening,
        queue_size=queue_size,
        batch_size=batch_size,
        grace=grace,
        hedge_delay=hedge_delay,
        verify=verify,
        fallback=fallback,
        repair_reads=repair_reads,
    )


def open_with(
    sync_stores: Stores,
    async_stores: Stores,
    open_outbox: OpenOutbox | None,
    *,
    queue_size: int = 10,
    batch_size: int | None = None,
    grace: float = 0.0,
    hedge_delay: float = 0.0,
    verify: bool = True,
    fallback: Iterable[str] = (),
    repair_reads: bool = False,
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open what `open` opens, with what opens an outbox, if there is to be one."""
    named_sync, named_async = named_stores(sync_stores, async_stores)
    check_size("queue_size", queue_size)
    if batch_size is not None:
        check_size("batch_size", batch_size)
    check_seconds("grace", grace)
    check_seconds("hedge_delay", hedge_delay)
    batch_size = batch_size or queue_size
    asked_last = fallback_stores(fallback, named_async)
    if open_outbox is not None and (NAME in named_sync or NAME in named_async):
        raise ValueError(f"no store can have the name {NAME!r} beside an outbox: its failures have it")
    return _run(
        named_sync,
        named_async,
        open_outbox,
        queue_size=queue_size,
        batch_size=batch_size or queue_size,
        grace=grace,
        hedge_delay=hedge_delay,
        verify=verify,
        fallback=asked_last,
        repair_reads=repair_reads,
    )


@asynccontextmanager
@enable_ki_protection
async def _run(
    named_sync: dict[str, Store],
    named_async: dict[str, Store],
    open_outbox: OpenOutbox | None,
    *,
    queue_size: int,
    batch_size: int,
    grace: float,
    hedge_delay: float,
    verify: bool,
    fallback: dict[str, Store],
    repair_reads: bool,
) -> AsyncGenerator[ReplicaStore, None]:
    """Put the parts of a replica together, and run it for a block."""
    life = Life()
    operations = Operations(hedge_delay)
    queues = [BlobQueue(name, store, queue_size, batch_size) for name, store in named_async.items()]
    sync = SyncStores(_members(named_sync), operations, verify=verify)
    repairs = [Repairs(member, life) for member in sync.members] if repair_reads else []
    reads: SyncStores | ReadRepair = sync
    if fallback or repairs:
        reads = ReadRepair(sync, Readers(_members(fallback), operations, verify=verify) if fallback else None, repairs)
    async with AsyncExitStack() as stack:
        delivery: Delivery
        parts: list[Part]
        if open_outbox is None:
            delivery = QueueDelivery(life, queues)
            parts = [*repairs, delivery, operations]
        else:
            storage, state = await stack.enter_async_context(open_outbox(list(named_async)))
            outbox = Outbox(storage, state, list(named_async), life)
            delivery = OutboxDelivery(life, queues, outbox, sync, batch_size)
            # The outbox ends last, because what it commits then is what all others have left to it.
            parts = [*repairs, delivery, operations, outbox]
        async with life.block(delivery, parts, grace):
            yield ReplicaStore(life, sync, reads, delivery)


def _members(stores: Mapping[str, Store]) -> list[Member]:
    return [Member(name, store) for name, store in stores.items()]
