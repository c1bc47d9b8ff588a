"""A PostgreSQL store believes no write that it does not see, and takes no more memory than it may."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import psycopg
import pytest
import trio
from psycopg import errors

from trio_replica import (
    Blob,
    BlobNotFoundError,
    BlobTooLargeError,
    MemoryStore,
    Ref,
    ReplicaError,
    open_postgres,
    scrub,
)
from trio_replica.stores._postgres import statements as _postgres_sql
from trio_replica.stores._postgres.session import CANCEL_AFTER

from .common import Ended as Task
from .held import in_one_batch
from .postgres_stores import (
    DATA,
    LATE,
    REF,
    SCHEMA,
    Clock,
    check_error,
    locked,
    open_and_close,
    open_single,
    read_in_one_batch,
    read_with,
    wait_until,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_replica import PostgresStore

    from .postgres_server import PostgresAddress, PostgresServer

BAD = b"bad"
BAD_REF = Ref.of(BAD)
FUNCTION = "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$"
TRIGGER = "CREATE TRIGGER meddler {} ON blobs FOR EACH ROW WHEN (NEW.data = 'bad') EXECUTE FUNCTION meddle()"
DELETION = "DELETE FROM blobs WHERE ref = NEW.ref; RETURN NULL;"
DEFERRED = TRIGGER.replace("CREATE", "CREATE CONSTRAINT").replace("ON blobs", "ON blobs DEFERRABLE INITIALLY DEFERRED")

NOT_THERE = "was written, but is not there"
OTHER_BYTES = "has other bytes than the blob"

MEDDLERS = [
    pytest.param("RETURN NULL;", TRIGGER.format("BEFORE INSERT"), NOT_THERE, id="suppressed"),
    pytest.param(DELETION, TRIGGER.format("AFTER INSERT"), NOT_THERE, id="deleted"),
    pytest.param(DELETION, DEFERRED.format("AFTER INSERT"), NOT_THERE, id="deleted at commit"),
    pytest.param("NEW.data := 'x'; RETURN NEW;", TRIGGER.format("BEFORE INSERT"), OTHER_BYTES, id="cut"),
    pytest.param("NEW.data := 'BAD'; RETURN NEW;", TRIGGER.format("BEFORE INSERT"), OTHER_BYTES, id="altered"),
]


def check_not_stored(server: PostgresAddress, ended: Any, line: str) -> None:
    """Check that a write failed with one line that says so, and names the store."""
    error = ended.error if isinstance(ended, outcome.Error) else ended
    assert type(error) is ReplicaError, ended
    assert line in str(error)
    assert f": {server.name}" in str(error)


# Triggers, rules, row security: was it stored?


@pytest.mark.parametrize("when", ["before", "while open"])
@pytest.mark.parametrize(("function", "trigger", "line"), MEDDLERS)
async def test_a_trigger_that_undoes_a_put_fails_it_and_no_other(
    server: PostgresServer, function: str, trigger: str, line: str, when: str
) -> None:
    if when == "before":
        server.query(SCHEMA, FUNCTION.format(function), trigger)
    async with open_single(server.conninfo()) as store:
        if when == "while open":
            await store.put(DATA)
            server.query(FUNCTION.format(function), trigger)
        before, bad, many, after = await in_one_batch(
            store._writers,
            partial(store.put, b"before"),
            partial(store.put, BAD),
            partial(store.put_many, [b"first", BAD]),
            partial(store.put, b"after"),
        )
        assert before.unwrap() == (Ref.of(b"before"), True)
        assert after.unwrap() == (Ref.of(b"after"), True)
        for ended in (bad, many):
            check_not_stored(server, ended, line)
        assert await store.put(b"before") == (Ref.of(b"before"), False)
    if line is NOT_THERE:
        assert isinstance(bad, outcome.Error)
        assert "look at the triggers of the table blobs ('meddler')" in str(bad.error)


async def test_a_trigger_that_undoes_nothing_is_allowed(either: PostgresAddress) -> None:
    either.query(SCHEMA, FUNCTION.format("NOTIFY news; RETURN NULL;"), TRIGGER.format("AFTER INSERT OR UPDATE"))
    async with open_single(either.conninfo()) as store:
        assert await store.put_many([BAD, DATA]) == [(BAD_REF, True), (REF, True)]
        assert await store.put(BAD) == (BAD_REF, False)
        await store.replace(BAD)
        assert await store.get(BAD_REF) == BAD


@pytest.mark.parametrize(
    ("function", "at", "line"),
    [
        ("RETURN NULL;", "BEFORE UPDATE", NOT_THERE),
        ("NEW.data := 'x'; RETURN NEW;", "BEFORE UPDATE", OTHER_BYTES),
        (DELETION, "AFTER INSERT OR UPDATE", NOT_THERE),
    ],
)
@pytest.mark.parametrize("when", ["before", "while open"])
async def test_a_trigger_that_undoes_a_replacement(
    server: PostgresServer, function: str, at: str, line: str, when: str
) -> None:
    server.query(SCHEMA, rf"INSERT INTO blobs VALUES ('\x{BAD_REF}', 'other')")
    change = FUNCTION.format(function), TRIGGER.format(at)
    if when == "before":
        server.query(*change)
    async with open_single(server.conninfo()) as store:
        if when == "while open":
            server.query(*change)
        with pytest.raises(ReplicaError) as info:
            await store.replace(BAD)
        check_not_stored(server, info.value, line)
        await store.replace(DATA)
        assert await store.get(REF) == DATA


async def test_a_trigger_that_undoes_a_deletion(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store.put(DATA)
        trigger = "CREATE TRIGGER keeper BEFORE DELETE ON blobs FOR EACH ROW EXECUTE FUNCTION meddle()"
        either.query(FUNCTION.format("RETURN NULL;"), trigger)
        with pytest.raises(ReplicaError) as info:
            await store.delete(REF)
        check_not_stored(either, info.value, "is not deleted")
        assert "look at the triggers of the table blobs ('keeper')" in str(info.value)
        assert await store.get(REF) == DATA


@pytest.mark.parametrize("at", ["INSERT", "UPDATE", "DELETE"])
async def test_a_table_with_a_rule_is_refused(either: PostgresAddress, at: str) -> None:
    either.query(SCHEMA, f'CREATE RULE "no\nthing" AS ON {at} TO blobs DO INSTEAD NOTHING')
    with pytest.raises(ReplicaError, match=r"^the table blobs has a rule, 'no\\nthing', so rows written") as info:
        await open_and_close(either.conninfo())
    assert str(info.value).endswith(f": {either.name}: DROP RULE … ON blobs")


async def test_a_rule_that_is_made_while_the_store_is_open(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store.put(DATA)
        either.query("CREATE RULE keeper AS ON DELETE TO blobs DO INSTEAD NOTHING")
        with pytest.raises(ReplicaError, match="is not deleted"):
            await store.delete(REF)
        with pytest.raises(ReplicaError, match="the table blobs has a rule, 'keeper'"):
            await store.put(b"new")
        either.query("DROP RULE keeper ON blobs", "CREATE RULE nothing AS ON INSERT TO blobs DO INSTEAD NOTHING")
        with pytest.raises(psycopg.Error) as info:
            await store.put(DATA)
        check_error(either, info.value, errors.FeatureNotSupported, "cannot perform INSERT RETURNING on relation")


GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON blobs TO guest"
SECURITY = "ALTER TABLE blobs ENABLE ROW LEVEL SECURITY"


@pytest.mark.parametrize("read_only", [True, False])
async def test_row_security_is_refused(server: PostgresServer, *, read_only: bool) -> None:
    server.query(SCHEMA, GRANT, SECURITY)
    conninfo = server.conninfo("guest", "secret")
    with pytest.raises(
        ReplicaError, match=f"^row security may hide rows .*: {server.name}: ALTER ROLE … BYPASSRLS, or"
    ):
        await open_and_close(conninfo, read_only=read_only)
    await open_and_close(server.conninfo())  # it does not apply to a superuser


async def test_row_security_never_hides_a_blob(server: PostgresServer) -> None:
    operations: list[Callable[[PostgresStore], Awaitable[object]]] = [
        lambda store: store.put(DATA),
        lambda store: store.put_many([DATA, b"new"]),
        lambda store: store.replace(DATA),
        lambda store: store.delete(REF),
        lambda store: store.set_aside(REF),
        lambda store: store.get(REF),
        lambda store: store.get_many([REF]),
        lambda store: store.contains(REF),
        lambda store: store.list_page(Ref.ZERO, 1),
    ]
    server.query(SCHEMA, GRANT, "GRANT CREATE ON SCHEMA public TO guest")
    async with open_single(server.conninfo("guest", "secret")) as store:
        await store.put(DATA)
        server.query(SECURITY, "CREATE POLICY hide ON blobs USING (data <> 'blob') WITH CHECK (true)")
        for operation in operations:
            with pytest.raises(psycopg.Error) as info:
                await operation(store)
            line = "query would be affected by row-level security policy for table", "ALTER ROLE … BYPASSRLS"
            check_error(server, info.value, errors.InsufficientPrivilege, *line)


async def test_a_row_of_another_size_is_no_blob_that_was_there(server: PostgresServer) -> None:
    server.query(SCHEMA, rf"INSERT INTO blobs VALUES ('\x{REF}', 'torn off')")
    local = MemoryStore()
    await local.put(DATA)
    async with open_single(server.conninfo()) as store:
        put, new, many = await in_one_batch(
            store._writers,
            partial(store.put, DATA),
            partial(store.put, b"new"),
            partial(store.put_many, [b"newer", DATA]),
        )
        assert new.unwrap() == (Ref.of(b"new"), True)
        for ended in (put, many):
            check_not_stored(server, ended, f"the row of blob {REF!s:.12} {OTHER_BYTES}")
        await scrub({"local": local, "remote": store}, repair=True)
        assert await store.put(DATA) == (REF, False)


async def test_a_blob_that_is_deleted_between_two_looks_is_put_again(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine(refs: list[Ref], *more: Any, **options: Any) -> Any:
        server.query(rf"DELETE FROM blobs WHERE ref = '\x{REF}'")
        monkeypatch.undo()
        return _postgres_sql.examine(refs, *more, **options)

    async with open_single(server.conninfo()) as store:
        await store.put(DATA)
        monkeypatch.setattr(_postgres_sql, "examine", examine)
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA


async def test_a_blob_that_is_put_between_two_looks_is_deleted(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contains(ref: Ref, connection: psycopg.Connection[Any]) -> bool:
        server.query(rf"INSERT INTO blobs VALUES ('\x{REF}', 'blob')")
        monkeypatch.undo()
        return _postgres_sql.contains(ref, connection)

    async with open_single(server.conninfo()) as store:
        monkeypatch.setattr(_postgres_sql, "contains", contains)
        assert await store.delete(REF)
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)


async def test_a_copy_that_is_not_kept_is_not_set_aside(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        await store.put(DATA)
        assert await store.set_aside(REF) is not None
        either.query(
            "DELETE FROM damaged_blobs",
            FUNCTION.format("RETURN NULL;"),
            "CREATE TRIGGER t BEFORE INSERT ON damaged_blobs FOR EACH ROW EXECUTE FUNCTION meddle()",
        )
        with pytest.raises(ReplicaError) as info:
            await store.set_aside(REF)
        check_not_stored(either, info.value, "the table damaged_blobs does not keep the row")


# A table that is another than it was


async def test_a_table_that_is_made_again_is_used_after_a_look(either: PostgresAddress) -> None:
    async with open_single(either.conninfo()) as store:
        for write in (partial(store.put, DATA), partial(store.put_many, [b"new", DATA]), partial(store.replace, DATA)):
            await write()
            either.query("DROP TABLE blobs", SCHEMA)
            await write()
            assert await store.get(REF) == DATA


CHANGES = [
    ("DROP TABLE blobs; CREATE UNLOGGED TABLE blobs (ref BYTEA PRIMARY KEY NOT NULL, data BYTEA NOT NULL)", "UNLOGGED"),
    ("ALTER TABLE blobs SET UNLOGGED", "UNLOGGED"),
    ("ALTER TABLE blobs ADD more INTEGER DEFAULT 7", "another table blobs than a store's"),
    ("CREATE TABLE child () INHERITS (blobs)", "has a child table, 'child', whose rows"),
    ("CREATE RULE keeper AS ON DELETE TO blobs DO INSTEAD NOTHING", "has a rule, 'keeper'"),
]


@pytest.mark.parametrize(("change", "line"), CHANGES)
async def test_a_table_that_is_altered_while_the_store_is_open(server: PostgresServer, change: str, line: str) -> None:
    async with open_single(server.conninfo()) as store:
        await store.put(DATA)
        server.query(*change.split("; "))
        for write in (store.put, lambda blob: store.put_many([blob, DATA]), store.replace):
            with pytest.raises(ReplicaError) as info:
                await write(b"new")
            check_not_stored(server, info.value, line)
    assert (b"new",) not in server.query("SELECT data FROM blobs")


@pytest.mark.parametrize("part", ["UNLOGGED TABLE part PARTITION OF blobs DEFAULT", "TABLE part () INHERITS (blobs)"])
async def test_a_part_of_a_table_that_breaks_the_promises_of_the_whole(either: PostgresAddress, part: str) -> None:
    is_partition = "PARTITION" in part
    either.query(f"{SCHEMA} PARTITION BY LIST (ref)" if is_partition else SCHEMA, f"CREATE {part}")
    with pytest.raises(ReplicaError) as info:
        await open_and_close(either.conninfo())
    check_not_stored(either, info.value, "UNLOGGED" if is_partition else "has a child table, 'part'")


async def test_a_temporary_table_is_no_store(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler handed on a session with what its last user left in it."""
    connect = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]

    def with_leftover(cls: type[psycopg.Connection[Any]], *args: Any, **options: Any) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = connect(cls, *args, **options)
        connection.execute(SCHEMA.replace("TABLE", "TEMPORARY TABLE").encode())
        return connection

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(with_leftover))
    with pytest.raises(ReplicaError) as info:
        await open_and_close(server.conninfo())
    check_not_stored(server, info.value, "the table blobs is temporary")


