"""A SQLite database that does not do as it is told: triggers, constraints and damage of which SQLite says nothing."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TYPE_CHECKING

import outcome
import pytest

from trio_replica import Ref, ReplicaError, SqliteStore, open_sqlite

from .held import in_one_batch
from .sqlite_databases import SCHEMA, query

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"blob"
REF = Ref.of(DATA)
BAD = b"bad"
BAD_REF = Ref.of(BAD)
ABOUT_BAD = f"ON blobs WHEN NEW.ref = x'{BAD_REF}' BEGIN"
NOT_KEPT = f"the database does not keep the row of {BAD_REF}: look at the triggers and constraints of the table blobs: "
OTHER_BYTES = f"the row of {BAD_REF} holds other bytes than were put: look at the triggers of the table: "

LIES = [
    (f"CREATE TRIGGER t BEFORE INSERT {ABOUT_BAD} SELECT RAISE(IGNORE); END", NOT_KEPT),
    (f"CREATE TRIGGER t BEFORE INSERT {ABOUT_BAD} INSERT INTO log VALUES (1); SELECT RAISE(IGNORE); END", NOT_KEPT),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blobs.db"


@pytest.mark.parametrize(("trigger", "message"), LIES)
@pytest.mark.parametrize("when", ["before", "while open"])
async def test_a_trigger_that_undoes_a_put_without_an_error(path: Path, trigger: str, message: str, when: str) -> None:
    query(path, SCHEMA, "CREATE TABLE log (ref)")
    if when == "before":
        query(path, trigger)
    async with open_sqlite(path) as store:
        if when == "while open":
            query(path, trigger)
        for attempt in (partial(store.put, BAD), partial(store.put_many, [DATA, BAD])):
            with pytest.raises(ReplicaError) as info:
                await attempt()
            assert str(info.value) == f"{message}{path}"
        good, bad, last = await in_one_batch(
            store._writer, partial(store.put, DATA), partial(store.put, BAD), partial(store.put, b"last")
        )
        assert good.unwrap() == (REF, True)
        assert isinstance(bad, outcome.Error)
        assert last.unwrap() == (Ref.of(b"last"), True)
        assert await store.list_page(Ref.ZERO, 9) == sorted([REF, Ref.of(b"last")])  # all of the rest was undone
        with pytest.raises(ReplicaError) as info:
            await store.replace(BAD)
        assert str(info.value) == f"{message}{path}"


async def test_a_trigger_that_undoes_a_replacement_without_an_error(path: Path) -> None:
    query(
        path,
        SCHEMA,
        f"INSERT INTO blobs VALUES (x'{BAD_REF}', x'00')",
        "CREATE TRIGGER t BEFORE UPDATE ON blobs BEGIN SELECT RAISE(IGNORE); END",
    )
    async with open_sqlite(path) as store:
        with pytest.raises(ReplicaError) as info:
            await store.replace(BAD)
        assert str(info.value) == f"{OTHER_BYTES}{path}"


WRITING = [
    "CREATE TRIGGER t AFTER INSERT ON blobs BEGIN DELETE FROM blobs WHERE ref <> NEW.ref; END",
    "CREATE TRIGGER t BEFORE INSERT ON blobs WHEN 1 = 0 BEGIN DELETE FROM blobs; END",
    "CREATE TRIGGER t AFTER INSERT ON blobs BEGIN UPDATE blobs SET data = x'00'; END",
    "CREATE TRIGGER t AFTER INSERT ON blobs BEGIN REPLACE INTO blobs VALUES (x'00', NEW.data); END",
    "CREATE TRIGGER t AFTER INSERT ON log BEGIN DELETE FROM blobs; END",
]
LOGGED = "CREATE TRIGGER logged AFTER INSERT ON blobs BEGIN INSERT INTO log VALUES (NEW.ref); END"


@pytest.mark.parametrize("trigger", WRITING)
@pytest.mark.parametrize("when", ["before", "while open"])
async def test_a_trigger_that_could_write_to_other_blobs_is_refused(path: Path, trigger: str, when: str) -> None:
    query(path, SCHEMA, "CREATE TABLE log (ref)", LOGGED)
    async with open_sqlite(path) as store:
        assert await store.put_many([DATA, b"more"]) == [(REF, True), (Ref.of(b"more"), True)]
        if when == "while open":
            query(path, trigger)
            await check_trigger_refused(store, path)
    if when == "before":
        query(path, trigger)
        async with open_sqlite(path) as store:
            await check_trigger_refused(store, path)
    query(path, "DROP TRIGGER t")
    async with open_sqlite(path) as store:
        assert await store.put(BAD) == (BAD_REF, True)
        assert {*await store.list_page(Ref.ZERO, 9)} == {REF, Ref.of(b"more"), BAD_REF}


async def check_trigger_refused(store: SqliteStore, path: Path) -> None:
    for attempt in (partial(store.put, BAD), partial(store.put_many, [BAD]), partial(store.replace, BAD)):
        with pytest.raises(ReplicaError) as info:
            await attempt()
        assert str(info.value) == (
            f"the trigger t writes to the table blobs, and may change or delete other blobs: drop it: {path}"
        )
    assert {*await store.list_page(Ref.ZERO, 9)} == {REF, Ref.of(b"more")}


@pytest.mark.parametrize("table", ["store_identity", "store_session"])
async def test_a_trigger_that_could_write_to_another_table_of_the_store_is_refused(path: Path, table: str) -> None:
    async with open_sqlite(path) as store:
        await store.set_session_mark("0" * 32)
        query(path, f"CREATE TRIGGER t AFTER INSERT ON blobs BEGIN DELETE FROM {table}; END")
        with pytest.raises(ReplicaError, match=f"^the trigger t writes to the table {table}, and may"):
            await store.put(DATA)


async def test_a_trigger_that_does_something_else_is_none_of_ours(path: Path) -> None:
    query(
        path,
        SCHEMA,
        "CREATE TABLE log (ref)",
        "CREATE TRIGGER t AFTER INSERT ON blobs BEGIN INSERT INTO log VALUES (NEW.ref); END",
        "CREATE TRIGGER u AFTER DELETE ON blobs BEGIN INSERT INTO log VALUES (OLD.ref); END",
    )
    async with open_sqlite(path) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.put(DATA) == (REF, False)
        assert await store.put_many([DATA, BAD, b"more"]) == [
            (REF, False),
            (BAD_REF, True),
            (Ref.of(b"more"), True),
        ]
        await store.replace(DATA)
        assert await store.delete(REF)
    assert len(query(path, "SELECT * FROM log")) == 4


CONSTRAINTS = [
    "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL, UNIQUE (data) ON CONFLICT IGNORE)",
    f"{SCHEMA[:-1]}, b AS (nullif(data, x'626164')) NOT NULL ON CONFLICT IGNORE)",
]


@pytest.mark.parametrize("table", CONSTRAINTS)
async def test_a_constraint_that_ignores_a_row(path: Path, table: str) -> None:
    query(path, table)
    async with open_sqlite(path) as store:
        query(path, f"INSERT INTO blobs (ref, data) VALUES (x'00', x'{BAD.hex()}')")
        for attempt in (partial(store.put, BAD), partial(store.put_many, [DATA, BAD]), partial(store.replace, BAD)):
            with pytest.raises(ReplicaError) as info:
                await attempt()
            assert str(info.value) == f"{NOT_KEPT}{path}"
        assert await store.put(DATA) == (REF, True)


async def test_a_constraint_that_refuses_a_row(path: Path) -> None:
    query(
        path,
        "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL, CHECK (data <> x'626164'))",
        "CREATE UNIQUE INDEX lengths ON blobs (length(data))",
    )
    async with open_sqlite(path) as store:
        with pytest.raises(sqlite3.IntegrityError, match="SQLITE_CONSTRAINT_CHECK"):
            await store.put(BAD)
        assert await store.put(DATA) == (REF, True)
        with pytest.raises(sqlite3.IntegrityError, match="SQLITE_CONSTRAINT_UNIQUE"):
            await store.put(b"four")


@pytest.mark.parametrize("data", ["x'00'", "x'0000000000'", "'blob'", "1234"])
async def test_a_row_of_another_size_is_not_taken_for_the_blob(path: Path, data: str) -> None:
    async with open_sqlite(path) as store:
        query(path, f"INSERT INTO blobs VALUES (x'{REF}', {data})")
        for attempt in (partial(store.put, DATA), partial(store.put_many, [b"new", DATA])):
            with pytest.raises(ReplicaError) as info:
                await attempt()
            assert str(info.value) == (
                f"the row of {REF} is damaged, because it does not hold 4 bytes: run a scrub with repair: {path}"
            )
        await store.replace(DATA)
        assert await store.put(DATA) == (REF, False)


async def test_an_entry_of_the_index_without_a_row_is_no_blob(path: Path) -> None:
    """SQLite finds the ref in the index, and says so, unless it is asked for the row."""
    async with open_sqlite(path) as store:
        await store.put_many([DATA, BAD])
    ((root,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'blobs'")
    content = bytearray(path.read_bytes())
    page = slice((root - 1) * 4096, root * 4096)
    assert content[page][0] == 13  # a leaf of the table
    content[page.start + 3 : page.start + 5] = (1).to_bytes(2, "big")  # its number of rows
    path.write_bytes(content)
    async with open_sqlite(path) as store:
        assert sorted([REF, BAD_REF]) == await store.list_page(Ref.ZERO, 9)
        damaged = 0
        for attempt in (
            partial(store.put, DATA),
            partial(store.put, BAD),
            partial(store.put_many, [DATA]),
            partial(store.put_many, [BAD]),
            partial(store.contains, REF),
            partial(store.contains, BAD_REF),
        ):
            try:
                await attempt()
            except sqlite3.DatabaseError as error:
                assert str(error).startswith("SQLITE_CORRUPT")
                damaged += 1
        assert damaged == 3
        assert not (await store.check_integrity()).is_sound


UNDELETING = [
    (
        f"CREATE TRIGGER t BEFORE DELETE ON blobs WHEN OLD.ref = x'{BAD_REF}' BEGIN SELECT RAISE(IGNORE); END",
        f"the database does not delete the row of {BAD_REF}: look at the triggers of the table blobs: ",
    ),
    (
        "CREATE TRIGGER t AFTER DELETE ON blobs BEGIN INSERT INTO blobs VALUES (OLD.ref, OLD.data); END",
        "the trigger t writes to the table blobs, and may change or delete other blobs: drop it: ",
    ),
]


@pytest.mark.parametrize(("trigger", "message"), UNDELETING)
async def test_a_trigger_that_undoes_a_delete(path: Path, trigger: str, message: str) -> None:
    query(path, SCHEMA, trigger)
    async with open_sqlite(path) as store:
        await store.put_many([DATA, BAD])
        with pytest.raises(ReplicaError) as info:
            await store.delete(BAD_REF)
        assert str(info.value) == f"{message}{path}"
        assert await store.contains(BAD_REF)


async def test_a_copy_that_is_not_kept(path: Path) -> None:
    async with open_sqlite(path) as store:
        await store.put(DATA)
        query(
            path,
            "CREATE TABLE damaged_blobs (ref, data, at)",
            "CREATE TRIGGER t AFTER INSERT ON damaged_blobs BEGIN DELETE FROM damaged_blobs; END",
        )
        with pytest.raises(ReplicaError) as info:
            await store.set_aside(REF)
        assert str(info.value) == (
            f"the table damaged_blobs does not keep the rows written to it: look at its triggers: {path}"
        )


async def test_a_table_without_row_numbers(path: Path) -> None:
    query(path, f"{SCHEMA} WITHOUT ROWID")
    async with open_sqlite(path) as store:
        assert await store.put_many([DATA, BAD]) == [(REF, True), (BAD_REF, True)]
        assert await store.put(DATA) == (REF, False)
        assert await store.set_aside(REF) == f"table damaged_blobs of {path}"
        assert await store.set_aside(Ref.ZERO) is None
    assert query(path, "SELECT ref, data FROM damaged_blobs") == [(REF, DATA)]


async def test_the_index_of_the_refs_is_found_among_others(path: Path) -> None:
    query(path, "CREATE TABLE blobs (ref BLOB NOT NULL, data BLOB NOT NULL UNIQUE, PRIMARY KEY (ref))")
    async with open_sqlite(path) as store:
        await store.put_many([DATA, BAD])
        assert (await store.check_integrity()).is_sound
        await store.repair_integrity()
