"""The benchmarks' measuring: order, ratios, folders and refused options. Only running them shows that they run."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
from click.testing import CliRunner
from rich.console import Console

from benchmarks import _machine
from benchmarks.__main__ import commands
from benchmarks._progress import lines, progress
from benchmarks._spread import Spread
from benchmarks.compare import memory, peers, promised, stores, workloads
from benchmarks.compare.pairs import paired, rates_of, table
from benchmarks.compare.report import as_json
from benchmarks.compare.rounds import Comparison, Folders, Measured, Variant, measure
from tests.killing import quick_folder
from trio_replica import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.compare.rounds import Run


class Usage(NamedTuple):
    """The type of what `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


def recorded(name: str, ran: list[str], rates: Iterable[float]) -> Variant:
    remaining = iter(rates)

    async def run(folder: Path, seconds: float) -> float:
        await trio.lowlevel.checkpoint()
        assert seconds == 0.5
        assert folder.is_dir()
        ran.append(f"{name} in {folder.name}")
        return next(remaining)

    return Variant(name, run)


def test_variants_follow_each_other_in_alternating_order(tmp_path: Path) -> None:
    ran: list[str] = []
    told: list[str] = []
    comparison = Comparison("group", "work", "1/s", [recorded("A", ran, [1, 2, 4]), recorded("B", ran, [2, 3, 20])])
    with Folders(tmp_path) as folders:
        measured = measure(comparison, 3, 0.5, folders, told.append)
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    assert ran == ["A in 0", "B in 1", "B in 2", "A in 3", "A in 4", "B in 5"]
    assert told[2] == "group, work: B, round 2 of 3"
    a, b = comparison.variants
    assert measured.rate(a) == Spread(1.5, 2, 3)
    # 2, 1.5 and 5 round by round: not what the median rates say, which is 1.5.
    assert measured.ratio(b) == Spread(1.75, 2, 3.5)
    assert measured.ratio(a) == Spread(1, 1, 1)


def test_versions_follow_each_other_in_alternating_order() -> None:
    ran: list[str] = []
    told: list[str] = []

    def side(name: str, rates: Iterable[float]) -> Callable[[], dict[tuple[str, str], float]]:
        remaining = iter(rates)

        def measured() -> dict[tuple[str, str], float]:
            ran.append(name)
            return {("group: work", "variant"): next(remaining)}

        return measured

    here, there = paired(3, side("here", [2, 3, 20]), side("there", [1, 2, 4]), told.append)
    assert ran == ["here", "there", "there", "here", "here", "there"]
    assert told[3] == "round 2 of 3: this version"
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(here, there))
    assert re.search(r"group: work +│ variant +│ +3 │ +2 │ +2 │ +1.75 to 3.5 ", console.export_text())


def test_the_rates_of_a_round_are_found_in_its_json() -> None:
    comparison = Comparison("group", "work", "1/s", [recorded("A", [], ()), recorded("B", [], ())])
    found = json.loads(as_json({}, {}, [Measured(comparison, {"A": [1], "B": [3]})]))
    assert rates_of(found) == {("group: work", "A"): 1, ("group: work", "B"): 3}


def test_a_log_gets_a_line_at_once_and_then_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([100.0, 100.5, 103.0, 110.6, 115.0, 121.0])
    tell = lines(lambda: next(times))
    for message in "abcde":
        tell(message)
    assert capsys.readouterr().err.splitlines() == ["0 s: a", "11 s: c", "21 s: e"]


def test_a_terminal_gets_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    with progress(Console(file=shown, force_terminal=True)) as told:
        told("how far")
    assert "how far" in shown.getvalue()
    assert capsys.readouterr().err == ""


def test_one_round_has_no_spread() -> None:
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_folders_are_removed_early_only_when_the_disk_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Folders(tmp_path) as folders:
        kept = folders.new()
        folders.make_room()
        assert kept.exists()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 1, 1))
        folders.make_room()
        assert not kept.exists()
        assert folders.new().exists()


def test_all_that_was_measured_is_in_the_json() -> None:
    ran: list[str] = []
    comparison = Comparison("group", "work", "1/s", [recorded("A", ran, ()), recorded("B", ran, ())])
    found = json.loads(as_json({"processors": 2}, {"rounds": 2}, [Measured(comparison, {"A": [1, 2], "B": [3, 8]})]))
    assert found["machine"] == {"processors": 2}
    (one,) = found["comparisons"]
    assert [variant["rates"] for variant in one["variants"]] == [[1, 2], [3, 8]]
    assert one["variants"][1]["ratio"] == {"low": 3.25, "median": 3.5, "high": 3.75}


@pytest.mark.parametrize("size", workloads.SIZES.values())
def test_payloads_are_of_their_size_and_all_different(size: int) -> None:
    payload = workloads.payloads(size)
    blobs = [payload() for _ in range(10)]
    assert {len(blob) for blob in blobs} == {size}
    assert len(set(blobs)) == 10


@pytest.mark.parametrize(
    "work",
    [
        lambda: workloads.puts(workloads.memory, 3, 100),
        lambda: workloads.puts_until_drained(workloads.memory, 3, 100),
        lambda: workloads.puts_of_many(workloads.memory, 10, 100),
        lambda: workloads.gets(workloads.replicated(workloads.sqlite, 2), 3, 4096),
        lambda: workloads.gets_of_many(workloads.memory, 10, 4096),
        lambda: workloads.drains(workloads.sqlite, 10, 100, through_replica=True),
        lambda: workloads.drains(workloads.sqlite, 10, 100, through_replica=False),
    ],
)
def test_some_work_is_done_even_if_the_machine_takes_all_the_time_to_begin(
    work: Callable[[], Run], tmp_path: Path
) -> None:
    assert trio.run(work(), tmp_path, 0) > 0


@pytest.mark.deep
@pytest.mark.parametrize("comparison", [*peers.comparisons(["1 MiB"])], ids=lambda comparison: comparison.group)
def test_every_peer_does_some_work_even_if_the_machine_takes_all_the_time_to_begin(
    comparison: Comparison, tmp_path: Path
) -> None:
    with Folders(tmp_path) as folders:
        measured = measure(comparison, 1, 0, folders, lambda _: None)
    assert min(measured.rate(variant).median for variant in comparison.variants) > 0


async def test_calls_are_counted_that_end_after_the_time() -> None:
    assert await workloads.make(5, trio.lowlevel.checkpoint, 0) == 5
    store = MemoryStore()
    payload = workloads.payloads(100)

    async def put() -> None:
        await store.put(payload())

    assert await workloads.make(5, put, 0.01) == len(store)


@pytest.mark.deep
def test_a_replica_holds_no_more_blobs_than_it_may() -> None:
    most, bound = memory.held(200, 1024 * 1024)
    assert bound == 32 + 16 + 8
    assert 32 + 8 < most <= bound  # the queue was full and all callers waited, or this has shown nothing


def test_the_file_system_is_that_of_the_innermost_mount() -> None:
    assert _machine.file_system(Path("/proc/self")) == "proc"


def test_the_cost_of_an_fsync_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    assert _machine.fsync_seconds(tmp_path, times=3) > 0
    assert list(tmp_path.iterdir()) == []


def test_every_promise_of_the_library_is_measured() -> None:
    found = [
        variant.at_least
        for comparison in (
            *promised.promised(1),
            *stores._promised(),
            stores.promised_of_ceph(),
            stores.promised_of_postgres(),
        )
        for variant in comparison.variants
        if variant.at_least is not None
    ]
    assert found == [
        0.8 / 2,
        0.8 / 3,
        1.7,
        0.75,
        0.7,
        0.8,
        0.65,
        0.5,
        0.8,
        1.0,
        0.8,
        0.9,
        1 / 5,
        0.6,
        0.6,
        0.6,
        1 / 2.5,
        1 / 1.2,
        4,
        6,
        2.5,
        2,
        5,
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["speed"], "No such command 'speed'"),
        (["overhead", "--store", "floppy"], "'floppy' is not one of 'memory', 'directory', 'sqlite'"),
        (["stores", "--size", "4KB"], "'4KB' is not one of '100 B', '4 KiB', '64 KiB', '1 MiB'"),
        (["stores", "--callers", "0"], "0 is not in the range x>=1"),
        (["stores", "--rounds", "0"], "0 is not in the range x>=1"),
        (["stores", "--seconds", "0"], "0.0 is not in the range x>0"),
        (["stores", "--folder", "/proc"], "/proc is no folder that can be written"),
        (["pair", "/proc", "overhead"], "/proc is no checkout of the library: it has no folder trio_replica"),
        (["peers", "--output", "nowhere"], "nowhere is no folder that can be written"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], complaint: str) -> None:
    ended = CliRunner().invoke(commands, arguments)
    assert ended.exit_code == 2
    assert complaint in ended.output


@pytest.mark.deep
def test_peers_that_are_not_installed_are_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.Peer, "is_there", False)
    with quick_folder() as folder:
        arguments = ["peers", "--quick", "--only", "get", "--folder", folder, "--output", folder]
        ended = CliRunner().invoke(commands, arguments, catch_exceptions=False)
        assert ended.exit_code == 0
        assert "lmdb is not installed" in ended.output
        (one,) = json.loads(Path(folder, "peers.json").read_text())["comparisons"]
        assert all("store" in variant["name"] for variant in one["variants"])
        assert os.listdir(folder) == ["peers.json"]


def test_a_disk_in_memory_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "file_system", lambda _: "tmpfs")
    arguments = ["stores", "--quick", "--only", "nothing", "--folder", str(tmp_path), "--output", str(tmp_path)]
    ended = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert ended.exit_code == 2
    assert "nothing that is measured has 'nothing' in its title" in ended.output
    assert "is on tmpfs: durable puts cost nothing there, and mean nothing" in " ".join(ended.output.split())