# An index that hides rows


async def test_rows_that_the_index_does_not_show_are_found(server: PostgresServer) -> None:
    index = "UPDATE pg_index SET indisready = {} WHERE indexrelid = 'blobs_pkey'::regclass"
    blobs = [Blob(b"%d" % i) for i in range(20)]
    async with open_single(server.conninfo()) as store:
        await store.put_many([blob.data for blob in blobs])
        assert (await store.check_integrity()).is_sound
        # As if the index had lost them.
        hidden = [Blob(b"hidden"), Blob(b"hidden too")]
        insertions = [rf"INSERT INTO blobs VALUES ('\x{blob.ref}', '\x{blob.data.hex()}')" for blob in hidden]
        server.query(index.format("false"), *insertions, index.format("true"))
        with pytest.raises(BlobNotFoundError):
            await store.get(hidden[0].ref)
        integrity = await store.check_integrity()
        assert integrity.hidden_count == 2
        assert integrity.hidden == tuple(sorted(blob.ref for blob in hidden))
        line = f"{server.name}: the index of the table blobs does not show 2 of its rows: REINDEX TABLE blobs"
        assert integrity.problems == (line,)
        assert not (await scrub({"remote": store, "local": MemoryStore()})).is_sound
        server.query("REINDEX TABLE blobs")
        assert (await store.check_integrity()).is_sound
        assert await store.get(hidden[0].ref) == b"hidden"


