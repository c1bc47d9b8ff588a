"""The number of blobs that a replica holds while a slow async store keeps it waiting."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Final

import trio

import trio_replica as replica

from . import workloads
from .made_stores import Sink

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_replica import Blob, BytesLike, ReplicaStore

TITLE: Final = "memory: blobs held while an async store is slow"

QUEUE_SIZE: Final = 32
BATCH_SIZE: Final = 16
CALLERS: Final = 8
SECONDS: Final = 0.02
"""Seconds that the async store takes for a batch."""


class _Slow(Sink):
    """An async store that begins when every caller waits for room in its queue, however slow the machine is."""

    def __init__(self) -> None:
        super().__init__(SECONDS)
        self._all_wait = trio.Event()

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[replica.PutResult]:
        await self._all_wait.wait()
        return await super().put_many(blobs)

    async def begin(self, store: ReplicaStore) -> None:
        (queue,) = store.statistics().async_stores.values()
        while queue.blocked_puts < CALLERS:
            await trio.sleep(SECONDS / 10)
            (queue,) = store.statistics().async_stores.values()
        self._all_wait.set()


def held(blobs: int, size: int) -> tuple[int, int]:
    """Return the most payloads that were alive at once while so many blobs were put, and how many may be.

    There have to be more blobs than may be alive.
    """
    peak = trio.run(_peak_bytes, blobs, size)
    return peak // size, QUEUE_SIZE + BATCH_SIZE + CALLERS


async def _peak_bytes(blobs: int, size: int) -> int:
    payload = workloads.payloads(size)
    remaining = iter(range(blobs))

    async def put(store: ReplicaStore) -> None:
        for _ in remaining:
            await store.put(payload())

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        slow = _Slow()
        async with (
            replica.open([Sink()], [slow], queue_size=QUEUE_SIZE, batch_size=BATCH_SIZE) as store,
            trio.open_nursery() as nursery,
        ):
            for _ in range(CALLERS):
                nursery.start_soon(put, store)
            nursery.start_soon(slow.begin, store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before


def report(*, quick: bool) -> str:
    """Put many blobs, and return a line that says what was held."""
    blobs = 200 if quick else 10_000
    size = workloads.SIZES["1 MiB"]
    most, bound = held(blobs, size)
    return (
        f"{TITLE}: {blobs:,} blobs of 1 MiB by {CALLERS} callers, queue_size={QUEUE_SIZE}, batch_size={BATCH_SIZE}: "
        f"at most {most} payloads alive at once; {bound} may be"
    )
