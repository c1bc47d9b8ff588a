"""Drawing what a power cut leaves."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS: Final = (512, 4096, 2**62)
"""Bytes that are written at once: by a disk, by a file system, by somebody who writes all or nothing."""


@final
class DrawnFate:
    """Keeps a share of what was not synced, which is drawn too: often all of it, or nothing."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._share_of_names = self._draw_share()
        self._share_of_data = self._draw_share()
        self._unit = self._draw.choice(UNITS)

    def _draw_share(self) -> float:
        return self._draw.choice([0.0, 0.0, 1.0, 1.0, 0.1, 0.5, 0.9])

    def keeps(self) -> bool:
        """Return whether the next change is left: of names in folders, or of a file's length."""
        return self._draw.random() < self._share_of_names

    def parts(self, size: int, offset: int) -> Iterator[slice]:
        """Return which parts are left of a write of `size` bytes at `offset`."""
        first = 0
        while first < size:
            end = min(size, first + self._unit - (offset + first) % self._unit)
            if self._draw.random() < self._share_of_data:
                yield slice(first, end)
            first = end
