"""The command line, mostly in this process; signals, pipes and kill -9 on real ones."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_replica as replica
from trio_replica import Blob, Ref, __main__, cli
from trio_replica._open import open_with
from trio_replica._options import OPTIONS, Options
from trio_replica._urls.parse import parse_url
from trio_replica.cli import files as cli_files
from trio_replica.cli import put as cli_put
from trio_replica.cli.check import check_stores
from trio_replica.cli.commands import commands
from trio_replica.cli.files import File, OwnFiles, find_files, read_files
from trio_replica.cli.output import Display, describe, say, write_output
from trio_replica.cli.status import Holdings, survey
from trio_replica.config import read_config
from trio_replica.testing import SimulatedStore

from .common import miss_package
from .held import PATIENCE, wait_for
from .schemes import open_with_function

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Sequence

    from trio_replica import PutResult
    from trio_replica._blob import BytesLike

DATA = "trio-replica-data"
SYNC, ASYNC = f"sqlite:{DATA}/blobs.db", f"dir:{DATA}/copy"
NO_STORE = f"there is no {DATA}/ here: put files first (trio-replica put PATH), or name a store (--sync URL)"

MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
from trio_replica.__main__ import main
sys.exit(main())
"""


class Ended(NamedTuple):
    status: int
    out: bytes
    err: str

    @property
    def problems(self) -> list[str]:
        """The lines on standard error, each of which names the program."""
        lines = self.err.splitlines()
        assert all(line.startswith("trio-replica: ") for line in lines), self.err
        return [line.removeprefix("trio-replica: ") for line in lines]


class Run(Protocol):
    def __call__(self, *arguments: str | Path) -> Ended: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the command line in this process, in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIO_REPLICA_CONFIG", raising=False)

    def run(*arguments: str | Path) -> Ended:
        status = cli.main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Ended(status, out, err.decode())

    return run


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimulatedStore]:
    """Return the stores that URLs of directories mean, by their paths."""
    stores: dict[str, SimulatedStore] = {}

    @asynccontextmanager
    async def open_directory(path: str) -> AsyncGenerator[SimulatedStore, None]:
        await trio.lowlevel.checkpoint()
        yield stores[path]

    open_with_function(monkeypatch, open_directory, "dir")
    return stores


@pytest.fixture
def _sigint() -> Generator[None, None, None]:
    """Let SIGINT do what it does in a program that was started from a terminal."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def start(*arguments: str, code: str = MAIN, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, **options)


def finish(process: subprocess.Popen[bytes]) -> Ended:
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err.decode())


def sha256sum(*names: str | bytes) -> bytes:
    return subprocess.run(["sha256sum", "--", *names], stdout=subprocess.PIPE, check=True).stdout


def line(name: str, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


def write(contents: dict[str, bytes]) -> bytes:
    """Write files, and return what a put of them prints."""
    for name, data in contents.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    return b"".join(line(name, data) for name, data in contents.items())


def put_blobs(url: str, blobs: Iterable[bytes]) -> list[str]:
    """Put blobs into a store, and return their refs."""

    async def put() -> list[str]:
        async with replica.open_store(url) as store:
            return [str(result.ref) for result in await store.put_many(blobs)]

    return trio.run(put)


def block(folder: str, data: bytes) -> Path:
    """Let a directory store fail to put a blob: what has its name is no file."""
    ref = str(Ref.of(data))
    name = Path(folder, "blobs", ref[:2], ref[:4], ref)
    name.mkdir(parents=True)
    return name


# put


def test_put_prints_what_sha256sum_prints(run: Run) -> None:
    names = ["plain", "two words", "-dash", "*star", "back\\slash", "new\nline", "ümlaut", "in/folder", "empty"]
    write({name: name.encode() * 100 for name in names})
    Path("empty").write_bytes(b"")
    odd = os.fsdecode(b"\xff not UTF-8")
    Path(odd).write_bytes(b"odd")
    names += [odd, "plain", "./plain"]
    assert run("put", "--", *names) == (0, sha256sum(*map(os.fsencode, names)), "")
    assert run("ls").out.count(b"\n") == len(names) - 2


def test_a_carriage_return_is_escaped(run: Run) -> None:
    write({"car\rriage": b"data"})
    # As sha256sum prints it since coreutils 9.0.
    assert run("put", "car\rriage").out == b"\\%b  car\\rriage\n" % hashlib.sha256(b"data").hexdigest().encode()


def test_the_default_stores(run: Run) -> None:
    printed = write({"file": b"data"})
    assert run("put", "file") == (0, printed, "")
    assert sorted(path.name for path in Path(DATA).iterdir()) == ["blobs.db", "copy"]
    rows = [row.split() for row in run("status").out.decode().splitlines()]
    assert rows == [["STORE", "KIND", "REFS", "LACKS"], [SYNC, "sync", "1", "0"], [ASYNC, "async", "1", "0"]]
    assert run("put", "file") == (0, printed, "")


def test_standard_input(run: Run, tmp_path: Path) -> None:
    data = b"piped" * 1_000_000
    file = tmp_path / "input"
    file.write_bytes(data)
    former = os.dup(0)
    with open(file, "rb") as stdin:
        os.dup2(stdin.fileno(), 0)
    try:
        # The second time it is at its end.
        assert run("put", "-", "-") == (0, line("-", data) + line("-", b""), "")
    finally:
        os.dup2(former, 0)
        os.close(former)


def test_standard_input_that_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    ended = run("put", "-")
    assert (ended.status, ended.problems) == (1, ["-: Bad file descriptor"])


def test_a_pipe_and_a_link_that_are_named_are_read(run: Run) -> None:
    write({"file": b"data"})
    Path("link").symlink_to("file")
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    named = f"/dev/fd/{reader}"
    assert run("put", "link", named, "file") == (
        0,
        line("link", b"data") + line(named, b"piped") + line("file", b"data"),
        "",
    )
    os.close(reader)


def test_a_tree_is_walked_in_the_order_of_its_paths(run: Run) -> None:
    write(
        {name: name.encode() for name in ["t/a.b", "t/a/b/c", "t/a/b.c", "t/a-", "t/B", "t/ä", "t/z/1", "other/file"]}
    )
    Path("t/empty").mkdir()
    Path("t/a/link").symlink_to("b.c")
    Path("t/z/out").symlink_to("../../other")
    Path("t/z/up").symlink_to("..")
    Path("t/z/nowhere").symlink_to("nowhere")
    os.mkfifo("t/pipe")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("t/socket")
    paths = subprocess.run("find t -type f | LC_ALL=C sort", shell=True, stdout=subprocess.PIPE, check=True).stdout
    assert run("put", "-r", "t") == (0, sha256sum(*paths.split()), "")
    assert run("put", "t/z", "-r", "other/", "t/z/out").out.decode().split()[1::2] == [
        "t/z/1",
        "other/file",
        "t/z/out/file",
    ]


def test_a_tree_deeper_than_calls_may_be(run: Run) -> None:
    depth = sys.getrecursionlimit() + 100
    path = Path("t")
    for _ in range(depth):
        path.mkdir()
        path /= "d"
    path.write_bytes(b"deep")
    assert run("put", "-r", "t") == (0, line(str(path), b"deep"), "")
    path.unlink()
    for folder in list(path.parents)[:depth]:
        folder.rmdir()


def test_problems_are_one_line_each_and_the_rest_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = write({"first": b"1", "last": b"2"})
    Path("folder").mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("socket")
    ended = run("put", "first", "nowhere", "folder", "socket", "no\nsuch\x1b\udcff", "last")
    assert (ended.status, ended.out) == (1, printed)
    assert ended.problems == [
        "nowhere: No such file or directory",
        "folder: is a folder: -r puts the files in it",
        "socket: No such device or address",
        r"no\nsuch\x1b\udcff: No such file or directory",
    ]

    def names_in(folder: str) -> list[tuple[str, bool]]:
        if folder == "./folder":
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    real = cli_files._names_in
    monkeypatch.setattr(cli_files, "_names_in", names_in)
    ended = run("put", "-r", ".")
    assert (ended.status, ended.problems) == (1, ["./folder: Permission denied"])
    assert ended.out == line("./first", b"1") + line("./last", b"2")


def test_a_file_too_large_for_a_store(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_replica.stores._sqlite.database.ROW_OVERHEAD", 1_000_000_000 - 1000)
    write({"before": b"1", "large": bytes(1001), "after": b"2", "largest": bytes(9999)})
    ended = run("put", "before", "large", "after")
    assert (ended.status, ended.out) == (1, line("before", b"1") + line("after", b"2"))
    (problem,) = ended.problems
    assert re.match(r"large: put of [0-9a-f]{12} failed: .*SQLITE_TOOBIG: a blob of 1001 bytes", problem)
    (problem,) = run("put", "largest").problems
    assert problem.startswith("largest: put of ")


def test_a_file_that_changes_after_it_was_found(tmp_path: Path) -> None:
    pipe, link, gone = (str(tmp_path / name) for name in ("pipe", "link", "gone"))
    os.mkfifo(pipe)
    os.symlink("somewhere", link)
    assert read_files(File(path, 1, walked=True) for path in (pipe, link, gone)) == [
        f"{pipe}: is no longer a regular file",
        f"{link}: Too many levels of symbolic links",
        f"{gone}: No such file or directory",
    ]


def test_a_file_too_large_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: File) -> bytes:
        raise MemoryError

    monkeypatch.setattr(cli_files, "_read_path", read)
    assert read_files([File("large")]) == ["large: is too large for the memory"]


@pytest.mark.parametrize(
    "stores",
    [
        [],
        ["--sync", "sqlite:t/blobs.db", "--async", "dir:t/copy", "--async", "sqlite:t/link"],
        ["--sync", "dir:t", "--sync", "memory:"],
    ],
)
def test_the_stores_are_passed_over(run: Run, stores: list[str]) -> None:
    write({"t/file": b"data", "t/sub/file": b"data"})
    Path("elsewhere").mkdir()
    Path("t/link").symlink_to("../elsewhere/linked.db")
    expected = [] if "dir:t" in stores else ["./t/file", "./t/sub/file"]
    for _ in range(2):
        ended = run(*stores, "put", "-r", ".")
        assert ended.out.decode().split()[1::2] == expected, ended
        assert (ended.status, ended.err) == (0, "")


def test_a_store_that_is_named_is_passed_over_too(run: Run) -> None:
    printed = write({"file": b"data"})
    run("put", "file")
    os.link(f"{DATA}/blobs.db", "hard-link")
    for path in (DATA, f"{DATA}/copy/blobs", f"{DATA}/blobs.db", "hard-link", "."):
        assert run("put", "-r", path, "file").out.splitlines()[-1:] == printed.splitlines()
    assert run("put", "-r", DATA, f"{DATA}/copy/blobs", f"{DATA}/blobs.db", "hard-link") == (0, b"", "")
    ended = run("put", f"{DATA}/blobs.db", "hard-link", "file")
    assert (ended.status, ended.out) == (1, printed)
    assert ended.problems == [
        f"{DATA}/blobs.db: is part of a store that this puts to",
        "hard-link: is part of a store that this puts to",
    ]


def test_what_is_printed_is_passed_over(tmp_path: Path) -> None:
    for name in ("sums", "file"):
        (tmp_path / name).write_bytes(b"data")
    found: list[File] = []
    with open(tmp_path / "sums", "rb") as sums:
        own = OwnFiles([], [], [sums.fileno()])
        find_files([str(tmp_path)], own, found, recursive=True)
        find_files([str(tmp_path / "sums")], own, found, recursive=True)
    assert [(Path(file.path).name, file.walked) for file in found] == [("file", True), ("sums", False)]


class Measured(SimulatedStore):
    """A store that counts what it was given, and writes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.may_write = trio.Event()

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        return (await self.put_many([blob]))[0]

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        blobs = list(blobs)
        with trio.move_on_after(10):  # a command that can't go on fails the test, and does not hang
            await self.may_write.wait()
        results = await super().put_many(blobs)
        self.written += sum(len(Blob(blob)) for blob in blobs)
        return results


