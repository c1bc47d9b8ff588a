"""Opening stores and replicas of stores by their URLs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from trio.lowlevel import enable_ki_protection

from .._async.known_stores import cannot_be_created
from .._async.outbox_file import open_sqlite_outbox
from .._errors import StoreNotFoundError
from .._open import checked_stores, open_with
from .._options import Options, with_options
from .._redact import redacted
from ..stores.memory import MemoryStore
from .parse import parse_url
from .places import check_outbox, check_places

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from .._deletable import DeletableStore
    from .._open import OpenOutbox
    from .._options import ReplicaOptions
    from .._replica import ReplicaStore
    from .store_url import StoreUrl

Urls: TypeAlias = Iterable[str] | Mapping[str, str]


def open_store(url: str) -> AbstractAsyncContextManager[DeletableStore]:
    """Open the store that `url` names, for a block.

    Use it as in ``async with open_store("sqlite:blobs.db") as store: …``.

    ``memory:`` opens a new `MemoryStore`. ``dir:PATH`` opens a store as `open_directory` does, and ``sqlite:PATH`` as
    `open_sqlite` does, both durable. A path is used literally, relative to the current folder.

    ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` and ``az://CONTAINER/PREFIX`` open stores as `open_object_store`
    does, and ``postgresql://USER@HOST/DATABASE`` as `open_postgres` does. ``?OPTION=VALUE&…`` gives these their
    options. Such a store is a `RetryingStore`, unless ``retry=false`` is among the options. ``retry_attempts`` and
    ``retry_seconds`` are its budget.

    Other packages may have more stores: see `StoreScheme`.

    Raises:
      TypeError: if `url` is not a `str`.
      ValueError: if the scheme is unknown, a path is missing, or an option is bad. The message shows no password or
        key.
      ModuleNotFoundError: if the store needs a package that is not installed.
      ImportError: if another package provides such stores and can't be used.
      Exception: on entering the block, if the store can't be opened.

    """
    return parse_url(url).open()


@with_options
def open_urls(
    sync: Urls, async_: Urls = (), **options: Unpack[ReplicaOptions]
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica with stores of its own, which the block opens and closes.

    This is `open_store` and `open` in one step. An outbox is opened before the stores.

    Args:
      sync: the URLs of the sync stores, as an iterable or a mapping of names to URLs.
      async_: the URLs of the async stores, as an iterable or a mapping of names to URLs.
      options: see `ReplicaOptions`.

    Raises:
      TypeError, ValueError: at once, in the same cases as with `open_store` and `open`, and if one folder, database or
        prefix of a bucket is given twice.
      ImportError: at once, in the same cases as with `open_store`.
      Exception: on entering the block, if a store can't be opened. Stores opened before it have been closed.
      PoisonedError, StoreError: when the block ends, in the same cases as with `open`.

    """
    named_sync, named_async = _named("sync", sync), _named("async", async_)
    urls = [parse_url(url) for url in (*named_sync.values(), *named_async.values())]
    check_places(urls)
    taken = Options.of("open_urls", options)
    if taken.outbox is not None and not isinstance(async_, Mapping):
        raise ValueError("with an outbox, async_ has to be a mapping of names to URLs: entries are kept by name")
    check_replica(named_sync, named_async, taken)
    check_outbox(taken.outbox, urls)
    return open_opening(
        {name: parse_url(url) for name, url in named_sync.items()},
        {name: parse_url(url) for name, url in named_async.items()},
        taken,
        sync_have_names=isinstance(sync, Mapping),
    )


def check_replica(sync: Iterable[str], async_: Iterable[str], options: Options) -> None:
    """Check the names of the stores of a replica, and that its options fit them, before any store is opened.

    Raises:
      TypeError, ValueError: what `open` raises about them.

    """
    sync_stores, async_stores = [{name: MemoryStore() for name in names} for names in (sync, async_)]
    checked_stores(sync_stores, async_stores, options, has_outbox=options.outbox is not None)


def open_opening(
    sync: Mapping[str, StoreUrl],
    async_: Mapping[str, StoreUrl],
    options: Options,
    *,
    to_read: bool = False,
    sync_have_names: bool = True,
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Return a context manager that opens the outbox of the options, if any, then the stores, and a replica of them.

    A store that the outbox knows by its identity is not created, because the disk of a missing store may not be
    mounted. Read-only stores are allowed only if `to_read` is true. The outbox notes nothing about sync stores that
    have only numbers and no names of their own.

    Raises:
      TypeError, ValueError, ImportError: at once, if an option of a store is bad or its package can't be used.

    """
    for url in (*sync.values(), *async_.values()):
        url.open()  # this opens nothing before its block is entered
    return _open_opening(sync, async_, options, to_read, sync_have_names)


@asynccontextmanager
@enable_ki_protection
async def _open_opening(
    sync: Mapping[str, StoreUrl],
    async_: Mapping[str, StoreUrl],
    options: Options,
    to_read: bool,
    sync_have_names: bool,
) -> AsyncGenerator[ReplicaStore, None]:
    kept: Mapping[str, str] = {}
    open_outbox: OpenOutbox | None = None
    async with AsyncExitStack() as stack:
        if options.outbox is not None:
            storage = await stack.enter_async_context(open_sqlite_outbox(options.outbox))
            open_outbox = lambda: nullcontext(storage)  # noqa: E731  (a function that is used once)
            kept = cannot_be_created(storage.noted)
        sync_stores, async_stores = [
            {name: await stack.enter_async_context(_opening(url, kept.get(name))) for name, url in urls.items()}
            for urls in (sync, async_)
        ]
        given = sync_stores if sync_have_names else list(sync_stores.values())
        yield await stack.enter_async_context(open_with(given, async_stores, options, open_outbox, to_read=to_read))


@asynccontextmanager
async def _opening(url: StoreUrl, kept: str | None) -> AsyncGenerator[DeletableStore, None]:
    """Open a store for a block. `kept` is the remedy for a missing store that is not created, or else None."""
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context((url if kept is None else url.not_created()).open())
        except StoreNotFoundError as error:
            if kept is None:
                raise
            raise StoreNotFoundError(error.store, kept) from None
        yield store


def _named(kind: str, urls: Urls) -> dict[str, str]:
    if isinstance(urls, str) or not isinstance(urls, Iterable):
        shown = redacted(urls) if isinstance(urls, str) else urls
        raise TypeError(f"{kind} stores are an iterable of URLs or a mapping of names to URLs, not {shown!r}")
    return dict(urls) if isinstance(urls, Mapping) else {f"{kind}-{i}": url for i, url in enumerate(urls)}
