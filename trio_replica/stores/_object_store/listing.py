"""The listing of an object store: one page of refs, from as many answers as needed, and the proof that it has ended."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from .errors import NO_GOOD_SERVER
from .ref_page import RefPage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from ..._blob import Ref
    from ..._calls.threads import StoreThreads
    from ..._errors import ReplicaError
    from .client import ObjectClient
    from .keys import KeySource

KEYS_AT_ONCE: Final = 1000
"""The most keys to ask for in one answer, which is the limit of S3."""

EMPTY_ANSWERS: Final = 10
"""Answers in a row that may have no key but say that there are more. Some servers send one or two after many
deletions."""

ANSWERS: Final = 10_000
"""Answers in a row that may have no new blob. They cover ten million objects of other programs between two blobs."""


@final
class Listing:
    """The listing of the blobs under one prefix."""

    def __init__(
        self,
        client: ObjectClient,
        prefix: bytes,
        source: KeySource,
        threads: StoreThreads[Callable[[], Any]],
        *,
        at_once: int = KEYS_AT_ONCE,
        answers: int = ANSWERS,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._source = source
        self._threads = threads
        self._at_once = at_once
        self._answers = answers
        self._under_way: set[trio.CancelScope] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Listing of {self._client.name!r}, {len(self._under_way)} pages under way>"

    def close(self) -> None:
        """Have all pages raise `trio.ClosedResourceError`: those under way, and those that are asked for later.

        A later page would make a connection in a pool that is being closed, and nobody would close that connection.
        """
        self._is_closed = True
        for scope in self._under_way:
            scope.cancel()

    async def list_page(self, after: Ref, limit: int, check_end: Callable[[], Awaitable[None]]) -> list[Ref]:
        """Return up to `limit` refs after `after`. Only an empty list says that there are no more.

        It takes one answer, unless there are more keys than fit in one. Being cancelled changes nothing.

        Args:
          after: the ref before the first one.
          limit: the most refs.
          check_end: a function that is called if the server stops without having shown the identity, which proves
            nothing. It raises, unless the store is known to have no identity.

        Raises:
          ReplicaError: if the server does not list, lists out of order, or lists without an end.
          trio.ClosedResourceError: if the listing is closed.

        """
        with trio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                page = await self._find(RefPage(self._prefix, after, limit), f"b:{after}", limit)
                if not page.refs and not page.has_shown_identity:
                    await check_end()
                return page.refs
            finally:
                self._under_way.discard(scope)
        raise self._closed()

    async def _find(self, page: RefPage, after: str, limit: int) -> RefPage:
        """Ask for keys until the page is done, or the server says that there are no more."""
        position, token = self._prefix + after.encode(), None
        at_most = min(limit + 1, self._at_once)  # the extra key may be the identity
        last, empty, barren = b"", 0, 0
        while barren < self._answers:
            if self._is_closed:
                raise self._closed()
            answer = await self._source.ask(position, token, at_most)
            found = len(page.refs)
            # This runs in a thread, because there may be many keys.
            if not await self._threads.run(partial(page.take, answer.keys), abandon_on_cancel=True):
                raise self._client.error("it does not list in the order of the names, as a store needs it")
            if page.is_done or not answer.may_go_on:
                return page
            barren = 0 if len(page.refs) > found else barren + 1
            if answer.keys:
                if answer.keys[-1] <= last:
                    raise self._error("it lists the same names again")
                last, empty = answer.keys[-1], 0
            else:
                empty += 1
                if empty > EMPTY_ANSWERS or answer.token in {None, token}:
                    raise self._error("it lists nothing, and says that there is more")
            token = answer.token
            if token is None:
                position = last
            at_most = self._at_once
        count = self._answers * self._at_once
        raise self._client.error(f"between two blobs it lists {count} other objects: move them away")

    def _closed(self) -> trio.ClosedResourceError:
        return trio.ClosedResourceError(f"{self._client.name} is closed")

    def _error(self, text: str) -> ReplicaError:
        return self._client.error(f"{text}: {NO_GOOD_SERVER}")
