"""The page, its charts and its tables."""

from __future__ import annotations

import base64
import re
from dataclasses import fields, replace
from functools import cache
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.queueing.model.points import Point
from benchmarks.queueing.model.scenarios import Burst, Producers, Stalled, Steady
from benchmarks.queueing.model.sweep import Checked, Curve, Extent
from benchmarks.queueing.model.theory import theory
from benchmarks.queueing.report import all_figures, charts, page, summary, wording
from benchmarks.queueing.report.panels import PANELS

from .curves import curves_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.queueing.model.scenarios import Scenario

deep = pytest.mark.deep

SMALL = Extent(seeds=2, puts=200, real_puts=40)
STEADY = [Steady("steady, exponential service", f"ρ = {load}", load, largest=64) for load in (0.5, 0.8)]
BURST = Burst("burst", "60 blobs at 4 μ", 60, 4.0)
STALL = Stalled("stall", "λT = 20 <&>", 0.5, 40.0)
WANTED: list[Scenario] = [*STEADY, BURST, STALL, Producers("producers", "8, no pause", 8, 0.0)]
ZEROS = Point(1000, *[0.0] * (len(fields(Point)) - 1))  # type: ignore[arg-type]


@cache
def curves() -> list[Curve]:
    return curves_of(WANTED, SMALL)


def rendered(shown: Sequence[Curve], *, complete: bool = True) -> str:
    machine = {"processors": 2, "nothing": None, "odd": "<&>"}
    return page.render(shown, theory, machine=machine, extent=SMALL, blob_size=1000, complete=complete)


@cache
def html() -> str:
    return rendered(curves())


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.images: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: str(value) for name, value in attrs}
        self.ids.extend(given[name] for name in ("id",) if name in given)
        self.links.update(given[name] for name in ("href",) if name in given)
        if tag == "img":
            self.images.append((given["alt"], given["src"]))


def svgs(text: str) -> list[str]:
    urls = [url for _, url in Tags(text).images]
    assert urls
    assert all(url.startswith("data:image/svg+xml;base64,") for url in urls)
    return [base64.b64decode(url.partition(",")[2]).decode() for url in urls]


@deep
def test_nothing_is_taken_from_elsewhere() -> None:
    found = Tags(html())
    assert found.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"https?://", html())
    assert "@import" not in html()
    for svg in svgs(html()):
        assert not re.search(r'(?:href|src)="(?!#)', svg)


@deep
def test_every_link_of_the_page_leads_somewhere() -> None:
    found = Tags(html())
    assert len(found.ids) == len(set(found.ids))
    assert found.links == {f"#{name}" for name in found.ids}
    assert {"burst", "stall", "producers", "steady-exponential-service"} == set(found.ids)


@deep
def test_every_chart_is_well_formed_and_has_a_name() -> None:
    # Three of each group, with batches and without, and two of the lag for burst and stall.
    images = Tags(html()).images
    assert len(images) == html().count("<figure>") == 4 * 2 * 3 + 2 * 2
    assert len({alt for alt, _ in images}) == len(images)
    for svg in svgs(html()):
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


@deep
def test_charts_have_other_colours_in_the_dark() -> None:
    for svg in svgs(html()):
        drawn = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
        assert drawn <= {"none", *(f"var(--c{place})" for place in range(len(charts.DARK)))}
        assert "--c0:#1a1a1a" in svg
        assert "(prefers-color-scheme:dark){svg{--c0:#e8e8e8" in svg


@deep
def test_the_page_is_the_same_again() -> None:
    assert rendered(curves()) == html()


@deep
def test_all_figures_of_every_point_are_in_the_tables() -> None:
    assert html().count("<details>") == 4
    every = sum(len(curve.points) for curve in curves())
    assert html().count('<th scope="row">') == every + len(WANTED)  # and those of the summary
    assert "λT = 20 &lt;&amp;&gt;; batch_size = queue_size" in html()


