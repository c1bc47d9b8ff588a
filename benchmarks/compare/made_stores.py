"""Stores that the overhead is measured with and no user has: they keep nothing, only list, or take their time."""

from __future__ import annotations

import random
from bisect import bisect_right
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from io import UnsupportedOperation
from typing import TYPE_CHECKING, NoReturn

import trio

import trio_replica as replica
from trio_replica import Blob, MemoryStore, Ref, Store

from . import workloads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path

    from typing_extensions import Buffer as BytesLike


class Sink(Store):
    """A store that keeps nothing, and takes so many seconds for a call."""

    def __init__(self, seconds: float = 0) -> None:
        self._seconds = seconds

    async def put(self, blob: Blob | BytesLike) -> replica.PutResult:
        (result,) = await self.put_many([blob])
        return result

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[replica.PutResult]:
        kept = [Blob(blob) for blob in blobs]
        await trio.sleep(self._seconds)
        return [replica.PutResult(blob.ref, added=True) for blob in kept]

    async def get(self, ref: Ref) -> NoReturn:
        raise UnsupportedOperation("get")

    async def list_page(self, after: Ref, limit: int) -> NoReturn:
        raise UnsupportedOperation("list_page")


class ListStore(Store):
    """A store of refs that can only be listed."""

    def __init__(self, refs: list[Ref]) -> None:
        self._refs = refs

    async def put(self, blob: object) -> NoReturn:
        raise UnsupportedOperation("put")

    async def get(self, ref: Ref) -> NoReturn:
        raise UnsupportedOperation("get")

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        first = bisect_right(self._refs, after)
        return self._refs[first : first + limit]


@lru_cache(maxsize=1)
def lists(number: int, overlap: float) -> tuple[Store, Store]:
    """Return two stores of so many refs each, of which such a share is in both."""
    source = random.Random(number)

    def refs(length: int) -> list[Ref]:
        return [Ref(source.randbytes(32)) for _ in range(length)]

    common = refs(int(number * overlap))
    one, other = (ListStore(sorted(common + refs(number - len(common)))) for _ in range(2))
    return one, other


class Databases:
    """Two SQLite stores to be listed, half of whose refs are in both. They are filled when they are first opened."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._folders: list[Path] = []

    @asynccontextmanager
    async def open(self, folder: Path, *, replicated: bool) -> AsyncGenerator[Store, None]:
        """Open the first of them, or a replica of both."""
        if not self._folders:
            await self._fill(folder)
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(workloads.sqlite(place)) for place in self._folders]
            yield await stack.enter_async_context(replica.open(stores)) if replicated else stores[0]

    async def _fill(self, folder: Path) -> None:
        for place in range(2):
            one = folder / str(place)
            one.mkdir()
            async with workloads.sqlite(one, durable=False) as store:
                first = place * self._number // 2
                for number in range(first, first + self._number, 1000):
                    await store.put_many(b"%d" % i for i in range(number, min(number + 1000, first + self._number)))
            self._folders.append(one)


class SlowStore(Store):
    """A store in memory, each of whose gets takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._blobs = MemoryStore()

    async def put(self, blob: Blob | BytesLike) -> replica.PutResult:
        return await self._blobs.put(blob)

    async def get(self, ref: Ref) -> bytes:
        await trio.sleep(self._seconds)
        return await self._blobs.get(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._blobs.list_page(after, limit)
