"""The report: one HTML file that suits a screen, a dark one too, a phone and paper."""

from __future__ import annotations

from functools import partial
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..model.sweep import QUICK
from . import all_figures
from .charts import draw, draw_lag, image, row_name, rows
from .panels import PANELS
from .reading import QUESTION, READING, SCENARIOS, key
from .style import STYLE
from .summary import agreement, few_from
from .wording import batch_size, byte_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
    """Return the page. It leaves out the parts that an interrupted sweep has not reached, and says so on top."""
    warnings = {
        "The sweep was interrupted: not all scenarios, seeds and sizes are here.": not complete,
        "This is a quick sweep, of so few puts that the figures mean little.": extent == QUICK,
    }
    shown = [curve for curve in curves if curve.points]
    body = [
        "<h1>How large should <code>queue_size</code> be?</h1>",
        *(f'<p class="warning">{warning}</p>' for warning, true in warnings.items() if true),
        f"<p>{QUESTION}</p>",
        _summary(shown),
        f"<h2>How to read the charts</h2><p>{READING}</p>{key()}",
        f"<h2>What was done</h2><p><strong>{escape(agreement(curves))}</strong></p>",
        _done(machine, extent, blob_size),
    ]
    for group, members in groupby(shown, lambda curve: curve.scenario.group):
        body.extend(_section(group, list(members), theory, blob_size))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How large should queue_size be?</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _summary(curves: Sequence[Curve]) -> str:
    """Return a table: from which queue size on fewer than 1 put in 100 waits."""
    found: dict[tuple[str, str], dict[bool, str]] = {}
    for curve in curves:
        sizes = found.setdefault((curve.scenario.group, curve.scenario.label), {})
        sizes[curve.batches] = str(few_from(curve) or f"more than {max(curve.points)}")
    lines = "".join(
        f'<tr><th scope="row"><a href="#{row_name(group, batches=False)}">{escape(group)}</a>, {escape(label)}</th>'
        f"<td>{sizes.get(False, '')}</td><td>{sizes.get(True, '')}</td></tr>"
        for (group, label), sizes in found.items()
    )
    head = "".join(f'<th scope="col">{batch_size(batches=batches)}</th>' for batches in (False, True))
    caption = "<caption>The least queue_size with which fewer than 1 put in 100 waits</caption>"
    return f'<table class="summary">{caption}<thead><tr><td></td>{head}</tr></thead><tbody>{lines}</tbody></table>'


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
        of = f"{group}, {batch_size(batches=batches)}"
        charts = "".join(
            _chart(f"{of}: {panel.title}, in {panel.unit}", partial(draw, panel=panel, curves=row, theory=theory))
            for panel in PANELS
        )
        yield f'<div class="together"><h3>{batch_size(batches=batches)}</h3><div class="row">{charts}</div>'
        yield f'<p class="soft">{escape(agreement(row))}</p></div>'
    lags = "".join(
        _chart(f"{curve.scenario.name}, {of}: lag over time", partial(draw_lag, curve=curve), of)
        for curve in curves
        if curve.lags
        for of in [batch_size(batches=curve.batches)]
    )
    if lags:
        yield f'<div class="together"><h3>Lag over time</h3><div class="row">{lags}</div></div>'
    yield "<details><summary>All figures: the means over the seeds, and their quartiles</summary>"
    yield f'<div class="wide">{all_figures.table(curves, blob_size)}</div></details></section>'


def _chart(label: str, draw_on: Callable[..., None], caption: str = "") -> str:
    return f'<figure><img alt="{escape(label)}" src="{image(draw_on)}"><figcaption>{caption}</figcaption></figure>\n'