async def test_a_check_may_take_long_and_be_cancelled(server: PostgresServer) -> None:
    clock = Clock()
    async with open_single(server.conninfo(), clock) as store:
        with locked(server) as other:
            async with trio.open_nursery() as nursery:
                ended = Task(nursery, store.check_integrity)
                await wait_until(server, waiting())
                clock.now += 10 * LATE
                await clock.wait_looks(3)
                other.execute("COMMIT")
        assert ended.error is None
        with locked(server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.check_integrity)
                await wait_until(server, waiting())
                clock.now += 10 * CANCEL_AFTER
                nursery.cancel_scope.cancel()
            await wait_until(server, waiting(0))


# Memory


async def test_a_blob_larger_than_the_memory_for_it(either: PostgresAddress) -> None:
    large, small = b"x" * 1001, b"y" * 1000
    async with open_single(either.conninfo()) as store:
        await store.put_many([large, small])
    async with open_single(either.conninfo(), max_memory=1000) as store:
        for attempt in (store.put, store.replace, lambda blob: store.put_many([DATA, blob])):
            await check_too_large(either, partial(attempt, large))
        assert await store.list_page(Ref.ZERO, 10) == sorted([Ref.of(large), Ref.of(small)])
        await check_too_large(either, partial(store.get, Ref.of(large)))
        await check_too_large(either, partial(store.get_many, [Ref.of(large), Ref.of(small)]))
        gets = [partial(store.get, ref) for ref in (Ref.of(large), Ref.of(small), REF)]
        too_large, there, missing = await read_in_one_batch(store, *gets)
        assert isinstance(too_large, outcome.Error)
        assert type(too_large.error) is BlobTooLargeError
        assert there.unwrap() == small
        assert isinstance(missing, outcome.Error)
        assert type(missing.error) is BlobNotFoundError


