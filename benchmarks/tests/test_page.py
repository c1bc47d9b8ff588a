"""The page, its charts and its sentences."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from benchmarks.queueing.model import sweep
from benchmarks.queueing.model.points import Point
from benchmarks.queueing.model.scenarios import Burst, Producers, Stalled, Steady
from benchmarks.queueing.model.sweep import Checked, Curve, Extent
from benchmarks.queueing.model.theory import theory
from benchmarks.queueing.report import all_figures, charts, conclusions, page, svg, wording
from benchmarks.queueing.report.panels import PANELS
from benchmarks.queueing.report.scales import Heights

from .curves import curves_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.queueing.model.scenarios import Scenario

pytestmark = pytest.mark.deep

SMALL = Extent(seeds=2, puts=200, real_puts=40)
STEADY = [Steady("steady, exponential service", f"ρ = {load}", load, largest=64) for load in (0.5, 0.8)]
BURST = Burst("burst", "60 blobs at 4 μ", 60, 4.0)
STALL = Stalled("stall", "λT = 20 <&>", 0.5, 40.0)
WANTED: list[Scenario] = [*STEADY, BURST, STALL, Producers("producers", "8, no pause", 8, 0.0)]


CURVES = curves_of(WANTED, SMALL)
ONE = CURVES[0].points[1][0]


def rendered(curves: Sequence[Curve] = CURVES, *, complete: bool = True) -> str:
    machine = {"processors": 2, "nothing": None, "odd": "<&>"}
    return page.render(curves, theory, machine=machine, extent=SMALL, blob_size=1000, complete=complete)


HTML = rendered()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: str(value) for name, value in attrs}
        self.ids.extend(given[name] for name in ("id",) if name in given)
        self.links.extend(given[name] for name in ("href", "src", "xlink:href", "data") if name in given)


def figures(html: str) -> list[tuple[str, str]]:
    return re.findall(r"<figure>(<svg.*?</svg>)<figcaption>(.*?)</figcaption></figure>", html, re.DOTALL)


def test_nothing_is_taken_from_elsewhere() -> None:
    parser = Links()
    parser.feed(HTML)
    assert {link[0] for link in parser.links} == {"#"}
    assert parser.tags.isdisjoint({"script", "link", "img", "iframe", "object", "metadata"})
    assert not re.search(r"https?://(?!www\.w3\.org/)", HTML)
    assert "@import" not in HTML
    assert set(re.findall(r"url\(([^)]*)\)", HTML)) == {f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", HTML)}


def test_every_id_is_there_once_and_every_reference_has_one() -> None:
    parser = Links()
    parser.feed(HTML)
    assert len(parser.ids) == len(set(parser.ids))
    references = {*(link[1:] for link in parser.links), *re.findall(r"url\(#([^)]*)\)", HTML)}
    assert {"burst", "stall", "producers", "steady-exponential-service"} < references <= set(parser.ids)


def test_every_chart_is_well_formed_and_has_a_name_and_a_conclusion() -> None:
    drawn = figures(HTML)
    # Three of each group, with batches and without, and two of the lag for burst and stall.
    assert len(drawn) == HTML.count("<figure>") == HTML.count('<svg role="img"') == 4 * 2 * 3 + 2 * 2
    for chart, conclusion in drawn:
        element = ET.fromstring(chart)
        assert element.get("role") == "img"
        assert element.get("aria-label")
        assert element.get("width") is element.get("height") is None
        assert re.fullmatch(r"[A-Zb].{30,}\.", conclusion)


def test_charts_have_the_colours_and_the_font_of_the_page() -> None:
    for chart, _ in figures(HTML):
        assert set(re.findall(r"(?:stroke|fill): ([^;\"]+)", chart)) <= {"none", *svg.VARIABLES.values()}
        assert "DejaVu" not in chart
        assert min(float(size) for size in re.findall(r"font-size: ([\d.]+)px", chart)) >= 10
    assert len(set(re.findall(r"--curve-\d: (#\w+);", HTML))) == 8  # in the light and in the dark
    assert charts.LIGHT.curves == tuple(re.findall(r"--curve-\d: (#\w+);", HTML)[:4])


def test_text_and_figures_are_not_touched_where_coordinates_are_shortened() -> None:
    chart, _ = figures(HTML)[0]
    assert "0.12345" in svg._element("a", "b", '<svg width="1pt" height="1pt"><text x="1.23456">0.12345</text></svg>')
    assert not re.search(r' (?:x|y|d)="[^"]*\.\d{3}', chart)


def test_the_page_is_the_same_again() -> None:
    assert rendered() == HTML


def test_all_figures_of_every_point_are_in_the_tables() -> None:
    assert {field.name for field in fields(Point)} == {column.figure for column in all_figures.COLUMNS} | {"puts"}
    assert HTML.count("<details>") == 4
    assert HTML.count('<th scope="row">') == sum(len(curve.points) for curve in CURVES)
    assert "λT = 20 &lt;&amp;&gt;; batch_size = queue_size" in HTML
    lone = Curve(STEADY[0], batches=False, points={4: [made(0.0, mean_held=1.5, puts=300), made(0.0, mean_held=3.5)]})
    table = all_figures.table([lone], blob_size=1024)
    assert "<td>&lt; 3/N = 0.23 %</td>" in table
    assert "<td>2.5<small>2–3</small></td>" in table
    assert "<td>2.5 KiB<small>2 KiB–3 KiB</small></td>" in table


def test_what_was_done_is_said() -> None:
    assert "2 seeds of 200 puts each" in HTML
    assert "runs of 40 puts" in HTML
    assert "odd: &lt;&amp;&gt;" in HTML
    assert "nothing" not in HTML
    assert "R: N = 400 puts at each size, of 2 seeds. In 8 runs of the real code" in HTML
    assert "every put waited exactly as long as by the recursion: the largest difference is 0." in HTML


def test_an_interrupted_sweep_is_shown_as_far_as_it_came() -> None:
    low, high = (CURVES[place] for place in (0, 2))
    some = [
        Curve(low.scenario, batches=False, points={1: low.points[1], 2: low.points[2][:1]}),
        Curve(high.scenario, batches=False, points=high.points, checked={64: high.checked[64]}),
        Curve(low.scenario, batches=True, checked=low.checked),
        Curve(BURST, batches=False, checked=CURVES[4].checked),
        Curve(STALL, batches=False, points=CURVES[6].points),
    ]
    html = rendered(some, complete=False)
    assert "The sweep was interrupted" in html
    assert "The sweep was interrupted" not in HTML
    assert html.count("<h3>") == 2
    assert 'id="burst"' not in html
    assert "; batch_size = 1<" in html
    assert "; batch_size = queue_size<" not in html
    assert "N = 200 to 400 puts at each size, of 1 to 2 seeds" in html
    assert "The real code did not run." in html
    assert "<section" not in rendered([], complete=False)


def test_every_row_is_a_picture(tmp_path: Path) -> None:
    paths = charts.draw_all(CURVES, theory, tmp_path)
    names = [f"queue-{group}" for group in ("steady-exponential-service", "burst", "stall", "producers")]
    assert [path.stem for path in paths] == [f"{name}{batches}" for name in names for batches in ("", "-batches")]
    assert all(size(path)[0] == 1198 for path in paths)


def size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


# The charts


def texts(lone: Curve, panel: int) -> list[str]:
    """What is written on the first, second or third chart of a page with one curve."""
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", figures(rendered([lone]))[panel][0])]


def test_a_share_of_nothing_is_drawn_as_less_than_can_be_told() -> None:
    none, some = curve("a", {1: 0.5, 2: 0.1, 4: 0.0}), curve("a", {1: 0.5, 2: 0.1, 4: 0.01})
    assert "< 3/N" in texts(none, 0)
    assert "< 3/N" not in texts(some, 0)
    heights = Heights.of(PANELS[0], [none])
    assert heights.nones == [(0, 4, 3 / 1000)]
    assert heights.bottom < 3 / 1000


def test_a_wait_of_nothing_stands_at_the_foot_of_its_axis() -> None:
    none = with_waits("a", {1: 8.0, 2: 2.0, 4: 0.0})
    assert "0" in texts(none, 1)
    assert "0" not in texts(with_waits("a", {1: 8.0, 2: 2.0, 4: 1.0}), 1)
    heights = Heights.of(PANELS[1], [none])
    [(_, queue_size, height)] = heights.nones
    assert queue_size == 4
    assert heights.bottom < height < heights.least < 2
    assert "0" in texts(with_waits("a", {1: 0.0, 2: 0.0}), 1)


def test_sizes_in_between_are_not_taken_for_none() -> None:
    heights = Heights.of(PANELS[1], [with_waits("a", {1: 8.0, 2: 0.0, 4: 3.0})])
    assert heights.nones == []


def test_a_flat_chart_has_ticks_all_the_same() -> None:
    assert {"2", "5"} <= set(texts(with_waits("a", {1: 8.0, 2: 8.0}), 1))
    assert {"10", "100", "1000"} <= set(texts(with_waits("a", {1: 8000.0, 2: 2.0}), 1))


def test_real_code_is_a_dot_in_a_ring_at_the_height_of_its_run() -> None:
    lone = with_waits("a", {1: 8.0, 4: 3.0})
    off = Checked(made(0.3, p99_wait=5.0), made(0.3, p99_wait=6.0), 1.0, same_blocked_puts=True, puts=1000, drain=1.0)
    lone.checked[4] = off
    lone.checked[1] = Checked(made(0.0), made(0.0), 0.0, same_blocked_puts=True, puts=1000, drain=1.0)
    drawn = lines(lone)
    assert [list(line.get_ydata()) for line in drawn if line.get_linestyle() == "None"] == [[5.0], [6.0]]


def test_theory_is_dashed_between_the_sizes_that_were_looked_at() -> None:
    lone = Curve(STEADY[1], batches=False, points={2: [made(0.5, p99_wait=9.0)], 8: [made(0.1, p99_wait=3.0)]})
    [dashed] = [line for line in lines(lone) if line.get_linestyle() == "--"]
    assert list(dashed.get_xdata()) == [2, 3, 4, 5, 6, 7, 8]


def lines(lone: Curve) -> list[Any]:
    """What is drawn on the second chart."""
    with charts.figure_of((4, 4)) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        charts.draw(axes, PANELS[1], [lone], theory, charts.LIGHT)
        return list(axes.get_lines())


# The sentences


def made(share: float, **figures: float) -> Point:
    few = replace(ONE, puts=1000, wait_share=share, p99_wait=0.0, mean_loss=1.0, worst_loss=2.0)
    others: dict[str, Any] = {**figures}
    return replace(few, **others)


def curve(label: str, shares: Mapping[int, float], *, batches: bool = False, **figures: float) -> Curve:
    points = {queue_size: [made(share, **figures)] for queue_size, share in shares.items()}
    return Curve(Steady("group", label, 0.5), batches, points)


def with_waits(label: str, waits: Mapping[int, float]) -> Curve:
    points = {queue_size: [made(0.3, p99_wait=wait)] for queue_size, wait in waits.items()}
    return Curve(Steady("group", label, 0.5), batches=False, points=points)


def with_losses(label: str, shares: Mapping[int, float], losses: Sequence[float], *, batches: bool = False) -> Curve:
    lost = zip(shares.items(), losses, strict=True)
    points = {size: [made(share, mean_loss=loss, worst_loss=size + 1.0)] for (size, share), loss in lost}
    return Curve(Steady("group", label, 0.5), batches, points)


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        (
            [{1: 0.1, 2: 0.0123, 4: 0.009, 8: 0.0}],
            "Fewer than 1 put in 100 waits from queue_size = 4 on; with 2 it is 1.2 %; from 8 on none of 1,000 does.",
        ),
        ([{1: 0.009, 2: 0.008}], "Fewer than 1 put in 100 waits from queue_size = 1 on."),
        ([{1: 0.1, 2: 0.009, 4: 0.02}], "2 % of the puts wait even with queue_size = 4."),
        ([{1: 1.0, 2: 1.0}], "Every put waits, however large the queue."),
        ([{1: 1.0, 2: 0.999}], "Over 99 % of the puts wait even with queue_size = 2."),
        (
            [{1: 0.1, 4: 0.0}, {1: 0.009, 4: 0.0}, {1: 1.0, 4: 1.0}, {1: 0.9, 4: 0.25}],
            (
                "Fewer than 1 put in 100 waits from queue_size = 4 (0) and 1 (1) on; every put waits, however large "
                "the queue (2); 25 % of the puts wait even with queue_size = 4 (3)."
            ),
        ),
    ],
)
def test_from_which_size_on_few_puts_wait(shares: list[dict[int, float]], sentence: str) -> None:
    assert conclusions.of_share([curve(str(place), one) for place, one in enumerate(shares)]) == sentence


@pytest.mark.parametrize(
    ("waits", "sentence"),
    [
        ([{1: 8.0, 2: 4.0, 4: 2.5, 8: 0.0}], "8 service times with queue_size = 1, still 2.5 with 4 and 0 from 8 on"),
        ([{1: 8.0, 2: 0.0}], "8 service times with queue_size = 1 and 0 from 2 on"),
        ([{1: 12_345.6, 4: 1234.4}], "12,346 service times with queue_size = 1 and 1234 with 4"),
        ([{1: 16.0, 4: 262.0}], "16 service times with queue_size = 1 and 262 with 4"),
        ([{1: 8.0, 4: 7.5}], "7.5 to 8 service times with every size"),
        ([{1: 0.0, 4: 0.0}], "0 service times with every size"),
        ([{1: 8.0, 2: 0.0, 4: 3.0}], "8 service times with queue_size = 1 and 3 with 4"),
        (
            [{1: 8.0, 4: 0.0}, {1: 16.0, 4: 16.0}],
            "8 service times with queue_size = 1 and 0 from 4 on (0); 16 with every size (1)",
        ),
    ],
)
def test_how_long_a_put_in_a_hundred_waits(waits: list[dict[int, float]], sentence: str) -> None:
    shown = [with_waits(str(place), one) for place, one in enumerate(waits)]
    assert conclusions.of_p99(shown) == f"The p99 wait is {sentence}."


def test_a_wait_without_an_end_is_said_to_grow() -> None:
    slow = with_waits("a", {1: 8.0, 4: 8.0})
    for rate, said in ((0.6, "8 service times with every size"), (4.0, "every size, the longer, the more puts come")):
        loaded = Curve(replace(STEADY[0], rate=rate), batches=False, points=slow.points)
        assert conclusions.of_p99([loaded]).endswith(f"{said}.")


@pytest.mark.parametrize(
    ("waits", "ended"), [((0.0, 0.0, 9.0), "0 from 4 on"), ((0.0, 0.0, 3.0, 4.0, 5.0), "3 with 4")]
)
def test_the_wait_is_that_of_half_the_seeds(waits: tuple[float, ...], ended: str) -> None:
    lone = with_waits("a", {1: 8.0})
    lone.points[4] = [made(0.01, p99_wait=wait) for wait in waits]
    assert conclusions.of_p99([lone]) == f"The p99 wait is 8 service times with queue_size = 1 and {ended}."
    assert PANELS[1].values(lone) == {1: 8.0, 4: np.median(waits)}


FEW = {1: 0.5, 4: 0.005, 16: 0.0}
MANY = {1: 0.9, 4: 0.5, 16: 0.1}


def test_what_a_kill_loses() -> None:
    level, growing = with_losses("a", FEW, (1.0, 2.5, 2.6)), with_losses("b", MANY, (2.0, 5.0, 17.0))
    assert conclusions.of_loss([level]) == (
        "On average a kill loses at most 2.6 blobs, however large the queue; at worst queue_size + 1, and here never "
        "more than 17."
    )
    assert conclusions.of_loss([growing]) == (
        "On average a kill loses 2 blobs with queue_size = 1 and 17 with 16: the more, the larger it is; at worst "
        "queue_size + 1, and here never more than 17."
    )
    assert conclusions.of_loss([level, growing]) == (
        "On average a kill loses at most 2.6 blobs (a), however large the queue; but 2 blobs with queue_size = 1 and "
        "17 with 16 (b): the more, the larger it is; at worst queue_size + 1, and here never more than 17 (a) and 17 "
        "(b)."
    )


def test_what_a_kill_loses_is_not_said_to_grow_or_to_be_bounded_where_it_does_not_or_is_not() -> None:
    still_growing = with_losses("a", FEW, (1.0, 2.0, 4.0), batches=True)
    assert conclusions.of_loss([still_growing]) == (
        "On average a kill loses 1 blobs with queue_size = 1 and 4 with 16: the more, the larger it is; at worst "
        "2 · queue_size, and here never more than 17."
    )
    shrinking = with_losses("a", FEW, (5.0, 2.0, 2.0))
    assert "at most 5 blobs, however large the queue" in conclusions.of_loss([shrinking])
    uneven = with_losses("a", MANY, (1.0, 5.0, 4.0))
    uneven.points[16].append(made(0.1, mean_loss=4.0, worst_loss=18.0))
    assert conclusions.of_loss([uneven]) == (
        "On average a kill loses 1 blobs with queue_size = 1 and 4 with 16; at worst 18."
    )


def lagging(**lags: Sequence[float]) -> Curve:
    """A curve with lags at four of the times, from the first on; then they stay."""
    drawn = {int(name[1:]): np.repeat(lag, sweep.LAG_TIMES // 4) for name, lag in lags.items()}
    return Curve(BURST, batches=False, lags={queue_size: [lag, lag, lag * 9] for queue_size, lag in drawn.items()})


@pytest.mark.parametrize(
    ("lags", "sentence"),
    [
        (
            {"n16": (0, 20, 20, 0), "n256": (0, 200, 200, 0)},
            "gets 20 service times old with queue_size = 16 and 200 with 256: a smaller queue lets puts wait instead.",
        ),
        (
            {"n16": (0, 200, 20, 0), "n256": (0, 20, 20, 0)},
            "gets 200 service times old with queue_size = 16 and 20 with 256.",
        ),
        (
            {"n16": (0, 200, 0, 0), "n256": (0, 210, 210, 20), "n4096": (0, 200, 200, 200)},
            (
                "gets about 210 service times old with every size; the lag is less than a tenth of that again after "
                "33.2 service times with queue_size = 16 and 49.7 with 256."
            ),
        ),
        ({"n16": (0, 200, 0, 0), "n256": (0, 200, 0, 0)}, "gets about 200 service times old with every size."),
        ({"n16": (0, 200, 0, 0), "n256": (0, 200, 200, 0)}, "about 200 service times old with every size; the lag is"),
        ({"n16": (0, 0, 0, 0)}, "gets about 0 service times old with every size."),
    ],
)
def test_how_old_the_oldest_blob_gets(lags: dict[str, tuple[float, ...]], sentence: str) -> None:
    assert sentence in conclusions.of_lag(lagging(**lags))


def test_whether_the_real_code_agrees() -> None:
    def checked(difference: float, *, same: bool) -> Curve:
        one = Checked(made(0.1), made(0.1), difference, same_blocked_puts=same, puts=1500, drain=1.0)
        return Curve(BURST, batches=False, checked={1: one})

    same, off, odd = checked(0.0, same=True), checked(0.25, same=True), checked(0.0, same=False)
    assert conclusions.of_agreement([same]) == (
        "In 1 run of the real code, of 1,500 puts together, every put waited exactly as long as by the recursion: the "
        "largest difference is 0."
    )
    differs = "of 3,000 puts together, the wait of a put differs from the recursion's by up to"
    assert conclusions.of_agreement([same, off]) == (
        f"In 2 runs of the real code, {differs} 0.25 s; as many puts waited in each."
    )
    assert conclusions.of_agreement([off, odd]) == (
        f"In 2 runs of the real code, {differs} 0.25 s; in 1 of them not as many puts waited."
    )
    assert conclusions.of_agreement([]) == "The real code did not run."


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
