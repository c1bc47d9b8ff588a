"""The command line: the identity of a store, and stores that are only read."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_replica import Blob, BlobNotFoundError, MemoryStore, Ref, reconcile
from trio_replica._async.outbox_by_hand import opened_outbox
from trio_replica.testing import SimulatedStore

from . import test_cli
from .schemes import open_with_function

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .test_cli import Run

run = test_cli.run
write = test_cli.write

ONE = "0123456789abcdef" * 2


class Kept(MemoryStore):  # type: ignore[misc]
    """A store that outlives its openings."""

    read_only = False

    @property
    def is_read_only(self) -> bool:
        return self.read_only

    def has(self, *blobs: bytes) -> Kept:
        for blob in blobs:
            self._add(Blob(blob))
        return self


class Places(dict[str, Kept]):
    """The stores that URLs of directories mean, by their paths, and how they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.openings: list[tuple[str, bool, bool]] = []


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Places:
    """Return the stores that URLs of directories mean. One without an identity gets it when opened to be written."""
    stores = Places()

    @asynccontextmanager
    async def open_directory(
        path: str, *, create: bool = True, read_only: bool = False
    ) -> AsyncGenerator[MemoryStore, None]:
        await trio.lowlevel.checkpoint()
        stores.openings.append((path, create, read_only))
        store = stores[path]
        store.read_only = read_only
        if store._identity is None and not read_only:
            store._identity = ONE
        yield store

    open_with_function(monkeypatch, open_directory, "dir")
    return stores


def test_identify_prints_the_identity(run: Run, kept: Places) -> None:
    Path("a/blobs/00").mkdir(parents=True)
    kept["a"] = Kept(identity="f" * 32)
    assert run("identify", "dir:a") == (0, b"f" * 32 + b"\n", "")
    assert kept.openings == [("a", True, True)], "it was only read"


def test_identify_gives_a_store_an_identity(run: Run, kept: Places) -> None:
    Path("a/blobs/00").mkdir(parents=True)
    kept["a"] = Kept()
    assert run("identify", "dir:a") == (0, f"{ONE}\n".encode(), "")
    assert kept.openings == [("a", True, True), ("a", False, False)]


def test_identify_gives_a_copy_an_identity_of_its_own(run: Run, kept: Places) -> None:
    Path("a/blobs/00").mkdir(parents=True)
    kept["a"] = Kept(identity="f" * 32)
    ended = run("identify", "--new", "dir:a")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out != b"f" * 32 + b"\n"
    assert run("identify", "dir:a").out == ended.out


def test_identify_says_that_there_is_no_store_or_no_identity(run: Run) -> None:
    ended = run("identify", "dir:a")
    assert (ended.status, ended.out) == (1, b"")
    assert ended.problems[0].startswith("there is no store dir:a: ")
    assert run("identify", "memory:").problems == ["memory:: stores of this kind keep no identity"]
    ended = run("identify", "dri:a")
    assert (ended.status, ended.err.splitlines()[-1]) == (
        2,
        "Error: Invalid value for 'URL': unknown store 'dri:a'; did you mean dir:PATH?",
    )


@pytest.mark.parametrize("command", [["get", "{}"], ["ls"], ["status"], ["scrub"], ["reconcile", "--dry-run"]])
def test_commands_that_read_open_stores_to_be_read_only(run: Run, kept: Places, command: list[str]) -> None:
    for name in "ab":
        Path(name, "blobs", "00").mkdir(parents=True)
        kept[name] = Kept(identity=name * 32)
        kept[name].has(b"data")
    ref = str(Ref.of(b"data"))
    ended = run(*(part.format(ref) for part in command), "--sync", "dir:a", "--sync", "dir:b")
    assert (ended.status, ended.err) == (0, "")
    assert [read_only for _, _, read_only in kept.openings] == [True, True]


def test_reconcile_copies_from_a_store_that_is_only_read(run: Run, kept: Places) -> None:
    for name in "ab":
        Path(name, "blobs", "00").mkdir(parents=True)
        kept[name] = Kept(identity=name * 32)
        kept[name].has(name.encode())
    ended = run("reconcile", "--sync", "dir:a", "--from", "dir:b")
    assert (ended.status, ended.err) == (0, "")
    rows = [line.split() for line in ended.out.decode().splitlines()[1:]]
    assert rows == [["dir:a", "sync", "1", "1", "1", "0", "1"], ["dir:b", "from", "1", "-", "-", "-", "-"]]
    assert (len(kept["a"]), len(kept["b"])) == (2, 1)
    ended = run("reconcile", "--sync", "dir:a", "--from", "dir:a")
    assert (ended.status, ended.err.splitlines()[-1]) == (2, "Error: the store dir:a is given twice")