@deep
def test_what_was_done_is_said() -> None:
    assert "2 seeds of 200 puts each" in html()
    assert "runs of 40 puts" in html()
    assert "odd: &lt;&amp;&gt;" in html()
    assert "nothing" not in html()
    assert "Runs that differ from the recursion: 0. Largest difference of a put&#x27;s wait: 0 s." in html()


@deep
def test_an_interrupted_sweep_is_shown_as_far_as_it_came() -> None:
    low, high = (curves()[place] for place in (0, 2))
    some = [
        Curve(low.scenario, batches=False, points={1: low.points[1], 2: low.points[2][:1]}),
        Curve(high.scenario, batches=False, points=high.points, checked={64: high.checked[64]}),
        Curve(low.scenario, batches=True, checked=low.checked),
        Curve(BURST, batches=False, checked=curves()[4].checked),
        Curve(STALL, batches=False, points=curves()[6].points),
    ]
    text = rendered(some, complete=False)
    assert "The sweep was interrupted" in text
    assert "The sweep was interrupted" not in html()
    assert text.count("<h3>") == 2
    assert 'id="burst"' not in text
    assert "The real code did not run." in text
    assert "<section" not in rendered([], complete=False)


@deep
def test_every_row_is_a_picture(tmp_path: Path) -> None:
    paths = charts.draw_all(curves(), theory, tmp_path)
    names = [f"queue-{group}" for group in ("steady-exponential-service", "burst", "stall", "producers")]
    assert [path.stem for path in paths] == [f"{name}{batches}" for name in names for batches in ("", "-batches")]
    for path in paths:
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20], "big") == 1198


# The charts


def made(share: float, **figures: float) -> Point:
    changed: dict[str, Any] = {"wait_share": share, "mean_loss": 1.0, "worst_loss": 2.0, **figures}
    return replace(ZEROS, **changed)


def curve(shares: Mapping[int, float], label: str = "a") -> Curve:
    return Curve(Steady("group", label, 0.5), batches=False, points={size: [made(shares[size])] for size in shares})


def with_waits(waits: Mapping[int, float]) -> Curve:
    points = {size: [made(0.3, p99_wait=wait)] for size, wait in waits.items()}
    return Curve(Steady("group", "a", 0.5), batches=False, points=points)


def axes_of(lone: Curve, panel: int) -> Any:
    with charts.figure_of((4, 4)) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        charts.draw(axes, PANELS[panel], [lone], theory)
        figure.draw_without_rendering()
        return axes


def heights(axes: Any) -> list[str]:
    return [unescape(label.get_text()) for label in axes.get_yticklabels()]


@deep
def test_where_a_figure_is_0_the_axis_goes_down_to_0() -> None:
    assert heights(axes_of(curve({1: 0.5, 2: 0.1, 4: 0.0}), 0))[0] == "0 %"
    assert axes_of(curve({1: 0.5, 2: 0.1, 4: 0.0}), 0).get_ylim()[0] == 0
    assert "0 %" not in heights(axes_of(curve({1: 0.5, 2: 0.1, 4: 0.01}), 0))
    assert heights(axes_of(with_waits({1: 0.0, 2: 0.0}), 1))[0] == "0"


@deep
def test_a_share_has_no_tick_above_100_percent() -> None:
    assert heights(axes_of(curve({1: 1.0, 2: 0.00001}), 0)) == ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"]


@deep
def test_a_flat_chart_has_ticks_all_the_same() -> None:
    assert "10" in heights(axes_of(with_waits({1: 8.0, 2: 8.0}), 1))
    assert heights(axes_of(with_waits({1: 8000.0, 2: 0.2}), 1)) == ["1", "10", "100", "1000", "10000"]


