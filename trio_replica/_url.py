"""Stores by their URLs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from ._replica import open as open_replica
from .stores.directory import open_directory
from .stores.memory import MemoryStore
from .stores.sqlite import open_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from ._replica import ReplicaStore
    from ._store import DeletableStore

Urls: TypeAlias = Iterable[str] | Mapping[str, str]

SCHEMES: Final = {"memory": "memory:", "dir": "dir:PATH", "sqlite": "sqlite:PATH"}
"""The known schemes, with the shape of their URLs."""


def open_store(url: str) -> AbstractAsyncContextManager[DeletableStore]:
    """Open the store that `url` names, for a block.

    As in ``async with open_store("sqlite:blobs.db") as store: …``.

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
    sync: Urls,
    async_: Urls = (),
    **options: Any,
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica with stores of its own, which the block opens and closes: `open_store` and `open` in one step.

    Args:
      sync: the URLs of the sync stores; an iterable, or a mapping of names to URLs.
      async_: the URLs of the async stores, likewise.
      options: what `open` takes beside the stores.

    Raises:
      TypeError, ValueError: at once, what `open_store` and `open` raise, and if one folder or database is given twice.
      Exception: on entering the block, what opening a store raises; those opened before it have been closed.
      PoisonedError: when the block ends; see `open`.

    """
    named_sync, named_async = _named("sync", sync), _named("async", async_)
    places: dict[tuple[str, str], str] = {}
    for url in (*named_sync.values(), *named_async.values()):
        scheme, path = split_url(url)
        place = scheme, os.path.realpath(path)
        if scheme != "memory" and place in places:
            raise ValueError(f"one store is given twice: as {places[place]!r} and as {url!r}")
        places[place] = url
    # `open` checks the names and the options with stand-ins, before any store is opened or created.
    open_replica({name: MemoryStore() for name in named_sync}, {name: MemoryStore() for name in named_async}, **options)
    return _open_all(named_sync, named_async, options)


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
    if bool(path) != SCHEMES[scheme].endswith("PATH") or "\0" in path:
        raise ValueError(f"the URL of such a store is {SCHEMES[scheme]}, not {url!r}")
    if path.startswith("//") and not path.startswith("///"):
        raise ValueError(f"the URL of such a store is {SCHEMES[scheme]} and can't name a host as {url!r} does")
    return scheme, path


@asynccontextmanager
@enable_ki_protection
async def _open_all(
    sync: dict[str, str], async_: dict[str, str], options: dict[str, Any]
) -> AsyncGenerator[ReplicaStore, None]:
    async with AsyncExitStack() as stack:
        sync_stores, async_stores = [
            {name: await stack.enter_async_context(open_store(url)) for name, url in urls.items()}
            for urls in (sync, async_)
        ]
        yield await stack.enter_async_context(open_replica(sync_stores, async_stores, **options))


def _named(kind: str, urls: Urls) -> dict[str, str]:
    if isinstance(urls, str) or not isinstance(urls, Iterable):
        raise TypeError(f"{kind} stores are an iterable of URLs or a mapping of names to URLs, not {urls!r}")
    return dict(urls) if isinstance(urls, Mapping) else {f"{kind}-{i}": url for i, url in enumerate(urls)}


@asynccontextmanager
async def _open_memory() -> AsyncGenerator[DeletableStore, None]:
    await trio.lowlevel.checkpoint()
    yield MemoryStore()
