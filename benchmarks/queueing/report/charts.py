"""The charts of the sweep, drawn with matplotlib: as images for the page, and as PNG files.

Curves are the recursion R: the share and the loss are the mean over the seeds, the p99 wait is the median, and the band
around each is the quartiles of the seeds. Theory is dashed. A dot is a run of the real code, and the ring around it is
what the recursion says of the same times.
"""

from __future__ import annotations

import base64
import io
import math
import re
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from ..model.sweep import lag_times
from .panels import PANELS
from .scales import set_heights, set_sizes
from .wording import batch_size

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from ..model.sweep import Curve
    from ..model.theory import Theory
    from .panels import Panel

    TheoryOf: TypeAlias = Callable[..., Theory | None]

INK: Final = "#1a1a1a"
GRID: Final = "#d5d5d5"
CURVES: Final = ("#0072b2", "#d55e00", "#007a57", "#7b3f8c")
"""Those of Okabe and Ito, which all eyes can tell apart, darkened until they can be read on white."""

DARK: Final = {
    INK: "#e8e8e8",
    GRID: "#3a3d44",
    **dict(zip(CURVES, ("#56b4e9", "#f0913a", "#35c79a", "#d79be6"), strict=True)),
}
"""The colours on a dark page."""

MARKERS: Final = "osD^"
DENSE: Final = 6
"""Sizes in each doubling at which theory is evaluated."""

INCHES: Final = (4.7, 3.9)
"""338 units wide: as many pixels as a chart has on a phone, so that its letters are as large there as on paper."""

PNG_KEY: Final = (
    "curve: recursion, with the quartiles of its seeds; dashed: theory; dot: real code, in a shorter run; "
    "ring: recursion on the same times"
)


def rows(curves: Iterable[Curve]) -> Generator[tuple[str, bool, list[Curve]], None, None]:
    """Give the curves that are shown in one row: those of a group with batches, or without."""
    for group, members in groupby(curves, lambda curve: curve.scenario.group):
        of_group = list(members)
        for batches in (False, True):
            shown = [curve for curve in of_group if curve.batches == batches and curve.points]
            if shown:
                yield group, batches, shown


