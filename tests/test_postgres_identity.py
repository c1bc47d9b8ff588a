"""The identity of a PostgreSQL store, connections that lead elsewhere, and reading without writing."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
import trio
from psycopg import errors

from trio_replica import (
    BlobNotFoundError,
    MemoryStore,
    Ref,
    ReplicaError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
    open,  # noqa: A004
    open_postgres,
)
from trio_replica._identity import is_identity
from trio_replica.stores._access import Access
from trio_replica.stores._postgres.known import KnownStore
from trio_replica.stores._postgres.settings import durable_commits

from . import common
from .postgres_stores import (
    DATA,
    IDENTITY,
    REF,
    SCHEMA,
    backends,
    check_error,
    check_opening,
    end_connections,
    open_and_close,
    open_single,
    wait_until,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_replica import PostgresStore
    from trio_replica.stores._postgres.session import Connection

    from .postgres_server import PostgresAddress, PostgresServer

OTHER = "fedcba9876543210" * 2
STORE_IDENTITY = "CREATE TABLE store_identity (identity TEXT PRIMARY KEY, one INTEGER UNIQUE CHECK (one = 1))"
TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


# Opening


def test_connections_that_wait_for_the_first_fail_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each thread would wait for the same lock for as long, one after another."""

    def wait_in_vain(_: object) -> str:
        attempts.append("wait")
        raise errors.LockNotAvailable("canceling statement due to lock timeout")

    attempts: list[str] = []
    known = KnownStore("NAME", Access(), durable=True, make_identity=lambda: IDENTITY)
    monkeypatch.setattr(known, "_set_up", wait_in_vain)
    failures = []
    for _ in range(3):
        with pytest.raises(errors.LockNotAvailable, match="lock timeout") as info:
            known.prepare(cast("Connection", None))
        failures.append(info.value)
    assert attempts == ["wait"]
    assert len(set(failures)) == 3


# The identity


