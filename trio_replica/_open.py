"""`open`, which checks its arguments and puts the parts of a replica together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from trio.lowlevel import enable_ki_protection

from ._async.delivery import OutboxDelivery, QueueDelivery
from ._async.known_stores import begin_session, proves_absence
from ._async.outbox import NAME, Outbox
from ._async.outbox_file import open_sqlite_outbox
from ._async.queue import BlobQueue
from ._calls.operation import Operations
from ._checks import check_writable, fallback_stores, named_stores
from ._identity import read_identities
from ._life import Life
from ._options import Options, with_options
from ._replica import ReplicaStore
from ._sync.fallback import ReadRepair
from ._sync.readers import Readers
from ._sync.repairs import Repairs
from ._sync.sync_stores import Member, SyncStores

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from ._async.delivery import Delivery
    from ._async.storage import OutboxStorage
    from ._checks import Stores
    from ._life import Part
    from ._options import ReplicaOptions
    from ._store import Store

OpenOutbox: TypeAlias = "Callable[[], AbstractAsyncContextManager[OutboxStorage]]"
"""A function that opens an outbox for a block. Its session begins only once all stores have told their identities."""


@with_options
def open(  # noqa: A001  (read as replica.open)
    sync_stores: Stores, async_stores: Stores = (), **options: Unpack[ReplicaOptions]
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica of some stores: ``async with replica.open([primary, second], [offsite]) as store: …``.

    The block runs the workers that drain the queues of the async stores. It does not open or close the stores.

    When the block ends normally or with an `Exception`, nothing more is accepted. The block then waits without a limit
    for the workers to write the queued blobs and for reads under way. To bound that, set the deadline of the enclosing
    cancel scope. When the block is cancelled or interrupted, also while it drains, the workers and the reads get
    `grace` seconds. The block always waits for a write that can't be interrupted, so no call outlives it. Blobs that an
    async store was not given are then in `ReplicaStore.unreplicated`, and logged.

    The body's exception leaves the block as it is. Leaving the block raises `PoisonedError` if an async store has
    failed and no `PoisonedError` has reported it yet, even instead of a cancellation. If the body raises an exception
    of its own, that exception gets a note instead.

    Args:
      sync_stores: the stores that have a blob before its put returns, and that gets and listings read. An iterable of
        stores, which are named ``sync-0``, ``sync-1``, …, or a mapping of names to stores. There has to be at least
        one.
      async_stores: the stores that blobs are delivered to in the background. An iterable of stores, which are named
        ``async-0``, ``async-1``, …, or a mapping of names to stores.
      options: see `ReplicaOptions`.

    Raises:
      ValueError: if there is no sync store, a size is less than 1, a time is negative or NaN, a name or a store is
        given twice, a store was opened with ``read_only=True``, or `fallback` has a name that no async store has. With
        an outbox, also if the async stores have no names, a store is called ``outbox``, or the path can't be the path
        of a file.
      TypeError: if there is no such option, or an argument has the wrong type. Sizes have to be `int`, flags `bool`,
        times numbers, and stores `Store`. `fallback` has to be an iterable of names.
      ReplicaError: on entering the block, if the outbox can't be used. The message has its path and the reason. With an
        outbox, also if a store is not the one that the outbox knows by its name. The cause is then a
        `StoreIdentityError`. Also when the block ends, if the outbox was removed or replaced while it was open.
      ValueError: on entering the block, if two stores have the same identity, because they are then one store.
      StoreError: on entering the block, if a store does not tell its identity (see `Store.identity`).
      PoisonedError: when the block ends, as described above.
      StoreError: when the block ends, if the outbox has blobs that can't be delivered because no sync store returns
        them, and no flush has reported it.

    """
    taken = Options.of("open", options)
    if taken.outbox is not None and not isinstance(async_stores, Mapping):
        raise ValueError(
            "with an outbox, async_stores has to be a mapping of names to stores: entries are kept by name"
        )
    return open_with(sync_stores, async_stores, taken)


def open_with(
    sync_stores: Stores,
    async_stores: Stores,
    options: Options,
    open_outbox: OpenOutbox | None = None,
    *,
    to_read: bool = False,
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica as `open` does, with the caller's own outbox if `open_outbox` is given.

    Read-only stores are allowed only if `to_read` is true.
    """
    if open_outbox is None and options.outbox is not None:
        open_outbox = partial(open_sqlite_outbox, options.outbox)
    has_outbox = open_outbox is not None
    named_sync, named_async = checked_stores(sync_stores, async_stores, options, has_outbox=has_outbox)
    if not to_read:
        check_writable(named_sync | named_async)
    noted_sync = named_sync if isinstance(sync_stores, Mapping) else ()
    return _open_named(named_sync, named_async, options, open_outbox, noted_sync)


def checked_stores(
    sync_stores: Stores, async_stores: Stores, options: Options, *, has_outbox: bool
) -> tuple[dict[str, Store], dict[str, Store]]:
    """Return the sync stores and the async stores by name, and check that the options fit them.

    Raises:
      TypeError, ValueError: what `open` raises about them.

    """
    named_sync, named_async = named_stores(sync_stores, async_stores)
    fallback_stores(options.fallback, named_async)
    if has_outbox and (NAME in named_sync or NAME in named_async):
        raise ValueError(f"no store can have the name {NAME!r} beside an outbox: its failures have it")
    return named_sync, named_async


@asynccontextmanager
@enable_ki_protection
async def _open_named(
    named_sync: dict[str, Store],
    named_async: dict[str, Store],
    options: Options,
    open_outbox: OpenOutbox | None,
    noted_sync: Iterable[str],
) -> AsyncGenerator[ReplicaStore, None]:
    """Put the parts of a replica together, and run it for a block.

    `noted_sync` are the sync stores whose names the caller has given. The outbox knows these from session to session.
    """
    life = Life()
    operations = Operations(options.hedge_delay, life)
    batch_size = options.batch_size or options.queue_size
    queues = [BlobQueue(name, store, options.queue_size, batch_size) for name, store in named_async.items()]
    sync = SyncStores(_members(named_sync), operations)
    sync_reads = Readers(sync.members, operations, verify=options.verify)
    repairs = [Repairs(member, life) for member in sync.members] if options.repair_reads else []
    reads: Readers | ReadRepair = sync_reads
    fallback: Readers | None = None
    if asked_last := fallback_stores(options.fallback, named_async):
        fallback = Readers(_members(asked_last), operations, verify=options.verify)
    if fallback is not None or repairs:
        reads = ReadRepair(sync_reads, fallback, repairs)
    async with AsyncExitStack() as stack:
        # The outbox is locked first, and changed only once all stores have told their identities.
        storage = None if open_outbox is None else await stack.enter_async_context(open_outbox())
        identities = await read_identities(named_sync | named_async)
        delivery: Delivery
        parts: list[Part]
        if storage is None:
            delivery = QueueDelivery(life, queues)
            parts = [*repairs, delivery, operations]
        else:
            state = await begin_session(storage, noted_sync, named_async, identities)
            can_prove = proves_absence(storage.noted, noted_sync, identities)
            outbox = Outbox(storage, state, list(named_async), life, can_prove_absence=can_prove)
            delivery = OutboxDelivery(life, queues, outbox, sync_reads, batch_size)
            # The outbox ends last, because its last commit has everything that the other parts have left to it.
            parts = [*repairs, delivery, operations, outbox]
        async with life.block(delivery, parts, options.grace):
            yield ReplicaStore(life, sync, reads, delivery)


def _members(stores: Mapping[str, Store]) -> list[Member]:
    return [Member(name, store) for name, store in stores.items()]
