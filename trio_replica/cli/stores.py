"""The stores of a command, with the options that choose them and the default."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from .._errors import StoreNotFoundError
from .._open import open_with
from .._options import OPTIONS, Options
from .._urls.opening import open_opening
from .._urls.parse import parse_url
from .._urls.places import check_outbox
from ..config import read_config
from ..stores._files import make_folders
from .files import OwnFiles
from .options import CONFIG_FILE, DEFAULTS, Given
from .output import CommandError, describe, say

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._replica import ReplicaStore
    from .._store import Store
    from .._urls.store_url import StoreUrl

DATA_FOLDER: Final = "trio-replica-data"
"""The folder of the default stores, in the current one."""

DEFAULT_SYNC: Final = f"sqlite:{DATA_FOLDER}/blobs.db"
DEFAULT_ASYNC: Final = f"dir:{DATA_FOLDER}/copy"

SHOWN: Final = 10
"""Refs that a command prints of many, unless all are requested."""

CONFIG_VARIABLE: Final = "TRIO_REPLICA_CONFIG"
"""The environment variable that names another one."""


class Stores(NamedTuple):
    """The stores of one command, by their names: those of the configuration, or their URLs without secrets."""

    sync: Mapping[str, StoreUrl]
    async_: Mapping[str, StoreUrl]
    options: Mapping[str, Any]
    """The options of the replica that a file or the command line gave."""
    are_default: bool
    may_create: bool = True
    """Whether a missing store is created."""

    def open(self) -> AbstractAsyncContextManager[ReplicaStore]:
        """Open a replica of all stores. This creates the folder of the default stores. Blocks.

        Raises:
          OSError: if the folder can't be created.

        """
        self.prepare()
        return open_opening(self.sync, self.async_, Options(**self.options))

    def prepare(self) -> None:
        """Create the folder of the default stores, if these are used and may be created. Blocks.

        Raises:
          OSError: if the folder can't be created.

        """
        if self.are_default and self.may_create:
            make_folders(os.path.abspath(DATA_FOLDER), durable=True)

    def open_to_read(self) -> AbstractAsyncContextManager[ReplicaStore]:
        """Open a read-only replica of the sync stores. No store is created or written to. Blocks.

        Raises:
          CommandError: if one does not exist.

        """
        for url in self.sync.values():
            if problem := absence(url):
                raise CommandError(problem)
        return open_opening(to_read(self.sync), {}, Options(**self._options_to_read()), to_read=True)

    @asynccontextmanager
    async def open_what_is_there(self) -> AsyncGenerator[ReplicaStore, None]:
        """Open a read-only replica of the existing stores among the sync stores and the `fallback`.

        This prints the problems of stores that can't be opened. If no sync store can be opened, the stores of the
        fallback are read instead.

        Raises:
          CommandError: if none can be opened.

        """
        fallback = {name: self.async_[name] for name in self.options.get("fallback", ())}
        async with AsyncExitStack() as stack:
            opened, problems = await open_each(to_read({**self.sync, **fallback}), stack)
            if not opened:
                raise CommandError("; ".join(problems.values()))
            for problem in problems.values():
                say(problem)
            sync, read_last = [
                {name: opened[name] for name in urls if name in opened} for urls in (self.sync, fallback)
            ]
            if not sync:
                sync, read_last = read_last, {}
            options = Options(fallback=read_last, **self._options_to_read())
            yield await stack.enter_async_context(open_with(sync, read_last, options, to_read=True))

    def all(self) -> dict[str, StoreUrl]:
        """Return all stores, the sync ones first."""
        return {**self.sync, **self.async_}

    def with_stand_ins(self) -> dict[str, StoreUrl]:
        """Return all stores, to be opened read-only, with an empty store in memory for each missing one. Blocks."""
        return {name: parse_url("memory:") if absence(url) else url.to_read() for name, url in self.all().items()}

    def kinds(self) -> dict[str, str]:
        """Return whether each store is sync or async, by its name."""
        return {**dict.fromkeys(self.sync, "sync"), **dict.fromkeys(self.async_, "async")}

    def own_files(self) -> OwnFiles:
        """Return the files of these stores and of the output of this process. Blocks."""
        urls = (*self.sync.values(), *self.async_.values())
        folders = [url.file for url in urls if os.path.isdir(url.file)]
        databases = [url.file for url in urls if url.file and url.file not in folders]
        databases += [self.options["outbox"]] if "outbox" in self.options else []
        outputs = [file.fileno() for file in (sys.stdout, sys.stderr) if file is not None]
        return OwnFiles([*folders, DATA_FOLDER] if self.are_default else folders, databases, outputs)

    def outbox(self) -> str:
        """Return the path of the outbox.

        Raises:
          CommandError: if there is none.

        """
        if "outbox" not in self.options:
            raise CommandError("there is no outbox: name it with --outbox FILE, or in a configuration file")
        path: str = self.options["outbox"]
        return path

    def _options_to_read(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if OPTIONS[name].is_for_reading}


async def open_each(
    urls: Mapping[str, StoreUrl],
    stack: AsyncExitStack,
    *,
    may_create: Collection[str] = (),
    remedies: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Store], dict[str, str]]:
    """Open stores until `stack` is left. Return the ones that open, and the problems of the others, by their names.

    A store that does not exist is created only if its name is in `may_create`. Otherwise its problem ends with the
    remedy, if it has one.
    """
    stores: dict[str, Store] = {}
    problems: dict[str, str] = {}
    for name, url in urls.items():
        to_create = name in may_create
        remedy = f"; mount its disk, or {remedies[name]}" if remedies.get(name) else ""
        if not to_create and (problem := absence(url)):
            problems[name] = f"{problem}{remedy}"
            continue
        try:
            stores[name] = await stack.enter_async_context((url if to_create else url.not_created()).open())
        except StoreNotFoundError:
            problems[name] = f"there is no store {url.shown}{remedy}"
        except Exception as error:  # a store may raise anything
            problems[name] = describe(error)
    return stores, problems  # noqa: ASYNC910  (there may be none to open)


def to_read(urls: Mapping[str, StoreUrl]) -> dict[str, StoreUrl]:
    """Return stores that will be opened read-only."""
    return {name: url.to_read() for name, url in urls.items()}


def absence(url: StoreUrl) -> str:
    """Return the message that a store does not exist, or an empty text if it does. Blocks.

    A store on another machine counts as existing, because opening it creates at most a table.
    """
    try:
        if landmark := url.landmark:
            os.stat(landmark)
    except OSError as error:
        return f"there is no store {url.shown}: {describe(error)}"
    return ""


def chosen_stores(context: click.Context, *, to_create: bool = False) -> Stores:
    """Return the stores of the options, or else of a configuration file, or else the default ones. Blocks.

    Raises:
      click.UsageError: if there are only async stores, or one is given twice.
      ConfigError: if the file is bad.
      CommandError: if the default ones do not exist and are not `to_create`.

    """
    may_create = context.find_root().ensure_object(Given).may_create
    stores = _chosen_stores(context, to_create=to_create and may_create)
    if may_create:
        return stores
    sync, async_ = [{name: url.not_created() for name, url in urls.items()} for urls in (stores.sync, stores.async_)]
    return stores._replace(sync=sync, async_=async_, may_create=False)


def _chosen_stores(context: click.Context, *, to_create: bool) -> Stores:
    options = context.find_root().ensure_object(Given)
    if options.async_ and not options.sync:
        raise click.UsageError("an --async store needs a --sync store beside it", context)
    if options.sync:
        check_once(context, [*options.sync, *options.async_])
        sync, async_ = _by_name(options.sync), _by_name(options.async_)
        return _with_options(context, Stores(sync, async_, DEFAULTS, are_default=False))
    path = options.config or os.environ.get(CONFIG_VARIABLE)
    if path or os.path.lexists(CONFIG_FILE):
        config = read_config(path or CONFIG_FILE)
        replica = Stores(config.sync, config.async_, {**DEFAULTS, **config.options}, are_default=False)
        return _with_options(context, replica)
    if not to_create and not os.path.isdir(DATA_FOLDER):
        raise CommandError(
            f"there is no {DATA_FOLDER}/ here: put files first (trio-replica put PATH), or name a store (--sync URL)"
        )
    sync, async_ = _by_name([parse_url(DEFAULT_SYNC)]), _by_name([parse_url(DEFAULT_ASYNC)])
    return _with_options(context, Stores(sync, async_, DEFAULTS, are_default=True))


def _with_options(context: click.Context, stores: Stores) -> Stores:
    """Return `stores` with the options of the replica that the command was given."""
    given = context.find_root().ensure_object(Given).options
    try:
        check_outbox(given.get("outbox"), [*stores.sync.values(), *stores.async_.values()])
    except ValueError as error:
        raise click.UsageError(str(error), context) from None
    return stores._replace(options={**stores.options, **given})


def check_once(context: click.Context, urls: Sequence[StoreUrl]) -> None:
    """Check that no store is named twice.

    Raises:
      click.UsageError: if one is.

    """
    for count, url in enumerate(urls):
        # Even if each is a store of its own, they can't share one name.
        if any(url.place == other.place or url.shown == other.shown for other in urls[:count]):
            raise click.UsageError(f"the store {url.shown} is given twice", context)


def _by_name(urls: Iterable[StoreUrl]) -> dict[str, StoreUrl]:
    return {url.shown: url for url in urls}
