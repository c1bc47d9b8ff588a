"""Looking at an outbox takes no permission to write, and changes nothing in one that was closed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_replica import ReplicaError
from trio_replica._async import outbox_by_hand, outbox_connection
from trio_replica._async.outbox_by_hand import looked_at_outbox, opened_outbox

from . import child
from .common import refs
from .sqlite_databases import files_in
from .test_outbox_held import IN_USE, holding, log_of, opened
from .test_outbox_held import problem as opening_problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .mounts import Mounts

NOT_CLOSED = (
    "the outbox was not closed, and its -wal can't be read here: copy the outbox with its -wal to a folder that can be "
    "written, and name the copy"
)

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "outbox.db"


@pytest.fixture
def closed(path: Path) -> Path:
    """Return an outbox that was closed with a pending entry."""

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"0")

    trio.run(main)
    assert os.listdir(path.parent) == [path.name]
    return path


def kill(path: Path) -> None:
    """Leave an outbox as a process that is killed does, with an entry in the log."""
    with holding(path) as holder:
        assert holder.put(0) is None
        holder.kill()
    assert os.stat(log_of(path)).st_size


def looked(path: Path) -> list[Any]:
    with looked_at_outbox(str(path)) as outbox:
        assert outbox.pending() == {"copy": 1}
        assert list(outbox.noted()) == ["copy"]
        return list(outbox.refs("copy", at_once=1))


def problem(path: Path) -> str:
    with pytest.raises(ReplicaError) as caught, looked_at_outbox(str(path)):
        pass  # pragma: no cover  (it does not open)
    return str(caught.value)


@pytest.mark.parametrize("has_log", [False, True])
def test_a_closed_outbox_is_looked_at_and_stays_as_it_is(closed: Path, *, has_log: bool) -> None:
    if has_log:
        log_of(closed).touch()
    before = files_in(closed.parent)
    assert looked(closed) == [*refs(0)]
    assert files_in(closed.parent) == before


async def test_a_user_who_may_only_read_looks_at_a_closed_outbox(closed: Path) -> None:
    closed.chmod(0o444)
    closed.parent.chmod(0o555)
    before = files_in(closed.parent)
    assert await child.run("look_at_outbox_as_nobody", closed.parent, closed.name) == [1, str(refs(0)[0])]
    assert files_in(closed.parent) == before
    closed.chmod(0o400)
    assert await child.run("look_at_outbox_as_nobody", closed.parent, closed.name) == (
        f"/{closed.name}: the outbox can't be read: get permission to read it and its folder (SQLITE_CANTOPEN)"
    )


async def test_a_user_who_may_only_read_is_told_how_to_look_at_one_that_was_not_closed(path: Path) -> None:
    kill(path)
    path.parent.chmod(0o555)
    for file in (path, log_of(path)):
        file.chmod(0o444)
    before = files_in(path.parent)
    said = await child.run("look_at_outbox_as_nobody", path.parent, path.name)
    assert said.startswith(f"/{path.name}: {NOT_CLOSED} (SQLITE_")
    assert files_in(path.parent) == before
    copies = path.parent.with_name("copies")
    shutil.copytree(path.parent, copies)
    copies.chmod(0o755)
    assert looked(copies / path.name) == [*refs(0)]


@pytest.mark.mounts
def test_an_outbox_on_a_disk_that_can_only_be_read(closed: Path, mounts: Mounts) -> None:
    killed = closed.parent / "killed" / closed.name
    killed.parent.mkdir()
    kill(killed)
    seen = mounts.bind(closed.parent, closed.parent.with_name("mounted"))
    mounts.make_read_only(seen)
    assert looked(seen / closed.name) == [*refs(0)]
    assert f": {NOT_CLOSED} (SQLITE_" in problem(seen / "killed" / closed.name)
    shutil.copytree(seen / "killed", closed.parent / "copy")
    assert looked(closed.parent / "copy" / closed.name) == [*refs(0)]


def test_an_outbox_whose_log_can_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without a mount."""

    class Unwritable(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_CANTOPEN", sqlite3.SQLITE_CANTOPEN
            raise error

    kill(path)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unwritable))
    assert problem(path) == f"{path}: {NOT_CLOSED} (SQLITE_CANTOPEN)"


def test_an_outbox_that_was_not_closed_is_written_back(path: Path) -> None:
    kill(path)
    assert looked(path) == [*refs(0)]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("is_written", [False, True])
