"""The sentence under each chart: what the figures that it shows say, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ..model.scenarios import Steady
from ..model.sweep import lag_times
from .wording import listed, number, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trio_replica._advice.calls import Floats

    from ..model.sweep import Curve

FEW: Final = 0.01
"""A hundredth: where fewer puts than that wait, few are said to."""

LEVEL: Final = 1.1
"""Figures of which the largest is at most so many times the least are said not to change."""


def of_share(curves: Sequence[Curve]) -> str:
    """Say from which queue size on few puts wait, and with which scenarios that is never so."""
    found = [(curve, few_from(curve)) for curve in curves]
    few = [_named(curve, str(size), curves) for curve, size in found if size is not None]
    said = []
    if few:
        said.append(f"fewer than 1 put in 100 waits from queue_size = {listed(few)} on")
    if len(curves) == 1:
        said.extend(_around(curves[0]))
    said.extend(_named(curve, _still_waiting(curve), curves) for curve, size in found if size is None)
    return _sentence("; ".join(said))


def of_p99(curves: Sequence[Curve]) -> str:
    """Say what the p99 wait is with the smallest queue and with the last one before it is 0, and from where it is."""
    units = [" service times", *[""] * (len(curves) - 1)]
    told = [_named(curve, _p99(curve, unit), curves) for curve, unit in zip(curves, units, strict=True)]
    return _sentence(f"the p99 wait is {'; '.join(told)}")


def of_loss(curves: Sequence[Curve]) -> str:
    """Say whether a larger queue loses more on average, and how much at worst."""
    losses = [(curve, {size: curve.mean(size, "mean_loss") for size in sorted(curve.points)}) for curve in curves]
    level = [(curve, max(lost.values())) for curve, lost in losses if _level(curve, lost)]
    others = [(curve, lost) for curve, lost in losses if not _level(curve, lost)]
    said = []
    if level:
        most = _with_labels(level, curves, " blobs")
        said.append(f"on average a kill loses at most {most}, however large the queue")
    if others:
        told = listed([_named(curve, _from_to(lost), curves) for curve, lost in others])
        growing = all(sorted(lost.values()) == list(lost.values()) for _, lost in others)
        said.append(f"{'but' if level else 'on average a kill loses'} {told}{': the more, the larger it is' * growing}")
    said.append(_at_worst(curves))
    return _sentence("; ".join(said))


def of_lag(curve: Curve) -> str:
    """Say how old the oldest blob gets with each size, or, if that is the same, when the lag is short again."""
    medians = {size: np.median(np.array(lags), axis=0) for size, lags in sorted(curve.lags.items())}
    peaks = {size: float(median.max()) for size, median in medians.items()}
    if max(peaks.values()) > LEVEL * min(peaks.values()):
        growing = sorted(peaks.values()) == list(peaks.values())
        instead = ": a smaller queue lets puts wait instead" * growing
        return f"The oldest queued blob gets {_with_sizes(peaks, ' service times old')}{instead}."
    same = f"The oldest queued blob gets about {number(max(peaks.values()))} service times old with every size"
    ends = _ends(curve, medians, max(peaks.values()) / 10)
    if len(set(ends.values())) <= 1:
        return f"{same}."
    return f"{same}; the lag is less than a tenth of that again after {_with_sizes(ends, ' service times')}."


def of_agreement(curves: Sequence[Curve]) -> str:
    """Say how the real code compares with the recursion."""
    checked = [one for curve in curves for one in curve.checked.values()]
    if not checked:
        return "The real code did not run."
    puts, runs = sum(one.puts for one in checked), len(checked)
    ran = f"in {runs:,} run{'s' * (runs > 1)} of the real code, of {puts:,} puts together,"
    if all(one.agrees for one in checked):
        return _sentence(f"{ran} every put waited exactly as long as by the recursion: the largest difference is 0")
    largest = max(one.difference for one in checked)
    miscounted = sum(not one.same_blocked_puts for one in checked)
    counts = f"in {miscounted} of them not as many puts waited" if miscounted else "as many puts waited in each"
    return _sentence(f"{ran} the wait of a put differs from the recursion's by up to {largest:.2g} s; {counts}")


def _around(curve: Curve) -> Iterator[str]:
    """Say how many puts wait with the last size with which many do, and from which on none does."""
    few, none = few_from(curve), none_from(curve)
    many = [size for size in curve.points if few is not None and size < few]
    if many:
        yield f"with {max(many)} it is {percent(curve.mean(max(many), 'wait_share'))}"
    if none is not None:
        yield f"from {none} on none of {curve.puts(none):,} does"


def few_from(curve: Curve) -> int | None:
    """Return the least size that was looked at from which on few puts wait."""
    return _from(curve, lambda size: curve.mean(size, "wait_share") < FEW)


def none_from(curve: Curve) -> int | None:
    """Return the least size that was looked at from which on no put waited."""
    return _from(curve, lambda size: curve.mean(size, "wait_share") == 0)


def _still_waiting(curve: Curve) -> str:
    largest = max(curve.points)
    if all(curve.mean(size, "wait_share") == 1 for size in curve.points):
        return "every put waits, however large the queue"
    return f"{percent(curve.mean(largest, 'wait_share'))} of the puts wait even with queue_size = {largest}"


def _p99(curve: Curve, unit: str) -> str:
    waits = {size: curve.spread(size, "p99_wait").median for size in sorted(curve.points)}
    least, most = min(waits.values()), max(waits.values())
    nothing = _from(curve, lambda size: waits[size] == 0)
    if most <= LEVEL * least:
        told = f"{_about(least, most)}{unit} with every size"
    elif nothing is None:
        told = _with_sizes({size: waits[size] for size in (min(waits), max(waits))}, unit)
    else:
        first, *_, last = [size for size in waits if size < nothing] * 2
        still = f", still {number(waits[last])} with {last}" if last != first else ""
        return f"{number(waits[first])}{unit} with queue_size = {first}{still} and 0 from {nothing} on"
    return f"{told}, the longer, the more puts come" if _overloaded(curve) else told


def _overloaded(curve: Curve) -> bool:
    """Say whether the store is too slow with every size: it writes less than half as many blobs as come."""
    rate = curve.scenario.rate if isinstance(curve.scenario, Steady) else 0.0
    return all(curve.mean(size, "throughput") < rate / 2 for size in curve.points)


def _about(least: float, most: float) -> str:
    return number(most) if number(least) == number(most) else f"{number(least)} to {number(most)}"


def _level(curve: Curve, losses: Mapping[int, float]) -> bool:
    """Say whether it hardly grows any more from where few puts wait."""
    few = few_from(curve)
    return few is not None and max(loss for size, loss in losses.items() if size >= few) <= LEVEL * losses[few]


def _at_worst(curves: Sequence[Curve]) -> str:
    worst = [(curve, {size: _worst(curve, size) for size in curve.points}) for curve in curves]
    together = _with_labels([(curve, max(losses.values())) for curve, losses in worst], curves, "")
    bound = "2 · queue_size" if curves[0].batches else "queue_size + 1"
    if all(loss <= _in_one_store(curve, size) for curve, losses in worst for size, loss in losses.items()):
        return f"at worst {bound}, and here never more than {together}"
    return f"at worst {together}"


def _in_one_store(curve: Curve, size: int) -> int:
    """Return how many acknowledged blobs there can be in a queue of that size and in the batch being written."""
    return 2 * size if curve.batches else size + 1


def _worst(curve: Curve, size: int) -> float:
    return max(point.worst_loss for point in curve.points[size])


def _ends(curve: Curve, medians: Mapping[int, Floats], level: float) -> dict[int, float]:
    """Return for each size from when on the lag is below a level, if it is before the last time shown."""
    times = np.append(lag_times(curve.scenario.lag_seconds()), np.inf)
    ends = {size: float(times[np.flatnonzero(lag >= level)[-1] + 1]) for size, lag in medians.items()}
    return {size: end for size, end in ends.items() if end < np.inf}


def _from_to(losses: Mapping[int, float]) -> str:
    return _with_sizes({size: losses[size] for size in (min(losses), max(losses))}, " blobs")


def _from(curve: Curve, holds: Callable[[int], bool]) -> int | None:
    """Return the least size that was looked at for which it holds, as for all larger ones."""
    found = None
    for size in sorted(curve.points, reverse=True):
        if not holds(size):
            break
        found = size
    return found


def _with_sizes(values: Mapping[int, float], unit: str) -> str:
    """Return the values, each with its queue size; the first with the words for both."""
    (size, value), *others = values.items()
    first = f"{number(value)}{unit} with queue_size = {size}"
    return " and ".join([first, *(f"{number(other)} with {other_size}" for other_size, other in others)])


def _with_labels(values: Sequence[tuple[Curve, float]], curves: Sequence[Curve], unit: str) -> str:
    units = [unit, *[""] * (len(values) - 1)]
    return listed([_named(one, number(value) + unit, curves) for (one, value), unit in zip(values, units, strict=True)])


def _named(curve: Curve, told: str, curves: Sequence[Curve]) -> str:
    """Return what is told of one of the `curves`, with its label if there are several."""
    return told if len(curves) == 1 else f"{told} ({curve.scenario.label})"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
