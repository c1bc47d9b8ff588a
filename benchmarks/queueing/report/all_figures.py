"""The table of all figures of some curves: for each the mean over the seeds, and below it their quartiles."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from .wording import batch_size, byte_count, number, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..model.sweep import Curve


class Column(NamedTuple):
    """One figure of a `Point`."""

    figure: str
    group: str
    name: str
    written: Callable[[float], str] = number
    in_bytes: bool = False


COLUMNS: Final = (
    Column("wait_share", "puts that wait", "share", percent),
    Column("blocked_puts", "puts that wait", "number"),
    Column("mean_wait", "wait, service times", "mean"),
    Column("p50_wait", "wait, service times", "p50"),
    Column("p99_wait", "wait, service times", "p99"),
    Column("p999_wait", "wait, service times", "p99.9"),
    Column("throughput", "blobs per service time", "throughput"),
    Column("mean_lag", "lag, service times", "mean"),
    Column("peak_lag", "lag, service times", "peak"),
    Column("mean_held", "held in memory, blobs", "mean"),
    Column("peak_held", "held in memory, blobs", "peak"),
    Column("mean_held", "held, bytes", "mean", byte_count, in_bytes=True),
    Column("peak_held", "held, bytes", "peak", byte_count, in_bytes=True),
    Column("mean_loss", "lost if killed, blobs", "mean"),
    Column("worst_loss", "lost if killed, blobs", "worst"),
    Column("mean_drain", "drain, service times", "mean"),
    Column("worst_drain", "drain, service times", "worst"),
)


def table(curves: Sequence[Curve], blob_size: int) -> str:
    """Return an HTML table of the curves, which have blobs of so many bytes."""
    return f"<table><thead>{_head()}</thead>{''.join(_body(curve, blob_size) for curve in curves)}</table>"


def _head() -> str:
    groups = dict.fromkeys(column.group for column in COLUMNS)
    above = "".join(
        f'<th scope="colgroup" colspan="{sum(column.group == group for column in COLUMNS)}">{group}</th>'
        for group in groups
    )
    below = "".join(f'<th scope="col">{column.name}</th>' for column in COLUMNS)
    sizes = '<th scope="col" rowspan="2">queue_size</th><th scope="col" rowspan="2">puts</th>'
    return f"<tr>{sizes}{above}</tr><tr>{below}</tr>"


def _body(curve: Curve, blob_size: int) -> str:
    name = f"{curve.scenario.label}; {batch_size(batches=curve.batches)}"
    lines = "".join(
        f'<tr><th scope="row">{size}</th><td>{curve.puts(size):,}</td>{"".join(_cells(curve, size, blob_size))}</tr>'
        for size in sorted(curve.points)
    )
    head = f'<tr><th scope="rowgroup" colspan="{len(COLUMNS) + 2}">{escape(name)}</th></tr>'
    return f"<tbody>{head}{lines}</tbody>"


def _cells(curve: Curve, size: int, blob_size: int) -> Iterator[str]:
    for column in COLUMNS:
        mean, spread = curve.mean(size, column.figure), curve.spread(size, column.figure)
        if column.figure == "wait_share" and mean == 0:
            yield f"<td>&lt; {percent(3 / curve.puts(size))}</td>"  # the end of a 95 % interval
            continue
        unit = blob_size if column.in_bytes else 1
        cell = column.written(mean * unit)
        if spread.low != spread.high:
            cell += f"<small>{column.written(spread.low * unit)}–{column.written(spread.high * unit)}</small>"
        yield f"<td>{cell}</td>"