def test_an_outbox_that_is_in_use_is_not_looked_at(closed: Path, *, is_written: bool) -> None:
    with holding(closed) as holder:
        if is_written:
            assert holder.put(1) is None
        assert problem(closed) == f"{closed}: {IN_USE}"
        assert holder.put(2) is None, "its lock is as it was"


def test_an_outbox_that_is_in_use_in_this_process_is_not_looked_at(closed: Path) -> None:
    with opened_outbox(str(closed)):
        assert log_of(closed).exists()
        assert problem(closed) == f"{closed}: {IN_USE}"


def test_an_outbox_that_is_written_to_while_it_is_looked_at(closed: Path) -> None:
    with looked_at_outbox(str(closed)) as outbox:
        assert outbox.pending() == {"copy": 1}
        with opened_outbox(str(closed)) as other:
            assert other.forget("copy") == 1
        for look in (outbox.pending, outbox.noted, lambda: list(outbox.refs("copy"))):
            with pytest.raises(ReplicaError, match=f"^{closed}: the outbox is written to while it is read: try again$"):
                look()
    assert looked_at_nothing(closed)


def looked_at_nothing(path: Path) -> bool:
    with looked_at_outbox(str(path)) as outbox:
        return outbox.pending() == {"copy": 0}


def test_an_outbox_that_is_opened_between_two_looks(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may begin and be killed after the files were looked at, and before the log is locked."""
    lock = outbox_connection.lock_log

    def kill_before(path: str) -> object:
        with holding(path) as holder:
            assert holder.put(1) is None
            holder.kill()
        monkeypatch.setattr(outbox_by_hand, "lock_log", lock)
        return lock(path)

    monkeypatch.setattr(outbox_by_hand, "lock_log", kill_before)
    with looked_at_outbox(str(closed)) as outbox:
        assert list(outbox.refs("copy")) == [*refs(0, 1)]


def test_an_outbox_whose_empty_log_is_written_to_between_two_looks(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = outbox_connection.lock_log
    log_of(closed).touch()

    def kill_before(path: str) -> object:
        monkeypatch.setattr(outbox_by_hand, "lock_log", lock)
        log = lock(path)
        assert log is not None
        log_of(closed).write_bytes(b"of a process that was killed")
        return log

    monkeypatch.setattr(outbox_by_hand, "lock_log", kill_before)
    assert looked(closed) == [*refs(0)]


def test_a_system_that_does_not_tell_of_an_outbox(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(outbox_by_hand, "status_of", fail)
    assert problem(closed) == f"{closed}: the outbox can't be read: Permission denied"


def test_an_empty_file_has_nothing_pending_and_stays_empty(path: Path) -> None:
    path.touch()
    with looked_at_outbox(str(path)) as outbox:
        assert outbox.pending() == {}
        assert outbox.noted() == {}
        assert list(outbox.refs("copy")) == []
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_size == 0


def test_anything_but_an_outbox_is_not_looked_at(path: Path) -> None:
    assert problem(path) == f"{path}: there is no such outbox"
    path.symlink_to("nowhere.db")
    assert problem(path) == f"{path}: there is no such outbox"
    path.unlink()
    path.write_text("This is a text, and no database.\n" * 100)
    assert problem(path) == f"{path}: the file is not an outbox: name another one (SQLITE_NOTADB)"
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE blobs (ref)")
    assert problem(path) == f"{path}: the file is a database, but not an outbox: name another one"
    os.link(path, path.with_name("hard.db"))
    assert "the file has 2 names" in problem(path)


# Not a file


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")


KINDS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.mkdir(), "this is a folder, not a regular file: name a file"),
    (make_pipe, "this is a pipe, not a regular file: name a file"),
    (make_device, "this is a device, not a regular file: name a file"),
]


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal", "-shm"])
@pytest.mark.parametrize(("make", "says"), KINDS)
def test_an_outbox_that_is_no_file_is_refused_and_left_alone(
    path: Path, make: Callable[[Path], object], says: str, suffix: str
) -> None:
    if suffix:
        path.touch()
    other = path.with_name(path.name + suffix)
    make(other)
    names = sorted(os.listdir(path.parent))
    assert opening_problem(path) == f"{other}: {says}"
    for look in (looked_at_outbox, opened_outbox):
        with pytest.raises(ReplicaError, match=f"^{other}: {says}$"), look(str(path)):
            pass  # pragma: no cover  (it does not open)
    assert sorted(os.listdir(path.parent)) == names
    assert not os.path.lexists("/dev/null-journal")
