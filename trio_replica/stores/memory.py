"""A store in memory."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import outcome
import trio

from .._blob import to_blob
from .._calls.start import never
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from .._scheme import StoreScheme
from .._store import PutResult, check_ref
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .._blob import Blob, BytesLike, Ref
    from .._calls.start import Cancel, Done


@final
class MemoryStore(DeletableStore, StartedStore):
    """A store in the memory of this process, for tests and as a small fast sync store. Its blobs end with the process.

    It has nothing to open or close, and needs Trio only for its checkpoints.
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

    async def get(self, ref: Ref) -> bytes:
        """Return a blob: see `Store.get`."""
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        try:
            return self._blobs[ref]
        except KeyError:
            raise BlobNotFoundError(ref) from None

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Store a blob at once: see `StartableStore.start_put`."""
        done(outcome.Value(self._add(blob)))
        return never

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Store many blobs at once: see `StartableStore`."""
        done(outcome.Value([self._add(blob) for blob in blobs]))
        return never

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Find a blob at once: see `StartableStore.start_get`."""
        data = self._blobs.get(ref)
        done(outcome.Error(BlobNotFoundError(ref)) if data is None else outcome.Value(data))
        return never

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Find many blobs at once: see `StartableStore`."""
        done(outcome.Value({ref: self._blobs[ref] for ref in refs if ref in self._blobs}))
        return never

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Find out at once whether a blob is there: see `StartableStore`."""
        done(outcome.Value(ref in self._blobs))
        return never

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Find the next refs at once: see `StartableStore`."""
        done(outcome.Value(self._index.page(after, limit)))
        return never

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        if ref not in self._blobs:
            return False
        del self._blobs[ref]
        self._index.remove(ref)
        return True

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically, whatever is there: see `DeletableStore.replace`."""
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
    """A set of refs in order, without sorting all of them for each page.

    The refs are in a large sorted list, and in a small list of refs that were added since. Removed refs are also in a
    set. Once the small list or the set is an eighth as long as the large list, all are merged into one list. So each
    ref is moved only a few times, in whatever order puts, deletions and pages come.
    """

    def __init__(self) -> None:
        self._sorted: list[Ref] = []
        self._recent: list[Ref] = []
        self._recent_is_sorted = True
        self._removed: set[Ref] = set()

    def add(self, ref: Ref) -> None:
        """Add `ref`, which is not there."""
        if ref in self._removed:  # it is still in its list
            self._removed.remove(ref)
        else:
            self._recent.append(ref)
            self._recent_is_sorted = False

    def remove(self, ref: Ref) -> None:
        """Remove `ref`, which is there."""
        self._removed.add(ref)

    def page(self, after: Ref, limit: int) -> list[Ref]:
        """Return up to `limit` refs after `after`, ascending. None are returned only if there are none."""
        self._arrange()
        size = limit
        while True:
            refs = sorted(_some_after(self._sorted, after, size) + _some_after(self._recent, after, size))[:size]
            page = [ref for ref in refs if ref not in self._removed]
            if page or not refs:
                return page[:limit]
            after, size = refs[-1], 2 * size

    def _arrange(self) -> None:
        if not self._recent_is_sorted:
            self._recent.sort()
            self._recent_is_sorted = True
        if max(len(self._recent), len(self._removed)) > 1000 + len(self._sorted) // 8:
            # Sorting two ascending runs is merging them.
            self._sorted = [ref for ref in sorted(self._sorted + self._recent) if ref not in self._removed]
            self._recent = []
            self._removed = set()


def _some_after(refs: list[Ref], after: Ref, limit: int) -> list[Ref]:
    first = bisect_right(refs, after)
    return refs[first : first + limit]


@asynccontextmanager
async def _open_memory() -> AsyncGenerator[MemoryStore, None]:
    await trio.lowlevel.checkpoint()
    yield MemoryStore()


SCHEME: Final = StoreScheme(_open_memory, "", place=None)
"""The scheme of ``memory:``. Each such URL is a store of its own."""
