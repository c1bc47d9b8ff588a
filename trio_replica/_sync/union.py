"""The ordered union of pages of refs, in plain functions without I/O."""

from __future__ import annotations

from bisect import bisect_right
from operator import lt
from typing import TYPE_CHECKING

from .._blob import Ref
from .._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_page(page: list[Ref], after: Ref, limit: int) -> list[Ref]:
    """Return `page` if it keeps the promise of `Store.list_page`.

    Raises:
      ReplicaError: if it is no list of refs, too long, not after `after`, or not ascending.

    """
    # The types are exact, because a subclass may answer differently each time, and its iteration need not end.
    if type(page) is not list:
        raise ReplicaError("a page is not a list of refs")
    if len(page) > limit:
        raise ReplicaError(f"a page of {len(page)} refs where at most {limit} were asked for")
    if not set(map(type, page)) <= {Ref}:
        raise ReplicaError("a page is not a list of refs")
    if page and page[0] <= after:
        raise ReplicaError(f"a page begins with {page[0]!s:.12}, which is not after {after!s:.12}")
    if not all(map(lt, page, page[1:])):
        raise ReplicaError("a page whose refs are not in ascending order")
    return page


def union(pages: Sequence[list[Ref]]) -> list[Ref]:
    """Return the ordered union of one page of each store, each ref once, as far as it is known to be complete.

    All `pages` start after the same ref. A store may have more refs beyond the last of its page, so the union ends at
    the lowest last ref. An empty page means that its store has no more. The union is empty only if all pages are.
    """
    filled = [page for page in pages if page]
    if len(filled) == 1:
        return filled[0][:]
    end = min((page[-1] for page in filled), default=Ref.ZERO)
    refs = [ref for page in filled for ref in page[: bisect_right(page, end)]]
    refs.sort()  # sorting ascending runs merges them
    return list(dict.fromkeys(refs))
