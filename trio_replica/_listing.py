"""The checks of the refs that a caller passes, and the iteration over the pages of a listing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, final

import trio

from ._blob import Ref
from ._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

PAGE_SIZE: Final = 1000
"""Refs that `Store.list_refs` asks for at once: 32 kB of refs, and the most that S3 returns."""


def check_ref(ref: Ref) -> Ref:
    """Return `ref`.

    Raises:
      TypeError: if it is not a `Ref`.

    """
    if not isinstance(ref, Ref):
        raise TypeError(f"a ref is a trio_replica.Ref, not {type(ref).__name__}")
    return ref


def check_refs(refs: Iterable[Ref]) -> list[Ref]:
    """Return the distinct refs among `refs`, in their order.

    Raises:
      TypeError: if one is not a `Ref`.

    """
    given = list(refs)
    if not set(map(type, given)) <= {Ref}:  # takes a tenth of the time of checking each
        check_ref(next(ref for ref in given if type(ref) is not Ref))
    return list(dict.fromkeys(given))


def predecessor(ref: Ref) -> Ref:
    """Return the ref before `ref`, so that a page of one ref after it shows `ref` if that is listed.

    Raises:
      OverflowError: for `Ref.ZERO`.

    """
    return Ref((int.from_bytes(ref, "big") - 1).to_bytes(len(ref), "big"))


def check_page_request(after: Ref, limit: int) -> None:
    """Check the arguments of a `list_page`.

    Raises:
      TypeError: if `after` is not a `Ref` or `limit` is not an `int`.
      ValueError: if `limit` is less than 1.

    """
    check_ref(after)
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"limit is an int, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"limit is at least 1, not {limit}")


@final
class RefIterator:
    """The refs of all pages after one ref, one by one.

    This is an object with `__anext__` and not a generator, so that leaving a loop early leaves nothing to be closed.
    """

    __slots__ = ("_after", "_ended", "_list_page", "_listing", "_page")

    def __init__(self, list_page: Callable[[Ref, int], Awaitable[list[Ref]]], after: Ref) -> None:
        self._list_page = list_page
        self._after = check_ref(after)
        self._page: Iterator[Ref] = iter(())
        self._listing = False
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Ref:
        for ref in self._page:
            return ref  # noqa: ASYNC910  (one for each page is enough)
        if self._ended:
            raise StopAsyncIteration
        if self._listing:
            raise trio.BusyResourceError("another task is waiting for the next page of this listing")
        self._listing = True
        try:
            page = await self._list_page(self._after, PAGE_SIZE)
        finally:
            self._listing = False
        if not page:
            self._ended = True
            raise StopAsyncIteration
        if page[0] <= self._after:  # going on would loop forever
            raise ReplicaError(f"a page begins with {page[0]!s:.12}, which is not after {self._after!s:.12}")
        self._after = page[-1]
        self._page = iter(page)
        return next(self._page)
