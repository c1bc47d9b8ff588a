"""The listings of several stores, merged page by page to find the refs that only some of them show."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, TypeVar

import outcome

from .._calls.fan_out import fan_out
from .._listing import PAGE_SIZE
from .._sync.union import check_page, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._blob import Ref
    from .._calls.attempt import Ended
    from .._store import Store


class Listing:
    """A store with its position in its listing."""

    def __init__(self, name: str, store: Store, after: Ref) -> None:
        self.name = name
        self.store = store
        self.page: list[Ref] = []
        """Refs that it has listed and that have not been merged yet."""
        self.after = after
        self.ended = False
        self.failure: BaseException | None = None
        """The exception of its listing. From then on the store takes no part."""

    async def list_page(self) -> list[Ref]:
        """Return the next page, checked."""
        return check_page(await self.store.list_page(self.after, PAGE_SIZE), self.after, PAGE_SIZE)

    def settle_page(self, ended: Ended[list[Ref]]) -> bool:
        """Take the page that it listed, and return False, because the others go on however it ended."""
        if isinstance(ended, outcome.Error):
            self.failure = ended.error
        elif ended.value:
            self.page = ended.value
            self.after = self.page[-1]
        else:
            self.ended = True
        return False

    def take(self, end: Ref) -> set[Ref]:
        """Return the refs of its page up to `end`, and count them as merged."""
        size = bisect_right(self.page, end)
        taken, self.page = set(self.page[:size]), self.page[size:]
        return taken


ListingT = TypeVar("ListingT", bound=Listing)


async def list_pages(listings: Sequence[Listing]) -> bool:
    """List the next page of every store whose last page is merged, and return whether there is anything to merge."""
    due = [listing for listing in listings if not (listing.page or listing.ended or listing.failure)]
    await fan_out(due, lambda listing: listing.list_page(), lambda listing, ended: listing.settle_page(ended))
    return any(listing.page for listing in listings)


def merge(listings: Sequence[ListingT]) -> tuple[list[Ref], list[tuple[ListingT, set[Ref]]]]:
    """Merge the pages as far as they are known to be complete.

    Returns the refs in order and, for each store whose listing has not failed, the refs among them that it has listed.
    """
    refs = union([listing.page for listing in listings])
    return refs, [(listing, listing.take(refs[-1])) for listing in listings if listing.failure is None]