async def test_a_source_lacks_nothing_and_a_store_that_is_read_only_may() -> None:
    source, target, idle = Kept(), SimulatedStore(), Kept()
    source.read_only = idle.read_only = True
    source.has(b"data")
    stores = {"source": source, "target": target, "idle": idle}
    report = await reconcile(stores)
    assert [(one.missing, one.copied, one.failed) for one in report.stores.values()] == [
        (0, 0, 0),
        (1, 1, 0),
        (1, 0, 0),
    ]
    assert not report.complete
    assert list(target.blobs) == [Ref.of(b"data")]
    assert (len(source), len(idle)) == (1, 0)
    target.calls.clear()
    assert not (await reconcile(stores)).complete
    assert "put" not in [call.operation for call in target.calls]
    report = await reconcile(stores, sources=["source", "idle"])
    assert (report.complete, report.stores["idle"].missing) == (True, 0)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_store_of_the_file_that_is_read_only_is_shown_as_a_source(run: Run, kept: Places, options: list[str]) -> None:
    for name in "ab":
        Path(name, "blobs", "00").mkdir(parents=True)
        kept[f"{Path.cwd()}/{name}"] = Kept(identity=name * 32)
    kept[f"{Path.cwd()}/a"].has(b"a")
    kept[f"{Path.cwd()}/b"].has(b"a").has(b"b")
    Path("x.toml").write_text('[sync]\nnear = "dir:a"\n[async]\nfar = { url = "dir:b", read_only = true }\n')
    ended = run("reconcile", *options, "--config", "x.toml")
    copied = ["1", "0", "1"] if not options else ["0", "0", "0"]
    rows = [line.split() for line in ended.out.decode().splitlines()[1:]]
    assert rows == [["near", "sync", "1", "1", *copied], ["far", "from", "2", "0", "-", "-", "-"]]
    assert (ended.status, ended.err) == (1 if options else 0, "")
    kept[f"{Path.cwd()}/a"].has(b"more")
    ended = run("reconcile", *options, "--config", "x.toml")
    row, line = ended.out.decode().splitlines()[2:]
    assert row.split() == ["far", "from", "2", "1", "-", "-", "-"]
    assert line == "far  lacks 1 and is only read: remove read_only, or name it with --from"
    assert ended.status == 1
    assert len(kept[f"{Path.cwd()}/b"]) == 2


def test_reconcile_shows_a_store_that_turns_out_to_be_read_only(run: Run, kept: Places) -> None:
    class Snapshot(Kept):  # type: ignore[misc]
        is_read_only = True

    Path("a/blobs/00").mkdir(parents=True)
    kept["a"] = Snapshot(identity=ONE)
    ended = run("reconcile", "--sync", "dir:a")
    assert (ended.status, ended.out.split()[-6]) == (0, b"from")


async def test_a_dry_run_counts_what_stores_that_are_only_read_lack() -> None:
    full, empty, source = Kept().has(b"data"), Kept(), Kept()
    full.read_only = empty.read_only = source.read_only = True
    report = await reconcile({"full": full, "empty": empty, "source": source}, sources=["source"], dry_run=True)
    assert {name: counts.missing for name, counts in report.stores.items()} == {"full": 0, "empty": 1, "source": 0}


