"""The times of a store: of single puts, and of batches, with the cost a + b·k that fits them best."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from trio_replica._advice.calls import BatchCost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_replica._advice.calls import Floats

FEWEST_SUMS: Final = 16
"""The variance of fewer sums says too little."""

WORTH: Final = 0.9
"""Batches pay if a blob in the largest takes at most this share of a put's time: a tenth less is beyond the noise."""


@dataclass(frozen=True)
class PutTimes:
    """The times of single puts, in their order."""

    seconds: Floats

    @property
    def mean(self) -> float:
        """Seconds."""
        return float(self.seconds.mean())

    @property
    def cv(self) -> float:
        """The coefficient of variation: standard deviation divided by mean."""
        return float(self.seconds.std() / self.seconds.mean()) if self.mean else 0.0

    @property
    def margin(self) -> float:
        """The margin for slow puts that come together: the rule is that of `recommend_queue_size`."""
        if len(self.seconds) < FEWEST_SUMS or not self.mean:
            return 1.0
        sizes = [2**power for power in range((len(self.seconds) // FEWEST_SUMS).bit_length())]
        return max(1.0, (1 + max(map(self.dispersion, sizes))) / (1 + self.cv**2))

    def dispersion(self, size: int) -> float:
        """Return the variance of the times of `size` consecutive puts together, divided by size · mean²."""
        count = len(self.seconds) // size
        sums = self.seconds[: count * size].reshape(count, size).sum(axis=1)
        return float(sums.var(ddof=1) / (size * self.mean**2))

    def quantile(self, share: float) -> float:
        """Return the seconds that so large a share of the puts did not exceed."""
        return float(np.quantile(self.seconds, share))


@dataclass(frozen=True)
class BatchTimes:
    """The times of batches of several sizes, in their order."""

    sizes: Floats
    """Blobs of each. At least two different ones."""
    seconds: Floats

    @classmethod
    def of(cls, timed: Sequence[tuple[int, float]]) -> BatchTimes | None:
        """Return the times of batches of these sizes; None without two different sizes, which a cost needs."""
        if len({size for size, _ in timed}) < 2:
            return None
        sizes, seconds = np.array(timed, dtype=float).T
        return cls(sizes, seconds)

    @cached_property
    def cost(self) -> BatchCost:
        """The cost that fits best."""
        return fit(self.sizes, self.seconds)

    @cached_property
    def factors(self) -> Floats:
        """The time of each batch divided by its cost."""
        return self.seconds / (self.cost.fixed + self.cost.each * self.sizes)

    @property
    def spread(self) -> float:
        """The distance of the batches from the fit: the root of the mean square of (factor - 1)."""
        return float(np.sqrt(np.mean((self.factors - 1) ** 2)))

    @property
    def means(self) -> dict[int, float]:
        """The mean seconds of the batches of each size."""
        return {int(size): float(self.seconds[self.sizes == size].mean()) for size in np.unique(self.sizes)}

    def pay(self, puts: PutTimes) -> bool:
        """Return whether a blob takes clearly less time in the largest batch than alone."""
        size, seconds = max(self.means.items())
        return seconds / size <= WORTH * puts.mean


def fit(sizes: Floats, seconds: Floats) -> BatchCost:
    """Return the cost a + b·k, neither below 0, with the least squares of the relative errors.

    Longer times vary more, so the error of each is divided by the mean time of its size.
    """
    means = np.array([seconds[sizes == size].mean() for size in sizes])
    columns = np.column_stack([np.ones(len(sizes)), sizes]) / means[:, None]
    fixed, each = np.linalg.lstsq(columns, seconds / means)[0].tolist()
    if each < 0:
        return BatchCost(_scale(columns[:, 0], seconds / means), 0.0)
    if fixed < 0:
        return BatchCost(0.0, _scale(columns[:, 1], seconds / means))
    return BatchCost(fixed, each)


def stretch(figures: Floats, count: int, source: np.random.Generator) -> Floats:
    """Return so many of the figures in their order, from a random one on, and over again from the first.

    Slow calls come together where a disk has slow moments. Drawn one by one they would not, and waits, which are made
    of such moments, would be too short. SQLite was given 1500 puts/s of 4 KiB. With a `queue_size` of 1, 4 and 16, the
    mean waits were 3, 9 and 100 times as long as R says of the run's own times shuffled.
    """
    return np.resize(np.roll(figures, -source.integers(len(figures))), count)


def _scale(column: Floats, wanted: Floats) -> float:
    """Return what `column` is multiplied with to be as near to `wanted` as it can be."""
    return float(column @ wanted / (column @ column))
