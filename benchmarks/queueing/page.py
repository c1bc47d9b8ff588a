"""The report: one HTML file with everything in it, for the screen, a dark one too, for a phone and for print."""

from __future__ import annotations

import io
import re
from dataclasses import fields
from functools import partial
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from . import conclusions
from .charts import PANELS, Colours, draw, draw_lag, pyplot, row_name, rows
from .points import Point
from .tables import agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .charts import TheoryOf
    from .sweep import Curve, Extent

STAND_INS: Final = Colours("#010101", "#020202", ("#030301", "#030302", "#030303", "#030304"))
"""Drawn with these, a chart takes its colours from the page: see `STYLE`."""

VARIABLES: Final = {
    STAND_INS.ink: "var(--ink)",
    STAND_INS.grid: "var(--grid)",
    **{colour: f"var(--curve-{place})" for place, colour in enumerate(STAND_INS.curves)},
}

STYLE: Final = """
:root { --paper: #fff; --ink: #1a1a1a; --soft: #555; --grid: #d5d5d5; --line: #ccc;
  --curve-0: #0072b2; --curve-1: #d55e00; --curve-2: #007a57; --curve-3: #a4508b; color-scheme: light dark; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8e8e8; --soft: #aaa; --grid: #3a3d44; --line: #444;
    --curve-0: #56b4e9; --curve-1: #f0913a; --curve-2: #35c79a; --curve-3: #dd90c2; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 84rem; padding: 1rem clamp(0.75rem, 3vw, 2.5rem); }
h1 { line-height: 1.2; margin-bottom: 0.3em; } h2 { margin: 2.5em 0 0.2em; border-bottom: 1px solid var(--line); }
h3 { margin: 1.4em 0 0.4em; font-weight: 600; } p { max-width: 48rem; } a { color: var(--curve-0); }
.warning { border-left: 0.3rem solid var(--curve-1); padding-left: 0.8rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; break-inside: avoid; } figure svg { display: block; width: 100%; height: auto; max-width: 34rem; }
figcaption { color: var(--soft); font-size: 0.92rem; max-width: 34rem; }
nav ul { columns: 18rem; padding-left: 1.2rem; } details { margin-top: 1rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.78rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th[scope=row], td:first-child { text-align: left; } summary { cursor: pointer; }
@media print { body { font-size: 9.5pt; max-width: none; padding: 0; }
  figcaption { font-size: 7.5pt; line-height: 1.3; } .row { grid-template-columns: repeat(3, 1fr); }
  details { display: none; } h2, h3 { break-after: avoid; } section { break-before: auto; } a { color: inherit; } }
"""

READING: Final = """
A put that finds the queue of an async store full waits for room. What follows shows, for queues of 1 to 4096 blobs, how
many puts wait, how long 1 in 100 of them waits or longer, and, beside it on the same axis, how many acknowledged blobs
that store lacks if the process is killed. Times are in mean service times of the store: if it takes 20 ms for a put, 50
are a second.
"""

LEGEND: Final = """
A curve is the recursion R, the mean over the seeds; the band around it are the quartiles of the seeds. Dashed is
theory, where there is one. A dot is a run of the real code in virtual time, of fewer puts than a curve, so it may lie
beside it; the ring around it is what the recursion says of the very times of that run. Where no put waited at all, a
triangle stands at 3/N, with N the number of puts: the true share is probably less.
"""


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
    shown = [curve for curve in curves if curve.points]
    groups = dict.fromkeys(curve.scenario.group for curve in shown)
    links = "".join(f"<li><a href=#{row_name(group, batches=False)}>{escape(group)}</a>" for group in groups)
    facts = "; ".join(f"{fact} {value}" for fact, value in machine.items() if value is not None)
    extents = (
        f"{extent.seeds} seeds of {extent.puts:,} puts each in steady scenarios, by the recursion; "
        f"{extent.real_puts:,} puts in a run of the real code. Blobs of {blob_size:,} bytes where bytes are given."
    )
    body = [
        "<h1>How large should <code>queue_size</code> be?</h1>",
        "" if complete else "<p class=warning>The sweep was interrupted: not all scenarios, seeds and sizes are here.",
        f"<p>{READING}<p>{LEGEND}<p><strong>{escape(agreement(curves))}</strong>",
        f"<p>{extents} {escape(facts)}.<nav><ul>{links}</ul></nav>",
    ]
    with pyplot() as plt:
        for group, members in groupby(shown, lambda curve: curve.scenario.group):
            body.extend(_section(plt, group, list(members), theory, blob_size))
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>How large should queue_size be?</title><style>{STYLE}</style>\n{''.join(body)}</html>\n"
    )


