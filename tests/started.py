"""Stores, and what stands for them, whose calls are started without a task of their caller, on Trio's mock clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import outcome
import pytest
import trio
import trio.testing

from trio_replica import DeletableStore
from trio_replica._calls.hedges import Hedges
from trio_replica._calls.operation import Operation
from trio_replica._calls.start import start_in_task
from trio_replica.stores._started import StartedStore as AllStartedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_replica import Blob, BytesLike, Ref, Store
    from trio_replica._calls.attempt import Ended
    from trio_replica._calls.start import Cancel, Done, Unfinished

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
    """Let the tasks in which calls run end those that have just been cancelled. This takes no time, only a tick."""
    await trio.testing.wait_all_tasks_blocked()


class FannedOut(Operation[MemberT]):
    """Calls to members, each started with `start`, and settled with a function."""

    def __init__(
        self,
        members: Sequence[MemberT],
        start: Callable[[MemberT, Done], Cancel],
        settle: Callable[[MemberT, Ended[Any]], bool | Unfinished],
    ) -> None:
        super().__init__(members)
        self._start_one = start
        self._settle_one = settle

    def start_call(self, member: MemberT, done: Done) -> Cancel:
        return self._start_one(member, done)

    def settle(self, member: MemberT, ended: Ended[Any]) -> bool | Unfinished:
        return self._settle_one(member, ended)


async def fan_out_starting(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    *,
    stagger: float = 0.0,
) -> None:
    """Do what `fan_out` does, with calls that are started, and with the stagger as the delay of their hedges."""

    def start(member: MemberT, done: Done) -> Cancel:
        return start_call(partial(call, member), done)

    try:
        await _run(FannedOut(members, start, settle), stagger)
    finally:
        with trio.CancelScope(shield=True):
            await let_calls_end()


async def fan_out_in_tasks(
    members: Sequence[MemberT],
    call: Callable[[MemberT], Awaitable[ResultT]],
    settle: Callable[[MemberT, Ended[ResultT]], bool],
    *,
    stagger: float = 0.0,
) -> None:
    """Do the same with calls that have to be awaited, as an operation of a replica does."""

    def start(member: MemberT, done: Done) -> Cancel:
        return start_in_task(partial(call, member), done)

    await _run(FannedOut(members, start, settle), stagger)


async def _run(operation: Operation[Any], stagger: float) -> None:
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        if stagger > 0 and len(operation.members) > 1:
            operation.hedges = Hedges(stagger)
            nursery.start_soon(operation.hedges.watch)
        try:
            await operation.run({}, nursery)
        except BaseException as exc:  # noqa: ASYNC103  (raised below, outside of the nursery)
            raised = exc
        if operation.hedges is not None:
            operation.hedges.stop()
    try:
        if raised is not None:
            raise raised
    finally:
        del raised


class StartedStore(AllStartedStore):
    """Any store, such as a `SimulatedStore`, with its calls started; without `interruptible` they run on."""

    def __init__(self, store: Store, *, interruptible: bool = True) -> None:
        self._store = store
        self._start = partial(start_call, interruptible=interruptible)

    def __repr__(self) -> str:
        return repr(self._store)

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


class StartedDeletableStore(StartedStore, DeletableStore):
    """The same for a store that can delete a blob."""

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
    return StartedDeletableStore(store) if isinstance(store, DeletableStore) else StartedStore(store)


KINDS: Final = [pytest.param(as_it_is, id="awaited"), pytest.param(started, id="started")]
"""Functions that turn a store into one whose calls are awaited, and into one whose calls are started."""
