"""The axes of the charts: both are logarithmic, and what is 0 stands in a row of its own at the foot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.sweep import Curve
    from .panels import Panel

TICKS: Final = (1, 4, 16, 64, 256, 1024, 4096)

FLOOR: Final = 0.045
"""How high the row of those that are 0 stands on a logarithmic axis, as a share of its height."""

NONE: Final = "< 3/N"
"""What no put of N waits for: 3/N is the end of a 95 % interval for its share."""


@dataclass(frozen=True)
class Heights:
    """Where a logarithmic axis begins and ends, and what stands at its foot because it is 0."""

    bottom: float
    least: float
    """The least that is drawn to scale."""
    top: float
    nones: list[tuple[int, int, float]]
    """Which curve, from which queue size on it is 0, and how high that is drawn."""

    @classmethod
    def of(cls, panel: Panel, curves: Sequence[Curve]) -> Heights:
        """Return them so that there is room for all that is shown in the panel."""
        values = [panel.values(curve) for curve in curves]
        real = [getattr(checked.real, panel.figure) for curve in curves for checked in curve.checked.values()]
        worst = [panel.largest(curve, size) for curve in curves for size in curve.points]
        seen = [value for value in [*(one for of in values for one in of.values()), *real, *worst] if value > 0]
        ends = [(place, end) for place, of in enumerate(values) if (end := _zero_from(of)) is not None]
        if panel.share:
            bounds = [(place, end, 3 / curves[place].puts(end)) for place, end in ends]
            least = min([0.15, *seen, *(bound for _, _, bound in bounds)]) / 1.7
            return cls(least, least, 1.7, bounds)
        top = 1.4 * max(seen, default=1.0)
        least = min(min(seen, default=1.0) / 1.4, top / 10)
        bottom = least * (least / top) ** (3 * FLOOR if ends else 0.0)
        return cls(bottom, least, top, [(place, end, bottom * (top / bottom) ** FLOOR) for place, end in ends])


def set_sizes(axes: Any, sizes: Sequence[int]) -> None:
    """Set the axis of the queue sizes, which are ascending."""
    low, high = sizes[0] / 1.25, sizes[-1] * 1.25
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    shown = [tick for tick in TICKS if low <= tick <= high]
    _set_ticks(axes.xaxis, shown, [str(tick) for tick in shown])
    axes.set_xlabel("queue_size (blobs)")


def set_heights(axes: Any, panel: Panel, heights: Heights, ink: str) -> None:
    """Set the axis of what the panel shows."""
    axes.set_yscale("log")
    axes.set_ylim(heights.bottom, heights.top)
    none = min((height for _, _, height in heights.nones), default=None)
    ticks = {
        tick: _tick(tick, share=panel.share)
        for tick in _round(heights.least, min(heights.top, 1.0) if panel.share else heights.top)
        if none is None or tick > 2 * none
    }
    if none is not None:
        ticks[none] = NONE if panel.share else "0"
        if not panel.share:
            _draw_break(axes, ink)
    _set_ticks(axes.yaxis, list(ticks), list(ticks.values()))
    axes.set_ylabel(panel.unit)


def _draw_break(axes: Any, ink: str) -> None:
    """Draw on the axis that it does not reach down to 0."""
    for height in (1.9 * FLOOR, 2.4 * FLOOR):
        axes.plot(
            [-0.015, 0.015],
            [height - 0.008, height + 0.008],
            transform=axes.transAxes,
            color=ink,
            linewidth=0.8,
            clip_on=False,
        )


def _set_ticks(axis: Any, places: Sequence[float], names: Sequence[str]) -> None:
    from matplotlib import ticker  # noqa: PLC0415

    axis.set_major_locator(ticker.FixedLocator(places))
    axis.set_major_formatter(ticker.FixedFormatter(names))
    axis.set_minor_locator(ticker.NullLocator())


def _round(low: float, high: float) -> list[float]:
    """Return the powers of ten in between, or, if they are few, twice and five times these, too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if high / low > 1000 else (1, 2, 5)
    ticks = [factor * 10**power if power >= 0 else factor / 10**-power for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _tick(value: float, *, share: bool) -> str:
    return f"{np.format_float_positional(round(100 * value, 9), trim='-')} %" if share else f"{value:g}"


def _zero_from(values: dict[int, float]) -> int | None:
    """Return the first size from which on there are only zeros."""
    last = max((size for size, value in values.items() if value > 0), default=0)
    return min((size for size in values if size > last), default=None)
