"""Stores by their URLs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._replica import open as open_replica
from ._store import DeletableStore
from .stores.directory import open_directory
from .stores.memory import MemoryStore
from .stores.sqlite import open_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ._replica import ReplicaStore
    from ._store import Store

Urls: TypeAlias = Iterable[str] | Mapping[str, str]

SCHEMES: Final = {"memory": "memory:", "dir": "dir:PATH", "sqlite": "sqlite:PATH"}
"""The known schemes, with the shape of their URLs."""


def open_store(url: str) -> AbstractAsyncContextManager[DeletableStore]:
    """Open the store that `url` names, for a block: ``async with open_store("sqlite:blobs.db") as store: …``.

    ``memory:`` is a new `MemoryStore`, ``dir:PATH`` what `open_directory` opens, ``sqlite:PATH`` what `open_sqlite`
    opens, both durable. A path is taken as it stands, relative to the current folder.

    Raises:
      TypeError: if `url` is no `str`.
      ValueError: if its scheme is not one of these, or it has no path and needs one.
      Exception: on entering the block, what opening the store raises.

    """
    scheme, path = split_url(url)
    if scheme == "memory":
        return _open_memory()
    return open_directory(path) if scheme == "dir" else open_sqlite(path)


def open_urls(
    sync: Urls, async_: Urls = (), **options: Any  # noqa: ANN401  (what `open` takes)
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica with stores of its own, which the block opens and closes: `open_store` and `open` in one step.

    Args:
      sync: the URLs of the sync stores; an iterable, or a mapping of names to URLs.
      async_: the URLs of the async stores, likewise.
      options: what `open` takes beside the stores.

    Raises:
      TypeError, ValueError: what `open_store` and `open` raise, and if one folder or database is given twice.
      Exception: on entering the block, what opening a store raises; those opened before it have been closed.
      PoisonedError: when the block ends; see `open`.

    """
    sync, async_ = _checked("sync", sync), _checked("async_", async_)
    places: set[tuple[str, str]] = set()
    for url in (*_values(sync), *_values(async_)):
        scheme, path = split_url(url)
        place = (scheme, os.path.realpath(path))
        if scheme != "memory" and place in places:
            raise ValueError(f"one store is given twice: {url}")
        places.add(place)
    return _open_all(sync, async_, options)


def split_url(url: str) -> tuple[str, str]:
    """Return the scheme and the path of a store's URL.

    Raises:
      TypeError: if it is no `str`.
      ValueError: if `open_store` could not open it.

    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a store is a str, not {type(url).__name__}")
    scheme, colon, path = url.partition(":")
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"unknown store {url!r}: a store's URL is one of {', '.join(SCHEMES.values())}")
    if bool(path) != SCHEMES[scheme].endswith("PATH"):
        raise ValueError(f"the URL of such a store is {SCHEMES[scheme]}, not {url!r}")
    return scheme, path


@asynccontextmanager
async def _open_all(
    sync: list[str] | dict[str, str], async_: list[str] | dict[str, str], options: dict[str, Any]
) -> AsyncGenerator[ReplicaStore, None]:
    async with AsyncExitStack() as stack:

        async def opened(urls: list[str] | dict[str, str]) -> list[Store] | dict[str, Store]:
            if isinstance(urls, dict):
                return {name: await stack.enter_async_context(open_store(url)) for name, url in urls.items()}
            return [await stack.enter_async_context(open_store(url)) for url in urls]

        stores = await opened(sync), await opened(async_)
        yield await stack.enter_async_context(open_replica(*stores, **options))


def _checked(name: str, urls: Urls) -> list[str] | dict[str, str]:
    if isinstance(urls, str) or not isinstance(urls, Iterable):
        raise TypeError(f"{name} is an iterable of URLs or a mapping of names to URLs, not {urls!r}")
    return dict(urls) if isinstance(urls, Mapping) else list(urls)


def _values(urls: list[str] | dict[str, str]) -> Iterable[str]:
    return urls.values() if isinstance(urls, dict) else urls


@asynccontextmanager
async def _open_memory() -> AsyncGenerator[DeletableStore, None]:
    yield MemoryStore()
