"""Long lists are dealt with in parts, so that no call holds up all other tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica
from trio_replica import Blob, MemoryStore, PutResult, Ref, Store, StoreError, open_sqlite
from trio_replica._parts import PAGE_LIMIT, PART_SIZE, in_parts

from .common import BROKEN, PlainStore
from .outboxes import Disk, MemoryOutbox, open_with_outbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from pathlib import Path

    from trio_replica import Cancel, Done

COUNT = 10 * PART_SIZE + 1
BLOBS = [number.to_bytes(8, "big") for number in range(COUNT)]
REFS = [Ref.of(blob) for blob in BLOBS]


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (PART_SIZE, [PART_SIZE]), (2 * PART_SIZE + 1, [PART_SIZE, PART_SIZE, 1])]
)
def test_parts_have_all_in_order(count: int, sizes: list[int]) -> None:
    items = list(range(count))
    parts = list(in_parts(items))
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == items


async def steps_of_others(call: Callable[[], Awaitable[Any]]) -> tuple[Any, int]:
    """Return what a call returns, and how many steps another task could make in the meantime."""
    steps = 0

    async def other() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        result = await call()
        nursery.cancel_scope.cancel()
    return result, steps


KINDS = ["default", "memory", "sqlite", "replica", "queue", pytest.param("outbox", marks=pytest.mark.deep)]


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store, None]:
    match request.param:
        case "default":
            yield PlainStore(MemoryStore())
        case "memory":
            yield MemoryStore()
        case "sqlite":
            async with open_sqlite(tmp_path / "a.db") as opened:
                yield opened
        case "replica":
            async with trio_replica.open([MemoryStore(), MemoryStore()]) as replica:
                yield replica
        case "queue":
            async with trio_replica.open([MemoryStore()], [MemoryStore()]) as replica:
                yield replica
        case _:
            async with open_with_outbox([MemoryStore()], {"a": MemoryStore()}, MemoryOutbox(Disk())) as replica:
                yield replica


async def test_others_run_between_the_parts(store: Store) -> None:
    results, steps = await steps_of_others(lambda: store.put_many([*BLOBS, BLOBS[0]]))
    assert results[:-1] == [PutResult(ref, added=True) for ref in REFS]
    assert results[-1] == PutResult(REFS[0], added=False)
    assert steps >= COUNT // PART_SIZE - 1
    found, steps = await steps_of_others(lambda: store.get_many([*REFS, REFS[0], Ref.ZERO]))
    assert found == dict(zip(REFS, BLOBS, strict=True))
    assert steps >= COUNT // PART_SIZE - 1
    page = await store.list_page(Ref.ZERO, 10**6)
    assert page == sorted(REFS)[: len(page)]
    assert len(page) <= PAGE_LIMIT < COUNT
    assert [ref async for ref in store.list_refs()] == sorted(REFS)


async def test_a_buffer_may_change_once_other_tasks_run() -> None:
    store = MemoryStore()
    buffers = [bytearray(blob) for blob in BLOBS]

    async def change() -> None:
        await trio.lowlevel.checkpoint()
        for buffer in buffers:
            buffer[:] = b"changed!"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await store.put_many(buffers)
    assert [ref async for ref in store.list_refs()] == sorted(REFS)


async def test_a_bad_item_is_refused_before_any_is_stored() -> None:
    store = MemoryStore()
    with pytest.raises(TypeError, match="a blob is made of bytes"):
        await store.put_many([*BLOBS, "text"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"a ref is a trio_replica.Ref, not bytes"):
        await store.get_many([*REFS, b"\0" * 32])  # type: ignore[list-item]
    assert len(store) == 0


async def test_the_parts_before_a_failure_are_stored() -> None:
    class Full(MemoryStore):  # type: ignore[misc]
        def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
            if len(self) >= 2 * PART_SIZE:
                raise BROKEN
            return super().start_put_many(blobs, done)

    good, full = MemoryStore(), Full()
    async with trio_replica.open([good, full], [copy := MemoryStore()], queue_size=COUNT) as store:
        with pytest.raises(StoreError, match="put_many failed: sync-1: OSError: broken"):
            await store.put_many(BLOBS)
        await store.flush()
    assert len(full) == len(copy) == 2 * PART_SIZE


async def test_a_replica_that_ends_between_two_parts_accepts_no_more() -> None:
    class Slow(PlainStore):
        async def put_many(self, blobs: Any) -> list[PutResult]:
            results = await super().put_many(blobs)
            part_stored.set()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            return results

    part_stored = trio.Event()
    slow = Slow(MemoryStore())
    async with trio.open_nursery() as nursery:
        async with trio_replica.open([slow]) as store:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await store.put_many(BLOBS)

            await part_stored.wait()
    assert len([ref async for ref in slow.list_refs()]) <= 2 * PART_SIZE