async def test_nothing_is_put_to_a_source() -> None:
    class Ghost(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            await trio.lowlevel.checkpoint()
            raise BlobNotFoundError(ref)

    ghost, full, target = Ghost(), SimulatedStore(), SimulatedStore()
    for store in (ghost, full):
        await store.put(b"data")
    calls = len(ghost.calls)
    report = await reconcile({"ghost": ghost, "full": full, "target": target}, sources=["ghost"])
    assert report.complete
    assert list(target.blobs) == [Ref.of(b"data")]
    assert "put" not in [call.operation for call in ghost.calls[calls:]]
    assert report.stores["ghost"].missing == 0


@pytest.mark.parametrize(
    ("sources", "error", "text"),
    [
        (["far"], ValueError, "sources has 'far', which is not one of the stores: 'near'"),
        ("near", TypeError, "sources is an iterable of names of stores, not 'near'"),
    ],
)
async def test_a_source_is_one_of_the_stores(sources: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await reconcile({"near": MemoryStore()}, sources=sources)


@pytest.mark.parametrize("command", ["scrub", "reconcile"])
def test_two_names_of_one_store_are_one_line(run: Run, kept: Places, command: str) -> None:
    for name in "ab":
        Path(name, "blobs", "00").mkdir(parents=True)
        kept[name] = Kept(identity=ONE)
    ended = run(command, "--sync", "dir:a", "--sync", "dir:b")
    assert (ended.status, ended.out) == (1, b"")
    assert ended.problems[0].startswith(f"'dir:a' and 'dir:b' are one store, with the identity {ONE}: ")


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("sync", "dir:m/s"),
        ("async", "sqlite:m/s.db"),
        pytest.param("async", "dir:m/s", marks=pytest.mark.deep),
        pytest.param("sync", "sqlite:m/s.db", marks=pytest.mark.deep),
    ],
)
def test_a_store_that_the_outbox_knows_is_not_created_where_its_disk_is_not_mounted(
    run: Run, kind: str, url: str
) -> None:
    Path("m").mkdir()
    stores = {"sync": 'near = "sqlite:a.db"\n', "async": 'other = "dir:b"\n'}
    stores[kind] += f'far = "{url}"\n'
    Path("x.toml").write_text(f'outbox = "o.db"\n[sync]\n{stores["sync"]}[async]\n{stores["async"]}')
    write({"data": b"data"})
    assert run("put", "--config", "x.toml", "data").status == 0
    Path("m").rename("unplugged")
    Path("m").mkdir()
    for command in (["put", "data"], ["ls"], ["check"], ["reconcile"], ["scrub"], ["status"], ["outbox", "flush"]):
        if command != ["ls"] or kind == "sync":
            assert run(*command, "--config", "x.toml").status == 1, command
        assert os.listdir("m") == []
    Path("m").rmdir()
    Path("unplugged").rename("m")
    assert run("reconcile", "--config", "x.toml").status == 0
    assert run("put", "--config", "x.toml", "data").status == 0


def test_accept_takes_a_new_disk(run: Run) -> None:
    Path("m").mkdir()
    Path("x.toml").write_text('outbox = "o.db"\n[sync]\nnear = "sqlite:a.db"\n[async]\nfar = "dir:m/s"\n')
    write({"data": b"data"})
    assert run("put", "--config", "x.toml", "data").status == 0
    Path("m").rename("broken")
    Path("m").mkdir()
    assert run("put", "--config", "x.toml", "data").status == 1
    assert run("outbox", "accept", "far", "--config", "x.toml").status == 0
    assert run("reconcile", "--config", "x.toml").status == 0
    assert run("put", "--config", "x.toml", "data").status == 0
    assert [path.name for path in Path("m/s/blobs").rglob("*") if path.is_file()] == [str(Ref.of(b"data"))]


def test_a_lost_store_is_reported_with_a_remedy_that_works(run: Run) -> None:
    Path("x.toml").write_text('outbox = "o.db"\n[sync]\nnear = "sqlite:a.db"\nthe-far-one = "dir:b"\n')
    write({"data": b"data"})
    assert run("put", "--config", "x.toml", "data").status == 0
    shutil.rmtree("b")
    ended = run("reconcile", "--config", "x.toml")
    assert ended.status == 1
    remedy = "if it is lost, take a new one: trio-replica outbox accept the-far-one"
    assert ended.out.decode().count(f"; mount its disk, or {remedy}\n") == 1
    (problem,) = run("put", "--config", "x.toml", "data").problems
    assert problem.endswith(f"there is no store here; mount its disk or correct its name, or {remedy}")
    assert run("outbox", "accept", "the-far-one", "--config", "x.toml").status == 0
    assert run("reconcile", "--config", "x.toml").status == 0
    assert Path("b").is_dir()
    assert run("put", "--config", "x.toml", "data").status == 0


def test_a_reconcile_creates_a_store_that_the_outbox_does_not_know(run: Run) -> None:
    write({"data": b"data"})
    options = ["--sync", "sqlite:a.db", "--async", "dir:b", "--outbox", "o.db"]
    assert run("put", *options, "data").status == 0
    assert run("--no-create", "reconcile", *options, "--async", "dir:new").status == 1
    assert not Path("new").exists()
    assert run("reconcile", *options, "--async", "dir:new").status == 0
    assert [path.name for path in Path("new/blobs").rglob("*") if path.is_file()] == [str(Ref.of(b"data"))]


@pytest.mark.usefixtures("no_waiting")
def test_a_reconcile_creates_no_store_while_a_replica_uses_the_outbox(run: Run) -> None:
    write({"data": b"data"})
    options = ["--sync", "sqlite:a.db", "--async", "dir:b", "--outbox", "o.db"]
    assert run("put", *options, "data").status == 0
    with opened_outbox("o.db"):
        ended = run("reconcile", *options, "--async", "dir:new")
    assert ended.status == 1
    assert "dir:new" in ended.out.decode()
    assert "outbox accept" not in ended.out.decode()
    assert not Path("new").exists()
