"""The output of the command line: results, problems, and the progress of a command."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .._calls.attempt import attempt
from .._errors import MissingCredentialsError, ReplicaError
from .._printable import printable
from .._redact import redacted
from ..config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

ResultT = TypeVar("ResultT")

DRAW_SECONDS: Final = 0.1
"""Seconds between two drawings of the display."""

BAR_WIDTH: Final = 16
"""Columns of the bar. Bar and text together fit in 80."""

_ERASE: Final = "\r\x1b[2K"


class CommandError(Exception):
    """An error that ends a command. Its message is one line for the user."""


class OutputError(CommandError):
    """Standard output can't be written to. The cause, if there is one, is the system's error."""


def write_output(data: bytes) -> None:
    """Write all of `data` to standard output. Blocks.

    This bypasses Python's own buffer. Otherwise a thread that is abandoned here would hold the buffer's lock when the
    interpreter flushes the buffer at its exit.

    Raises:
      OutputError: if the system refuses, or the process began with a closed standard output.

    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        write_all(sys.stdout.fileno(), data)
    except OSError as error:
        raise OutputError(f"standard output: {error.strerror}") from error


def write_all(file: int, data: bytes) -> None:
    """Write all of `data` to an open file. Blocks."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output. Blocks.

    Raises:
      OutputError: if standard output accepts no more.

    """
    for line in lines:
        write_output(f"{printable(line)}\n".encode())


def say(message: str) -> None:
    """Print `message` on standard error, as one line whatever is in it."""
    _write_error(f"trio-replica: {printable(' '.join(message.splitlines()))}\n")


def describe(error: BaseException) -> str:
    """Return the message of `error` without secrets, for a user who sees only this message."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{printable(str(error.filename))}: {error.strerror}"
    if isinstance(error, (ConfigError, CommandError)):  # these have no secrets
        return str(error)
    text = redacted(str(error))
    if isinstance(error, (ReplicaError, ImportError)) or (
        type(error) in {ValueError, MissingCredentialsError} and text
    ):
        return text  # a ValueError, whose message names the bad value
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@final
class Display:
    """One line that shows the progress of a command, if standard error is a terminal.

    `run` draws it repeatedly. It is erased while something else is written.
    """

    def __init__(self) -> None:
        self._console: Console | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            console = Console(stderr=True)
            self._console = None if console.is_dumb_terminal else console
        self._say: Callable[[], str] = str
        self._total: int | None = None
        self._done = 0
        self._began = trio.current_time()
        self._drawn = ""
        self._away = False

    @property
    def seconds(self) -> float:
        """The seconds since `begin`."""
        return trio.current_time() - self._began

    def begin(self, saying: Callable[[], str], total: int | None = None) -> None:
        """Show the text of ``saying()``, and a bar that is full after `total` steps. With None the bar just moves."""
        self._say = saying
        self._total = total
        self._done = 0
        self._began = trio.current_time()

    def advance(self, steps: int) -> None:
        """Count `steps` more as done."""
        self._done += steps

    def problem(self, message: str) -> None:
        """Print `message` as `say` does."""
        with self._taken_away():
            say(message)

    async def write(self, data: bytes) -> None:
        """Write `data` as `write_output` does, in a thread. Being cancelled abandons the thread.

        Raises:
          OutputError: if standard output accepts no more.

        """
        with self._taken_away():
            await trio.to_thread.run_sync(write_output, data, abandon_on_cancel=True)

    async def during(self, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Return the result of ``await call()``, or raise its error, and draw the line while it runs."""
        async with trio.open_nursery() as drawing:
            drawing.start_soon(self.run)
            ended = await attempt(_awaited, call)  # a failure raised here would come out in a group
            drawing.cancel_scope.cancel()
        try:
            return ended.unwrap()
        finally:
            del ended  # the traceback of its error refers to this frame

    async def run(self) -> None:
        """Draw the line until cancelled, and then erase it."""
        try:
            while True:
                self._draw()
                await trio.sleep(DRAW_SECONDS)
        finally:
            if self._drawn:
                _write_error(_ERASE)
                self._drawn = ""

    @contextmanager
    def _taken_away(self) -> Generator[None, None, None]:
        if self._drawn:
            _write_error(_ERASE)
        self._away = True
        try:
            yield
        finally:
            self._away = False
            if self._drawn:
                _write_error(self._drawn)

    def _draw(self) -> None:
        if self._console is None or self._away:
            return
        bar = ProgressBar(self._total or 1, self._done, width=BAR_WIDTH, pulse=self._total is None)
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, Text(self._say() + self._time_left(), no_wrap=True, overflow="ellipsis"))
        with self._console.capture() as captured:
            self._console.print(line)
        self._drawn = captured.get().partition("\n")[0]
        _write_error(_ERASE + self._drawn)

    def _time_left(self) -> str:
        if self._total is None or not 0 < self._done < self._total:
            return ""
        seconds = self.seconds / self._done * (self._total - self._done)
        return f", {timedelta(seconds=round(seconds))} left"


async def _awaited(call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    return await call()


def _write_error(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):  # such as a pipe without a reader
            write_all(sys.stderr.fileno(), text.encode(sys.stderr.encoding, "backslashreplace"))
