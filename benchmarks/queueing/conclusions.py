"""The sentence under each chart: what the figures that it shows say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .sweep import Curve

FEW = 0.01
"""One put in 100: a share of waits that is called few."""


def of_share(curves: Sequence[Curve]) -> str:
    """Say from which queue size on few puts wait."""
    return _from_where(
        curves,
        lambda curve, size: curve.mean(size, "wait_share") < FEW,
        "Fewer than 1 put in 100 waits from queue_size",
        "more than 1 put in 100 waits at every size shown",
    )


def of_p99(curves: Sequence[Curve]) -> str:
    """Say how long the longest hundredth of the waits is at the smallest size, and from where on it is nothing."""
    size = min(min(curve.points) for curve in curves)
    waits = _listed([f"{curve.mean(size, 'p99_wait'):.3g}" for curve in curves], curves)
    first = f"With queue_size {size}, 1 put in 100 waits longer than {waits} service times"
    last = max(max(curve.points) for curve in curves)
    lasting = [curve for curve in curves if curve.mean(max(curve.points), "p99_wait") > 0]
    if not lasting:
        return f"{first}; with the largest size shown, none of these waits is left."
    left = _listed([f"{curve.mean(max(curve.points), 'p99_wait'):.3g}" for curve in lasting], lasting)
    return f"{first}; with {last} it is still {left}."


def of_loss(curves: Sequence[Curve]) -> str:
    """Say what a kill loses where few puts wait, or at the largest size."""
    sizes = [_first(curve, lambda curve, size: curve.mean(size, "wait_share") < FEW) for curve in curves]
    told = [
        f"{curve.mean(size, 'mean_loss'):.3g} blobs on average and {curve.mean(size, 'worst_loss'):.3g} at worst"
        for curve, found in zip(curves, sizes, strict=True)
        for size in [found or max(curve.points)]
    ]
    where = [f"at {found or max(curve.points)}" for curve, found in zip(curves, sizes, strict=True)]
    listed = _listed([f"{what} {place}" for what, place in zip(told, where, strict=True)], curves)
    few = "at the size from which few puts wait" if all(sizes) else "where few puts wait, or at the largest size"
    return f"A kill loses, {few}: {listed}."


def of_lag(curve: Curve) -> str:
    """Say how the largest lag depends on the queue's size."""
    peaks = [(size, curve.mean(size, "peak_lag")) for size in sorted(curve.lags)]
    (small, short), (large, long) = peaks[0], peaks[-1]
    if short >= long:
        return f"The oldest blob is at most {long:.3g} service times old, whatever the queue's size."
    return (
        f"The oldest queued blob gets {short:.3g} service times old with queue_size {small}, {long:.3g} with {large}: "
        "a small queue keeps lag short by letting puts wait instead."
    )


def _from_where(curves: Sequence[Curve], holds: Callable[[Curve, int], bool], beginning: str, nowhere: str) -> str:
    found = {curve.scenario.label: _first(curve, holds) for curve in curves}
    held = [curve for curve in curves if found[curve.scenario.label] is not None]
    missing = [curve.scenario.label for curve in curves if found[curve.scenario.label] is None]
    parts = []
    if held:
        parts.append(f"{beginning} {_listed([str(found[curve.scenario.label]) for curve in held], held)} on")
    if missing:
        parts.append(f"{nowhere}" + (f" ({', '.join(missing)})" if len(curves) > 1 else ""))
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _first(curve: Curve, holds: Callable[[Curve, int], bool]) -> int | None:
    """Return the least size shown for which it holds, and for all larger ones."""
    found = None
    for size in sorted(curve.points, reverse=True):
        if not holds(curve, size):
            break
        found = size
    return found


def _listed(values: Sequence[str], curves: Sequence[Curve]) -> str:
    if len(curves) == 1:
        return values[0]
    named = [f"{value} ({curve.scenario.label})" for value, curve in zip(values, curves, strict=True)]
    return f"{', '.join(named[:-1])} and {named[-1]}"
