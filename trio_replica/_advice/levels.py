"""The distributions of the number of blobs in the steady state, from which the advice is calculated.

Whenever a worker is free, it takes the blobs that have arrived, at most `batch_size` of them. It also takes those whose
puts wait for room, so its work depends only on the batch size, and one distribution gives the waits for every queue
size. J is the number of blobs that arrive during a call.

If a distribution for batches has many numbers, it is kept only at some of them, its nodes. A probability between two
nodes is divided between both so that the mean stays the same. This makes the spread slightly larger and never smaller,
so the advice errs on the safe side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from .arrivals import exceeding, excess, masses

if TYPE_CHECKING:
    from .calls import Calls, Floats, Integers

LONGEST: Final = 2**18
"""The longest queue that the search considers, in blobs, except for bursts and stalls."""

NODES: Final = 400
"""The largest number of nodes of a distribution. The time grows with their third power; 400 take 5 ms."""


def convolved(one: Floats, other: Floats) -> Floats:
    """Return the distribution of the sum of two independent numbers."""
    length = len(one) + len(other) - 1
    size = 1 << length.bit_length()
    both: Floats = np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size), size)[:length]
    return both


def _stationary(steps: Floats) -> Floats:
    """Return the distribution that a step does not change. `steps` has a row for each number before the step."""
    equations = np.eye(len(steps)) - steps.T
    equations[0] = 1.0  # their sum is 0, so one is redundant; instead, the probabilities add up to 1
    right = np.zeros(len(steps))
    right[0] = 1.0
    found: Floats = np.maximum(np.linalg.solve(equations, right), 0.0)
    return found


class Queue(ABC):
    """The blobs that one worker has before it in the steady state, with one batch size.

    Nothing depends on `queue_size`.
    """

    calls: Calls
    batch_size: int
    idle: float
    """The share of the time in which the worker has nothing to do."""

    @property
    @abstractmethod
    def left(self) -> Floats:
        """The probabilities that at a random moment a call is in flight that leaves 0, 1, … blobs to be taken.

        The sum of these and `idle` is below 1 by the probability of longer queues.
        """

    @property
    @abstractmethod
    def walk(self) -> Floats:
        """The probabilities that the sums of J - `batch_size` over the next full batches never exceed 0, 1, ….

        The largest sum is the number of blobs by which the queue grows before it shrinks.
        """

    @abstractmethod
    def at(self, rate: float, top: int) -> Queue:
        """Return the queue of the same worker for another rate of puts, known up to `top` blobs."""

    @abstractmethod
    def share(self, queue_size: int) -> float:
        """Return the share of puts that wait."""

    @abstractmethod
    def least(self, share: float) -> int | None:
        """Return the least queue size with which at most `share` of the puts wait, or None if it is beyond `top`."""

    @abstractmethod
    def mean_wait(self, queue_size: int) -> float:
        """Return the mean wait of all puts, in seconds."""

    @abstractmethod
    def mean_loss(self, queue_size: int) -> float:
        """Return the mean number of blobs accepted and not yet written, over time."""

    @abstractmethod
    def draw(self, source: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        """Draw calls in flight at random moments. Return the blobs in the queue and in flight when each of them began.

        None are in flight if the worker is idle.
        """


class Singles(Queue):
    """The queue of a worker that writes one blob after another (M/G/1)."""

    def __init__(self, calls: Calls, top: int) -> None:
        """Calculate the probabilities of the numbers up to `top`, for a store that keeps up with the puts."""
        self.calls = calls
        self.batch_size = 1
        self._mean = calls.rate * calls.service_time
        self.idle = 1 - self._mean
        self._more = exceeding(self._mean, calls.cv, top)
        none = 1 - self._more[0]
        heights = self._more / none
        heights[0] = 0.0
        # A call that begins leaves a queue that is a sum of heights. By each of these it exceeds its highest level so
        # far.
        self._kept = self.idle / none * _renewals(heights)

    @cached_property
    def walk(self) -> Floats:
        """The same distribution as that of the blobs left in the queue when a call begins, by Lindley's recursion."""
        never_more: Floats = np.minimum(np.cumsum(self._kept), 1.0)
        return never_more

    @cached_property
    def left(self) -> Floats:
        """The probabilities for a call in flight. Its number of arrivals is J with a likelihood proportional to J."""
        chances = -np.diff(self._more)  # of 1, 2, ... arrivals
        return convolved(self._kept, chances * np.arange(1, len(chances) + 1))[: len(chances)]

    def at(self, rate: float, top: int) -> Queue:
        return Singles(replace(self.calls, rate=rate), top)

    def share(self, queue_size: int) -> float:
        """Return the share of the time with more than `queue_size` blobs. Poisson arrivals see the same share."""
        return 1 - float(self.walk[min(queue_size, len(self.walk)) - 1])

    def least(self, share: float) -> int | None:
        enough = 1 - self.walk <= share
        return int(enough.argmax()) + 1 if enough.any() else None

    def mean_wait(self, queue_size: int) -> float:
        """Return, by Little's law, the mean number of waiting puts divided by the rate of puts."""
        all_queued = self._mean**2 * self.calls.squared / (2 * self.idle)  # Pollaczek and Khinchine
        return max(0.0, all_queued - self._queued(queue_size)) / self.calls.rate

    def mean_loss(self, queue_size: int) -> float:
        return self._mean + self._queued(queue_size)

    def draw(self, source: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        busy = source.random(count) >= self.idle
        kept = np.searchsorted(self.walk, source.random(count) * self.walk[-1])
        return np.where(busy, kept, 0), busy.astype(np.int64)

    def _queued(self, queue_size: int) -> float:
        return float((1 - self.walk[:queue_size]).sum())


class Nodes:
    """The numbers of blobs at which the distributions for batches are kept, and the arrivals during their calls."""

    def __init__(self, calls: Calls, top: int, usual: int) -> None:
        """Choose nodes among the numbers up to `top`, suited to batches of about `usual` blobs."""
        self.calls = calls
        self.top = top
        self.grid = _nodes(top, usual)
        self.levels = self.grid[1:]
        self.means = calls.means(self.levels)
        self.excess = excess(self.means, calls.cv, self.grid)
        """The excess over each number of the grid (a column), for calls with as many blobs as each level (a row)."""

    def full(self, batch_size: int) -> Floats:
        """Return the excess over each number of the grid for calls with `batch_size` blobs.

        Between two levels it is a mixture of both that has the right mean.
        """
        place = float(np.interp(batch_size, self.levels, np.arange(len(self.levels))))
        low, high = math.floor(place), math.ceil(place)
        found: Floats = (1 - (place - low)) * self.excess[low] + (place - low) * self.excess[high]
        return found


class Batches(Queue):
    """The queue of a worker that writes up to `batch_size` blobs at once, 2 or more.

    Let L blobs have arrived and not been taken when a batch begins, including those of waiting puts. At the next batch
    they are max(1, L - k + J) with k = min(L, batch_size), because the worker waits for one if there is none.
    """

    def __init__(self, nodes: Nodes, batch_size: int) -> None:
        """Calculate the probabilities of the nodes, for a store that keeps up with the puts in batches of that size."""
        self.calls = nodes.calls
        self.batch_size = batch_size
        self._nodes = nodes
        levels = nodes.levels
        self._sizes = np.minimum(levels, batch_size)
        self._kept = levels - self._sizes
        self._means = self.calls.means(self._sizes)
        self._mean = float(self.calls.means(np.array([batch_size]))[0])
        self._excess = nodes.full(batch_size)
        self._partial = int(np.searchsorted(levels, batch_size, side="right"))
        """The number of levels that fit in one batch."""
        over = self._excess_over(levels - self._kept[self._partial :, None])
        self._over = np.concatenate([nodes.excess[: self._partial, 1:], over])
        """The excess of the blobs at a batch's end over each level, for each level at its beginning."""
        self._steps = masses(levels, self._over)
        weights = _stationary(self._steps)
        # The mean of L is the same at the next batch, so it gains as much while it is small as it loses while large.
        none = (1 - nodes.means + nodes.excess[:, 1])[: self._partial]
        gains = (self._means - levels)[: self._partial] + none
        large = float(weights[: self._partial] @ gains) / (batch_size - self._mean)
        beyond = max(0.0, large - float(weights[self._partial :].sum()))
        whole = float(weights.sum()) + beyond
        self._weights = weights / whole
        self._beyond = beyond / whole
        """The probability of more than the highest level."""
        alone = float(self._weights[: self._partial] @ none)
        self._came = float(self._weights @ self._means) + self._beyond * self._mean + alone
        """The mean number of arrivals from the beginning of a batch to that of the next."""
        self.idle = alone / self._came

    @cached_property
    def walk(self) -> Floats:
        grid, size = self._nodes.grid, self.batch_size
        weights = _stationary(masses(grid, self._excess_over(grid + size - grid[:, None])))
        small = grid < size
        gains = self._excess_over(size - grid[small]) - grid[small]
        large = float(weights[small] @ gains) / (size - self._mean)
        beyond = max(0.0, large - float(weights[~small].sum()))
        never_more: Floats = np.cumsum(weights) / (float(weights.sum()) + beyond)
        return never_more[np.searchsorted(grid, np.arange(self._nodes.top + 1), side="right") - 1]

    @cached_property
    def left(self) -> Floats:
        """The probabilities for a call in flight. Its number of arrivals is J with a likelihood proportional to J."""
        levels = self._nodes.levels
        left = np.zeros(self._nodes.top)
        left[levels - 1] = self._weights @ ((levels - self._kept[:, None]) * self._steps) / self._came
        left[0] -= self.idle  # the first level includes that nothing arrived
        return np.maximum(left, 0.0)

    def at(self, rate: float, top: int) -> Queue:
        return Batches(Nodes(replace(self.calls, rate=rate), top, 8 * self.batch_size), self.batch_size)

    def share(self, queue_size: int) -> float:
        return float(np.interp(queue_size, self._nodes.levels, self._shares))

    def least(self, share: float) -> int | None:
        enough = np.interp(np.arange(1, self._nodes.top + 1), self._nodes.levels, self._shares) <= share
        return int(enough.argmax()) + 1 if enough.any() else None

    def mean_wait(self, queue_size: int) -> float:
        """Return, by Little's law, the mean number of waiting puts divided by the rate of puts."""
        seen = self._mean**2 * self.calls.squared / 2 - (self.batch_size + queue_size) * self._mean
        waiting = self._waiting(queue_size) + self._beyond * seen + self._above * self._mean
        return max(0.0, waiting) / self._came / self.calls.rate

    def mean_loss(self, queue_size: int) -> float:
        all_queued = float(self._weights @ (self._kept * self._means + self._means**2 * self.calls.squared / 2))
        in_flight = float(self._weights @ (self._sizes * self._means))
        beyond = self._beyond * self._mean * (queue_size + self.batch_size)
        return (all_queued - self._waiting(queue_size) + in_flight + beyond) / self._came

    def draw(self, source: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        busy = source.random(count) >= self.idle
        time = np.cumsum(self._weights * self._means)
        place = np.searchsorted(time, source.random(count) * time[-1])
        return np.where(busy, self._kept[place], 0), np.where(busy, self._sizes[place], 0)

    @cached_property
    def _shares(self) -> Floats:
        """The share of puts that wait, for each level as the queue size."""
        wait = self._weights @ np.minimum(self._over, self._means[:, None]) + self._beyond * self._mean
        shares: Floats = wait / self._came
        return shares

    @cached_property
    def _above(self) -> float:
        """The expectation of L above the highest level, found because the mean of L² is the same at the next batch."""
        size, levels = self.batch_size, self._nodes.levels
        partial, full = slice(self._partial), slice(self._partial, None)
        means, second = self._means, self._means**2 * self.calls.squared + self._means
        none = 1 - means + self._nodes.excess[:, 1]
        small = float(self._weights[partial] @ (second + none - levels**2)[partial])
        large = float(self._weights[full].sum()) + self._beyond
        squared = self._mean**2 * self.calls.squared + self._mean - 2 * size * self._mean + size**2
        all_large = (small + large * squared) / (2 * (size - self._mean))
        return max(self._beyond * self._nodes.top, all_large - float(self._weights[full] @ levels[full]))

    def _waiting(self, queue_size: int) -> float:
        """Return the expected number of puts that each arrival finds waiting, summed from one batch to the next.

        Batches that begin above the highest level are left out. If n arrivals find no room, n - 1 of them find the
        first one waiting, n - 2 the second, and so on. The sum is n(n - 1)/2.
        """
        partial, full = slice(self._partial), slice(self._partial, None)
        alone = excess(self._means[partial], self.calls.cv, np.array([queue_size]), second=True)[:, 0]
        room = queue_size - self._kept[full]
        rooms = np.unique(np.maximum(room, 0))
        seen = excess(np.array([self._mean]), self.calls.cv, rooms, second=True)[0][np.searchsorted(rooms, room)]
        seen -= np.minimum(room, 0) * self._mean
        return float(self._weights[partial] @ alone + self._weights[full] @ seen)

    def _excess_over(self, levels: Integers) -> Floats:
        """Return the excess of the arrivals during a full batch over `levels`, which may be negative."""
        more: Floats = np.where(levels < 0, self._mean - levels, np.interp(levels, self._nodes.grid, self._excess))
        return more


def _nodes(top: int, usual: int) -> Integers:
    """Return 0 and numbers up to `top`. If these are many, they grow sparser up to `usual`.

    Their distance is a multiple of √L, at least 1. The standard deviation of the arrivals that lead to L blobs is about
    √L; a fifth of it as the distance adds 0.7 % to their variance.
    """
    numbers = np.arange(1, top + 1)
    roots = np.sqrt(np.minimum(numbers, usual))
    apart = max(1.0, top / NODES) / math.sqrt(usual)
    while np.sum(shares := 1 / np.maximum(1.0, apart * roots)) > NODES:
        apart *= 1.05
    places = np.floor(np.cumsum(shares) + 1e-9)
    found: Integers = np.unique(np.concatenate([[0, top], numbers[np.diff(places, prepend=0.0) > 0]]))
    return found


def _renewals(heights: Floats) -> Floats:
    """Return 1/(1 - h(z)), as far as `heights`: the probability that some independent heights add up to each number."""
    found = np.ones(1)
    while len(found) < len(heights):  # each step of Newton's method doubles the number of right ones
        length = min(2 * len(found), len(heights))
        rest = -heights[:length]
        rest[0] += 1
        error = -convolved(rest, found)[:length]
        error[0] += 2
        found = convolved(found, error)[:length]
    return found
