"""The refs that a store is asked for, and the iteration over the pages of its listing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, final

import trio

from ._blob import Ref
from ._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

PAGE_SIZE: Final = 1000
"""Refs that `Store.list_refs` asks for at once: 32 kB of refs, and what S3 returns at most."""


def check_ref(ref: Ref) -> Ref:
    """Return `ref`.

    Raises:
      TypeError: if it is no `Ref`.

    """
    if not isinstance(ref, Ref):
        raise TypeError(f"a ref is a trio_replica.Ref, not {type(ref).__name__}")
    return ref


def check_refs(refs: Iterable[Ref]) -> list[Ref]:
    """Return the distinct refs among `refs`, in their order.

    Raises:
      TypeError: if one is no `Ref`.

    """
    given = list(refs)
    if not set(map(type, given)) <= {Ref}:  # which takes a tenth of the time of asking each
        check_ref(next(ref for ref in given if type(ref) is not Ref))
    return list(dict.fromkeys(given))


def predecessor(ref: Ref) -> Ref:
    """Return the ref after which a page of one shows `ref`, if it is listed. `Ref.ZERO` has none.

    Raises:
      OverflowError: for `Ref.ZERO`.

    """
    return Ref((int.from_bytes(ref, "big") - 1).to_bytes(len(ref), "big"))


def check_page_request(after: Ref, limit: int) -> None:
    """Check the arguments of a `list_page`.

    Raises:
      TypeError: if `after` is no `Ref` or `limit` no `int`.
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

    An object with `__anext__` and not a generator, so that leaving a loop early leaves nothing to be closed.
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
        if page[0] <= self._after:  # to go on would be to go round
            raise ReplicaError(f"a page that begins with {page[0]!s:.12}, which is not after {self._after!s:.12}")
        self._after = page[-1]
        self._page = iter(page)
        return next(self._page)
