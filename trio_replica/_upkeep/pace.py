"""The pace at which a scrub reads from one store, in bytes a second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import trio

from .._blob import Blob

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._blob import Ref


@final
class Pace:
    """Reads of one store, each delayed so that all together keep to a rate in bytes a second, on Trio's clock.

    The size of a blob is not known before it is read. So each read is assumed to be as long as the one before it, and
    the assumption is corrected when the read ends. Until the first has ended, reads are one at a time.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._turn = trio.Lock()  # first come, first served
        self._due = -math.inf
        self._expected: int | None = None

    async def read(self, get: Callable[[Ref], Awaitable[bytes]], ref: Ref, *, is_listed: bool = True) -> Blob:
        """Return the result of ``get(ref)``, once the pace allows another read.

        A blob that is not listed is assumed to be missing, so its read counts as 0 bytes.
        """
        async with self._turn:
            while self._due > trio.current_time():  # noqa: ASYNC110  (reads that end in the meantime move it)
                await trio.sleep_until(self._due)
            expected = (self._expected or 0) if is_listed else 0
            self._due = max(self._due, trio.current_time()) + expected / self._rate
            if self._expected is None and is_listed:
                return await self._read(get, ref, expected)
        return await self._read(get, ref, expected)

    async def _read(self, get: Callable[[Ref], Awaitable[bytes]], ref: Ref, expected: int) -> Blob:
        blob = Blob(await get(ref))  # if this raises, it counts as much as the read before it
        self._due += (len(blob) - expected) / self._rate
        self._expected = len(blob)
        return blob