async def test_the_identity_is_one_row(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        assert await store.identity() == IDENTITY
        assert store.is_durable
        assert not store.is_read_only
    assert either.query("SELECT identity, one FROM store_identity") == [(IDENTITY, 1)]
    shape = (
        "SELECT pg_get_constraintdef(oid), format_type(atttypid, atttypmod) FROM pg_constraint JOIN pg_attribute "
        "ON attrelid = conrelid AND attnum = conkey[1] WHERE conrelid = 'store_identity'::regclass ORDER BY 1"
    )
    made = either.query(shape)
    assert either.query("DROP TABLE store_identity", STORE_IDENTITY, shape) == made


async def test_the_identity_stays(either: PostgresAddress) -> None:
    either.query(SCHEMA, STORE_IDENTITY, f"INSERT INTO store_identity VALUES ('{OTHER}', 1)")
    async with open_single(either.conninfo()) as store:
        assert await store.identity() == OTHER


@pytest.mark.parametrize("create", [True, False])
async def test_a_store_made_before_gets_an_identity(either: PostgresAddress, *, create: bool) -> None:
    either.query(SCHEMA, rf"INSERT INTO blobs VALUES ('\x{REF}', '\x{DATA.hex()}')")
    async with open_single(either.conninfo(), create=create) as store:
        assert await store.identity() == IDENTITY
        assert await store.get(REF) == DATA


async def test_an_identity_that_was_not_written_is_written_later(either: PostgresAddress) -> None:
    either.query(SCHEMA, STORE_IDENTITY)
    async with open_single(either.conninfo()) as store:
        assert await store.identity() == IDENTITY


async def test_racing_openers_read_the_identity_of_the_one_that_won(server: PostgresServer) -> None:
    async def read() -> None:
        async with open_postgres(server.conninfo()) as store:
            identities.append(await store.identity())

    identities: list[str | None] = []
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(read)
    ((kept,),) = server.query("SELECT identity FROM store_identity")
    assert is_identity(kept)
    assert identities == [kept] * 6


@pytest.mark.parametrize("has_table", [True, False])
async def test_the_loser_of_a_race_reads_the_identity_of_the_winner(server: PostgresServer, *, has_table: bool) -> None:
    async def read() -> None:
        async with open_single(server.conninfo()) as store:
            identities.append(await store.identity())

    identities: list[str | None] = []
    server.query(SCHEMA)
    with closing(server.connect()) as winner:
        if has_table:
            winner.execute(STORE_IDENTITY.encode())
        winner.execute("BEGIN")
        if not has_table:
            winner.execute(STORE_IDENTITY.encode())
        winner.execute(f"INSERT INTO store_identity VALUES ('{OTHER}', 1)".encode())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_until(server, waiting())
            winner.execute("COMMIT")
    assert identities == [OTHER]


ODD = [
    ("identity TEXT, one INTEGER", "('not an identity', 1)", "has 'not an identity', where one row of 32 lowercase"),
    ("identity TEXT, one INTEGER", f"('{OTHER.upper()}', 1)", "where one row of 32 lowercase hex digits should be"),
    ("identity TEXT, one INTEGER", f"('{OTHER}0', 1)", "where one row of 32 lowercase hex digits should be"),
    ("identity TEXT, one INTEGER", "(NULL, 1)", "has None, where one row"),
    ("identity TEXT, one INTEGER", f"('{OTHER}', 1), ('{IDENTITY}', 2)", "has several rows, where one row"),
    ("name TEXT", "('x')", "is not that of a store, which is CREATE TABLE store_identity"),
]


@pytest.mark.parametrize(("columns", "rows", "line"), ODD)
async def test_anything_but_an_identity_is_never_overwritten(
    server: PostgresServer, columns: str, rows: str, line: str
) -> None:
    kept = "SELECT * FROM store_identity ORDER BY 1"
    before = server.query(
        SCHEMA, f"CREATE TABLE store_identity ({columns})", f"INSERT INTO store_identity VALUES {rows}", kept
    )
    with pytest.raises(ReplicaError, match=f"^the table store_identity of {server.name} ") as info:
        await open_and_close(server.conninfo())
    assert line in str(info.value)
    assert server.query(kept) == before


async def test_a_table_that_keeps_no_identity(either: PostgresAddress) -> None:
    either.query(
        SCHEMA,
        STORE_IDENTITY,
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER t BEFORE INSERT ON store_identity FOR EACH ROW EXECUTE FUNCTION nothing()",
    )
    with pytest.raises(
        ReplicaError,
        match=f"^the table store_identity does not keep the rows written .*{either.name}: look at its triggers$",
    ):
        await open_and_close(either.conninfo())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (f"UPDATE store_identity SET identity = '{OTHER}'", OTHER),
        ("DELETE FROM store_identity", None),
        ("DROP TABLE store_identity", None),
    ],
)
async def test_another_identity_than_at_the_opening(server: PostgresServer, change: str, found: str | None) -> None:
    async with open_single(server.conninfo()) as store:
        server.query(change)
        with pytest.raises(StoreIdentityError) as info:
            await store.identity()
    assert (info.value.store, info.value.expected, info.value.found) == (server.name, IDENTITY, found)


async def test_two_urls_of_one_database_are_one_store(server: PostgresServer) -> None:
    async with (
        open_postgres(server.conninfo()) as one,
        open_postgres(server.conninfo(options="-c geqo=off")) as other,
    ):
        with pytest.raises(ValueError, match="'one' and 'other' are one store"):
            await common.open_and_close(open({"one": one, "other": other}))


# A connection that was made again


async def test_a_database_that_was_replaced_is_not_written_to(server: PostgresServer) -> None:
    server.query("CREATE DATABASE another")
    conninfo = server.conninfo(dbname="another")
    async with open_single(conninfo) as store:
        await store.put(DATA)
        end_connections(server)
        server.query("DROP DATABASE another", "CREATE DATABASE another")
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
            for operation in OPERATIONS:
                with pytest.raises(StoreIdentityError) as info:
                    await operation(store)
                assert (info.value.expected, info.value.found) == (IDENTITY, None)
            connection.execute(STORE_IDENTITY.encode())
            connection.execute(f"INSERT INTO store_identity VALUES ('{OTHER}', 1)".encode())
            for operation in OPERATIONS:
                with pytest.raises(StoreIdentityError):
                    await operation(store)
            assert connection.execute("SELECT count(*) FROM blobs").fetchall() == [(0,)]
            connection.execute(f"UPDATE store_identity SET identity = '{IDENTITY}'".encode())
        assert await store.put(b"new") == (Ref.of(b"new"), True)


