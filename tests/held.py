"""A request to a blocking store that occupies the thread which serves it until a test lets it go."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import outcome
import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_replica import StoreThreads

Ended: TypeAlias = "outcome.Value[Any] | outcome.Error"

PATIENCE: Final = 30
"""Seconds after which what a test waits for will not come any more: the test fails, and does not hang."""


class Held:
    """A request that, once it runs, waits until it is released, at the latest when the block ends."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.ended = False
        self._failure = failure
        self._running = threading.Event()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __call__(self, *_: object) -> str:
        self._running.set()
        assert self._released.wait(PATIENCE)
        self.ended = True
        if self._failure is not None:
            raise self._failure
        return "held"

    def release(self) -> None:
        self._released.set()

    async def wait_running(self) -> None:
        await wait_for(self._running)


async def wait_for(event: threading.Event) -> None:
    """Wait for what a thread sets."""
    assert await trio.to_thread.run_sync(event.wait, PATIENCE)


async def in_one_batch(threads: StoreThreads[Any], *calls: Callable[[], Awaitable[object]]) -> list[Ended]:
    """Make calls that `threads`, which is one, takes as one batch in this order, and return how they ended."""

    async def make(i: int) -> None:
        try:
            ended[i] = outcome.Value(await calls[i]())
        except Exception as error:
            ended[i] = outcome.Error(error)

    ended: dict[int, Ended] = {}
    async with trio.open_nursery() as nursery:
        with Held() as held:
            nursery.start_soon(threads.run, held)  # noqa: ASYNC111  (released, it ends, and so does the nursery)
            await held.wait_running()
            for i in range(len(calls)):
                nursery.start_soon(make, i)
                await trio.testing.wait_all_tasks_blocked()
    return [ended[i] for i in range(len(calls))]
