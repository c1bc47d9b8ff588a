"""The SQLite store: its format, its errors, and each caller's true outcome when puts share a transaction."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import outcome
import pytest
import trio
import trio.testing

from trio_replica import Blob, BlobNotFoundError, PutResult, Ref, ReplicaError, SqliteStore, open_sqlite
from trio_replica._async import outbox_file as _sqlite_outbox
from trio_replica.stores import sqlite
from trio_replica.stores._access import Access
from trio_replica.stores._sqlite.database import ROW_OVERHEAD, Database
from trio_replica.testing import StoreContract

from . import child
from .common import open_and_close
from .held import in_one_batch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

DATA = b"blob"
REF = Ref.of(DATA)
SCHEMA = "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)"
REFUSAL = (
    "CREATE TRIGGER refusal BEFORE INSERT ON blobs WHEN NEW.data = x'626164' BEGIN SELECT RAISE({}, 'refused'); END"
)
BAD = b"bad"


def open_limited(path: Path, **limits: Any) -> AbstractAsyncContextManager[SqliteStore]:
    return sqlite.open_database(Database(str(path), durable=True, access=Access(), **limits))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blobs.db"


class TestSqliteStore(StoreContract):
    is_persistent = True

    @pytest.fixture(autouse=True)
    def _keep_path(self, path: Path) -> None:
        self.path = path

    def open_store(self) -> AbstractAsyncContextManager[SqliteStore]:
        return open_sqlite(self.path)


@pytest.mark.deep
class TestSqliteStoreThatIsNotDurable(TestSqliteStore):
    def open_store(self) -> AbstractAsyncContextManager[SqliteStore]:
        return open_sqlite(self.path, durable=False)


def query(path: Path, *statements: str) -> list[Any]:
    """Execute statements as another program would, and return the rows of the last."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return execute(connection, *statements)


def execute(connection: sqlite3.Connection, *statements: str) -> list[Any]:
    return [connection.execute(statement).fetchall() for statement in statements][-1]


async def on_the_writer(store: SqliteStore, *statements: str) -> list[Any]:
    """Execute statements on the connection that writes, in a transaction, and return the rows of the last."""
    rows: list[Any] = await store._writer.run(lambda connection: execute(connection, *statements))
    return rows


async def open_and_put(path: Path | str, *blobs: bytes) -> list[PutResult]:
    async with open_sqlite(path) as store:
        return await store.put_many(blobs)


async def read_all(path: Path) -> dict[Ref, bytes]:
    async with open_sqlite(path) as store:
        found = await store.get_many([ref async for ref in store.list_refs()])
    assert all(Ref.of(data) == ref for ref, data in found.items())
    return found


Ended = outcome.Value[Any] | outcome.Error


async def put_in_one_batch(store: SqliteStore, *blobs: bytes) -> list[Ended]:
    return await in_one_batch(store._writer, *[partial(store.put, blob) for blob in blobs])


def check_error(ended: Ended, kind: type[sqlite3.Error], name: str, path: Path) -> None:
    """Check that a call failed with SQLite's name of the error, and the path."""
    assert isinstance(ended, outcome.Error)
    assert type(ended.error) is kind
    assert str(ended.error).startswith(f"{name}: ")
    assert str(ended.error).endswith(f": {path}")
    assert str(ended.error).count(str(path)) == 1
    assert ended.error.sqlite_errorname == name
    assert ended.error.sqlite_errorcode == getattr(sqlite3, name)


