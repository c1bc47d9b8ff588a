"""A store in memory."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import outcome
import trio

from .._blob import Ref, to_blob
from .._calls.start import never
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from .._identity import check_mark, is_identity, new_identity
from .._listing import check_ref
from .._scheme import StoreScheme
from .._store import PutResult
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .._blob import Blob, BytesLike
    from .._calls.start import Cancel, Done


@final
class MemoryStore(DeletableStore, StartedStore):
    """A store in the memory of this process, for tests and as a small fast sync store. Its blobs end with the process.

    It has nothing to open or close, and needs Trio only for its checkpoints.

    Args:
      identity: its identity for a test, 32 lowercase hex digits. With None the store has no identity.

    Raises:
      ValueError: if `identity` is something else.

    """

    def __init__(self, *, identity: str | None = None) -> None:
        if identity is not None and not is_identity(identity):
            raise ValueError(f"an identity is 32 lowercase hex digits, not {identity!r:.80}")
        self._identity = identity
        self._mark: str | None = None
        self._blobs: dict[Ref, bytes] = {}
        self._index = _RefIndex()

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self)} blobs>"

    @property
    def is_durable(self) -> bool:
        """False: see `Store.is_durable`."""
        return False

    async def identity(self) -> str | None:
        """Return the identity that it was given: see `Store.identity`."""
        await trio.lowlevel.checkpoint()
        return self._identity

    async def session_mark(self) -> str | None:
        """Return the mark of the last session: see `Store.session_mark`."""
        await trio.lowlevel.checkpoint()
        return self._mark

    async def set_session_mark(self, mark: str) -> None:
        """Keep the mark of a session, if it has an identity: see `Store.set_session_mark`."""
        check_mark(mark)
        await trio.lowlevel.checkpoint()
        if self._identity is not None:
            self._mark = mark

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

    async def renew_identity(self) -> str | None:
        """Draw a new identity, if it has one: see `DeletableStore.renew_identity`."""
        await trio.lowlevel.checkpoint()
        if self._identity is not None:
            self._identity = new_identity()
            self._mark = None
        return self._identity

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


RECENT: Final = 1000
"""The number of new refs that are sorted together, which takes a fifth of a millisecond."""

RUN_LIMIT: Final = 2**16
"""The most refs in one ascending run. Merging two halves of a run takes 4 ms, and holds up all tasks."""


LAST: Final = Ref(b"\xff" * 32)
"""The ref that sorts last."""


@final
class _RefIndex:
    """A set of refs in order that never sorts all of them, neither for each page nor at once.

    New refs are collected in a list, which becomes an ascending run when it has `RECENT` of them. Runs of about the
    same length are merged, up to `RUN_LIMIT`. So each ref is moved only a few times, in any order of puts and pages.
    Refs that were removed stay in their runs, and in a set, until they are an eighth of all.
    """

    def __init__(self, recent_limit: int = RECENT, run_limit: int = RUN_LIMIT) -> None:
        self._recent_limit = recent_limit
        self._run_limit = run_limit
        self._recent: list[Ref] = []
        self._runs: list[list[Ref]] = []
        self._removed: set[Ref] = set()
        self._count = 0  # with those removed
        self._purged = 0  # the run that was purged last

    def add(self, ref: Ref) -> None:
        """Add `ref`, which is not there."""
        if ref in self._removed:  # it is still in its list
            self._removed.remove(ref)
            return
        self._recent.append(ref)
        self._count += 1
        if len(self._recent) == self._recent_limit:
            self._runs.append(sorted(self._recent))
            self._recent = []
            self._merge_last()

    def remove(self, ref: Ref) -> None:
        """Remove `ref`, which is there."""
        self._removed.add(ref)
        if self._runs and len(self._removed) > self._recent_limit + self._count // 8:
            self._purged = (self._purged + 1) % len(self._runs)
            kept = self._purge(self._runs[self._purged])
            self._runs[self._purged : self._purged + 1] = [kept] if kept else []

    def page(self, after: Ref, limit: int) -> list[Ref]:
        """Return up to `limit` refs after `after`, ascending. None are returned only if there are none."""
        self._recent.sort()
        runs = [*self._runs, self._recent]
        while True:
            # Take twice its share from each run, which is nearly always enough. Merging all refs takes long.
            share = min(limit, max(self._recent_limit, 2 * limit // len(runs)))
            some = [_some_after(run, after, share) for run in runs]
            end = min((refs[-1] for refs in some if len(refs) == share), default=LAST)
            merged = sorted(ref for refs in some for ref in refs if ref <= end)
            page = [ref for ref in merged if ref not in self._removed]
            if page or not merged:
                return page[:limit]
            after = end

    def _merge_last(self) -> None:
        while len(self._runs) > 1:
            before, last = self._runs[-2:]
            if len(before) > 2 * len(last) or len(before) + len(last) > self._run_limit:
                return
            self._runs[-2:] = [sorted(before + last)]

    def _purge(self, run: list[Ref]) -> list[Ref]:
        """Return a run without the removed refs, and forget these."""
        kept = [ref for ref in run if ref not in self._removed]
        if len(kept) < len(run):
            self._removed.difference_update(run)
            self._count -= len(run) - len(kept)
        return kept


def _some_after(refs: list[Ref], after: Ref, limit: int) -> list[Ref]:
    first = bisect_right(refs, after)
    return refs[first : first + limit]


@asynccontextmanager
async def _open_memory() -> AsyncGenerator[MemoryStore, None]:
    await trio.lowlevel.checkpoint()
    yield MemoryStore()


SCHEME: Final = StoreScheme(_open_memory, "", place=None)
"""The scheme of ``memory:``. Each such URL is a store of its own."""