def test_memory_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch, simulated: dict[str, SimulatedStore]) -> None:
    monkeypatch.setattr(cli_put, "MEMORY_LIMIT", 1000)
    monkeypatch.setattr(cli_put, "BATCH_BYTES", 300)
    copy = simulated["copy"] = Measured()
    sizes = [200, 200, 0, 900, 5000, 1, 299, 301, 1000, 1001, *[100] * 50]
    printed = write({f"f{i}": bytes([i]) * size for i, size in enumerate(sizes)})
    read: list[int] = []
    most: list[int] = []

    def read_all(files: Sequence[File]) -> list[Blob | str]:
        blobs = read_files(files)
        size = sum(len(blob) for blob in blobs)
        held = sum(read) - copy.written
        assert held + size <= 1000 or held == 0
        assert size <= 300 or len(files) == 1
        assert len(files) <= cli_put.BATCH_FILES
        read.append(size)
        most.append(held + size)
        if len(read) == 2:
            trio.from_thread.run_sync(copy.may_write.set)
        return blobs

    monkeypatch.setattr(cli_put, "read_files", read_all)
    ended = run("put", "--sync", "memory:", "--async", "dir:copy", *(f"f{i}" for i in range(len(sizes))))
    assert ended == (0, printed, "")
    assert copy.written == sum(sizes)
    assert max(most) == 5000
    assert most[:2] == [200, 400], "several batches are in memory at once"


