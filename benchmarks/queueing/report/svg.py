"""A chart as an SVG element of a page: with ids of its own, the page's colours and font, and nothing from elsewhere."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

from .charts import Colours, figure_of

if TYPE_CHECKING:
    from collections.abc import Callable

INCHES: Final = (4.7, 3.9)
"""338 units wide: as many pixels as a chart has on a phone, so that its letters are as large there as on paper."""

STAND_INS: Final = Colours("#010101", "#020202", ("#030301", "#030302", "#030303", "#030304"))
"""Drawn with these, a chart takes its colours from the page's variables."""

VARIABLES: Final = {
    STAND_INS.ink: "var(--ink)",
    STAND_INS.grid: "var(--grid)",
    **{colour: f"var(--curve-{place})" for place, colour in enumerate(STAND_INS.curves)},
}

REMOVED: Final = re.compile(
    r"""
    <metadata>.*?</metadata> | <style\b.*?</style> | <!--.*?-->  # the page has the style, and nobody needs the rest
    | \sxmlns:xlink="[^"]*" | \sversion="[^"]*"
    """,
    re.DOTALL | re.VERBOSE,
)

COORDINATES: Final = re.compile(r'\b(?:d|x|y|transform)="[^"]*"')


def chart(name: str, label: str, draw_on: Callable[..., None]) -> str:
    """Return what `draw_on` draws, with that label for those who do not see it. `name` is its own on the page."""
    with figure_of(INCHES) as figure:
        axes = figure.add_axes((0.205, 0.135, 0.765, 0.7))
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        draw_on(axes, colours=STAND_INS)
        return _element(name, label, _text(figure))


def _text(figure: Any) -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _element(name: str, label: str, text: str) -> str:
    svg = REMOVED.sub("", text[text.index("<svg") :])
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    svg = re.sub(r'\bxlink:href="', 'href="', svg)
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)
    svg = COORDINATES.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    svg = re.sub("|".join(VARIABLES), lambda found: VARIABLES[found[0]], svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
