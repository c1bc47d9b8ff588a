"""The outbox on the command line: puts that keep entries, what shows them, and what forgets them."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, PoisonedError
from trio_replica._async import outbox_by_hand
from trio_replica._async.outbox_connection import lock_log
from trio_replica._async.storage import OutboxInUseError
from trio_replica.testing import SimulatedStore

from . import test_cli
from .common import BROKEN, open_and_close, put_numbers, refs
from .test_cli import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_replica import PutResult
    from trio_replica._sqlite_files import PinnedFile

    from .test_cli import Ended, Terminal

    Command = Callable[..., Ended]

pytestmark = pytest.mark.usefixtures("no_waiting")

run = test_cli.run
simulated = test_cli.simulated
terminal = test_cli.terminal

NONE_IS_NAMED = "there is no outbox: name it with --outbox FILE, or in a configuration file"


def leave(name: str, count: int, path: str = "outbox.db") -> None:
    """Leave entries for a store, as one that fails does."""

    async def put() -> None:
        bad = SimulatedStore()
        bad.fail(BROKEN)
        with pytest.raises(PoisonedError):
            async with replica.open([MemoryStore()], {name: bad}, outbox=path) as store:
                await store.put_many([b"%d" % number for number in range(count)])

    trio.run(put)


def entry_lines(ended: Ended) -> list[str]:
    """Return the lines before the table of the stores."""
    lines = ended.out.decode().splitlines()
    return lines[: [line.startswith("STORE ") for line in lines].index(True)]


def test_a_put_with_an_outbox(run: Command) -> None:
    printed = write({"a": b"a", "b": b"b"})
    ended = run("put", "--outbox", "outbox.db", "a", "b")
    assert (ended.status, ended.out, ended.problems) == (0, printed, [])
    assert entry_lines(run("outbox", "--outbox", "outbox.db")) == ["nothing is pending"]
    assert run("status", "--outbox", "outbox.db").out.splitlines()[-1] == b"outbox: nothing is pending"
    assert b"outbox" not in run("status").out


def test_the_file_names_the_outbox(run: Command) -> None:
    Path("folder").mkdir()
    Path("folder/x.toml").write_text('outbox = "kept.db"\n[sync]\na = "dir:a"\n[async]\nb = "dir:b"\n')
    printed = write({"a": b"a"})
    assert run("put", "--config", "folder/x.toml", "a").out == printed
    assert Path("folder/kept.db").exists()
    assert entry_lines(run("outbox", "--config", "folder/x.toml")) == ["nothing is pending"]
    Path("y.toml").write_text('outbox = "blobs.db"\n[sync]\na = "sqlite:blobs.db"\n')
    assert run("put", "--config", "y.toml", "a").problems == [
        (f"y.toml:3: sync.a can't be used: the outbox '{Path.cwd()}/blobs.db' is a store as well: name another file")
    ]
    Path("z.toml").write_text('outbox = ""\n[sync]\na = "sqlite:blobs.db"\n')
    assert run("put", "--config", "z.toml", "a").problems == [
        "z.toml:1: outbox can't be used: outbox is the path of a file, not ''"
    ]
    Path("u.toml").write_text('outbox = "sqlite:outbox.db"\n[sync]\na = "sqlite:blobs.db"\n')
    (problem,) = run("put", "--config", "u.toml", "a").problems
    assert problem.startswith("u.toml:1: outbox can't be used: outbox is the path of a file, not 'sqlite:outbox.db';")


def test_entries_are_listed_by_store(run: Command) -> None:
    name = f"dir:{Path.cwd()}/copy"
    leave("gone", 2)
    leave(name, 12)
    options = ["--sync", "memory:", "--async", name, "--outbox", "outbox.db"]
    shown = [f"  {ref}" for ref in refs(*range(12))]
    assert entry_lines(run("outbox", *options)) == [
        "2 pending for gone, which is not an async store of this replica",
        *shown[:2],
        f"12 pending for {name}",
        *shown[:10],
        "  and 2 more, which --all prints",
    ]
    assert entry_lines(run("outbox", "--all", *options))[-13:] == [f"12 pending for {name}", *shown]
    Path("copy/blobs/00").mkdir(parents=True)
    assert run("status", *options).out.decode().splitlines()[-2:] == [
        "outbox: 2 pending for gone, which is not an async store of this replica",
        f"outbox: 12 pending for {name}",
    ]


def test_flushing(run: Command, simulated: dict[str, SimulatedStore]) -> None:
    simulated["a"], simulated["b"] = SimulatedStore(), SimulatedStore()
    options = ["--sync", "dir:a", "--async", "dir:b", "--outbox", "outbox.db"]
    simulated["b"].fail(BROKEN)
    printed = write({"file": b"a"})
    ended = run("put", *options, "file")
    assert (ended.status, ended.out) == (1, printed)
    assert ended.problems[0].endswith("; once that is repaired, trio-replica outbox flush")
    ended = run("outbox", "flush", *options)
    assert (ended.status, ended.problems[0].partition(";")[0]) == (
        1,
        "the replica is poisoned: dir:b: OSError: broken",
    )
    simulated["b"].recover()
    assert run("outbox", "flush", *options)[:2] == (0, b"")
    assert set(simulated["b"].blobs) == {replica.Ref.of(b"a")}
    assert entry_lines(run("outbox", *options)) == ["nothing is pending"]
    assert run("outbox", "flush", "--sync", "dir:a").problems == [NONE_IS_NAMED]


def test_flushing_an_outbox_that_is_not_there_creates_none(run: Command, simulated: dict[str, SimulatedStore]) -> None:
    simulated["a"], simulated["b"] = SimulatedStore(), SimulatedStore()
    ended = run("outbox", "flush", "--sync", "dir:a", "--async", "dir:b", "--outbox", "typo.db")
    assert (ended.status, ended.problems) == (1, [f"{Path('typo.db').absolute()}: there is no such outbox"])
    assert not Path("typo.db").exists()


def test_a_flush_says_what_is_pending_for_other_names(run: Command, simulated: dict[str, SimulatedStore]) -> None:
    for name in ("a", "b", "c"):
        simulated[name] = SimulatedStore()
    simulated["b"].fail(BROKEN)
    write({"f": b"f"})
    options = ["--sync", "dir:a", "--outbox", "outbox.db"]
    assert run("put", *options, "--async", "dir:b", "f").status == 1
    ended = run("outbox", "flush", *options, "--async", "dir:c")
    assert (ended.status, ended.problems) == (1, ["1 pending for dir:b, which is not an async store of this replica"])


def test_what_is_waited_for_is_shown(run: Command, simulated: dict[str, SimulatedStore], terminal: Terminal) -> None:
    class Watched(SimulatedStore):
        async def put_many(self, blobs: Any) -> list[PutResult]:
            while " waiting for dir:b (5)" not in terminal.seen:
                await trio.lowlevel.wait_readable(terminal.master)
                terminal.read()
            return await super().put_many(blobs)

    simulated["a"], simulated["b"] = SimulatedStore(), Watched()
    trio.run(put_numbers, simulated["a"], range(5))
    leave("dir:b", 5)
    with terminal.stands_for("stderr"):
        ended = run("outbox", "flush", "--sync", "dir:a", "--async", "dir:b", "--outbox", "outbox.db")
    assert ended.status == 0
    assert terminal.picture == ""
    assert len(simulated["b"].blobs) == 5


def test_status_does_not_pass_over_an_outbox_that_is_in_use_for_a_moment(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"a": b"a"})
    options = ["--sync", "dir:a-store", "--outbox", "outbox.db"]
    assert run("put", *options, "a").status == 0
    shutil.rmtree("a-store")
    trio.run(open_and_close, replica.open_directory("a-store"))
    errors = [OutboxInUseError("it is in use")]

    def lock_at_the_second_try(path: str) -> PinnedFile | None:
        if errors:
            raise errors.pop()
        return lock_log(path)

    monkeypatch.setattr(outbox_by_hand, "lock_log", lock_at_the_second_try)
    ended = run("status", *options)
    assert (ended.status, ended.problems) == (1, ["outbox: it is in use"])
    ended = run("status", *options)
    assert (ended.status, ended.problems) == (1, [])
    assert "the outbox knows another store by this name" in ended.out.decode()


def test_an_outbox_that_is_in_use_or_bad(run: Command) -> None:
    write({"a": b"a"})
    options = ["--sync", "dir:a-store", "--outbox", "outbox.db"]
    assert run("put", *options, "a").status == 0

    with closing(sqlite3.connect("outbox.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        status, listing, put, get = [
            run(*command, *options) for command in (["status"], ["outbox"], ["put", "a"], ["get", "ca978112ca"])
        ]
    in_use = (
        f"{Path.cwd()}/outbox.db: the file is in use by another replica, or as the database of a store (SQLITE_BUSY)"
    )
    assert (status.status, status.problems) == (1, [f"outbox: {in_use}"])
    assert status.out.decode().splitlines()[-1].startswith("dir:a-store "), "the stores are shown all the same"
    assert (listing.status, listing.problems) == (1, [in_use])
    assert (put.status, put.problems) == (1, [in_use])
    assert (get.status, get.out) == (0, b"a"), "a command that only reads does not need it"
    missing = f"{Path.cwd()}/none.db: there is no such outbox"
    assert run("outbox", "--outbox", "none.db").problems == [missing]
    ended = run("status", "--sync", "dir:a-store", "--outbox", "none.db")
    assert (ended.status, ended.problems) == (1, [f"outbox: {missing}"])


def test_looking_changes_nothing(run: Command) -> None:
    write({"a": b"a"})
    options = ["--sync", "dir:a-store", "--outbox", "outbox.db"]
    assert run("put", *options, "a").status == 0
    before = os.stat("outbox.db")
    assert run("status", *options).status == 0
    assert run("outbox", *options).status == 0
    after = os.stat("outbox.db")
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(os.listdir()) == ["a", "a-store", "outbox.db"]


@pytest.mark.parametrize(
    ("outbox", "kind"),
    [("/dev/null", "a device, not a regular file"), ("folder", "a folder, not a regular file")],
)
def test_a_name_that_is_no_file_is_no_outbox(run: Command, outbox: str, kind: str) -> None:
    write({"folder/a": b"a"})
    problem = f"{Path(outbox).absolute()}: this is {kind}: name a file"
    options = ["--sync", "dir:a-store", "--outbox", outbox]
    for command in (["put", "folder/a"], ["outbox"], ["outbox", "flush"], ["outbox", "forget", "copy"]):
        ended = run(*command, *options)
        assert (ended.status, ended.problems) == (1, [problem])
    assert os.listdir() == ["folder"]
    assert os.listdir("folder") == ["a"]
    assert not os.path.lexists("/dev/null-journal")


def test_no_outbox_is_named(run: Command) -> None:
    expected = [NONE_IS_NAMED]
    assert run("outbox").problems == expected
    assert run("outbox", "forget", "copy").problems == expected
    ended = run("outbox", "--outbox", "")
    assert ended.status == 2
    assert "it is the path of a file, not ''" in ended.err
    ended = run("put", "--sync", "sqlite:a", "--outbox", "./a", "a")
    assert ended.status == 2
    assert "the outbox './a' is a store as well: name another file" in ended.err
    assert os.listdir() == []


@pytest.mark.parametrize(("answer", "forgotten"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_forgetting_asks(run: Command, monkeypatch: pytest.MonkeyPatch, answer: str, *, forgotten: bool) -> None:
    leave("copy", 3)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer.encode())))
    ended = run("outbox", "forget", "copy", "--outbox", "outbox.db")
    assert (
        "copy is not a store of this command. Blobs that only it has will be lost. Forget its identity, " in ended.err
    )
    assert "and the 3 pending for it? [y/N]" in ended.err
    if forgotten:
        assert ended.err.endswith("forgot copy, which is not a store of this command, and 3 pending for it\n")
    else:
        assert ended.err.endswith("nothing is forgotten\n")
    assert ended.status == (0 if forgotten else 1)
    left = run("outbox", "--outbox", "outbox.db").out.decode().splitlines()[0]
    assert left == (
        "nothing is pending" if forgotten else "3 pending for copy, which is not an async store of this replica"
    )


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_forgetting_what_is_pending_for_a_store_of_the_command_asks(
    run: Command, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    name = f"dir:{Path.cwd()}/copy"
    leave(name, 3)
    options = ["--sync", "memory:", "--async", name, "--outbox", "outbox.db"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer.encode())))
    ended = run("outbox", "forget", name, *options)
    assert f"The blobs pending for {name} will not be delivered. Forget all 3? [y/N]" in ended.err
    if answer == "n\n":
        assert (ended.status, ended.err.endswith("nothing is forgotten\n")) == (1, True)
        return
    assert ended.err.endswith(f"forgot 3 pending for {name}; reconcile copies the blobs that it lacks\n")
    assert run("outbox", "forget", name, *options).problems == [f"nothing is pending for {name}"]
    assert run("outbox", *options).out.decode().splitlines()[-1].split() == [name, "async", "none"]


def test_forgetting_one(run: Command) -> None:
    leave("copy", 3)
    options = ["--outbox", "outbox.db", "--yes"]
    assert run("outbox", "forget", "copy", str(refs(1)[0]), *options).problems == [
        "forgot 1 pending for copy; reconcile copies the blobs that it lacks"
    ]
    assert run("outbox", "forget", "copy", str(refs(1)[0]), *options).problems == [
        f"{refs(1)[0]} is not pending for copy"
    ]
    assert run("outbox", "forget", "other", *options).problems == [
        "nothing is pending for other; entries are pending for copy"
    ]
    assert run("outbox", "forget", "copy", *options).status == 0
    assert run("outbox", "forget", "copy", *options).problems == ["nothing is pending for copy"]
    assert run("outbox", "forget", "copy", "xy", *options).status == 2


def test_forgetting_one_by_its_first_digits(run: Command) -> None:
    leave("copy", 40)  # more than 16, so that some begin with the same digit
    options = ["--outbox", "outbox.db", "--yes"]
    (first, second), *_ = [
        pair
        for digit in "0123456789abcdef"
        if len(pair := [str(ref) for ref in refs(*range(40)) if str(ref)[0] == digit][:2]) == 2
    ]
    assert run("outbox", "forget", "copy", first[0], *options).problems == [
        f"{first[0]} is ambiguous: {first} and {second} begin so"
    ]
    prefix = first[:16].upper()
    assert run("outbox", "forget", "copy", prefix, *options).problems == [
        "forgot 1 pending for copy; reconcile copies the blobs that it lacks"
    ]
    assert run("outbox", "forget", "copy", prefix, *options).problems == [f"{prefix.lower()} is not pending for copy"]
    shown = run("outbox", "--all", "--outbox", "outbox.db").out.decode()
    assert first not in shown
    assert second in shown


def test_entries_that_cant_be_delivered_are_told_and_the_files_are_put(
    run: Command, simulated: dict[str, SimulatedStore]
) -> None:
    simulated["a"], simulated["b"] = SimulatedStore(), SimulatedStore()
    trio.run(put_numbers, simulated["a"], [5])

    async def lose() -> None:
        bad = SimulatedStore()
        bad.fail(BROKEN)
        with pytest.raises(PoisonedError):
            async with replica.open([MemoryStore()], {"dir:b": bad}, outbox="outbox.db") as store:
                await store.put(b"lost")
        await open_and_close(replica.open([MemoryStore()], {}, outbox="outbox.db"))

    trio.run(lose)
    printed = write({"file": b"a"})
    ended = run("put", "--sync", "dir:a", "--async", "dir:b", "--outbox", "outbox.db", "file")
    assert (ended.status, ended.out) == (1, printed)
    (problem,) = ended.problems
    assert problem == (
        "flush failed: dir:b: ReplicaError: 1 of the blobs pending for it can't be read from any sync store, and "
        "1 of them no sync store has any more: see the log, or trio-replica outbox"
    )
    assert set(simulated["b"].blobs) == {replica.Ref.of(b"a")}


def test_the_outbox_is_not_read_as_a_file(run: Command) -> None:
    write({"folder/a": b"a"})
    assert run("put", "-r", "--outbox", "folder/outbox.db", "folder").status == 0
    ended = run("put", "-r", "--outbox", "folder/outbox.db", "folder")
    assert (ended.status, ended.out.count(b"\n")) == (0, 1)


# The stores that it knows


ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


class Known(SimulatedStore):
    """A store with an identity."""

    def __init__(self, identity: str | None) -> None:
        super().__init__()
        self.says = identity

    async def identity(self) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.says


@pytest.fixture
def options(run: Command, simulated: dict[str, SimulatedStore]) -> list[str]:
    """Return the options of a replica whose outbox has a blob for each of two async stores."""
    simulated.update(a=Known(THREE), one=Known(ONE), two=Known(TWO))
    for name in ("one", "two"):
        Path(name, "blobs", "00").mkdir(parents=True)  # so that the command sees that they are there
        simulated[name].fail(BROKEN, "put", "put_many")
    write({"file": b"0"})
    options = ["--sync", "dir:a", "--async", "dir:one", "--async", "dir:two", "--outbox", "outbox.db"]
    assert run("put", *options, "file").status == 1
    for name in ("one", "two"):
        simulated[name].recover()
    return options


def table(one: str, two: str, mark_one: str = "", mark_two: str = "") -> list[str]:
    return [
        "STORE    ROLE   IDENTITY                          MARK",
        f"dir:a    sync   {THREE}",
        f"dir:one  async  {one:32}  {mark_one}".rstrip(),
        f"dir:two  async  {two:32}  {mark_two}".rstrip(),
    ]


def shown_table(run: Command) -> list[str]:
    return run("outbox", "--outbox", "outbox.db").out.decode().splitlines()[-4:]


def test_another_store_is_refused_until_it_is_accepted(
    run: Command, simulated: dict[str, SimulatedStore], options: list[str]
) -> None:
    assert shown_table(run) == table(ONE, TWO)
    simulated["one"] = new = Known("4" * 32)
    refused = (
        f"dir:one: the outbox knows another store by this name: its identity was {ONE} and is {'4' * 32}: open the one "
        "that it knows, or take this one: trio-replica outbox accept dir:one"
    )
    for command in (["outbox", "flush"], ["put", "file"]):
        ended = run(*command, *options)
        assert (ended.status, ended.problems) == (1, [refused])
    assert new.blobs == {}
    ended = run("outbox", "accept", "dir:one", *options)
    assert (ended.status, ended.problems) == (
        0,
        [f"dir:one is now the store with the identity {'4' * 32}, and is marked as incomplete: trio-replica reconcile"],
    )
    assert shown_table(run) == table("4" * 32, TWO, "incomplete")
    assert run("outbox", "flush", *options).status == 0
    assert set(new.blobs) == set(refs(0)), "what was pending for the name is delivered to the new one"
    ended = run("outbox", "accept", "dir:one", *options)
    assert (ended.status, ended.problems) == (
        0,
        ["dir:one is the store that the outbox knows: there is nothing to accept"],
    )
    assert shown_table(run) == table("4" * 32, TWO, "incomplete"), "accepting does not end that, nor does opening"


def test_a_store_that_keeps_no_identity_is_accepted(
    run: Command, simulated: dict[str, SimulatedStore], options: list[str]
) -> None:
    simulated["one"] = Known(None)
    (refused,) = run("outbox", "flush", *options).problems
    assert f"its identity was {ONE} and is none: " in refused
    assert run("outbox", "accept", "dir:one", *options).problems == [
        "dir:one is now the store with the identity none, and is marked as incomplete: trio-replica reconcile"
    ]
    assert shown_table(run) == table("none", TWO, "incomplete")
    assert run("outbox", "flush", *options).status == 0


def test_a_store_that_can_not_be_opened_is_not_accepted(
    run: Command, simulated: dict[str, SimulatedStore], options: list[str]
) -> None:
    del simulated["one"]
    ended = run("outbox", "accept", "dir:one", *options)
    assert (ended.status, ended.problems) == (1, ["dir:one can't be opened: KeyError: 'one'"])
    assert shown_table(run) == table(ONE, TWO)


def test_stores_that_have_changed_places_are_not_accepted_before_their_entries_are_dealt_with(
    run: Command, simulated: dict[str, SimulatedStore], options: list[str]
) -> None:
    simulated["one"], simulated["two"] = simulated["two"], simulated["one"]
    (refused,) = run("outbox", "flush", *options).problems
    assert f"dir:one: its identity {TWO} is the one that the outbox knows as dir:two" in refused
    ended = run("outbox", "accept", "dir:one", *options)
    remedy = "give it that name, or first trio-replica outbox forget dir:two"
    assert (ended.status, ended.problems) == (
        1,
        [f"dir:one is the store that the outbox knows as dir:two, and 1 are pending for dir:two: {remedy}"],
    )
    assert shown_table(run) == table(ONE, TWO)
    for name in ("one", "two"):
        assert run("outbox", "forget", "--yes", f"dir:{name}", *options).status == 0
    assert run("outbox", "accept", "dir:one", *options).status == 0
    assert shown_table(run) == table(TWO, "none", "incomplete", "incomplete")
    assert run("outbox", "flush", *options).status == 0
    assert shown_table(run) == table(TWO, ONE, "incomplete", "incomplete")


def test_a_store_that_got_another_name(run: Command, simulated: dict[str, SimulatedStore], options: list[str]) -> None:
    assert run("outbox", "flush", *options).status == 0
    simulated["three"] = simulated["two"]
    Path("three/blobs/00").mkdir(parents=True)
    renamed = ["--sync", "dir:a", "--async", "dir:one", "--async", "dir:three", "--outbox", "outbox.db"]
    (refused,) = run("put", "file", *renamed).problems
    assert f"dir:three: its identity {TWO} is the one that the outbox knows as dir:two: " in refused
    assert run("outbox", "accept", "dir:three", *renamed).status == 0
    assert run("put", "file", *renamed).status == 0
    assert run("outbox", "--outbox", "outbox.db").out.decode().splitlines()[2:] == [
        f"dir:a      sync   {THREE}",
        f"dir:one    async  {ONE}",
        f"dir:two    async  {'none':32}  incomplete",
        f"dir:three  async  {TWO}  incomplete",
    ]


def test_accepting_what_is_not_there(run: Command, simulated: dict[str, SimulatedStore], options: list[str]) -> None:
    unknown = "the outbox does not know dir:three: it notes a new store by itself; it knows dir:a, dir:one, dir:two"
    assert run("outbox", "accept", "dir:three", *options).problems == [unknown]
    simulated["three"] = Known("4" * 32)
    Path("three/blobs/00").mkdir(parents=True)
    assert run("outbox", "accept", "dir:three", *options, "--async", "dir:three").problems == [unknown]
    assert run("outbox", "accept", "dir:one", "--outbox", "none.db").problems == [
        f"{Path.cwd()}/none.db: there is no such outbox"
    ]
    Path("empty.db").touch()
    assert run("outbox", "--outbox", "empty.db").out == b"nothing is pending\n"
    assert run("outbox", "accept", "dir:one", "--outbox", "empty.db").problems == [
        "the outbox does not know dir:one: it notes a new store by itself; it knows none"
    ]
    assert run("outbox", "accept", "dir:one").problems == [NONE_IS_NAMED]
    Path("bad.db").write_bytes(b"no database" * 1000)
    (problem,) = run("outbox", "accept", "sqlite:bad.db", *options, "--async", "sqlite:bad.db").problems
    assert problem.startswith("sqlite:bad.db can't be opened: DatabaseError: SQLITE_NOTADB: ")
    assert shown_table(run) == table(ONE, TWO)


def test_a_store_that_the_command_does_not_have_is_accepted_by_the_next_replica(
    run: Command, simulated: dict[str, SimulatedStore], options: list[str]
) -> None:
    ended = run("outbox", "accept", "dir:one", "--outbox", "outbox.db")
    assert (ended.status, ended.problems) == (
        0,
        [
            (
                "dir:one will be the store that the next replica has by this name, and is marked as incomplete: "
                "reconcile it then"
            )
        ],
    )
    assert shown_table(run) == table("none", TWO, "incomplete")
    simulated["one"] = Known("4" * 32)
    assert run("outbox", "flush", *options).status == 0
    assert shown_table(run) == table("4" * 32, TWO, "incomplete")


def test_nothing_is_accepted_while_a_replica_has_the_outbox(run: Command, options: list[str]) -> None:
    in_use = (
        f"{Path.cwd()}/outbox.db: the file is in use by another replica, or as the database of a store (SQLITE_BUSY)"
    )
    with closing(sqlite3.connect("outbox.db")) as replica_of_another_process:
        replica_of_another_process.execute("BEGIN EXCLUSIVE")
        ended = run("outbox", "accept", "dir:one", *options)
    assert (ended.status, ended.problems) == (1, [in_use])


# Stores that are incomplete, and stores that are no more


@pytest.fixture
def all_there(options: list[str], simulated: dict[str, SimulatedStore]) -> list[str]:
    """Return the options once `reconcile` sees that all stores are there, and those that tests add, too."""
    for name in ("a", "b", "c", "new"):
        Path(name, "blobs", "00").mkdir(parents=True)
    return options


def test_a_reconcile_that_leaves_nothing_missing_ends_the_mark(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    simulated["one"] = Known("4" * 32)
    assert run("outbox", "accept", "dir:one", *all_there).status == 0
    assert run("reconcile", "--dry-run", *all_there).status == 1
    simulated["one"].fail(BROKEN, "put")
    assert run("reconcile", *all_there).status == 1
    assert shown_table(run) == table("4" * 32, TWO, "incomplete")
    simulated["one"].recover()
    ended = run("reconcile", *all_there)
    assert (ended.status, ended.problems) == (0, ["dir:one is no longer incomplete"])
    assert shown_table(run) == table("4" * 32, TWO)
    assert run("reconcile", *all_there).problems == []
    assert run("outbox", "accept", "dir:one", "--outbox", "outbox.db").status == 0
    assert run("reconcile", *all_there).problems == [
        "dir:one stays incomplete, because the outbox does not know this store: open the replica first"
    ]
    assert run("outbox", "flush", *all_there).status == 0
    assert run("reconcile", *all_there).problems == ["dir:one is no longer incomplete"]


def test_a_new_sync_store_is_incomplete_until_it_is_reconciled(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    """It was given no blob that was put before it came, and nobody has an entry for these."""
    simulated["new"] = Known("5" * 32)
    assert run("outbox", "flush", *all_there, "--sync", "dir:new").status == 0
    shown = run("outbox", "--outbox", "outbox.db").out.decode().splitlines()
    assert shown[-1] == f"dir:new  sync   {'5' * 32}  incomplete"
    without_a = ["--sync", "dir:new", *all_there[2:]]
    assert run("outbox", "flush", *without_a).status == 0
    assert run("outbox", "--outbox", "outbox.db").out.decode().splitlines()[2] == (
        f"dir:a    sync   {THREE}  incomplete"
    ), "it has no part in that session"
    assert run("reconcile", *without_a).problems == ["dir:new stays incomplete, because dir:a took no part"]
    ended = run("reconcile", *all_there, "--sync", "dir:new")
    assert ended.status == 0
    assert ended.problems == ["dir:a is no longer incomplete", "dir:new is no longer incomplete"]
    assert run("outbox", "--outbox", "outbox.db").out.decode().count("incomplete") == 0


def test_the_mark_stays_while_the_outbox_knows_another_sync_store(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    simulated["one"] = Known("4" * 32)
    for name in ("one", "a"):
        assert run("outbox", "accept", f"dir:{name}", *all_there).status == 0
    simulated["a"] = Known("5" * 32)
    (problem,) = run("reconcile", *all_there).problems
    assert problem == (
        "dir:one stays incomplete, because dir:a is not the store that the outbox knows: open the replica first"
    )
    assert "the outbox knows another store by this name" in run("outbox", "flush", *all_there).problems[0]
    assert run("outbox", "accept", "dir:a", *all_there).status == 0
    assert run("reconcile", *all_there).problems == [f"dir:{name} is no longer incomplete" for name in ("a", "one")]


def test_a_complete_sync_store_is_enough_for_the_others(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    simulated.update(b=Known("5" * 32), c=Known("6" * 32))
    for name in ("b", "c"):
        assert run("outbox", "flush", *all_there, "--sync", f"dir:{name}").status == 0
    assert run("reconcile", *all_there, "--sync", "dir:c").problems == ["dir:c is no longer incomplete"]


def test_the_mark_stays_if_the_outbox_can_not_be_used(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    with closing(sqlite3.connect("outbox.db")) as replica_of_another_process:
        replica_of_another_process.execute("BEGIN EXCLUSIVE")
        ended = run("reconcile", *all_there)
    assert ended.status == 0
    (problem,) = ended.problems
    assert problem.startswith("the outbox was not looked at, so stores that it marks as incomplete stay so: ")
    assert run("reconcile", "--sync", "dir:a", "--outbox", "none.db").problems == []
    assert not Path("none.db").exists()
    before = Path("outbox.db").read_bytes()
    assert run("reconcile", *all_there).status == 0
    assert Path("outbox.db").read_bytes() == before, "there is no mark to be taken off"


def test_the_mark_stays_if_a_store_does_not_say_who_it_is(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    class Silent(Known):
        asked = 0

        async def identity(self) -> str | None:
            self.asked += 1
            if self.asked > 1:
                raise BROKEN
            return await super().identity()

    assert run("outbox", "accept", "dir:one", "--outbox", "outbox.db").status == 0
    simulated["one"] = Silent(ONE)
    ended = run("reconcile", *all_there)
    assert (ended.status, ended.problems) == (0, []), "it has told it before the reconcile, and not after it"
    ended = run("reconcile", *all_there)
    assert (ended.status, ended.problems) == (1, [])
    assert "failed: it does not tell its identity: OSError: broken" in ended.out.decode()
    assert shown_table(run) == table("none", TWO, "incomplete")


def test_a_store_that_is_no_more_is_forgotten_with_its_identity(
    run: Command, simulated: dict[str, SimulatedStore], all_there: list[str]
) -> None:
    assert run("outbox", "forget", "--yes", "dir:two", *all_there).status == 0
    assert shown_table(run) == table(ONE, TWO), "it is a store of the command"
    left = [*all_there[:4], *all_there[6:]]
    assert run("outbox", "forget", "--yes", "dir:one", "00", *left).problems == ["00 is not pending for dir:one"]
    ended = run("outbox", "forget", "--yes", "dir:two", *left)
    assert (ended.status, ended.problems) == (
        0,
        ["forgot dir:two, which is not a store of this command, and 0 pending for it"],
    )
    assert shown_table(run)[-3:] == table(ONE, TWO)[:3]
    assert run("outbox", "forget", "--yes", "dir:two", *left).problems == [
        "nothing is pending for dir:two; entries are pending for dir:one"
    ]
    simulated["two"] = Known("7" * 32)
    assert run("outbox", "flush", *all_there).status == 0, "it is a new store by that name"
    assert shown_table(run) == table(ONE, "7" * 32)
