"""The integrity check of a SQLite store and the repair of its index, on files that are damaged while closed."""

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio

from trio_replica import Blob, BlobNotFoundError, Integrity, MemoryStore, Ref, ReplicaError, open_sqlite, scrub
from trio_replica.stores._sqlite import check as _sql_check

from .held import wait_for

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
BLOBS = [Blob(b"%d" % i * 50) for i in range(500)]
REF = BLOBS[250].ref
INDEX = "sqlite_autoindex_blobs_1"
INDEX_LEAF, INDEX_INTERIOR, TABLE_LEAF = 10, 2, 13
"""Kinds of pages, by their first byte (https://www.sqlite.org/fileformat.html#b_tree_pages)."""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Make a database of 500 blobs, all of it in its file."""
    path = tmp_path / "blobs.db"
    async with open_sqlite(path, durable=False) as store:
        await store.put_many(BLOBS)
    return path


class Place(NamedTuple):
    page: int
    offset: int


def pages(path: Path, kind: int) -> list[int]:
    """Find the pages of the table or the index, and not those of other tables."""
    data = path.read_bytes()
    found = [page for page in range(1, len(data) // PAGE) if data[page * PAGE] == kind]
    return [page for page in found if any(data.find(blob.ref, page * PAGE, (page + 1) * PAGE) >= 0 for blob in BLOBS)]


def places_of(path: Path, ref: Ref, *kinds: int) -> list[Place]:
    """Find the ref in the pages of the table or the index, and in what is free there and was it."""
    data = path.read_bytes()
    places = [Place(*divmod(found.start(), PAGE)) for found in re.finditer(re.escape(ref), data)]
    return [place for place in places if data[place.page * PAGE] in kinds]


def flip(path: Path, page: int, offset: int, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[page * PAGE + offset] ^= bits
    path.write_bytes(data)


def flip_in_index(path: Path, ref: Ref = REF, byte: int = 31) -> None:
    for page, offset in places_of(path, ref, INDEX_LEAF, INDEX_INTERIOR):
        flip(path, page, offset + byte)


def rows(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


async def good_copy() -> MemoryStore:
    store = MemoryStore()
    await store.put_many(BLOBS)
    return store


async def test_a_sound_database(path: Path) -> None:
    async with open_sqlite(path) as store:
        assert await store.check_integrity() == Integrity()
        assert (await store.check_integrity()).is_sound
        await store.repair_integrity()
        assert await store.check_integrity() == Integrity()
        assert threading.active_count() == len([*threading.enumerate()])
        assert not any(thread.name.startswith("check of") for thread in threading.enumerate())


@pytest.mark.parametrize("number", [0, 250, 499])
async def test_a_flipped_bit_in_the_index_hides_a_row(path: Path, number: int) -> None:
    ref = BLOBS[number].ref
    flip_in_index(path, ref)
    async with open_sqlite(path) as store:
        with pytest.raises(BlobNotFoundError):
            await store.get(ref)
        found = await store.check_integrity()
        assert found == Integrity((f"row {number + 1} missing from index {INDEX}",), (ref,), 1)
        assert await store.check_integrity() == found  # it has changed nothing
        for rows_at_once in (1, 7):
            assert checked(path, rows_at_once=rows_at_once) == found
        await store.repair_integrity()
        assert await store.check_integrity() == Integrity()
        assert await store.get(ref) == BLOBS[number].data
        assert [ref async for ref in store.list_refs()] == sorted(blob.ref for blob in BLOBS)


async def test_a_scrub_finds_and_repairs_it(path: Path) -> None:
    flip_in_index(path)
    ghost = Ref(REF[:-1] + bytes([REF[-1] ^ 1]))
    async with open_sqlite(path) as database:
        stores = {"database": database, "memory": await good_copy()}
        report = await scrub(stores)
        assert {one.ref for one in report.findings} == {REF, ghost}  # what hides the one shows the other
        assert (report.stores["database"].corrupt, report.is_sound) == (2, False)
        report = await scrub(stores, repair=True)
        assert [(one.ref, one.outcome) for one in report.findings] == [(REF, "repaired: its index was rebuilt")]
        assert report.repaired == {"database": (f"row 251 missing from index {INDEX}",)}
        assert (report.stores["database"].refs, report.is_sound) == (500, True)
        assert await database.get(REF) == BLOBS[250].data
        report = await scrub(stores)
        assert (report.findings, report.is_sound) == ((), True)


@pytest.mark.parametrize("is_corrupt", [False, True])
async def test_a_blob_that_was_put_again_while_its_row_was_hidden(path: Path, *, is_corrupt: bool) -> None:
    flip_in_index(path)
    async with open_sqlite(path) as store:
        assert (await store.put(BLOBS[250])).added
        if is_corrupt:
            rows(path, f"UPDATE blobs SET data = x'00' WHERE ref = x'{REF}'")
        assert (await store.check_integrity()).hidden == (REF,)
        await store.repair_integrity()
        assert await store.check_integrity() == Integrity()
        assert await store.get(REF) == BLOBS[250].data
    assert rows(path, "SELECT count(*) FROM blobs NOT INDEXED") == [(500,)]
    kept = rows(path, "SELECT ref, data FROM damaged_blobs") if is_corrupt else []
    assert kept == ([(REF, b"\0")] if is_corrupt else [])


def checked(path: Path, **limits: int) -> Integrity:
    with closing(sqlite3.connect(path)) as connection:
        return _sql_check.check_integrity(connection, **limits)


async def test_many_hidden_rows_are_counted_and_some_named(path: Path) -> None:  # noqa: ASYNC124  (for its fixture)
    for blob in BLOBS[:5]:
        flip_in_index(path, blob.ref)
    found = checked(path, hidden=3)
    assert (found.hidden, found.hidden_count) == (tuple(blob.ref for blob in BLOBS[:3]), 5)
    assert len(found.problems) == 5
    assert len(checked(path, problems=2).problems) == 2


# Limits of the repair


def lose_rows(path: Path) -> str:
    flip(path, pages(path, TABLE_LEAF)[2], 4, 0x04)  # how many cells it has: fewer
    return "ReplicaError: the table has lost rows that its index still names, so the index is left as it is"


def change_ref_in_table(path: Path) -> str:
    ((page, offset),) = places_of(path, REF, TABLE_LEAF)
    flip(path, page, offset)
    return "ReplicaError: row 251 of the table is itself damaged, so the index, which may be right, is left as it is"


def change_data_of_hidden_row(path: Path) -> str:
    rows(path, f"UPDATE blobs SET data = 'text' WHERE ref = x'{REF}'")
    rows(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    flip_in_index(path)
    return "ReplicaError: row 251 of the table is itself damaged, so the index, which may be right, is left as it is"


def wreck_index_page(path: Path) -> str:
    flip(path, pages(path, INDEX_LEAF)[2], 0, 0xFF)
    return "DatabaseError: SQLITE_CORRUPT: database disk image is malformed: "


def wreck_table_page(path: Path) -> str:
    flip(path, pages(path, TABLE_LEAF)[2], 0, 0xFF)
    return "DatabaseError: SQLITE_CORRUPT: database disk image is malformed: "


@pytest.mark.parametrize(
    "damage", [lose_rows, change_ref_in_table, change_data_of_hidden_row, wreck_index_page, wreck_table_page]
)
async def test_what_would_lose_something_is_not_repaired(path: Path, damage: Any) -> None:
    why = damage(path)
    async with open_sqlite(path) as store:
        found = await store.check_integrity()
        assert found.problems
        with pytest.raises((ReplicaError, sqlite3.DatabaseError)) as caught:
            await store.repair_integrity()
        assert f"{type(caught.value).__name__}: {caught.value}".startswith(why)
        assert await store.check_integrity() == found  # and nothing has changed
        assert (await store.put(b"new")).added  # a refusal undoes nothing else
        report = await scrub({"database": store, "memory": await good_copy()}, repair=True)
    assert report.problems["database"][-1].startswith(f"it could not repair itself: {why}")
    assert not report.is_sound


async def test_an_index_page_that_is_partly_readable_is_repaired(path: Path) -> None:
    flip(path, pages(path, INDEX_LEAF)[2], 9, 0x40)  # where a cell is: somewhere else
    async with open_sqlite(path) as store:
        assert not (await store.check_integrity()).is_sound
        await store.repair_integrity()
        assert await store.check_integrity() == Integrity()
        assert [ref async for ref in store.list_refs()] == sorted(blob.ref for blob in BLOBS)


async def test_two_hidden_rows_of_one_blob_leave_all_as_it_is(path: Path) -> None:
    flip_in_index(path)
    async with open_sqlite(path) as store:
        await store.put(BLOBS[250])
    flip_in_index(path, byte=30)
    flip_in_index(path, BLOBS[100].ref)
    async with open_sqlite(path) as store:
        await store.put(BLOBS[100])  # a row that has to go before there can be a new index
        found = await store.check_integrity()
        assert found.hidden == (BLOBS[100].ref, REF, REF)
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
            await store.repair_integrity()
        assert await store.check_integrity() == found
        assert await store.get(BLOBS[100].ref) == BLOBS[100].data


async def test_a_table_that_is_its_own_index(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    rows(path, "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL) WITHOUT ROWID")
    async with open_sqlite(path) as store:
        await store.put(b"blob")
        assert await store.check_integrity() == Integrity()
        await store.repair_integrity()
        assert await store.get(Ref.of(b"blob")) == b"blob"


async def test_refs_that_are_none_are_not_looked_for(path: Path) -> None:
    rows(path, "INSERT INTO blobs VALUES (x'00', x'00'), ('text', x'00')")
    async with open_sqlite(path) as store:
        assert (await store.check_integrity()).hidden == ()


# The check as an operation


async def test_reads_do_not_wait_for_a_check_and_a_cancelled_one_is_interrupted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def endless(connection: sqlite3.Connection) -> object:
        began.set()
        return connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        )

    monkeypatch.setattr("trio_replica.stores.sqlite.check_integrity", endless)
    async with open_sqlite(path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.check_integrity)
        await wait_for(began)
        assert await store.get(REF) == BLOBS[250].data
        nursery.cancel_scope.cancel()
    assert not any(thread.name.startswith("check of") for thread in threading.enumerate())


@pytest.mark.parametrize("call", ["check_integrity", "repair_integrity"])
async def test_errors_that_are_no_damage_are_raised(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(_sql_check, "_index", lambda _: "none")
    async with open_sqlite(path) as store:
        with pytest.raises(sqlite3.OperationalError, match="SQLITE_ERROR: no such index: none"):
            await getattr(store, call)()
        monkeypatch.setattr(_sql_check, "_entries", lambda *_: 0)
        with pytest.raises(sqlite3.OperationalError, match="SQLITE_ERROR: no such index: none"):
            await getattr(store, call)()


async def test_a_database_that_has_vanished(path: Path) -> None:
    async with open_sqlite(path) as store:
        path.unlink()
        with pytest.raises(ReplicaError, match="the database has vanished"):
            await store.check_integrity()


async def test_twins_that_have_changed_since_they_were_found(path: Path) -> None:
    flip_in_index(path)
    async with open_sqlite(path) as store:
        await store.put(BLOBS[250])
        twins = await store._check(_sql_check.find_twins)
        assert twins == [(251, 501)]
        await store.delete(REF)
        with pytest.raises(ReplicaError, match="the table has changed in the meantime: try again"):
            await store._writer.run(partial(_sql_check.repair_integrity, twins))
        await store.repair_integrity()
        assert await store.get(REF) == BLOBS[250].data


async def test_a_full_disk_undoes_all_of_it(path: Path) -> None:
    flip_in_index(path)
    async with open_sqlite(path) as store:
        await store.put(BLOBS[250])

        def limit(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await store._writer.run(limit)
        rows(path, f"UPDATE blobs SET data = zeroblob(100000) WHERE ref = x'{REF}'")
        with pytest.raises(sqlite3.OperationalError, match="SQLITE_FULL"):
            await store.repair_integrity()
        assert (await store.check_integrity()).hidden == (REF,)
        assert await store.contains(REF)


# Setting aside


async def test_a_row_is_set_aside_once(path: Path) -> None:
    async with open_sqlite(path) as store:
        assert await store.set_aside(Ref.of(b"none")) is None
        assert await store.set_aside(REF) == f"table damaged_blobs of {path}"
        assert await store.set_aside(REF) == f"table damaged_blobs of {path}"
        await store.replace(BLOBS[250])
        rows(path, f"UPDATE blobs SET data = x'00' WHERE ref = x'{REF}'")
        assert await store.set_aside(REF) == f"table damaged_blobs of {path}"
        with pytest.raises(TypeError):
            await store.set_aside(bytes(REF))  # type: ignore[arg-type]
    kept = rows(path, "SELECT ref, data, at FROM damaged_blobs ORDER BY rowid")
    assert [row[:2] for row in kept] == [(REF, BLOBS[250].data), (REF, b"\0")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", at) for _, _, at in kept)
