"""An outbox has one user at a time, by whatever name it is reached, and whatever happens to its files."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast, final

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, ReplicaError, StoreError
from trio_replica import _sqlite_files as files
from trio_replica._async import outbox_connection as internals
from trio_replica._async.delivery import OutboxDelivery
from trio_replica._async.outbox_by_hand import opened_outbox
from trio_replica._async.outbox_file import open_sqlite_outbox
from trio_replica._async.storage import Changes, SessionStore
from trio_replica._calls.start import ended_call
from trio_replica._sqlite_connection import close_without_checkpoint
from trio_replica.testing import SimulatedStore

from . import child
from .common import open_and_close, refs
from .mounts import forget_inodes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .mounts import Mounts

LOST = "the outbox was removed or replaced while it was open: open the replica again, and reconcile"
IN_USE = "the file is in use by another replica, or as the database of a store (SQLITE_BUSY)"


pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "outbox.db"


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


@final
class Holder:
    """A process that has an outbox open, and puts to it when it is told to."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def put(self, number: int) -> str | None:
        """Return what the put raises."""
        return self._ask(str(number))

    def read_the_file(self) -> None:
        """Let it open and close the file, which drops SQLite's locks."""
        assert self._ask("read") is None

    def fork(self) -> int:
        """Let it fork a process that does nothing, and return its number."""
        return int(str(self._ask("fork")))

    def end(self) -> str | None:
        """Return what leaving the block raises."""
        return self._ask("end")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _ask(self, word: str) -> str | None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str | None:
        assert self._process.stdout is not None
        answer: str | None = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def holding(path: object) -> Generator[Holder, None, None]:
    """Run a process that has an outbox open."""
    with subprocess.Popen(child.command("hold_outbox", path), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        holder = Holder(process)
        try:
            assert holder.answer() == "open"
            yield holder
        finally:
            process.kill()


@asynccontextmanager
async def opened(path: object) -> AsyncGenerator[replica.ReplicaStore, None]:
    """Open a replica whose async store hangs, so that entries stay."""
    copy = SimulatedStore()
    copy.hang("put", "put_many")
    with trio.CancelScope() as scope:
        async with replica.open([MemoryStore()], {"copy": copy}, outbox=str(path)) as store:
            try:
                yield store
            finally:
                scope.cancel()


def problem(path: object) -> str:
    """Return what opening a replica raises."""

    async def main() -> None:
        await open_and_close(opened(path))

    with pytest.raises(ReplicaError) as caught:
        trio.run(main)
    return str(caught.value)


def pending(path: object) -> list[replica.Ref]:
    with opened_outbox(str(path)) as outbox:
        return list(outbox.refs("copy"))


# Names


def other_names(path: Path) -> dict[str, tuple[Path, str]]:
    """Give a file other names, and return these, and what opening it by them says."""
    link, hard, linked_folder = path.with_name("link.db"), path.with_name("hard.db"), path.parent.with_name("other")
    link.symlink_to(path)
    linked_folder.symlink_to(path.parent)
    os.link(path, hard)
    names = "the file has 2 names, and its log is beside only one of them: remove the other hard links, or name a copy"
    return {"link": (link, names), "hard": (hard, names), "folder": (linked_folder / path.name, names)}


def test_by_no_name_it_is_opened_twice(path: Path) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        for name, (other, says) in other_names(path).items():
            assert problem(other) == f"{other}: {says}", name
        path.with_name("hard.db").unlink()
        for other in (path.with_name("link.db"), path.parent.with_name("other") / path.name):
            assert problem(other) == f"{other}: {IN_USE}"
        assert holder.put(1) is None
        holder.kill()
    assert pending(path.with_name("link.db")) == [*refs(0, 1)], "its log is found by that name, too"


def test_a_file_with_two_names_is_not_taken_without_its_log(path: Path) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        holder.kill()
    hard = path.with_name("hard.db")
    os.link(path, hard)
    before = path.read_bytes(), log_of(path).read_bytes()
    for name in (path, hard):
        assert "the file has 2 names" in problem(name)
        with pytest.raises(ReplicaError, match="the file has 2 names"), opened_outbox(str(name)):
            pass  # pragma: no cover  (it does not open)
    assert (path.read_bytes(), log_of(path).read_bytes()) == before
    assert not log_of(hard).exists()
    hard.unlink()
    assert pending(path) == [*refs(0)]


# Files that are removed or replaced while it is open


def unlink(path: Path) -> None:
    path.unlink()


def unlink_both(path: Path) -> None:
    path.unlink()
    log_of(path).unlink()


def replace_by_an_older_copy(path: Path) -> None:
    with closing(sqlite3.connect(path.with_name("copy.db"))) as copy:
        copy.execute("PRAGMA user_version = 0")
    path.with_name("copy.db").replace(path)


def move_away(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def move_the_folder_away(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


@pytest.mark.parametrize(
    "change",
    [
        replace_by_an_older_copy,
        *(
            pytest.param(change, marks=pytest.mark.deep)
            for change in (unlink, unlink_both, move_away, move_the_folder_away)
        ),
    ],
)
def test_nothing_is_acknowledged_once_the_file_is_lost(path: Path, change: Callable[[Path], None]) -> None:
    with holding(path) as first:
        assert first.put(0) is None
        change(path)
        if log_of(path).exists():
            assert problem(path) == f"{path}: {IN_USE}", "the log is in use still"
            log_of(path).unlink()
        with holding(path) as second:
            assert second.put(1) is None
            for number in (2, 3):
                said = first.put(number)
                assert said is not None
                assert LOST in said
            assert second.put(4) is None
            assert LOST in str(first.end())
            assert second.put(5) is None
            second.kill()
        assert pending(path) == [*refs(1, 4, 5)]


@pytest.mark.deep
def test_a_log_that_is_removed_fails_one_put_and_loses_nothing(path: Path) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        log_of(path).unlink()
        assert problem(path) == f"{path}: {IN_USE}"
        said = holder.put(1)
        assert said is not None
        assert "the log of the outbox was removed or replaced while it was open: leave it alone" in said
        assert holder.put(2) is None
        holder.kill()
    assert set(refs(0, 2)) <= set(pending(path)) <= set(refs(0, 1, 2))


@pytest.mark.deep
def test_a_log_that_is_removed_is_written_back_at_the_end(path: Path) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        log_of(path).unlink()
        assert holder.end() is None
    assert pending(path) == [*refs(0)]


@pytest.mark.deep
def test_a_log_that_is_another_file_is_left_alone(path: Path) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        log_of(path).unlink()
        log_of(path).write_text("of somebody else")
        for number in (1, 2):
            said = holder.put(number)
            assert said is not None
            assert ("the log of the outbox was removed" if number == 1 else LOST) in said
        assert log_of(path).read_text() == "of somebody else"
        assert LOST in str(holder.end())
    assert log_of(path).read_text() == "of somebody else"


@pytest.mark.deep
@pytest.mark.parametrize("name", ["outbox.db-shm", "outbox.db-journal"])
def test_a_file_that_it_does_not_use_changes_nothing(path: Path, name: str) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        assert not path.with_name(name).exists()
        path.with_name(name).write_bytes(b"")
        assert problem(path) == f"{path}: {IN_USE}"
        path.with_name(name).unlink()
        assert holder.put(1) is None
        holder.kill()
    assert pending(path) == [*refs(0, 1)]


def test_a_connection_that_has_lost_sqlites_lock_still_excludes_others(path: Path) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        holder.read_the_file()
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            assert connection.execute("PRAGMA user_version").fetchall() == [(2,)], "it has lost it"
            before = path.read_bytes(), log_of(path).read_bytes()
            assert problem(path) == f"{path}: {IN_USE}"
            assert (path.read_bytes(), log_of(path).read_bytes()) == before
        os.kill(holder._process.pid, signal.SIGKILL)


# File systems


@pytest.mark.mounts
def test_a_folder_that_is_mounted_twice(path: Path, mounts: Mounts) -> None:
    other = mounts.bind(path.parent, path.parent.with_name("bound")) / path.name
    with holding(path) as holder:
        assert holder.put(0) is None
        assert problem(other) == f"{other}: {IN_USE}"
        assert holder.put(1) is None
        holder.kill()
    assert pending(other) == [*refs(0, 1)]


@contextmanager
def bound(source: Path, target: Path) -> Generator[None, None, None]:
    """Mount a single file in another place, too."""
    target.touch()
    ended = subprocess.run(["mount", "--bind", source, target], capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"mount says: {ended.stderr.strip()}")  # pragma: no cover  (where there is no leave to mount)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.mounts
def test_a_file_that_is_mounted_without_its_folder(path: Path) -> None:
    path.parent.with_name("other").mkdir()
    other = path.parent.with_name("other") / "outbox.db"
    says = f"{other}: the file is mounted without its folder, and so without its log: mount the folder instead"
    with holding(path) as holder:
        assert holder.put(0) is None
        with bound(path, other):
            assert problem(other) == says
            holder.kill()
            assert problem(other) == says
            assert not log_of(other).exists()
    assert pending(path) == [*refs(0)]


def test_a_file_that_the_system_says_is_mounted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {str(path): "mnt_id: 2", str(path.parent): "mnt_id: 1"}
    path.touch()
    monkeypatch.setattr(files, "_mount_of", numbers.get)
    assert "the file is mounted without its folder" in problem(path)


@pytest.mark.mounts
@pytest.mark.parametrize("kind", ["overlay", "fuse"])
def test_a_file_system_that_changes_the_numbers_of_files(path: Path, mounts: Mounts, kind: str) -> None:
    with holding(path) as holder:
        assert holder.put(0) is None
        holder.kill()
    other = getattr(mounts, kind)(path.parent, path.parent.with_name("other")) / path.name
    with holding(other) as holder:
        for number in (1, 2):
            assert holder.put(number) is None
            forget_inodes()
        assert problem(other) == f"{other}: {IN_USE}"
        holder.kill()
    assert pending(other)[-2:] == [*refs(1, 2)], "the first is in doubt, and may be withdrawn"


# Without what Linux has


def test_a_system_that_has_no_descriptor_that_only_stands_for_a_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_O_PATH", None)

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")
            path.rename(path.with_name("moved"))
            with pytest.raises(StoreError, match=LOST):
                await store.put(b"1")

    trio.run(main)
    path.unlink(missing_ok=True)
    path.with_name("moved").rename(path)
    assert pending(path) == [*refs(0)]


def test_a_number_that_the_file_system_has_changed(path: Path) -> None:
    other = path.with_name("other.db")
    path.touch()
    other.touch()
    file = files.PinnedFile.opened(str(path))
    file.identity = files.identity_of(other.stat())  # as if this had been its number when it was opened
    assert file.has_its_name()
    other.replace(path)
    assert not file.has_its_name()
    file.close()


def test_a_file_that_is_replaced_where_no_descriptor_only_stands_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_O_PATH", None)
    path.touch()
    path.with_name("other.db").touch()
    file = files.PinnedFile.opened(str(path))
    assert file.has_its_name()
    path.with_name("other.db").replace(path)
    assert not file.has_its_name()


def test_a_system_that_does_not_tell_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, "no", name)

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")
            with monkeypatch.context() as patch:
                patch.setattr(os, "stat", refuse)
                with pytest.raises(StoreError, match=LOST):
                    await store.put(b"1")

    trio.run(main)


def test_opening_it_waits_for_the_lock_on_its_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(path).touch()
    held = files.PinnedFile.locked(str(log_of(path)))
    monkeypatch.setattr(internals, "LOCK_SECONDS", 10.0)
    monkeypatch.setattr("time.sleep", lambda _: held.close())
    with ExitStack() as undo:
        assert internals._locked_log(str(path), undo) is not None


@pytest.mark.parametrize("how", ["written back", "lost", "failing"])
def test_the_log_is_locked_until_sqlite_has_closed(path: Path, how: str) -> None:
    class Closing:
        """A connection of SQLite's that looks, as it closes, whether another process could lock the log."""

        def __init__(self, sql: sqlite3.Connection) -> None:
            self._sql = sql

        def close(self) -> None:
            with pytest.raises(BlockingIOError):
                files.PinnedFile.locked(str(log_of(path)))
            self._sql.close()
            closed.append(how)
            if how == "failing":
                raise sqlite3.OperationalError("disk I/O error")

    closed: list[str] = []
    connection = internals.connect(str(path))
    connection.sql = cast("sqlite3.Connection", Closing(connection.sql))
    expected: dict[str, AbstractContextManager[object]] = {
        "written back": nullcontext(),
        "lost": pytest.raises(ReplicaError, match=LOST),
        "failing": pytest.raises(sqlite3.OperationalError, match="disk I/O error"),
    }
    if how == "lost":
        move_away(path)
    with expected[how]:
        connection.close()
    connection.file.close()
    assert closed == [how]
    log_of(path).touch()
    files.PinnedFile.locked(str(log_of(path))).close()


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")

    trio.run(main)
    assert pending(path) == [*refs(0)]


@pytest.mark.deep
def test_a_forked_process_does_not_hold_what_its_parent_held(path: Path) -> None:
    """It may outlive the parent."""
    with holding(path) as holder:
        assert holder.put(0) is None
        forked = holder.fork()
        try:
            holder.kill()
            assert pending(path) == [*refs(0)]
        finally:
            os.kill(forked, signal.SIGKILL)


@pytest.mark.deep
def test_a_connection_that_is_abandoned_writes_nothing_back(path: Path) -> None:
    """Not even as the interpreter ends: Python 3.11 leaves it open until then."""
    program = f"""
import sqlite3
from trio_replica._sqlite_connection import close_without_checkpoint
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL").fetchall()
connection.execute("CREATE TABLE t (x)")
close_without_checkpoint(connection)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert log_of(path).stat().st_size > 0
    assert path.stat().st_size == 4096


def test_a_connection_is_closed_without_a_checkpoint_where_python_can() -> None:
    class Configurable(sqlite3.Connection):
        def setconfig(self, option: int, enable: bool = True, /) -> None:
            done.append((option, enable))

        def close(self) -> None:
            done.append("closed")
            super().close()

    done: list[object] = []
    close_without_checkpoint(sqlite3.connect(":memory:", factory=Configurable))
    assert done == [(1006, True), "closed"]


# The same in this process


def test_a_log_that_is_removed_fails_one_put(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")
            log_of(path).unlink()
            with pytest.raises(StoreError, match="the log of the outbox was removed or replaced"):
                await store.put(b"1")
            await store.put(b"2")

    trio.run(main)
    assert pending(path) == [*refs(0, 2)]


def test_a_log_that_is_replaced_ends_the_session(path: Path) -> None:
    async def main() -> None:
        copy = SimulatedStore()
        async with replica.open([MemoryStore()], {"copy": copy}, outbox=str(path)) as store:
            await store.put(b"0")
            await store.flush()
            log_of(path).unlink()
            log_of(path).write_text("of somebody else")
            for _ in range(2):
                with pytest.raises(StoreError, match="outbox"):
                    await store.put(b"1")

    with pytest.raises(ReplicaError, match=LOST):
        trio.run(main)
    assert log_of(path).read_text() == "of somebody else"


def test_a_file_that_is_replaced_while_the_stores_are_opened(path: Path) -> None:
    class Slow(SimulatedStore):
        async def identity(self) -> str | None:
            replace_by_an_older_copy(path)
            replaced.append(path.read_bytes())
            return await super().identity()

    async def main() -> None:
        await open_and_close(replica.open({"local": Slow()}, {"copy": MemoryStore()}, outbox=path))

    replaced: list[bytes] = []
    with pytest.raises(ReplicaError, match=f"^{path}: {LOST}$"):
        trio.run(main)
    assert replaced == [path.read_bytes()]


def test_the_log_of_a_former_file_is_no_log_of_a_new_one(path: Path) -> None:
    path.touch()
    log_of(path).write_bytes(b"of a file that was removed")

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")
            with pytest.raises(ReplicaError, match="the file is in use"), opened_outbox(str(path)):
                pass  # pragma: no cover  (it does not open)
            await store.put(b"1")

    trio.run(main)
    assert pending(path) == [*refs(0, 1)]


async def test_a_file_that_is_replaced_while_nothing_has_it_open_is_not_written(path: Path) -> None:
    """After an error a connection is closed, and the next request opens another one."""

    async def commit(*seqs: int) -> None:
        await ended_call(partial(storage.start_commit, Changes(seqs, refs(*seqs), seqs, [1])))

    with pytest.raises(ReplicaError, match=LOST):
        async with open_sqlite_outbox(str(path)) as storage:
            await storage.begin([SessionStore("copy", "async", None)])
            await commit(1)
            with pytest.raises(ReplicaError, match="UNIQUE"):
                await commit(1)
            path.unlink()
            path.touch()
            for _ in range(2):
                with pytest.raises(ReplicaError, match=LOST):
                    await commit(2)
    assert path.read_bytes() == b""


def test_nothing_is_written_once_the_file_is_lost(path: Path) -> None:
    """Not even to its log: a commit may be followed by a checkpoint."""

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")
            assert isinstance(store._delivery, OutboxDelivery)
            await store._delivery.outbox.commit()  # so that no other is left to be made
            move_away(path)
            before = log_of(path).read_bytes(), path.with_name("moved.db").read_bytes()
            with pytest.raises(StoreError, match=LOST):
                await store.put(b"1")
            assert (log_of(path).read_bytes(), path.with_name("moved.db").read_bytes()) == before

    trio.run(main)


def test_a_put_is_not_acknowledged_if_the_file_is_lost_while_it_is_committed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def losing(connection: sqlite3.Connection) -> Generator[None, None, None]:
        with internals.transaction(connection):
            yield
            move_away(path)

    async def main() -> None:
        async with opened(path) as store:
            monkeypatch.setattr("trio_replica._async.outbox_file.transaction", losing)
            with pytest.raises(StoreError, match=LOST):
                await store.put(b"1")

    trio.run(main)


def test_a_change_by_hand_that_loses_the_file(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")

    trio.run(main)
    with pytest.raises(ReplicaError, match=LOST), opened_outbox(str(path)) as outbox:
        path.rename(path.with_name("moved.db"))
        with pytest.raises(ReplicaError, match=LOST):
            outbox.forget("copy")
    path.with_name("moved.db").rename(path)
    assert pending(path) == [*refs(0)]


def test_a_log_that_is_gone_as_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "_locked_log", lambda *_: None)
    assert problem(path) == f"{path}: {LOST}"


def test_locks_are_not_shared_with_a_forked_process(path: Path) -> None:
    path.touch()
    first = files.PinnedFile.locked(str(path))
    with pytest.raises(BlockingIOError):
        files.PinnedFile.locked(str(path))
    files._share_no_locks()  # which a forked process does first
    second = files.PinnedFile.locked(str(path))
    first.close()
    second.close()
