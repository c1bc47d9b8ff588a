"""A SQLite store whose database, log, or index of the log is removed or replaced while it is open."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import sqlite3
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio

from trio_replica import BlobNotFoundError, Ref, ReplicaError, SqliteStore, open_sqlite
from trio_replica import _sqlite_connection as connections
from trio_replica._sqlite_files import identity_of
from trio_replica.stores._sqlite import files
from trio_replica.stores._sqlite.files import DatabaseFiles

from . import sqlite_child
from .common import open_and_close
from .mounts import forget_inodes
from .sqlite_databases import (
    SCHEMA,
    beside,
    execute,
    held_elsewhere,
    index_of,
    log_of,
    query,
    query_elsewhere,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .mounts import Mounts

DATA = b"blob"
REF = Ref.of(DATA)
INSERT = f"INSERT INTO blobs VALUES (x'{REF}', x'{DATA.hex()}')"
REMOVED = "its -wal was removed, and this or another program still uses it: end that one"
LOG_LOST = r"blobs\.db-wal was removed or replaced while the database was open, and its content may be lost: end"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "blobs.db"


def replace_by_copy(path: Path) -> None:
    """Give the name of a file to a copy, as a restore does. A log is copied in part, as it goes on."""
    copy = path.with_name("copy")
    if path.suffix == ".db":
        query_elsewhere(copy, SCHEMA)
    else:
        copy.write_bytes(b"\0" * 100)
    copy.replace(path)


def remove_log_and_index(path: Path) -> None:
    log_of(path).unlink()
    index_of(path).unlink()


def replace_database_and_log(path: Path) -> None:
    replace_by_copy(path)
    remove_log_and_index(path)


def rename_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("renamed"))


def point_elsewhere(path: Path) -> None:
    """Make the path a symbolic link to another database."""
    path.rename(path.with_name("real.db"))
    query_elsewhere(path.with_name("other.db"), SCHEMA)
    path.symlink_to("other.db")


LOSSES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.unlink(), "the database has vanished: {}"),
    (replace_by_copy, "the database has vanished: {}"),
    (replace_database_and_log, "the database has vanished: {}"),
    (rename_folder, "the database has vanished: {}"),
    (point_elsewhere, "the database has vanished: {}"),
    (lambda path: log_of(path).unlink(), "{}: blobs.db-wal was removed or replaced while the database was open, "),
    (lambda path: replace_by_copy(log_of(path)), "{}: blobs.db-wal was removed or replaced"),
    (remove_log_and_index, "{}: blobs.db-wal was removed or replaced"),
    (lambda path: index_of(path).unlink(), "{}: blobs.db-shm was removed or replaced"),
    (lambda path: replace_by_copy(index_of(path)), "{}: blobs.db-shm was removed or replaced"),
]

NAMES = [
    "database removed",
    "database replaced",
    "database replaced, log removed",
    "folder renamed",
    "link to another",
    "log removed",
    "log replaced",
    "both removed",
    "index removed",
    "index replaced",
]

OPERATIONS: list[Callable[[SqliteStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put(b"new"),
    lambda store: store.put_many([DATA, b"new"]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.set_aside(REF),
    lambda store: store.repair_integrity(),
    lambda store: store.set_session_mark("0" * 32),
    lambda store: store.renew_identity(),
    lambda store: store.get(REF),
    lambda store: store.get(Ref.ZERO),
    lambda store: store.get_many([Ref.ZERO]),
    lambda store: store.get_stored(REF),
    lambda store: store.contains(Ref.ZERO),
    lambda store: store.list_page(Ref.ZERO, 1),
    lambda store: store.check_integrity(),
    lambda store: store.identity(),
    lambda store: store.session_mark(),
]


def starts_with(text: str, path: Path) -> str:
    return "^" + text.format(path)


@pytest.mark.parametrize(("lose", "message"), LOSSES, ids=NAMES)
async def test_a_store_fails_once_a_file_has_lost_its_name_and_closes_without_a_write(
    path: Path, lose: Callable[[Path], object], message: str
) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        lose(path)
        for operation in OPERATIONS:
            with pytest.raises(ReplicaError, match=starts_with(message, path)):
                await operation(store)
        folder = path.parent if path.parent.exists() else path.parent.with_name("renamed")
        names = {name: os.stat(folder / name) for name in os.listdir(folder)}
    for name, before in names.items():
        after = os.stat(folder / name)
        assert os.path.samestat(before, after)
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert names.keys() == {*os.listdir(folder)}


async def test_a_loss_stays(path: Path) -> None:
    """Another process may have begun a log in the meantime."""
    async with open_sqlite(path) as store:
        kept = log_of(path).rename(path.with_name("kept"))
        with pytest.raises(ReplicaError, match=LOG_LOST):
            await store.get(REF)
        kept.rename(log_of(path))
        with pytest.raises(ReplicaError, match=LOG_LOST):
            await store.put(DATA)
    async with open_sqlite(path) as store:
        assert await store.put(DATA) == (REF, True)


@pytest.mark.parametrize("lose", [remove_log_and_index, replace_database_and_log])
async def test_writes_of_another_process_after_a_loss_are_kept(path: Path, lose: Callable[[Path], object]) -> None:
    async with open_sqlite(path) as store:
        await store.put_many([b"%d" % i for i in range(100)])
        lose(path)
        query_elsewhere(
            path,
            SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS"),
            f"INSERT INTO blobs VALUES (x'{REF}', x'{DATA.hex()}')",
        )
        with pytest.raises(ReplicaError, match=r"removed or replaced|vanished"):
            await store.put(b"another")
    async with open_sqlite(path) as store:
        assert await store.get(REF) == DATA
        assert not await store.contains(Ref.of(b"another"))
        assert (await store.check_integrity()).is_sound


async def test_a_commit_that_others_would_be_told_of_is_not_made(path: Path) -> None:
    async with open_sqlite(path) as store:
        statements: list[str] = []

        def lose(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(statements.append)
            execute(connection, f"INSERT INTO blobs VALUES (x'{REF}', x'00')")
            log_of(path).unlink()

        with pytest.raises(ReplicaError, match=LOG_LOST):
            await store._writer.run(lose)
        assert statements[-1] == "ROLLBACK"
        assert "COMMIT" not in statements


class Losing(sqlite3.Connection):
    """A connection that loses a file at a statement."""

    at: ClassVar[str] = ""
    lose: ClassVar[Callable[[], object]]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.at and sql.startswith(self.at):
            type(self).at = ""
            if sql == "COMMIT":
                try:
                    return super().execute(sql, *parameters)
                finally:
                    type(self).lose()
            type(self).lose()
        return super().execute(sql, *parameters)


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> type[Losing]:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Losing))
    monkeypatch.setattr(Losing, "at", "")
    return Losing


async def test_a_commit_to_a_log_that_has_no_name_any_more_is_not_acknowledged(
    path: Path, losing: type[Losing]
) -> None:
    async with open_sqlite(path) as store:
        losing.lose, losing.at = log_of(path).unlink, "COMMIT"
        with pytest.raises(ReplicaError, match=LOG_LOST):
            await store.put(DATA)


async def test_a_log_that_was_lost_is_not_written_back(path: Path, losing: type[Losing]) -> None:
    async with open_sqlite(path) as store:
        statements: list[str] = []
        await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
        losing.lose, losing.at = log_of(path).unlink, "COMMIT"
        with pytest.raises(ReplicaError, match=LOG_LOST):
            await store.put(bytes(5_000_000))
        assert not any("checkpoint" in statement for statement in statements)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_a_file_that_is_replaced_while_the_store_is_opened(path: Path, suffix: str, losing: type[Losing]) -> None:
    losing.lose, losing.at = partial(replace_by_copy, beside(path, suffix)), "CREATE"
    with pytest.raises(ReplicaError, match=f"blobs.db{suffix} was removed or replaced"):
        await open_and_close(open_sqlite(path))
    assert beside(path, suffix).read_bytes() == b"\0" * 100


async def test_a_database_that_is_replaced_while_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query_elsewhere(path, SCHEMA)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def replace_after_connecting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        monkeypatch.setattr(sqlite3, "connect", connect)
        replace_by_copy(path)
        return connection

    monkeypatch.setattr(sqlite3, "connect", replace_after_connecting)
    with pytest.raises(ReplicaError, match=f"the database has vanished: {path}"):
        await open_and_close(open_sqlite(path))
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_connection_to_read_makes_no_database_and_reads_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_replaced: bool
) -> None:
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    statements: list[str] = []

    def lose_before_connecting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        path.unlink()
        if is_replaced:
            query_elsewhere(path, SCHEMA)
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(statements.append)
        return connection

    async with open_sqlite(path) as store:
        monkeypatch.setattr(sqlite3, "connect", lose_before_connecting)
        with pytest.raises((ReplicaError, sqlite3.OperationalError), match=r"vanished|SQLITE_CANTOPEN"):
            await store.check_integrity()
        assert statements == []
    assert path.exists() is is_replaced


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_database_that_is_used_under_another_name_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, read_only: bool
) -> None:
    query(path, "PRAGMA journal_mode = WAL", SCHEMA)
    second = path.with_name("second.db")
    os.link(path, second)
    monkeypatch.setattr(DatabaseFiles.check_one_name, "__kwdefaults__", {"patience": 0.02})
    with held_elsewhere(path, INSERT):
        with pytest.raises(ReplicaError, match=f"^{second}: another program uses the database under another name"):
            await open_and_close(open_sqlite(second, read_only=read_only))
        async with open_sqlite(path, read_only=read_only) as store:  # with the same log
            assert await store.get(REF) == DATA
    async with open_sqlite(path) as store:
        assert await store.get(REF) == DATA
    async with open_sqlite(second, read_only=read_only) as store:  # nobody uses the other name
        assert await store.get(REF) == DATA


async def test_a_database_that_is_open_here_under_another_name_is_refused(path: Path) -> None:
    second = path.with_name("second.db")
    async with open_sqlite(path) as store:
        os.link(path, second)
        with pytest.raises(ReplicaError, match=r"second\.db-shm was removed or replaced|removed, and this or another"):
            await open_and_close(open_sqlite(second))
        assert await store.put(DATA) == (REF, True)
    assert (await read_all(path)) == {REF: DATA}


async def read_all(path: Path) -> dict[Ref, bytes]:
    async with open_sqlite(path) as store:
        return await store.get_many([ref async for ref in store.list_refs()])


async def test_numbers_that_change_are_no_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlays and FUSE give files other numbers once the kernel has forgotten them."""

    def renumbered(look: Callable[..., os.stat_result]) -> Callable[..., Any]:
        def look_again(*args: Any, **kwargs: Any) -> Any:
            status = look(*args, **kwargs)
            fields = {name: getattr(status, name) for name in ("st_dev", "st_size", "st_mtime_ns")}
            return SimpleNamespace(**fields, st_ino=status.st_ino + 1000)

        return look_again

    async with open_sqlite(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", renumbered(os.stat))
            patch.setattr(os, "fstat", renumbered(os.fstat))
            assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", renumbered(os.stat))  # only the name's: another file
            with pytest.raises(ReplicaError, match="the database has vanished"):
                await store.put(DATA)


async def test_a_descriptor_that_says_nothing_is_no_proof(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> os.stat_result:
        raise OSError

    async with open_sqlite(path) as store:
        log_of(path).rename(path.with_name("kept"))
        log_of(path).touch()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fail)
            with pytest.raises(ReplicaError, match=LOG_LOST):
                await store.put(DATA)


async def test_an_error_of_the_system_is_no_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> os.stat_result:
        raise PermissionError(13, "no", name)

    async with open_sqlite(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", fail)
            for operation in (store.put(DATA), store.get(REF)):
                with pytest.raises(PermissionError):
                    await operation
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        assert await store.put(DATA) == (REF, True)


async def test_where_the_system_lists_no_descriptors_names_are_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "DESCRIPTORS", str(path.with_name("missing")))
    async with open_sqlite(path) as store:
        await store.put(DATA)
        assert await store.get_stored(REF) == DATA
    assert os.listdir(path.parent) == [path.name]


# Closing


class Configurable(sqlite3.Connection):
    """A connection that can be told to make no checkpoint when it is closed, as those of Python 3.12."""

    told: ClassVar[list[tuple[int, bool]]] = []

    def setconfig(self, option: int, enable: bool = True, /) -> None:
        self.told.append((option, enable))
        assert connections._lock_shared(files._open_descriptors()[identity_of(os.stat(database_of(self)))])


def database_of(connection: sqlite3.Connection) -> str:
    ((_, _, path),) = connection.execute("PRAGMA database_list").fetchall()
    return str(path)


async def test_python_that_can_tells_sqlite_to_make_no_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Configurable))
    monkeypatch.setattr(Configurable, "told", [])
    async with open_sqlite(path) as store:
        await store.put(DATA)
        log_of(path).unlink()
    assert Configurable.told == [(1006, True)]
    assert getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE", 1006) == 1006


