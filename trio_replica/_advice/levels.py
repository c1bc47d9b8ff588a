"""How many blobs there are in the steady state: the distributions that the advice is calculated from.

Whenever a worker is free it takes what has come, at most `batch_size` blobs; those included whose puts wait for room.
So what it does depends on the batch size only, and one distribution gives the waits for every queue size. J are the
blobs that come during a call.

The distributions for batches are kept at some of the numbers only, their nodes, if there are many. What lies between
two of them is given to both so that the mean stays what it is: that makes a spread a bit larger, never smaller, and
errs to the safe side.
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
"""Blobs. Longer queues are not looked for, but for bursts and stalls."""

NODES: Final = 400
"""At so many numbers of blobs is the distribution kept, at most: the time grows with the third power, 5 ms for 400."""


def convolved(one: Floats, other: Floats) -> Floats:
    """Return the distribution of the sum of two independent numbers, from those of the two."""
    length = len(one) + len(other) - 1
    size = 1 << length.bit_length()
    both: Floats = np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size), size)[:length]
    return both


def _stationary(steps: Floats) -> Floats:
    """Return the distribution that a step leaves as it is; `steps` has a row for each number that it begins with."""
    equations = np.eye(len(steps)) - steps.T
    equations[0] = 1.0  # they add up to nothing, so one says nothing; this one: all are 1
    right = np.zeros(len(steps))
    right[0] = 1.0
    found: Floats = np.maximum(np.linalg.solve(equations, right), 0.0)
    return found


class Queue(ABC):
    """What one worker has before it, for one batch size, in the steady state. Nothing of it depends on `queue_size`."""

    calls: Calls
    batch_size: int
    idle: float
    """For so large a share of the time the worker has nothing to do."""

    @property
    @abstractmethod
    def left(self) -> Floats:
        """How likely at a random moment a call is in flight at the end of which 0, 1, ... blobs wait to be taken.

        What this and `idle` lack of 1 is more than there are places here.
        """

    @property
    @abstractmethod
    def walk(self) -> Floats:
        """How likely the sums of J - `batch_size`, over the next full batches, are never more than 0, 1, ...

        By so many blobs the queue grows before it shrinks.
        """

    @abstractmethod
    def at(self, rate: float, top: int) -> Queue:
        """Return the queue of the same worker if puts come with that rate, known up to `top` blobs."""

    @abstractmethod
    def share(self, queue_size: int) -> float:
        """Return the share of puts that wait."""

    @abstractmethod
    def least(self, share: float) -> int | None:
        """Return the least queue size with which no larger share of puts waits; None if it is not found here."""

    @abstractmethod
    def mean_wait(self, queue_size: int) -> float:
        """Return the mean wait of all puts, in seconds."""

    @abstractmethod
    def mean_loss(self, queue_size: int) -> float:
        """Return how many blobs are acknowledged and not yet written, averaged over time."""

    @abstractmethod
    def draw(self, source: np.random.Generator, count: int) -> tuple[Integers, Integers]:
        """Draw what is in the queue and in flight when a call began, for the calls in flight at random moments.

        Nothing is in flight where the worker is idle.
        """


class Singles(Queue):
    """The queue of a worker that writes one blob after another: M/G/1."""

    def __init__(self, calls: Calls, top: int) -> None:
        """Find how likely the numbers up to `top` are. The store must be able to take what comes."""
        self.calls = calls
        self.batch_size = 1
        self._mean = calls.rate * calls.service_time
        self.idle = 1 - self._mean
        self._more = exceeding(self._mean, calls.cv, top)
        none = 1 - self._more[0]
        heights = self._more / none
        heights[0] = 0.0
        # What a call leaves in the queue when it begins: a sum of heights, each by which it is higher than ever before.
        self._kept = self.idle / none * _renewals(heights)

    @cached_property
    def walk(self) -> Floats:
        """Lindley's recursion is the same for this and for what a call leaves in the queue when it begins."""
        never_more: Floats = np.minimum(np.cumsum(self._kept), 1.0)
        return never_more

    @cached_property
    def left(self) -> Floats:
        """At a random moment a call is in flight that has J arrivals with a likelihood proportional to J."""
        chances = -np.diff(self._more)  # of 1, 2, ... arrivals
        return convolved(self._kept, chances * np.arange(1, len(chances) + 1))[: len(chances)]

    def at(self, rate: float, top: int) -> Queue:
        return Singles(replace(self.calls, rate=rate), top)

    def share(self, queue_size: int) -> float:
        """Return the share of the time, which Poisson arrivals see, with more than `queue_size` blobs in the system."""
        return 1 - float(self.walk[min(queue_size, len(self.walk)) - 1])

    def least(self, share: float) -> int | None:
        enough = 1 - self.walk <= share
        return int(enough.argmax()) + 1 if enough.any() else None

    def mean_wait(self, queue_size: int) -> float:
        """Return, by Little's law, how many puts wait on average for each that comes in a second."""
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
    """The numbers of blobs at which the distributions for batches are kept, and what comes meanwhile."""

    def __init__(self, calls: Calls, top: int, usual: int) -> None:
        """Choose among the numbers up to `top`, for batches of about so many blobs as is `usual`."""
        self.calls = calls
        self.top = top
        self.grid = _nodes(top, usual)
        self.levels = self.grid[1:]
        self.means = calls.means(self.levels)
        self.excess = excess(self.means, calls.cv, self.grid)
        """Over each of the grid, for calls with so many blobs as each of the levels."""

    def full(self, batch_size: int) -> Floats:
        """Return the excess over each of the grid for calls with `batch_size` blobs.

        Between two levels it is that of either, so often that the mean is right.
        """
        place = float(np.interp(batch_size, self.levels, np.arange(len(self.levels))))
        low, high = math.floor(place), math.ceil(place)
        found: Floats = (1 - (place - low)) * self.excess[low] + (place - low) * self.excess[high]
        return found


