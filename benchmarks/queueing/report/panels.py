"""The charts of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..model.sweep import Curve


@dataclass(frozen=True)
class Panel:
    """One chart of a row."""

    title: str
    unit: str
    figure: str
    """Its name in a `Point`."""
    theory: str
    """Its name in a `Theory`."""
    worst: str | None = None
    """The name in a `Point` of the thin line above, the largest of all seeds."""
    share: bool = False
    """Whether it is a share of the puts."""
    median: bool = False
    """Whether the curve is the median over the seeds: the mean of quantiles says nothing of all puts together."""

    def values(self, curve: Curve) -> dict[int, float]:
        """Return what the curve goes through, by the queue size."""
        return {
            size: curve.spread(size, self.figure).median if self.median else curve.mean(size, self.figure)
            for size in sorted(curve.points)
        }

    def largest(self, curve: Curve, size: int) -> float:
        """Return how high the thin line is; 0 if there is none."""
        return max(getattr(point, self.worst) for point in curve.points[size]) if self.worst else 0.0


PANELS: Final = (
    Panel("Share of puts that wait", "share of the puts", "wait_share", "share", share=True),
    Panel("p99 wait", "mean service times", "p99_wait", "p99_wait", median=True),
    Panel("Lost if killed: mean, and worst (dotted)", "blobs", "mean_loss", "mean_loss", "worst_loss"),
)
