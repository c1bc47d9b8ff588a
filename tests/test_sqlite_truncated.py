"""A SQLite store whose files are truncated or overwritten while it is open, and programs that may do so."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from trio_replica import Ref, ReplicaError, SqliteStore, open_sqlite
from trio_replica.stores._sqlite import files
from trio_replica.stores._sqlite.index import BYTES, LogIndex

from .common import open_and_close
from .sqlite_databases import SCHEMA, held_elsewhere, index_of, log_of, query, query_elsewhere
from .test_directory_place import refuse
from .test_sqlite_files import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = b"blob"
REF = Ref.of(DATA)
OLD = [b"old %d" % i for i in range(50)]
OLD_REFS = [Ref.of(data) for data in OLD]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "blobs.db"


def overwrite(path: Path, data: bytes, at: int = 0) -> None:
    """Write to a file as another program does, which does not drop the locks of this process on it."""
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, data, at)
    os.close(descriptor)


def truncate_half(path: Path) -> None:
    os.truncate(path, os.stat(path).st_size // 2)


def restore_in_place(path: Path) -> None:
    """Write the content of another log over a log, as ``cp`` does: the file stays the same."""
    other = path.with_name("other.db")
    with held_elsewhere(other, "PRAGMA journal_mode = WAL", SCHEMA, "INSERT INTO blobs VALUES (x'00', x'00')"):
        content = log_of(other).read_bytes()
    size = os.stat(log_of(path)).st_size
    os.truncate(log_of(path), 0)
    overwrite(log_of(path), content.ljust(size, b"\0"))


LOG = "blobs.db-wal was truncated or overwritten"
LOSSES: list[tuple[str, Callable[[Path], object], str]] = [
    ("log emptied", lambda path: os.truncate(log_of(path), 0), LOG),
    ("log cut by a byte", lambda path: os.truncate(log_of(path), os.stat(log_of(path)).st_size - 1), LOG),
    ("log cut in half", lambda path: truncate_half(log_of(path)), LOG),
    ("log restored in place", restore_in_place, LOG),
    ("end overwritten", lambda path: overwrite(log_of(path), bytes(4120), os.stat(log_of(path)).st_size - 4120), LOG),
    ("database emptied", lambda path: os.truncate(path, 0), "blobs.db was truncated or overwritten"),
]


@pytest.mark.parametrize(("lose", "message"), [loss[1:] for loss in LOSSES], ids=[loss[0] for loss in LOSSES])
async def test_a_store_fails_once_a_file_is_truncated_and_closes_without_a_write(
    path: Path, lose: Callable[[Path], object], message: str
) -> None:
    async with open_sqlite(path) as store:
        await store.put_many(OLD)
    async with open_sqlite(path) as store:
        await store.put(DATA)
        lose(path)
        before = {name: os.stat(path.with_name(name)) for name in os.listdir(path.parent)}
        for operation in OPERATIONS:
            with pytest.raises(ReplicaError) as info:
                await operation(store)
            assert str(info.value) == (
                f"{path}: {message} while the database was open, and its content may be lost: end all programs that "
                "use the database, open it again, and reconcile"
            )
    for name, status in before.items():
        after = os.stat(path.with_name(name))
        assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    if lose is not restore_in_place and "wal" in message:
        async with open_sqlite(path) as store:
            assert {*await store.get_many(OLD_REFS)} == {*OLD_REFS}
            assert (await store.check_integrity()).is_sound


async def test_a_log_that_is_truncated_and_then_not_used_is_not_written_back(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put_many(OLD)
    async with open_sqlite(path) as store:
        await store.put(DATA)
        os.truncate(log_of(path), 0)
    async with open_sqlite(path) as store:
        assert {*await store.get_many(OLD_REFS)} == {*OLD_REFS}
        assert await store.put(DATA) == (REF, True)
        assert (await store.check_integrity()).is_sound


async def test_a_log_that_is_truncated_while_another_process_uses_it_is_not_opened(path: Path) -> None:
    query(path, "PRAGMA journal_mode = WAL", SCHEMA)
    with held_elsewhere(path, "PRAGMA wal_autocheckpoint = 0", f"INSERT INTO blobs VALUES (x'{REF}', x'00')"):
        os.truncate(log_of(path), 0)
        with pytest.raises((ReplicaError, sqlite3.Error), match=r"blobs\.db"):
            await open_and_close(open_sqlite(path))
        assert os.stat(log_of(path)).st_size == 0


class Truncating(sqlite3.Connection):
    """A connection that truncates the log before a statement, after the store has checked it."""

    path: ClassVar[Path]
    at: ClassVar[str] = ""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.at and sql.startswith(self.at):
            type(self).at = ""
            os.truncate(log_of(self.path), 0)
        return super().execute(sql, *parameters)


@pytest.mark.parametrize("at", ["BEGIN", "INSERT", "COMMIT"])
async def test_a_put_during_which_the_log_is_truncated_is_not_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Truncating))
    monkeypatch.setattr(Truncating, "path", path, raising=False)
    async with open_sqlite(path) as store:
        await store.put_many(OLD)
    async with open_sqlite(path) as store:
        await store.put(b"before")
        monkeypatch.setattr(Truncating, "at", at)
        for _ in range(2):
            with pytest.raises(ReplicaError, match=LOG):
                await store.put(DATA)
    async with open_sqlite(path) as store:
        assert {*await store.get_many(OLD_REFS)} == {*OLD_REFS}
        assert (await store.check_integrity()).is_sound


async def test_a_log_that_is_truncated_before_it_is_written_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_sqlite(path) as store:
        await store.put_many(OLD)
    async with open_sqlite(path) as store:
        known = store._database._files
        assert known is not None
        check = known.check
        statements: list[str] = []
        await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))

        def truncate_after_the_commit() -> None:
            check()
            assert statements[-1] == "COMMIT"
            os.truncate(log_of(path), 0)

        monkeypatch.setattr(known, "check", truncate_after_the_commit)
        await store.put(bytes(5_000_000))  # which is acknowledged, and lost with the log
        assert not any("checkpoint" in statement for statement in statements)
    async with open_sqlite(path) as store:
        assert {*await store.get_many(OLD_REFS)} == {*OLD_REFS}


# Other programs that use the database as they may


async def check_healthy(store: SqliteStore, number: int) -> None:
    data = b"%d" % number
    assert (await store.put(data)).added
    assert await store.get(Ref.of(data)) == data


HEALTHY = {
    "truncating checkpoint": ["PRAGMA wal_checkpoint(TRUNCATE)"],
    "restarting checkpoint": ["PRAGMA wal_checkpoint(RESTART)"],
    "passive checkpoint": ["PRAGMA wal_checkpoint(PASSIVE)"],
    "limited log": [
        "PRAGMA journal_size_limit = 0",
        "PRAGMA wal_checkpoint(RESTART)",
        "INSERT INTO other VALUES (1)",
    ],
    "vacuum": ["DELETE FROM other", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"],
    "rollback": ["PRAGMA cache_size = 1", "BEGIN", "INSERT INTO other VALUES (zeroblob(1000000))", "ROLLBACK"],
    "large rows": ["INSERT INTO other VALUES (zeroblob(10000000))", "DELETE FROM other"],
    "spilled twice": [
        "PRAGMA cache_size = 1",
        "BEGIN",
        "INSERT INTO other VALUES (zeroblob(1000000))",
        "UPDATE other SET x = zeroblob(999999)",
        "COMMIT",
    ],
}


@pytest.mark.parametrize("statements", HEALTHY.values(), ids=HEALTHY.keys())
@pytest.mark.parametrize("page_size", [4096, *(pytest.param(size, marks=pytest.mark.deep) for size in (512, 65536))])
async def test_other_programs_may_make_the_files_shorter(path: Path, statements: list[str], page_size: int) -> None:
    query(path, f"PRAGMA page_size = {page_size}", SCHEMA, "CREATE TABLE other (x)")
    query(path, "INSERT INTO other VALUES (zeroblob(3000000))")
    async with open_sqlite(path) as store:
        for number in range(2):
            await check_healthy(store, 2 * number)
            with held_elsewhere(path, *statements):
                await check_healthy(store, 2 * number + 1)
    async with open_sqlite(path) as store:
        assert len(await store.list_page(Ref.ZERO, 100)) == 4
        assert (await store.check_integrity()).is_sound


async def test_an_emptied_log_that_had_been_written_back_loses_nothing(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        query_elsewhere(path, "PRAGMA wal_checkpoint(RESTART)")
        os.truncate(log_of(path), 0)
        await check_healthy(store, 1)
    async with open_sqlite(path) as store:
        assert await store.get(REF) == DATA
        assert (await store.check_integrity()).is_sound


@pytest.mark.parametrize("is_database", [False, True])
async def test_a_write_of_another_process_between_two_looks_is_no_loss(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_database: bool
) -> None:
    """The index that was read first describes a log that another program has rightly truncated since."""
    async with open_sqlite(path) as store:
        await store.put_many(OLD)
        looked: list[bytes] = []
        pread = os.pread

        def read_before_a_checkpoint(descriptor: int, count: int, offset: int) -> bytes:
            data = pread(descriptor, count, offset)
            if count == BYTES:
                looked.append(data)
                if len(looked) == 1:
                    shrink = ["VACUUM"] if is_database else []
                    query_elsewhere(path, *shrink, "PRAGMA wal_checkpoint(TRUNCATE)")
            return data

        monkeypatch.setattr(os, "pread", read_before_a_checkpoint)
        assert await store.get(OLD_REFS[0]) == OLD[0]
        assert len(looked) > 1
        await check_healthy(store, 1)


async def test_a_descriptor_that_another_store_has_closed_is_found_again(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        async with open_sqlite(path) as other:  # whose descriptors are the last that are listed
            await check_healthy(other, 1)
            async with open_sqlite(path) as third:
                await check_healthy(third, 2)
                known = third._database._files
                assert known is not None
                assert known._log is not None
                spare = os.dup(2)
                known._log.descriptor = spare  # as if SQLite had closed it, and something else had got its number
                await check_healthy(third, 3)
                assert known._log.descriptor != spare
                os.close(spare)
                known._log.descriptor = spare  # or nothing had
                await check_healthy(third, 4)
                assert known._index is not None
                known._index.descriptor = spare
                await check_healthy(third, 5)
                assert known._index.descriptor != spare
        await check_healthy(store, 6)


async def test_an_index_that_can_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_sqlite(path) as store:
        await check_healthy(store, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", refuse(errno.EIO))
            with pytest.raises(OSError, match="Input/output error"):
                await store.get(REF)
        await check_healthy(store, 2)


async def test_an_old_size_that_another_thread_notes_is_no_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had looked before the database grew, and it goes on while this thread looks at the log."""
    async with open_sqlite(path) as store:
        await store.put(DATA)
        checked = store._database._files
        assert checked is not None
        stat, has_looked, goes_on, has_noted = os.stat, threading.Event(), threading.Event(), threading.Event()
        other = threading.Thread(target=checked.check, daemon=True)

        def delayed_stat(name: Any, **options: Any) -> os.stat_result:
            status = stat(name, **options)
            if threading.current_thread() is other and name == str(path):
                has_looked.set()
                goes_on.wait()
            elif threading.current_thread() is other:
                has_noted.set()
            elif threading.current_thread() is threading.main_thread() and name == str(log_of(path)):
                goes_on.set()
                has_noted.wait()
            return status

        monkeypatch.setattr(os, "stat", delayed_stat)
        other.start()
        has_looked.wait()
        await store.put_many(OLD)
        query_elsewhere(path, "PRAGMA wal_checkpoint(PASSIVE)")
        checked.check()
        other.join()
        await check_healthy(store, 1)


