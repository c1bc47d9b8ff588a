"""Numbers as the page writes them."""

from __future__ import annotations

from typing import Final

import numpy as np

UNITS: Final = ("bytes", "KiB", "MiB", "GiB")


def number(value: float) -> str:
    """Return three digits of it, or all of a whole number, and never an exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def percent(share: float) -> str:
    """Return a share as two digits of so many per cent, and never 100 % for less than all."""
    written = np.format_float_positional(100 * share, precision=2, fractional=False, trim="-")
    return "over 99 %" if written == "100" and share < 1 else f"{written} %"


def byte_count(count: float) -> str:
    """Return so many bytes in the largest unit of which there is one."""
    place = 0
    while count >= 1024 and place < len(UNITS) - 1:
        count, place = count / 1024, place + 1
    return f"{number(count)} {UNITS[place]}"


def batch_size(*, batches: bool) -> str:
    """Return what the batch size is, for curves with batches and without."""
    return f"batch_size = {'queue_size' if batches else 1}"
