"""The charts of the sweep, drawn with matplotlib: for the page, and as PNG files.

Curves are the recursion R: the share and the loss are the mean over the seeds, the p99 wait is the median, and the band
around each is the quartiles of the seeds. Theory is dashed. A dot is a run of the real code, and the ring around it
what the recursion says of the same times.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from ..model.sweep import lag_times
from .panels import PANELS
from .scales import Heights, set_heights, set_sizes
from .wording import batch_size

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from ..model.sweep import Curve
    from ..model.theory import Theory
    from .panels import Panel

    TheoryOf: TypeAlias = Callable[..., Theory | None]

MARKERS: Final = "osD^"
DENSE: Final = 6
"""Sizes in each doubling at which theory is evaluated."""

PNG_KEY: Final = (
    "curve: recursion, with the quartiles of its seeds; dashed: theory; dot: real code, in a shorter run; "
    "ring: recursion on the same times"
)


@dataclass(frozen=True)
class Colours:
    """What a chart is drawn with."""

    ink: str
    grid: str
    curves: tuple[str, str, str, str]


LIGHT: Final = Colours("#1a1a1a", "#d5d5d5", ("#0072b2", "#d55e00", "#007a57", "#7b3f8c"))
"""The curves' are those of Okabe and Ito, which all eyes can tell apart, darkened until they can be read on white."""


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


def draw(axes: Any, panel: Panel, curves: Sequence[Curve], theory: TheoryOf, colours: Colours) -> None:
    """Draw one chart."""
    heights = Heights.of(panel, curves)
    for place, curve in enumerate(curves):
        colour, marker = colours.curves[place % 4], MARKERS[place % 4]
        _draw_curve(axes, panel, curve, heights.bottom, (colour, marker))
        _draw_theory(axes, panel, curve, theory, (heights.least, colour))
        _draw_checked(axes, panel, curve, (colour, marker))
    _draw_nones(axes, heights, colours)
    set_sizes(axes, sorted({size for curve in curves for size in curve.points}))
    set_heights(axes, panel, heights, colours.ink)
    _finish(axes, panel.title, colours)


def draw_lag(axes: Any, curve: Curve, colours: Colours) -> None:
    """Draw the lag over time for some queue sizes: the median over the seeds, and the quartiles."""
    times = lag_times(curve.scenario.lag_seconds())
    for place, (size, lags) in enumerate(sorted(curve.lags.items())):
        low, median, high = np.quantile(np.array(lags), (0.25, 0.5, 0.75), axis=0)
        colour = colours.curves[place % 4]
        axes.fill_between(times, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(
            times,
            median,
            color=colour,
            linewidth=1.5,
            label=f"{'queue_size = ' * (place == 0)}{size}",
            marker=MARKERS[place % 4],
            markevery=(8 * place, 30),
            markersize=4,
        )
    axes.set_xlim(0, times[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time (mean service times)")
    axes.set_ylabel("mean service times")
    _finish(axes, "Lag: age of the oldest blob not yet written", colours)


def draw_all(curves: Sequence[Curve], theory: TheoryOf, folder: Path) -> list[Path]:
    """Draw each row in one PNG file in `folder`, and return the files."""
    paths = []
    for group, batches, shown in rows(curves):
        paths.append(folder / f"queue-{row_name(group, batches=batches)}.png")
        draw_row(shown, theory, paths[-1])
    return paths


def draw_row(curves: Sequence[Curve], theory: TheoryOf, path: Path) -> None:
    """Draw the charts of one row beside each other, 1200 pixels wide."""
    with figure_of((14.1, 4.7)) as figure:
        figure.subplots_adjust(left=0.07, right=0.992, top=0.79, bottom=0.185, wspace=0.25)
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            draw(axes, panel, curves, theory, LIGHT)
        name = f"{curves[0].scenario.group}, {batch_size(batches=curves[0].batches)}"
        figure.suptitle(name, color=LIGHT.ink)
        figure.text(0.5, 0.03, PNG_KEY, horizontalalignment="center", color=LIGHT.ink)
        figure.savefig(path, dpi=85)


@contextmanager
def figure_of(inches: tuple[float, float]) -> Generator[Any, None, None]:
    """Give a figure of that size, whose text stays text, and which is the same each time it is drawn."""
    import matplotlib as mpl  # noqa: PLC0415  (it takes a second, and only the charts need it)
    from matplotlib.figure import Figure  # noqa: PLC0415

    style = {"font.size": 10.5, "axes.titlesize": 11, "legend.fontsize": 10, "axes.linewidth": 0.8}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "queue", **style}):
        yield Figure(figsize=inches)


def _draw_curve(axes: Any, panel: Panel, curve: Curve, bottom: float, look: tuple[str, str]) -> None:
    colour, marker = look
    values = {size: value for size, value in panel.values(curve).items() if value > 0}
    dots = {size for size, checked in curve.checked.items() if getattr(checked.real, panel.figure) > 0}
    spreads = [curve.spread(size, panel.figure) for size in curve.points]
    band = sorted(zip(curve.points, spreads, strict=True))
    axes.fill_between(
        [size for size, _ in band],
        [max(spread.low, bottom / 2) for _, spread in band],
        [max(spread.high, bottom / 2) for _, spread in band],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(
        values.keys(),
        values.values(),
        color=colour,
        linewidth=1.5,
        marker=marker,
        markersize=3.5,
        markevery=[place for place, size in enumerate(values) if size not in dots],
    )
    axes.plot([], [], color=colour, linewidth=1.5, marker=marker, markersize=4, label=curve.scenario.label)
    if panel.worst is not None:
        sizes = sorted(curve.points)
        worst = [panel.largest(curve, size) for size in sizes]
        axes.plot(sizes, worst, color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)))


