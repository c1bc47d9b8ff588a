"""The blobs put to a store that is somebody's: random, noted before they are put, and deleted at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import trio

from trio_replica import Blob, DeletableStore, PutResult, Ref, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_replica._blob import BytesLike

LEAST_BYTES: Final = 16
"""Bytes of a blob that let no two random ones be alike: there are 2**128."""

DELETIONS: Final = 16
"""Deletions that are under way at once: as many as a store's own ``put_many`` has puts."""

PATIENCE: Final = 2 * DELETIONS
"""After so many deletions in a row that failed, no more are tried."""

TOLD_EVERY: Final = 100
"""Deletions between two reports of how far it is."""


class StoreFailedError(Exception):
    """A store that was measured failed, or was too slow. The message is one line."""


def random_blobs(size: int) -> Callable[[], Blob]:
    """Return a function that makes a blob of `size` random bytes, at least 16.

    The system seeds them, so no two are alike, and nobody else has such blobs. A store can neither compress them nor
    keep a part of one for another.
    """
    source = np.random.default_rng()
    return lambda: Blob(source.bytes(size))


class Call(NamedTuple):
    """One ``put`` or ``put_many`` that has returned. Times are seconds on Trio's clock."""

    began: float
    ended: float
    refs: tuple[Ref, ...]
    """The blobs, in their order."""

    @property
    def seconds(self) -> float:
        """The time that it took."""
        return self.ended - self.began


class NotedStore(Store):
    """A store that hands everything on to another one, and notes what is put and how long it takes.

    Whatever a put raises comes out as a `StoreFailedError`.
    """

    def __init__(self, name: str, store: Store) -> None:
        self.calls: list[Call] = []
        """The puts that have returned, in the order in which they did."""
        self.deletion_failure: Exception | None = None
        """The exception of the first deletion that failed."""
        self._name = name
        self._store = store
        self._given: dict[Ref, None] = {}

    def __repr__(self) -> str:
        return f"<NotedStore of {self._store!r}, {len(self._given)} blobs given>"

    @property
    def given(self) -> tuple[Ref, ...]:
        """The blobs that may be there and were not before, in the order in which they were put.

        A blob is noted before its put begins, so blobs whose put failed or was cancelled are among them. A blob that
        the store says it had before is not.
        """
        return tuple(self._given)

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        (result,) = await self._noted([Blob(blob)], single=True)
        return result

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        return await self._noted([Blob(blob) for blob in blobs], single=False)

    async def get(self, ref: Ref) -> bytes:
        return await self._store.get(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._store.list_page(after, limit)

    async def delete_given(self, told: Callable[[str], None]) -> None:
        """Delete the blobs that were put, some at once, and report the progress. Those still in `given` then are left.

        A blob that can't be deleted is passed over, until 32 can't on end. Being cancelled means that some are left.
        """
        assert isinstance(self._store, DeletableStore)
        count, remaining, failures = len(self._given), iter(self.given), 0

        def tell() -> None:
            told(f"deleting what was put: {count - len(self._given):,} of {count:,} blobs")

        async def delete(store: DeletableStore) -> None:
            nonlocal failures
            for ref in remaining:
                try:
                    await store.delete(ref)
                except Exception as failure:  # a store may raise anything
                    self.deletion_failure = self.deletion_failure or failure
                    failures += 1
                else:
                    del self._given[ref]
                    failures = 0
                    if len(self._given) % TOLD_EVERY == 0:
                        tell()
                if failures >= PATIENCE:
                    break

        tell()
        async with trio.open_nursery() as nursery:
            for _ in range(DELETIONS):
                nursery.start_soon(delete, self._store)

    def failed(self, failure: BaseException) -> StoreFailedError:
        """Return an error that says so to the user; a new one if it has been said before."""
        if isinstance(failure, StoreFailedError):
            return StoreFailedError(*failure.args)
        return StoreFailedError(f"{self._name} failed a put: {described(failure)}")

    async def _noted(self, blobs: list[Blob], *, single: bool) -> list[PutResult]:
        refs = tuple(blob.ref for blob in blobs)
        self._given.update(dict.fromkeys(refs))
        began = trio.current_time()
        try:
            results = [await self._store.put(blobs[0])] if single else await self._store.put_many(blobs)
        except Exception as failure:  # a store may raise anything
            raise self.failed(failure) from failure
        self.calls.append(Call(began, trio.current_time(), refs))
        for result in results:
            if not result.added:
                self._given.pop(result.ref, None)
        return results


def described(failure: BaseException) -> str:
    """Return a failure in one line."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())}".removesuffix(": ")
