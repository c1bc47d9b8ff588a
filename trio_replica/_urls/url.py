"""Stores by their URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final
from urllib.parse import unquote

import trio
from trio.lowlevel import enable_ki_protection

from .._async.outbox_file import open_sqlite_outbox
from .._open import checked_stores, open_with
from .._options import Options, with_options
from .._redact import redacted
from ..stores.directory import open_directory
from ..stores.memory import MemoryStore
from ..stores.object_store import open_object_store
from ..stores.postgres import open_postgres
from ..stores.retrying import RetryingDeletableStore
from ..stores.sqlite import open_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from .._deletable import DeletableStore
    from .._open import OpenOutbox
    from .._options import ReplicaOptions
    from .._replica import ReplicaStore

    OpeningStore: TypeAlias = AbstractAsyncContextManager[DeletableStore]

Urls: TypeAlias = Iterable[str] | Mapping[str, str]

LOCAL: Final = {"memory": "memory:", "dir": "dir:PATH", "sqlite": "sqlite:PATH"}
REMOTE: Final = {
    "s3": "s3://BUCKET/PREFIX",
    "gs": "gs://BUCKET/PREFIX",
    "az": "az://CONTAINER/PREFIX",
    "postgresql": "postgresql://USER@HOST/DATABASE",
    "postgres": "postgres://USER@HOST/DATABASE",
}
SCHEMES: Final = LOCAL | REMOTE
"""The known schemes, with the shape of their URLs."""

RETRY_OPTIONS: Final = {"retry": bool, "retry_attempts": int, "retry_seconds": float}
"""What a URL, or a configuration, may say of any store, and what it is."""

POSTGRES_OPTIONS: Final = {"durable": bool, "answer_timeout": float}
"""What a URL may say of a PostgreSQL store beside libpq's parameters, and what it is."""

_YES_OR_NO: Final = {"true": True, "1": True, "false": False, "0": False}
_SERVERS: Final = ("endpoint", "endpoint_url", "base_url", "account_name")
"""How the options of obstore end that say which server a bucket is on."""

_POSTGRES_PORT: Final = "5432"
_TYPES: Final = {"bool": (bool,), "int": (int,), "float": (float, int), "str | bool": (str, bool)}
"""What the types of options are called, where the modules say it, and what a file may have for them."""


def open_store(url: str) -> AbstractAsyncContextManager[DeletableStore]:
    """Open the store that `url` names, for a block.

    As in ``async with open_store("sqlite:blobs.db") as store: …``.

    ``memory:`` is a new `MemoryStore`; ``dir:PATH`` what `open_directory` opens, and ``sqlite:PATH`` what `open_sqlite`
    opens, both durable. A path is taken as it stands, relative to the current folder.

    ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` and ``az://CONTAINER/PREFIX`` are what `open_object_store` opens, and
    ``postgresql://USER@HOST/DATABASE`` what `open_postgres` opens; with ``?OPTION=VALUE&…`` these take their options.
    Such a store is a `RetryingStore`; ``retry=false`` among the options says that it is not, and ``retry_attempts`` and
    ``retry_seconds`` are its budget.

    Raises:
      TypeError: if `url` is no `str`.
      ValueError: if its scheme is not one of these, or it has no path and needs one, or an option is bad. No password
        or key that is in it is shown.
      ModuleNotFoundError: if the store takes a package that is not installed.
      Exception: on entering the block, what opening the store raises.

    """
    return parse_url(url).open()


@with_options
def open_urls(
    sync: Urls, async_: Urls = (), **options: Unpack[ReplicaOptions]
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open a replica with stores of its own, which the block opens and closes: `open_store` and `open` in one step.

    An outbox is opened before the stores.

    Args:
      sync: the URLs of the sync stores; an iterable, or a mapping of names to URLs.
      async_: the URLs of the async stores, likewise.
      options: see `ReplicaOptions`.

    Raises:
      TypeError, ValueError: at once, what `open_store` and `open` raise, and if one folder, database or prefix of a
        bucket is given twice.
      ModuleNotFoundError: at once, what `open_store` raises.
      Exception: on entering the block, what opening a store raises; those opened before it have been closed.
      PoisonedError: when the block ends; see `open`.

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
        {name: open_store(url) for name, url in named_sync.items()},
        {name: open_store(url) for name, url in named_async.items()},
        taken,
    )


