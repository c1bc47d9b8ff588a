"""How many blobs a replica holds while a slow async store keeps it waiting."""

from __future__ import annotations

import tracemalloc
from io import UnsupportedOperation
from typing import TYPE_CHECKING, Final, NoReturn

import trio

import trio_replica as replica
from trio_replica import PutResult, Store, to_blob

from . import workloads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer as BytesLike

    from trio_replica import Blob, Ref

TITLE: Final = "memory: blobs held while an async store is slow"

QUEUE_SIZE: Final = 32
BATCH_SIZE: Final = 16
CALLERS: Final = 8


class _Sink(Store):
    """A store that forgets what it is given, in its own time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        blob = await to_blob(blob)
        await trio.sleep(self._seconds)
        return PutResult(blob.ref, added=True)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        kept = [await to_blob(blob) for blob in blobs]
        await trio.sleep(self._seconds)
        return [PutResult(blob.ref, added=True) for blob in kept]

    async def get(self, ref: Ref) -> NoReturn:
        raise UnsupportedOperation("get")

    async def list_page(self, after: Ref, limit: int) -> NoReturn:
        raise UnsupportedOperation("list_page")


def held(blobs: int, size: int) -> tuple[int, int]:
    """Return the most payloads that were alive at once while so many blobs were put, and how many may be."""
    peak = trio.run(_peak_bytes, blobs, size)
    return peak // size, QUEUE_SIZE + BATCH_SIZE + CALLERS


async def _peak_bytes(blobs: int, size: int) -> int:
    payload = workloads.payloads(size)
    remaining = iter(range(blobs))

    async def put(store: Store) -> None:
        for _ in remaining:
            await store.put(payload())

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        async with (
            replica.open([_Sink(0)], [_Sink(0.002)], queue_size=QUEUE_SIZE, batch_size=BATCH_SIZE) as store,
            trio.open_nursery() as nursery,
        ):
            for _ in range(CALLERS):
                nursery.start_soon(put, store)
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
