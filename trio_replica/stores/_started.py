"""`StartedStore`, a base for stores that can start all of their calls. It derives the methods from the starts."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from .._blob import all_hashed
from .._calls.all_ended import all_ended
from .._calls.start import ended_call
from .._listing import check_page_request, check_ref, check_refs
from .._parts import PAGE_LIMIT, in_parts
from .._store import PutResult, StartableStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._blob import Blob, BytesLike, Ref
    from .._calls.start import Cancel, Done


class StartedStore(StartableStore):
    """A `StartableStore` that implements all six ``start_…`` methods, and nothing else of `Store`."""

    @abstractmethod
    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start a `put_many`: see `StartableStore`."""

    @abstractmethod
    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start a `get_many`: see `StartableStore`."""

    @abstractmethod
    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""

    @abstractmethod
    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`."""

    async def _put_each(self, blobs: Sequence[Blob]) -> list[PutResult]:
        """Store many blobs with one put each, all at the same time."""
        results = await all_ended(list(dict.fromkeys(blobs)), self.start_put)
        added = {blob.ref: result.added for blob, result in results.items()}
        return [PutResult(blob.ref, added.pop(blob.ref, False)) for blob in blobs]

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs: see `Store.put_many`."""
        results: list[PutResult] = []
        for part in in_parts(await all_hashed(blobs)):
            results += await ended_call(partial(self.start_put_many, part))
        return results

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return the blobs that are there: see `Store.get_many`."""
        found: dict[Ref, bytes] = {}
        for part in in_parts(check_refs(refs)):
            found |= await ended_call(partial(self.start_get_many, part))
        return found  # noqa: ASYNC910  (there is at least one part)

    async def contains(self, ref: Ref) -> bool:
        """Return whether a blob is there: see `Store.contains`."""
        there: bool = await ended_call(partial(self.start_contains, check_ref(ref)))
        return there

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs: see `Store.list_page`."""
        check_page_request(after, limit)
        page: list[Ref] = await ended_call(partial(self.start_list_page, after, min(limit, PAGE_LIMIT)))
        return page
