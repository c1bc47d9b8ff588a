"""The stores of a command: the options that choose them, and the default."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from ._cli_files import OwnFiles
from ._cli_output import CommandError, describe, say
from ._replica import open as open_replica
from ._url import open_store, open_urls, split_url
from .stores._files import make_folders

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from ._replica import ReplicaStore
    from ._store import Store

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

DATA_FOLDER: Final = "trio-replica-data"
"""The folder of the default stores, in the current one."""

DEFAULT_SYNC: Final = f"sqlite:{DATA_FOLDER}/blobs.db"
DEFAULT_ASYNC: Final = f"dir:{DATA_FOLDER}/copy"

QUEUE_SIZE: Final = 64
"""Blobs that wait for an async store, if the options don't say. More than the library's 10, because a put of files
bounds the bytes too, and a worker writes as many together."""


@dataclass
class Options:
    """What the options have said so far: they may stand before the name of a command and after it."""

    sync: list[str] = field(default_factory=list)
    async_: list[str] = field(default_factory=list)
    queue_size: int = QUEUE_SIZE


class Stores(NamedTuple):
    """The stores of one command, by their URLs, which are also their names in the replica."""

    sync: list[str]
    async_: list[str]
    queue_size: int
    are_default: bool

    def open(self) -> AbstractAsyncContextManager[ReplicaStore]:
        """Open a replica of all. Of the default stores, this creates the folder. Blocks.

        Raises:
          OSError: if the folder can't be created.

        """
        if self.are_default:
            make_folders(os.path.abspath(DATA_FOLDER), durable=True)
        return open_urls(_by_name(self.sync), _by_name(self.async_), queue_size=self.queue_size)

    def open_to_read(self) -> AbstractAsyncContextManager[ReplicaStore]:
        """Open a replica of the sync stores, none of which is created. Blocks.

        Raises:
          CommandError: if one is not there.

        """
        for url in self.sync:
            if problem := absence(url):
                raise CommandError(problem)
        return open_urls(_by_name(self.sync))

    @asynccontextmanager
    async def open_what_is_there(self) -> AsyncGenerator[ReplicaStore, None]:
        """Open a replica of those sync stores that can be opened; say what is wrong with each other. None is created.

        Raises:
          CommandError: if none can be opened.

        """
        problems: list[str] = []
        async with AsyncExitStack() as stack:
            stores: dict[str, Store] = {}
            for url in self.sync:
                if problem := absence(url):
                    problems.append(problem)
                    continue
                try:
                    stores[url] = await stack.enter_async_context(open_store(url))
                except Exception as error:  # a store may raise anything
                    problems.append(describe(error))
            if not stores:
                raise CommandError("; ".join(problems))
            for problem in problems:
                say(problem)
            yield await stack.enter_async_context(open_replica(stores))

    def own_files(self) -> OwnFiles:
        """Return the files of these stores, and of what this process prints. Blocks."""
        places = [split_url(url) for url in (*self.sync, *self.async_)]
        folders = [path for scheme, path in places if scheme == "dir"]
        databases = [path for scheme, path in places if scheme == "sqlite"]
        outputs = [file.fileno() for file in (sys.stdout, sys.stderr) if file is not None]
        return OwnFiles([*folders, DATA_FOLDER] if self.are_default else folders, databases, outputs)


def absence(url: str) -> str:
    """Return what says that a store is not there, so that opening it would create it; empty if it is. Blocks."""
    scheme, path = split_url(url)
    if scheme != "memory":
        try:
            os.stat(os.path.join(path, "blobs") if scheme == "dir" else path)
        except OSError as error:
            return f"there is no store {url}: {describe(error)}"
    return ""


def chosen_stores(context: click.Context, *, to_create: bool = False) -> Stores:
    """Return the stores that the options choose, or else the default ones. Blocks.

    Raises:
      click.UsageError: if there are only async stores, or one is given twice.
      CommandError: if the default ones are not there, unless they are `to_create`.

    """
    options = context.find_root().ensure_object(Options)
    if options.async_ and not options.sync:
        raise click.UsageError("an --async store needs a --sync store beside it", context)
    places: set[tuple[str, str]] = set()
    for url in (*options.sync, *options.async_):
        scheme, path = split_url(url)
        place = (scheme, os.path.realpath(path))
        if place in places:
            raise click.UsageError(f"the store {url} is given twice", context)
        places.add(place)
    if options.sync:
        return Stores(options.sync, options.async_, options.queue_size, are_default=False)
    if not to_create and not os.path.isdir(DATA_FOLDER):
        raise CommandError(
            f"there is no {DATA_FOLDER}/ here: put files first (trio-replica put PATH), or name a store (--sync URL)"
        )
    return Stores([DEFAULT_SYNC], [DEFAULT_ASYNC], options.queue_size, are_default=True)


def store_options(command: CommandT) -> CommandT:
    """Give a command the options that choose the stores."""
    for option in (
        click.option(
            "--queue-size",
            metavar="N",
            type=click.IntRange(min=1),
            expose_value=False,
            callback=_set_queue_size,
            help=f"The blobs that wait for one async store before a put waits; {QUEUE_SIZE} by default.",
        ),
        click.option(
            "--async",
            metavar="URL",
            multiple=True,
            expose_value=False,
            callback=_add_urls,
            help="A store that is given each blob in the background. May be repeated.",
        ),
        click.option(
            "--sync",
            metavar="URL",
            multiple=True,
            expose_value=False,
            callback=_add_urls,
            help="A store that has each blob before its put returns, and that is read. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def _add_urls(context: click.Context, parameter: click.Parameter, urls: Iterable[str]) -> None:
    options = context.find_root().ensure_object(Options)
    for url in urls:
        try:
            split_url(url)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None
        (options.sync if parameter.name == "sync" else options.async_).append(url)


def _set_queue_size(context: click.Context, _: click.Parameter, queue_size: int | None) -> None:
    if queue_size is not None:
        context.find_root().ensure_object(Options).queue_size = queue_size


def _by_name(urls: Iterable[str]) -> dict[str, str]:
    return {url: url for url in urls}