class Faulty(sqlite3.Connection):
    """A connection that fails as it is told to."""

    faults: ClassVar[list[tuple[str, str]]] = []
    """The beginnings of the next statements that fail, in order, and their errors' names. SQLITE_OK lets one pass."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.faults and sql.startswith(self.faults[0][0]):
            _, name = self.faults.pop(0)
            if name == "SQLITE_OK":
                return super().execute(sql, *parameters)
            error = sqlite3.OperationalError("as it was told")
            error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)
            raise error
        return super().execute(sql, *parameters)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Faulty))
    monkeypatch.setattr(Faulty, "faults", [])
    return Faulty.faults


# The contents of the database


async def test_the_format_of_the_database(path: Path) -> None:
    assert await open_and_put(path, DATA, b"") == [(REF, True), (Ref.of(b""), True)]
    assert query(path, "SELECT sql FROM sqlite_master WHERE sql NOTNULL") == [
        (SCHEMA,),
        ("CREATE TABLE store_identity (identity TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))",),
    ]
    assert query(path, "SELECT * FROM blobs ORDER BY ref") == [(Ref.of(b""), b""), (REF, DATA)]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_a_database_of_another_program_is_used(path: Path) -> None:
    query(path, "PRAGMA journal_mode = DELETE", SCHEMA, "CREATE TABLE other (a)", "INSERT INTO other VALUES (1)")
    query(path, f"INSERT INTO blobs VALUES (x'{REF}', x'{DATA.hex()}')")
    async with open_sqlite(path) as store:
        assert await store.put_many([DATA, b"new"]) == [(REF, False), (Ref.of(b"new"), True)]
        assert query(path, "SELECT data FROM blobs ORDER BY length(data)") == [(b"new",), (DATA,)]
        query(path, "INSERT INTO other VALUES (2)")
        assert await store.get(REF) == DATA
        assert await store.list_page(Ref.ZERO, 9) == sorted([REF, Ref.of(b"new")])
    assert query(path, "SELECT a FROM other") == [(1,), (2,)]


async def test_replace_and_delete(path: Path) -> None:
    async with open_sqlite(path) as store:
        query(path, f"INSERT INTO blobs VALUES (x'{REF}', x'00')")
        assert await store.get(REF) == b"\0"
        await store.replace(DATA)
        assert await store.put(DATA) == (REF, False)
        assert await store.get(REF) == DATA
        assert await store.contains(REF)
        assert await store.delete(REF)
        assert not await store.delete(REF)
        assert not await store.contains(REF)
        await store.replace(DATA)
        assert await store.get(REF) == DATA


async def test_many_at_once(path: Path) -> None:
    blobs = [Blob(b"%d" % i) for i in range(1000)]
    refs = sorted(blob.ref for blob in blobs)
    async with open_sqlite(path, durable=False) as store:
        await store.put(blobs[7])
        results = await store.put_many([*blobs, blobs[3]])
        assert results == [PutResult(b.ref, b is not blobs[7]) for b in blobs] + [PutResult(blobs[3].ref, False)]
        assert await store.get_many([*refs, Ref.ZERO]) == {blob.ref: blob.data for blob in blobs}
        assert await store.put_many([]) == []
        assert await store.get_many([]) == {}
        assert await store.list_page(Ref.ZERO, sys.maxsize + 1) == refs
        assert await store.list_page(refs[10], 5) == refs[11:16]
        assert await store.list_page(refs[-1], 5) == []
        ended = await in_one_batch(
            store._reader, *[partial(store.get, ref) for ref in refs[:256]], store.list_refs().__anext__
        )
        assert [Ref.of(one.unwrap()) for one in ended[:256]] == refs[:256]
        assert ended[256].unwrap() == refs[0]


# A path that is no good, and a database that is none of ours


BAD_PATHS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_text("This is a text, and no database.\n" * 100), "SQLITE_NOTADB"),
    (lambda path: path.symlink_to(path.parent / "missing" / "blobs.db"), "SQLITE_CANTOPEN"),
    (lambda path: path.symlink_to(path.name), "SQLITE_CANTOPEN"),
]


@pytest.mark.parametrize(("make", "name"), BAD_PATHS, ids=["text", "missing folder", "loop"])
async def test_a_path_that_is_no_database(path: Path, make: Callable[[Path], object], name: str) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(sqlite3.DatabaseError) as info:
        await open_and_put(path)
    check_error(outcome.Error(info.value), info.type, str(info.value).partition(":")[0], path)
    assert info.value.sqlite_errorname.startswith(name)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("below", ["missing/blobs.db", "file/blobs.db"])
async def test_a_path_in_what_is_no_folder(path: Path, below: str) -> None:
    (path.parent / "file").touch()
    with pytest.raises(sqlite3.OperationalError, match=f"^SQLITE_CANTOPEN: .*: {path.parent / below}$"):
        await open_and_put(path.parent / below)


NO_FILES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.mkdir(), "a folder, not a regular file"),
    (os.mkfifo, "a pipe, not a regular file"),
    (lambda path: path.symlink_to("/dev/null"), "a device, not a regular file"),
]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize(("make", "kind"), NO_FILES)
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_name_that_is_no_file_is_no_database(
    path: Path, make: Callable[[Path], object], kind: str, suffix: str, *, read_only: bool
) -> None:
    if suffix:
        query(path, SCHEMA)
    other = path.with_name(path.name + suffix)
    make(other)
    names = os.listdir(path.parent)
    with pytest.raises(ReplicaError, match=f"^{other}: this is {kind}: name a file$"):
        await open_and_close(open_sqlite(path, read_only=read_only))
    assert os.listdir(path.parent) == names


OTHER_TABLES = [
    "CREATE TABLE blobs (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE TABLE blobs (ref TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE blobs (ref BLOB PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE blobs (ref BLOB NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB)",
    "CREATE TABLE blobs (ref BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY (ref, data))",
    "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL, more)",
    "CREATE TABLE Blobs (data BLOB NOT NULL, ref BLOB PRIMARY KEY NOT NULL)",
    "CREATE VIEW blobs AS SELECT x'' AS ref, x'' AS data",
]


@pytest.mark.parametrize("table", OTHER_TABLES)
async def test_another_table_blobs_is_left_alone(path: Path, table: str) -> None:
    query(path, table)
    before = path.read_bytes()
    with pytest.raises(ReplicaError, match="another table blobs than a store's") as info:
        await open_and_put(path)
    assert SCHEMA in str(info.value)
    assert str(path) in str(info.value)
    assert path.read_bytes() == before
    assert query(path, "PRAGMA journal_mode") == [("delete",)]


async def test_an_outbox_is_no_store(path: Path) -> None:
    await open_and_close(_sqlite_outbox.open_sqlite_outbox(str(path)))
    before = path.read_bytes()
    with pytest.raises(ReplicaError, match=f"^the database is an outbox and not a store: name another file: {path}$"):
        await open_and_put(path)
    assert path.read_bytes() == before


async def test_a_journal_mode_that_can_not_be_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutSharedMemory(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *parameters)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=WithoutSharedMemory))
    with pytest.raises(ReplicaError, match=f"in journal mode delete and can't be put in WAL mode: {path}"):
        await open_and_put(path)


@pytest.mark.parametrize("there", [True, pytest.param(False, marks=pytest.mark.deep)])
async def test_a_database_that_is_not_writable(path: Path, *, there: bool) -> None:
    if there:
        await open_and_put(path, DATA)
        path.chmod(0o444)
    path.parent.chmod(0o555)
    error = await child.run("open_as_nobody", "sqlite", path.parent, path.name)
    assert error.startswith("OperationalError: SQLITE_")
    if there:
        remedy = "get permission, or open the store with read_only=True to read its blobs"
        assert error.endswith(f": /{path.name}: the database or its folder can't be written: {remedy}")
        assert await child.run("read_as_nobody", path.parent, path.name, "sqlite") == [True, DATA.decode()]
    else:
        assert error.endswith(f": /{path.name}")


async def test_a_symbolic_link_to_a_database(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real" / "real.db"
    real.parent.mkdir()
    path.symlink_to(real)
    async with open_limited(path, log_limit=100_000) as store:
        for i in range(20):
            await store.put(bytes([i]) * 30_000)
        assert (real.parent / "real.db-wal").stat().st_size < 200_000
    assert len(await read_all(real)) == 20
    assert path.is_symlink()


async def test_a_relative_path_stays_where_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "elsewhere").mkdir()
    monkeypatch.chdir(path.parent)
    async with open_sqlite(path.name) as store:
        monkeypatch.chdir("elsewhere")
        await store.put(DATA)
        assert repr(store) == f"<SqliteStore {str(path)!r}>"
    assert await read_all(path) == {REF: DATA}


# Damage


async def test_a_damaged_database_is_never_taken_for_one_that_lacks_a_blob(path: Path) -> None:
    blobs = {Ref.of(data): data for data in (b"%d" % i for i in range(2000))}
    await open_and_put(path, *blobs.values())
    content = path.read_bytes()
    pages = range(0, len(content), 4096)
    worst = max(pages[1:], key=lambda page: sum(content.count(ref, page, page + 4096) for ref in blobs))
    path.write_bytes(content[:worst] + b"\xff" * 4096 + content[worst + 4096 :])
    async with open_sqlite(path) as store:
        refs = [*blobs][:256]
        ended = await in_one_batch(store._reader, *[partial(store.get, ref) for ref in refs])
        damaged = [one for one in ended if isinstance(one, outcome.Error)]
        for error in damaged:
            check_error(error, sqlite3.DatabaseError, "SQLITE_CORRUPT", path)
        for ref, one in zip(refs, ended, strict=True):
            assert one in damaged or one.unwrap() == blobs[ref]
        assert 0 < len(damaged) < len(refs)
        with pytest.raises(sqlite3.DatabaseError, match="SQLITE_CORRUPT"):
            await store.get_many(blobs)


STRANGE_ROWS = [
    (f"x'{REF}', 'blob'", ReplicaError, f"the data of {REF} is a str, no BLOB: "),
    (f"x'{REF}', 1", ReplicaError, f"the data of {REF} is a int, no BLOB: "),
    (f"x'{REF}', CAST(x'ff' AS TEXT)", sqlite3.OperationalError, "OperationalError: Could not decode to UTF-8"),
]


@pytest.mark.parametrize(("row", "kind", "message"), STRANGE_ROWS)
async def test_a_strange_row_does_not_fail_its_neighbours(
    path: Path, row: str, kind: type[Exception], message: str
) -> None:
    async with open_sqlite(path) as store:
        query(path, f"INSERT INTO blobs VALUES ({row})")
        await store.put(b"good")
        good, strange, missing = await in_one_batch(
            store._reader, partial(store.get, Ref.of(b"good")), partial(store.get, REF), partial(store.get, Ref.ZERO)
        )
        assert good.unwrap() == b"good"
        assert isinstance(strange, outcome.Error)
        assert type(strange.error) is kind
        assert str(strange.error).startswith(message)
        assert str(strange.error).endswith(str(path))
        assert isinstance(missing, outcome.Error)
        assert isinstance(missing.error, BlobNotFoundError)
        with pytest.raises(kind, match=message[:20]):
            await store.get_many([REF])
        await store.replace(DATA)
        assert await store.get(REF) == DATA


async def test_a_ref_of_31_bytes_fails_the_listing(path: Path) -> None:
    async with open_sqlite(path) as store:
        query(path, f"INSERT INTO blobs VALUES (x'{REF[:31].hex()}', x'00')")
        with pytest.raises(ReplicaError, match=f"a ref is exactly 32 bytes, not 31: {path}"):
            await store.list_page(Ref.ZERO, 10)


async def remove(path: Path) -> None:  # noqa: ASYNC124  (called as the other is)
    for file in path.parent.iterdir():
        file.unlink()


async def put_another_in_place(path: Path) -> None:
    path.rename(path.parent / "as it was.db")
    await open_and_put(path, b"another")


OPERATIONS: list[Callable[[SqliteStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put(b"new"),
    lambda store: store.put_many([DATA, b"new"]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.get(Ref.ZERO),
    lambda store: store.get_many([Ref.ZERO]),
    lambda store: store.contains(Ref.ZERO),
    lambda store: store.list_page(Ref.ZERO, 1),
]


@pytest.mark.parametrize("vanish", [remove, put_another_in_place])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_database_that_vanishes_fails_every_operation(
    path: Path, vanish: Callable[[Path], Awaitable[None]], operation: Callable[[SqliteStore], Awaitable[object]]
) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        await vanish(path)
        with pytest.raises(ReplicaError, match=f"the database has vanished: {path}"):
            await operation(store)


# One transaction for all that wait, and each caller's own true outcome


async def test_what_waits_is_one_transaction_and_one_query(path: Path) -> None:
    async with open_sqlite(path) as store:
        statements: list[str] = []
        for thread in (store._writer, store._reader):
            await thread.run(lambda connection: connection.set_trace_callback(statements.append))
        statements.clear()
        blobs = [b"%d" % i for i in range(100)]
        for ended, blob in zip(await put_in_one_batch(store, *blobs), blobs, strict=True):
            assert ended.unwrap() == (Ref.of(blob), True)
        assert statements.count("COMMIT") == 2  # one is that of what held the thread
        assert statements.count("BEGIN IMMEDIATE") == 2
        statements.clear()
        await in_one_batch(store._reader, *[partial(store.get, Ref.of(blob)) for blob in blobs])
        assert sum(statement.startswith("SELECT") for statement in statements) == 1


@pytest.mark.parametrize("undone", ["ABORT", "FAIL", "ROLLBACK"])
async def test_a_bad_call_does_not_fail_its_neighbours(path: Path, undone: str) -> None:
    async with open_sqlite(path) as store:
        query(path, REFUSAL.format(undone))
        before, bad, after = await put_in_one_batch(store, b"before", BAD, b"after")
        assert before.unwrap() == (Ref.of(b"before"), True)
        assert after.unwrap() == (Ref.of(b"after"), True)
        check_error(bad, sqlite3.IntegrityError, "SQLITE_CONSTRAINT_TRIGGER", path)
        assert await store.put(b"next") == (Ref.of(b"next"), True)
    assert {*(await read_all(path)).values()} == {b"before", b"after", b"next"}


@pytest.mark.parametrize("undone", ["ABORT", "ROLLBACK"])
async def test_a_put_of_many_that_fails_in_the_middle_tells_the_others_the_truth(path: Path, undone: str) -> None:
    async with open_sqlite(path) as store:
        query(path, REFUSAL.format(undone))
        many, again, last = await in_one_batch(
            store._writer,
            partial(store.put_many, [b"first", BAD, b"never reached"]),
            partial(store.put, b"first"),
            partial(store.put, b"last"),
        )
        check_error(many, sqlite3.IntegrityError, "SQLITE_CONSTRAINT_TRIGGER", path)
        assert again.unwrap() == (Ref.of(b"first"), True)  # undone with the statement
        assert last.unwrap() == (Ref.of(b"last"), True)
    assert {*(await read_all(path)).values()} == {b"first", b"last"}


async def test_a_full_database_fails_only_the_puts_that_have_no_room(path: Path) -> None:
    blobs = [bytes([i]) * 4000 for i in range(20)]
    async with open_sqlite(path) as store:
        await on_the_writer(store, "PRAGMA max_page_count = 15")
        ended = await put_in_one_batch(store, *blobs)
        failed = [one for one in ended if isinstance(one, outcome.Error)]
        for one in failed:
            check_error(one, sqlite3.OperationalError, "SQLITE_FULL", path)
        stored = {Ref.of(blob): blob for blob, one in zip(blobs, ended, strict=True) if one not in failed}
        assert 0 < len(stored) < len(blobs)
        for ref in stored:
            assert outcome.Value(PutResult(ref, True)) in ended
        assert await store.get_many(map(Ref.of, blobs)) == stored
        await on_the_writer(store, "PRAGMA max_page_count = 1000")
        results = await store.put_many(blobs)
        assert [added for _, added in results] == [isinstance(one, outcome.Error) for one in ended]
    assert {*(await read_all(path)).values()} == {*blobs}


async def test_a_full_disk_fails_only_the_puts_that_have_no_room(path: Path) -> None:
    ended = await child.run("fill", f"sqlite:{path}", 400_000)
    stored = await read_all(path)
    assert {str(ref) for ref in stored} == {ref for ref, error in ended.items() if error is None}
    errors = [error for error in ended.values() if error is not None]
    assert 0 < len(errors) < 40
    for error in errors:
        assert re.fullmatch(f"OperationalError: SQLITE_(IOERR_WRITE|FULL): .*: {path}", error)


class Strict(sqlite3.Connection):
    """A connection that checks foreign keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA foreign_keys = ON")


