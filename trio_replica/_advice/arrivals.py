"""The number of blobs that arrive during a call of the store, as a Poisson process.

This number, J, is described by its excess over u, which is the expectation of max(J - u, 0). This is how many arrivals
find a queue full that has room for u. The second differences of the excess are the probabilities of J.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from .calls import LEAST_MEAN

if TYPE_CHECKING:
    from .calls import Floats, Integers

RATES: Final = 2000
"""The largest number of constant times into which log-normal times are split."""

EVEN: Final = 1e-6
"""Times with a smaller coefficient of variation count as constant."""

FAR: Final = 38
"""Standard deviations beyond which a normal distribution is 0 or 1 in floating point."""


def excess(means: Floats, cv: float, at: Integers, *, second: bool = False) -> Floats:
    """Return the excess for each mean of J (a row) and over each u of `at`, which ascends from 0 or more (a column).

    The time in which J blobs arrive has the coefficient of variation `cv`. With `second`, return the sum of the
    excesses over all numbers above u, which is the expectation of (J - u)(J - u - 1)/2 where J > u.
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
    """Return the probability of J > u, for each u from 0 to `top`: see `excess`."""
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
    """Log-normal times, split into constant ones. In each of these the arrivals have a Poisson distribution."""

    rates: Floats
    """The mean numbers of arrivals in the constant times."""
    weights: Floats
    """The probability of each of these: a row for each distribution."""
    beyond: Floats
    """The probability of a mean larger than the last of them."""
    beyond_sum: Floats
    """The expectation of these larger means; smaller ones count as 0."""
    beyond_squares: Floats
    """The expectation of their squares."""

    @classmethod
    def of(cls, means: Floats, cv: float, top: int) -> _Split:
        """Split the distributions with these means. Beyond the last rate, all numbers of arrivals exceed `top`."""
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
    """Return a first number of a Poisson distribution, and the probabilities of this number and of those after it."""
    (first,), (last,) = _window(np.array([mean]))
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(max(mean, LEAST_MEAN) / np.arange(first + 1, last + 1)))])
    chances = np.exp(logarithms - logarithms.max())
    return int(first), chances / chances.sum()


def _window(means: Floats) -> tuple[Integers, Integers]:
    """Return bounds outside of which Poisson numbers lie with a probability of less than 1e-20."""
    wide = 10 * np.sqrt(means) + 20
    return np.floor(np.maximum(0.0, means - wide)).astype(np.int64), np.ceil(means + wide).astype(np.int64)


def _sums(values: Floats) -> Floats:
    """Return for each value the sum of it and those after it."""
    sums: Floats = np.cumsum(values[::-1])[::-1]
    return sums


def _rates(means: Floats, sigma: float, top: int) -> tuple[Floats, float]:
    """Return the constant rates into which log-normal ones are split, and the step from one to the next.

    The steps are equal in log r + 2√r, so they are small compared with r and with √r. Sums over them are integrals to
    many digits if the step is less than half of sigma, and of the standard deviation of a Poisson number, which is 1 on
    this scale. Beyond the last rate, all numbers of arrivals exceed `top`, or there are none.
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

    Probabilities below the first node and beyond the last one are added to these.
    """
    more = -np.diff(excesses) / np.diff(nodes)
    ones, zeros = np.ones((len(more), 1)), np.zeros((len(more), 1))
    found: Floats = -np.diff(np.concatenate([ones, more, zeros], axis=1))
    np.maximum(found, 0.0, out=found)
    return found