async def check_too_large(server: PostgresAddress, call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(BlobTooLargeError) as info:
        await call()
    assert (info.value.store, info.value.size, info.value.limit) == (server.name, 1001, 1000)


class Counting:
    """A connection that notes how many bytes of blobs each answer has, and calls a function after each."""

    def __init__(self, connection: psycopg.Connection[Any], after: Callable[[], object]) -> None:
        self._connection = connection
        self._after = after
        self.answers: list[int] = []

    def execute(self, query: str, parameters: Any, *, binary: bool) -> Any:
        rows = self._connection.execute(query.encode(), parameters, binary=binary).fetchall()
        self.answers.append(sum(len(value) for row in rows for value in row[1:] if isinstance(value, bytes)))
        self._after()
        return Rows(rows)


class Rows(list[Any]):
    """An answer."""

    def fetchall(self) -> list[Any]:
        return self


async def test_large_blobs_come_in_several_answers(either: PostgresAddress) -> None:
    def select(connection: Any) -> list[int]:
        counting = Counting(connection, lambda: None)
        found = _postgres_sql.select(refs, "NAME", 10_000, counting, answer_bytes=1200)  # type: ignore[arg-type]
        assert found == {blob.ref: blob.data for blob in blobs}
        return counting.answers

    blobs = [Blob(b"%d" % i * size) for i, size in enumerate([10, 900, 20, 1100, 400, 300, 5000, 700])]
    refs = [*(blob.ref for blob in blobs), REF]
    async with open_single(either.conninfo()) as store:
        await store.put_many([blob.data for blob in blobs])
        first, sizes, *others = await read_with(store, select)
    assert (first, sizes) == (30, 0)  # those below their share, and the sizes of the others
    assert sum(others) == 900 + 1100 + 400 + 300 + 5000 + 700
    assert [answer for answer in others if answer > 1200] == [5000]


async def test_blobs_that_change_while_they_are_asked_for(server: PostgresServer) -> None:
    """They are replaced by ones that are smaller, larger and too large in turn, and deleted."""

    def change() -> None:
        size = sizes.pop(0)
        if size is None:
            server.query("DELETE FROM blobs")
        else:
            server.query(rf"UPDATE blobs SET data = repeat('x', {size})::bytea WHERE ref = '\x{REF}'")

    def select(connection: Any) -> dict[Ref, bytes]:
        counting = Counting(connection, change)
        return _postgres_sql.select([REF, Ref.ZERO], "NAME", 1000, counting, answer_bytes=100)  # type: ignore[arg-type]

    async with open_single(server.conninfo()) as store:
        await store.put(DATA)
        server.query("UPDATE blobs SET data = repeat('x', 200)::bytea")
        sizes: list[int | None] = [300, 400, 500]
        assert await read_with(store, select) == {REF: b"x" * 400}
        sizes = [300, 1001, 700, 600, 500]
        assert await read_with(store, select) == {REF: b"x" * 600}
        sizes = [1001, 500]
        with pytest.raises(BlobTooLargeError):
            await read_with(store, select)
        sizes = [None, None]
        assert await read_with(store, select) == {}


async def test_a_page_has_no_more_rows_than_fit(server: PostgresServer) -> None:
    server.query(SCHEMA, "INSERT INTO blobs SELECT sha256(i::text::bytea), '' FROM generate_series(1, 10001) AS i")
    async with open_postgres(server.conninfo()) as store:
        page = await store.list_page(Ref.ZERO, 2**70)
        assert len(page) == _postgres_sql.PAGE_ROWS
        assert len(await store.list_page(page[-1], 2**70)) == 1
        server.query("INSERT INTO blobs VALUES (decode(repeat('ff', 2000), 'hex'), '')")
        with pytest.raises(ReplicaError, match="has a ref that is not of 32 bytes"):
            await store.list_page(page[-1], 10)


# Answers of a server


RAISE = r"""
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
RAISE EXCEPTION USING
MESSAGE = E'{name}: no\n2026-01-01 ERROR \x1b[31mforged\x1b[0m\r\x07\u202e\u2028 end' || repeat('!', 9000),
HINT = E'\x1b[2J', DETAIL = E'\n\nmore'; END $f$;
CREATE TRIGGER t BEFORE INSERT ON blobs FOR EACH ROW EXECUTE FUNCTION shout()
"""


async def test_the_text_of_a_server_is_one_line(server: PostgresServer) -> None:
    async with open_single(server.conninfo()) as store:
        server.query(RAISE.replace("{name}", server.name))
        with pytest.raises(errors.RaiseException) as info:
            await store.put(DATA)
    line = str(info.value)
    assert line.startswith(rf"{server.name}: no 2026-01-01 ERROR \x1b[31mforged\x1b[0m \x07\u202e end!!!!")
    assert line.endswith(f"!…: {server.name}")
    assert line.isprintable()
    assert len(line) < 1200


async def test_names_in_a_database_are_told_in_one_line(either: PostgresAddress) -> None:
    either.query(
        SCHEMA,
        FUNCTION.format("RETURN NULL;"),
        'CREATE TRIGGER "two\nlines\x1b[31m" BEFORE INSERT ON blobs FOR EACH ROW EXECUTE FUNCTION meddle()',
        "CREATE TABLE store_identity (identity TEXT)",
        "INSERT INTO store_identity VALUES (E'two\nlines\x1b[31m')",
    )
    with pytest.raises(ReplicaError) as info:
        await open_and_close(either.conninfo())
    assert str(info.value).isprintable()
    either.query("DROP TABLE store_identity")
    async with open_single(either.conninfo()) as store:
        with pytest.raises(ReplicaError, match=r"\('two\\nlines\\x1b\[31m'\)$") as info:
            await store.put(DATA)
    assert str(info.value).isprintable()
