"""A simulated store to be measured, and the ways in which tests look on."""

from __future__ import annotations

import io
import signal
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.queueing.measure.real_store import Measurement, Plan
from benchmarks.queueing.report.real_tables import tables
from trio_replica.testing import Batched, SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Callable


PUT = 2.0**-7
FIXED = 2.0**-8
EACH = 2.0**-10
"""Seconds, on the grid: nothing is rounded."""

PLAN = Plan(rate=100.0, blob_size=16, seconds=8.0)


def quiet(_: str) -> None:
    pass


def store_with_batches() -> SimulatedStore:
    return SimulatedStore(put=PUT, put_many=Batched(FIXED, EACH))


def press(after: str, *, times: int = 1) -> Callable[[str], None]:
    """Return a function that presses Ctrl-C when it is told a text that contains `after`, at most so many times."""
    left = iter(range(times))

    def told(text: str) -> None:
        if after in text and next(left, None) is not None:
            signal.raise_signal(signal.SIGINT)

    return told


def shown(measurement: Measurement) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in tables(measurement):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