def row_name(group: str, *, batches: bool) -> str:
    """Return what a row is called in names of files and anchors."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", group).strip("-").lower() + ("-batches" if batches else "")


def image(draw_on: Callable[[Any], None]) -> str:
    """Return what `draw_on` draws as the URL of an image, an SVG that has other colours where the page is dark."""
    with figure_of(INCHES) as figure:
        axes = figure.add_axes((0.205, 0.135, 0.765, 0.7))
        draw_on(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    svg = written.getvalue()
    for place, colour in enumerate(DARK):
        svg = svg.replace(colour, f"var(--c{place})")
    for_light = "".join(f"--c{place}:{colour};" for place, colour in enumerate(DARK))
    for_dark = "".join(f"--c{place}:{colour};" for place, colour in enumerate(DARK.values()))
    style = (
        f"<style>svg{{{for_light}}} @media screen and (prefers-color-scheme:dark){{svg{{{for_dark}}}}}</style></svg>"
    )
    svg = svg.replace("</svg>", style)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def draw(axes: Any, panel: Panel, curves: Sequence[Curve], theory: TheoryOf) -> None:
    """Draw one chart."""
    for place, curve in enumerate(curves):
        look = {"color": CURVES[place % 4], "marker": MARKERS[place % 4]}
        _draw_curve(axes, panel, curve, look)
        _draw_theory(axes, panel, curve, theory, look["color"])
        _draw_checked(axes, panel, curve, look)
    set_sizes(axes, sorted({size for curve in curves for size in curve.points}))
    values = [value for curve in curves for value in panel.values(curve).values()]
    real = [getattr(checked.real, panel.figure) for curve in curves for checked in curve.checked.values()]
    worst = [panel.largest(curve, size) for curve in curves for size in curve.points if panel.worst]
    set_heights(axes, [*values, *real, *worst], panel.unit, share=panel.share)
    _finish(axes, panel.title)


def draw_lag(axes: Any, curve: Curve) -> None:
    """Draw the lag over time for some queue sizes: the median over the seeds, and the quartiles."""
    times = lag_times(curve.scenario.lag_seconds())
    for place, (size, lags) in enumerate(sorted(curve.lags.items())):
        low, median, high = np.quantile(np.array(lags), (0.25, 0.5, 0.75), axis=0)
        look = {"color": CURVES[place % 4], "marker": MARKERS[place % 4], "markevery": (8 * place, 30), "markersize": 4}
        axes.fill_between(times, low, high, color=look["color"], alpha=0.25, linewidth=0)
        axes.plot(times, median, linewidth=1.5, label=f"{'queue_size = ' * (place == 0)}{size}", **look)
    axes.set_xlim(0, times[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time (mean service times)")
    axes.set_ylabel("mean service times")
    _finish(axes, "Lag: age of the oldest blob not yet written")


def draw_all(curves: Sequence[Curve], theory: TheoryOf, folder: Path) -> list[Path]:
    """Draw each row in one PNG file in `folder`, 1200 pixels wide, and return the files."""
    paths = []
    for group, batches, shown in rows(curves):
        paths.append(folder / f"queue-{row_name(group, batches=batches)}.png")
        with figure_of((14.1, 4.7)) as figure:
            figure.subplots_adjust(left=0.08, right=0.992, top=0.79, bottom=0.185, wspace=0.25)
            for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
                draw(axes, panel, shown, theory)
            figure.suptitle(f"{group}, {batch_size(batches=batches)}", color=INK)
            figure.text(0.5, 0.03, PNG_KEY, horizontalalignment="center", color=INK)
            figure.savefig(paths[-1], dpi=85)
    return paths


@contextmanager
def figure_of(inches: tuple[float, float]) -> Generator[Any, None, None]:
    """Give a figure of that size, whose text stays text, and which is the same each time it is drawn."""
    import matplotlib as mpl  # noqa: PLC0415  (it takes a second, and only the charts need it)
    from matplotlib.figure import Figure  # noqa: PLC0415

    style = {"font.size": 10.5, "axes.titlesize": 11, "legend.fontsize": 10, "axes.linewidth": 0.8}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "queue", **style}):
        yield Figure(figsize=inches)


def _draw_curve(axes: Any, panel: Panel, curve: Curve, look: dict[str, str]) -> None:
    values, sizes = panel.values(curve), sorted(curve.points)
    spreads = [curve.spread(size, panel.figure) for size in sizes]
    lows, highs = [spread.low for spread in spreads], [spread.high for spread in spreads]
    axes.fill_between(sizes, lows, highs, color=look["color"], alpha=0.2, linewidth=0)
    undotted = [place for place, size in enumerate(values) if size not in curve.checked]
    axes.plot(values.keys(), values.values(), linewidth=1.5, markersize=3.5, markevery=undotted, **look)
    axes.plot([], [], linewidth=1.5, markersize=4, label=curve.scenario.label, **look)
    if panel.worst is not None:
        worst = [panel.largest(curve, size) for size in sizes]
        axes.plot(sizes, worst, color=look["color"], linewidth=0.9, linestyle=(0, (1, 1.5)))


def _draw_theory(axes: Any, panel: Panel, curve: Curve, theory: TheoryOf, colour: str) -> None:
    known = {
        size: value
        for size in _dense(min(curve.points), max(curve.points))
        for point in [theory(curve.scenario, size, batches=curve.batches)]
        if point is not None and (value := getattr(point, panel.theory)) is not None
    }
    axes.plot(known.keys(), known.values(), color=colour, linewidth=1.2, linestyle=(0, (4, 3)))


def _draw_checked(axes: Any, panel: Panel, curve: Curve, look: dict[str, str]) -> None:
    ring = {"color": look["color"], "marker": "o", "markersize": 8, "markerfacecolor": "none"}
    for run, drawn in (("real", {**look, "markersize": 3.5}), ("by_recursion", ring)):
        heights = {size: getattr(getattr(checked, run), panel.figure) for size, checked in curve.checked.items()}
        axes.plot(heights.keys(), heights.values(), linestyle="none", clip_on=False, **drawn)


def _dense(smallest: int, largest: int) -> list[int]:
    steps = round(DENSE * math.log2(largest / smallest))
    return sorted({round(smallest * 2 ** (step / DENSE)) for step in range(steps + 1)})


def _finish(axes: Any, title: str) -> None:
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, color=INK, pad=26, loc="left", y=1.0, fontweight="bold")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=4,
        frameon=False,
        labelcolor=INK,
        handlelength=1.3,
        columnspacing=0.9,
        handletextpad=0.4,
        borderaxespad=0.2,
    )
    axes.tick_params(colors=INK, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