@deep
def test_real_code_is_a_dot_in_a_ring_at_the_height_of_its_run() -> None:
    lone = with_waits({1: 8.0, 4: 3.0})
    off = Checked(made(0.3, p99_wait=5.0), made(0.3, p99_wait=6.0), 1.0, same_blocked_puts=True, puts=1000, drain=1.0)
    lone.checked[4] = off
    drawn = axes_of(lone, 1).get_lines()
    assert [list(line.get_ydata()) for line in drawn if line.get_linestyle() == "None"] == [[5.0], [6.0]]


@deep
def test_theory_is_dashed_between_the_sizes_that_were_looked_at() -> None:
    lone = Curve(STEADY[1], batches=False, points={2: [made(0.5, p99_wait=9.0)], 8: [made(0.1, p99_wait=3.0)]})
    [dashed] = [line for line in axes_of(lone, 1).get_lines() if line.get_linestyle() == "--"]
    assert list(dashed.get_xdata()) == [2, 3, 4, 5, 6, 7, 8]


# The tables


def test_every_figure_of_a_point_has_a_column() -> None:
    assert {field.name for field in fields(Point)} == {column.figure for column in all_figures.COLUMNS} | {"puts"}


def test_a_figure_has_its_quartiles_below_it() -> None:
    few = replace(made(0.0, mean_held=1.5), puts=300)
    lone = Curve(STEADY[0], batches=False, points={4: [few, made(0.0, mean_held=3.5)]})
    table = all_figures.table([lone], blob_size=1024)
    assert "<td>&lt; 0.23 %</td>" in table  # 3/1300
    assert "<td>2.5<small>2–3</small></td>" in table
    assert "<td>2.5 KiB<small>2 KiB–3 KiB</small></td>" in table


@pytest.mark.parametrize(
    ("shares", "least"),
    [
        ({1: 0.1, 2: 0.0123, 4: 0.009, 8: 0.0}, 4),
        ({1: 0.009, 2: 0.008}, 1),
        ({1: 0.1, 2: 0.009, 4: 0.02}, None),
        ({1: 1.0, 2: 1.0}, None),
    ],
)
def test_from_which_size_on_few_puts_wait(shares: dict[int, float], least: int | None) -> None:
    assert summary.few_from(curve(shares)) == least


def test_the_summary_has_a_line_for_each_scenario() -> None:
    few, many = curve({1: 0.1, 2: 0.0}, "few"), curve({1: 0.5, 2: 0.5}, "<many>")
    batched = Curve(few.scenario, batches=True, points={1: [made(0.0)]})
    table = page._summary([few, batched, many])
    assert '<a href="#group">group</a>, few</th><td>2</td><td>1</td>' in table
    assert '<a href="#group">group</a>, &lt;many&gt;</th><td>more than 2</td><td></td>' in table


def test_whether_the_real_code_agrees() -> None:
    def checked(difference: float, *, same: bool) -> Curve:
        one = Checked(made(0.1), made(0.1), difference, same_blocked_puts=same, puts=1500, drain=1.0)
        return Curve(BURST, batches=False, checked={1: one})

    same, off, odd = checked(0.0, same=True), checked(0.25, same=True), checked(0.0, same=False)
    assert summary.agreement([same]) == (
        "Real code: 1 runs of 1,500 puts together. Runs that differ from the recursion: 0. Largest difference of a "
        "put's wait: 0 s."
    )
    assert "differ from the recursion: 2. Largest difference of a put's wait: 0.25 s" in (
        summary.agreement([same, off, odd])
    )
    assert summary.agreement([]) == "The real code did not run."


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.00012345, "0.000123"), (9.2299, "9.23"), (999.6, "1000"), (1234.5, "1234"), (65_536, "65,536")],
)
def test_numbers_have_three_digits(value: float, written: str) -> None:
    assert wording.number(value) == written


@pytest.mark.parametrize(
    ("count", "written"), [(100, "100 bytes"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB"), (2**42, "4096 GiB")]
)
def test_bytes_have_the_largest_unit_that_fits(count: int, written: str) -> None:
    assert wording.byte_count(count) == written
