"""The results of the sweep for the terminal and as JSON. The JSON and the page have all figures of all points."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from rich.table import Table

from .scales import TICKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..model.sweep import Curve, Extent

ValueT = TypeVar("ValueT")


def tables(curves: Sequence[Curve]) -> Iterator[Table]:
    """Give a table for each group of scenarios."""
    for group, members in groupby(curves, lambda curve: curve.scenario.group):
        shown = Table(title=f"{group}; times in mean service times", title_justify="left")
        for column in (
            "batch_size",
            "queue_size",
            "waits",
            "mean wait",
            "p99",
            "p99.9",
            "lag, mean",
            "peak",
            "lost, mean",
            "worst",
            "drain, worst",
            "real code",
        ):
            shown.add_column(column, justify="right")
        for curve in filter(lambda curve: curve.points, members):
            shown.add_section()
            shown.add_row(curve.scenario.label)
            for queue_size in sorted(curve.points.keys() & set(TICKS)):
                shown.add_row(*_cells(curve, queue_size))
        yield shown


def _cells(curve: Curve, queue_size: int) -> list[str]:
    def mean(name: str) -> str:
        return f"{curve.mean(queue_size, name):.3g}"

    checked = curve.checked.get(queue_size)
    share = curve.mean(queue_size, "wait_share")
    return [
        "queue_size" if curve.batches else "1",
        str(queue_size),
        f"{share:.2g}" if share else f"< {3 / curve.puts(queue_size):.0e}",
        mean("mean_wait"),
        *(f"{curve.spread(queue_size, name).median:.3g}" for name in ("p99_wait", "p999_wait")),
        mean("mean_lag"),
        mean("peak_lag"),
        mean("mean_loss"),
        mean("worst_loss"),
        mean("worst_drain"),
        "" if checked is None else "the same" if checked.agrees else f"differs by {checked.difference:.2g}",
    ]


def as_json(machine: Mapping[str, Any], extent: Extent, curves: Sequence[Curve], *, complete: bool) -> str:
    """Return all that was found."""
    return json.dumps(
        {
            "machine": machine,
            "extent": extent._asdict(),
            "complete": complete,
            "curves": [
                {
                    "scenario": {"group": curve.scenario.group, "label": curve.scenario.label},
                    "batch_size": "queue_size" if curve.batches else 1,
                    "points": {size: [asdict(point) for point in points] for size, points in _sorted(curve.points)},
                    "real code": {
                        size: {
                            "puts": one.puts,
                            "point": asdict(one.real),
                            "by recursion": asdict(one.by_recursion),
                            "largest difference of a wait": one.difference,
                            "same blocked_puts": one.same_blocked_puts,
                            "seconds to drain at exit": one.drain,
                        }
                        for size, one in _sorted(curve.checked)
                    },
                    "lag": {size: [lags.tolist() for lags in seeds] for size, seeds in _sorted(curve.lags)},
                }
                for curve in curves
            ],
        }
    )


def _sorted(by_size: Mapping[int, ValueT]) -> list[tuple[int, ValueT]]:
    return sorted(by_size.items(), key=lambda item: item[0])