def _draw_theory(axes: Any, panel: Panel, curve: Curve, theory: TheoryOf, look: tuple[float, str]) -> None:
    least, colour = look
    known = {
        size: value
        for size in _dense(min(curve.points), max(curve.points))
        for point in [theory(curve.scenario, size, batches=curve.batches)]
        if point is not None and (value := getattr(point, panel.theory)) is not None and value >= least
    }
    axes.plot(known.keys(), known.values(), color=colour, linewidth=1.2, linestyle=(0, (4, 3)))


def _draw_checked(axes: Any, panel: Panel, curve: Curve, look: tuple[str, str]) -> None:
    colour, marker = look
    for run, drawn in (
        ("real", {"marker": marker, "markersize": 3.5}),
        ("by_recursion", {"marker": "o", "markersize": 8, "markerfacecolor": "none"}),
    ):
        heights = {size: getattr(getattr(checked, run), panel.figure) for size, checked in curve.checked.items()}
        shown = {size: height for size, height in heights.items() if height > 0}
        axes.plot(shown.keys(), shown.values(), color=colour, linestyle="none", **drawn)


def _draw_nones(axes: Any, heights: Heights, colours: Colours) -> None:
    taken: list[int] = []
    for place, size, height in heights.nones:
        beside = size * 1.12 ** taken.count(size)
        taken.append(size)
        axes.plot(
            beside,
            height,
            marker="v",
            markersize=7,
            markerfacecolor="none",
            color=colours.curves[place % 4],
            linestyle="none",
            clip_on=False,
            zorder=3,
        )


def _dense(smallest: int, largest: int) -> list[int]:
    steps = round(DENSE * math.log2(largest / smallest))
    return sorted({round(smallest * 2 ** (step / DENSE)) for step in range(steps + 1)})


def _finish(axes: Any, title: str, colours: Colours) -> None:
    axes.grid(visible=True, color=colours.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, color=colours.ink, pad=26, loc="left", y=1.0, fontweight="bold")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=4,
        frameon=False,
        labelcolor=colours.ink,
        handlelength=1.3,
        columnspacing=0.9,
        handletextpad=0.4,
        borderaxespad=0.2,
    )
    axes.tick_params(colors=colours.ink, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(colours.ink)
    for spine in axes.spines.values():
        spine.set_color(colours.ink)
