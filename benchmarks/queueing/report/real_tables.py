"""The measurements of a real store as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..measure.real_store import Measurement
    from ..measure.service import BatchTimes, PutTimes
    from ..model.points import Point


def tables(measurement: Measurement) -> Iterator[Table]:
    """Give a table for the single puts, the batches, and the runs; only for what was measured."""
    if measurement.puts is None:
        return
    yield _puts(measurement, measurement.puts)
    if measurement.batches is not None:
        yield _batches(measurement, measurement.batches)
    if measurement.runs:
        yield _runs(measurement, measurement.puts)


def _puts(measurement: Measurement, puts: PutTimes) -> Table:
    shown = _table(
        f"{measurement.name}: single puts of {measurement.plan.blob_size:,} bytes, one after another",
        ("puts", "mean", "standard deviation / mean", "median", "p99", "longest"),
    )
    quantiles = (_time(puts.quantile(share)) for share in (0.5, 0.99, 1.0))
    shown.add_row(f"{len(puts.seconds):,}", _time(puts.mean), f"{puts.cv:.2f}", *quantiles)
    return shown


def _batches(measurement: Measurement, batches: BatchTimes) -> Table:
    fixed, each = batches.cost
    verdict = "batches pay" if measurement.batches_pay else "batches do not pay: no replica was run with them"
    shown = _table(
        "put_many of k blobs",
        ("k", "batches", "mean", "a + b·k", "a blob"),
        f"a = {_time(fixed)}, b = {_time(each)}; a batch is {batches.spread:.0%} off, root mean square; {verdict}.",
    )
    for size, mean in batches.means.items():
        count = int((batches.sizes == size).sum())
        shown.add_row(str(size), str(count), *map(_time, (mean, batches.cost.of(size), mean / size)))
    return shown


def _runs(measurement: Measurement, puts: PutTimes) -> Table:
    late = max(float(np.quantile(run.late, 0.99)) for run in measurement.runs)
    shown = _table(
        f"the replica, {measurement.plan.rate:g} puts/s",
        (
            "queue_size",
            "batch_size",
            "puts",
            "a second",
            "slower",
            "",
            "wait",
            "mean wait",
            "p99 wait",
            "blobs lost if killed",
        ),
        "Below the real puts, the recursion R for the same arrivals. With the run's own times: any difference "
        "left is the event loop's. With the times alone: 5 % to 95 % of 40 outcomes; too low where the store is "
        "slower in use than alone, by the factor shown, the event loop included, or its slow moments come together. "
        f"Of the puts 99 % were called at most {_time(late)} late, which is in no wait.",
    )
    for run in measurement.runs:
        slower = f"× {run.slower(puts, measurement.batches):.2f}"
        shown.add_section()
        head = (str(run.queue_size), str(run.batch_size), f"{run.real.puts:,}", f"{run.rate:.3g}", slower)
        shown.add_row(*head, "real", *_figures([run.real]))
        shown.add_row(*[""] * 5, "R, own times", *_figures([run.by_own_times()]))
        shown.add_row(*[""] * 5, "R, times alone", *_figures(run.by_times_alone(puts, measurement.batches)))
    return shown


def _figures(points: Sequence[Point]) -> Iterator[str]:
    """Give what the points say: of several, from where to where all but a tenth are."""
    columns: tuple[tuple[str, Callable[[float], str]], ...] = (
        ("wait_share", lambda share: f"{100 * share:.3g} %"),
        ("mean_wait", _time),
        ("p99_wait", _time),
        ("mean_loss", lambda blobs: f"{blobs:.3g}"),
    )
    for name, show in columns:
        low, high = np.quantile([getattr(point, name) for point in points], (0.05, 0.95)).tolist()
        yield show(low) if show(low) == show(high) else f"{show(low)} to {show(high)}"


def _table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    shown = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in columns:
        shown.add_column(column, justify="right")
    return shown


def _time(seconds: float) -> str:
    """Return a time with three digits and a unit that suits it."""
    if not seconds:
        return "0"
    unit, scale = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{seconds * scale:.3g} {unit}"
