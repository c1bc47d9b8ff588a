"""Options that several commands take: folders, numbers above zero."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")


class Positive(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A finite number above zero."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} is no finite number above zero", param, ctx)
        return number


def folder_option(name: str, meaning: str) -> Callable[[CommandT], CommandT]:
    """Return an option for a folder that can be written."""
    return click.option(
        name,
        metavar="DIR",
        type=click.Path(path_type=Path),
        callback=_writable,
        default=".",
        help=f"{meaning}; the current folder by default.",
    )


quick_option: Final = click.option("--quick", is_flag=True, help="See that it all works: the figures mean nothing.")
only_option: Final = click.option("--only", metavar="TEXT", default="", help="Measure only what has TEXT in its title.")


def _writable(_: click.Context, parameter: click.Parameter, folder: Path) -> Path:
    try:
        with TemporaryDirectory(dir=folder):
            return folder
    except OSError as error:
        raise click.BadParameter(f"{folder} is no folder that can be written: {error}", param=parameter) from None