class Unconfigurable(sqlite3.Connection):
    """A connection that can not, as those of Python 3.11."""

    def __getattribute__(self, name: str) -> Any:
        if name == "setconfig":
            raise AttributeError(name)
        return super().__getattribute__(name)


def refuse(*_: object) -> None:
    raise OSError


@pytest.mark.parametrize("refusal", ["no such lock", "no descriptor", "refused"])
async def test_a_connection_that_can_not_be_closed_without_a_checkpoint_stays_open(
    path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    kept: list[object] = []

    def keep(connection: ctypes.py_object[sqlite3.Connection]) -> None:
        kept.append(connection.value)
        leave(connection)

    leave = ctypes.pythonapi.Py_IncRef
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unconfigurable))
    monkeypatch.setattr(ctypes, "pythonapi", SimpleNamespace(Py_IncRef=keep))
    async with open_sqlite(path) as store:
        await store.put(DATA)
        remove_log_and_index(path)
        if refusal == "no such lock":
            monkeypatch.delattr(fcntl, "F_OFD_SETLK")
        elif refusal == "no descriptor":
            monkeypatch.setattr(files, "DESCRIPTORS", str(path.with_name("missing")))
        else:
            monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(files, "DESCRIPTORS", "/proc/self/fd")
    assert [type(one) for one in kept] == [Unconfigurable]
    assert identity_of(os.stat(path)) in files._open_descriptors()
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(ReplicaError, match=REMOVED):
        await open_and_close(open_sqlite(path))