OPERATIONS: list[Callable[[PostgresStore], Awaitable[object]]] = [
    lambda store: store.put(b"new"),
    lambda store: store.put_many([b"new", b"newer"]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.set_aside(REF),
    lambda store: store.set_session_mark(OTHER),
    lambda store: store.get(REF),
    lambda store: store.list_page(Ref.ZERO, 1),
    lambda store: store.identity(),
]


async def test_a_connection_that_is_made_again_looks_for_the_table(server: PostgresServer) -> None:
    async with open_single(server.conninfo()) as store:
        server.query("ALTER TABLE blobs RENAME TO elsewhere")
        end_connections(server)
        with pytest.raises(psycopg.Error) as info:
            await store.put(DATA)
        check_error(server, info.value, errors.UndefinedTable, 'relation "blobs" does not exist: ', "dropped")
        server.query("ALTER TABLE elsewhere RENAME TO blobs")
        assert await store.put(DATA) == (REF, True)


async def test_the_schema_of_a_store_stays(server: PostgresServer) -> None:
    """Another table `blobs` comes before it in the search_path."""
    server.query("CREATE SCHEMA mine")
    try:
        async with open_single(server.conninfo(options="-c search_path=mine,public")) as store:
            # Nothing was there, so it is made in the first schema of all.
            await store.put(DATA)
            assert server.query("SELECT data FROM mine.blobs") == [(DATA,)]
        server.query("ALTER TABLE mine.blobs SET SCHEMA public", "ALTER TABLE mine.store_identity SET SCHEMA public")
        async with open_single(server.conninfo(options="-c search_path=mine,public")) as store:
            server.query(SCHEMA.replace("blobs", "mine.blobs"))
            for _ in range(2):
                assert await store.put(DATA) == (REF, False)
                assert await store.get(REF) == DATA
                assert await store.identity() == IDENTITY
                end_connections(server)
        assert server.query("SELECT count(*) FROM mine.blobs") == [(0,)]
    finally:
        server.query("DROP SCHEMA mine CASCADE")


async def test_a_temporary_table_is_not_taken_for_the_store(either: PostgresAddress) -> None:
    """A pooler may hand on a session with what its last user left in it."""
    temporary = SCHEMA.replace("TABLE blobs", "TEMPORARY TABLE pg_temp.blobs")
    async with open_single(either.conninfo()) as store:
        await store._writers.run(lambda connection: connection.execute(temporary.encode()))
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
    assert either.query("SELECT data FROM blobs") == [(DATA,)]


async def test_no_schema_to_make_a_store_in(either: PostgresAddress) -> None:
    conninfo = either.conninfo(options="-c search_path=nowhere")
    line = "no schema has been selected to create in: ", "check the search_path"
    await check_opening(either, conninfo, errors.InvalidSchemaName, *line)


# Where there is no store


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}, {"create": False, "read_only": True}])
async def test_where_there_is_no_store_none_is_made(either: PostgresAddress, options: dict[str, bool]) -> None:
    with pytest.raises(StoreNotFoundError) as info:
        await open_and_close(either.conninfo(), **options)
    assert info.value.store == either.name
    assert either.query(TABLES) == []


async def test_a_table_that_is_gone_is_not_made_again(either: PostgresAddress) -> None:
    """The identity would say that all is there."""
    await open_and_close(either.conninfo())
    either.query("DROP TABLE blobs")
    with pytest.raises(ReplicaError, match=f"^the table blobs of the store is gone, .*: {either.name}: restore the"):
        await open_and_close(either.conninfo())
    with pytest.raises(StoreNotFoundError):
        await open_and_close(either.conninfo(), create=False)
    assert either.query(TABLES) == [("store_identity",)]


