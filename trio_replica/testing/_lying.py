"""`LyingStore`: a store whose answers contradict each other in the ways of real stores."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from .._blob import to_blob, to_blobs
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from .._listing import check_page_request, check_ref
from .._store import PutResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._blob import Blob, BytesLike, Ref
    from .._deletable import Integrity


class Lie(Enum):
    """A false answer of a store. The value names a common cause of it."""

    LISTS = "an index that shows removed blobs"
    """Listings show a blob; a get does not find it, and ``contains`` says no."""
    HIDES = "an index that has lost a row"
    """A get finds a blob, and ``contains`` says yes; listings do not show it."""
    ENDS = "a listing that is cut off"
    """Listings end before a blob, even if they begin after it. They are empty if that blob is the first."""
    CLAIMS = "a cache in front of the store"
    """``contains`` says yes about a blob that is not there."""
    DENIES = "a cache of misses in front of the store"
    """``contains`` says no about a blob that is there."""
    DROPS = "an answer of success to a write that was dropped"
    """A put returns with ``added=True``, and nothing is stored."""
    IGNORES = "a trigger, or a rule of row security, that ignores inserts"
    """A put returns with ``added=False``, and nothing is stored."""


class LyingStore(DeletableStore):
    """A store that falsifies the answers of another store. Without lies it passes them on.

    Args:
      store: the store that keeps the blobs, and tells the truth.

    """

    def __init__(self, store: DeletableStore) -> None:
        self.store = store
        """The store that tells the truth."""
        self._lies: dict[Lie, frozenset[Ref] | None] = {}
        self._ended_by_writing: set[Lie] = set()

    def __repr__(self) -> str:
        return f"<LyingStore that {', '.join(lie.name.lower() for lie in self._lies) or 'is honest'}: {self.store!r}>"

    def lie(self, lie: Lie, *refs: Ref, until_written: bool = True) -> None:
        """Tell a lie in all answers from now on, about the blobs that `refs` name, or about all blobs without `refs`.

        Args:
          lie: the kind of lie.
          refs: the blobs. `Lie.LISTS` adds the named blobs to listings, even if they were never there.
          until_written: whether `Lie.LISTS` about a blob ends when it is put, and `Lie.HIDES` when it is replaced, as
            a new row in an index would end them.

        """
        self._lies[lie] = frozenset(map(check_ref, refs)) or None
        self._ended_by_writing.discard(lie)
        if until_written:
            self._ended_by_writing.add(lie)

    def recover(self) -> None:
        """Tell the truth from now on."""
        self._lies.clear()

    @property
    def is_durable(self) -> bool:
        """The answer of the other store: see `Store.is_durable`."""
        return self.store.is_durable

    @property
    def is_read_only(self) -> bool:
        """The answer of the other store: see `Store.is_read_only`."""
        return self.store.is_read_only

    async def identity(self) -> str | None:
        """Return the identity of the other store: see `Store.identity`."""
        return await self.store.identity()

    async def session_mark(self) -> str | None:
        """Return the mark in the other store: see `Store.session_mark`."""
        return await self.store.session_mark()

    async def set_session_mark(self, mark: str) -> None:
        """Keep a mark in the other store: see `Store.set_session_mark`."""
        await self.store.set_session_mark(mark)

    async def renew_identity(self) -> str | None:
        """Give the other store a new identity: see `DeletableStore.renew_identity`."""
        return await self.store.renew_identity()

    # Writing

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Store a blob, or only claim to: see `Store.put`."""
        (result,) = await self._put([await to_blob(blob)])
        return result

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, or only claim to: see `Store.put_many`."""
        return await self._put(await to_blobs(blobs))

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob, or only claim to: see `DeletableStore.replace`."""
        blob = await to_blob(blob)
        if not self._is_dropped(blob.ref):
            await self.store.replace(blob)
            self._end(Lie.LISTS, blob.ref)
            self._end(Lie.HIDES, blob.ref)

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        return await self.store.delete(ref)

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep a copy of a blob: see `DeletableStore.set_aside`."""
        return await self.store.set_aside(ref)

    async def check_integrity(self) -> Integrity:
        """Check the store as a whole: see `DeletableStore.check_integrity`."""
        return await self.store.check_integrity()

    async def repair_integrity(self) -> None:
        """Rebuild the data that is derived from the blobs: see `DeletableStore.repair_integrity`."""
        await self.store.repair_integrity()

    async def _put(self, blobs: list[Blob]) -> list[PutResult]:
        kept = [blob for blob in blobs if not self._is_dropped(blob.ref)]
        results = iter(await self.store.put_many(kept))
        was_absent = {blob.ref for blob in kept if self._tells(Lie.LISTS, blob.ref)}
        for blob in kept:
            self._end(Lie.LISTS, blob.ref)
        answers = []
        for blob in blobs:
            if self._is_dropped(blob.ref):
                answers.append(PutResult(blob.ref, self._tells(Lie.DROPS, blob.ref)))
            else:
                ref, added = next(results)
                answers.append(PutResult(ref, added or ref in was_absent))
        return answers

    def _is_dropped(self, ref: Ref) -> bool:
        return self._tells(Lie.DROPS, ref) or self._tells(Lie.IGNORES, ref)

    # Reading

    async def get(self, ref: Ref) -> bytes:
        """Return a blob, or say that it is not there: see `Store.get`."""
        data = await self.store.get(ref)
        if self._tells(Lie.LISTS, ref):
            raise BlobNotFoundError(ref)
        return data

    async def contains(self, ref: Ref) -> bool:
        """Say whether a blob is there: see `Store.contains`."""
        is_there = await self.store.contains(ref) and not self._tells(Lie.LISTS, ref)
        return not self._tells(Lie.DENIES, ref) if is_there else self._tells(Lie.CLAIMS, ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs, with some added or left out: see `Store.list_page`."""
        check_page_request(after, limit)
        more = [ref for ref in self._lies.get(Lie.LISTS) or () if ref > after]
        while page := await self.store.list_page(after, limit):
            after = page[-1]
            shown = [ref for ref in page if not self._tells(Lie.HIDES, ref)]
            if shown:
                shown += [ref for ref in more if ref < after]
                break
        else:
            shown = more
        return [ref for ref in sorted(set(shown)) if not self._is_beyond_the_end(ref)][:limit]

    def _is_beyond_the_end(self, ref: Ref) -> bool:
        if Lie.ENDS not in self._lies:
            return False
        about = self._lies[Lie.ENDS]
        return about is None or ref >= min(about)

    # Lies

    def _tells(self, lie: Lie, ref: Ref) -> bool:
        """Return whether this store tells a lie about a blob."""
        if lie not in self._lies:
            return False
        about = self._lies[lie]
        return about is None or ref in about

    def _end(self, lie: Lie, ref: Ref) -> None:
        """End a lie about a blob that has been written, if writing ends it."""
        about = self._lies.get(lie)
        if about is not None and lie in self._ended_by_writing:
            self._lies[lie] = about - {ref}