@final
@dataclass(frozen=True, repr=False)
class StoreUrl:
    """A URL taken apart, and what is said of its store beside it."""

    scheme: str
    path: str
    """What comes after the scheme and the colon, without the options that are ours."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function that opens the store. Some may be secrets."""
    retry: Mapping[str, Any] | None = None
    """Keyword arguments of `RetryingStore`; None if nothing is repeated."""

    def __repr__(self) -> str:
        return f"<StoreUrl {self.shown!r}>"

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return redacted(f"{self.scheme}:{self.path}")

    @property
    def place(self) -> Hashable:
        """What is the same for two URLs of one store; None if each is a store of its own."""
        if self.scheme == "memory":
            return None
        if self.scheme in LOCAL:
            return self.scheme, os.path.realpath(self.path)
        return _database(self.path) if self.scheme.startswith("postgres") else self._bucket()

    def open(self, *, retry: bool = True) -> OpeningStore:
        """Open the store for a block; one that repeats nothing if not `retry`."""
        opening = self._open()
        return opening if self.retry is None or not retry else _open_retrying(opening, self.retry)

    def _open(self) -> OpeningStore:
        place = [] if self.scheme == "memory" else [self.path if self.scheme in LOCAL else f"{self.scheme}:{self.path}"]
        return _opener(self.scheme)(*place, **self.options)

    def _bucket(self) -> Hashable:
        address, _, query = self.path.partition("?")
        bucket, _, prefix = address.removeprefix("//").partition("/")
        options = {**self.options, **dict(_options(query))}
        servers = sorted(
            str(value).rstrip("/").lower() for option, value in options.items() if option.lower().endswith(_SERVERS)
        )
        return self.scheme, bucket, unquote(prefix).strip("/"), *servers


