"""``trio-replica reconcile``: what it copies, prints and returns; interruptions, one of a real process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

import pytest
import trio

import trio_replica as replica
from trio_replica import Blob, Ref, cli
from trio_replica.cli.output import Display
from trio_replica.testing import SimulatedStore

from . import test_cli
from .common import BROKEN, refs
from .test_cli import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_replica import PutResult
    from trio_replica._blob import BytesLike

simulated_stores = test_cli.simulated

ROOT = Path(__file__).parent.parent
HEAD = "STORE KIND REFS MISSING COPIED FAILED BYTES"

STOPPING = """
import signal, sys
import trio
from trio_replica import DirectoryStore, cli

puts = 0
really_put = DirectoryStore.put

async def put(self, blob):
    global puts
    puts += 1
    if puts > 5:
        print("stopped", flush=True)
        await trio.sleep_forever()
    return await really_put(self, blob)

DirectoryStore.put = put
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
sys.exit(cli.main())
"""
"""The command line, whose directories stop at their sixth put and say so."""


class Ended(NamedTuple):
    status: int
    rows: list[str]
    """The printed lines, with one space between two words."""
    problems: list[str]


class Run(Protocol):
    def __call__(self, *arguments: str) -> Ended: ...


@pytest.fixture
def run_reconcile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIO_REPLICA_CONFIG", raising=False)

    def run(*arguments: str) -> Ended:
        status = cli.main(["reconcile", *arguments])
        out, err = capfd.readouterr()
        problems = [line.removeprefix("trio-replica: ") for line in err.splitlines()]
        return Ended(status, [" ".join(line.split()) for line in out.splitlines()], problems)

    return run


def fill(url: str, numbers: Iterable[int]) -> None:
    """Put the blobs of `numbers` into a store."""

    async def put() -> None:
        async with replica.open_store(url) as store:
            await store.put_many(b"%d" % number for number in numbers)

    trio.run(put)


def held(url: str) -> set[Ref]:
    async def refs_of() -> set[Ref]:
        async with replica.open_store(url) as store:
            return {ref async for ref in store.list_refs()}

    return trio.run(refs_of)


def simulated(*numbers: int) -> SimulatedStore:
    store = SimulatedStore()
    for number in numbers:
        store.corrupt(Ref.of(b"%d" % number), b"%d" % number)
    return store


def test_it_copies_what_is_missing_and_says_so(run_reconcile: Run) -> None:
    fill("dir:one", range(12))
    fill("sqlite:two.db", range(10, 15))
    urls = ["--sync", "dir:one", "--async", "sqlite:two.db", "--async", "dir:new"]
    counted = [
        HEAD,
        "dir:one sync 12 3 0 0 0",
        "sqlite:two.db async 5 10 0 0 0",
        "dir:new async 0 15 0 0 0",
    ]
    assert run_reconcile("--dry-run", *urls) == Ended(1, counted, [])
    assert sorted(os.listdir()) == ["one", "two.db"]
    copied = [
        HEAD,
        "dir:one sync 12 3 3 0 6",
        "sqlite:two.db async 5 10 10 0 10",
        "dir:new async 0 15 15 0 20",
    ]
    assert run_reconcile(*urls) == Ended(0, copied, [])
    whole = [
        HEAD,
        "dir:one sync 15 0 0 0 0",
        "sqlite:two.db async 15 0 0 0 0",
        "dir:new async 15 0 0 0 0",
    ]
    for options in ([], ["--dry-run"]):
        assert run_reconcile(*options, *urls) == Ended(0, whole, [])
    for url in ("dir:one", "sqlite:two.db", "dir:new"):
        assert held(url) == {*refs(*range(15))}


def test_the_default_stores_are_rebuilt(run_reconcile: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("file").write_bytes(b"data")
    assert cli.main(["put", "file"]) == 0
    capfd.readouterr()
    shutil.rmtree("trio-replica-data/copy")
    ended = run_reconcile()
    assert ended.status == 0
    assert ended.rows[2] == "dir:trio-replica-data/copy async 0 1 1 0 4"
    assert held("dir:trio-replica-data/copy") == {Ref.of(b"data")}


def test_the_default_stores_are_created_where_put_would(run_reconcile: Run) -> None:
    ended = run_reconcile("--dry-run")
    assert (ended.status, ended.rows) == (1, [])
    assert ended.problems[0].startswith("there is no trio-replica-data/ here: ")
    assert os.listdir() == []
    assert run_reconcile().status == 0
    assert sorted(os.listdir("trio-replica-data")) == ["blobs.db", "copy"]


def test_the_stores_of_a_file(run_reconcile: Run) -> None:
    Path("x.toml").write_text('[sync]\nnear = "dir:a"\n[async]\n"far away" = "sqlite:b.db"\n')
    fill("dir:a", [1])
    assert run_reconcile("--config", "x.toml").rows == [HEAD, "near sync 1 0 0 0 0", "far away async 0 1 1 0 1"]


@pytest.mark.parametrize("arguments", [["--sync", "dir:a", "--async", "dir:./a"], ["--config", "x.toml"]])
def test_a_store_that_is_given_twice_is_not_touched(run_reconcile: Run, arguments: list[str]) -> None:
    Path("x.toml").write_text('[sync]\none = "dir:a"\n[async]\nother = "dir:./a"\n')
    ended = run_reconcile(*arguments)
    assert ended.status in {1, 2}
    assert "given twice" in ended.problems[-1]
    assert (ended.rows, os.listdir()) == ([], ["x.toml"])


def test_what_goes_wrong_is_said_and_the_rest_goes_on(
    run_reconcile: Run, simulated_stores: dict[str, SimulatedStore]
) -> None:
    one, full = simulated_stores["one"], simulated_stores["full"] = simulated(1, 2), simulated(2)
    one.corrupt(refs(1)[0], b"rotten")
    Path("bad.db").write_bytes(b"no database" * 1000)
    away = simulated_stores["away"] = simulated(1)
    away.fail(OSError("away"), "list_page")
    late = simulated_stores["late"] = simulated(3)
    late.fail(OSError("late"), "list_page", after=1)
    full.fail(OSError("full"), "put")
    urls = ["dir:one", "dir:full", "sqlite:bad.db", "dir:away", "dir:late"]
    ended = run_reconcile(*(argument for url in urls for argument in ("--sync", url)))
    assert ended.status == 1
    assert ended.rows[0] == HEAD
    assert ended.rows[3].startswith("sqlite:bad.db sync failed: DatabaseError: SQLITE_NOTADB: ")
    assert ended.rows[4] == "dir:away sync failed: OSError: away"
    assert ended.rows[5].startswith("dir:late sync 1 ")
    assert ended.rows[5].endswith(" failed: OSError: late")
    corrupt = f"dir:one: get of {refs(1)[0]}: CorruptBlobError: "
    assert any(problem.startswith(corrupt) for problem in ended.problems)
    assert f"dir:full: put of {refs(3)[0]}: OSError: full" in ended.problems


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_no_store_can_be_opened(run_reconcile: Run, options: list[str]) -> None:
    Path("file").write_bytes(b"no database" * 1000)
    ended = run_reconcile(*options, "--sync", "sqlite:file")
    assert ended.status == 1
    assert ended.rows[1].startswith("sqlite:file sync failed: DatabaseError: ")


def test_a_listing_that_fails_is_an_exit_status_of_one(
    run_reconcile: Run, simulated_stores: dict[str, SimulatedStore]
) -> None:
    simulated_stores.update(one=simulated(1), other=SimulatedStore(), away=SimulatedStore())
    simulated_stores["away"].fail(BROKEN, "list_page")
    ended = run_reconcile("--sync", "dir:one", "--sync", "dir:other", "--sync", "dir:away")
    assert ended == Ended(
        1,
        [HEAD, "dir:one sync 1 0 0 0 0", "dir:other sync 0 1 1 0 1", "dir:away sync failed: OSError: broken"],
        [],
    )


def test_a_store_that_can_not_be_opened_is_an_exit_status_of_one(run_reconcile: Run) -> None:
    fill("dir:one", [1])
    Path("bad.db").write_bytes(b"no database" * 1000)
    ended = run_reconcile("--sync", "dir:one", "--sync", "sqlite:bad.db", "--sync", "dir:other")
    assert ended.status == 1
    assert [ended.rows[1], ended.rows[3]] == ["dir:one sync 1 0 0 0 0", "dir:other sync 0 1 1 0 1"]
    assert held("dir:other") == {*refs(1)}


def test_the_bar_stands_where_the_refs_that_are_reached_do(
    run_reconcile: Run, monkeypatch: pytest.MonkeyPatch, simulated_stores: dict[str, SimulatedStore]
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Display, "advance", lambda _, more: steps.append(more))
    simulated_stores.update(one=simulated(*range(20)), other=simulated(*range(0, 20, 2)))
    run_reconcile("--sync", "dir:one", "--sync", "dir:other")
    assert all(more >= 0 for more in steps)
    assert sum(steps) == int(str(max(refs(*range(20))))[:8], 16)


def test_many_problems_are_counted(run_reconcile: Run, simulated_stores: dict[str, SimulatedStore]) -> None:
    simulated_stores.update(one=simulated(*range(120)), other=SimulatedStore())
    simulated_stores["other"].fail(OSError("full"), "put")
    ended = run_reconcile("--sync", "dir:one", "--sync", "dir:other")
    assert (ended.status, ended.rows[2]) == (1, "dir:other sync 0 120 0 120 0")
    assert len(ended.problems) == 101
    assert ended.problems[-1] == "and 20 more such problems"


def test_the_display(
    run_reconcile: Run, monkeypatch: pytest.MonkeyPatch, simulated_stores: dict[str, SimulatedStore]
) -> None:
    class Watched(SimulatedStore):
        """A store that lists, and puts, once something is to be seen on the terminal."""

        puts = 0
        watching = trio.Lock()

        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            if limit > 1:  # one is asked for after a put
                await self.wait_seen(" listing")
            return await super().list_page(after, limit)

        async def put(self, blob: Blob | BytesLike) -> PutResult:
            self.puts += 1
            put = self.puts
            await self.wait_seen(f" 3 refs, {put - 1}/")
            if put == 3:
                raise BROKEN
            return await super().put(blob)

        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            return ref in self.blobs

        async def wait_seen(self, saying: str) -> None:
            async with self.watching:
                while saying not in terminal.seen:
                    await trio.lowlevel.wait_readable(terminal.master)
                    terminal.read()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    simulated_stores.update(one=simulated(1, 2, 3), other=Watched())
    with terminal.stands_for("stderr"):
        ended = run_reconcile("--sync", "dir:one", "--sync", "dir:other")
    assert ended.rows[2] == "dir:other sync 0 3 2 1 2"
    # The problem is left, and of the bar nothing.
    assert re.fullmatch(r"trio-replica: dir:other: put of [0-9a-f]{64}: OSError: broken\n", terminal.picture)
    drawn = [line for line in terminal.drawn if " 1/" in line]
    assert all(len(line) <= 80 for line in terminal.drawn if "put of" not in line)
    assert re.search(r" 3 refs, 1/[23] copied [0-9.]+ (bytes|kB)/s", drawn[0])


def test_an_interruption(run_reconcile: Run, simulated_stores: dict[str, SimulatedStore]) -> None:
    class Interrupting(SimulatedStore):
        async def put(self, _: Blob | BytesLike) -> NoReturn:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    simulated_stores.update(one=simulated(1), other=Interrupting())
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = run_reconcile("--sync", "dir:one", "--sync", "dir:other")
    finally:
        signal.signal(signal.SIGINT, former)
    assert ended == Ended(130, [], ["interrupted"])


@pytest.mark.deep
def test_sigint_midway_and_again(run_reconcile: Run, tmp_path: Path) -> None:
    fill("sqlite:blobs.db", range(200))
    urls = ["--sync", "sqlite:blobs.db", "--async", "dir:copy"]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPING, "reconcile", *urls],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"stopped\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"trio-replica: interrupted\n")
    before = len(held("dir:copy"))
    assert before <= 5
    ended = run_reconcile(*urls)
    assert ended.status == 0
    assert ended.rows[2].startswith(f"dir:copy async {before} {200 - before} {200 - before} 0 ")
    assert held("dir:copy") == {*refs(*range(200))}
