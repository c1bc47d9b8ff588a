"""The findings in a few figures: from which queue size on few puts wait, and whether the real code agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.sweep import Curve

FEW: Final = 0.01
"""A smaller share of the puts is few."""


def few_from(curve: Curve) -> int | None:
    """Return the least size from which on few puts wait with every size that was looked at."""
    found = None
    for size in sorted(curve.points, reverse=True):
        if curve.mean(size, "wait_share") >= FEW:
            break
        found = size
    return found


def agreement(curves: Sequence[Curve]) -> str:
    """Say how the waits in the real code compare with those by the recursion."""
    checked = [one for curve in curves for one in curve.checked.values()]
    if not checked:
        return "The real code did not run."
    differing = sum(not one.agrees for one in checked)
    largest = max(one.difference for one in checked)
    return (
        f"Real code: {len(checked):,} runs of {sum(one.puts for one in checked):,} puts together. Runs that differ "
        f"from the recursion: {differing:,}. Largest difference of a put's wait: {largest:.2g} s."
    )
