"""A store in memory."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, final

import trio

from .._blob import to_blob, to_blobs
from .._errors import BlobNotFoundError
from .._store import DeletableStore, PutResult, check_page_request, check_ref, check_refs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .._blob import Blob, BytesLike, Ref


@final
class MemoryStore(DeletableStore):
    """Blobs in the memory of this process, which end with it. For tests, and as a small fast sync store.

    It has nothing to open or close, and needs no Trio but for its checkpoints.
    """

    def __init__(self) -> None:
        self._blobs: dict[Ref, bytes] = {}
        self._index = _RefIndex()

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self)} blobs>"

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Store a blob: see `Store.put`."""
        return self._add(await to_blob(blob))

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs at once: see `Store.put_many`."""
        return [self._add(blob) for blob in await to_blobs(blobs)]

    async def get(self, ref: Ref) -> bytes:
        """Return a blob: see `Store.get`."""
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        try:
            return self._blobs[ref]
        except KeyError:
            raise BlobNotFoundError(ref) from None

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return those of many blobs that are there: see `Store.get_many`."""
        refs = check_refs(refs)
        await trio.lowlevel.checkpoint()
        return {ref: self._blobs[ref] for ref in refs if ref in self._blobs}

    async def contains(self, ref: Ref) -> bool:
        """Return whether a blob is there: see `Store.contains`."""
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        return ref in self._blobs

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs: see `Store.list_page`."""
        check_page_request(after, limit)
        await trio.lowlevel.checkpoint()
        return self._index.page(after, limit, self._blobs)

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        return self._blobs.pop(ref, None) is not None

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever is there, atomically: see `DeletableStore.replace`."""
        blob = await to_blob(blob)
        self._add(blob)
        self._blobs[blob.ref] = blob.data

    def _add(self, blob: Blob) -> PutResult:
        added = blob.ref not in self._blobs
        if added:
            self._blobs[blob.ref] = blob.data
            self._index.add(blob.ref)
        return PutResult(blob.ref, added)


@final
class _RefIndex:
    """Refs in order, without sorting all of them for each page.

    They stand in a large sorted list and a small one of those that came since. Once the small one is an eighth as long
    as the large one they are sorted into one, so a ref is moved a few times at most, however puts and pages alternate.
    Removed refs stay until then.
    """

    def __init__(self) -> None:
        self._sorted: list[Ref] = []
        self._recent: list[Ref] = []
        self._recent_is_sorted = True

    def add(self, ref: Ref) -> None:
        self._recent.append(ref)
        self._recent_is_sorted = False

    def page(self, after: Ref, limit: int, present: Collection[Ref]) -> list[Ref]:
        """Return up to `limit` refs after `after` that are `present`, ascending; none only if there are none."""
        if len(self._recent) > 1000 + len(self._sorted) // 8 or len(self._sorted) > 1000 + 2 * len(present):
            self._sorted = sorted(present)
            self._recent = []
        if not self._recent_is_sorted:
            self._recent.sort()
            self._recent_is_sorted = True
        while True:
            refs = _some_after(self._sorted, after, limit)
            if recent := _some_after(self._recent, after, limit):
                refs = sorted({*refs, *recent})[:limit]  # one that was removed and came again is in both
            page = [ref for ref in refs if ref in present]
            if page or not refs:
                return page
            after = refs[-1]


def _some_after(refs: list[Ref], after: Ref, limit: int) -> list[Ref]:
    first = bisect_right(refs, after)
    return refs[first : first + limit]