async def test_no_thread_takes_back_a_loss_that_another_has_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks while the log is away, and the first thread before and after that."""
    async with open_sqlite(path) as store:
        await store.put(DATA)
        checked = store._database._files
        assert checked is not None
        pread, looks = os.pread, itertools.count()

        def read_before_a_loss(descriptor: int, count: int, offset: int) -> bytes:
            if next(looks) == 0:
                away = log_of(path).rename(path.with_name("away"))
                with pytest.raises(ReplicaError, match="removed or replaced"):
                    checked.check()
                away.rename(log_of(path))
            return pread(descriptor, count, offset)

        monkeypatch.setattr(os, "pread", read_before_a_loss)
        for _ in range(2):
            with pytest.raises(ReplicaError, match="-wal was removed or replaced"):
                checked.check()
        with pytest.raises(ReplicaError, match="-wal was removed or replaced"):
            await store.put(b"new")


async def test_where_the_system_lists_no_descriptors_contents_are_not_compared(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "DESCRIPTORS", str(path.with_name("missing")))
    async with open_sqlite(path) as store:
        await check_healthy(store, 1)
        known = store._database._files
        assert known is not None
        assert known._index is not None
        known._index.descriptor = os.open(index_of(path), os.O_RDONLY)  # the log's is not known still
        await check_healthy(store, 2)
        os.close(known._index.descriptor)
        known._index.descriptor = None


# The index


def header(**fields: int) -> bytes:
    page = fields.get("page", 4096)
    return struct.pack(
        "=IIIBBHIIII8s8s", 3007000, 0, 1, 1, 0, page, fields["frames"], fields["pages"], 1, 2, b"saltsalt", bytes(8)
    )


def index(written_back: int, **fields: int) -> LogIndex:
    return LogIndex(2 * header(**fields) + struct.pack("=I", written_back))


def test_an_index_whose_header_is_being_written_says_nothing() -> None:
    data = header(frames=1, pages=1) + header(frames=2, pages=1) + bytes(4)
    assert len(data) == BYTES
    torn = LogIndex(data)
    assert torn.database_size == 0
    assert torn.is_end_in(-1)
    assert torn.is_beginning_in(-1)


def test_the_size_that_a_database_has_at_least() -> None:
    assert index(0, frames=0, pages=0, page=0).database_size == 0, "of a new index"
    assert index(0, frames=0, pages=3).database_size == 3 * 4096
    assert index(5, frames=5, pages=3).database_size == 3 * 4096
    assert index(4, frames=5, pages=3).database_size == 4096, "the other pages may be in the log alone"
    assert index(5, frames=0, pages=3).database_size == 0, "while the log is begun again"
    assert index(1, frames=1, pages=2, page=1).database_size == 2 * 65536


def test_a_descriptor_that_can_not_be_read_is_of_no_log() -> None:
    assert not index(4, frames=5, pages=3).is_end_in(-1)
    assert not index(4, frames=5, pages=3).is_beginning_in(-1)


async def test_an_index_that_was_truncated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        pread = os.pread
        # A real one would end the process with SIGBUS as soon as SQLite looks at it.
        monkeypatch.setattr(os, "pread", lambda file, count, at: b"" if count == BYTES else pread(file, count, at))
        with pytest.raises(ReplicaError, match=r"blobs\.db-shm was truncated or overwritten"):
            await store.put(DATA)


async def test_an_index_that_another_process_is_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        pread = os.pread
        torn = header(frames=10_000, pages=1) + header(frames=2, pages=1) + bytes(4)
        monkeypatch.setattr(os, "pread", lambda file, count, at: torn if count == BYTES else pread(file, count, at))
        await check_healthy(store, 1)


async def test_the_format_of_the_index_is_the_one_that_sqlite_documents(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        known = store._database._files
        assert known is not None
        log = os.open(log_of(path), os.O_RDONLY)
        data = known._read_index()
        assert data is not None
        assert LogIndex(data).database_size == 4096
        assert LogIndex(data).is_end_in(log)
        os.close(log)
        query(path, "PRAGMA wal_checkpoint(PASSIVE)")
        data = known._read_index()
        assert data is not None
        assert LogIndex(data).database_size == os.stat(path).st_size
        assert LogIndex(data).is_end_in(-1), "it is not read any more"
