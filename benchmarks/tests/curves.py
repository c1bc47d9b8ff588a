"""Curves of a small sweep, for tests of the tables and charts that are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.queueing.model import sweep
from benchmarks.queueing.model.sweep import Curve, tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.queueing.model.scenarios import Scenario
    from benchmarks.queueing.model.sweep import Extent


def curves_of(wanted: Sequence[Scenario], extent: Extent) -> list[Curve]:
    """Return all curves, found without further processes."""
    curves = {(scenario, batches): Curve(scenario, batches) for scenario in wanted for batches in (False, True)}
    for task in tasks(wanted, extent):
        sweep._keep(curves, task, task.run())
    return list(curves.values())
