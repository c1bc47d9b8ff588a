"""Blobs, stores and helpers that several tests of replicas share."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from trio_replica import Blob, Ref, Store
from trio_replica.stores import _object_store
from trio_replica.testing import SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from contextlib import AbstractAsyncContextManager

    import pytest

    from trio_replica import PutResult
    from trio_replica._blob import BytesLike

BROKEN = OSError("broken")
DATA = b"blob"
REF = Ref.of(DATA)


class Ended:
    """When, and how, a task that runs `call` ended."""

    def __init__(self, nursery: trio.Nursery, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        self.at: float | None = None
        self.value: object = None
        self.error: BaseException | None = None
        self.done = trio.Event()
        nursery.start_soon(self._run, call, arguments)

    async def _run(self, call: Callable[..., Awaitable[object]], arguments: tuple[object, ...]) -> None:
        try:
            self.value = await call(*arguments)
        except Exception as error:
            self.error = error
        self.at = trio.current_time()
        self.done.set()


@contextmanager
def without_gc() -> Generator[None, None, None]:
    """Let nothing that is in a cycle be freed until the block ends."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def count_blobs() -> int:
    return sum(type(each) is Blob for each in gc.get_objects())


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` when the tasks of a run have made a number of steps since it was given that scope."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.scope: trio.CancelScope | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self.steps -= 1
            if self.steps == 0:
                self.scope.cancel()


class PlainStore(Store):
    """A store that can't delete."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        return await self._store.put(blob)

    async def get(self, ref: Ref) -> bytes:
        return await self._store.get(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._store.list_page(after, limit)


async def answering(answer: str, delay: float) -> SimulatedStore:
    """Return a store that answers a get in `delay` seconds by a hit, a miss, an error, a corrupt blob, or never."""
    store = SimulatedStore(get=delay, list_page=delay)
    if answer in ("hit", "corrupt"):
        await store.put(DATA)
    if answer == "corrupt":
        store.corrupt(REF)
    if answer == "error":
        store.fail(BROKEN, "get", "list_page")
    if answer == "hang":
        store.hang("get", "list_page")
    return store


async def open_answering(*scenario: tuple[str, float]) -> list[SimulatedStore]:
    return [await answering(answer, delay) for answer, delay in scenario]


async def open_and_close(opening: AbstractAsyncContextManager[object]) -> None:
    """Open a store, a replica or an outbox, and close it. A test expects that this fails, or what it leaves."""
    async with opening:
        pass


async def put_numbers(store: Store, numbers: Iterable[int]) -> list[Ref]:
    return [(await store.put(b"%d" % number)).ref for number in numbers]


def refs(*numbers: int) -> tuple[Ref, ...]:
    return tuple(Ref.of(b"%d" % number) for number in numbers)


def miss_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pretend that a package of the extra ``cloud`` is not installed, and forget the modules that need it."""
    for module in [module for module in sys.modules if module.startswith(f"{_object_store.__name__}.")]:
        monkeypatch.setattr(_object_store, module.rpartition(".")[2], sys.modules[module])  # to have it back afterwards
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
