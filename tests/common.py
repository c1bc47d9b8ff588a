"""What several tests of replicas use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_replica import Ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_replica import Store

BROKEN = OSError("broken")


class Ended:
    """When, and how, a task that runs `call` ended."""

    def __init__(self, nursery: trio.Nursery, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        self.at: float | None = None
        self.value: object = None
        self.error: BaseException | None = None
        self.done = trio.Event()
        nursery.start_soon(self._run, call, arguments)

    async def _run(self, call: Callable[..., Awaitable[object]], arguments: tuple[object, ...]) -> None:
        try:
            self.value = await call(*arguments)
        except Exception as error:
            self.error = error
        self.at = trio.current_time()
        self.done.set()


async def put_numbers(store: Store, numbers: Iterable[int]) -> list[Ref]:
    return [(await store.put(b"%d" % number)).ref for number in numbers]


def refs(*numbers: int) -> tuple[Ref, ...]:
    return tuple(Ref.of(b"%d" % number) for number in numbers)
