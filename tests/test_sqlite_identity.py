"""The identity of a SQLite store, in its table, and the mark of a session beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trio_replica import Ref, ReplicaError, StoreIdentityError, open_sqlite
from trio_replica.stores._sqlite import database
from trio_replica.stores._sqlite.tables import make_identity

from .common import open_and_close
from .sqlite_databases import SCHEMA, execute, query

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = "0123456789abcdef" * 2
OTHER = "f" * 32
TABLE = "CREATE TABLE store_identity (identity TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blobs.db"


def insert(identity: str) -> str:
    return f"INSERT INTO store_identity VALUES ('{identity}', 1)"


async def test_an_identity_is_made_once_and_goes_with_the_file(path: Path) -> None:
    async with open_sqlite(path) as store:
        identity = await store.identity()
    assert identity is not None
    assert query(path, "SELECT * FROM store_identity") == [(identity, 1)]
    moved = path.rename(path.with_name("moved.db"))
    async with open_sqlite(moved) as store, open_sqlite(path) as other:
        assert await store.identity() == identity
        assert await other.identity() not in (identity, None)


async def test_an_identity_that_is_there_is_kept(path: Path) -> None:
    query(path, SCHEMA, TABLE, insert(IDENTITY))
    async with open_sqlite(path) as store:
        assert await store.identity() == IDENTITY
    query(path, "DELETE FROM store_identity")
    async with open_sqlite(path) as store:  # the table alone is no identity
        assert await store.identity() not in (IDENTITY, None)


async def test_of_two_that_open_it_at_once_one_gives_it_its_identity(path: Path) -> None:
    async def read() -> None:
        async with open_sqlite(path) as store:
            identities.append(await store.identity())

    identities: list[str | None] = []
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(read)
    assert len(identities) == 8
    assert len({*identities}) == 1
    assert query(path, "SELECT count(*) FROM store_identity") == [(1,)]


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        ([f"UPDATE store_identity SET identity = '{OTHER}'"], OTHER),
        (["DELETE FROM store_identity"], None),
        (["DROP TABLE store_identity"], None),
    ],
)
async def test_an_identity_that_changes_while_the_store_is_open(
    path: Path, statements: list[str], found: str | None
) -> None:
    async with open_sqlite(path) as store:
        identity = await store.identity()
        query(path, *statements)
        for _ in range(2):
            with pytest.raises(StoreIdentityError) as info:
                await store.identity()
            assert (info.value.store, info.value.expected, info.value.found) == (str(path), identity, found)


async def test_a_store_that_is_only_read_gets_no_identity(path: Path) -> None:
    query(path, SCHEMA)
    async with open_sqlite(path, read_only=True) as store:
        assert await store.identity() is None
        query(path, TABLE, insert(IDENTITY))
        assert await store.identity() == IDENTITY
        query(path, f"UPDATE store_identity SET identity = '{OTHER}'")
        with pytest.raises(StoreIdentityError):
            await store.identity()


ODD = [
    ["CREATE TABLE store_identity (identity TEXT)"],
    ["CREATE TABLE store_identity (identity BLOB PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"],
    ["CREATE VIEW store_identity AS SELECT 'a' AS identity, 1 AS one"],
    [TABLE, insert("short")],
    [TABLE, insert(IDENTITY.upper())],
    [TABLE, insert("\x1b[2J" + "x" * 1000)],
    [TABLE, "INSERT INTO store_identity VALUES (x'00', 1)"],
    [TABLE, "INSERT INTO store_identity VALUES (NULL, 1)"],
    [TABLE, insert(IDENTITY), f"INSERT INTO store_identity VALUES ('{OTHER}', NULL)"],
    [TABLE, "CREATE TRIGGER t AFTER INSERT ON store_identity BEGIN DELETE FROM store_identity; END"],
    [TABLE, "CREATE TRIGGER t BEFORE INSERT ON store_identity BEGIN SELECT RAISE(IGNORE); END"],
]


@pytest.mark.parametrize("statements", ODD)
async def test_something_else_where_the_identity_is_kept_is_refused_and_left_alone(
    path: Path, statements: list[str]
) -> None:
    query(path, SCHEMA, *statements)
    before = query(path, "SELECT * FROM store_identity")
    schema = query(path, "SELECT * FROM sqlite_master")
    with pytest.raises(ReplicaError, match="store_identity") as info:
        await open_and_close(open_sqlite(path))
    assert str(path) in str(info.value)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 400
    assert query(path, "SELECT * FROM store_identity") == before
    assert query(path, "SELECT * FROM sqlite_master") == schema
    if len(statements) != 2 or "TRIGGER" not in statements[1]:  # which keeps nobody from reading
        with pytest.raises(ReplicaError, match="store_identity"):
            await open_and_close(open_sqlite(path, read_only=True))


async def test_a_mark_is_kept_beside_the_identity(path: Path) -> None:
    async with open_sqlite(path) as store:
        assert await store.session_mark() is None
        for mark in (OTHER, IDENTITY):
            await store.set_session_mark(mark)
            assert await store.session_mark() == mark
        with pytest.raises(ValueError, match="the mark of a session is 32 lowercase hex digits, not 'x'"):
            await store.set_session_mark("x")
        assert await store.list_page(Ref.ZERO, 1) == []
    async with open_sqlite(path) as store:
        assert await store.session_mark() == IDENTITY
    assert query(path, "SELECT * FROM store_session") == [(IDENTITY, 1)]


async def test_a_copy_gets_an_identity_of_its_own_and_no_mark(path: Path) -> None:
    async with open_sqlite(path) as store:
        before = await store.identity()
        for mark in (None, OTHER):
            if mark is not None:
                await store.set_session_mark(mark)
            identity = await store.renew_identity()
            assert identity not in (before, None)
            assert await store.identity() == identity
            assert await store.session_mark() is None
            before = identity
        await store.set_session_mark(OTHER)
        query(path, "CREATE TRIGGER t BEFORE DELETE ON store_session BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises(ReplicaError, match="the table store_session does not delete its rows: look at "):
            await store.renew_identity()
        assert await store.identity() == identity
    assert query(path, "SELECT * FROM store_identity") == [(identity, 1)]


async def test_something_else_where_the_mark_is_kept_is_left_alone(path: Path) -> None:
    query(path, SCHEMA, "CREATE TABLE store_session (a)")
    async with open_sqlite(path) as store:
        with pytest.raises(ReplicaError, match="another table store_session than a store's"):
            await store.session_mark()
        with pytest.raises(ReplicaError, match="another table store_session than a store's"):
            await store.set_session_mark(IDENTITY)
    assert query(path, "SELECT sql FROM sqlite_master WHERE name = 'store_session'") == [
        ("CREATE TABLE store_session (a)",)
    ]


async def test_an_identity_that_an_open_transaction_is_about_to_make(path: Path) -> None:
    query(path, "PRAGMA journal_mode = WAL", SCHEMA, TABLE)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        execute(other, "BEGIN IMMEDIATE", insert(IDENTITY))
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                async with open_sqlite(path) as store:
                    assert await store.identity() == IDENTITY

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            execute(other, "COMMIT")


@pytest.mark.parametrize("durable", [True, False])
async def test_an_identity_is_synced_before_anybody_is_told_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    def noting(connection: sqlite3.Connection, path: str) -> str:
        levels.extend(connection.execute("PRAGMA synchronous").fetchone())
        connection.set_trace_callback(statements.append)
        return make_identity(connection, path)

    levels: list[int] = []
    statements: list[str] = []
    monkeypatch.setattr(database, "make_identity", noting)
    for is_there in (False, True):
        await open_and_close(open_sqlite(path, durable=durable))
        assert levels == [2]  # FULL
        commit = statements.index("COMMIT")
        writes = [one for one in statements[:commit] if one.startswith(("INSERT", "PRAGMA user_version ="))]
        assert [one.partition(" ")[0] for one in writes] == ["PRAGMA" if is_there else "INSERT"]
        assert ("PRAGMA synchronous = NORMAL" in statements[commit:]) is not durable
        levels.clear()
        statements.clear()


@pytest.mark.parametrize("durable", [True, False])
async def test_another_identity_and_a_mark_are_synced_before_anybody_is_told_them(path: Path, *, durable: bool) -> None:
    async with open_sqlite(path, durable=durable) as store:
        statements: list[str] = []
        await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
        for change in (store.renew_identity, partial(store.set_session_mark, OTHER)):
            statements.clear()
            await change()
            if durable:
                assert not any("synchronous" in statement for statement in statements)
            else:
                assert statements[0] == "PRAGMA synchronous = FULL"
                assert statements[-2:] == ["COMMIT", "PRAGMA synchronous = NORMAL"]
        statements.clear()
        await store.put(b"blob")
        assert not any("synchronous" in statement for statement in statements)
