"""The PostgreSQL store, against a real server: its format, its errors, and each caller's true outcome."""

from __future__ import annotations

import os
import random
import signal
import socket
from contextlib import closing, contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import outcome
import psycopg
import pytest
import trio
import trio.testing
from psycopg import errors

from trio_replica import (
    Blob,
    BlobNotFoundError,
    MemoryStore,
    PostgresStore,
    PutResult,
    ReconcileCounts,
    Ref,
    ReplicaError,
    RetryingStore,
    open_postgres,
    reconcile,
    scrub,
)
from trio_replica.stores import postgres
from trio_replica.stores._postgres import statements as _postgres_sql
from trio_replica.stores._postgres import table as _postgres_table
from trio_replica.stores._postgres.session import CANCEL_AFTER
from trio_replica.testing import StoreContract

from .common import Ended as Task
from .held import PATIENCE, Ended, Held, in_one_batch
from .postgres_stores import (
    DATA,
    LATE,
    REF,
    SCHEMA,
    Clock,
    backends,
    check_error,
    check_opening,
    locked,
    open_and_close,
    open_single,
    read_all,
    read_in_one_batch,
    read_with,
    wait_until,
    waiting,
)
from .postgres_tape import Player, Recorder, read_tapes, write_tape

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from .postgres_server import PostgresAddress, PostgresServer

BAD = b"bad"
REFUSAL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{}', DETAIL = 'at length'; END $$;
CREATE {} TRIGGER refusal AFTER INSERT ON blobs {} FOR EACH ROW WHEN (NEW.data = 'bad') EXECUTE FUNCTION refuse()
"""


class TestPostgresStore(StoreContract):
    is_persistent = True
    largest = 16 * 1024 * 1024

    @pytest.fixture(autouse=True)
    def _keep_server(self, server: PostgresServer) -> None:
        self.server = server

    def open_store(self) -> AbstractAsyncContextManager[PostgresStore]:
        return open_postgres(self.server.conninfo())


class TestPostgresStoreThatIsNotDurable(TestPostgresStore):
    largest = 2 * 1024 * 1024

    def open_store(self) -> AbstractAsyncContextManager[PostgresStore]:
        return open_postgres(self.server.conninfo(), durable=False)


OPERATIONS: list[Callable[[PostgresStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put_many([DATA, b"new"]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.get(Ref.ZERO),
    lambda store: store.get_many([Ref.ZERO]),
    lambda store: store.contains(Ref.ZERO),
    lambda store: store.list_page(Ref.ZERO, 1),
]
READS = OPERATIONS[4:]


# Recorded answers

START, QUERY, READY = b"\0\0\0\x08abcd", b"Q\0\0\0\x05x", b"Z\0\0\0\x05I"
TAPE = [[["␀␀␀␈abcd", "Z␀␀␀␅I"], ["Q␀␀␀␅x", "Z␀␀␀␅I"]]]


def ask(port: int, *requests: bytes) -> list[bytes]:
    """Return what a server answers, request by request; nothing, once it has hung up."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        answers = []
        for request in requests:
            answer = b""
            with suppress(ConnectionError):  # it has hung up without reading all that was sent
                client.sendall(request)
                answer = client.recv(1000)
            answers.append(answer)
    return answers


def test_what_is_played_back_can_be_recorded_again(tmp_path: Path) -> None:
    player = Player(TAPE)
    with player.run() as played:
        recorder = Recorder(played.port)
        with recorder.run() as recorded:
            assert ask(recorded.port, START, QUERY) == [READY, READY]
    assert (recorder.tape, player.problems) == (TAPE, [])
    file = tmp_path / "tapes.json"
    file.write_text("{}")
    write_tape("one", TAPE, file)
    write_tape("other", [], file)
    assert read_tapes(file) == {"one": TAPE, "other": []}


def test_what_was_not_recorded_is_not_answered() -> None:
    player = Player(TAPE)
    with player.run() as played:
        assert ask(played.port, START, QUERY.replace(b"x", b"y")) == [READY, b""]
        assert ask(played.port, START) == [b""]
    assert player.problems == [
        "asked 'Q␀␀␀␅y', where 'Q␀␀␀␅x' was recorded",
        "there are more connections than were recorded",
    ]
    player = Player(TAPE)
    with player.run() as played:
        assert ask(played.port, START) == [READY]
    assert player.problems == ["asked '', where 'Q␀␀␀␅x' was recorded"]


# The contents of the database


