"""The queue size with which no put waits in a burst or a stall, from its beginning until the queue is empty again.

The burst or stall begins at a random moment of the steady state. Two numbers decide: the blobs that wait to be taken
when the call in flight ends, and by how many they increase before they decrease. The second is a random walk, in which
each full batch takes `batch_size` blobs while J arrive. Let walk(u) be the probability that its highest point is at
most u. Then walk(n - y)/walk(n - 1) is the probability that y blobs decrease to one without ever exceeding n (Takács).
Here they need to decrease only to a whole batch. Its probability is at least as large, so the advice errs on the safe
side.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from .arrivals import exceeding, poisson
from .calls import factors
from .levels import LONGEST, convolved

if TYPE_CHECKING:
    from .calls import Floats, Integers
    from .levels import Queue

SEED: Final = 20240229
"""The seed from which bursts at a rate are drawn, so that they are the same each time."""

BURSTS: Final = 20_000
"""The largest number of bursts to draw."""

STEPS: Final = 5_000
"""The largest number of calls to draw for one burst. In a longer burst, several calls are drawn as one."""

DRAWN: Final = 1_000_000
"""Approximate number of calls to draw for all bursts together. This takes a third of a second."""

ENOUGH_MISSED: Final = 20
"""If fewer bursts than this are expected to be missed, the answer is calculated from their moments."""


def least_for_stall(queue: Queue, seconds: float, missed: float) -> int | None:
    """Return the least queue size with which a stall makes a put wait with a probability of at most `missed`.

    None if it is beyond the sizes that `queue` knows.
    """
    first, chances = poisson(queue.calls.rate * seconds)
    return _least_for_more(queue, first, chances, missed)


def least_for_burst(queue: Queue, blobs: int, missed: float) -> int | None:
    """Return the least queue size for a burst of `blobs` blobs at once: see `least_for_stall`."""
    return _least_for_more(queue, blobs, np.ones(1), missed)


def _least_for_more(queue: Queue, first: int, chances: Floats, missed: float) -> int | None:
    """Return the least size if `first` blobs or more arrive before the call in flight, or the one they begin, ends."""
    busy = convolved(queue.left, chances)
    came = chances.copy()
    none = came[0] if first == 0 else 0.0
    came[0] -= none
    (alone,) = queue.calls.means(np.array([1]))
    during = -np.diff(exceeding(alone, queue.calls.cv, len(queue.left) - 1), prepend=1.0)
    idle = queue.idle * convolved(came, during)  # the first blob is in flight, and not left
    left = np.concatenate([[queue.idle * none], busy])
    left[: len(idle)] += idle
    small = np.arange(first - 1, first - 1 + len(left)) <= queue.batch_size
    back = np.cumsum(convolved(np.where(small, 0.0, left), np.diff(queue.walk, prepend=0.0)))
    sizes = first - 1 + np.arange(len(back))
    back /= queue.walk[np.clip(sizes - 1, 0, len(queue.walk) - 1)]
    taken = np.cumsum(np.where(small, left, 0.0))
    back[: len(taken)] += taken
    back[len(taken) :] += taken[-1]
    enough = (back >= 1 - missed) & (sizes >= 1)
    return int(sizes[enough.argmax()]) if enough.any() else None


def least_for_burst_at(queue: Queue, blobs: int, rate: float, missed: float, drawn: int = DRAWN) -> int | None:
    """Return the least queue size for a burst that arrives as a Poisson process with `rate` a second.

    Bursts are drawn, with about `drawn` calls together. At most `missed` of them have a waiting put, with two standard
    errors to spare. If so few bursts are drawn that none may be missed, the answer is calculated from the mean, the
    standard deviation and the skewness of the sizes that they need.
    """
    source = np.random.default_rng(SEED)
    size = queue.batch_size
    together = math.ceil(blobs / (size * STEPS))
    during = rate * float(queue.calls.seconds(np.array([size]))[0])
    if blobs * (1 - during / size) > STEPS:
        return _least_for_long(queue, blobs, max(rate, queue.calls.rate), missed)
    count = int(min(BURSTS, max(200, drawn * together * max(1.0, during) / blobs)))
    needed, left = _burst(queue, blobs, rate, most=together * size, source=source, count=count)
    needed += (together - 1) * size  # all but one batch of the blobs that count as in flight may still be queued
    if missed * count < ENOUGH_MISSED:
        rest = np.searchsorted(queue.walk, source.random(count) * queue.walk[-1])
        return _by_moments(np.maximum(needed, np.where(left > size, left + rest, 0)), missed)
    low, high, last = 1, int(max(needed.max(), left.max() + len(queue.walk))), len(queue.walk) - 1
    while low < high:
        middle = (low + high) // 2
        back = queue.walk[np.clip(middle - left, 0, last)] / queue.walk[min(middle - 1, last)]
        missing = np.where(needed > middle, 1.0, np.where(left > size, 1 - back, 0.0))
        if missing.mean() + 2 * missing.std() / math.sqrt(count) <= missed:
            high = middle
        else:
            low = middle + 1
    return low


def _least_for_long(queue: Queue, blobs: int, rate: float, missed: float) -> int | None:
    """Return the queue size for a burst that the store keeps up with, if it is too long to be drawn.

    In the steady state of the burst's rate, the probabilities that each of its puts waits add up to `missed`.
    """
    tops = itertools.takewhile(LONGEST.__ge__, (1024 * 4**power + 4 * queue.batch_size for power in itertools.count()))
    sizes = (queue.at(rate, top).least(missed / blobs) for top in tops)
    return next((size for size in sizes if size is not None), None)


def _burst(
    queue: Queue, blobs: int, rate: float, *, most: int, source: np.random.Generator, count: int
) -> tuple[Integers, Integers]:
    """Draw bursts, with calls of up to `most` blobs.

    `most` is a multiple of the batch size, so a call may be several batches.

    Returns the largest number of blobs to be taken until the end of the call in which the last one arrives, and their
    number at that end.
    """
    calls, size = queue.calls, queue.batch_size
    needed, left = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    fewest = max(1, (most - size) // 8)
    lanes = np.arange(count)
    coming = np.full(count, blobs)
    kept, sizes = queue.draw(source, count)
    length = np.where(sizes > 0, calls.seconds(sizes), 0.0) * _in_flight(source, count, calls.cv)
    passed = length * source.random(count)
    kept = kept + source.poisson(calls.rate * passed)
    seconds = length - passed
    while len(lanes):
        came = source.poisson(np.minimum(rate * seconds, 1e12))
        last = came >= coming
        part = np.where(coming > 0, source.beta(np.maximum(coming, 1), np.maximum(came - coming, 0) + 1), 0.0)
        later = source.poisson(np.where(last, calls.rate * seconds * (1 - part), 0.0))
        now = kept + np.where(last, coming + later, came)
        needed[lanes] = np.maximum(needed[lanes], now)
        left[lanes[last]] = now[last]
        lanes, now, coming = lanes[~last], now[~last], (coming - came)[~last]
        awaited = np.clip(fewest - now, 0, coming)
        coming, now = coming - awaited, now + awaited
        sizes = np.minimum(now, most)
        kept = now - sizes
        batches = -(-sizes // size)
        means = (batches - 1) * calls.seconds(np.full(1, size)) + calls.seconds(sizes - (batches - 1) * size)
        seconds = means * _scales(source, batches, calls.cv)
    return needed, left


def _in_flight(source: np.random.Generator, count: int, cv: float) -> Floats:
    """Draw the factors of calls that are in flight at random moments. Long calls are more likely to be in flight."""
    if cv == 1:
        return source.gamma(2.0, 1.0, count)
    return factors(source, count, cv) * (
        1 + cv * cv
    )  # a log-normal distribution weighted by the time itself is that much longer


def _scales(source: np.random.Generator, batches: Integers, cv: float) -> Floats:
    """Draw factors of the total seconds of each number of batches, with the mean and the spread of such a sum."""
    if cv == 0 or batches.max(initial=1) == 1:
        return factors(source, len(batches), cv)
    return source.gamma(batches / cv**2, cv**2 / batches)


def _by_moments(needed: Integers, missed: float) -> int:
    """Return the size that is exceeded with a probability of `missed`, by the expansion of Cornish and Fisher.

    Two standard errors are added; that of a normal quantile is the standard deviation times √((1 + z²/2)/count).
    """
    mean, deviation = float(needed.mean()), float(needed.std())
    skewness = float(((needed - mean) ** 3).mean()) / deviation**3 if deviation else 0.0
    z = NormalDist().inv_cdf(1 - missed)
    spare = 2 * math.sqrt((1 + z * z / 2) / len(needed))
    return max(1, math.ceil(mean + deviation * (z + (z * z - 1) * skewness / 6 + spare)))
