"""The sentence under each chart: what the figures that it shows say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .sweep import Curve

FEW: Final = 0.01
"""One put in 100: a share of waits that is called few."""


def of_share(curves: Sequence[Curve]) -> str:
    """Say from which queue size on few puts wait."""
    found = [(curve, _first_with_few(curve)) for curve in curves]
    few = [(curve, str(size)) for curve, size in found if size is not None]
    many = ", ".join(curve.scenario.label for curve, size in found if size is None)
    if not few:
        return "At every size shown more than 1 put in 100 waits."
    beginning = f"Fewer than 1 put in 100 waits from queue_size {_told(few, of=curves)} on"
    return f"{beginning}; with {many} more at every size shown." if many else f"{beginning}."


def of_p99(curves: Sequence[Curve]) -> str:
    """Say how long the longest hundredth of the waits is at the smallest size, and at the largest."""
    if not (waits := _waits(curves, min)):
        return "Fewer than 1 put in 100 waits at every size shown."
    first, last = (choose(choose(curve.points) for curve in curves) for choose in (min, max))
    return (
        f"With queue_size {first}, 1 put in 100 waits {waits} service times or longer; "
        f"with {last}, {_waits(curves, max) or 'none does'}."
    )


def of_loss(curves: Sequence[Curve]) -> str:
    """Say what a kill loses where few puts wait, or at the largest size."""
    sizes = [_first_with_few(curve) for curve in curves]
    losses = [(curve, _loss(curve, size or max(curve.points))) for curve, size in zip(curves, sizes, strict=True)]
    where = "where few puts wait" if all(sizes) else "where few puts wait, or with the largest queue"
    return f"A kill loses, {where}, {_told(losses, of=curves)}."


def of_lag(curve: Curve) -> str:
    """Say how the largest lag depends on the queue's size."""
    small, large = min(curve.lags), max(curve.lags)
    short, long = (f"{curve.mean(size, 'peak_lag'):.3g}" for size in (small, large))
    if short == long:
        return f"The oldest queued blob gets {short} service times old, whatever the queue's size."
    return (
        f"The oldest queued blob gets {short} service times old with queue_size {small}, {long} with {large}: "
        "a small queue keeps lag short by letting puts wait instead."
    )


def _loss(curve: Curve, size: int) -> str:
    mean, worst = (curve.mean(size, name) for name in ("mean_loss", "worst_loss"))
    return f"{mean:.3g} blobs on average and {worst:.3g} at worst with queue_size {size}"


def _waits(curves: Sequence[Curve], choose: Callable[[Iterable[int]], int]) -> str:
    """Return the p99 waits over 0, each at the smallest or the largest size of its curve."""
    waits = [(curve, curve.mean(choose(curve.points), "p99_wait")) for curve in curves]
    lasting = [(curve, f"{wait:.3g}") for curve, wait in waits if wait > 0]
    return _told(lasting, of=curves) if lasting else ""


def _first_with_few(curve: Curve) -> int | None:
    """Return the least size shown from which on few puts wait."""
    first = None
    for size in sorted(curve.points, reverse=True):
        if curve.mean(size, "wait_share") >= FEW:
            break
        first = size
    return first


def _told(values: Sequence[tuple[Curve, str]], *, of: Sequence[Curve]) -> str:
    """Return what is said of some curves `of` all that are shown, with their labels if there are several."""
    if len(of) == 1:
        return values[0][1]
    *first, last = [f"{value} ({curve.scenario.label})" for curve, value in values]
    return f"{', '.join(first)} and {last}" if first else last
