"""The simulation finds nothing, and sees what it says that it sees."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from .__main__ import main
from .drawing import last_plan
from .ledger import REFS, Put
from .observer import Observer
from .running import run_in_processes, run_seeds
from .session import Session
from .trace import Violation
from .world import World

ROOT: Final = Path(__file__).parents[2]


def simulation(*arguments: str, hash_seed: str = "random") -> list[str]:
    """Return what the command prints in the end when it is run in a process of its own: the tally, and the sum."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-10_000:] + ended.stderr
    return ended.stdout.splitlines()[-2:]


@pytest.fixture(scope="module")
def many() -> list[str]:
    return simulation("--seeds", "0:2000")


@pytest.mark.exhaustive  # a quarter of an hour
def test_20_000_seeds() -> None:
    assert ", 0 failed; " in simulation("--seeds", "0:20000")[1]


@pytest.mark.deep
def test_seeds(many: list[str]) -> None:
    assert many[1].startswith("2000 seeds in ")
    assert ", 0 failed; " in many[1]


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 150), marks=pytest.mark.deep)], ids=str)
def test_seeds_that_are_measured(seeds: range) -> None:
    results = run_seeds(seeds)
    assert (results.seeds, results.failures) == (len(seeds), [])


@pytest.mark.deep
def test_what_happens_depends_on_the_seed_alone() -> None:
    hashes = {simulation("--seeds", "0:60", hash_seed=seed)[1].rpartition("; ")[2] for seed in ("1", "2")}
    assert len(hashes) == 1


@pytest.mark.deep
@pytest.mark.parametrize(
    "kind",
    [
        *("put", "put_many", "get", "get_many", "contains", "list_refs", "flush"),
        *("cancelled put", "cancelled get", "cancelled flush", "failed put", "failed get", "failed flush"),
        *("not accepted", "poisoned", "not found"),
        *("failure", "hang", "outage", "garbled", "rot", "late", "lost"),
        *("outbox commit fails", "outbox commit fails and stays", "outbox read fails"),
        *("kill", "power cut", "crash of reconcile", "reconcile"),
        *("relayed", "repaired", "log INFO"),
        *("reconcile of a liar", "scrub of a liar", "repair of a liar"),
    ],
)
def test_what_is_said_to_happen_happens(many: list[str], kind: str) -> None:
    assert re.search(rf"(?:^|, )[1-9]\d* {kind}(?:,|$)", many[0])


def test_a_seed_that_fails_prints_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "40:60", "--bug", "a_listing_ends_at_the_shorter_store", "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "Violation: a listing is complete as of its start" in printed
    (seed,) = (line.partition(": ")[0] for line in printed.splitlines() if line.startswith("seed "))
    assert f"to see it again: python -m tests.simulation --seeds {seed.removeprefix('seed ')}" in printed
    assert "session 0" in printed


def test_no_seeds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seeds", "5:5"])
    assert "there is no seed from 5 and below 5" in capsys.readouterr().err


@pytest.mark.deep
def test_one_seed_is_run_alone() -> None:
    assert run_in_processes([7]).digests == run_seeds([7]).digests


def test_what_waits_for_ever_is_noticed() -> None:
    with pytest.raises(Violation, match="waits for ever"):
        Observer().run(trio.sleep_forever)


def test_what_waits_for_ever_is_noticed_behind_a_shield() -> None:
    async def wait() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    with pytest.raises(Violation, match="waits for ever"):
        Observer().run(wait)


def test_what_waits_for_ever_is_noticed_where_nothing_can_be_cancelled() -> None:
    with pytest.raises(Violation, match="waits for ever"):
        Observer().run(partial(trio.lowlevel.wait_task_rescheduled, lambda _: trio.lowlevel.Abort.FAILED))


def test_a_check_that_raises_is_noticed() -> None:
    def check() -> None:
        raise KeyError("something")

    with pytest.raises(Violation, match="nothing raises that is looked at: KeyError"):
        Observer(check).run(trio.sleep_forever)


def test_what_goes_round_for_ever_is_noticed() -> None:
    async def go_round() -> None:
        while True:  # noqa: ASYNC110  (it waits for nothing)
            await trio.lowlevel.checkpoint()

    with pytest.raises(Violation, match="goes round for ever"):
        Observer().run(go_round)


def test_an_endless_loop_is_noticed_behind_a_shield() -> None:
    async def go_round() -> None:
        with trio.CancelScope(shield=True):
            while True:  # noqa: ASYNC110  (it waits for nothing)
                await trio.lowlevel.checkpoint()

    with pytest.raises(Violation, match="goes round for ever"):
        Observer().run(go_round)


def test_a_put_that_returns_after_a_crash_is_not_acknowledged() -> None:
    """A crash comes between two steps, and the put may return in the next."""
    world = World(0)
    session = Session(world, last_plan(outbox=False), world._fair_surroundings(random.Random(0)))
    session._observer.end()
    session.acknowledge(Put(REFS[:1]))
    assert world.ledger.acknowledged == {}


def test_when_all_is_over_nothing_is_wrong_any_more() -> None:
    async def end() -> None:
        observer.end()
        observer.violate(Violation("something"))
        await trio.sleep_forever()

    observer = Observer()
    observer.run(end)
    assert observer.violation is None


def test_the_first_of_several_violations_counts() -> None:
    async def fail(_: int) -> None:  # noqa: ASYNC124  (a task)
        raise Violation("something")

    async def fail_twice() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(fail, number)

    with pytest.raises(Violation, match="something"):
        Observer().run(fail_twice)