async def test_a_commit_that_fails_fails_only_the_call_that_is_to_blame(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(
        path,
        SCHEMA,
        "CREATE TABLE pins (ref REFERENCES blobs (ref) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER pin AFTER INSERT ON blobs WHEN NEW.data = x'626164' BEGIN INSERT INTO pins VALUES (x'00'); END",
    )
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Strict))
    async with open_sqlite(path) as store:
        before, bad, after = await put_in_one_batch(store, b"before", BAD, b"after")
        assert before.unwrap() == (Ref.of(b"before"), True)
        assert after.unwrap() == (Ref.of(b"after"), True)
        check_error(bad, sqlite3.IntegrityError, "SQLITE_CONSTRAINT_FOREIGNKEY", path)
        assert await store.put(b"next") == (Ref.of(b"next"), True)
    assert {*(await read_all(path)).values()} == {b"before", b"after", b"next"}


FAULTS: list[tuple[list[tuple[str, str]], list[str]]] = [
    # the statements that fail and their errors, after the transaction of what holds the thread; what each call raises
    ([("BEGIN", "SQLITE_IOERR")], ["", "", ""]),
    ([("COMMIT", "SQLITE_IOERR")], ["", "", ""]),
    ([("INSERT", "SQLITE_IOERR")], ["SQLITE_IOERR", "", ""]),
    ([("COMMIT", "SQLITE_FULL"), ("COMMIT", "SQLITE_FULL")], ["SQLITE_FULL", "", ""]),
    ([("COMMIT", "SQLITE_FULL"), ("ROLLBACK", "SQLITE_IOERR")], ["SQLITE_ERROR", "", ""]),
    ([("BEGIN", "SQLITE_BUSY")], ["SQLITE_BUSY"] * 3),
    ([("INSERT", "SQLITE_BUSY")], ["SQLITE_BUSY"] * 3),
    ([("COMMIT", "SQLITE_BUSY")], ["SQLITE_BUSY"] * 3),
    ([("COMMIT", "SQLITE_FULL"), ("BEGIN", "SQLITE_OK"), ("BEGIN", "SQLITE_LOCKED")], ["", *["SQLITE_LOCKED"] * 2]),
    ([("PRAGMA wal_checkpoint", "SQLITE_IOERR")], ["", "", ""]),
]


