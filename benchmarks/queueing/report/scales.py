"""The axes of the charts, which are logarithmic; that of the figures goes on below its least decade, down to 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

TICKS: Final = (1, 4, 16, 64, 256, 1024, 4096)

FEW_DECADES: Final = 4
"""An axis of no more decades has ticks at twice and five times the powers of ten, too."""


def set_sizes(axes: Any, sizes: Sequence[int]) -> None:
    """Set the axis of the queue sizes, which are ascending."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    shown = [tick for tick in TICKS if sizes[0] <= tick <= sizes[-1]]
    axes.set_xticks(shown, [str(tick) for tick in shown])
    axes.set_xlabel("queue_size (blobs)")


def set_heights(axes: Any, values: Sequence[float], unit: str, *, share: bool) -> None:
    """Set the axis of some figures: logarithmic, and from 0 to the least of them linear."""
    above = [value for value in values if value > 0]
    low = math.floor(math.log10(min(above, default=1.0)))
    high = math.ceil(math.log10(max(above, default=1.0)))
    if len(above) == len(values):
        axes.set_yscale("log")
        axes.set_ylim(min(above) / 1.4, max(above) * 1.4)
    else:
        axes.set_yscale("symlog", linthresh=10.0**low, linscale=0.4)
        axes.set_ylim(0, 1.4 * max(values, default=1.0) or 1.0)
    factors = (1, 2, 5) if high - low <= FEW_DECADES else (1,)
    ticks = [0.0, *(factor * 10.0**power for power in range(low, high + 1) for factor in factors)]
    bottom, top = axes.get_ylim()
    shown = [tick for tick in ticks if bottom <= tick <= min(top, 1.0 if share else top)]
    axes.set_yticks(shown, [_tick(tick, share=share) for tick in shown])
    axes.set_yticks([], minor=True)
    axes.set_ylabel(unit)


def _tick(value: float, *, share: bool) -> str:
    return f"{np.format_float_positional(round(100 * value, 9), trim='-')} %" if share else f"{value:g}"
