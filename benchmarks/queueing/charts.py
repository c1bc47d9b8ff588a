"""The charts of the sweep, for the page and as PNG files.

Curves are the recursion R, with quartiles over the seeds as a band; theory is dashed. A dot is a run of the real code,
and the ring around it what the recursion says of the same times.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from .sweep import lag_times

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from .sweep import Curve
    from .theory import Theory

    TheoryOf: TypeAlias = Callable[..., Theory | None]

MARKERS: Final = "osD^"
TICKS: Final = (1, 4, 16, 64, 256, 1024, 4096)
DENSE: Final = 6
"""Sizes in each doubling at which theory is evaluated."""

README_GROUP: Final = "steady, exponential service"


@dataclass(frozen=True)
class Colours:
    """What a chart is drawn with."""

    ink: str
    grid: str
    curves: tuple[str, str, str, str]


LIGHT: Final = Colours("#1a1a1a", "#d5d5d5", ("#0072b2", "#d55e00", "#007a57", "#a4508b"))
"""The curves' are those of Okabe and Ito, which all eyes can tell apart, darkened until they can be read on white."""


@dataclass(frozen=True)
class Panel:
    """One chart of a row."""

    key: str
    """What it is called in names of files and anchors."""
    title: str
    unit: str
    figure: str
    """What a `Point` calls it."""
    theory: str | None = None
    """What a `Theory` calls it."""
    worst: str | None = None
    """What a `Point` calls the thin line above."""
    percent: bool = False


PANELS: Final = (
    Panel("share", "share of puts that wait", "share of the puts", "wait_share", "share", percent=True),
    Panel("p99", "p99 wait", "mean service times", "p99_wait", "p99_wait"),
    Panel("loss", "blobs lost if killed: mean; dotted: worst", "blobs", "mean_loss", "mean_loss", "worst_loss"),
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


def draw(axes: Any, panel: Panel, curves: Sequence[Curve], theory: TheoryOf, colours: Colours) -> None:
    """Draw one chart."""
    for place, curve in enumerate(curves):
        _draw_curve(axes, panel, curve, colours.curves[place % 4], MARKERS[place % 4])
        if panel.theory is not None:
            _draw_theory(axes, panel.theory, curve, theory, colours.curves[place % 4])
    sizes = sorted({size for curve in curves for size in curve.points})
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
    axes.set_xticks([tick for tick in TICKS if tick <= sizes[-1]], minor=False)
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:.0f}")
    axes.set_xlabel("queue_size (blobs)")
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(lambda _value, _place: "")
    if panel.percent:
        axes.set_ylim(min(map(_least_share, curves)) / 4, 1.6)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %" if panel.percent else f"{value:g}")
    axes.set_ylabel(panel.unit)
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
            label=f"queue_size {size}",
            marker=MARKERS[place % 4],
            markevery=25,
            markersize=4,
        )
    axes.set_xlabel("time (mean service times)")
    axes.set_ylabel("lag (mean service times)")
    _finish(axes, "age of the oldest blob not yet written", colours)


def draw_all(curves: Sequence[Curve], theory: TheoryOf, folder: Path) -> list[Path]:
    """Draw each row in one PNG file in `folder`, and return the files."""
    paths = []
    for group, batches, shown in rows(curves):
        paths.append(folder / f"queue-{row_name(group, batches=batches)}.png")
        draw_row(shown, theory, paths[-1])
    return paths


def draw_row(curves: Sequence[Curve], theory: TheoryOf, path: Path) -> None:
    """Draw the charts of one row beside each other."""
    with pyplot() as plt:
        figure, all_axes = plt.subplots(1, len(PANELS), figsize=(14, 4.6), layout="constrained")
        for axes, panel in zip(all_axes, PANELS, strict=True):
            draw(axes, panel, curves, theory, LIGHT)
        figure.suptitle(f"{curves[0].scenario.group}, batch_size = {'queue_size' if curves[0].batches else 1}")
        figure.savefig(path, dpi=100)
        plt.close(figure)