@pytest.mark.parametrize(("told", "names"), FAULTS)
async def test_each_call_is_told_the_truth_whatever_fails(
    path: Path, told: list[tuple[str, str]], names: list[str], faults: list[tuple[str, str]]
) -> None:
    async def tell() -> None:  # noqa: ASYNC124  (called as the puts and gets are)
        faults.extend([("COMMIT", "SQLITE_OK"), *told])

    blobs = [b"first", b"second", b"third"]
    async with open_limited(path, busy_seconds=-1, log_limit=0) as store:
        _, *ended = await in_one_batch(store._writer, tell, *[partial(store.put, blob) for blob in blobs])
        for one, blob, name in zip(ended, blobs, names, strict=True):
            if name:
                check_error(one, sqlite3.OperationalError, name, path)
            else:
                assert one.unwrap() == (Ref.of(blob), True)
        assert len({id(one.error) for one in ended if isinstance(one, outcome.Error)}) == len([*filter(None, names)])
        assert faults == []
        assert await store.put(b"next") == (Ref.of(b"next"), True)
    stored = {blob for blob, name in zip(blobs, names, strict=True) if not name}
    assert {*(await read_all(path)).values()} == {*stored, b"next"}


async def test_a_call_that_fails_alone_is_not_tried_again(path: Path, faults: list[tuple[str, str]]) -> None:
    async with open_sqlite(path) as store:
        faults.append(("COMMIT", "SQLITE_IOERR"))
        with pytest.raises(sqlite3.OperationalError) as info:
            await store.put(DATA)
        check_error(outcome.Error(info.value), sqlite3.OperationalError, "SQLITE_IOERR", path)
        assert await store.put(DATA) == (REF, True)