async def test_the_format_of_the_database(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        assert await store.put_many([DATA, b""]) == [(REF, True), (Ref.of(b""), True)]
        assert repr(store) == f"<PostgresStore {either.name!r}>"
    assert either.query("SELECT ref, data FROM blobs ORDER BY ref") == [(Ref.of(b""), b""), (REF, DATA)]
    shape = "SELECT attname, attstorage FROM pg_attribute WHERE attrelid = 'blobs'::regclass AND attnum > 0"
    made = either.query(shape)
    assert either.query("DROP TABLE blobs", SCHEMA, shape) == made


async def test_a_database_of_another_program_is_used(either: PostgresAddress) -> None:
    either.query(SCHEMA, "CREATE TABLE other (a int)", "INSERT INTO other VALUES (1)")
    either.query(rf"INSERT INTO blobs VALUES ('\x{REF}', '\x{DATA.hex()}')")
    async with open_single(either.conninfo()) as store:
        assert await store.put_many([DATA, b"new"]) == [(REF, False), (Ref.of(b"new"), True)]
        assert either.query("SELECT data FROM blobs ORDER BY length(data)") == [(b"new",), (DATA,)]
        assert await store.get(REF) == DATA
    assert either.query("SELECT a FROM other") == [(1,)]


async def test_replace_and_delete(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        either.query(rf"INSERT INTO blobs VALUES ('\x{REF}', '\x00')")
        with pytest.raises(ReplicaError, match="has other bytes than the blob"):
            await store.put(DATA)
        assert await store.get(REF) == b"\0"
        await store.replace(DATA)
        assert await store.get(REF) == DATA
        assert await store.delete(REF)
        assert not await store.delete(REF)
        await store.replace(DATA)
        assert await store.get(REF) == DATA


async def test_a_row_is_set_aside_once(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        place = f"table damaged_blobs of {store._database.name}"
        assert await store.set_aside(REF) is None
        either.query(rf"INSERT INTO blobs VALUES ('\x{REF}', '\x00')")
        assert [await store.set_aside(REF) for _ in range(2)] == [place] * 2
        await store.replace(DATA)
        assert await store.set_aside(REF) == place
        assert either.query("SELECT ref, data FROM damaged_blobs ORDER BY data") == [(REF, b"\0"), (REF, DATA)]
        assert either.query("SELECT count(*) FROM damaged_blobs WHERE at > now() - interval '1 hour'") == [(2,)]
        assert [ref async for ref in store.list_refs()] == [REF]
        with pytest.raises(TypeError):
            await store.set_aside(bytes(REF))  # type: ignore[arg-type]


async def test_a_table_is_reconciled_and_scrubbed(server: PostgresServer) -> None:
    local = MemoryStore()
    await local.put_many([DATA, b"another"])
    async with open_postgres(server.conninfo()) as store:
        stores = {"local": local, "remote": RetryingStore(store)}
        assert (await reconcile(stores)).stores["remote"] == ReconcileCounts(0, 2, 2, 0, 11)
        server.query(rf"UPDATE blobs SET data = 'blub' WHERE ref = '\x{REF}'")
        report = await scrub(stores, repair=True)
        (finding,) = report.findings
        assert (finding.store, finding.ref, finding.is_repaired, report.is_sound) == ("remote", REF, True, True)
        assert finding.outcome.startswith("repaired from local; the bad bytes are kept: table damaged_blobs of ")
        assert await store.get(REF) == DATA
        assert server.query("SELECT ref, data FROM damaged_blobs") == [(REF, b"blub")]
        assert (await scrub(stores)).findings == ()


def test_two_processes_create_the_table_of_what_is_set_aside(either: PostgresAddress) -> None:
    class Late:
        """A connection to which it looks as if the table were not there, until it creates it."""

        def __init__(self, connection: psycopg.Connection) -> None:
            self.connection = connection

        def execute(self, query: str) -> Any:
            if query.startswith("SELECT"):
                return SimpleNamespace(fetchall=lambda: [(True,)])
            return self.connection.execute(query)

    with closing(psycopg.connect(either.conninfo(), autocommit=True)) as connection:
        for _ in range(2):
            _postgres_table.create_damaged_table(Late(connection))  # type: ignore[arg-type]
    assert either.query("SELECT count(*) FROM damaged_blobs") == [(0,)]


async def test_5000_refs_are_listed_in_order(server: PostgresServer) -> None:
    blobs = [Blob(b"%d" % i) for i in range(5000)]
    refs = sorted(blob.ref for blob in blobs)
    async with open_postgres(server.conninfo(), durable=False) as store:
        await store.put(blobs[7])
        results = await store.put_many([*blobs, blobs[3]])
        assert results == [PutResult(b.ref, b is not blobs[7]) for b in blobs] + [PutResult(blobs[3].ref, False)]
        assert [ref async for ref in store.list_refs()] == refs
        assert await store.list_page(Ref.ZERO, 2**70) == refs
        assert await store.list_page(refs[4990], 5) == refs[4991:4996]
        assert await store.list_page(refs[-1], 5) == []
        assert await store.get_many([*refs, Ref.ZERO]) == {blob.ref: blob.data for blob in blobs}


async def test_a_put_of_many_large_and_small_blobs(server: PostgresServer) -> None:
    source = random.Random(1)
    blobs = [source.randbytes(size) for size in [100, 600_000, 16 * 1024 * 1024, 0, 400_000, 500_000, 2_000_000, 50]]
    async with open_postgres(server.conninfo()) as store:
        assert await store.put_many(blobs) == [(Ref.of(blob), True) for blob in blobs]
        assert await store.put_many(blobs) == [(Ref.of(blob), False) for blob in blobs]
    assert await read_all(server) == {Ref.of(blob): blob for blob in blobs}


async def test_a_database_in_sql_ascii_and_a_schema_of_ones_own(server: PostgresServer) -> None:
    server.query("CREATE DATABASE another ENCODING 'SQL_ASCII' TEMPLATE template0")
    conninfo = server.conninfo(dbname="another")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA mine")
    conninfo = server.conninfo(dbname="another", options="-c search_path=mine")
    async with open_postgres(conninfo) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
    with psycopg.connect(conninfo, autocommit=True) as connection:
        assert connection.execute("SELECT ref FROM mine.blobs").fetchall() == [(REF,)]


OTHER_TABLES = [
    "CREATE TABLE blobs (id int PRIMARY KEY, name text)",
    "CREATE TABLE blobs (ref text PRIMARY KEY NOT NULL, data bytea NOT NULL)",
    "CREATE TABLE blobs (ref bytea NOT NULL, data bytea NOT NULL)",
    "CREATE TABLE blobs (ref bytea UNIQUE NOT NULL, data bytea NOT NULL)",
    "CREATE TABLE blobs (ref bytea PRIMARY KEY NOT NULL, data bytea)",
    "CREATE TABLE blobs (ref bytea NOT NULL, data bytea NOT NULL, PRIMARY KEY (ref, data))",
    "CREATE TABLE blobs (ref bytea PRIMARY KEY DEFERRABLE NOT NULL, data bytea NOT NULL)",
    "CREATE TABLE blobs (ref bytea PRIMARY KEY NOT NULL, data bytea NOT NULL, more int)",
    "CREATE TABLE blobs (data bytea NOT NULL, ref bytea PRIMARY KEY NOT NULL)",
    "CREATE VIEW blobs AS SELECT ''::bytea AS ref, ''::bytea AS data",
]


@pytest.mark.parametrize("table", OTHER_TABLES)
async def test_another_table_blobs_is_left_alone(either: PostgresAddress, table: str) -> None:
    either.query(table)
    with pytest.raises(ReplicaError, match=r"^the database has another table blobs than a store's") as info:
        await open_and_close(either.conninfo())
    assert SCHEMA in str(info.value)
    assert str(info.value).endswith(f": {either.name}")


async def test_a_partitioned_table_is_one_too(either: PostgresAddress) -> None:
    either.query(f"{SCHEMA} PARTITION BY HASH (ref)")
    either.query("CREATE TABLE part PARTITION OF blobs FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    async with open_single(either.conninfo()) as store:
        assert await store.put_many([DATA, b"new"]) == [(REF, True), (Ref.of(b"new"), True)]
        assert await store.put(DATA) == (REF, False)


async def test_a_table_that_was_changed_into_the_right_shape(either: PostgresAddress) -> None:
    either.query(
        "CREATE TABLE blobs (id int, ref bytea, data bytea NOT NULL)",
        "ALTER TABLE blobs DROP COLUMN id",
        "ALTER TABLE blobs ADD PRIMARY KEY (ref)",
    )
    async with open_single(either.conninfo()) as store:
        assert await store.put(DATA) == (REF, True)


async def test_an_unlogged_table_is_not_durable(either: PostgresAddress) -> None:
    either.query(SCHEMA.replace("TABLE", "UNLOGGED TABLE"))
    with pytest.raises(ReplicaError, match=f"^the table blobs is UNLOGGED, .*: {either.name}: ALTER TABLE blobs SET L"):
        await open_and_close(either.conninfo())
    async with open_single(either.conninfo(), durable=False) as store:
        assert await store.put(DATA) == (REF, True)


async def test_racing_creators(server: PostgresServer) -> None:
    async def create() -> None:
        async with open_postgres(server.conninfo()) as store:
            results.append(await store.put(DATA))

    results: list[PutResult] = []
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(create)
    assert sorted(results) == [(REF, False)] * 5 + [(REF, True)]


async def test_another_program_creates_the_table_at_the_same_time(server: PostgresServer) -> None:
    for columns, expected in [("ref bytea PRIMARY KEY, data bytea NOT NULL", ""), ("a int", "another table blobs")]:
        server.query("DROP TABLE IF EXISTS blobs, store_identity")
        ended: list[str] = []

        async def create(ended: list[str] = ended) -> None:
            try:
                async with open_postgres(server.conninfo()) as store:
                    await store.put(DATA)
            except ReplicaError as error:
                ended.append(str(error))
            else:
                ended.append("")

        with closing(server.connect()) as other:
            other.execute("BEGIN")
            other.execute(f"CREATE TABLE blobs ({columns})".encode())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(create)
                await wait_until(server, waiting())
                other.execute("COMMIT")
        assert len(ended) == 1
        assert expected in ended[0]
        assert bool(expected) == bool(ended[0])


# Durability


@pytest.mark.parametrize("durable", [True, False])
async def test_the_identity_and_the_mark_are_synced_whatever_durable_is(
    server: PostgresServer, *, durable: bool
) -> None:
    async def make() -> None:
        async with open_postgres(server.conninfo(), durable=durable):
            pass

    commit = partial(_setting, "synchronous_commit")
    with server.restarted(wal_writer_delay="10s", autovacuum="off"):
        async with open_postgres(server.conninfo(), durable=durable) as store:
            for change in (store.renew_identity, partial(store.set_session_mark, "0" * 32)):
                assert await flushes(server, store, change)
                assert await store._writers.run(commit) == ("on" if durable else "off")
            server.query("DROP TABLE store_identity")
            assert await flushes(server, store, make)


def _setting(name: str, connection: psycopg.Connection) -> str:
    ((value,),) = connection.execute(b"SELECT current_setting(%s)", (name,)).fetchall()
    return str(value)


async def flushes(server: PostgresServer, store: PostgresStore, operation: Callable[[], Awaitable[object]]) -> bool:
    """Return whether an operation has what was committed before on disk, though it may have come without a sync.

    The log writer is asleep for long, so nobody else writes it there.
    """
    with closing(server.connect()) as other:
        other.execute("SET synchronous_commit = off")
        other.execute("CREATE TABLE IF NOT EXISTS noise (a int)")
        ((before,),) = other.execute("INSERT INTO noise VALUES (1) RETURNING pg_current_wal_insert_lsn()").fetchall()
        await operation()
        ((flushed,),) = other.execute("SELECT pg_current_wal_flush_lsn() > %s", (before,)).fetchall()
    assert isinstance(flushed, bool)
    return flushed


@pytest.mark.parametrize("commit", ["on", "off", "local"])
@pytest.mark.parametrize("durable", [True, False])
async def test_what_is_there_already_is_synced_unless_durable_is_false(
    server: PostgresServer, commit: str, *, durable: bool
) -> None:
    conninfo = server.conninfo(options=f"-c synchronous_commit={commit}")
    operations: list[Callable[[PostgresStore], Awaitable[object]]] = [
        lambda store: store.put(b"new"),
        lambda store: store.put(DATA),
        lambda store: store.put_many([DATA, DATA]),
        lambda store: store.delete(Ref.ZERO),
        lambda store: store.replace(DATA),
    ]
    with server.restarted(wal_writer_delay="10s", autovacuum="off"):
        async with open_postgres(conninfo, durable=durable) as store:
            await store.put(DATA)
            assert [await flushes(server, store, partial(one, store)) for one in operations] == [durable] * 5


async def test_what_writes_nothing_leaves_no_trace(server: PostgresServer) -> None:
    position = "SELECT pg_current_wal_insert_lsn()::text"
    with server.restarted(autovacuum="off"):
        async with open_postgres(server.conninfo(), durable=False) as store:
            await store.put(DATA)
            await store.put(DATA)  # what it looks at it may tidy up
            before = server.query("CHECKPOINT", position)
            assert await store.put(DATA) == (REF, False)
            assert not await store.delete(Ref.ZERO)
            assert server.query(position) == before
        async with open_postgres(server.conninfo()) as store:
            before = server.query(position)
            assert await store.put_many([]) == []
            assert server.query(position) == before


async def test_a_server_that_does_not_sync_is_refused(server: PostgresServer) -> None:
    with server.restarted(fsync="off"):
        with pytest.raises(ReplicaError, match=f"^the server runs with fsync = off, .*: {server.name}: turn it on, or"):
            await open_and_close(server.conninfo())
        async with open_postgres(server.conninfo(), durable=False) as store:
            assert await store.put(DATA) == (REF, True)


# Errors, each one line with a remedy


async def test_a_wrong_password(server: PostgresServer) -> None:
    conninfo = f"postgresql://guest:not%20the%20secret@127.0.0.1:{server.port}/postgres"
    line = 'password authentication failed for user "guest": ', "check the user, and the password"
    await check_opening(server, conninfo, psycopg.OperationalError, *line)


async def test_a_password_from_the_environment(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.query(SCHEMA, "GRANT SELECT, INSERT, UPDATE, DELETE ON blobs TO guest")
    monkeypatch.setenv("PGPASSWORD", "secret")
    async with open_postgres(server.conninfo("guest")) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.put(DATA) == (REF, False)
        assert await store.delete(REF)
        assert not await store.delete(REF)
        assert "secret" not in repr(store)
        assert "secret" not in repr(store._writers)


async def test_no_password(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    await check_opening(server, server.conninfo("guest"), psycopg.OperationalError, "no password supplied", "~/.pgpass")


async def test_no_such_database(either: PostgresAddress) -> None:
    line = 'database "nowhere" does not exist: ', "createdb"
    await check_opening(either, either.conninfo(dbname="nowhere"), psycopg.OperationalError, *line)


async def test_tls_that_the_server_does_not_offer(server: PostgresServer) -> None:
    line = "server does not support SSL, but SSL was required: ", "sslmode=prefer"
    await check_opening(server, server.conninfo(sslmode="require"), psycopg.OperationalError, *line)


async def test_tls_that_the_server_requires(server: PostgresServer) -> None:
    line = "no pg_hba.conf entry for host", "sslmode=require"
    await check_opening(server, server.conninfo("tls_only"), psycopg.OperationalError, *line)


async def test_no_table_and_no_right_to_create_one(server: PostgresServer) -> None:
    line = "permission denied for schema public: ", "GRANT"
    await check_opening(server, server.conninfo("guest", "secret"), errors.InsufficientPrivilege, *line)


async def test_no_right_to_write(server: PostgresServer) -> None:
    server.query(SCHEMA, "GRANT SELECT ON blobs TO guest")
    async with open_postgres(server.conninfo("guest", "secret")) as store:
        with pytest.raises(psycopg.Error) as info:
            await store.put(DATA)
        check_error(server, info.value, errors.InsufficientPrivilege, "permission denied for table blobs: ", "GRANT")
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)


async def test_a_standby(server: PostgresServer) -> None:
    server.query(SCHEMA)
    with server.as_standby():
        line = (
            "the server is read-only: a standby, or default_transaction_read_only: ",
            "target_session_attrs=read-write",
        )
        await check_opening(server, server.conninfo(), errors.ReadOnlySqlTransaction, *line)


async def test_a_store_that_becomes_read_only(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()) as store:
        await store.put(DATA)
        with server.restarted(default_transaction_read_only="on"):
            for operation in OPERATIONS:
                with pytest.raises(psycopg.Error) as info:
                    await operation(store)
                check_error(server, info.value, errors.ReadOnlySqlTransaction, "the server is read-only")
        assert await store.get(REF) == DATA


async def test_a_session_that_becomes_read_only(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store._writers.run(lambda connection: connection.execute("SET default_transaction_read_only = on"))
        for operation in OPERATIONS[:4]:
            with pytest.raises(psycopg.Error) as info:
                await operation(store)
            line = " in a read-only transaction: ", "target_session_attrs=read-write"
            check_error(either, info.value, errors.ReadOnlySqlTransaction, *line)


async def test_a_table_that_has_been_dropped_is_never_one_that_lacks_a_blob(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        either.query("DROP TABLE blobs")
        for operation in OPERATIONS:
            with pytest.raises(psycopg.Error) as info:
                await operation(store)
            check_error(either, info.value, errors.UndefinedTable, 'relation "blobs" does not exist: ', "dropped")


async def test_a_ref_of_31_bytes_fails_the_listing(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        either.query(rf"INSERT INTO blobs VALUES ('\x{REF[:31].hex()}', '')")
        line = f"^the table blobs has a ref that is not of 32 bytes: {either.name}: delete its row$"
        with pytest.raises(ReplicaError, match=line):
            await store.list_page(Ref.ZERO, 10)


async def test_a_blob_that_no_row_can_hold_is_refused_alone(either: PostgresAddress) -> None:
    async with open_single(either.conninfo(), size_limit=1000) as store:
        for attempt in (store.put, store.replace, lambda blob: store.put_many([DATA, blob, b""])):
            with pytest.raises(psycopg.DataError) as info:
                await attempt(bytes(1001))
            check_error(either, info.value, psycopg.DataError, "a blob of 1001 bytes, where a row holds at most 1000: ")
        assert await store.put_many([bytes(1000)]) == [(Ref.of(bytes(1000)), True)]
    assert len(await read_all(either)) == 1


# One transaction for all that wait, and each caller's own true outcome


async def put_in_one_batch(store: PostgresStore, *blobs: bytes) -> list[Ended]:
    return await in_one_batch(store._writers, *[partial(store.put, blob) for blob in blobs])


async def test_what_waits_is_one_transaction_and_one_query(
    either: PostgresAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(refs: list[Ref], *more: Any) -> dict[Ref, bytes]:
        counts.append(len(refs))
        return select(refs, *more)

    counts: list[int] = []
    select = _postgres_sql.select
    monkeypatch.setattr(_postgres_sql, "select", counted)
    blobs = [b"%d" % i for i in range(100)]
    async with open_single(either.conninfo()) as store:
        for ended, blob in zip(await put_in_one_batch(store, *blobs), blobs, strict=True):
            assert ended.unwrap() == (Ref.of(blob), True)
        assert either.query("SELECT count(*), count(DISTINCT xmin::text) FROM blobs") == [(100, 1)]
        gets = [partial(store.get, Ref.of(blob)) for blob in [*blobs, b"0", b"missing"]]
        *ended_gets, missing = await read_in_one_batch(store, *gets)
        assert [one.unwrap() for one in ended_gets] == [*blobs, b"0"]
        assert isinstance(missing, outcome.Error)
        assert type(missing.error) is BlobNotFoundError
        assert counts == [101]


async def test_of_equal_puts_in_one_batch_one_is_added(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store.put(b"old")
        ended = await in_one_batch(
            store._writers,
            partial(store.put, b"old"),
            partial(store.put, b"new"),
            partial(store.put_many, [b"newer", b"new", b"newer", b"old"]),
            partial(store.put, b"newer"),
        )
        results = [ended[0].unwrap(), ended[1].unwrap(), *ended[2].unwrap(), ended[3].unwrap()]
        assert [added for _, added in results] == [False, True, True, False, False, False, False]


async def test_64_racing_puts_of_one_blob_through_two_stores(server: PostgresServer) -> None:
    async def put(store: PostgresStore) -> None:
        results.append(await store.put(DATA))

    results: list[PutResult] = []
    async with open_postgres(server.conninfo()) as one, open_postgres(server.conninfo()) as two:
        async with trio.open_nursery() as nursery:
            for i in range(64):
                nursery.start_soon(put, (one, two)[i % 2])
    assert sorted(results) == [(REF, False)] * 63 + [(REF, True)]


@pytest.mark.parametrize("size", [100, 20_000])  # one statement, and many in one transaction
async def test_puts_of_the_same_blobs_in_opposite_orders_do_not_lock_each_other_out(
    server: PostgresServer, size: int
) -> None:
    async def put(store: PostgresStore, blobs: list[Blob]) -> None:
        added.extend(result.ref for result in await store.put_many(blobs) if result.added)

    for round_ in range(3):
        blobs = sorted((Blob(b"%d %d " % (round_, i) + bytes(size)) for i in range(300)), key=lambda blob: blob.ref)
        added: list[Ref] = []
        async with open_postgres(server.conninfo()) as one, open_postgres(server.conninfo()) as two:
            async with trio.open_nursery() as nursery:
                for store in (one, two):
                    nursery.start_soon(put, store, blobs)
                    nursery.start_soon(put, store, blobs[::-1])
        assert sorted(added) == [blob.ref for blob in blobs]


@pytest.mark.parametrize("at", ["", "CONSTRAINT"])
@pytest.mark.parametrize(("code", "kind"), [("23514", errors.CheckViolation), ("53100", errors.DiskFull)])
async def test_a_bad_call_does_not_fail_its_neighbours(
    either: PostgresAddress, at: str, code: str, kind: type[psycopg.Error]
) -> None:
    async with open_single(either.conninfo()) as store:
        either.query(REFUSAL.format(code, at, at and "DEFERRABLE INITIALLY DEFERRED"))
        before, bad, many, again, after = await in_one_batch(
            store._writers,
            partial(store.put, b"before"),
            partial(store.put, BAD),
            partial(store.put_many, [b"first", BAD, b"last"]),
            partial(store.put, b"first"),
            partial(store.put, b"after"),
        )
        assert before.unwrap() == (Ref.of(b"before"), True)
        assert again.unwrap() == (Ref.of(b"first"), True)  # that of the many was undone
        assert after.unwrap() == (Ref.of(b"after"), True)
        for one in (bad, many):
            check_error(either, one, kind, "refused: ")
            assert isinstance(one, outcome.Error)
            assert "at length" not in str(one.error)
        assert await store.put(b"next") == (Ref.of(b"next"), True)
    assert {*(await read_all(either)).values()} == {b"before", b"first", b"after", b"next"}


async def test_a_put_of_many_is_undone_as_a_whole(server: PostgresServer) -> None:
    blobs = sorted([Blob(bytes([i]) * 600_000) for i in range(5)], key=lambda blob: blob.ref)
    async with open_single(server.conninfo()) as store:
        server.query(REFUSAL.format("23514", "", "").replace("NEW.data = 'bad'", f"NEW.ref = '\\x{blobs[-1].ref}'"))
        with pytest.raises(psycopg.Error) as info:
            await store.put_many(blobs)
        check_error(server, info.value, errors.CheckViolation, "refused: ")
        assert await store.list_page(Ref.ZERO, 10) == []
        assert await store.put_many(blobs[:-1]) == [(blob.ref, True) for blob in blobs[:-1]]


async def test_puts_deletes_and_replacements_in_one_batch(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store.put_many([b"gone", b"kept"])
        ended = await in_one_batch(
            store._writers,
            partial(store.delete, Ref.of(b"gone")),
            partial(store.put, b"new"),
            partial(store.delete, REF),
            partial(store.replace, b"kept"),
        )
        assert [one.unwrap() for one in ended] == [True, (Ref.of(b"new"), True), False, None]
    assert {*(await read_all(either)).values()} == {b"kept", b"new"}


async def test_a_damaged_row_does_not_fail_its_neighbours(server: PostgresServer) -> None:
    large = random.Random(3).randbytes(5000)
    async with open_single(server.conninfo()) as store:
        await store.put_many([large, b"good"])
        server.damage(*server.query("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'blobs'")[0])
        good, damaged, missing = await read_in_one_batch(
            store, *[partial(store.get, ref) for ref in (Ref.of(b"good"), Ref.of(large), REF)]
        )
        assert good.unwrap() == b"good"
        check_error(server, damaged, errors.DataCorrupted, "invalid page in block")
        assert isinstance(missing, outcome.Error)
        assert type(missing.error) is BlobNotFoundError
        with pytest.raises(errors.DataCorrupted):
            await store.get_many([Ref.of(large)])


# Locks, silence, and reads that nobody waits for


@pytest.mark.parametrize("read", READS)
async def test_a_cancelled_read_cancels_its_statement(
    server: PostgresServer, read: Callable[[PostgresStore], Awaitable[object]]
) -> None:
    async with open_postgres(server.conninfo()) as store:
        await store.put(DATA)
        served_by = backends(server)
        with locked(server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, store)
                await wait_until(server, waiting())
                nursery.cancel_scope.cancel()
            await wait_until(server, waiting(0))
        assert [await store.get(REF) for _ in range(10)] == [DATA] * 10  # none is hit by what was meant for another
        assert backends(server) == served_by


async def test_a_cancelled_read_does_not_keep_the_block_open(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()):
        pass
    with locked(server), trio.fail_after(PATIENCE):
        async with open_postgres(server.conninfo()) as store, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(store.list_page, Ref.ZERO, 10)
            await wait_until(server, waiting(postgres.READERS))
            nursery.cancel_scope.cancel()


async def test_a_statement_goes_on_while_somebody_waits_for_it(server: PostgresServer) -> None:
    async def get(scope: trio.CancelScope) -> None:
        with scope:
            results.append(await store.get(REF))

    clock = Clock()
    results: list[bytes] = []
    scopes = [trio.CancelScope(), trio.CancelScope(), trio.CancelScope()]
    async with open_single(server.conninfo(), clock) as store:
        await store.put(DATA)
        async with trio.open_nursery() as nursery:
            with locked(server) as other:
                nursery.start_soon(read_in_one_batch, store, *[partial(get, scope) for scope in scopes])
                await wait_until(server, waiting())
                scopes[0].cancel()
                scopes[2].cancel()
                clock.now += 10 * CANCEL_AFTER
                await clock.wait_looks(3)
                other.execute("COMMIT")
        assert results == [DATA]


async def test_what_is_abandoned_before_it_runs_is_not_read(either: PostgresAddress) -> None:
    async def read(scope: trio.CancelScope) -> None:
        with scope:
            await read_with(store, ran.append)

    ran: list[object] = []
    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with open_single(either.conninfo()) as store, trio.open_nursery() as nursery:
        with Held() as held:
            reads = [partial(read_with, store, held), *[partial(read, scope) for scope in scopes]]
            nursery.start_soon(read_in_one_batch, store, *reads)
            await held.wait_running()
            scopes[0].cancel()
            await trio.testing.wait_all_tasks_blocked()
    assert len(ran) == 1


async def test_a_call_that_waits_for_too_long_fails(server: PostgresServer) -> None:
    clock = Clock()
    async with open_single(server.conninfo(), clock) as store:
        await store.put(DATA)
        served_by = backends(server)
        with locked(server):
            for operation in OPERATIONS:
                async with trio.open_nursery() as nursery:
                    ended = Task(nursery, operation, store)
                    await wait_until(server, waiting())
                    clock.now += LATE
                line = "canceling statement due to user request: ", "answer_timeout is how long to wait"
                check_error(server, ended.error, errors.QueryCanceled, *line)
        assert await store.put_many([DATA, b"new"]) == [(REF, False), (Ref.of(b"new"), True)]
        assert backends(server) == served_by


async def test_calls_that_waited_together_for_too_long_fail_together(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(function: Callable[..., Any], *arguments: object) -> Any:
        calls.append(function)
        return function(*arguments)

    calls: list[Callable[..., Any]] = []
    monkeypatch.setattr(_postgres_sql, "insert_all", partial(counted, _postgres_sql.insert_all))
    monkeypatch.setattr(_postgres_sql, "select", partial(counted, _postgres_sql.select))
    async with open_single(server.conninfo(options="-c lock_timeout=100")) as store:
        await store.put(DATA)
        calls.clear()
        with locked(server):
            ended = await put_in_one_batch(store, b"one", b"two", b"three")
            ended += await read_in_one_batch(store, *[partial(store.get, REF)] * 3)
        assert len(calls) == 2
        for one in ended:
            check_error(server, one, errors.LockNotAvailable, "canceling statement due to lock timeout: ", "the lock")
        assert len({id(one.error) for one in ended if isinstance(one, outcome.Error)}) == 6
        assert await store.list_page(Ref.ZERO, 10) == [REF]


async def test_a_commit_that_a_standby_does_not_confirm_is_no_put(server: PostgresServer) -> None:
    clock = Clock()
    await open_and_close(server.conninfo())
    with server.restarted(synchronous_standby_names="absent"):
        async with open_single(server.conninfo(), clock) as store:
            for _ in range(2):  # the second time it is there
                async with trio.open_nursery() as nursery:
                    ended = Task(nursery, store.put, DATA)
                    await wait_until(server, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
                    clock.now += LATE
                check_error(server, ended.error, errors.QueryCanceled, "the statement was cancelled as it ended: ")
                assert await store.get(REF) == DATA


@contextmanager
def stopped(*processes: int) -> Generator[None, None, None]:
    """Have processes that do nothing any more, for a block: their machine takes what is sent to them."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


async def test_a_server_that_does_not_answer_is_let_go(server: PostgresServer) -> None:
    clock = Clock()
    async with open_single(server.conninfo(), clock) as store:
        for operation in OPERATIONS:
            await store.put(DATA)
            await store.contains(REF)
            with stopped(*backends(server)):
                clock.step = LATE
                with pytest.raises(psycopg.Error) as info:
                    await operation(store)
                clock.step = 0
            line = "no answer for 5 seconds, after the statement was cancelled: ", "the next call connects again"
            check_error(server, info.value, psycopg.OperationalError, *line)


async def test_a_server_that_takes_no_requests_is_let_go(server: PostgresServer) -> None:
    clock = Clock()
    async with open_single(server.conninfo(), clock, cancel=0.15) as store:
        await store.put(DATA)
        with locked(server):
            async with trio.open_nursery() as nursery:
                ended = Task(nursery, store.get, REF)
                await wait_until(server, waiting())
                with stopped(server.pid):
                    clock.now += LATE
                    await ended.done.wait()
        line = "no answer, and the statement could not be cancelled: ", "the next call connects again"
        check_error(server, ended.error, psycopg.OperationalError, *line)
        assert await store.get(REF) == DATA


async def test_a_libpq_that_would_wait_for_ever_cancels_nothing(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    clock = Clock()
    async with open_single(server.conninfo(), clock) as store:
        await store.put(DATA)
        with locked(server):
            async with trio.open_nursery() as nursery:
                ended = Task(nursery, store.get, REF)
                await wait_until(server, waiting())
                clock.now += LATE
        line = "no answer, and this libpq can't cancel a statement in a limited time: ", "the next call connects again"
        check_error(server, ended.error, psycopg.OperationalError, *line)
        assert await store.get(REF) == DATA


# A server that is restarted


async def test_a_restart_between_two_calls_is_not_noticed(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()) as store:
        for operation in OPERATIONS[:4]:
            await operation(store)
            server.restart()
        await store.put(DATA)
        for read in (store.get, store.contains):
            server.restart()
            assert await read(REF)


async def test_a_connection_that_an_administrator_ends(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()) as store:
        with locked(server):
            async with trio.open_nursery() as nursery:
                ended = Task(nursery, store.put, DATA)
                await wait_until(server, waiting())
                server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        check_error(server, ended.error, errors.AdminShutdown, "terminating connection due to administrator command: ")


async def test_calls_under_way_fail_when_the_server_is_killed_and_the_next_ones_connect_again(
    server: PostgresServer,
) -> None:
    async with open_postgres(server.conninfo()) as store:
        await store.put(b"before")
        async with trio.open_nursery() as nursery:
            with locked(server):
                calls = [Task(nursery, operation, store) for operation in OPERATIONS]
                await wait_until(server, waiting(postgres.WRITERS + postgres.READERS))
                server.kill()
        for call in calls:
            check_error(server, call.error, psycopg.OperationalError, ": postgresql://")
        assert any("the next call connects again; a write under way may" in str(call.error) for call in calls)
        for operation in OPERATIONS:
            with pytest.raises(psycopg.Error) as info:
                await operation(store)
            remedy = "start the server, or check the host and the port"
            check_error(server, info.value, psycopg.OperationalError, remedy)
        server.start()
        assert await store.put(DATA) == (REF, True)
        assert await store.get(Ref.of(b"before")) == b"before"


async def test_a_batch_whose_connection_is_lost_fails_with_that(either: PostgresAddress) -> None:
    async def end_connection() -> object:
        end = "SELECT pg_terminate_backend(pg_backend_pid())"
        return await store._writers.run(lambda connection: connection.execute(end))

    async with open_single(either.conninfo()) as store:
        put, *ended = await in_one_batch(
            store._writers,
            partial(store.put, DATA),
            end_connection,
            partial(store.delete, REF),
            partial(store.replace, DATA),
        )
        assert put.unwrap() == (REF, True)
        for one in ended:
            check_error(either, one, errors.AdminShutdown, "terminating connection due to administrator command: ")
        assert await store.put(DATA) == (REF, False)


async def test_every_acknowledged_blob_is_there_after_the_server_was_killed(server: PostgresServer) -> None:
    async def put(round_: int, worker: int) -> None:
        i = 0
        while True:
            i += 1
            data = b"%d %d %d " % (round_, worker, i) * 2 ** (i % 12)
            try:
                ref, added = await store.put(data) if i % 5 else (await store.put_many([data, data[:-1]]))[0]
            except psycopg.OperationalError as error:
                failures.append(error)
                return
            assert added
            acknowledged.add(ref)
            if len(acknowledged) == enough:
                killed.set()

    acknowledged: set[Ref] = set()
    failures: list[psycopg.OperationalError] = []
    async with open_postgres(server.conninfo()) as store:
        for round_ in range(3):
            enough = len(acknowledged) + 200
            killed = trio.Event()
            async with trio.open_nursery() as nursery:
                for worker in range(24):
                    nursery.start_soon(put, round_, worker)
                await killed.wait()
                await trio.to_thread.run_sync(server.kill)
            server.start()
            assert acknowledged <= {ref async for ref in store.list_refs()}
    assert acknowledged <= (await read_all(server)).keys()
    assert len(failures) == 3 * 24


# The end


async def test_another_trio_run_is_refused(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        for operation in OPERATIONS:
            with pytest.raises(RuntimeError, match=r"belongs to the trio\.run that opened it"):
                await trio.to_thread.run_sync(partial(trio.run, operation, store))


async def test_closed(server: PostgresServer) -> None:
    async with open_postgres(server.conninfo()) as store:
        await store.put(DATA)
        assert len(backends(server)) == postgres.WRITERS + postgres.READERS
    await wait_until(server, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'trio_replica'")
    for operation in OPERATIONS:
        with pytest.raises(trio.ClosedResourceError, match=server.name):
            await operation(store)


def test_a_server_that_does_not_start_says_why(server: PostgresServer) -> None:
    server.stop()
    with pytest.raises(RuntimeError, match="unrecognized configuration parameter"):
        server.start(nonsense="yes")
    server.start()
