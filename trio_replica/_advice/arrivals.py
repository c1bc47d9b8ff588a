"""How many blobs come during a call of the store, if they come as a Poisson process.

Called J here, they are described by their excess E(J - u)^+: by how many they are more than u, on average. It says how
many of them find a queue full in which there is room for u, and its second differences are their probabilities.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from .calls import LEAST_MEAN

if TYPE_CHECKING:
    from .calls import Floats, Integers

RATES: Final = 2000
"""Into so many constant rates is a log-normal one split, at most."""

EVEN: Final = 1e-6
"""Times with a smaller coefficient of variation are taken to be always the same."""

FAR: Final = 38
"""Standard deviations. Beyond so many, a normal distribution is 0 or 1 in floating point."""


def excess(means: Floats, cv: float, at: Integers, *, second: bool = False) -> Floats:
    """Return E(J - u)^+ for each mean (a row), and each u of `at`, which ascends from 0 or more (a column).

    J is how many blobs come in a time of which the coefficient of variation is `cv`, and so many on average. With
    `second` it is the sum of that over all that is more than u: E(J - u)(J - u - 1)/2 where J > u.
    """
    if cv == 1:
        column = means[:, None]
        geometric = column * (column / (1 + column)) ** at
        return geometric * column if second else geometric
    split = _Split.of(means, cv, int(at[-1]))
    beyond = split.beyond_sum - at * split.beyond
    if second:
        beyond = (split.beyond_squares - at * (2 * beyond + (at - 1) * split.beyond)) / 2
    near: Floats = split.weights @ _poisson_excess(split.rates, at, second=second)
    return near + beyond


def exceeding(mean: float, cv: float, top: int) -> Floats:
    """Return the chance of J > u, for each u from 0 to `top`: see `excess`."""
    chances = np.zeros(top + 1)
    if cv == 1:
        return np.asarray((mean / (1 + mean)) ** np.arange(1, top + 2))
    split = _Split.of(np.array([mean]), cv, top)
    for rate, weight in zip(split.rates, split.weights[0], strict=True):
        first, some = poisson(rate)
        some = some[: max(0, top + 1 - first)]
        chances[first : first + len(some)] += weight * some
    return _sums(chances) - chances + max(0.0, 1 - float(chances.sum()))


class _Split(NamedTuple):
    """Log-normal times split into constant ones, in each of which blobs come at a constant rate."""

    rates: Floats
    """How many blobs come on average."""
    weights: Floats
    """How likely it is each of the rates: a row for each distribution."""
    beyond: Floats
    """How likely it is more than the last rate."""
    beyond_sum: Floats
    """The mean of what is more, and 0 if it is not."""
    beyond_squares: Floats
    """The mean of its square."""

    @classmethod
    def of(cls, means: Floats, cv: float, top: int) -> _Split:
        """Split the distributions with these means, so that beyond the last rate all are more than `top`."""
        if cv < EVEN:
            none = np.zeros((len(means), 1))
            return cls(means, np.eye(len(means)), none, none, none)
        sigma, mean = math.sqrt(math.log1p(cv * cv)), means[:, None]
        rates, step = _rates(means, sigma, top)
        far = np.log(rates / mean) / sigma
        last = far[:, -1:]
        beyond, beyond_sum = _normal(-sigma / 2 - last), mean * _normal(sigma / 2 - last)
        if step <= min(0.55, sigma / 2):
            density = np.exp(-((far + sigma / 2) ** 2) / 2) / math.sqrt(2 * math.pi)
            weights = step * density / (sigma * (1 + np.sqrt(rates)))
            weights[:, -1] /= 2
        else:
            over = mean * _normal(sigma / 2 - far) - rates * _normal(-sigma / 2 - far)  # Black and Scholes
            weights = masses(rates, over)
            weights[:, -1:] -= beyond
        return cls(rates, weights, beyond, beyond_sum, mean**2 * (1 + cv * cv) * _normal(3 * sigma / 2 - last))


def _poisson_excess(means: Floats, at: Integers, *, second: bool) -> Floats:
    less = means[:, None] - at
    found = (less**2 + at) / 2 if second else less
    firsts, lasts = _window(means)
    begins, ends = np.searchsorted(at, firsts), np.searchsorted(at, lasts)
    found[np.arange(len(at)) >= ends[:, None]] = 0.0
    for place in np.flatnonzero(begins < ends):
        first, chances = poisson(means[place])
        over = _sums(_sums(chances) - chances)
        window = slice(begins[place], ends[place])
        found[place, window] = (_sums(over) - over if second else over)[at[window] - first]
    return found


def poisson(mean: float) -> tuple[int, Floats]:
    """Return how likely a Poisson distributed number is the first that is returned, and those after it."""
    (first,), (last,) = _window(np.array([mean]))
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(max(mean, LEAST_MEAN) / np.arange(first + 1, last + 1)))])
    chances = np.exp(logarithms - logarithms.max())
    return int(first), chances / chances.sum()


def _window(means: Floats) -> tuple[Integers, Integers]:
    """Return the numbers outside of which Poisson distributed ones are with a chance of less than 1e-20."""
    wide = 10 * np.sqrt(means) + 20
    return np.floor(np.maximum(0.0, means - wide)).astype(np.int64), np.ceil(means + wide).astype(np.int64)


def _sums(values: Floats) -> Floats:
    """Return the sums of each value and those after it."""
    sums: Floats = np.cumsum(values[::-1])[::-1]
    return sums


def _rates(means: Floats, sigma: float, top: int) -> tuple[Floats, float]:
    """Return the constant rates into which log-normal ones are split, and the step from one to the next.

    Equal steps are made in log r + 2√r, so that they are small beside r and beside √r. Sums over them are integrals
    to many digits if the step is less than half of sigma, and of the standard deviation of Poisson, which is 1.
    Beyond the last rate all are more than `top`, or there are none.
    """
    low = means.min() * math.exp(-8.5 * sigma)
    high = means.max() * math.exp(8.5 * sigma)
    table = np.geomspace(low, max(2 * low, min(high, top + 12 * math.sqrt(top) + 30)), 10_000)
    places = np.log(table) + 2 * np.sqrt(table)
    length = places[-1] - places[0]
    even = np.linspace(places[0], places[-1], min(RATES, 2 + math.ceil(length / min(0.4, sigma / 2.5))))
    rates = np.interp(even, places, table)
    rates -= (np.log(rates) + 2 * np.sqrt(rates) - even) / (1 / rates + 1 / np.sqrt(rates))  # Newton's method
    return rates, float(even[1] - even[0])


def _normal(at: Floats) -> Floats:
    """Return the distribution function of the standard normal distribution."""
    found = np.where(at > 0, 1.0, 0.0)
    near = np.abs(at) < FAR
    found[near] = [math.erfc(x) / 2 for x in (at[near] / -math.sqrt(2)).tolist()]
    return found


def masses(nodes: Floats | Integers, excesses: Floats) -> Floats:
    """Return the probabilities of the nodes, from the excess over each of them: a row for each distribution.

    What is below the first node is given to it, and what is beyond the last to that.
    """
    more = -np.diff(excesses) / np.diff(nodes)
    ones, zeros = np.ones((len(more), 1)), np.zeros((len(more), 1))
    found: Floats = -np.diff(np.concatenate([ones, more, zeros], axis=1))
    np.maximum(found, 0.0, out=found)
    return found
