"""One run of Trio for a command, which SIGINT cancels."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

ResultT = TypeVar("ResultT")

FAILED: Final = 1
INTERRUPTED: Final = 130
"""The exit status that a shell gives for a process that SIGINT ended: 128 and the number of the signal."""


def run(call: Callable[..., Awaitable[ResultT]], *arguments: object) -> ResultT:
    """Return the result of ``await call(*arguments)`` in a Trio run of its own, which SIGINT cancels.

    Raises:
      KeyboardInterrupt: if SIGINT cancelled the run.

    """

    async def run_it() -> ResultT:
        with cancelled_by_sigint():
            return await call(*arguments)
        raise KeyboardInterrupt

    return trio.run(run_it)


@contextmanager
def cancelled_by_sigint() -> Generator[trio.CancelScope, None, None]:
    """Let SIGINT cancel the block, instead of raising KeyboardInterrupt between any two steps of the program.

    A process that ignores SIGINT, for example in the background of a script, still ignores it.
    """
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield scope
            return
        former = signal.signal(signal.SIGINT, lambda *_: token.run_sync_soon(scope.cancel))
        try:
            yield scope
        finally:
            signal.signal(signal.SIGINT, former)
