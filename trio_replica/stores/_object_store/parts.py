"""The parts of an object store, put together. This is the one module that needs the packages of the extra."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

from .client import IDLE_SECONDS, ObjectClient
from .client_keys import ClientKeys
from .identity import IdentityObjects
from .listing import KEYS_AT_ONCE, Listing
from .objects import Objects
from .s3_account import S3Account
from .s3_keys import S3Keys
from .s3_requests import open_s3_requests

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Any

    from ..._calls.threads import StoreThreads
    from .url import ObjectPlace


@final
class ObjectParts:
    """The parts of an object store before it is opened. See `ObjectClient` for the errors."""

    def __init__(
        self,
        place: ObjectPlace,
        *,
        idle_seconds: float = IDLE_SECONDS,
        keys_at_once: int = KEYS_AT_ONCE,
    ) -> None:
        self.place = place
        self.client: ObjectClient = ObjectClient(place, idle_seconds=idle_seconds)
        self.objects: Objects = Objects(self.client)
        self.identity: IdentityObjects = IdentityObjects(self.client)
        self._account = S3Account(place) if place.scheme == "s3" else None
        self._keys_at_once = keys_at_once

    @asynccontextmanager
    async def open_listing(
        self, readers: StoreThreads[Callable[[], Any]], lister: StoreThreads[Callable[[], Any]]
    ) -> AsyncGenerator[Listing, None]:
        """Keep what the listing needs for the block: threads, and for S3 connections of its own.

        The client's requests run in `readers`. Everything else is short and runs in `lister`, where no get can delay
        it. Signing in particular counts towards the time-out of a request.
        """
        prefix = f"{self.place.prefix}/".encode() if self.place.prefix else b""
        at_once = self._keys_at_once
        if self._account is None:
            yield Listing(self.client, prefix, ClientKeys(self.client, prefix, readers), lister, at_once=at_once)
            return
        async with open_s3_requests(self.client, self._account, lister) as requests:
            yield Listing(self.client, prefix, S3Keys(self.client, prefix, requests, lister), lister, at_once=at_once)
