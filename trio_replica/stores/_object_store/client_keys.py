"""The keys of a bucket as the client lists them, for Google and Azure, whose requests only the client can sign."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, final

import obstore
import outcome

from ..._calls.threads import ALONE
from .errors import NOT_IN_TIME
from .keys import Keys
from .url import MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..._calls.attempt import Ended
    from ..._calls.threads import StoreThreads
    from .client import ObjectClient


@final
class ClientKeys:
    """The keys under one prefix: a `KeySource`. An answer may take the client several requests."""

    def __init__(self, client: ObjectClient, prefix: bytes, threads: StoreThreads[Callable[[], Any]]) -> None:
        self._client = client
        self._prefix = prefix
        self._threads = threads

    async def ask(self, after: bytes, token: str | None, at_most: int) -> Keys:
        """Return the next keys: see `KeySource.ask`. A call that is cancelled goes on until its time is over."""
        del token  # this source never returns one
        run = partial(outcome.capture, self._list, after.removeprefix(self._prefix).decode(), at_most)
        ended: Ended[list[str]] = await self._threads.run(run, size=ALONE, abandon_on_cancel=True)
        if isinstance(ended, outcome.Value):
            return Keys([self._prefix + path.encode() for path in ended.value], may_go_on=bool(ended.value))
        is_late = isinstance(ended.error, TimeoutError)
        raise self._client.error(NOT_IN_TIME) if is_late else self._client.failure(ended.error)

    def _list(self, after: str, at_most: int) -> list[str]:
        """Return the first paths after a given one. It blocks."""
        # The client skips answers without any keys in one step, and a server may send these forever. A step that is
        # awaited in an event loop ends when its time is over. A blocking step would not.
        return asyncio.run(self._list_in_time(after, at_most))

    async def _list_in_time(self, after: str, at_most: int) -> list[str]:
        async with asyncio.timeout(min(self._client.place.limits.request_timeout, MAX_SECONDS)):
            async for found in obstore.list(self._client.client, offset=after, chunk_size=at_most):
                return [one["path"] for one in found]
        return []
