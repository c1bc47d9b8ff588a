"""A SQLite store that is not to be created, or only to be read, or has blobs too large for the memory."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from trio_replica import (
    Blob,
    BlobNotFoundError,
    BlobTooLargeError,
    Ref,
    ReplicaError,
    SqliteStore,
    StoreNotFoundError,
    StoreReadOnlyError,
    open_sqlite,
)
from trio_replica._sqlite_files import stamp_of
from trio_replica.stores import sqlite
from trio_replica.stores._access import Access
from trio_replica.stores._sqlite.database import Database

from .common import open_and_close
from .held import in_one_batch
from .sqlite_databases import SCHEMA, execute, files_in, held_elsewhere, index_of, log_of, query, query_elsewhere

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .mounts import Mounts

DATA = b"blob"
REF = Ref.of(DATA)
INSERT = f"INSERT INTO blobs VALUES (x'{REF}', x'{DATA.hex()}')"
NEW = Ref.of(b"new")
INSERT_NEW = f"INSERT INTO blobs VALUES (x'{NEW}', x'{b'new'.hex()}')"
IN_WAL_MODE = ("PRAGMA journal_mode = WAL", SCHEMA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "blobs.db"


# Not to be created


def put_a_file_above(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


MISSING: list[Callable[[Path], object]] = [
    lambda path: None,
    lambda path: path.parent.rmdir(),
    put_a_file_above,
    lambda path: path.symlink_to("nowhere.db"),
    lambda path: path.touch(),
    lambda path: query(path, "CREATE TABLE other (a)"),
    lambda path: query(path, "PRAGMA journal_mode = WAL", "CREATE TABLE other (a)"),
]
MISSING_NAMES = ["nothing", "no folder", "a file above", "dangling link", "empty file", "another database", "WAL mode"]


def state_of(folder: Path) -> object:
    return files_in(folder) if folder.is_dir() else os.path.lexists(folder)


@pytest.mark.parametrize("make", MISSING, ids=MISSING_NAMES)
@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
async def test_a_path_without_a_store_is_not_made_one(
    path: Path, make: Callable[[Path], object], options: dict[str, bool]
) -> None:
    make(path)
    before = state_of(path.parent)
    with pytest.raises(StoreNotFoundError) as info:
        await open_and_close(open_sqlite(path, **options))
    assert info.value.store == str(path)
    assert state_of(path.parent) == before


async def test_a_store_that_is_there_is_opened_without_create(path: Path) -> None:
    query(path, SCHEMA, INSERT)
    async with open_sqlite(path, create=False) as store:
        identity = await store.identity()
        assert identity is not None
        assert await store.put_many([DATA, b"new"]) == [(REF, False), (NEW, True)]
    async with open_sqlite(path, create=False) as store:
        assert await store.identity() == identity
        assert not store.is_read_only
        assert store.is_durable
    async with open_sqlite(path, durable=False) as store:
        assert not store.is_durable


async def test_odd_names_are_no_parameters(path: Path) -> None:
    odd = path.with_name("a?mode=memory&b#c%41 ö.db")
    async with open_sqlite(odd) as store:
        await store.put(DATA)
    async with open_sqlite(odd, create=False) as store:
        assert await store.get(REF) == DATA
    async with open_sqlite(odd, read_only=True) as store:
        assert await store.get(REF) == DATA
    assert os.listdir(path.parent) == [odd.name]


async def test_a_path_that_the_system_does_not_tell_of(path: Path) -> None:
    path.symlink_to(path.name)
    with pytest.raises(sqlite3.OperationalError, match="SQLITE_CANTOPEN"):
        await open_and_close(open_sqlite(path, create=False))


@pytest.mark.parametrize("name", ["create", "read_only", "max_memory"])
def test_bad_options_are_refused_at_the_door(path: Path, name: str) -> None:
    options: dict[str, Any] = {name: "yes"}
    with pytest.raises(TypeError, match=name):
        open_sqlite(path, **options)


# Only to be read


WRITES: list[Callable[[SqliteStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put_many([DATA]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.set_aside(REF),
    lambda store: store.repair_integrity(),
    lambda store: store.set_session_mark("0" * 32),
    lambda store: store.renew_identity(),
]


async def check_readable(store: SqliteStore, *refs: Ref) -> None:
    """Read everything in every way."""
    assert store.is_read_only
    assert sorted([ref async for ref in store.list_refs()]) == sorted(refs)
    assert {*(await store.get_many([*refs, Ref.ZERO]))} == {*refs}
    for ref in refs:
        assert Ref.of(await store.get(ref)) == ref
        assert Ref.of(await store.get_stored(ref)) == ref
        assert await store.contains(ref)
    with pytest.raises(BlobNotFoundError):
        await store.get(Ref.ZERO)
    assert not await store.contains(Ref.ZERO)
    assert (await store.check_integrity()).is_sound
    for write in WRITES:
        with pytest.raises(StoreReadOnlyError) as info:
            await write(store)
        assert info.value.store.endswith("blobs.db")


async def test_a_database_that_was_closed_is_read_and_nothing_is_made(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        identity = await store.identity()
        await store.set_session_mark("0" * 32)
    before = files_in(path.parent)
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store, REF)
        assert await store.identity() == identity
        assert await store.session_mark() == "0" * 32
        assert os.listdir(path.parent) == [path.name]
    assert files_in(path.parent) == before


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_a_database_of_another_program_is_only_read(path: Path, mode: str) -> None:
    query(path, f"PRAGMA journal_mode = {mode}", SCHEMA, INSERT)
    before = files_in(path.parent)
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store, REF)
        assert await store.identity() is None
        assert await store.session_mark() is None
    assert files_in(path.parent) == before


async def test_an_empty_log_that_was_left_behind(path: Path) -> None:
    query(path, *IN_WAL_MODE, INSERT)
    log_of(path).touch()
    before = files_in(path.parent)
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store, REF)
    assert files_in(path.parent) == before


def make_killed(path: Path, *, index: bool) -> None:
    """Leave a database as a process that is killed does, with a blob in the log."""
    query(path, *IN_WAL_MODE)
    with held_elsewhere(path, INSERT) as process:
        process.kill()
    if not index:
        index_of(path).unlink()


@pytest.mark.parametrize("index", [True, False])
async def test_the_log_that_a_killed_process_left_is_read(path: Path, *, index: bool) -> None:
    make_killed(path, index=index)
    before = {name: files_in(path.parent)[name] for name in (path.name, log_of(path).name)}
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store, REF)
    after = files_in(path.parent)
    assert after.keys() == {*before, index_of(path).name}  # which is SQLite's own, and holds no blobs
    assert {name: after[name] for name in before} == before


async def test_a_writer_in_another_process_is_read_along(path: Path) -> None:
    query(path, *IN_WAL_MODE)
    with held_elsewhere(path, INSERT):
        async with open_sqlite(path, read_only=True) as store:
            await check_readable(store, REF)
            query_elsewhere(path, INSERT_NEW)
            await check_readable(store, REF, NEW)


async def test_a_writer_that_comes_later_is_read_along(path: Path) -> None:
    query(path, *IN_WAL_MODE)
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store)
        query_elsewhere(path, INSERT)  # opened, written to and closed
        await check_readable(store, REF)
        async with open_sqlite(path) as writer:
            await writer.put(b"new")
            await check_readable(store, REF, NEW)
            assert await store.identity() == await writer.identity()
        await check_readable(store, REF, NEW)


async def test_a_database_that_was_written_to_while_it_was_read_is_read_again(path: Path) -> None:
    query(path, *IN_WAL_MODE)
    changes = [INSERT, INSERT_NEW]
    async with open_sqlite(path, read_only=True) as store:

        def read(connection: sqlite3.Connection) -> list[Any]:
            rows = execute(connection, "SELECT ref FROM blobs ORDER BY length(data)")
            if changes:
                query_elsewhere(path, changes.pop())
            return rows

        assert await store._reader.run(read) == [(NEW,), (REF,)]
        assert changes == []


async def test_a_database_that_is_written_to_all_the_time_is_given_up(path: Path) -> None:
    query(path, *IN_WAL_MODE)
    database = Database(str(path), durable=True, access=Access(read_only=True), busy_seconds=-1)
    async with sqlite.open_database(database) as store:
        with pytest.raises(ReplicaError, match=f"^{path}: the database is written to while it is read: try again$"):
            await store._reader.run(lambda _: query_elsewhere(path, INSERT))
        await check_readable(store, REF)


LOSSES: list[tuple[Callable[[Path], object], Callable[[Path], object]]] = [
    (lambda path: None, lambda path: path.unlink()),
    (lambda path: None, lambda path: (query(path.with_name("copy"), SCHEMA), path.with_name("copy").replace(path))),
    (lambda path: make_killed(path, index=True), lambda path: path.unlink()),
    (lambda path: make_killed(path, index=True), lambda path: log_of(path).unlink()),
    (lambda path: make_killed(path, index=True), lambda path: index_of(path).unlink()),
]


@pytest.mark.parametrize(("make", "lose"), LOSSES)
async def test_a_database_that_is_lost_while_it_is_only_read(
    path: Path, make: Callable[[Path], object], lose: Callable[[Path], object]
) -> None:
    make(path)
    if not path.exists():
        query(path, *IN_WAL_MODE)
    async with open_sqlite(path, read_only=True) as store:
        await store.list_page(Ref.ZERO, 1)
        lose(path)
        for _ in range(2):
            for read in (partial(store.list_page, Ref.ZERO, 1), partial(store.get, REF), store.check_integrity):
                with pytest.raises(ReplicaError, match=r"the database has vanished|was removed or replaced"):
                    await read()


async def test_a_database_that_is_replaced_while_it_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(path, *IN_WAL_MODE)
    async with open_sqlite(path, read_only=True) as store:
        query_elsewhere(path, INSERT)
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect

        def replace_first(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            monkeypatch.setattr(sqlite3, "connect", connect)
            query_elsewhere(path.with_name("copy"), *IN_WAL_MODE)
            path.with_name("copy").replace(path)
            return connect(*args, **kwargs)

        monkeypatch.setattr(sqlite3, "connect", replace_first)
        with pytest.raises(ReplicaError, match=f"the database has vanished: {path}"):
            await store.get(REF)


async def test_a_database_that_vanishes_while_it_is_read(path: Path) -> None:
    query(path, *IN_WAL_MODE)
    async with open_sqlite(path, read_only=True) as store:
        with pytest.raises(ReplicaError, match=f"the database has vanished: {path}"):
            await store._reader.run(lambda _: path.unlink())
    assert stamp_of(str(path)) is None
    assert stamp_of(f"{path}/below") is None


ROLLED_BACK = (
    "a program that was killed has left a -journal, which has to be rolled back (SQLITE_READONLY_ROLLBACK): open the "
    "database once without read_only; if it can't be written here, copy it with its -journal to a folder that can be "
    "written, and open the copy without read_only"
)


def make_journal(path: Path) -> None:
    """Leave a database as a program does that is killed in the middle of a transaction, without a log."""
    query(path, SCHEMA, INSERT)
    with held_elsewhere(path, "PRAGMA cache_size = 1", "BEGIN", "UPDATE blobs SET data = zeroblob(1000000)"):
        pass
    assert path.with_name("blobs.db-journal").stat().st_size


@pytest.mark.parametrize("remedy", ["open", "copy"])
async def test_a_journal_that_can_not_be_rolled_back_is_refused_with_a_remedy_that_works(
    path: Path, remedy: str
) -> None:
    make_journal(path)
    before = files_in(path.parent)
    with pytest.raises(ReplicaError) as info:
        await open_and_close(open_sqlite(path, read_only=True))
    assert str(info.value) == f"{path}: {ROLLED_BACK}"
    assert files_in(path.parent) == before
    if remedy == "copy":
        copies = path.parent.with_name("copies")
        shutil.copytree(path.parent, copies)
        path = copies / path.name
    async with open_sqlite(path) as store:
        assert await store.get(REF) == DATA
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store, REF)


async def test_other_errors_of_a_database_that_is_only_read(path: Path) -> None:
    path.write_text("This is a text, and no database.\n" * 100)
    with pytest.raises(sqlite3.DatabaseError, match=f"^SQLITE_NOTADB: .*: {path}$"):
        await open_and_close(open_sqlite(path, read_only=True))
    path.unlink()
    query(path, SCHEMA)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        execute(other, "BEGIN EXCLUSIVE", INSERT, INSERT_NEW)
        path.with_name("blobs.db-journal").write_bytes(b"x")
        database = Database(str(path), durable=True, access=Access(read_only=True), busy_seconds=-1)
        with pytest.raises(sqlite3.OperationalError, match=f"^SQLITE_BUSY: .*: {path}$"):
            await sqlite.open_database(database).__aenter__()


class Unreadable(sqlite3.Connection):
    """A connection to a database in a folder that can't be written: it makes no index of the log."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_CANTOPEN", sqlite3.SQLITE_CANTOPEN
        raise error


