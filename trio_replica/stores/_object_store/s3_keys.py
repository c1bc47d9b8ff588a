"""The keys of a bucket of S3, asked for without the client.

The client fails at another program's key that it can't parse as a path. It follows redirects, accepts any answer as a
listing, and reads it to its end into memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final
from urllib.parse import quote, urlencode

from .errors import NO_GOOD_SERVER
from .ref_page import FIRST
from .s3_answer import read_listing

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..._calls.threads import StoreThreads
    from .client import ObjectClient
    from .keys import Keys
    from .s3_requests import S3Requests


@final
class S3Keys:
    """The keys under one prefix: a `KeySource`. Each answer is one request."""

    def __init__(
        self, client: ObjectClient, prefix: bytes, requests: S3Requests, threads: StoreThreads[Callable[[], Any]]
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._requests = requests
        self._threads = threads

    async def ask(self, after: bytes, token: str | None, at_most: int) -> Keys:
        """Return the next keys: see `KeySource.ask`."""
        prefix = self._prefix + FIRST.encode()
        options: dict[str, str | bytes] = {
            "encoding-type": "url",  # otherwise keys of other programs may make the document invalid
            "list-type": "2",
            "max-keys": str(at_most),
            "prefix": prefix,
            "start-after": after,
        }
        if token is not None:
            options = {"continuation-token": token, **options}
        body = await self._requests.get(urlencode(options, quote_via=quote))
        read = partial(read_listing, body, prefix, after)  # runs in a thread, because the body may be long
        found: Keys | None = await self._threads.run(read, abandon_on_cancel=True)
        if found is None:
            raise self._client.error(
                f"it answers a request for its listing with 200, but not with that listing: {NO_GOOD_SERVER}"
            )
        return found
