"""The progress of a command: in the last line of a terminal; in a log, as that of CI, in a line now and then."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

SECONDS: Final = 10.0
"""The least time between two lines."""


@contextmanager
def progress(console: Console) -> Generator[Callable[[str], None], None, None]:
    """Yield a function that shows its argument, a message, until the block ends or the next one comes."""
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield lines()


def lines(clock: Callable[[], float] = monotonic) -> Callable[[str], None]:
    """Return a function that prints what it is told on standard error: at once, then one line in ten seconds."""
    began = last = clock()
    last -= SECONDS

    def tell(message: str) -> None:
        nonlocal last
        now = clock()
        if now >= last + SECONDS:
            last = now
            click.echo(f"{now - began:.0f} s: {message}", file=sys.stderr)

    return tell
