"""Stores, and what stands for them, whose calls are started without a task of their caller, on Trio's mock clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

import outcome
import trio
import trio.testing

from trio_replica import DeletableStore, StartableStore
from trio_replica._readers import Readers
from trio_replica._started import Hedges, StartedCalls, fan_out_started
from trio_replica._sync_stores import SyncStores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from trio_replica import Blob, Ref, Store
    from trio_replica._fan_out import Cancellable, Ended
    from trio_replica._started import Cancel, Done

MemberT = TypeVar("MemberT")
ResultT = TypeVar("ResultT")


def start_call(call: Callable[[], Awaitable[object]], done: Done, *, interruptible: bool = True) -> Cancel:
    """Start ``call()``, as a thread would: where no scope of the caller's reaches it, and only `Cancel` ends it.

    Without `interruptible` nothing does: as a write that runs, it comes to its end, and its outcome to `done`.
    """
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await trio.lowlevel.checkpoint_if_cancelled()  # withdrawn before it ran
            ended = await outcome.acapture(call)
            try:
                if not scope.cancel_called:
                    done(ended)
            finally:
                del ended  # since Python 3.12, the frames that its traceback leads to refer to this one

    def cancel() -> bool:
        if interruptible:
            scope.cancel()
        return interruptible

    trio.lowlevel.spawn_system_task(run)
    return cancel


async def let_calls_end() -> None:
    """Let the tasks in which calls run end those that have just been cancelled. That takes no time, but a tick."""
    await trio.testing.wait_all_tasks_blocked()


async def fan_out_starting(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    *,
    stagger: float = 0.0,
    cancellable: set[Cancellable] | None = None,
) -> None:
    """Do what `fan_out` does, with `fan_out_started`, and with the stagger as the delay of its hedges."""

    def start(member: MemberT, done: Done) -> Cancel:
        return start_call(partial(call, member), done)

    hedges = Hedges(stagger) if stagger > 0 else None
    if hedges is not None:
        trio.lowlevel.spawn_system_task(hedges.watch)
    try:
        await fan_out_started(StartedCalls(members, start, hedges=hedges), settle, cancellable=cancellable)
    finally:
        if hedges is not None:
            hedges.stop()
        with trio.CancelScope(shield=True):
            await let_calls_end()


class StartedStore(StartableStore):
    """Any store, such as a `SimulatedStore`, with its puts and gets started; without `interruptible` they run on."""

    def __init__(self, store: Store, *, interruptible: bool = True) -> None:
        self._store = store
        self._start = partial(start_call, interruptible=interruptible)
        self.put_many = store.put_many  # type: ignore[method-assign]
        self.get_many = store.get_many  # type: ignore[method-assign]
        self.contains = store.contains  # type: ignore[method-assign]

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return self._start(partial(self._store.put, blob), done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        return self._start(partial(self._store.get, ref), done)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._store.list_page(after, limit)


@final
class StartedDeletableStore(StartedStore, DeletableStore):
    """The same for a store that can let go of a blob."""

    delete: Any = None  # that of the store, which is no method of this class

    def __init__(self, store: DeletableStore, *, interruptible: bool = True) -> None:
        super().__init__(store, interruptible=interruptible)
        self.replace = store.replace  # type: ignore[method-assign]
        self.delete = store.delete


def started_sync_stores(stores: Mapping[str, Store], *options: Any) -> SyncStores:
    """Return what a replica makes of its sync stores, with each of them as a `StartedStore`.

    A store that shields its calls says so with ``interruptible = False``.
    """
    return SyncStores(_started(stores), *options)


def started_readers(stores: Mapping[str, Store], *options: Any) -> Readers:
    """Return what a replica makes of its fallback, likewise."""
    return Readers(_started(stores), *options)


def _started(stores: Mapping[str, Store]) -> dict[str, StartedStore]:
    started: dict[str, StartedStore] = {}
    for name, store in stores.items():
        interruptible = getattr(store, "interruptible", True)
        if isinstance(store, DeletableStore):
            started[name] = StartedDeletableStore(store, interruptible=interruptible)
        else:
            started[name] = StartedStore(store, interruptible=interruptible)
    return started
