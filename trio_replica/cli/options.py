"""The command-line options that choose the stores, and the values that they were given."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .._errors import MissingCredentialsError
from .._options import OPTIONS, TYPES
from .._urls.kinds import kinds_of
from .._urls.parse import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._urls.store_url import StoreUrl

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

DEFAULTS: Final[Mapping[str, Any]] = {"queue_size": 64}
"""The default options of the replica. The queue is larger than the library's, because a put of files also bounds the
bytes, and a worker writes as many blobs together."""

_TYPES: Final = {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING}

CONFIG_FILE: Final = "trio-replica.toml"
"""The name of the configuration file in the current folder."""


@dataclass
class Given:
    """The stores and options that were given so far, before the name of the command and after it."""

    sync: list[StoreUrl] = field(default_factory=list)
    async_: list[StoreUrl] = field(default_factory=list)
    config: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """The options of the replica."""
    may_create: bool = True
    """Whether a missing store is created."""


def store_options(command: CommandT) -> CommandT:
    """Give a command the options that choose the stores."""
    for option in (
        *(_option(name) for name in reversed(OPTIONS) if OPTIONS[name].flag),
        click.option(
            "--no-create",
            is_flag=True,
            expose_value=False,
            callback=_set_no_create,
            help="Create no store, because the disk of a missing store may not be mounted.",
        ),
        click.option(
            "--config",
            metavar="FILE",
            type=click.Path(),
            expose_value=False,
            callback=_set_config,
            help=f"The file that names the stores, if no --sync does; {CONFIG_FILE} by default.",
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
    options = context.find_root().ensure_object(Given)
    (options.sync if parameter.name == "sync" else options.async_).extend(checked_urls(context, parameter, urls))


def checked_urls(context: click.Context, parameter: click.Parameter, urls: Iterable[str]) -> list[StoreUrl]:
    """Return the stores that an option names.

    Raises:
      click.BadParameter: if one is bad.

    """
    return [checked_url(context, parameter, url) for url in urls]


def checked_url(context: click.Context, parameter: click.Parameter, url: str) -> StoreUrl:
    """Return the store that an option or an argument names.

    Raises:
      click.BadParameter: if it is bad.

    """
    try:
        parsed = parse_url(url)
    except (ValueError, ImportError) as error:
        raise click.BadParameter(str(error), context, parameter) from None
    if problem := _bad_options(parsed):
        raise click.BadParameter(problem, context, parameter)
    return parsed


def _bad_options(url: StoreUrl) -> str:
    """Return the problem with the options of a URL, or an empty text if there is no problem.

    Other reasons why it can't be opened, such as missing credentials or a missing package, are left to the command,
    because some commands can do without a store.
    """
    try:
        url.open()  # opens nothing before the block is entered
    except MissingCredentialsError:
        return ""
    except (TypeError, ValueError) as error:
        return str(error)
    except Exception:  # another package's function may raise anything
        return ""
    return ""


def _set_config(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is not None:
        context.find_root().ensure_object(Given).config = path


def _set_no_create(context: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set:
        context.find_root().ensure_object(Given).may_create = False


def _option(name: str) -> Callable[[CommandT], CommandT]:
    """Return the option of a command that gives the replica one of its options."""
    option = OPTIONS[name]
    default = DEFAULTS.get(name, option.default)
    return click.option(
        f"--{name.replace('_', '-')}",
        metavar=option.flag,
        type=_TYPES[kinds_of(TYPES[name])[0]],
        expose_value=False,
        callback=partial(_set_option, name),
        help=option.summary + ("." if default is None else f"; {default} by default."),
    )


def _set_option(name: str, context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None:
        try:
            value = OPTIONS[name].check("it", value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None
        context.find_root().ensure_object(Given).options[name] = value