async def test_a_log_that_can_not_be_read_is_refused_with_the_remedy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_killed(path, index=False)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unreadable))
    with pytest.raises(ReplicaError) as info:
        await open_and_close(open_sqlite(path, read_only=True))
    assert str(info.value) == (
        f"{path}: its log can't be read here (SQLITE_CANTOPEN): copy the database with its -wal to a folder that can "
        "be written, and open the copy"
    )


class Unwritable(sqlite3.Connection):
    """A connection to a database on a read-only file system."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "PRAGMA journal_mode = WAL":
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_READONLY", sqlite3.SQLITE_READONLY
            raise error
        return super().execute(sql, *parameters)


@pytest.mark.parametrize("may", ["read", "write", "neither"])
async def test_a_database_that_can_only_be_read_is_refused_with_the_remedy(
    path: Path, monkeypatch: pytest.MonkeyPatch, may: str
) -> None:
    query(path, SCHEMA, INSERT)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unwritable))
    monkeypatch.setattr(os, "access", lambda _, mode: may == "write" or (may == "read" and mode == os.R_OK))
    with pytest.raises(sqlite3.OperationalError) as info:
        await open_and_close(open_sqlite(path))
    assert info.value.sqlite_errorname == "SQLITE_READONLY"
    remedy = (
        ": the database or its folder can't be written: get permission, or open the store with read_only=True to read "
        "its blobs"
    )
    assert str(info.value) == (
        f"SQLITE_READONLY: attempt to write a readonly database: {path}{remedy if may == 'read' else ''}"
    )
    async with open_sqlite(path, read_only=True) as store:
        await check_readable(store, REF)


@pytest.mark.mounts
async def test_a_file_system_that_is_read_only(path: Path, mounts: Mounts) -> None:
    folders = {name: path.parent / name for name in ("closed", "killed", "without index", "used")}
    for folder in folders.values():
        folder.mkdir()
    query(folders["closed"] / path.name, *IN_WAL_MODE, INSERT)
    make_killed(folders["killed"] / path.name, index=True)
    make_killed(folders["without index"] / path.name, index=False)
    query(folders["used"] / path.name, *IN_WAL_MODE)
    seen = mounts.bind(path.parent, path.parent.with_name("mounted"))
    mounts.make_read_only(seen)
    for name in ("closed", "killed"):
        async with open_sqlite(seen / name / path.name, read_only=True) as store:
            await check_readable(store, REF)
    with pytest.raises(ReplicaError, match=r"its log can't be read here \(SQLITE_CANTOPEN\): copy the"):
        await open_and_close(open_sqlite(seen / "without index" / path.name, read_only=True))
    copied = path.parent / "copied"
    shutil.copytree(seen / "without index", copied)
    async with open_sqlite(copied / path.name, read_only=True) as store:
        await check_readable(store, REF)
    for name in ("closed", "killed", "used"):
        with pytest.raises(sqlite3.OperationalError, match=r"^SQLITE_.*: (open|get permission, or open) the store"):
            await open_and_close(open_sqlite(seen / name / path.name))
    async with open_sqlite(seen / "used" / path.name, read_only=True) as store:
        await check_readable(store)
        with held_elsewhere(folders["used"] / path.name, INSERT):  # through the other mount
            await check_readable(store, REF)
            query_elsewhere(folders["used"] / path.name, INSERT_NEW)
            await check_readable(store, REF, NEW)


# Memory


class Counting(sqlite3.Connection):
    """A connection that tells which limits it was given."""

    limits: ClassVar[list[int]] = []

    def setlimit(self, category: int, limit: int, /) -> int:
        self.limits.append(limit)
        return super().setlimit(category, limit)


async def test_blobs_larger_than_max_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2_000_000
    small, large = Blob(bytes(limit)), Blob(bytes(limit + 1))
    async with open_sqlite(path) as store:
        await store.put_many([small, large, DATA])
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Counting))
    monkeypatch.setattr(Counting, "limits", [])
    async with open_sqlite(path, max_memory=limit) as store:
        assert await store.get(small.ref) == small.data
        for attempt in (
            partial(store.get, large.ref),
            partial(store.get_stored, large.ref),
            partial(store.get_many, [REF, large.ref]),
            partial(store.set_aside, large.ref),
            partial(store.put, large),
            partial(store.put_many, [DATA, large]),
            partial(store.replace, large),
        ):
            with pytest.raises(BlobTooLargeError) as info:
                await attempt()
            assert (info.value.store, info.value.size, info.value.limit) == (str(path), limit + 1, limit)
        ended = await in_one_batch(store._reader, *[partial(store.get, ref) for ref in (REF, large.ref, small.ref)])
        assert ended[0].unwrap() == DATA
        assert ended[2].unwrap() == small.data
        with pytest.raises(BlobTooLargeError):
            ended[1].unwrap()
        assert await store.contains(large.ref)
        assert (await store.check_integrity()).is_sound
        assert len(await store.list_page(Ref.ZERO, 10)) == 3
        assert await store.put(Blob(bytes(limit))) == (small.ref, False)
    assert {*Counting.limits} == {limit, limit + 64}  # so that SQLite reads no more


async def test_a_limit_below_what_sqlite_needs_is_kept_all_the_same(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put_many([b"12345", b"1234"])
    async with open_sqlite(path, max_memory=4) as store:
        assert await store.get(Ref.of(b"1234")) == b"1234"
        large = Ref.of(b"12345")
        for attempt in (partial(store.get, large), partial(store.get_many, [large]), partial(store.put, b"54321")):
            with pytest.raises(BlobTooLargeError, match="a blob has 5 bytes, but max_memory is 4"):
                await attempt()


class Refusing(sqlite3.Connection):
    """A connection that finds a row too large, which is gone when it is asked for its size."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith("SELECT ref, data"):
            raise sqlite3.DataError("string or blob too big")
        return super().execute(sql, *parameters)


async def test_a_row_whose_size_is_not_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query(path, SCHEMA, f"INSERT INTO blobs VALUES (x'{REF}', CAST(zeroblob(3000000) AS TEXT))")
    async with open_sqlite(path, max_memory=2_000_000) as store:
        with pytest.raises(sqlite3.DataError, match=f"^SQLITE_TOOBIG: string or blob too big: {path}$"):
            await store.get(REF)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Refusing))
    async with open_sqlite(path) as store:
        with pytest.raises(sqlite3.DataError, match=f"string or blob too big: {path}$"):
            await store.get(REF)
