"""``trio-replica scrub``: what it prints, and its exit status."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

from trio_replica import Integrity, Ref
from trio_replica.testing import SimulatedStore

from . import test_cli
from .test_cli import NO_STORE, Run, Terminal, put_blobs, standard_output

run = test_cli.run
simulated = test_cli.simulated
terminal = test_cli.terminal
_sigint = test_cli._sigint

BLOBS = [b"%d" % i for i in range(20)]
HEADER = "STORE          KIND         REFS           BYTES   CORRUPT  REPAIRED    FAILED"
STORES = ("--sync", "dir:one", "--async", "sqlite:two.db")


def row(name: str, kind: str, *counts: int) -> str:
    refs, size, corrupt, repaired, failed = counts
    return f"{name:13}  {kind:5}  {refs:>10}  {size:>14}  {corrupt:>8}  {repaired:>8}  {failed:>8}"


def fill() -> None:
    for url in STORES[1::2]:
        put_blobs(url, BLOBS)


def rot_file(ref: Ref, data: bytes = b"rot") -> None:
    Path("one", "blobs", f"{ref!s:.2}", f"{ref!s:.4}", str(ref)).write_bytes(data)


def rot_row(ref: Ref) -> None:
    with closing(sqlite3.connect("two.db", isolation_level=None)) as connection:
        connection.execute("UPDATE blobs SET data = x'00' WHERE ref = ?", (ref,))


def add(simulated: dict[str, SimulatedStore], name: str, store: SimulatedStore, *blobs: bytes) -> SimulatedStore:
    Path(name, "blobs", "00").mkdir(parents=True)
    simulated[name] = store
    for blob in blobs:
        store.corrupt(Ref.of(blob), blob)
    return store


def test_sound_stores(run: Run) -> None:
    fill()
    ended = run("scrub", *STORES)
    assert ended.out.decode().splitlines() == [
        HEADER,
        row("dir:one", "sync", 20, 30, 0, 0, 0),
        row("sqlite:two.db", "async", 20, 30, 0, 0, 0),
    ]
    assert (ended.status, ended.err) == (0, "")
    assert run(*STORES, "scrub", "--repair") == ended


def test_what_is_corrupt_is_printed_and_repaired(run: Run, tmp_path: Path) -> None:
    fill()
    first, second = Ref.of(b"1"), Ref.of(b"2")
    rot_file(first)
    rot_row(second)
    problems = [
        f"dir:one  {first}  its bytes are those of {Ref.of(b'rot')!s:.12}",
        f"sqlite:two.db  {second}  its bytes are those of {Ref.of(bytes(1))!s:.12}",
    ]
    ended = run("scrub", *STORES)
    *lines, header, one, two = ended.out.decode().splitlines()
    assert sorted(lines) == problems
    assert [header, one, two] == [
        HEADER,
        row("dir:one", "sync", 20, 32, 1, 0, 0),
        row("sqlite:two.db", "async", 20, 30, 1, 0, 0),
    ]
    assert (ended.status, ended.err) == (1, "")

    ended = run("scrub", "--repair", *STORES)
    *lines, _, one, two = ended.out.decode().splitlines()
    assert sorted(lines) == [
        f"{problems[0]}; repaired from sqlite:two.db; the bad bytes are kept: {tmp_path}/one/damaged/{first}-1",
        f"{problems[1]}; repaired from dir:one; the bad bytes are kept: table damaged_blobs of {tmp_path}/two.db",
    ]
    assert [text.split()[2:] for text in (one, two)] == [["20", "34", "1", "1", "0"], ["20", "32", "1", "1", "0"]]
    assert ended.status == 0
    ended = run("scrub", *STORES)
    assert (ended.status, len(ended.out.splitlines())) == (0, 3)


def test_both_copies_corrupt(run: Run) -> None:
    fill()
    ref = Ref.of(b"1")
    rot_file(ref)
    rot_row(ref)
    ended = run("scrub", "--repair", *STORES)
    lines = ended.out.decode().splitlines()[:-3]
    assert all(f"  {ref}  its bytes are those of " in line for line in lines)
    assert all("; not repaired: no other store has a good copy (" in line for line in lines)
    assert (len(lines), ended.status) == (2, 1)
    assert not Path("one", "damaged").exists()


def test_the_stores_that_work_are_scrubbed(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    put_blobs("sqlite:good.db", [b"data"])
    Path("bad.db").write_bytes(b"no database" * 1000)
    add(simulated, "broken", SimulatedStore()).fail(OSError("away"))
    add(simulated, "half", SimulatedStore(), b"data").fail(OSError("away"), "get")
    urls = ["sqlite:good.db", "sqlite:none.db", "sqlite:bad.db", "dir:broken", "dir:half"]
    ended = run("scrub", *(argument for url in urls for argument in ("--sync", url)))
    assert (ended.status, ended.err) == (1, "")
    finding, _, *rows = ended.out.decode().splitlines()
    assert finding == f"dir:half  {Ref.of(b'data')}  it can't be read: OSError: away"
    found = [row.split(maxsplit=2) for row in rows]
    assert [one[0] for one in found] == urls
    assert found[0][2].split() == ["1", "4", "0", "0", "0"]
    assert found[1][2] == "failed: there is no store sqlite:none.db: none.db: No such file or directory"
    assert found[2][2].startswith("failed: DatabaseError: SQLITE_NOTADB: ")
    assert found[3][2].split(maxsplit=5)[5] == "failed: OSError: away"
    assert found[4][2].split() == ["1", "0", "0", "0", "1"]
    assert not Path("none.db").exists()


def test_no_store_works(run: Run) -> None:
    ended = run("scrub", "--sync", "dir:none")
    (_, line) = ended.out.decode().splitlines()
    assert line == "dir:none  sync   failed: there is no store dir:none: none/blobs: No such file or directory"
    assert ended.status == 1
    ended = run("scrub")
    assert (ended.status, ended.out, ended.problems) == (1, b"", [NO_STORE])


@pytest.mark.parametrize("options", [[], ["--config", "trio-replica.toml"]])
def test_the_stores_of_a_file(run: Run, options: list[str]) -> None:
    fill()
    Path("trio-replica.toml").write_text(
        '[sync]\nnear = "dir:one"\n[async]\nfar = { url = "sqlite:two.db", retry = true }\n'
    )
    rot_row(Ref.of(b"1"))
    ended = run("scrub", "--repair", *options)
    finding, _, near, far = ended.out.decode().splitlines()
    assert finding.startswith(f"far  {Ref.of(b'1')}  ")
    assert "; repaired from near; the bad bytes are kept: table damaged_blobs of " in finding
    assert near.split() == ["near", "sync", "20", "31", "0", "0", "0"]
    assert far.split() == ["far", "async", "20", "31", "1", "1", "0"]
    assert ended.status == 0


@pytest.mark.parametrize("arguments", [["--sync", "dir:one", "--async", "dir:./one"], ["--config", "x.toml"]])
def test_a_store_that_is_given_twice_is_not_touched(run: Run, arguments: list[str]) -> None:
    Path("x.toml").write_text('[sync]\nnear = "dir:one"\n[async]\nfar = "dir:./one"\n')
    ended = run("scrub", "--repair", *arguments)
    assert ended.status in {1, 2}
    assert "given twice" in ended.err.splitlines()[-1]
    assert (ended.out, os.listdir()) == (b"", ["x.toml"])


class Bent(SimulatedStore):
    """A store that finds something wrong with itself, until it is repaired."""

    problems: tuple[str, ...] = ("the index is bent",)

    async def check_integrity(self) -> Integrity:
        await trio.lowlevel.checkpoint()
        return Integrity(self.problems)

    async def repair_integrity(self) -> None:
        await trio.lowlevel.checkpoint()
        self.problems = ()


def test_problems_of_a_store_are_printed(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    add(simulated, "one", Bent())
    for options, what, status in (([], "problem", 1), (["--repair"], "repaired", 0)):
        ended = run("scrub", *options, "--sync", "dir:one")
        assert ended.out.decode().splitlines()[2:] == [f"dir:one  {what}: the index is bent"]
        assert ended.status == status


def test_bytes_per_second(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    store = add(simulated, "one", SimulatedStore(), b"a" * 1000, b"b" * 1000)
    assert run("scrub", "--bytes-per-second", "1000000", "--sync", "dir:one").status == 0
    first, second = [call.started for call in store.calls if call.operation == "get"]
    assert second - first >= 0.001
    for bad in ("0", "-1", "x"):
        ended = run("scrub", "--bytes-per-second", bad, "--sync", "dir:one")
        assert (ended.status, ended.out) == (2, b"")


@pytest.mark.usefixtures("_sigint")
def test_an_interruption(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    class Interrupting(SimulatedStore):
        async def replace(self, blob: object) -> None:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    store = add(simulated, "one", Interrupting(), b"data")
    store.corrupt(Ref.of(b"data"))
    before = store.blobs
    add(simulated, "two", SimulatedStore(), b"data")
    ended = run("scrub", "--repair", "--sync", "dir:one", "--sync", "dir:two")
    assert (ended.status, ended.problems) == (130, ["interrupted"])
    assert store.blobs == before


def test_standard_output_that_takes_no_more(
    run: Run, monkeypatch: pytest.MonkeyPatch, simulated: dict[str, SimulatedStore]
) -> None:
    store = add(simulated, "one", SimulatedStore(), *BLOBS)
    for is_corrupt in (False, True):
        if is_corrupt:
            store.corrupt(Ref.of(b"1"))
            store.hang("get", after=18)  # it ends before all are read
        with standard_output(monkeypatch, os.open("/dev/full", os.O_WRONLY)):
            ended = run("scrub", "--sync", "dir:one")
        assert (ended.status, ended.problems) == (1, ["standard output: No space left on device"])
    store.recover()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        ended = run("scrub", "--sync", "dir:one")
    assert (ended.status, ended.problems) == (1, ["standard output is closed"])


def test_the_display(run: Run, terminal: Terminal, simulated: dict[str, SimulatedStore]) -> None:
    class Watched(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            if ref == last:
                while " 3 blobs 3.0 kB " not in terminal.seen or "/s, 1 bad" not in terminal.seen:
                    await trio.lowlevel.wait_readable(terminal.master)
                    terminal.read()
            return await super().get(ref)

    blobs = sorted((bytes([i]) * 1000 for i in range(4)), key=Ref.of)
    last = Ref.of(blobs[3])
    store = add(simulated, "one", Watched(), *blobs)
    store.corrupt(Ref.of(blobs[1]))
    add(simulated, "two", SimulatedStore())
    with terminal.stands_for("stdout", "stderr"):
        ended = run("scrub", "--sync", "dir:one", "--sync", "dir:two")
    assert ended.status == 1
    finding, header, one, two = terminal.picture.splitlines()
    assert finding.startswith(f"dir:one  {Ref.of(blobs[1])}  its bytes are those of ")
    assert [text.split()[0] for text in (header, one, two)] == ["STORE", "dir:one", "dir:two"]


def test_there_is_no_display_in_a_pipe(run: Run) -> None:
    fill()
    assert run("scrub", *STORES).err == ""


def test_help(run: Run) -> None:
    ended = run("scrub", "--help")
    assert all(option in ended.out for option in (b"--repair", b"--bytes-per-second N", b"--sync URL"))
    assert (ended.status, b"scrub" in run("--help").out) == (0, True)