class SlowestFirst(SimulatedStore):
    """A store that is done with its first put last."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.done: list[bytes] = []
        self.count = count
        self.all_others = trio.Event()

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        data = bytes(Blob(blob))
        if data[:1] == b"0":
            await self.all_others.wait()
        result = await super().put(blob)
        self.done.append(data)
        if len(self.done) == self.count - 1:
            self.all_others.set()
        return result


def test_lines_are_in_order_however_the_puts_end(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    count = cli_put.BATCHES
    store = simulated["store"] = SlowestFirst(count)
    printed = write({f"f{i}": b"%d" % i + bytes(cli_put.BATCH_BYTES) for i in range(count)})  # each is a batch
    assert run("put", "--sync", "dir:store", *(f"f{i}" for i in range(count))) == (0, printed, "")
    assert store.done[-1][:1] == b"0"


def test_many_files_are_put_in_batches(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    store = simulated["store"] = SimulatedStore()
    count = 3 * cli_put.BATCH_FILES + 1
    printed = write({f"f{i:04}": b"%d" % i for i in range(count)})
    assert run("put", "--sync", "dir:store", *sorted(os.listdir())) == (0, printed, "")
    assert sorted((call.operation, len(call.refs)) for call in store.calls) == [
        ("put", 1),
        *[("put_many", cli_put.BATCH_FILES)] * 3,
    ]


def test_what_one_store_refuses_is_not_printed(run: Run) -> None:
    printed = write({"good": b"good", "also": b"also"})
    write({"bad": b"bad"})
    blocked = block("store", b"bad")
    ended = run("put", "--sync", "dir:store", "--sync", "memory:", "good", "bad", "also")
    assert (ended.status, ended.out) == (1, printed)
    (problem,) = ended.problems
    assert problem.startswith(f"bad: put of {blocked.name[:12]} failed: dir:store: FileExistsError: ")


# poison


def test_poison_is_one_line_that_says_what_is_not_replicated(run: Run) -> None:
    write({"bad": b"bad"})
    blocked = block("copy", b"bad")
    stores = ["--sync", "memory:", "--async", "dir:copy"]
    ended = run("put", *stores, "bad")
    assert ended.status == 1
    (problem,) = ended.problems
    assert problem.startswith("the replica is poisoned: dir:copy: FileExistsError: ")
    lacks = f"; dir:copy lacks 1 accepted: {blocked.name[:12]}; "
    assert problem.endswith(f"{lacks}once that is repaired, put the files again")
    blocked.rmdir()
    assert run("put", *stores, "bad") == (0, line("bad", b"bad"), "")


def test_poison_ends_all_batches(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    count = 8 * cli_put.BATCH_FILES
    broken = simulated["broken"] = SimulatedStore()
    broken.fail(OSError("disk\nfull"), after=1)
    good = simulated["good"] = SimulatedStore()
    write({f"f{i}": b"%d" % i for i in range(count)})
    ended = run(
        *("put", "--queue-size", "1", "--sync", "memory:", "--async", "dir:broken", "--async", "dir:good"),
        *(f"f{i}" for i in range(count)),
    )
    assert ended.status == 1
    (problem,) = ended.problems
    assert re.match(
        r"the replica is poisoned: dir:broken: OSError: disk full; dir:broken lacks [1-9]\d* accepted: ", problem
    )
    assert "dir:good lacks" not in problem
    assert 0 < len(good.blobs) < count


def test_the_log_says_nothing_more(tmp_path: Path) -> None:
    block(str(tmp_path / "copy"), b"bad")
    (tmp_path / "bad").write_bytes(b"bad")
    ended = finish(start("put", "--sync", "memory:", "--async", "dir:copy", "bad", cwd=tmp_path))
    assert ended.status == 1
    assert len(ended.problems) == 1


# SIGINT


class Interrupting(SimulatedStore):
    """A store during whose first put SIGINT comes, once so much is printed; the put goes on until it is cancelled."""

    def __init__(self, printed: bytes = b"") -> None:
        super().__init__()
        self._printed = len(printed)

    async def put(self, _: Blob | BytesLike) -> NoReturn:
        await self.put_many([])

    async def put_many(self, _: Iterable[Blob | BytesLike]) -> NoReturn:
        while os.fstat(1).st_size < self._printed:  # noqa: ASYNC110  (an abandoned thread writes, and tells nobody)
            await trio.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()


class Breaking(Interrupting):
    """One that then fails, when it is cancelled."""

    async def put_many(self, _: Iterable[Blob | BytesLike]) -> NoReturn:
        try:
            await super().put_many([])
        finally:
            raise OSError("broken")


@pytest.mark.usefixtures("_sigint")
@pytest.mark.parametrize("count", [1, 5, 6])
def test_an_interrupted_put_says_what_is_not_replicated(
    run: Run, simulated: dict[str, SimulatedStore], count: int
) -> None:
    printed = write({f"f{i}": b"%d" % i for i in range(count)})
    simulated["slow"] = Interrupting(printed)
    simulated["hung"] = SimulatedStore()
    simulated["hung"].hang()
    stores = ["--sync", "memory:", "--async", "dir:slow", "--async", "dir:hung"]
    ended = run("put", *stores, *(f"f{i}" for i in range(count)))
    assert (ended.status, ended.out) == (130, printed)
    shown = ", ".join(str(Ref.of(b"%d" % i))[:12] for i in range(min(5, count))) + ", …" * (count > 5)
    assert ended.problems == [f"interrupted: dir:{name} lacks {count} accepted: {shown}" for name in ("slow", "hung")]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_sigint")
def test_an_interrupted_put_of_which_nothing_is_pending(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    simulated["slow"] = Interrupting()
    write({"file": b"data"})
    ended = run("put", "--sync", "dir:slow", "file")
    assert (ended.status, ended.out) == (130, b"")
    assert ended.problems == ["interrupted: no async store lacks an accepted blob"]


@pytest.mark.usefixtures("_sigint")
def test_poison_is_not_hidden_by_an_interruption(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    printed = write({"file": b"data"})
    simulated["broken"] = Breaking(printed)
    ended = run("put", "--sync", "memory:", "--async", "dir:broken", "file")
    assert (ended.status, ended.out) == (130, printed)
    (problem,) = ended.problems
    assert problem.startswith("the replica is poisoned: dir:broken: OSError: broken; dir:broken lacks 1 accepted: ")


@pytest.mark.usefixtures("_sigint")
def test_an_interruption_before_the_stores_are_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_sqlite(_: str) -> AsyncGenerator[None, None]:
        signal.raise_signal(signal.SIGINT)
        yield await trio.sleep_forever()

    open_with_function(monkeypatch, open_sqlite, "sqlite")
    write({"file": b"data", "there.db": b""})
    for arguments in (["put", "file"], ["put", "file", "--sync", "sqlite:there.db"]):
        ended = run(*arguments)
        assert (ended.status, ended.problems) == (130, ["interrupted: no async store lacks an accepted blob"])
    for arguments in (["ls"], ["get", "00"], ["status"]):
        ended = run(*arguments, "--sync", "sqlite:there.db")
        assert (ended.status, ended.out, ended.problems) == (130, b"", ["interrupted"])


@pytest.mark.usefixtures("_sigint")
def test_an_interruption_outside_of_trio(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("trio_replica.cli.ls.chosen_stores", interrupt)
    ended = run("ls")
    assert (ended.status, ended.problems) == (130, ["interrupted"])
    monkeypatch.setattr(commands, "make_context", interrupt)
    ended = run("ls")
    assert (ended.status, ended.err.split()) == (130, ["trio-replica:", "interrupted"])


@pytest.mark.usefixtures("_sigint")
def test_an_ignored_interruption_stays_ignored(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    class Ignoring(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            signal.raise_signal(signal.SIGINT)
            return await super().put(blob)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    simulated["slow"] = Ignoring()
    printed = write({"file": b"data"})
    assert run("put", "--sync", "dir:slow", "file") == (0, printed, "")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_sigint_ends_a_process_that_waits_for_its_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    process = start("put", "file", "-", cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == line("file", b"data")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    ended = finish(process)
    (problem,) = ended.problems
    assert problem.startswith("interrupted: ")


@pytest.mark.deep
def test_sigint_ends_a_process_whose_output_nobody_reads(tmp_path: Path) -> None:
    for i in range(3000):
        (tmp_path / f"{i}{'long' * 50}").write_bytes(b"%d" % i)
    process = start("put", "-r", ".", "--sync", "memory:", "--async", "dir:copy", cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    ended = finish(process)
    assert len(ended.problems) == 1


# kill -9, and several processes at once


@pytest.mark.deep
def test_kill_9_and_again(tmp_path: Path, run: Run) -> None:
    printed = write({f"t/{i:03}": b"%d" % i * i for i in range(400)})
    process = start("put", "-r", "t", cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(100)]
    process.kill()
    assert finish(process).status == -signal.SIGKILL
    held = set(run("ls").out.split())
    assert held >= {line.split()[0] for line in acknowledged}
    assert run("put", "-r", "t") == (0, printed, "")
    assert re.findall(r" (\d+) +0\n", run("status").out.decode()) == ["400"] * 2


def test_two_processes_at_once(tmp_path: Path, run: Run) -> None:
    printed = write({f"t/{i:03}": b"%d" % i for i in range(50)})
    processes = [start("put", "-r", "t", cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert finish(process) == (0, printed, "")
    assert re.findall(r" (\d+) +0\n", run("status").out.decode()) == ["50"] * 2


def test_what_is_printed_into_the_tree_checks(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with open(tmp_path / "sums", "wb") as sums:
        assert finish(start("put", "-r", ".", cwd=tmp_path, stdout=sums)).err == ""
    assert (tmp_path / "sums").read_bytes() == line("./file", b"data")
    subprocess.run(["sha256sum", "--check", "--quiet", "sums"], cwd=tmp_path, check=True)


# Standard output that takes no more


@contextmanager
def standard_output(monkeypatch: pytest.MonkeyPatch, file: int) -> Generator[None, None, None]:
    with monkeypatch.context() as patch, open(file, "w") as out:
        patch.setattr(sys, "stdout", out)
        yield


def test_standard_output_that_is_full(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"file": b"data"})
    run("put", "file")
    for arguments in (["put", "file"], ["ls"], ["get", "3a"], ["status"]):
        with standard_output(monkeypatch, os.open("/dev/full", os.O_WRONLY)):
            ended = run(*arguments)
        assert (ended.status, ended.problems) == (1, ["standard output: No space left on device"])


def test_standard_output_that_nobody_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"file": b"data"})
    run("put", "file")
    for arguments, problems in (
        (["put", "file"], ["standard output: Broken pipe"]),
        (["ls"], []),
        (["get", "3a"], []),
        (["status"], []),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        with standard_output(monkeypatch, writer):
            ended = run(*arguments)
        assert (ended.status, ended.problems) == (1, problems)


def test_standard_output_that_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"file": b"data"})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        ended = run("put", "file")
    assert (ended.status, ended.problems) == (1, ["standard output is closed"])


def test_standard_error_that_nobody_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = write({"file": b"data"})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert run("put", "nowhere", "file") == (1, printed, "")
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, open(writer, "w") as err:
        patch.setattr(sys, "stderr", err)
        assert run("put", "nowhere", "file") == (1, printed, "")


def test_a_listing_into_head(run: Run, tmp_path: Path) -> None:
    refs = sorted(put_blobs(f"sqlite:{tmp_path}/blobs.db", [b"%d" % i for i in range(5000)]))
    with start("ls", "--sync", f"sqlite:{tmp_path}/blobs.db", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode() == f"{refs[0]}\n"
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


# The display


class Terminal:
    """A terminal of which all that was printed is read."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.file = open(slave, "w")  # noqa: SIM115  (closed by `stands_for`)
        self.seen = ""

    def read(self) -> bool:
        """Read some more, and return whether there was more."""
        try:
            part = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += part.decode()
        return True

    @contextmanager
    def stands_for(self, *streams: str) -> Generator[None, None, None]:
        """Replace streams of `sys` by this terminal for the block, and then close it."""
        with pytest.MonkeyPatch.context() as patch, self.file:
            for stream in streams:
                patch.setattr(sys, stream, self.file)
            yield
        while self.read():
            pass
        os.close(self.master)

    @property
    def drawn(self) -> list[str]:
        """Every state of every line that was drawn, without its colours."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.seen)
        return [part for part in re.split(r"\r\x1b\[2K|\r\n", plain) if part]

    @property
    def picture(self) -> str:
        """The text that it shows at the end."""
        shown = [""]
        for part in re.findall(r"\r\x1b\[2K|\r\n|\x1b\[[0-9;]*m|[^\r\n\x1b]+", self.seen):
            if part == "\r\x1b[2K":
                shown[-1] = ""
            elif part == "\r\n":
                shown.append("")
            elif not part.startswith("\x1b"):
                shown[-1] += part
        return "\n".join(shown)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_the_display_of_a_put(
    run: Run, monkeypatch: pytest.MonkeyPatch, terminal: Terminal, simulated: dict[str, SimulatedStore]
) -> None:
    class Watched(SimulatedStore):
        def __init__(self, saying: str) -> None:
            super().__init__()
            self.saying = saying

        async def put(self, blob: Blob | BytesLike) -> PutResult:
            while self.saying not in terminal.seen:
                await trio.lowlevel.wait_readable(terminal.master)
                terminal.read()
            return await super().put(blob)

    monkeypatch.setattr(cli_put, "BATCH_FILES", 1)
    monkeypatch.setattr(cli_put, "BATCHES", 1)
    simulated["sync"] = Watched(" 0/3 files 0 bytes/2.0 kB 0 bytes/s")
    simulated["copy"] = Watched(" waiting for dir:copy (2)")
    printed = write({"first": b"1" * 1000, "last": b"2" * 1001})
    with terminal.stands_for("stdout", "stderr"):
        ended = run("put", "--sync", "dir:sync", "--async", "dir:copy", "first", "nowhere", "last")
    assert ended.status == 1
    # The problem stands between the lines, and of the bar nothing is left.
    first, last = printed.decode().splitlines()
    assert terminal.picture == f"{first}\ntrio-replica: nowhere: No such file or directory\n{last}\n"


def test_the_display_of_a_put_into_a_pipe(run: Run, terminal: Terminal) -> None:
    printed = write({"file": b"data"})
    with terminal.stands_for("stderr"):
        assert run("put", "file").out == printed
    assert terminal.drawn[0].endswith(" 0 files found")
    assert terminal.picture == ""


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_dumb_terminal_has_no_display(
    run: Run, monkeypatch: pytest.MonkeyPatch, terminal: Terminal, name: str
) -> None:
    monkeypatch.setenv("TERM", name)
    write({"file": b"data"})
    with terminal.stands_for("stderr"):
        run("put", "file", "nowhere")
    assert terminal.seen == "trio-replica: nowhere: No such file or directory\r\n"


def test_the_display_is_drawn_ten_times_a_second(terminal: Terminal) -> None:
    done = 0

    async def main() -> None:
        nonlocal done
        display = Display()
        async with trio.open_nursery() as nursery:
            display.begin(lambda: "looking")
            nursery.start_soon(display.run)
            await trio.sleep(0.15)
            display.begin(lambda: f"{done} done after {display.seconds:.2f} s", total=100)
            while done < 100:
                await trio.sleep(1)
                done += 25
                display.advance(25)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    with terminal.stands_for("stderr"):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    said = [drawn.strip("━╸╺ ") for drawn in terminal.drawn]
    assert said[:3] == ["looking", "looking", "0 done after 0.05 s"]
    assert "50 done after 2.45 s, 0:00:02 left" in said
    assert said[-1] == "100 done after 4.05 s"
    assert len(said) == 2 + 41
    assert terminal.picture == ""


def test_the_display_of_a_narrow_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        display = Display()
        display.begin(lambda: "said at some length")
        with trio.move_on_after(0.05):
            await display.run()

    monkeypatch.setenv("COLUMNS", "30")
    with terminal.stands_for("stderr"):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    (drawn,) = terminal.drawn
    assert drawn.endswith(" said at some l…")
    assert len(drawn) == 30


def test_the_display_is_away_while_something_else_is_written(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MockClock()
    writing, may_end = threading.Event(), threading.Event()

    def write_held(_: bytes) -> None:
        terminal.file.write("(written)")
        terminal.file.flush()
        writing.set()
        assert may_end.wait(PATIENCE)

    async def main() -> None:
        display = Display()
        display.begin(lambda: f"drawn after {trio.current_time() - began:.0f} s")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(display.run)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as writers:
                writers.start_soon(display.write, b"data")
                await wait_for(writing)
                for _ in range(3):
                    clock.jump(1)
                    await wait_all_tasks_blocked()
                may_end.set()
            clock.jump(1)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    monkeypatch.setattr("trio_replica.cli.output.write_output", write_held)
    with terminal.stands_for("stderr"):
        trio.run(main, clock=clock)
    drawn = [re.sub("[━╸╺]+ ", "", part) for part in terminal.drawn]
    assert drawn == ["drawn after 0 s", "(written)drawn after 0 s", "drawn after 4 s"]


# get


def test_get(run: Run) -> None:
    data = bytes(range(256)) * 10_000
    write({"file": data, "other": b"other"})
    ref = str(Ref.of(data))
    run("put", "file", "other")
    for name in (ref, ref[:10], ref[:10].upper()):
        assert run("get", name) == (0, data, "")
        assert run("get", name, "-o", "-") == (0, data, "")
        assert run("get", "-o", "new", name) == (0, b"", "")
        assert Path("new").read_bytes() == data
        Path("new").unlink()
    missing = str(Ref.of(b"missing"))
    for name in (missing, missing[:10]):
        ended = run("get", name, "-o", "new")
        assert (ended.status, ended.out, ended.problems) == (1, b"", [f"{name}: not found"])
    assert sorted(os.listdir()) == ["file", "other", DATA]


def test_get_from_the_sync_stores_that_are_there(run: Run) -> None:
    stores = ("--sync", "dir:gone", "--sync", "sqlite:there.db")
    write({"file": b"data"})
    run("put", "file", *stores)
    shutil.rmtree("gone")
    ended = run("get", str(Ref.of(b"data")), *stores)
    assert (ended.status, ended.out) == (0, b"data")
    (problem,) = ended.problems
    assert problem.startswith("there is no store dir:gone: ")
    Path("there.db").write_text("no database")
    ended = run("get", str(Ref.of(b"data")), *stores)
    assert (ended.status, ended.out) == (1, b"")
    (problem,) = ended.problems
    assert re.fullmatch("there is no store dir:gone: .*; .*SQLITE_NOTADB: .*", problem)


def test_get_from_the_fallback(run: Run) -> None:
    Path("trio-replica.toml").write_text(
        'fallback = ["copy"]\n[sync]\nlocal = "dir:local"\n[async]\nother = "dir:other"\ncopy = "dir:copy"\n'
    )
    write({"file": b"data"})
    run("put", "file")
    ref = str(Ref.of(b"data"))
    shutil.rmtree("other")
    for folder in Path("local/blobs").iterdir():
        shutil.rmtree(folder)
    assert run("get", ref) == (0, b"data", "")
    assert run("get", ref[:5]).problems == [f"{ref[:5]}: not found"], "only the sync stores are listed"
    assert os.listdir("local/blobs") == [], "to read writes nothing"
    shutil.rmtree("local")
    for digits in (ref, ref[:5]):
        ended = run("get", digits)
        assert (ended.status, ended.out) == (0, b"data")
        (problem,) = ended.problems
        assert problem.startswith("there is no store dir:")
    shutil.rmtree("copy")
    ended = run("get", ref)
    assert (ended.status, ended.out) == (1, b"")
    (problem,) = ended.problems
    assert re.fullmatch("there is no store dir:.*/local: .*; there is no store dir:.*/copy: .*", problem)
    assert sorted(os.listdir()) == ["file", "trio-replica.toml"]


def test_put_of_a_device(run: Run) -> None:
    ended = run("put", "/dev/zero")
    assert (ended.status, ended.out) == (1, b"")
    assert ended.problems == ["/dev/zero: is a device, which may have no end"]


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [
        ("00", "get of 001111111111 failed: dir:store: CorruptBlobError: "),
        ("000", "000: not found"),
        ("0100", "get of 010011111111 failed: dir:store: CorruptBlobError: "),
        ("01", f"01: is ambiguous: 0100{'1' * 60} and 0101{'1' * 60} begin so"),
        ("0", f"0: is ambiguous: 00{'1' * 62} and 0100{'1' * 60} begin so"),
        ("02", "02: not found"),
        ("f", "get of ffff11111111 failed: dir:store: CorruptBlobError: "),
        ("FFFF1", "get of ffff11111111 failed: dir:store: CorruptBlobError: "),
        ("fffff", "fffff: not found"),
        ("0" * 64, f"{'0' * 64}: not found"),
    ],
)
@pytest.mark.parametrize("page_size", [None, 1])
def test_get_by_a_prefix(
    run: Run, simulated: dict[str, SimulatedStore], page_size: int | None, prefix: str, problem: str
) -> None:
    Path("store/blobs/00").mkdir(parents=True)
    store = simulated["store"] = SimulatedStore(page_size=page_size)
    for digits in ("00", "0100", "0101", "ffff"):
        # Not what the ref names: the problem tells which one was got.
        store.corrupt(Ref.from_hex(digits.ljust(64, "1")), b"corrupt")
    ended = run("get", prefix, "--sync", "dir:store")
    assert (ended.status, ended.out) == (1, b"")
    (told,) = ended.problems
    assert told.startswith(problem)
    assert [call.operation for call in store.calls].count("list_page") <= 2, "no more than is needed"


@pytest.mark.parametrize("ref", ["", "xyz", "0" * 65, "0x12", " 12", "12\n"])
def test_get_of_what_is_no_ref(run: Run, ref: str) -> None:
    ended = run("get", ref)
    assert ended.status == 2
    assert "is not 1 to 64 hexadecimal digits" in ended.err


def test_get_writes_a_file_whole_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"file": b"data"})
    run("put", "file")
    get = partial(run, "get", "3a6eb0790f39")
    Path("old").write_bytes(b"old")
    Path("old").chmod(0o640)
    Path("link").symlink_to("old")
    assert get("-o", "link") == (0, b"", "")
    assert Path("link").is_symlink()
    assert (Path("old").read_bytes(), Path("old").stat().st_mode & 0o7777) == (b"data", 0o640)
    Path("dangling").symlink_to("target")
    assert get("-o", "dangling").status == 0
    assert Path("target").read_bytes() == b"data"
    (problem,) = get("-o", "nowhere/new").problems
    assert problem == "nowhere/new: No such file or directory"
    (problem,) = get("-o", DATA).problems
    assert problem == f"{DATA}: Is a directory"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    Path("old").write_bytes(b"old")
    ended = get("-o", "old")
    assert (ended.status, ended.problems) == (1, ["old: No space left on device"])
    assert Path("old").read_bytes() == b"old"
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize("store", ["sqlite:store", "dir:store"])
def test_get_overwrites_no_part_of_a_store(run: Run, store: str) -> None:
    ref, other = put_blobs(store, [b"data", b"other"])
    digits = str(other)
    owned = {
        "sqlite:store": ["store", "store-wal", "link"],
        "dir:store": ["store/store-id", "store/new", f"store/blobs/{digits[:2]}/{digits[:4]}/{digits}", "link"],
    }[store]
    Path("link").symlink_to(owned[0])
    for output in owned:
        before = Path(output).read_bytes() if Path(output).exists() else None
        ended = run("get", str(ref), "-o", output, "--sync", store)
        assert (ended.status, ended.problems) == (
            1,
            [f"{output}: is part of a store; write the blob to another place"],
        )
        assert (Path(output).read_bytes() if Path(output).exists() else None) == before


def test_get_overwrites_no_file_that_is_protected(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def access(path: str, mode: int, **options: Any) -> bool:  # root may write to every file
        return mode != os.W_OK and really_access(path, mode, **options)

    really_access = os.access
    ref, _ = put_blobs("sqlite:store", [b"data", b"other"])
    write({"file": b"precious"})
    monkeypatch.setattr(os, "access", access)
    ended = run("get", str(ref), "-o", "file", "--sync", "sqlite:store")
    assert (ended.status, ended.problems) == (1, ["file: Permission denied"])
    assert Path("file").read_bytes() == b"precious"


def test_get_into_a_pipe(run: Run) -> None:
    write({"file": b"data"})
    run("put", "file")
    reader, writer = os.pipe()
    assert run("get", "3a6e", "-o", f"/dev/fd/{writer}") == (0, b"", "")
    os.close(writer)
    assert os.read(reader, 100) == b"data"
    os.close(reader)
    assert run("get", "3a6e", "-o", "/dev/null") == (0, b"", "")


def test_get_of_a_damaged_blob(run: Run) -> None:
    (ref,) = put_blobs("dir:store", [b"data"])
    Path(f"store/blobs/{ref[:2]}/{ref[:4]}/{ref}").write_bytes(b"DATA")
    ended = run("get", ref, "--sync", "dir:store")
    assert (ended.status, ended.out) == (1, b"")
    (problem,) = ended.problems
    assert problem.startswith(f"get of {ref[:12]} failed: dir:store: CorruptBlobError: ")


# ls


def test_ls(run: Run) -> None:
    refs = sorted(put_blobs("sqlite:one.db", [b"%d" % i for i in range(1200)]))
    more = put_blobs("dir:two", [b"%d" % i for i in range(1190, 1210)])
    refs = sorted({*refs, *more})

    def ls(*arguments: str) -> list[str]:
        ended = run("ls", "--sync", "sqlite:one.db", "--sync", "dir:two", *arguments)
        assert (ended.status, ended.err) == (0, "")
        return ended.out.decode().splitlines()

    assert ls() == refs
    assert ls("--limit", "1100") == refs[:1100]
    assert ls("--after", refs[1000]) == refs[1001:]
    assert ls("--after", refs[3], "--limit", "2") == refs[4:6]
    assert ls("--after", refs[3].upper(), "--limit", "2") == refs[4:6]
    assert ls("--after", refs[-1]) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ls", "--after", "12"], "'12' has 2 digits, but all 64 of the ref are needed here"),
        (["ls", "--after", "xy"], "'xy' is not 1 to 64 hexadecimal digits"),
        (["put", "--sync", "s3://b/p?reqests=3", "x"], "Invalid value for '--sync': s3://b/p: "),
        (["put", "--sync", "s3://b/p?reqests=3", "x"], "'reqests' is not valid for store 'S3'; did you mean requests?"),
        (["put", "--sync", "s3://b?retry_second=3", "x"], "did you mean retry_seconds?"),
        (["put", "x", "--async", "s3://b?requests=0"], "Invalid value for '--async': requests is at least 1, not 0"),
        (
            ["put", "--sync", "postgresql://h/d?answer_timout=3", "x"],
            (
                "Invalid value for '--sync': the conninfo of a PostgreSQL database can't be parsed: invalid URI query "
                'parameter: "…"; did you mean answer_timeout?'
            ),
        ),
        (["ls", "--limit", "0"], "0 is not in the range"),
        (["ls", "--limit", "many"], "not a valid integer"),
        (["ls", "more"], "unexpected extra argument"),
        (["put"], "Missing argument"),
        (["get"], "Missing argument"),
        (["frobnicate"], "No such command"),
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
        (["outbox", "flsh"], "No such command 'flsh'. Did you mean 'flush'?"),
        (["ls", "--queue-sise", "5"], "No such option '--queue-sise'. Did you mean '--queue-size'?"),
        (["put", "--recursve", "x"], "No such option '--recursve'. Did you mean '--recursive'?"),
        (["--sync", "sqlit:x", "ls"], "unknown store 'sqlit:x'; did you mean sqlite:PATH?"),
        (["ls", "--sync", "dir:~/x"], "because ~ is not replaced here: write dir:"),
        (["ls", "--outbox=~/x"], "it is '~/x', but ~ is not replaced here: write "),
        (["--queue-size", "0", "put", "x"], "it is at least 1, not 0"),
        (["--sync", "ftp:x", "ls"], "unknown store 'ftp:x'"),
        (["ls", "--sync", "dir:"], "the URL of such a store is dir:PATH"),
        (["ls", "--async", "dir:x"], "an --async store needs a --sync store beside it"),
        (["--sync", "dir:x", "put", "--async", "dir:./x", "y"], "the store dir:./x is given twice"),
        (["status", "--sync", "memory:", "--sync", "memory:"], "the store memory: is given twice"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], complaint: str) -> None:
    ended = run(*arguments)
    assert (ended.status, ended.out) == (2, b"")
    assert complaint in ended.err
    assert os.listdir() == []


@pytest.mark.parametrize("command", [["ls"], ["get", "00"], ["status"]])
def test_only_put_creates_the_default_stores(run: Run, command: list[str]) -> None:
    ended = run(*command)
    assert (ended.status, ended.out, ended.problems) == (1, b"", [NO_STORE])
    assert os.listdir() == []


@pytest.mark.parametrize("url", ["sqlite:none.db", "dir:none", "dir:folder", "sqlite:none/none.db", "dir:file"])
@pytest.mark.parametrize("command", [["ls"], ["get", "00"]])
def test_reading_creates_no_store(run: Run, command: list[str], url: str) -> None:
    write({"file": b"", "folder/file": b""})
    ended = run(*command, "--sync", "memory:", "--sync", url)
    assert (ended.status, ended.out) == (1, b"")
    problem, *rest = ended.problems
    assert problem.startswith(f"there is no store {url}: ")
    assert rest == ([] if command == ["ls"] else ["00: not found"])
    assert sorted(os.listdir()) == ["file", "folder"]
    assert os.listdir("folder") == ["file"]


def test_reading_leaves_async_stores_alone(run: Run) -> None:
    (ref,) = put_blobs("dir:store", [b"data"])
    stores = ["--sync", "dir:store", "--async", "dir:none"]
    assert run("ls", *stores).out.decode() == f"{ref}\n"
    assert run("get", ref, *stores).out == b"data"
    assert os.listdir() == ["store"]


# status


def test_status(run: Run) -> None:
    put_blobs("dir:one", [b"%d" % i for i in range(20)])
    put_blobs("sqlite:two.db", [b"%d" % i for i in range(5, 21)])
    ended = run("--sync", "dir:one", "status", "--async", "sqlite:two.db", "--async", "memory:")
    lacks = {
        "dir:one": [b"20"],
        "sqlite:two.db": [b"%d" % i for i in range(5)],
        "memory:": [b"%d" % i for i in range(21)],
    }
    table = [
        "STORE          KIND         REFS       LACKS",
        "dir:one        sync           20           1",
        "sqlite:two.db  async          16           5",
        "memory:        async           0          21",
    ]
    lists = [
        [f"{url} lacks", *(f"  {ref}" for ref in sorted(str(Ref.of(blob)) for blob in blobs))]
        for url, blobs in lacks.items()
    ]
    shown = [text for lines in lists for text in lines[:11]]
    assert ended.out.decode().splitlines() == [*table, *shown, "  and 11 more, which --all prints"]
    assert (ended.status, ended.err) == (0, "")
    ended = run("status", "--sync", "dir:one", "--async", "sqlite:two.db", "--async", "memory:", "--all")
    assert ended.out.decode().splitlines() == [*table, *(text for lines in lists for text in lines)]


def test_the_columns_of_status_stand_under_their_heads(run: Run) -> None:
    put_blobs("dir:one", [b"data"])
    Path("x.toml").write_text('[sync]\na = "dir:one"\n')
    assert run("status", "--config", "x.toml").out.decode().splitlines() == [
        "STORE  KIND         REFS       LACKS",
        "a      sync            1           0",
    ]


def test_status_shows_the_stores_that_work(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    put_blobs("sqlite:good.db", [b"data"])
    Path("bad.db").write_bytes(b"no database" * 1000)
    Path("broken/blobs/00").mkdir(parents=True)
    broken = simulated["broken"] = SimulatedStore()
    broken.fail(OSError("away"))
    urls = ["sqlite:good.db", "sqlite:none.db", "sqlite:bad.db", "dir:broken"]
    ended = run("status", *(argument for url in urls for argument in ("--sync", url)))
    assert (ended.status, ended.err) == (1, "")
    rows = [row.split(maxsplit=2) for row in ended.out.decode().splitlines()[1:]]
    assert [row[0] for row in rows] == urls
    assert rows[0][2].split() == ["1", "0"]
    assert rows[1][2] == "failed: there is no store sqlite:none.db: none.db: No such file or directory"
    assert rows[2][2].startswith("failed: DatabaseError: SQLITE_NOTADB: ")
    assert rows[3][2] == "failed: OSError: away"
    assert not Path("none.db").exists()


def test_a_survey_of_many_pages(simulated: dict[str, SimulatedStore]) -> None:
    async def main() -> None:
        simulated.update(
            {name: SimulatedStore(page_size=size) for name, size in (("a", 1), ("b", 3), ("c", 2), ("d", 2))}
        )
        blobs = [Blob(b"%d" % i) for i in range(50)]
        held = {
            "a": set(blobs[:40:2]),
            "b": set(blobs[::3]),
            "c": set[Blob](),
            "d": set(blobs[10:]),
        }
        for name, store in simulated.items():
            await store.put_many(held[name])
        simulated["d"].fail(OSError("away"), "list_page", after=3)
        holdings = [Holdings(name, parse_url(f"dir:{name}"), "sync", "", keep_all=True) for name in simulated]
        await survey(holdings)
        listed = sorted(blob.ref for blob in held["d"])[:6]
        union = sorted({blob.ref for name in "abc" for blob in held[name]} | set(listed))
        for one in holdings[:3]:
            refs = {blob.ref for blob in held[one.name]}
            assert (one.refs, one.lacks) == (len(refs), len(set(union) - refs))
            assert list(one.lacking()) == sorted(set(union) - refs)
            assert one.problem == ""
        assert holdings[3].problem == "OSError: away"
        assert holdings[3].refs == len(listed)
        for one in holdings:
            one.__exit__(None, None, None)

    trio.run(main)


def test_a_store_that_lists_nonsense_ends_a_survey(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    class Stuck(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            return [Ref.of(b"")] if await super().list_page(after, limit) == [] else []

    Path("stuck/blobs/00").mkdir(parents=True)
    simulated["stuck"] = Stuck()
    ended = run("status", "--sync", "dir:stuck")
    assert ended.status == 1
    assert "failed: a page begins with e3b0c44298fc, which is not after e3b0c44298fc" in ended.out.decode()


# Options


def test_options_stand_before_the_command_and_after_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = write({"file": b"data"})
    capacities: list[int] = []

    async def put_files(store: replica.ReplicaStore, *arguments: Any, **options: Any) -> bool:
        capacities.extend(queue.capacity for queue in store.statistics().async_stores.values())
        return await real(store, *arguments, **options)

    real = cli_put.put_files
    monkeypatch.setattr(cli_put, "put_files", put_files)
    ended = run(
        *("--sync", "dir:a", "--queue-size", "3", "--async", "dir:b", "put"),
        *("--sync", "sqlite:c.db", "--async", "dir:d", "--async", "dir:e", "--queue-size", "5", "file"),
    )
    assert ended == (0, printed, "")
    assert capacities == [5, 5, 5]
    run("--queue-size", "3", "put", "file")
    run("put", "file")
    assert capacities[3:] == [3, 64]
    assert sorted(os.listdir()) == ["a", "b", "c.db", "d", "e", "file", DATA]


def test_a_data_folder_that_is_a_file(run: Run) -> None:
    write({DATA: b"", "file": b""})
    ended = run("put", "file")
    assert (ended.status, ended.out) == (1, b"")
    (problem,) = ended.problems
    assert problem.endswith(f"{DATA}: Not a directory")
    ended = run("put", "--sync", "sqlite:file/x.db", "file")
    (problem,) = ended.problems
    assert problem.startswith("OperationalError: SQLITE_CANTOPEN: ")


@pytest.mark.parametrize("paths", [["nofile"], ["nofile", "other"], ["folder"], ["-r", "nofile"]])
@pytest.mark.parametrize("stores", [[], ["--sync", "dir:new"]])
def test_a_put_of_nothing_creates_no_store(run: Run, paths: list[str], stores: list[str]) -> None:
    Path("folder").mkdir()
    ended = run("put", *paths, *stores)
    assert (ended.status, ended.out) == (1, b"")
    reason = "is a folder: -r puts the files in it" if paths == ["folder"] else "No such file or directory"
    assert ended.problems == [f"{path}: {reason}" for path in paths if path != "-r"]
    assert os.listdir() == ["folder"]


def test_a_put_of_something_reports_the_rest(run: Run) -> None:
    printed = write({"folder/file": b"data"})
    ended = run("put", "-r", "nofile", "folder")
    assert (ended.status, ended.out) == (1, printed)
    assert ended.problems == ["nofile: No such file or directory"]


def test_no_arguments(run: Run) -> None:
    ended = run()
    assert (ended.status, ended.out) == (2, b"")
    assert ended.err.startswith("Usage: trio-replica [OPTIONS] COMMAND [ARGS]...\n\n  Keep files in several stores")
    assert ended.err.count("Usage: ") == 1
    assert "Error: " not in ended.err


def test_help_and_version(run: Run) -> None:
    ended = run("--help")
    assert (ended.status, ended.err) == (0, "")
    options = (b"--sync", b"--async", b"--config", b"--queue-size")
    assert all(
        part in ended.out
        for part in (
            b"Usage: trio-replica",
            b"put",
            b"get",
            b"ls",
            b"status",
            b"check",
            b"reconcile",
            b"init",
            *options,
        )
    )
    for command in ("put", "get", "ls", "status", "check", "reconcile", "scrub"):
        ended = run(command, "--help")
        assert ended.status == 0
        assert all(part in ended.out for part in (b"Usage: trio-replica %b " % command.encode(), *options))
    ended = run("--version")
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(rb"trio-replica, version [0-9].*\n", ended.out)


# The configuration file

FIRST_MATCHES = pytest.mark.parametrize(
    ("given", "used"),
    [
        (["sync", "config", "variable", "file"], "sync"),
        (["config", "variable", "file"], "config"),
        (["variable", "file"], "variable"),
        (["file"], "file"),
        ([], "default"),
        (["sync"], "sync"),
        (["config"], "config"),
        (["variable"], "variable"),
    ],
)
"""The places that name stores, and the one of them that counts."""


@FIRST_MATCHES
@pytest.mark.parametrize("is_before", [True, False], ids=["before the command", "after it"])
def test_which_stores_are_used(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: list[str], used: str, *, is_before: bool
) -> None:
    for name in ("config", "variable", "file"):
        path = Path("trio-replica.toml" if name == "file" else f"{name}.toml")
        if name in given:
            path.write_text(f'[sync]\nlocal = "dir:{name}"\n')
    if "variable" in given:
        monkeypatch.setenv("TRIO_REPLICA_CONFIG", "variable.toml")
    options = [
        *(["--sync", "dir:sync"] if "sync" in given else []),
        *(["--config", "config.toml"] if "config" in given else []),
    ]
    printed = write({"data": b"data"})
    assert run(*(options if is_before else []), "put", *([] if is_before else options), "data") == (0, printed, "")
    folders = {path.name for path in Path().iterdir() if path.is_dir()}
    assert folders == {DATA if used == "default" else used}
    ref = hashlib.sha256(b"data").hexdigest()
    assert run(*options, "ls") == (0, f"{ref}\n".encode(), "")
    assert run(*options, "get", ref[:5]) == (0, b"data", "")


def test_an_empty_variable_names_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_REPLICA_CONFIG", "")
    write({"data": b"data"})
    assert run("put", "data").status == 0
    assert Path(DATA).is_dir()


def test_the_stores_of_a_file_have_their_names_there(run: Run) -> None:
    Path("folder").mkdir()
    Path("folder", "x.toml").write_text('[sync]\nnear = "dir:a"\n[async]\n"far away" = "sqlite:b.db"\n')
    write({"data": b"data"})
    assert run("put", "data", "--config", "folder/x.toml").status == 0
    assert sorted(os.listdir("folder")) == ["a", "b.db", "x.toml"]
    shutil.rmtree("folder/a/blobs")
    os.mkdir("folder/a/blobs")
    ended = run("status", "--config", "folder/x.toml")
    rows = [row.rsplit(maxsplit=3) for row in ended.out.decode().splitlines()[1:]]
    assert rows[:2] == [["near", "sync", "0", "1"], ["far away", "async", "1", "0"]]
    assert ended.out.decode().splitlines()[3] == "near lacks"
    shutil.rmtree("folder/a")
    assert run("ls", "--config", "folder/x.toml").problems == [
        f"there is no store dir:{Path.cwd()}/folder/a: {Path.cwd()}/folder/a/blobs: No such file or directory"
    ]


def test_what_the_file_says_of_the_replica_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Options] = []

    def noting(sync: Any, async_: Any, options: Options, *outbox: Any, **how: Any) -> Any:
        opened.append(options)
        return open_with(sync, async_, options, *outbox, **how)

    monkeypatch.setattr("trio_replica._urls.opening.open_with", noting)
    monkeypatch.setattr("trio_replica.cli.stores.open_with", noting)
    write({"data": b"data"})
    cases: list[tuple[list[str], str, dict[str, Any]]] = [
        ([], "", {"queue_size": 64}),
        ([], "queue_size = 5\ngrace = 1\nverify = false\n", {"queue_size": 5, "grace": 1, "verify": False}),
        (["--queue-size", "7"], "queue_size = 5\nhedge_delay = 2\n", {"queue_size": 7, "hedge_delay": 2}),
    ]
    for options, text, used in cases:
        Path("x.toml").write_text(text + '[sync]\na = "dir:a"\n')
        for command in (["put", "data"], ["ls"], ["get", hashlib.sha256(b"data").hexdigest()]):
            assert run(*command, "--config", "x.toml", *options).status == 0
            reading = {name: value for name, value in used.items() if name in {"verify", "hedge_delay"}}
            assert opened[-1] == Options(**(used if command[0] == "put" else reading))


@pytest.mark.parametrize("command", [["put", "data"], ["get", "00"], ["ls"], ["status"], ["check"]])
def test_a_bad_file_is_one_line(run: Run, command: list[str]) -> None:
    Path("bad.toml").write_text('[sync]\na = "dir:a"\n[async]\nb = { url = "s3://b", request = 5 }\n[x]\n')
    ended = run(*command, "--config", "bad.toml")
    known = ", ".join([*OPTIONS, "sync", "async"])
    assert (ended.status, ended.out, ended.problems) == (1, b"", [f"bad.toml:5: x is unknown; known are {known}"])
    ended = run(*command, "--config", "none.toml")
    assert ended.problems == ["none.toml: there is no such file; trio-replica init writes an example"]
    Path("trio-replica.toml").symlink_to("nowhere")
    assert run(*command).problems == ["trio-replica.toml: there is no such file; trio-replica init writes an example"]


def test_stores_elsewhere_are_not_looked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    away = SimulatedStore()

    @asynccontextmanager
    async def open_object_store(_: str) -> AsyncGenerator[SimulatedStore, None]:
        await trio.lowlevel.checkpoint()
        yield away

    open_with_function(monkeypatch, open_object_store, "s3")
    printed = write({"data": b"data"})
    url = "s3://bucket?secret_access_key=hunter2"
    assert run("put", "--sync", url, "data") == (0, printed, "")
    assert [str(ref) for ref in away.blobs] == [printed[:64].decode()]
    ended = run("status", "--sync", "memory:", "--async", url)
    assert (ended.status, ended.err) == (0, "")
    assert "s3://bucket?secret_access_key=***" in ended.out.decode()
    assert b"hunter2" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ls", "--sync", "s3:me:hunter2@b"], "the URL of such a store is s3://BUCKET/PREFIX"),
        (["ls", "--sync", "x://me:hunter2@b"], "unknown store 'x:…'"),
        (["ls", "--sync", "https://b?sig=hunter2"], "unknown store 'https://b?sig=***'"),
        (["ls", "a://me:hunter2@b"], "unexpected extra argument (a://me:***@b)"),
        (["a://me:hunter2@b"], "No such command 'a://me:***@b'"),
        (
            [
                "ls",
                *("--sync", "s3://b?secret_access_key=hunter2"),
                *("--sync", "s3://b?secret_access_key=hunter3"),
            ],
            "the store s3://b?secret_access_key=*** is given twice",
        ),
        (
            ["ls", "--sync", "s3://b?sig=hunter2"],
            "Invalid value for '--sync': s3://b: Configuration key: 'sig' is not ",
        ),
        (
            ["ls", "--async", "s3://b?secret_access_key=hunter2"],
            "an --async store needs a --sync store beside it",
        ),
    ],
)
def test_what_is_wrong_with_arguments_shows_no_secrets(run: Run, arguments: list[str], problem: str) -> None:
    ended = run(*arguments)
    assert ended.status == 2
    assert problem in " ".join(ended.err.split())
    assert "hunter" not in ended.err


def test_a_package_is_missing_for_a_store(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    miss_package(monkeypatch, "obstore")
    ended = run("ls", "--sync", "s3://b")
    assert (ended.status, "pip install 'trio-replica[cloud]'" in " ".join(ended.err.split())) == (1, True)
    Path("x.toml").write_text('[sync]\na = "s3://b"\n')
    problem = "x.toml:2: sync.a can't be used: object stores need obstore: pip install 'trio-replica[cloud]'"
    assert run("ls", "--config", "x.toml").problems == [problem]


# init


def test_init_writes_an_example_that_works(run: Run) -> None:
    ended = run("init")
    assert (ended.status, ended.out) == (0, b"")
    assert ended.problems == ["wrote trio-replica.toml; trio-replica check tries the stores that it names"]
    assert os.stat("trio-replica.toml").st_mode & 0o777 == 0o600
    printed = write({"data": b"data"})
    assert run("put", "data") == (0, printed, "")
    assert run("check").status == 0
    assert run("status").out.decode().split()[4:] == ["local", "sync", "1", "0", "copy", "async", "1", "0"]
    assert sorted(os.listdir()) == ["data", "trio-replica-copy", "trio-replica.db", "trio-replica.toml"]


def test_all_that_is_commented_out_in_the_example_is_good(run: Run) -> None:
    run("init", "all.toml")
    text = Path("all.toml").read_text()
    everything = re.sub(r"(?m)^#(?=\S)", "", text)
    assert everything.count("\n#") < text.count("\n#") - 9
    Path("all.toml").write_text(everything)
    kept = read_config("all.toml")
    assert list(kept.options) == list(OPTIONS)
    assert list(kept.sync) == ["local", "second"]
    assert list(kept.async_) == ["copy", "offsite", "database", "minio"]
    for url in (*kept.sync.values(), *kept.async_.values()):
        url.open()


def test_init_overwrites_nothing(run: Run) -> None:
    Path("mine.toml").write_text("mine")
    ended = run("init", "mine.toml")
    assert (ended.status, ended.problems) == (1, ["mine.toml is there already: it is not overwritten"])
    assert Path("mine.toml").read_text() == "mine"
    Path("link").symlink_to("nowhere")
    assert run("init", "link").problems == ["link is there already: it is not overwritten"]
    assert run("init", "none/x.toml").problems == ["none/x.toml: No such file or directory"]
    assert sorted(os.listdir()) == ["link", "mine.toml"]


def test_init_leaves_no_part_of_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli_files, "write_all", refuse)
    ended = run("init")
    assert (ended.status, ended.problems) == (1, ["trio-replica.toml: No space left on device"])
    assert os.listdir() == []

    def replace(*_: object) -> NoReturn:
        os.unlink("trio-replica.toml")
        write({"trio-replica.toml": b"another program's"})
        refuse()

    monkeypatch.setattr(cli_files, "write_all", replace)
    assert run("init").status == 1
    assert Path("trio-replica.toml").read_bytes() == b"another program's"


# check

CHECK_HEAD = r"STORE +ROUND TRIP  OUTCOME\n"
OK = r" +[0-9]+\.[0-9] ms  ok\n"


def test_check_tries_every_store(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    names = ["good", "no-put", "no-get", "no-delete", "wrong", "lost"]
    for name in names:
        simulated[name] = SimulatedStore()
    for name in ("put", "get", "delete"):
        simulated[f"no-{name}"].fail(OSError("a://me:hunter2@host"), name)

    class Wrong(SimulatedStore):
        async def get(self, ref: Ref) -> bytes:
            return await super().get(ref) + b"x"

    class Lost(SimulatedStore):
        async def delete(self, ref: Ref) -> bool:
            await super().delete(ref)
            return False

    simulated["wrong"], simulated["lost"] = Wrong(), Lost()
    Path("no.db").write_bytes(b"no database" * 1000)
    Path("file").write_bytes(b"")
    lines = [f'"{name}" = "dir:{name}"' for name in names]
    Path("x.toml").write_text(
        "[sync]\n" + "\n".join(lines[:3]) + '\nno-db = "sqlite:no.db"\nno-folder = "sqlite:file/x"\n'
        "[async]\n" + "\n".join(lines[3:]) + "\n"
    )
    for name in names:
        simulated[f"{Path.cwd()}/{name}"] = simulated[name]
        Path(name, "blobs", "00").mkdir(parents=True)
    ended = run("check", "--config", "x.toml")
    assert (ended.status, ended.err) == (1, "")
    failed = "a://me:***@host"
    head, good, *rows = ended.out.decode().splitlines(keepends=True)
    assert re.fullmatch(CHECK_HEAD, head)
    assert re.fullmatch("good" + OK, good)
    assert [row.split(maxsplit=2)[0] for row in rows] == [*names[1:3], "no-db", "no-folder", *names[3:]]
    outcomes = {row.split()[0]: row.split("failed: ")[1].rstrip("\n") for row in rows}
    assert outcomes["no-put"] == f"put: OSError: {failed}"
    assert outcomes["no-get"] == f"get: OSError: {failed}"
    (left,) = simulated["no-delete"].blobs
    assert outcomes["no-delete"] == f"the test blob {left} may be left: delete: OSError: {failed}"
    assert re.fullmatch("get: blob .* is corrupt: its bytes are those of .*", outcomes["wrong"])
    assert outcomes["lost"] == "delete: the blob was not there any more"
    assert outcomes["no-db"].startswith("DatabaseError: SQLITE_NOTADB: ")
    assert outcomes["no-folder"].endswith("/file/x: Not a directory")
    assert {len(simulated[name].blobs) for name in names if name != "no-delete"} == {0}


def test_check_repeats_nothing(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    simulated[f"{os.path.realpath('.')}/a"] = SimulatedStore()
    simulated[f"{os.path.realpath('.')}/a"].fail(OSError("away"), "put", count=1)
    Path("x.toml").write_text('[sync]\na = { url = "dir:a", retry = true }\n')
    Path("a/blobs/00").mkdir(parents=True)
    ended = run("check", "--config", "x.toml")
    assert ended.out.endswith(b"failed: put: OSError: away\n")


def test_check_of_the_default_stores(run: Run) -> None:
    ended = run("check")
    assert (ended.status, ended.problems) == (1, [NO_STORE])
    assert os.listdir() == []
    write({"data": b"data"})
    assert run("put", "data").status == 0
    ended = run("check")
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(f"{CHECK_HEAD}{SYNC}{OK}{ASYNC}{OK}", ended.out.decode())


def test_check_creates_no_store(run: Run) -> None:
    ended = run("check", "--sync", "memory:", "--sync", "dir:a", "--async", "sqlite:b.db")
    assert (ended.status, ended.err) == (1, "")
    _, memory, folder, database = ended.out.decode().splitlines()
    assert re.fullmatch(f"memory:    {OK.removesuffix(chr(92) + 'n')}", memory)
    assert re.fullmatch("dir:a +failed: there is no store dir:a: .*No such file or directory", folder)
    assert re.fullmatch("sqlite:b.db +failed: there is no store sqlite:b.db: .*No such file or directory", database)
    assert os.listdir() == []


def test_check_notices_a_store_that_adds_what_is_there(run: Run, simulated: dict[str, SimulatedStore]) -> None:
    class Overwriting(SimulatedStore):
        async def put(self, blob: Blob | BytesLike) -> PutResult:
            return (await super().put(blob))._replace(added=True)

    simulated["a"] = Overwriting()
    Path("a/blobs/00").mkdir(parents=True)
    ended = run("check", "--sync", "dir:a")
    assert ended.status == 1
    assert b"failed: put: it added a blob that was there, so it has no create-if-absent" in ended.out
    assert simulated["a"].blobs == {}


def test_no_create_makes_no_store(run: Run) -> None:
    write({"data": b"data"})
    ended = run("put", "--no-create", "--sync", "dir:a", "data")
    assert (ended.status, ended.out) == (1, b"")
    assert "there is no store here" in ended.problems[0]
    assert run("--no-create", "put", "data").problems == [NO_STORE]
    assert os.listdir() == ["data"]
    assert run("put", "--sync", "dir:a", "data").status == 0
    assert run("put", "--no-create", "--sync", "dir:a", "data").status == 0


def test_check_of_named_stores(run: Run) -> None:
    write({"data": b"data"})
    assert run("put", "--sync", "dir:a", "data").status == 0
    ended = run("check", "--sync", "memory:", "--async", "dir:a")
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(f"{CHECK_HEAD}memory:{OK}dir:a  {OK}", ended.out.decode())


def test_check_says_what_a_bad_option_is(run: Run) -> None:
    ended = run("check", "--sync", "s3://b?requests=0", "--async", "memory:")
    assert (ended.status, ended.out) == (2, b"")
    assert ended.err.splitlines()[-1] == "Error: Invalid value for '--sync': requests is at least 1, not 0"


def test_a_command_does_without_a_store_that_it_does_not_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "nowhere")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    write({"x": b"data"})
    assert run("put", "--sync", "dir:a", "x").status == 0
    ref = Ref.of(b"data")
    assert run("ls", "--sync", "dir:a", "--async", "s3://b") == (0, f"{ref}\n".encode(), "")
    ended = run("put", "x", "--sync", "s3://b")
    assert (ended.status, ended.out) == (1, b"")
    assert ended.problems[0].startswith("s3://b: there are no credentials: ")

    def open_object_store(url: str) -> NoReturn:
        raise RuntimeError("not today")

    open_with_function(monkeypatch, open_object_store, "s3")
    ended = run("get", str(ref), "--sync", "dir:a", "--sync", "s3://b")
    assert (ended.status, ended.out, ended.problems) == (0, b"data", ["RuntimeError: not today"])


def test_check_says_why_a_store_does_not_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_directory(path: str) -> AsyncGenerator[SimulatedStore, None]:
        await trio.lowlevel.checkpoint()
        raise ValueError(*([f"{path} is no good"] if path == "a" else []))
        yield SimulatedStore()

    open_with_function(monkeypatch, open_directory, "dir")
    Path("a/blobs/00").mkdir(parents=True)
    Path("b/blobs/00").mkdir(parents=True)
    ended = run("check", "--sync", "dir:a", "--sync", "dir:b", "--async", "memory:")
    assert (ended.status, ended.err) == (1, "")
    _, bad, odd, good = ended.out.decode().splitlines(keepends=True)
    assert bad.endswith(" failed: a is no good\n")
    assert odd.endswith(" failed: ValueError\n")
    assert re.fullmatch(f"memory: +{OK}", good)


@pytest.mark.usefixtures("_sigint")
@pytest.mark.parametrize("operation", ["put", "get"])
def test_an_interrupted_check_deletes_its_blob(run: Run, simulated: dict[str, SimulatedStore], operation: str) -> None:
    class Interrupting(SimulatedStore):
        async def _interrupt(self) -> NoReturn:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

        async def put(self, blob: Blob | BytesLike) -> PutResult:
            result = await super().put(blob)
            if operation == "put":
                await self._interrupt()
            return result

        async def get(self, ref: Ref) -> NoReturn:
            await self._interrupt()

    Path("a/blobs/00").mkdir(parents=True)
    Path("b/blobs/00").mkdir(parents=True)
    simulated["a"], simulated["b"] = Interrupting(), SimulatedStore()
    ended = run("check", "--sync", "dir:a", "--sync", "dir:b")
    assert (ended.status, ended.problems) == (130, ["interrupted"])
    assert [call.operation for call in simulated["a"].calls][-1] == "delete"
    assert simulated["a"].blobs == {}
    assert simulated["b"].calls == []
    simulated["a"] = Interrupting()
    simulated["a"].fail(OSError("away"), "delete")
    ended = run("check", "--sync", "dir:a")
    (ref,) = simulated["a"].blobs
    left = f"the test blob {ref} may be left: delete: OSError: away"
    assert (ended.status, ended.problems) == (130, [left, "interrupted"])


def test_check_says_that_its_blob_is_left(run: Run) -> None:
    write({"data": b"data"})
    assert run("put", "--sync", "sqlite:a", "data").status == 0
    with closing(sqlite3.connect("a")) as database:
        database.execute("CREATE TRIGGER t BEFORE DELETE ON blobs BEGIN SELECT RAISE(IGNORE); END")
    ended = run("check", "--sync", "sqlite:a")
    with closing(sqlite3.connect("a")) as database:
        ((ref,),) = database.execute("SELECT lower(hex(ref)) FROM blobs WHERE length(data) = 64").fetchall()
    _, line = ended.out.decode().splitlines()
    assert ended.status == 1
    assert line.endswith(
        f"failed: the test blob {ref} may be left: delete: the database does not delete the row of {ref}: "
        f"look at the triggers of the table blobs: {Path.cwd()}/a"
    )


async def test_a_deletion_that_hangs_ends(
    simulated: dict[str, SimulatedStore],
    autojump_clock: MockClock,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    async def note(line: str) -> None:  # without a thread, for which a mock clock does not wait
        lines.append(line)
        await trio.lowlevel.checkpoint()

    lines: list[str] = []
    store = simulated["a"] = SimulatedStore()
    monkeypatch.chdir(tmp_path)
    Path("a/blobs/00").mkdir(parents=True)
    store.hang("delete")
    assert not await check_stores({"a": parse_url("dir:a")}, {}, tell=note)
    assert trio.current_time() == 10
    (ref,) = store.blobs
    assert lines[1].split(maxsplit=1) == [
        "a", f"failed: the test blob {ref} may be left: delete: took more than 10 seconds"
    ]  # fmt: skip
    store.hang("get")
    with trio.move_on_after(5):
        await check_stores({"a": parse_url("dir:a")}, {}, tell=note)
    assert trio.current_time() == 25
    assert capfd.readouterr().err.endswith(" may be left: delete: took more than 10 seconds\n")


# Words


def test_what_an_error_says() -> None:
    assert describe(FileNotFoundError(2, "No such file", "na\nme")) == r"na\nme: No such file"
    assert describe(OSError(5, "Input/output error")) == "Input/output error"
    assert describe(OSError("away")) == "OSError: away"
    assert describe(KeyError()) == "KeyError"
    assert describe(replica.ReplicaError("said")) == "said"


def test_a_problem_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    say("two\nlines, a bell \a and half a \ud800")
    assert capfd.readouterr().err == "trio-replica: two lines, a bell \\x07 and half a \\ud800\n"


def test_all_is_written(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    write_some = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write_some(file, data[:1000]))
    write_output(b"0123456789" * 777)
    monkeypatch.undo()
    assert capfdbinary.readouterr().out == b"0123456789" * 777


# The entry point


def test_the_module_is_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-replica", "--version"])
    monkeypatch.delitem(sys.modules, "trio_replica.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("trio_replica", run_name="__main__")
    assert ended.value.code == 0
    assert "version" in capsys.readouterr().out


@pytest.fixture
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if f"{name}.".startswith("trio_replica.cli.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(replica, "cli")


@pytest.mark.usefixtures("_not_imported")
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == "trio-replica: the command line needs click: pip install 'trio-replica[cli]'"


def test_a_missing_package_in_a_process() -> None:
    ended = finish(start("--version", code="import sys; sys.modules['rich'] = None" + MAIN))
    assert (ended.status, ended.problems) == (1, ["the command line needs rich: pip install 'trio-replica[cli]'"])


@pytest.mark.usefixtures("_not_imported")
def test_another_missing_module_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_replica.cli", None)
    with pytest.raises(ModuleNotFoundError, match=r"trio_replica\.cli"):
        __main__.main()


@pytest.mark.usefixtures("_not_imported")
def test_an_interruption_while_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            raise KeyboardInterrupt(name)

    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    assert __main__.main() == 130
