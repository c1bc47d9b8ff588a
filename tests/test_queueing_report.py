"""What the sweep hands out: tables, JSON, charts, the page and its sentences; and the commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.__main__ import commands
from benchmarks.queueing import charts, conclusions, page, sweep
from benchmarks.queueing.scenarios import Burst, Producers, Stalled, Steady, scenarios
from benchmarks.queueing.sweep import Checked, Curve, Extent, Task, tasks
from benchmarks.queueing.tables import agreement, as_json, tables
from benchmarks.queueing.theory import theory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.queueing.points import Point

ROOT = Path(__file__).parent.parent
SMALL = Extent(seeds=2, puts=300, real_puts=40)
WANTED = [
    Steady("steady, exponential service", "ρ = 0.5", 0.5, largest=64),
    Steady("steady, exponential service", "ρ = 0.8", 0.8, largest=64),
    Burst("burst", "60 blobs at 4 μ", 60, 4.0),
    Stalled("stall", "λT = 20", 0.5, 40.0),
    Producers("producers", "8, no pause", 8, 0.0),
]


def found() -> list[Curve]:
    """All curves of a small sweep, without processes."""
    curves = {(task.scenario, batches): Curve(task.scenario, batches) for task in todo() for batches in (False, True)}
    for task in todo():
        sweep._keep(curves, task, task.run())
    return list(curves.values())


def todo() -> list[Task]:
    return tasks(WANTED, SMALL)


CURVES = found()


def rendered(curves: list[Curve] = CURVES, *, complete: bool = True) -> str:
    machine = {"processors": 2, "memory": None, "odd": "<&>"}
    return page.render(curves, theory, machine=machine, extent=SMALL, blob_size=1000, complete=complete)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            elif name in {"href", "src", "xlink:href"}:
                self.links.append(str(value))
        assert tag not in {"script", "link", "img", "iframe"}


def test_the_page_has_all_that_it_needs_in_itself() -> None:
    html = rendered()
    parser = Links()
    parser.feed(html)
    assert len(parser.ids) == len(set(parser.ids))
    assert parser.links
    assert {link[0] for link in parser.links} == {"#"}
    assert {link[1:] for link in parser.links} <= set(parser.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(parser.ids)
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)
    assert "@import" not in html
    assert "odd &lt;&amp;&gt;" in html
    assert "memory" not in html


def test_every_chart_is_well_formed_named_and_concluded_from() -> None:
    html = rendered()
    figures = re.findall(r"<figure>(<svg.*?</svg>)\s*<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    # Three for each of four groups, with batches and without, and the lag in two of these.
    assert len(figures) == html.count("<figure>") == 4 * 2 * 3 + 2 * 2
    for svg, caption in figures:
        chart = ET.fromstring(svg)
        assert chart.get("role") == "img"
        assert chart.get("aria-label")
        assert chart.get("width") is chart.get("height") is None
        assert "var(--curve-0)" in svg
        assert not re.search(r"#0[0-9]030[0-9]", svg)
        assert len(caption) > 40


def test_the_page_is_the_same_again() -> None:
    assert rendered() == rendered()


def test_what_nobody_waited_for_is_drawn_as_less_than_can_be_told() -> None:
    html = rendered()
    assert "&lt; 3/N" in html
    lone = [Curve(WANTED[0], batches=False, points={1: [point(0.1)], 2: [point(0.0)]})]
    assert "&lt; 3/N" in rendered(lone)
    lone[0].points[2] = [point(0.01)]
    assert "&lt; 3/N" not in rendered(lone)


def test_an_interrupted_sweep_is_shown_as_far_as_it_came() -> None:
    some = [
        Curve(curve.scenario, curve.batches, dict(list(curve.points.items())[:2]))
        for curve in CURVES
        if not curve.batches
    ]
    only_checked = Curve(WANTED[0], batches=True, checked=CURVES[1].checked)
    html = rendered([*some, only_checked], complete=False)
    assert "The sweep was interrupted" in html
    assert html.count("<h3>") == 4
    assert "The sweep was interrupted" not in rendered()
    assert "<h2>" not in rendered([], complete=False)


def test_colours_follow_the_page_and_not_the_picture_files(tmp_path: Path) -> None:
    paths = charts.draw_all(CURVES, theory, tmp_path)
    assert [path.name for path in paths] == [
        "queue-steady-exponential-service.png",
        "queue-steady-exponential-service-batches.png",
        "queue-burst.png",
        "queue-burst-batches.png",
        "queue-stall.png",
        "queue-stall-batches.png",
        "queue-producers.png",
        "queue-producers-batches.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert "prefers-color-scheme: dark" in page.STYLE
    assert "@media print" in page.STYLE


# The sentences


def point(share: float, **figures: float) -> Point:
    few = replace(CURVES[0].points[1][0], puts=1000, wait_share=share, p99_wait=0.0, mean_loss=1.0, worst_loss=2.0)
    others: dict[str, Any] = {**figures}
    return replace(few, **others)


def curve(label: str, shares: Mapping[int, float], **figures: float) -> Curve:
    scenario = Steady("group", label, 0.5)
    return Curve(scenario, batches=False, points={size: [point(share, **figures)] for size, share in shares.items()})


def test_from_where_on_few_puts_wait() -> None:
    low, high = curve("low", {1: 0.1, 4: 0.009, 16: 0.0}), curve("high", {1: 0.9, 4: 0.5, 16: 0.1})
    odd = curve("odd", {1: 0.001, 4: 0.02, 16: 0.0})
    assert conclusions.of_share([low]) == "Fewer than 1 put in 100 waits from queue_size 4 on."
    assert conclusions.of_share([high]) == "At every size shown more than 1 put in 100 waits."
    assert conclusions.of_share([low, high]) == (
        "Fewer than 1 put in 100 waits from queue_size 4 (low) on; with high more at every size shown."
    )
    assert conclusions.of_share([low, odd]) == "Fewer than 1 put in 100 waits from queue_size 4 (low) and 16 (odd) on."


def test_how_long_a_put_in_a_hundred_waits() -> None:
    one, other = curve("a", {1: 0.1, 4: 0.0}), curve("b", {1: 0.9, 4: 0.5}, p99_wait=7.0)
    one.points[1] = [point(0.1, p99_wait=3.0)]
    assert (
        conclusions.of_p99([one])
        == "With queue_size 1, 1 put in 100 waits 3 service times or longer; with 4, none does."
    )
    assert conclusions.of_p99([one, other]) == (
        "With queue_size 1, 1 put in 100 waits 3 (a) and 7 (b) service times or longer; with 4, 7 (b)."
    )
    assert conclusions.of_p99([curve("c", {1: 0.0, 4: 0.0})]) == "Fewer than 1 put in 100 waits at every size shown."


def test_what_a_kill_loses() -> None:
    one, other = curve("a", {1: 0.1, 4: 0.001}, mean_loss=1.5), curve("b", {1: 0.9, 4: 0.5})
    assert conclusions.of_loss([one]) == (
        "A kill loses, where few puts wait, 1.5 blobs on average and 2 at worst with queue_size 4."
    )
    assert conclusions.of_loss([one, other]) == (
        "A kill loses, where few puts wait, or with the largest queue, 1.5 blobs on average and 2 at worst with "
        "queue_size 4 (a) and 1 blobs on average and 2 at worst with queue_size 4 (b)."
    )


def test_how_old_the_oldest_blob_gets() -> None:
    short = curve("a", {16: 0.1, 256: 0.0}, peak_lag=20.0)
    short.lags.update({16: [], 256: []})
    assert conclusions.of_lag(short) == "The oldest queued blob gets 20 service times old, whatever the queue's size."
    short.points[256] = [point(0.0, peak_lag=300.0)]
    assert conclusions.of_lag(short) == (
        "The oldest queued blob gets 20 service times old with queue_size 16, 300 with 256: a small queue keeps lag "
        "short by letting puts wait instead."
    )


# Tables and JSON


def test_the_tables_have_every_scenario() -> None:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        for table in tables(CURVES):
            console.print(table)
    text = console.export_text()
    for scenario in WANTED:
        assert scenario.group in text
        assert scenario.label in text
    assert "the same" in text
    assert "differs" not in text
    assert "< 5e-03" in text  # 3/600


def test_whether_the_real_code_agrees_is_said_in_a_sentence() -> None:
    assert re.fullmatch(
        r"In \d+ runs of the real code, of [\d,]+ puts, no wait differs from the recursion's by more than 0 service "
        r"times, and as many puts waited\.",
        agreement(CURVES),
    )
    off = Checked(point(0.1), point(0.1), 0.25, same_blocked_puts=False, puts=1000)
    assert agreement([Curve(WANTED[0], batches=False, checked={1: off})]) == (
        "In 1 runs of the real code, of 1,000 puts, no wait differs from the recursion's by more than 0.25 service "
        "times, and in 1 of them not as many puts waited."
    )
    assert agreement([]) == "The real code did not run."


def test_all_that_was_found_is_in_the_json() -> None:
    loaded = json.loads(as_json({"processors": 2}, SMALL, CURVES, complete=True))
    assert loaded["extent"] == {"seeds": 2, "puts": 300, "real_puts": 40}
    assert len(loaded["curves"]) == 2 * len(WANTED)
    first = loaded["curves"][0]
    assert len(first["points"]["16"]) == 2
    assert first["points"]["16"][0]["puts"] == 300
    assert first["real code"]["4"]["largest difference of a wait"] == 0
    assert loaded["curves"][4]["lag"]["16"]


# The sweep


def test_the_processes_find_what_one_finds() -> None:
    few = tasks(WANTED[:1], SMALL)
    ended = []
    curves, complete = sweep.sweep(few, lambda: ended.append(1))
    assert complete
    assert len(ended) == len(few)
    for one, other in zip(curves, CURVES, strict=False):
        assert one.checked == other.checked
        assert {size: sorted(map(repr, points)) for size, points in one.points.items()} == {
            size: sorted(map(repr, points)) for size, points in other.points.items()
        }


def test_a_sweep_that_is_interrupted_returns_what_there_is() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    curves, complete = sweep.sweep(todo(), interrupt)
    assert not complete
    assert 1 <= len(curves) < 2 * len(WANTED)


def test_a_sweep_looks_at_every_scenario() -> None:
    assert len({task.scenario for task in tasks(scenarios(), SMALL)}) == len(scenarios())


# The commands


def invoked(*arguments: str) -> Any:
    return CliRunner().invoke(commands, list(arguments), catch_exceptions=False)


def test_the_queue_command_writes_a_page_and_figures(tmp_path: Path) -> None:
    ended = invoked("queue", "--quick", "--only", "pause of 10", "--plot", "--output", str(tmp_path))
    assert ended.exit_code == 0
    assert "runs of the real code" in ended.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "queue-producers-batches.png",
        "queue-producers.png",
        "queue.html",
        "queue.json",
    ]


def test_ctrl_c_shows_what_was_measured(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from benchmarks.queueing import commands; sweep = commands.sweep\n"
        "def interrupted(todo, done):\n"
        "    def advance(): done(); os.killpg(0, signal.SIGINT)\n"
        "    return sweep(todo, advance)\n"
        "if __name__ == '__main__':\n"
        "    commands.sweep = interrupted\n"
        "    commands.measure_queue(['--only', 'burst', '--output', sys.argv[1]])\n"
    )
    (tmp_path / "program.py").write_text(program)
    child = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert child.returncode == 130, child.stderr
    assert "interrupted: what was measured until then is shown" in child.stderr
    assert "Traceback" not in child.stderr
    assert "written: " in child.stdout
    assert json.loads((tmp_path / "queue.json").read_text())["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["queue", "--full", "--quick"], "--full and --quick exclude each other"),
        (["queue", "--only", "nothing"], "no scenario has 'nothing' in its name"),
        (["queue", "--rate", "5"], "--rate is for --store"),
        (["queue", "--store", "memory:"], "--store needs --rate"),
        (["queue", "--store", "memory:", "--rate", "5", "--full"], "are for the scenarios, not for --store"),
        (["queue", "--store", "memory:", "--rate", "nan"], "'nan' is no finite number above zero"),
        (["queue", "--store", "memory:", "--rate", "-1"], "'-1' is no finite number above zero"),
        (["queue", "--store", "memory:", "--rate", "5", "--seconds", "0"], "'0' is no finite number above zero"),
        (["queue", "--store", "memory:", "--rate", "x"], "'x' is no finite number above zero"),
        (["queue", "--store", "floppy:", "--rate", "5"], "unknown store 'floppy:'"),
        (["queue", "--blob-size", "0"], "'0' is no number of bytes above zero, such as 100, 64KiB or 1.5GB"),
        (["queue", "--blob-size", "64 apples"], "'64 apples' is no number of bytes above zero"),
        (["queue", "--callers", "0"], "0 is not in the range x>=1"),
        (["recommend", "--rate", "5"], "Missing option '--service-time'"),
        (["recommend", "--rate", "5", "--service-time", "0"], "'0' is no finite number above zero"),
        (["recommend", "--rate", "5", "--service-time", "0.1", "--service-cv", "nan"], "service_cv"),
        (["recommend", "--rate", "5", "--service-time", "0.1", "--stall", "-1"], "stall"),
        (["recommend", "--rate", "5", "--service-time", "0.1", "--burst-rate", "9"], "burst"),
        (["recommend", "--rate", "5", "--service-time", "0.1", "--wait-share", "1"], "wait_share"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], complaint: str) -> None:
    ended = invoked(*arguments)
    assert ended.exit_code == 2
    assert complaint in " ".join(ended.output.split())


def test_the_advice_is_given_in_two_lines() -> None:
    ended = invoked("recommend", "--rate", "90", "--service-time", "0.01")
    assert ended.exit_code == 0
    assert ended.output.startswith("queue_size=43, batch_size=1\n")


def test_where_no_queue_will_do_it_is_said_what_would() -> None:
    ended = invoked("recommend", "--rate", "200", "--service-time", "0.01")
    assert ended.exit_code == 1
    assert ended.output.startswith("Error: ")
    assert len(ended.output.splitlines()) == 1


def test_a_store_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "store"
    ended = invoked("queue", "--store", f"dir:{place}", "--rate", "100", "--blob-size", "1KiB", "--seconds", "1")
    assert ended.exit_code == 0
    put, deleted = re.search(r"(\d+) blobs were put, and (\d+) of them deleted", ended.output).groups()  # type: ignore[union-attr]
    assert int(put) == int(deleted) > 0
    assert "queue_size=" in ended.output
    assert [path for path in (place / "blobs").rglob("*") if path.is_file()] == []
