"""The sweep, its tables and JSON, and the commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.__main__ import commands
from benchmarks.queueing.model import sweep
from benchmarks.queueing.model.scenarios import Burst, Producers, Stalled, Steady, scenarios
from benchmarks.queueing.model.sweep import Curve, Extent, tasks
from benchmarks.queueing.report.tables import as_json, tables
from trio_replica.cli.recommend import advice_text

from .curves import curves_of

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parent.parent.parent
SMALL = Extent(seeds=2, puts=300, real_puts=40)
WANTED = [
    Steady("steady, exponential service", "ρ = 0.5", 0.5, largest=64),
    Steady("steady, exponential service", "ρ = 0.8", 0.8, largest=64),
    Burst("burst", "60 blobs at 4 μ", 60, 4.0),
    Stalled("stall", "λT = 20", 0.5, 40.0),
    Producers("producers", "8, no pause", 8, 0.0),
]


@cache
def curves() -> list[Curve]:
    return curves_of(WANTED, SMALL)


# Tables and JSON


def test_the_tables_have_every_scenario() -> None:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        for table in tables(curves()):
            console.print(table)
    text = console.export_text()
    for scenario in WANTED:
        assert scenario.group in text
        assert scenario.label in text
    assert "the same" in text
    assert "differs" not in text
    assert "< 5e-03" in text  # 3/600


def test_all_that_was_found_is_in_the_json() -> None:
    loaded = json.loads(as_json({"processors": 2}, SMALL, curves(), complete=True))
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
    found, complete = sweep.sweep(few, lambda: ended.append(1))
    assert complete
    assert len(ended) == len(few)
    for one, other in zip(found, curves(), strict=False):
        assert one.checked == other.checked
        assert {size: sorted(map(repr, points)) for size, points in one.points.items()} == {
            size: sorted(map(repr, points)) for size, points in other.points.items()
        }


def test_a_sweep_that_is_interrupted_returns_what_there_is() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    found, complete = sweep.sweep(tasks(WANTED, SMALL), interrupt)
    assert not complete
    assert 1 <= len(found) < 2 * len(WANTED)


def test_a_sweep_looks_at_every_scenario() -> None:
    assert len({task.scenario for task in tasks(scenarios(), SMALL)}) == len(scenarios())


# The commands


def invoked(*arguments: str) -> Any:
    return CliRunner().invoke(commands, list(arguments), catch_exceptions=False)


def test_the_queue_command_writes_a_page_and_figures(tmp_path: Path) -> None:
    ended = invoked("queue", "--quick", "--only", "pause of 10", "--plot", "--output", str(tmp_path))
    assert ended.exit_code == 0
    assert "Runs that differ from the recursion: 0." in " ".join(ended.output.split())
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
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        output, errors = child.communicate(timeout=100)  # until no process is left that has its standard error
    assert child.returncode == 130, errors
    assert "what was measured until then is shown" in errors
    assert "Traceback" not in errors
    assert "written: " in output
    assert json.loads((tmp_path / "queue.json").read_text())["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["queue", "--full", "--quick"], "--full and --quick exclude each other"),
        (["queue", "--only", "nothing"], "no scenario has 'nothing' in its name"),
        (["queue", "--rate", "5"], "--rate: for --store"),
        (["queue", "--store", "memory:"], "--store needs --rate"),
        (["queue", "--store", "memory:", "--rate", "5", "--full"], "--full: for the scenarios, not for --store"),
        (["queue", "--store", "memory:", "--rate", "nan"], "'nan' is no finite number above zero"),
        (["queue", "--store", "memory:", "--rate", "-1"], "'-1' is no finite number above zero"),
        (["queue", "--store", "memory:", "--rate", "5", "--seconds", "0"], "'0' is no finite number above zero"),
        (["queue", "--store", "memory:", "--rate", "x"], "'x' is no finite number above zero"),
        (["queue", "--store", "floppy:", "--rate", "5"], "unknown store 'floppy:'"),
        (["queue", "--blob-size", "0"], "'0' is not a positive number of bytes, such as 100, 64KiB or 1.5GB"),
        (["queue", "--blob-size", "64 apples"], "'64 apples' is not a positive number of bytes"),
        (["queue", "--callers", "0"], "0 is not in the range x>=1"),
        (["recommend", "--rate", "5"], "Missing option '--service-time'"),
        (["recommend", "--rate", "5", "--service-time", "0"], "--service-time must be more than 0 seconds"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], complaint: str) -> None:
    ended = invoked(*arguments)
    assert ended.exit_code == 2
    assert complaint in " ".join(ended.output.split())


def test_the_advice_is_that_of_the_library() -> None:
    ended = invoked("recommend", "--rate", "90", "--service-time", "0.01")
    assert ended.exit_code == 0
    assert ended.output == f"{advice_text(rate=90, service_time=0.01)}\n"


def test_where_no_queue_will_do_it_is_said_what_would() -> None:
    ended = invoked("recommend", "--rate", "200", "--service-time", "0.01")
    assert ended.exit_code == 1
    assert ended.output.startswith("Error: ")
    assert len(ended.output.splitlines()) == 1


def test_a_store_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "store"
    ended = invoked("queue", "--store", f"dir:{place}", "--rate", "20", "--blob-size", "1KiB", "--seconds", "1")
    assert ended.exit_code == 0
    found = re.search(r"(\d+) blobs were put, or may have been, and (\d+) of them deleted", ended.output)
    assert found is not None
    put, deleted = found.groups()
    assert int(put) == int(deleted) > 0
    assert "Recommended from the times of the runs: rate 20, service_time " in " ".join(ended.output.split())
    assert "queue_size=" in ended.output
    assert [path for path in (place / "blobs").rglob("*") if path.is_file()] == []
