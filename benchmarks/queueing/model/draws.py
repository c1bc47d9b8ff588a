"""The times that both engines are given: drawn, and put on a grid on which neither rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trio_replica._advice.calls import factors

if TYPE_CHECKING:
    from trio_replica._advice.calls import Floats

GRID: Final = 2.0**-30
"""Seconds. Sums of multiples of this are exact in floating point up to 2**23 seconds, in whatever order."""


def on_grid(times: Floats) -> Floats:
    """Return the times rounded to multiples of `GRID`, and at least that: no two puts come at one time."""
    return np.maximum(np.round(times / GRID), 1.0) * GRID


def service_times(source: np.random.Generator, count: int, mean: float, cv: float) -> Floats:
    """Draw service times with a mean in seconds and a coefficient of variation (standard deviation divided by mean).

    0 is always the same time, 1 an exponential one, and all others are log-normal: mostly short, a few very long.
    """
    return on_grid(mean * factors(source, count, cv))


def poisson_arrivals(source: np.random.Generator, count: int, rate: float, start: float = 0.0) -> Floats:
    """Draw when puts come that know nothing of each other, `rate` a second, from `start` on."""
    return start + np.cumsum(on_grid(source.exponential(1 / rate, count)))
