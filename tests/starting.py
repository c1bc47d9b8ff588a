"""Stores whose calls are started, on Trio's mock clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import outcome
import pytest
import trio

from trio_replica import DeletableStore, StartableStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_replica import Blob, Ref, Store
    from trio_replica._blob import BytesLike
    from trio_replica._calls.start import Cancel, Done


class Started(StartableStore):
    """A store, such as a `SimulatedStore`, whose calls are started, and run where nothing of their caller reaches them.

    Without `interruptible` a call can't be cancelled: as a write that runs in a thread, it comes to its end.
    """

    def __init__(self, store: Store, *, interruptible: bool = True) -> None:
        self._store = store
        self._interruptible = interruptible

    def __repr__(self) -> str:
        return repr(self._store)

    def _start(self, call: Callable[[], Awaitable[object]], done: Done) -> Cancel:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                ended = await outcome.acapture(call)
                if not scope.cancel_called:
                    done(ended)

        def cancel() -> bool:
            if self._interruptible:
                scope.cancel()
            return self._interruptible

        trio.lowlevel.spawn_system_task(run)
        return cancel

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return self._start(partial(self._store.put, blob), done)

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        return self._start(partial(self._store.put_many, blobs), done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        return self._start(partial(self._store.get, ref), done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        return self._start(partial(self._store.get_many, refs), done)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        return self._start(partial(self._store.contains, ref), done)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        return self._start(partial(self._store.list_page, after, limit), done)

    list_page: Any = None  # it is to be started


class StartedDeletable(Started, DeletableStore):
    """The same of a store that can delete."""

    def __init__(self, store: DeletableStore, *, interruptible: bool = True) -> None:
        super().__init__(store, interruptible=interruptible)
        self._deletable = store

    async def delete(self, ref: Ref) -> bool:
        return await self._deletable.delete(ref)

    async def replace(self, blob: Blob | BytesLike) -> None:
        await self._deletable.replace(blob)


def as_it_is(store: Store) -> Store:
    return store


def started(store: Store) -> Store:
    return StartedDeletable(store) if isinstance(store, DeletableStore) else Started(store)


KINDS: Final = [pytest.param(as_it_is, id="awaited"), pytest.param(started, id="started")]
"""What makes of a store one whose calls are awaited, and one whose calls are started."""