# Other processes


async def test_a_database_that_another_process_holds(path: Path) -> None:
    async with open_limited(path, busy_seconds=0.01) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            execute(other, "BEGIN IMMEDIATE")
            for operation in (store.put, store.replace):
                with pytest.raises(sqlite3.OperationalError) as info:
                    await operation(DATA)
                check_error(outcome.Error(info.value), sqlite3.OperationalError, "SQLITE_BUSY", path)
            with pytest.raises(BlobNotFoundError):  # readers do not have to wait
                await store.get(REF)
            execute(other, "COMMIT")
        assert await store.put(DATA) == (REF, True)


async def test_a_put_and_an_open_wait_for_another_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query(path, SCHEMA)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        naps: list[Callable[[], object]] = [partial(execute, other, "COMMIT"), list]
        monkeypatch.setattr(time, "sleep", lambda _: naps.pop()())
        execute(other, "BEGIN EXCLUSIVE")
        async with open_sqlite(path) as store:
            assert naps == []
            naps.extend([partial(execute, other, "COMMIT"), list])
            execute(other, "BEGIN IMMEDIATE")
            assert await store.put(DATA) == (REF, True)
            assert naps == []


async def test_a_database_that_another_process_holds_can_not_be_opened(path: Path) -> None:
    query(path, SCHEMA)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        execute(other, "BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as info:
            await open_limited(path, busy_seconds=0.01).__aenter__()
        check_error(outcome.Error(info.value), sqlite3.OperationalError, "SQLITE_BUSY", path)


async def test_reads_of_a_busy_database_fail_together(path: Path, faults: list[tuple[str, str]]) -> None:
    async def tell() -> None:  # noqa: ASYNC124  (called as the puts and gets are)
        faults.append(("SELECT", "SQLITE_BUSY"))

    async with open_limited(path, busy_seconds=-1) as store:
        await store.put(DATA)
        _, *ended = await in_one_batch(
            store._reader,
            tell,
            partial(store.get, REF),
            partial(store.contains, REF),
            partial(store.get_many, [REF]),
        )
        for one in ended:
            check_error(one, sqlite3.OperationalError, "SQLITE_BUSY", path)
        assert await store.get(REF) == DATA


# The log


def log_size(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def test_the_log_is_truncated_when_it_is_too_large(path: Path) -> None:
    sizes = []
    async with open_limited(path, log_limit=200_000) as store:
        for i in range(20):
            await store.put(bytes([i]) * 50_000)
            sizes.append(log_size(path))
    assert max(sizes) < 300_000
    assert sizes.count(0) == 5
    assert len(await read_all(path)) == 20


async def test_a_log_that_a_reader_keeps_is_not_tried_each_time(path: Path) -> None:
    statements: list[str] = []
    async with open_limited(path, log_limit=200_000) as store:
        await store.put(DATA)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            execute(reader, "BEGIN", "SELECT * FROM blobs")
            await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
            for i in range(20):
                await store.put(bytes([i]) * 50_000)
            assert log_size(path) > 1_000_000
            assert statements.count("PRAGMA wal_checkpoint(TRUNCATE)") == 5
        while log_size(path):
            await store.put(b"%d" % len(statements))
    assert len(statements) < 1000


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(
    "operation",
    [lambda store: store.put(DATA), lambda store: store.put_many([DATA, DATA]), lambda store: store.delete(Ref.ZERO)],
)
async def test_what_is_there_already_is_synced_unless_durable_is_false(
    path: Path, operation: Callable[[SqliteStore], Awaitable[object]], *, durable: bool
) -> None:
    async with open_sqlite(path, durable=durable) as store:
        query(path, f"INSERT INTO blobs VALUES (x'{REF}', x'{DATA.hex()}')")
        before = log_size(path)
        await operation(store)
        assert (log_size(path) > before) is durable  # it was written, so its commit has synced it
        assert await on_the_writer(store, "PRAGMA synchronous") == [(2 if durable else 1,)]


# Sizes


class Small(sqlite3.Connection):
    """A connection to rows of at most 1000 bytes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)


async def test_a_blob_that_no_row_can_hold_is_refused_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Small))
    largest, too_large = bytes(1000 - ROW_OVERHEAD), bytes(1001 - ROW_OVERHEAD)
    async with open_sqlite(path) as store:
        for attempt in (store.put, store.replace, lambda blob: store.put_many([DATA, blob])):
            with pytest.raises(sqlite3.DataError, match="a blob of 937 bytes, where a row holds at most 936") as info:
                await attempt(too_large)
            check_error(outcome.Error(info.value), sqlite3.DataError, "SQLITE_TOOBIG", path)
        assert await store.put(largest) == (Ref.of(largest), True)
        await store.replace(largest)
        assert await store.get(Ref.of(largest)) == largest
    assert await read_all(path) == {Ref.of(largest): largest}


# The end


async def test_another_trio_run_is_refused(path: Path) -> None:
    async with open_sqlite(path) as store:
        for operation in OPERATIONS:
            with pytest.raises(RuntimeError, match=r"belongs to the trio\.run that opened it"):
                await trio.to_thread.run_sync(partial(trio.run, operation, store))


async def test_closed(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
    for operation in OPERATIONS:
        with pytest.raises(trio.ClosedResourceError, match=str(path)):
            await operation(store)
