"""The report: one HTML file with everything in it, for the screen, a dark one too, for a phone and for print."""

from __future__ import annotations

from functools import partial
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..model.sweep import QUICK
from . import all_figures, conclusions
from .charts import draw, draw_lag, row_name, rows
from .panels import PANELS
from .reading import QUESTION, READING, SCENARIOS, key
from .style import STYLE
from .svg import chart
from .wording import batch_size, byte_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..model.sweep import Curve, Extent
    from .charts import TheoryOf


def render(
    curves: Sequence[Curve],
    theory: TheoryOf,
    *,
    machine: Mapping[str, Any],
    extent: Extent,
    blob_size: int,
    complete: bool,
) -> str:
    """Return the page. What an interrupted sweep has not reached is left out, and it is said on top."""
    title = "How large should <code>queue_size</code> be?"
    warnings = {
        "The sweep was interrupted: not all scenarios, seeds and sizes are here.": not complete,
        "This is a quick sweep, of so few puts that the figures mean little.": extent == QUICK,
    }
    groups = [
        (group, list(members))
        for group, members in groupby(curves, lambda curve: curve.scenario.group)
        if any(curve.points for curve in curves if curve.scenario.group == group)
    ]
    body = [
        f"<h1>{title}</h1>",
        *(f'<p class="warning">{warning}</p>' for warning, true in warnings.items() if true),
        f"<p>{QUESTION}</p>",
        f"<nav><p>In short, for {_prose(batch_size(batches=False))}:</p>",
        f"<ul>{''.join(_link(group, members) for group, members in groups)}</ul></nav>",
        f"<h2>How to read the charts</h2><p>{READING}</p>{key()}",
        f"<h2>What was done</h2><p><strong>{escape(conclusions.of_agreement(curves))}</strong></p>",
        _done(machine, extent, blob_size),
        *(section for group, members in groups for section in _section(group, members, theory, blob_size)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How large should queue_size be?</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _link(group: str, curves: Sequence[Curve]) -> str:
    _, _, first = next(rows(curves))
    link = f'<a href="#{row_name(group, batches=False)}">{escape(group)}</a>'
    return f"<li>{link}: {_prose(conclusions.of_share(first))}</li>"


def _done(machine: Mapping[str, Any], extent: Extent, blob_size: int) -> str:
    facts = "; ".join(f"{fact}: {value}" for fact, value in machine.items() if value is not None)
    return (
        f"<p>R: {extent.seeds} seeds of {extent.puts:,} puts each in scenarios without an end of their own. Real code: "
        f"runs of {extent.real_puts:,} puts. Bytes are those of blobs of {byte_count(blob_size)}.</p>"
        f'<p class="soft">{escape(facts)}.</p>'
    )


def _section(group: str, curves: Sequence[Curve], theory: TheoryOf, blob_size: int) -> Iterator[str]:
    yield f'\n<section id="{row_name(group, batches=False)}"><h2>{escape(group)}</h2>'
    yield f"<p>{SCENARIOS[type(curves[0].scenario)]}</p>"
    for _, batches, row in rows(curves):
        yield f'<div class="together"><h3>{batch_size(batches=batches)}</h3><div class="row">'
        yield from _charts(row_name(group, batches=batches), row, theory)
        yield f'</div><p class="soft">{escape(_puts(row))}</p></div>'
    lagging = [curve for curve in curves if curve.lags]
    if lagging:
        yield '<div class="together"><h3>Lag over time</h3><div class="row">'
        yield from map(_lag_chart, lagging)
        yield "</div></div>"
    shown = [curve for curve in curves if curve.points]
    yield "<details><summary>All figures: the means over the seeds, and their quartiles</summary>"
    yield f'<div class="wide">{all_figures.table(shown, blob_size)}</div></details></section>'


def _charts(name: str, row: Sequence[Curve], theory: TheoryOf) -> Iterator[str]:
    concluded = (conclusions.of_share, conclusions.of_p99, conclusions.of_loss)
    for panel, conclude in zip(PANELS, concluded, strict=True):
        label = f"{_of(row[0])}: {panel.title}, in {panel.unit}, against queue_size"
        svg = chart(f"{name}-{panel.key}", label, partial(draw, panel=panel, curves=row, theory=theory))
        yield _figure(svg, conclude(row))


def _lag_chart(curve: Curve) -> str:
    name = row_name(curve.scenario.name, batches=curve.batches)
    svg = chart(f"{name}-lag", f"{_of(curve)}: lag over time, in mean service times", partial(draw_lag, curve=curve))
    return _figure(svg, f"{batch_size(batches=curve.batches)}: {conclusions.of_lag(curve)}")


def _of(curve: Curve) -> str:
    return f"{curve.scenario.group}, {batch_size(batches=curve.batches)}"


def _figure(svg: str, conclusion: str) -> str:
    return f"<figure>{svg}<figcaption>{_prose(conclusion)}</figcaption></figure>\n"


def _puts(row: Sequence[Curve]) -> str:
    """Say how many puts the charts of a row are of, and how the real code compares."""
    counts = {curve.puts(size) for curve in row for size in curve.points}
    seeds = {len(points) for curve in row for points in curve.points.values()}
    return (
        f"R: N = {_range(counts)} puts at each size, of {_range(seeds)} seed{'s' * (seeds != {1})}. "
        f"{conclusions.of_agreement(row)}"
    )


def _range(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _prose(words: str) -> str:
    return escape(words).replace(" = ", "&nbsp;=&nbsp;")
