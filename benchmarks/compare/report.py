"""The results of comparisons: tables for the terminal, JSON, and plots."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .._spread import Spread
    from .rounds import Measured


def table(measured: Measured) -> Table:
    """Return a table of one comparison."""
    comparison = measured.comparison
    base = comparison.variants[0]
    promises = any(variant.at_least is not None for variant in comparison.variants)
    shown = Table(title=f"{comparison.group}: {comparison.work}", title_justify="left", min_width=80)
    shown.add_column("variant", ratio=1)
    shown.add_column(comparison.unit, justify="right")
    shown.add_column("ratio", justify="right")
    shown.add_column("quartiles", justify="right")
    if promises:
        shown.add_column("at least", justify="right")
    if comparison.notes:
        shown.add_column(comparison.notes, ratio=1)
    for variant in comparison.variants:
        ratio = measured.ratio(variant)
        cells = [
            variant.name,
            f"{measured.rate(variant).median:,.0f}",
            "1" if variant is base else f"{ratio.median:.3g}",
            "" if variant is base else f"{ratio.low:.3g} to {ratio.high:.3g}",
        ]
        if promises:
            held = variant.at_least is not None and ratio.median >= variant.at_least
            mark = "" if variant.at_least is None else f"{variant.at_least:.3g} {'✓' if held else '✗'}"
            cells.append(mark)
        if comparison.notes:
            cells.append(variant.note)
        shown.add_row(*cells)
    return shown


def as_json(machine: Mapping[str, Any], arguments: Mapping[str, Any], measured: Sequence[Measured]) -> str:
    """Return all that was measured, with every round's rates."""
    return json.dumps(
        {
            "machine": machine,
            "arguments": arguments,
            "comparisons": [
                {
                    "group": one.comparison.group,
                    "work": one.comparison.work,
                    "unit": one.comparison.unit,
                    "variants": [
                        {
                            "name": variant.name,
                            "note": variant.note,
                            "at least": variant.at_least,
                            "rates": one.rates[variant.name],
                            "rate": asdict(one.rate(variant)),
                            "ratio": asdict(one.ratio(variant)),
                        }
                        for variant in one.comparison.variants
                    ],
                }
                for one in measured
            ],
        },
        indent=1,
    )


def plot(measured: Sequence[Measured], folder: Path, prefix: str) -> list[Path]:
    """Draw the ratios of each group in one PNG file in `folder`, and return the files."""
    import matplotlib as mpl  # noqa: PLC0415  (it takes a second, and only the plots need it)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    groups: dict[str, list[Measured]] = {}
    for one in measured:
        groups.setdefault(one.comparison.group, []).append(one)
    paths = []
    for group, members in groups.items():
        lines = sum(len(one.comparison.variants) for one in members)
        figure, axes = plt.subplots(figsize=(9, 1.2 + 0.28 * (lines + len(members))), layout="constrained")
        _draw(axes, members)
        axes.set_title(f"{prefix}, {group}: median and quartiles of the ratios, by rounds")
        name = re.sub(r"\W+", "-", group).strip("-")
        paths.append(folder / f"{prefix}-{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths


def _draw(axes: Any, members: Sequence[Measured]) -> None:
    place = 0
    places: list[int] = []
    names: list[str] = []
    for one in members:
        base = one.comparison.variants[0]
        places.append(place)
        names.append(f"{one.comparison.work}: {base.name} = 1")
        for variant in one.comparison.variants[1:]:
            place += 1
            places.append(place)
            names.append(variant.name)
            ratio: Spread = one.ratio(variant)
            axes.barh(place, ratio.median, color="#4477aa", height=0.7)
            axes.plot([ratio.low, ratio.high], [place, place], color="black", linewidth=1.5)
            if variant.at_least is not None:
                axes.plot([variant.at_least] * 2, [place - 0.45, place + 0.45], color="#cc3311", linewidth=2)
        place += 2
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ratio of rates to the first of each comparison (log); red: what is promised at least")