class Batches(Queue):
    """The queue of a worker that writes up to `batch_size` blobs at once, 2 or more.

    L blobs, those waiting included, that have come and are not taken when a batch begins, are followed by
    max(1, L - k + J) with k = min(L, batch_size); for where nothing has come the worker waits for one.
    """

    def __init__(self, nodes: Nodes, batch_size: int) -> None:
        """Find how likely the nodes are. The store must be able to take what comes, in batches of that size."""
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
        """So many of the levels are written in one batch."""
        over = self._excess_over(levels - self._kept[self._partial :, None])
        self._over = np.concatenate([nodes.excess[: self._partial, 1:], over])
        """By how much the blobs at a batch's end are more than each level, for each level at its beginning."""
        self._steps = masses(levels, self._over)
        weights = _stationary(self._steps)
        # L is on average what it is at the next batch, so what it gains while small it loses while large.
        none = (1 - nodes.means + nodes.excess[:, 1])[: self._partial]
        gains = (self._means - levels)[: self._partial] + none
        large = float(weights[: self._partial] @ gains) / (batch_size - self._mean)
        beyond = max(0.0, large - float(weights[self._partial :].sum()))
        whole = float(weights.sum()) + beyond
        self._weights = weights / whole
        self._beyond = beyond / whole
        """So likely there is more than the highest level."""
        alone = float(self._weights[: self._partial] @ none)
        self._came = float(self._weights @ self._means) + self._beyond * self._mean + alone
        """How many blobs come from the beginning of a batch to that of the next, on average."""
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
        """At a random moment a call is in flight that has J arrivals with a likelihood proportional to J."""
        levels = self._nodes.levels
        left = np.zeros(self._nodes.top)
        left[levels - 1] = self._weights @ ((levels - self._kept[:, None]) * self._steps) / self._came
        left[0] -= self.idle  # the first level is also where nothing came
        return np.maximum(left, 0.0)

    def at(self, rate: float, top: int) -> Queue:
        return Batches(Nodes(replace(self.calls, rate=rate), top, 8 * self.batch_size), self.batch_size)

    def share(self, queue_size: int) -> float:
        return float(np.interp(queue_size, self._nodes.levels, self._shares))

    def least(self, share: float) -> int | None:
        enough = np.interp(np.arange(1, self._nodes.top + 1), self._nodes.levels, self._shares) <= share
        return int(enough.argmax()) + 1 if enough.any() else None

    def mean_wait(self, queue_size: int) -> float:
        """Return, by Little's law, how many puts wait on average for each that comes in a second."""
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
        """The share of puts that wait, if the queue's size is each of the levels."""
        wait = self._weights @ np.minimum(self._over, self._means[:, None]) + self._beyond * self._mean
        shares: Floats = wait / self._came
        return shares

    @cached_property
    def _above(self) -> float:
        """The sum of the levels above the highest, each as often as it is: L² is at the next batch what it is, too."""
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
        """Return how many puts wait, summed over the arrivals from the beginning of a batch to that of the next.

        Without batches that begin with more than the highest level. Of n arrivals for which there is no room the first
        is seen by n - 1, the next by one less: n(n - 1)/2 in sum.
        """
        partial, full = slice(self._partial), slice(self._partial, None)
        alone = excess(self._means[partial], self.calls.cv, np.array([queue_size]), second=True)[:, 0]
        room = queue_size - self._kept[full]
        rooms = np.unique(np.maximum(room, 0))
        seen = excess(np.array([self._mean]), self.calls.cv, rooms, second=True)[0][np.searchsorted(rooms, room)]
        seen -= np.minimum(room, 0) * self._mean
        return float(self._weights[partial] @ alone + self._weights[full] @ seen)

    def _excess_over(self, levels: Integers) -> Floats:
        """Return by how much what comes during a full batch is more than `levels`, which may be negative."""
        more: Floats = np.where(levels < 0, self._mean - levels, np.interp(levels, self._nodes.grid, self._excess))
        return more


def _nodes(top: int, usual: int) -> Integers:
    """Return 0 and further numbers up to `top`: all if there is room, else ever fewer until `usual`.

    Apart they are so many times √L, and at least 1. About √L is the standard deviation of the arrivals that lead to L
    blobs; a fifth of it adds 0.7 % to their variance.
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
    """Return 1/(1 - h(z)), as far as `heights`: how likely some of them, each drawn anew, add up to each number."""
    found = np.ones(1)
    while len(found) < len(heights):  # Newton's method doubles how many are right
        length = min(2 * len(found), len(heights))
        rest = -heights[:length]
        rest[0] += 1
        error = -convolved(rest, found)[:length]
        error[0] += 2
        found = convolved(found, error)[:length]
    return found