async def test_python_3_11_closes_a_lost_database_without_a_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unconfigurable))
    async with open_sqlite(path) as store:
        await store.put(DATA)
        shutil.copy(log_of(path), path.with_name("copy"))
        path.with_name("copy").replace(log_of(path))
        before = log_of(path).stat()
    after = log_of(path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert identity_of(os.stat(path)) not in files._open_descriptors()


@pytest.mark.parametrize("first", [0, 1])
async def test_two_stores_on_a_lost_database_are_both_closed_without_a_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unconfigurable))
    stores = [open_sqlite(path), open_sqlite(path)]
    for store in stores:
        await (await store.__aenter__()).put(DATA)
    remove_log_and_index(path)
    query_elsewhere(path, SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS"), INSERT)
    before = log_of(path).stat()
    await stores[first].__aexit__(None, None, None)
    await stores[1 - first].__aexit__(None, None, None)
    after = log_of(path).stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert identity_of(os.stat(path)) not in files._open_descriptors()


# A log that was removed before


async def test_a_log_that_another_process_lost_is_not_begun_again(path: Path) -> None:
    """The index of the old log, which is left, tells of pages that the new one does not have."""
    query(path, "PRAGMA journal_mode = WAL", SCHEMA)
    with held_elsewhere(path, "PRAGMA wal_autocheckpoint = 0", INSERT):
        log_of(path).unlink()
        with pytest.raises(ReplicaError, match=f"^{path}: {REMOVED}"):
            await open_and_close(open_sqlite(path))
        with held_elsewhere(path):  # once the name is there, SQLite itself notices it, or nobody does
            pass
    log_of(path).unlink()
    async with open_sqlite(path) as store:  # nobody uses it any more
        assert await store.put(DATA) == (REF, True)


async def test_a_log_that_had_been_written_back_may_be_begun_again(path: Path) -> None:
    query(path, "PRAGMA journal_mode = WAL", SCHEMA)
    with held_elsewhere(path, INSERT, "PRAGMA wal_checkpoint(PASSIVE)"):
        log_of(path).unlink()
        async with open_sqlite(path) as store:
            assert await store.get(REF) == DATA
            assert await store.put(b"new") == (Ref.of(b"new"), True)


async def test_a_removed_log_of_a_damaged_database(path: Path) -> None:
    index_of(path).touch()
    path.write_text("This is a text, and no database.\n" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="SQLITE_NOTADB"):
        await open_and_close(open_sqlite(path))


async def test_a_log_that_another_process_reads_is_not_begun_again(path: Path) -> None:
    query(path, "PRAGMA journal_mode = WAL", SCHEMA)
    with held_elsewhere(path, "BEGIN", "SELECT * FROM blobs"):  # which keeps the log from being written back
        query_elsewhere(path, INSERT)
        log_of(path).unlink()
        with pytest.raises(ReplicaError, match=REMOVED):
            await open_and_close(open_sqlite(path))


async def test_a_database_that_vanishes_while_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def remove_after_connecting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        path.unlink()
        return connection

    monkeypatch.setattr(sqlite3, "connect", remove_after_connecting)
    with pytest.raises(ReplicaError, match=f"the database has vanished: {path}"):
        await open_and_close(open_sqlite(path))
    assert os.listdir(path.parent) == []


# Processes


@pytest.mark.deep
async def test_puts_acknowledged_after_the_log_was_removed_are_there(path: Path) -> None:
    ended = await trio.run_process(
        sqlite_child.command("lose_log", path), capture_stdout=True, capture_stderr=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stderr.count(b"was removed or replaced") == 3
    acknowledged = [Ref.from_hex(line) for line in ended.stdout.decode().split()]
    async with open_sqlite(path) as store:
        assert {*await store.get_many(acknowledged)} == {*acknowledged}
        assert (await store.check_integrity()).is_sound


@pytest.mark.deep
@pytest.mark.parametrize("lose", [remove_log_and_index, replace_database_and_log])
@pytest.mark.parametrize("program", ["put_late", "put_late_and_leave_open"])
async def test_of_two_processes_with_a_log_each_the_one_that_has_its_name_keeps_all(
    path: Path, lose: Callable[[Path], object], program: str
) -> None:
    with sqlite_child.running(program, path) as process:
        lose(path)
        await trio.run_process(sqlite_child.command("put_many", path))
        told, _ = process.communicate("\n")
        assert process.returncode == 0
    assert re.search(r"was removed or replaced|the database has vanished", told)
    async with open_sqlite(path) as store:
        refs = [Ref.of(b"second %d" % i) for i in range(100)]
        assert {*await store.get_many(refs)} == {*refs}
        assert not await store.contains(Ref.of(b"late"))
        assert (await store.check_integrity()).is_sound


# Other file systems


@pytest.mark.mounts
@pytest.mark.parametrize("kind", ["overlay", "fuse"])
async def test_a_file_system_that_makes_up_its_inode_numbers(path: Path, mounts: Mounts, kind: str) -> None:
    query_elsewhere(path, SCHEMA)
    seen = path.parent.with_name("mounted")
    (mounts.overlay if kind == "overlay" else mounts.fuse)(path.parent, seen)
    async with open_sqlite(seen / path.name) as store:
        for i in range(3):
            assert (await store.put(b"%d" % i)).added
            forget_inodes()
            assert await store.get(Ref.of(b"%d" % i)) == b"%d" % i
        log_of(seen / path.name).unlink()
        forget_inodes()
        with pytest.raises(ReplicaError, match=LOG_LOST):
            await store.put(DATA)


@pytest.mark.mounts
async def test_a_bit_that_flips_on_the_disk_is_read_although_the_system_remembers_the_blob(
    path: Path, mounts: Mounts
) -> None:
    blob = b"a blob that is found on the disk" + bytes(20_000)
    image = mounts.loop(path.parent / "disk")
    async with open_sqlite(path.parent / "disk" / path.name) as store:
        await store.put(blob)
    os.sync()
    places = [found.start() for found in re.finditer(blob[:32], image.read_bytes())]  # one is where the log was
    async with open_sqlite(path.parent / "disk" / path.name) as store:
        assert await store.get_stored(Ref.of(blob)) == blob
        with image.open("r+b") as disk:
            for place in places:
                disk.seek(place)
                disk.write(b"A")
        assert await store.get(Ref.of(blob)) == blob
        found = await store.get_stored(Ref.of(blob))
        assert (len(found), found[:6]) == (len(blob), b"A blob")


# When the log is written back


async def test_the_log_is_written_back_after_a_thousand_pages(path: Path) -> None:
    async with open_sqlite(path) as store:
        statements: list[str] = []
        await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
        await store.put(bytes(10))
        for i in range(6):
            await store.put(bytes([i]) * 2_000_000)
        assert statements.count("PRAGMA wal_checkpoint(PASSIVE)") == 2
        assert await store._writer.run(lambda connection: execute(connection, "PRAGMA wal_autocheckpoint")) == [(0,)]
        assert log_of(path).stat().st_size < 7_000_000


async def test_a_log_that_others_have_left_is_written_back(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(bytes(3_000_000))
        with held_elsewhere(path, "SELECT count(*) FROM blobs"):
            pass
        async with open_sqlite(path) as other:
            statements: list[str] = []
            await other._writer.run(lambda connection: connection.set_trace_callback(statements.append))
            await other.put(bytes(1_500_000))
            assert statements.count("PRAGMA wal_checkpoint(PASSIVE)") == 1