def parse_url(url: str, options: Mapping[str, Any] | None = None) -> StoreUrl:
    """Take the URL of a store apart.

    Args:
      url: the URL.
      options: keyword arguments of the function that opens the store, and those of `RETRY_OPTIONS`; what the URL says
        counts more.

    Raises:
      TypeError: if it is no `str`.
      ValueError: if `open_store` could not open it; but not all of its options are looked at.

    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a store is a str, not {type(url).__name__}")
    scheme, colon, path = url.partition(":")
    if not colon or scheme not in SCHEMES:
        shown = f"{scheme}:…" if colon and "@" in path else redacted(url)  # that may be a password before an address
        raise ValueError(f"unknown store {shown!r}: a store's URL is one of {', '.join(SCHEMES.values())}")
    options = dict(options or {})
    ours = {option: options.pop(option) for option in RETRY_OPTIONS if option in options}
    if scheme in LOCAL:
        _check_path(url, scheme, path)
    else:
        _check_address(scheme, path)
        path, said = _taken(path, RETRY_OPTIONS)
        ours |= said
        if scheme.startswith("postgres"):
            path, said = _taken(path, POSTGRES_OPTIONS)
            options |= said
    return StoreUrl(scheme, path, options, _retry(ours, default=scheme in REMOTE))


def option_kinds(scheme: str) -> tuple[dict[str, tuple[type, ...]], tuple[type, ...] | None]:
    """Return what options the stores of a scheme have, each with the types of its values.

    And the types of the values of all others; None if there are no others. They are the keyword arguments of the
    function that opens the store, and `RETRY_OPTIONS`.
    """
    known = {option: _TYPES[kind.__name__] for option, kind in RETRY_OPTIONS.items()}
    others = None
    for parameter in signature(_opener(scheme)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            known[parameter.name] = _TYPES[parameter.annotation]
        elif parameter.kind is parameter.VAR_KEYWORD:
            others = _TYPES[parameter.annotation]
    return known, others


def check_places(urls: Iterable[StoreUrl]) -> None:
    """Check that no two URLs are those of one store.

    Raises:
      ValueError: if two are.

    """
    places: dict[Hashable, StoreUrl] = {}
    for url in urls:
        other = places.setdefault(url.place, url)
        if url.place is not None and other is not url:
            raise ValueError(f"one store is given twice: as {other.shown!r} and as {url.shown!r}")


def check_outbox(outbox: str | None, urls: Iterable[StoreUrl]) -> None:
    """Check that the outbox, if there is one, is no store as well.

    Raises:
      ValueError: if it is.

    """
    if outbox is not None:
        place = "sqlite", os.path.realpath(outbox)
        for url in urls:
            if url.place == place:
                raise ValueError(f"the outbox {outbox!r} is the database of a store: name another file")


def check_replica(sync: Iterable[str], async_: Iterable[str], options: Options) -> None:
    """Check the names of the stores of a replica, and that its options fit them, before any store is opened.

    Raises:
      TypeError, ValueError: what `open` raises about them.

    """
    sync_stores, async_stores = [{name: MemoryStore() for name in names} for names in (sync, async_)]
    checked_stores(sync_stores, async_stores, options, has_outbox=options.outbox is not None)


@asynccontextmanager
@enable_ki_protection
async def open_opening(
    sync: Mapping[str, OpeningStore], async_: Mapping[str, OpeningStore], options: Options
) -> AsyncGenerator[ReplicaStore, None]:
    """Open an outbox, if there is to be one, then stores, and a replica of them, for a block."""
    open_outbox: OpenOutbox | None = None
    async with AsyncExitStack() as stack:
        if options.outbox is not None:
            names = [redacted(name) for name in async_]
            kept = await stack.enter_async_context(open_sqlite_outbox(options.outbox, names))
            open_outbox = lambda _: nullcontext(kept)  # noqa: E731  (a function that is used once)
        sync_stores, async_stores = [
            {name: await stack.enter_async_context(opening) for name, opening in stores.items()}
            for stores in (sync, async_)
        ]
        yield await stack.enter_async_context(open_with(sync_stores, async_stores, options, open_outbox))


def _opener(scheme: str) -> Callable[..., OpeningStore]:
    """Return the function that opens the stores of a scheme."""
    local: dict[str, Callable[..., OpeningStore]]
    local = {"memory": _open_memory, "dir": open_directory, "sqlite": open_sqlite}
    return local.get(scheme) or (open_postgres if scheme.startswith("postgres") else open_object_store)


def _check_path(url: str, scheme: str, path: str) -> None:
    if bool(path) != LOCAL[scheme].endswith("PATH") or "\0" in path:
        raise ValueError(f"the URL of such a store is {LOCAL[scheme]}, not {redacted(url)!r}")
    other = path.partition("://")[0]
    if other in REMOTE and "://" in path:
        raise ValueError(f"the URL of such a store is {LOCAL[scheme]}: for a store of {other}:// leave out {scheme}:")
    if path.startswith("//") and not path.startswith("///"):
        raise ValueError(f"the URL of such a store is {LOCAL[scheme]} and can't name a host as {redacted(url)!r} does")


def _check_address(scheme: str, path: str) -> None:
    """Check what names a remote store, without showing it, for what is wrong may be that it has a secret in it."""
    if not path.startswith("//"):
        raise ValueError(f"the URL of such a store is {REMOTE[scheme]}")
    if re.search(r"[\s\x00-\x1f\x7f]", path):
        raise ValueError(f"the URL of such a store is {REMOTE[scheme]}; a space in it is %20")


def _taken(path: str, kinds: Mapping[str, type[bool | int | float]]) -> tuple[str, dict[str, Any]]:
    """Return a path without the options that `kinds` has, and these with their values."""
    address, mark, query = _split_query(path)
    theirs, ours = [], {}
    for part in query.split("&") if mark else ():
        option, equals, value = part.partition("=")
        name = unquote(option)
        if name not in kinds:
            theirs.append(part)
            continue
        if not equals or name in ours:
            raise ValueError(f"{name} is given once, as {name}=VALUE")
        ours[name] = _value(name, unquote(value), kinds[name])
    return address + (mark + "&".join(theirs) if theirs else ""), ours


def _split_query(path: str) -> tuple[str, str, str]:
    """Split at the question mark that begins the options: the first one that is in no password."""
    slash = path.find("/", 2)
    at = path.rfind("@", 0, slash if slash >= 0 else len(path))
    before, after = path[: at + 1], path[at + 1 :]
    address, mark, query = after.partition("?")
    return before + address, mark, query


def _value(option: str, text: str, kind: type[bool | int | float]) -> bool | int | float:
    try:
        return _YES_OR_NO[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        shape = {bool: "true or false", int: "a whole number", float: "a number of seconds"}[kind]
        raise ValueError(f"{option} is {shape}") from None  # what is there in place of it may be a secret


def _retry(ours: Mapping[str, Any], *, default: bool) -> dict[str, Any] | None:
    budget = {option.removeprefix("retry_"): value for option, value in ours.items() if option != "retry"}
    if ours.get("retry", default):
        try:
            RetryingDeletableStore(MemoryStore(), **budget)  # checks it
        except ValueError as error:
            raise ValueError(f"retry_{error}") from None
        return budget
    if budget:
        raise ValueError("retry_attempts and retry_seconds are for a store with retry=true")
    return None


def _options(query: str) -> Iterable[tuple[str, str]]:
    for part in query.split("&"):
        option, _, value = part.partition("=")
        yield unquote(option), unquote(value)


def _database(path: str) -> Hashable:
    """Return the place of a PostgreSQL database. Who is named to use it does not matter, but where nothing else is."""
    address, _, query = _split_query(path)
    user, _, rest = address.removeprefix("//").rpartition("@")
    authority, _, name = rest.partition("/")
    options = dict(_options(query))
    hosts = options.get("hostaddr") or options.get("host") or unquote(authority)
    ports = options.get("port") or _POSTGRES_PORT
    servers = [host if re.search(r":\d+$", host) else f"{host}:{ports}" for host in map(_host, hosts.split(","))]
    database = options.get("dbname") or unquote(name) or options.get("user") or unquote(user.partition(":")[0])
    return "postgresql", tuple(servers), database, options.get("service"), options.get("options")


def _host(host: str) -> str:
    return host if host.startswith("/") else host.lower()  # the folder of a socket


def _named(kind: str, urls: Urls) -> dict[str, str]:
    if isinstance(urls, str) or not isinstance(urls, Iterable):
        shown = redacted(urls) if isinstance(urls, str) else urls
        raise TypeError(f"{kind} stores are an iterable of URLs or a mapping of names to URLs, not {shown!r}")
    return dict(urls) if isinstance(urls, Mapping) else {f"{kind}-{i}": url for i, url in enumerate(urls)}


@asynccontextmanager
async def _open_memory() -> AsyncGenerator[DeletableStore, None]:
    await trio.lowlevel.checkpoint()
    yield MemoryStore()


@asynccontextmanager
async def _open_retrying(opening: OpeningStore, budget: Mapping[str, Any]) -> AsyncGenerator[DeletableStore, None]:
    async with opening as store:
        yield RetryingDeletableStore(store, **budget)