def _section(plt: Any, group: str, curves: Sequence[Curve], theory: TheoryOf, blob_size: int) -> Iterator[str]:
    yield f"<section id={row_name(group, batches=False)}><h2>{escape(group)}</h2>"
    for _, batches, row in rows(curves):
        name = row_name(group, batches=batches)
        yield f"<h3>batch_size = {'queue_size' if batches else 1}</h3><div class=row>"
        for panel, conclude in zip(
            PANELS, (conclusions.of_share, conclusions.of_p99, conclusions.of_loss), strict=True
        ):
            svg = _svg(plt, f"{name}-{panel.key}", partial(draw, panel=panel, curves=row, theory=theory))
            yield _figure(svg, conclude(row) + _checked(row), f"{group}: {panel.title}")
        for curve in row:
            if curve.lags:
                svg = _svg(plt, f"{name}-lag", partial(draw_lag, curve=curve))
                yield _figure(svg, conclusions.of_lag(curve), f"{group}: lag over time")
        yield "</div>"
    yield f"<details><summary>All figures</summary>{_table(curves, blob_size)}</details></section>"


def _checked(row: Sequence[Curve]) -> str:
    """Say how many puts a chart is of."""
    puts = [sum(point.puts for point in points) for curve in row for points in curve.points.values()]
    real = [one for curve in row for one in curve.checked.values()]
    said = f" R: N = {max(puts):,} puts at each size"
    if not real:
        return f"{said}."
    largest = max(one.difference for one in real)
    return f"{said}; real code: {sum(one.puts for one in real):,} puts, no wait differs by more than {largest:.2g}."


def _figure(svg: str, caption: str, label: str) -> str:
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    return f"<figure>{labelled}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _svg(plt: Any, name: str, draw_on: Callable[..., None]) -> str:
    """Return a chart as an SVG element whose ids are its own and whose colours are the page's."""
    figure, axes = plt.subplots(figsize=(4.9, 4.1))
    figure.subplots_adjust(left=0.215, right=0.965, top=0.83, bottom=0.13)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    draw_on(axes, colours=STAND_INS)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub("|".join(VARIABLES), lambda found: VARIABLES[found[0]], svg)


def _table(curves: Sequence[Curve], blob_size: int) -> str:
    """Return all figures: the mean over the seeds, and the quartiles where they differ from it."""
    names = [field.name for field in fields(Point)]
    head = "".join(f"<th>{escape(name.replace('_', ' '))}" for name in [*names, "mean held bytes", "peak held bytes"])
    lines = []
    for curve in curves:
        for size in sorted(curve.points):
            spreads = [(curve.mean(size, name), curve.spread(size, name)) for name in names]
            cells = "".join(
                f"<td>{mean:.4g}"
                + (f" <small>{spread.low:.3g} to {spread.high:.3g}</small>" * (spread.low != spread.high))
                for mean, spread in spreads
            )
            held = "".join(f"<td>{curve.mean(size, name) * blob_size:,.0f}" for name in ("mean_held", "peak_held"))
            batch = "queue_size" if curve.batches else 1
            lines.append(f"<tr><th scope=row>{escape(curve.scenario.label)}<td>{size}<td>{batch}{cells}{held}")
    return f"<table><thead><tr><th>scenario<th>queue_size<th>batch_size{head}</thead>{''.join(lines)}</table>"
