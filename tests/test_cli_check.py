"""``trio-replica check`` and ``status``: identities and listings of the stores, and test blobs that are left."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trio_replica import Ref, StoreIdentityError
from trio_replica.testing import SimulatedStore

from . import test_cli
from .common import BROKEN
from .schemes import open_with_function
from .test_cli import put_blobs, write

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .mounts import Mounts
    from .test_cli import Ended, Run

run = test_cli.run
simulated = test_cli.simulated

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32
URLS = ("--sync", "dir:a", "--async", "dir:b")


def add(simulated: dict[str, SimulatedStore], **stores: SimulatedStore) -> None:
    simulated.update(stores)
    for name in stores:
        Path(name, "blobs", "00").mkdir(parents=True, exist_ok=True)  # for commands that create none


def outcomes(ended: Ended) -> dict[str, str]:
    """Return the outcome that `check` has printed for each store; without the time of one that is ok."""
    lines = ended.out.decode().splitlines()[1:]
    return {line.split()[0]: "ok" if line.endswith("  ok") else line.partition("failed: ")[2] for line in lines}


def same(other: str, identity: str) -> str:
    return (
        f"it is one store with {other}, with the identity {identity}: name two stores, or give a copy an identity of "
        "its own: trio-replica identify --new URL"
    )


# Two names of one store


def test_two_names_of_one_store(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    add(simulated, a=SimulatedStore(identity=ONE), b=SimulatedStore(identity=ONE), c=SimulatedStore(identity=TWO))
    add(simulated, d=SimulatedStore(), e=SimulatedStore())
    options = (*URLS, "--sync", "dir:c", "--sync", "dir:d", "--sync", "dir:e")
    ended = run("check", *options)
    found = outcomes(ended)
    assert (found.pop("dir:a"), found.pop("dir:b")) == (same("dir:b", ONE), same("dir:a", ONE))
    assert set(found.values()) == {"ok"}, "stores that keep no identity may be two"
    assert (ended.status, ended.err) == (1, "")
    ended = run("status", *options)
    assert (ended.status, ended.err) == (1, "")
    assert ended.out.decode().splitlines()[6:] == [f"dir:a  {same('dir:b', ONE)}", f"dir:b  {same('dir:a', ONE)}"]
    simulated["b"] = SimulatedStore(identity=THREE)
    assert run("check", *options).status == run("status", *options).status == 0


@pytest.mark.mounts
def test_a_mount_of_a_store_is_no_second_store(run: Run, mounts: Mounts) -> None:
    put_blobs("dir:a", [b"data"])
    mounts.bind(Path("a").resolve(), Path("b").resolve())
    for command in ("check", "status"):
        ended = run(command, *URLS)
        assert ended.status == 1
        assert "it is one store with dir:b, with the identity " in ended.out.decode()


# Another store than before


def test_an_identity_that_changes_during_the_round_trip(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    class Changing(SimulatedStore):
        async def delete(self, ref: Ref) -> bool:
            self._identity = TWO
            return await super().delete(ref)

    add(simulated, a=Changing(identity=ONE))
    ended = run("check", "--sync", "dir:a")
    changed = str(StoreIdentityError("dir:a", ONE, TWO))
    assert f"its identity was {ONE} and is {TWO}" in changed
    assert (ended.status, outcomes(ended)) == (1, {"dir:a": changed})


@pytest.mark.parametrize("after", [0, 1])
def test_a_store_that_does_not_tell_its_identity(run: Run, simulated: dict[str, SimulatedStore], after: int) -> None:
    class Silent(SimulatedStore):
        asked = 0

        async def identity(self) -> str | None:
            await trio.lowlevel.checkpoint()
            self.asked += 1
            if self.asked > after:
                raise BROKEN
            return ONE

    add(simulated, a=Silent(), b=SimulatedStore(identity=ONE))
    ended = run("check", *URLS)
    problem = "identity: OSError: broken"
    assert outcomes(ended)["dir:a"] == (problem if after == 0 else f"{problem}; {same('dir:b', ONE)}")
    assert ended.status == 1
    assert (simulated["a"].calls == []) is (after == 0)
    ended = run("status", *URLS)
    assert (ended.status, ended.out.decode().splitlines()[1].split(maxsplit=2)[2]) == (1, "failed: OSError: broken")


def test_stores_are_compared_with_those_that_the_outbox_knows(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    add(simulated, a=SimulatedStore(identity=ONE), b=SimulatedStore(identity=TWO))
    options = (*URLS, "--outbox", "outbox.db")
    assert run("check", *options).status == 0, "there is no outbox yet"
    assert not Path("outbox.db").exists()
    write({"file": b"data"})
    assert run("put", *options, "file").status == 0
    assert run("check", *options).status == run("status", *options).status == 0
    simulated["b"] = SimulatedStore(identity=THREE)
    another = (
        f"the outbox knows another store by this name: its identity was {TWO} and is {THREE}: open the one that it "
        "knows, or take this one: trio-replica outbox accept dir:b"
    )
    ended = run("check", *options)
    assert (ended.status, ended.err, outcomes(ended)) == (1, "", {"dir:a": "ok", "dir:b": another})
    ended = run("status", *options)
    assert ended.status == 1
    assert f"dir:b  {another}" in ended.out.decode().splitlines()
    simulated["b"], simulated["a"] = SimulatedStore(identity=ONE), SimulatedStore(identity=TWO)
    for outcome in outcomes(run("check", *options)).values():
        assert "give the stores their former names" in outcome


@pytest.mark.usefixtures("no_waiting")
def test_an_outbox_that_can_not_be_compared(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    add(simulated, a=SimulatedStore(identity=ONE), b=SimulatedStore(identity=TWO))
    options = (*URLS, "--outbox", "outbox.db")
    write({"file": b"data"})
    assert run("put", *options, "file").status == 0
    with closing(sqlite3.connect("outbox.db")) as replica_of_another_process:
        replica_of_another_process.execute("BEGIN EXCLUSIVE")
        ended = run("check", *options)
    not_compared = "the stores are not compared with those that the outbox knows: "
    assert ended.status == 0, "the replica that uses it has compared them"
    assert ended.problems[0].startswith(f"{not_compared}{Path.cwd()}/outbox.db: the file is in use")
    Path("outbox.db").write_bytes(b"no database" * 1000)
    for ended in (run("check", *options), run("status", *options)):
        assert set(outcomes(ended).values()) <= {"ok", ""}
    ended = run("check", *options)
    assert ended.status == 1
    assert ended.problems[0].startswith(f"{not_compared}{Path.cwd()}/outbox.db: the file is not an outbox")


# Listings


def test_a_store_that_does_not_list_the_test_blob(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    class Blind(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            await trio.lowlevel.checkpoint()
            return []

    class Endless(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            if after == Ref(b"\xff" * 32):
                raise OSError("the listing does not prove its end")
            return await super().list_page(after, limit)

    class Deaf(SimulatedStore):
        """A server that ignores where a listing begins."""

        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            return await super().list_page(Ref.ZERO, limit)

    add(simulated, blind=Blind(), endless=Endless(), deaf=Deaf())
    ended = run("check", "--sync", "dir:blind", "--sync", "dir:endless", "--sync", "dir:deaf")
    found = outcomes(ended)
    assert found["dir:blind"] == "list_page: it does not list the blob"
    assert found["dir:endless"] == "list_page: OSError: the listing does not prove its end"
    assert found["dir:deaf"].startswith("list_page: a page begins with ")
    assert ended.status == 1
    assert [store.blobs for store in simulated.values()] == [{}] * 3


# Answers that are none


@pytest.mark.parametrize("answer", [None, "yes", 1])
@pytest.mark.parametrize("operation", ["put", "get", "list_page", "delete"])
def test_an_answer_that_is_none_is_a_problem_of_that_store(
    run: Run, simulated: dict[str, SimulatedStore], operation: str, answer: object
) -> None:
    class Odd(SimulatedStore):
        async def _answer(self, *_: object) -> object:
            await trio.lowlevel.checkpoint()
            return answer

    setattr(Odd, operation, Odd._answer)
    add(simulated, a=Odd(), b=SimulatedStore())
    ended = run("check", *URLS)
    assert (ended.status, ended.err, outcomes(ended)["dir:b"]) == (1, "", "ok")
    assert f"{operation}: " in outcomes(ended)["dir:a"]


# The end


def test_a_store_that_fails_when_it_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_directory(path: str) -> AsyncGenerator[SimulatedStore, None]:
        await trio.lowlevel.checkpoint()
        yield SimulatedStore()
        raise OSError(f"{path} does not close")

    open_with_function(monkeypatch, open_directory, "dir")
    for name in "ab":
        Path(name, "blobs", "00").mkdir(parents=True)
    ended = run("check", *URLS)
    assert ended.status == 1
    lines = ended.out.decode().splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["ok", "ok"]
    assert [line.split("failed: ")[1] for line in lines[3:]] == [
        "close: OSError: a does not close",
        "close: OSError: b does not close",
    ]
