"""The input of the advice: the rate of the puts, and how long the store takes for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

LEAST_MEAN: Final = 1e-12
"""The least mean number of arrivals during a call. A smaller mean counts as this one."""


class BatchCost(NamedTuple):
    """The seconds that a ``put_many`` of k blobs takes: `fixed` + `each`·k."""

    fixed: float
    each: float

    def of(self, blobs: int) -> float:
        """Return the seconds that a batch of `blobs` blobs takes."""
        return self.fixed + self.each * blobs


@dataclass(frozen=True)
class Calls:
    """The rate of the puts, and the times of the store's calls."""

    rate: float
    """Puts a second."""
    service_time: float
    """Mean seconds of a put."""
    cv: float
    """The coefficient of variation of all the store's times: see `factors`."""
    cost: BatchCost | None = None
    """The mean seconds of a ``put_many``; None if it takes as long as its puts one after another."""

    def seconds(self, blobs: Integers) -> Floats:
        """Return the mean seconds of a call for each number of blobs."""
        put = np.full(len(blobs), self.service_time)
        return put if self.cost is None else np.where(blobs == 1, put, self.cost.fixed + self.cost.each * blobs)

    def means(self, blobs: Integers) -> Floats:
        """Return how many blobs arrive on average during a call, for each number of blobs in the call."""
        means: Floats = np.maximum(self.rate * self.seconds(blobs), LEAST_MEAN)
        return means

    @property
    def squared(self) -> float:
        """The mean of the squared times, divided by the square of the mean. Of the arrivals J it is E J(J-1)/(E J)²."""
        return 1 + self.cv**2


def factors(source: np.random.Generator, count: int, cv: float) -> Floats:
    """Draw times with mean 1 and the coefficient of variation `cv` (standard deviation divided by mean).

    They are constant for 0, exponential for 1, and otherwise log-normal, which means mostly short and a few very long.
    """
    if cv == 0:
        return np.ones(count)
    if cv == 1:
        return source.exponential(1.0, count)
    # Of exp(N(mu, s²)) the mean is exp(mu + s²/2) and the squared coefficient of variation exp(s²) - 1.
    variance = math.log1p(cv * cv)
    return source.lognormal(-variance / 2, math.sqrt(variance), count)
