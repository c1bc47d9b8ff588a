"""Reads of a blocking store, which can notice while they run that nobody waits for them any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from .._calls.start import Cancel, Done
    from .._calls.threads import StoreThreads

WhatT = TypeVar("WhatT")


@final
class Read(Generic[WhatT]):
    """A request to read `what`, which may be abandoned."""

    __slots__ = ("is_abandoned", "what")

    def __init__(self, what: WhatT) -> None:
        self.what = what
        self.is_abandoned = False
        """Whether nobody waits for it any more. Trio's thread sets it, and the serving thread reads it."""


@enable_ki_protection
def start_read(threads: StoreThreads[Read[WhatT]], what: WhatT, done: Done) -> Cancel:
    """Have `threads` read `what`: see `StoreThreads.start`. Being cancelled abandons the read."""
    read = Read(what)
    withdraw = threads.start(read, done, abandon_on_cancel=True)

    def cancel() -> bool:
        read.is_abandoned = True
        return withdraw()

    return cancel
