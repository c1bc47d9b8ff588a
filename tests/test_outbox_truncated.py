"""An outbox whose files are truncated or overwritten while it is open."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from trio_replica import MemoryStore, ReplicaError, StoreError
from trio_replica import open as open_replica
from trio_replica._async import outbox_connection as internals
from trio_replica._sqlite_files import PinnedFile

from .common import refs
from .test_directory_place import refuse
from .test_outbox_held import holding, log_of, opened, pending

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path

    from trio_replica import ReplicaStore

TRUNCATED = (
    "the outbox or its -wal was truncated or overwritten while it was open: open the replica again, and reconcile"
)

UNREADABLE = "outbox.db-wal: the log of the outbox can't be read: look at its disk"

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def overwrite_header(path: Path) -> None:
    descriptor = os.open(log_of(path), os.O_WRONLY)
    os.pwrite(descriptor, bytes(32), 0)
    os.close(descriptor)


def cut_by_a_byte(path: Path) -> None:
    os.truncate(log_of(path), os.stat(log_of(path)).st_size - 1)


def overwrite_with_garbage(path: Path) -> None:
    """Write over the log as ``cp`` does: the file stays the same, and becomes larger."""
    log_of(path).write_bytes(b"of somebody else" * 10_000)


def restore_in_place(path: Path) -> None:
    """Write the log of another outbox over the log, as ``cp`` does: the file stays the same."""
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("CREATE TABLE other (x)")
        content = log_of(other).read_bytes()
    log_of(path).write_bytes(content.ljust(os.stat(log_of(path)).st_size, b"\0"))


def append(path: Path) -> None:
    with log_of(path).open("ab") as log:
        log.write(b"of somebody else")


LOSSES: dict[str, Callable[[Path], object]] = {
    "log emptied": lambda path: os.truncate(log_of(path), 0),
    "log cut by a byte": cut_by_a_byte,
    "log overwritten": overwrite_with_garbage,
    "log continued": append,
    "log restored in place": restore_in_place,
    "header overwritten": overwrite_header,
    "database emptied": lambda path: os.truncate(path, 0),
}


@asynccontextmanager
async def delivering(path: Path) -> AsyncGenerator[ReplicaStore, None]:
    """Open a replica whose async store gets all blobs, once an outbox has been used before."""
    local = MemoryStore()
    for last in (False, True):
        async with open_replica([local], {"copy": MemoryStore()}, outbox=str(path)) as store:
            await store.put(b"0")
            await store.flush()
            if last:
                yield store


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_nothing_is_acknowledged_once_a_file_is_truncated_and_nothing_written_back(
    path: Path, lose: Callable[[Path], object]
) -> None:
    async def main() -> None:
        async with delivering(path) as store:
            await store.put(b"1")
            await store.flush()
            lose(path)
            before.extend(os.stat(file) for file in (path, log_of(path)))
            for _ in range(2):
                with pytest.raises(StoreError, match=f"outbox: .*{TRUNCATED}"):
                    await store.put(b"2")

    before: list[os.stat_result] = []
    with pytest.raises(ReplicaError, match=f"^{path}: {TRUNCATED}$"):
        trio.run(main)
    after = [os.stat(file) for file in (path, log_of(path))]
    assert [(one.st_size, one.st_mtime_ns) for one in after] == [(one.st_size, one.st_mtime_ns) for one in before]


@pytest.mark.parametrize("lose", [lambda path: os.truncate(log_of(path), 0), restore_in_place])
def test_a_log_that_is_truncated_when_nothing_is_written_is_not_written_back(
    path: Path, lose: Callable[[Path], object]
) -> None:
    async def main() -> None:
        async with delivering(path) as store:
            await store.put(b"1")
            await store.flush()
            lose(path)

    with pytest.raises(ReplicaError, match=TRUNCATED):
        trio.run(main)


@pytest.mark.deep
def test_the_entries_that_had_been_written_back_are_there_after_the_log_was_truncated(path: Path) -> None:
    """In another process, because Python 3.11 keeps the file locked until the process ends."""
    with holding(path) as holder:
        assert holder.put(0) is None
        holder.kill()
    with holding(path) as holder:  # which writes the log back
        assert TRUNCATED not in str(holder.put(1))
        holder.kill()
    assert pending(path) == [*refs(0, 1)]
    with holding(path) as holder:
        assert holder.put(2) is None
        os.truncate(log_of(path), 0)
        for number in (3, 4):
            assert TRUNCATED in str(holder.put(number))
        assert TRUNCATED in str(holder.end())
    assert pending(path) == [*refs(0, 1)]


def test_a_put_during_whose_commit_the_log_is_emptied_is_not_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def emptying(connection: sqlite3.Connection) -> Generator[None, None, None]:
        with internals.transaction(connection):
            yield
            os.truncate(log_of(path), 0)

    async def main() -> None:
        async with delivering(path) as store:
            monkeypatch.setattr("trio_replica._async.outbox_file.transaction", emptying)
            with pytest.raises(StoreError, match=TRUNCATED):
                await store.put(b"2")

    with pytest.raises(ReplicaError, match=TRUNCATED):
        trio.run(main)


def test_a_log_that_a_power_cut_has_left_is_no_loss(path: Path) -> None:
    async def put_one() -> None:
        async with opened(path) as store:
            await store.put(b"0")

    trio.run(put_one)
    log_of(path).write_bytes(bytes(50_000))  # its size has reached the disk, and its content has not

    async def main() -> None:
        async with opened(path) as store:
            await store.put(b"1")

    trio.run(main)
    assert pending(path) == [*refs(0, 1)]


def test_an_outbox_whose_log_can_not_be_read_as_it_is_opened_stays_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put_one() -> None:
        async with opened(path) as store:
            await store.put(b"0")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refuse(errno.EIO))
        with pytest.raises(ReplicaError, match=UNREADABLE):
            trio.run(put_one)
    trio.run(put_one)
    assert pending(path) == [*refs(0)]


def test_a_log_that_can_not_be_read_is_not_written_back_and_does_not_stay_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = internals.connect(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refuse(errno.ESTALE))
        for call in (connection.check, connection.note_written, connection.close):
            with pytest.raises(ReplicaError, match=UNREADABLE):
                call()
    assert os.stat(log_of(path)).st_size > 0
    PinnedFile.locked(str(log_of(path))).close()
    connection.file.close()
    connection.sql.close()  # Python 3.11 has left it open


@pytest.mark.deep
def test_a_log_that_sqlite_begins_again_is_no_loss(path: Path) -> None:
    """It writes the log back after a thousand pages, and then writes another header."""

    async def main() -> None:
        async with delivering(path) as store:
            log = os.open(log_of(path), os.O_RDONLY)
            for number in range(40):
                await store.put_many([b"%d %d" % (number, i) for i in range(1000)])
                await store.flush()
                headers.add(os.pread(log, 32, 0))
            os.close(log)

    headers: set[bytes] = set()
    trio.run(main)
    assert len(headers) > 1
    assert pending(path) == []