@contextmanager
def pyplot() -> Generator[Any, None, None]:
    """Give matplotlib's pyplot, which draws to files here, with text as text."""
    import matplotlib as mpl  # noqa: PLC0415  (it takes a second, and only the charts need it)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    style = {"font.size": 10.5, "axes.titlesize": 11, "legend.fontsize": 9.5}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "queue", **style}):
        yield plt


def _draw_curve(axes: Any, panel: Panel, curve: Curve, colour: str, marker: str) -> None:
    sizes = sorted(curve.points)
    means = np.array([curve.mean(size, panel.figure) for size in sizes])
    spreads = [curve.spread(size, panel.figure) for size in sizes]
    seen = means > 0
    least = means[seen].min() / 30 if seen.any() else 1.0
    axes.fill_between(
        np.array(sizes)[seen],
        [max(spread.low, least) for spread, there in zip(spreads, seen, strict=True) if there],
        [max(spread.high, least) for spread, there in zip(spreads, seen, strict=True) if there],
        color=colour,
        alpha=0.25,
        linewidth=0,
    )
    axes.plot(np.array(sizes)[seen], means[seen], color=colour, linewidth=1.5)
    axes.plot([], [], color=colour, linewidth=1.5, marker=marker, markersize=3.5, label=curve.scenario.label)
    if panel.worst is not None:
        worst = [curve.mean(size, panel.worst) for size in sizes]
        axes.plot(sizes, worst, color=colour, linewidth=1, linestyle=":")
    if not seen.all():
        size = sizes[int(seen.argmin())]
        if panel.percent:
            _draw_none(axes, size, 3 / curve.puts(size), "< 3/N", colour)
        else:
            _draw_none(axes, size, 0.06, "0", colour, transform=axes.get_xaxis_transform())
    for size, checked in sorted(curve.checked.items()):
        real, same = getattr(checked.real, panel.figure), getattr(checked.by_recursion, panel.figure)
        if real > 0 and same > 0:
            axes.plot(size, real, marker=marker, markersize=3.5, color=colour, linestyle="none")
            axes.plot(size, same, marker="o", markersize=8, markerfacecolor="none", color=colour, linestyle="none")


def _draw_none(axes: Any, size: int, height: float, name: str, colour: str, **where: Any) -> None:
    """Draw that at `size` there is nothing: of N puts that all did not wait, 3/N is the end of a 95 % interval."""
    axes.plot(size, height, marker="v", markersize=7, markerfacecolor="none", color=colour, linestyle="none", **where)
    axes.annotate(
        name,
        (size, height),
        (0, -13),
        where.get("transform", "data"),
        "offset points",
        color=colour,
        fontsize=8,
        ha="center",
    )


def _draw_theory(axes: Any, figure: str, curve: Curve, theory: TheoryOf, colour: str) -> None:
    known = [
        (size, value)
        for size in _dense(max(curve.points))
        for point in [theory(curve.scenario, size, batches=curve.batches)]
        if point is not None and (value := getattr(point, figure)) is not None and value > 0
    ]
    shown = [(size, value) for size, value in known if figure != "share" or value >= _least_share(curve) / 4]
    if shown:
        axes.plot(*zip(*shown, strict=True), color=colour, linewidth=1.2, linestyle=(0, (4, 3)))


def _least_share(curve: Curve) -> float:
    return min(curve.mean(size, "wait_share") or 3 / curve.puts(size) for size in curve.points)


def _dense(largest: int) -> list[int]:
    steps = DENSE * (largest.bit_length() - 1)
    return sorted({round(2 ** (step / DENSE)) for step in range(steps + 1)})


def _finish(axes: Any, title: str, colours: Colours) -> None:
    axes.grid(visible=True, color=colours.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, color=colours.ink, pad=30, loc="left")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.985),
        ncols=4,
        frameon=False,
        labelcolor=colours.ink,
        handlelength=1.2,
        columnspacing=0.8,
        handletextpad=0.4,
        borderaxespad=0.2,
    )
    axes.tick_params(colors=colours.ink, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(colours.ink)
    for spine in axes.spines.values():
        spine.set_color(colours.ink)