def test_bad_options_raise_at_once() -> None:
    with pytest.raises(TypeError, match="create"):
        open_postgres("", create="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_memory"):
        open_postgres("", max_memory=0)


# The mark of a session


async def test_the_mark_of_a_session(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        assert await store.session_mark() is None
        for mark in (OTHER, IDENTITY):
            await store.set_session_mark(mark)
            assert await store.session_mark() == mark
        with pytest.raises(ValueError, match="the mark of a session is 32 lowercase hex digits, not 'x'"):
            await store.set_session_mark("x")
    async with open_single(either.conninfo()) as store:
        assert await store.session_mark() == IDENTITY
    assert either.query("SELECT mark, one FROM store_session") == [(IDENTITY, 1)]


async def test_anything_but_a_mark_is_never_overwritten(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        either.query("CREATE TABLE store_session (mark TEXT)", "INSERT INTO store_session VALUES ('mine')")
        for call in (store.session_mark, lambda: store.set_session_mark(OTHER)):
            with pytest.raises(
                ReplicaError, match=f"^the table store_session of {either.name} has 'mine', where one row"
            ):
                await call()
    assert either.query("SELECT mark FROM store_session") == [("mine",)]


async def test_a_copy_is_given_a_new_identity(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()) as store:
        former = await store.identity()
        new = await store.renew_identity()
        assert is_identity(new)
        assert new != former
        await store.set_session_mark(OTHER)
        again = await store.renew_identity()
        assert again not in {former, new}
        assert (await store.identity(), await store.session_mark()) == (again, None)
        server.query(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
            "CREATE TRIGGER t BEFORE UPDATE ON store_identity FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        with pytest.raises(ReplicaError, match="the table store_identity does not keep the rows written to it"):
            await store.renew_identity()
        assert await store.identity() == again


async def test_a_store_without_an_identity_is_given_none(server: PostgresServer) -> None:
    server.query(SCHEMA, GRANT)
    async with open_postgres(server.conninfo("guest", "secret")) as store:
        assert await store.renew_identity() is None


async def test_a_table_that_keeps_no_mark(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store.set_session_mark(IDENTITY)
        either.query(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
            "CREATE TRIGGER t BEFORE UPDATE ON store_session FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        with pytest.raises(
            ReplicaError, match=f"^the table store_session does not keep .*: {either.name}: look at its"
        ):
            await store.set_session_mark(OTHER)


# Users who may not do all


GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON blobs TO guest"


async def test_a_user_who_may_not_make_an_identity_knows_the_store_by_its_name(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.query(SCHEMA, GRANT)
    with caplog.at_level(logging.WARNING, "trio_replica"):
        async with open_postgres(server.conninfo("guest", "secret")) as store:
            assert await store.identity() is None
            assert await store.put(DATA) == (REF, True)
            await store.set_session_mark(OTHER)  # keeps none
            assert await store.session_mark() is None
            (line,) = caplog.messages
            assert line.startswith(f"{server.name}: the store has no identity, and this user may not make one, so")
            # Somebody else gives it one in the meantime.
            await open_and_close(server.conninfo())
            assert await store.identity() == IDENTITY
            end_connections(server)
            assert await store.put(DATA) == (REF, False)
    async with open_postgres(server.conninfo("guest", "secret")) as store:
        assert await store.identity() == IDENTITY


async def test_a_user_who_may_not_read_the_identity(server: PostgresServer) -> None:
    await open_and_close(server.conninfo())
    server.query(GRANT, "REVOKE SELECT ON store_identity FROM PUBLIC")
    line = "permission denied for table store_identity: ", "GRANT SELECT ON store_identity TO the user"
    await check_opening(server, server.conninfo("guest", "secret"), errors.InsufficientPrivilege, *line)


# Stores that are only read


WRITES: list[Callable[[PostgresStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put_many([DATA]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.set_aside(REF),
    lambda store: store.set_session_mark(OTHER),
]


async def check_reads(store: PostgresStore, identity: str | None) -> None:
    """Check that a store that is only read has one blob and this identity, and writes nothing."""
    assert store.is_read_only
    assert await store.identity() == identity
    assert await store.session_mark() is None
    assert await store.get(REF) == DATA
    assert await store.get_many([REF, Ref.ZERO]) == {REF: DATA}
    assert await store.contains(REF)
    assert [ref async for ref in store.list_refs()] == [REF]
    with pytest.raises(BlobNotFoundError):
        await store.get(Ref.ZERO)
    for operation in WRITES:
        with pytest.raises(StoreReadOnlyError) as info:
            await operation(store)
        assert info.value.store == store._database.name


async def test_a_store_that_is_only_read(either: PostgresAddress) -> None:
    either.query(SCHEMA, rf"INSERT INTO blobs VALUES ('\x{REF}', '\x{DATA.hex()}')")
    async with open_single(either.conninfo(), read_only=True) as store:
        await check_reads(store, None)
        assert either.query(TABLES) == [("blobs",)]
    await open_and_close(either.conninfo())
    async with open_single(either.conninfo(), read_only=True, durable=False) as store:
        await check_reads(store, IDENTITY)
        assert not store.is_durable


async def test_the_session_of_a_store_that_is_only_read_takes_no_writes(either: PostgresAddress) -> None:
    def write(connection: Any) -> None:
        connection.execute("DELETE FROM blobs")

    either.query(SCHEMA)
    async with open_single(either.conninfo(), read_only=True) as store:
        with pytest.raises(errors.ReadOnlySqlTransaction):
            await store._read(write)


async def test_no_replica_writes_to_a_store_that_is_only_read(server: PostgresServer) -> None:
    server.query(SCHEMA)
    async with open_postgres(server.conninfo(), read_only=True) as store:
        assert len(backends(server)) == 2  # those that read
        for stores in ([store], [MemoryStore()]), ([MemoryStore()], [store]):
            with pytest.raises(ValueError, match="read"):
                open(*stores)


async def test_a_standby_is_read(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()) as store:
        await store.put(DATA)
        identity = await store.identity()
    with server.as_standby():
        async with open_postgres(server.conninfo(), read_only=True) as store:
            await check_reads(store, identity)


async def test_a_server_that_takes_no_writes_or_syncs_nothing_is_read(server: PostgresServer) -> None:
    async with open_single(server.conninfo()) as store:
        await store.put(DATA)
    for settings in ({"default_transaction_read_only": "on"}, {"fsync": "off"}):
        with server.restarted(**settings):
            async with open_postgres(server.conninfo(), read_only=True) as store:
                await check_reads(store, IDENTITY)


async def test_a_user_who_may_only_read_the_blobs(server: PostgresServer) -> None:
    async with open_single(server.conninfo()) as store:
        await store.put(DATA)
    server.query("GRANT SELECT ON blobs TO guest")
    async with open_postgres(server.conninfo("guest", "secret"), read_only=True) as store:
        await check_reads(store, IDENTITY)


async def test_an_obstacle_to_writing_does_not_hinder_reading(server: PostgresServer) -> None:
    server.query(
        SCHEMA.replace("TABLE", "UNLOGGED TABLE"),
        rf"INSERT INTO blobs VALUES ('\x{REF}', '\x{DATA.hex()}')",
        "CREATE RULE r AS ON INSERT TO blobs DO INSTEAD NOTHING",
    )
    async with open_postgres(server.conninfo(), read_only=True) as store:
        await check_reads(store, None)


async def test_an_identity_whose_mark_can_not_be_forgotten_stays(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo(), durable=False) as store:
        identity = await store.identity()
        await store.set_session_mark(OTHER)
        server.query(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
            "CREATE TRIGGER t BEFORE DELETE ON store_session FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        with pytest.raises(errors.RaiseException):
            await store.renew_identity()
        assert await store.identity() == identity
        assert await store.session_mark() == OTHER


def test_a_connection_that_is_lost_keeps_no_setting() -> None:
    class Lost:
        closed = True

        def execute(self, query: str) -> None:
            said.append(query)

    said: list[str] = []
    connection: Any = Lost()
    with durable_commits(connection, durable=False):
        pass
    assert said == ["SET synchronous_commit = on"]
