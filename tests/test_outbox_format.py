"""The formats of an outbox: an older one is migrated whole or not at all, and a newer one is refused."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, ReplicaError
from trio_replica._async.outbox_by_hand import opened_outbox
from trio_replica._async.outbox_file import open_sqlite_outbox
from trio_replica._async.storage import NotedStore, SessionStore
from trio_replica.testing import SimulatedStore

from .common import open_and_close, put_numbers, refs

if TYPE_CHECKING:
    from trio_replica import Ref

FORMAT_1: Final = Path(__file__).parent / "data" / "outbox-format-1"
"""An outbox, with its log, as two kills of the former version left it: one with the puts 20 and 21 under way, and in a
later session one with 41 and 40."""

NEAR: Final = refs(5, 6, 7, 8, 9, 30, 31, 32, 41, 40)
FAR: Final = refs(*range(10), 30, 31, 32, 41, 40)
GONE: Final = refs(*range(10), 20, 21, 10)
NEW: Final = refs(30, 31, 32, 41, 40)
PENDING: Final = {"near": NEAR, "far": FAR, "gone": GONE, "new": NEW}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    shutil.copytree(FORMAT_1, folder)
    return folder / "outbox.db"


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(connection.iterdump())


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def pending(path: Path) -> dict[str, tuple[Ref, ...]]:
    with opened_outbox(str(path)) as outbox:
        return {name: tuple(outbox.refs(name)) for name in outbox.pending()}


def test_the_file_is_of_format_1(path: Path) -> None:
    assert rows(path, "PRAGMA user_version") == [(1,)]
    assert rows(path, "SELECT name FROM sqlite_schema ORDER BY name") == [
        ("debts",), ("doubts",), ("meta",), ("sqlite_autoindex_stores_1",), ("stores",)
    ]  # fmt: skip
    assert rows(path, "SELECT * FROM meta") == [(17, 3)]
    assert rows(path, "SELECT * FROM doubts") == [(11, 14)]


async def test_a_replica_migrates_it_with_all_that_is_in_it(path: Path) -> None:
    stores = [SessionStore(name, "async", "1" * 32 if name == "far" else None) for name in ("far", "new", "newest")]
    async with open_sqlite_outbox(str(path)) as storage:
        assert storage.noted == dict.fromkeys(("near", "far", "gone", "new"), NotedStore(None, None, False))
        state = await storage.begin(stores)
    assert state.ids == {"near": 1, "far": 2, "gone": 3, "new": 4, "newest": 5}
    assert state.pending == {"near": 10, "far": 15, "gone": 13, "new": 5, "newest": 0}
    assert state.next_seq == 19
    assert state.in_doubt == [range(11, 14), range(17, 19)]
    assert rows(path, "PRAGMA user_version") == [(2,)]
    assert rows(path, "SELECT openings FROM meta") == [(4,)]
    assert rows(
        path, "SELECT name, role, identity, session_mark, next_mark, incomplete, pending_since FROM stores"
    ) == [
        ("near", None, None, None, None, 0, None),
        ("far", "async", "1" * 32, None, None, 0, None),
        ("gone", None, None, None, None, 0, None),
        ("new", "async", None, None, None, 0, None),
        ("newest", "async", None, None, None, 0, None),
    ]
    assert rows(path, "SELECT DISTINCT size FROM entries") == [(None,)]
    assert pending(path) == {**PENDING, "newest": ()}


def test_a_migrated_outbox_has_the_columns_of_a_new_one(path: Path) -> None:
    def columns(path: Path) -> dict[str, list[Any]]:
        tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {name: rows(path, f"SELECT * FROM pragma_table_info('{name}')") for name in tables}

    new = path.with_name("new.db")
    new.touch()
    for each in (path, new):
        with opened_outbox(str(each)) as outbox:
            outbox.forget("none")
    assert columns(path) == columns(new)
    assert list(columns(path)) == ["deferred", "entries", "in_doubt", "meta", "stores"]


async def test_its_entries_are_delivered_except_those_in_doubt_that_no_store_has(path: Path) -> None:
    local, far, near = MemoryStore(), SimulatedStore(), SimulatedStore()
    await put_numbers(local, (*range(10), 30, 31, 32, 40))
    async with replica.open({"local": local}, {"far": far, "near": near}, outbox=path) as store:
        await store.flush()
    assert set(far.blobs) == set(FAR) - set(refs(41))
    assert set(near.blobs) == set(NEAR) - set(refs(41))
    assert pending(path) == {"near": (), "far": (), "gone": GONE, "new": NEW, "local": ()}


def test_a_look_at_it_reads_it_as_it_is(path: Path) -> None:
    before = dump(path)
    with opened_outbox(str(path)) as outbox:
        assert outbox.pending() == {name: len(found) for name, found in PENDING.items()}
        assert {name: tuple(outbox.refs(name, at_once=2)) for name in PENDING} == PENDING
        assert outbox.noted() == dict.fromkeys(PENDING, NotedStore(None, None, False))
    assert dump(path) == before
    assert rows(path, "PRAGMA user_version") == [(1,)]


def test_a_change_by_hand_migrates_it(path: Path) -> None:
    with opened_outbox(str(path)) as outbox:
        assert outbox.pending()["gone"] == len(GONE)
        assert outbox.forget("gone") == len(GONE)
        assert {name: tuple(outbox.refs(name)) for name in outbox.pending()} == {**PENDING, "gone": ()}
        outbox.accept("far", "1" * 32)
        assert outbox.noted()["far"] == NotedStore(None, "1" * 32, True)
    assert rows(path, "PRAGMA user_version") == [(2,)]
    assert rows(path, "SELECT openings FROM meta") == [(5,)]
    assert pending(path) == {**PENDING, "gone": ()}


async def test_a_session_that_does_not_begin_migrates_nothing(path: Path) -> None:
    before = dump(path)
    await open_and_close(open_sqlite_outbox(str(path)))
    one = MemoryStore(identity="1" * 32)
    with pytest.raises(ValueError, match="one store"):
        await open_and_close(replica.open({"local": one}, {"far": MemoryStore(identity="1" * 32)}, outbox=path))
    assert dump(path) == before


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE deferred (of_somebody_else)")  # the last table that the migration makes
    before = dump(path)
    with pytest.raises(ReplicaError, match="table deferred already exists"):
        await open_and_close(replica.open({"local": MemoryStore()}, {"far": MemoryStore()}, outbox=path))
    assert dump(path) == before


MIGRATE: Final = """
import sys, trio
from trio_replica._async import outbox_file, outbox_format
from trio_replica._async.storage import SessionStore

class Slow(tuple):
    def __iter__(self):
        for statement in super().__iter__():
            print("next", flush=True)
            sys.stdin.readline()
            yield statement
        print("next", flush=True)
        sys.stdin.readline()

outbox_format._FROM_FORMAT_1 = Slow(outbox_format._FROM_FORMAT_1)

async def main():
    async with outbox_file.open_sqlite_outbox(sys.argv[1]) as storage:
        await storage.begin([SessionStore("far", "async", None)])
        print("begun", flush=True)
        sys.stdin.readline()

trio.run(main)
"""
"""A session that waits for a line before each statement of the migration, and after the last."""


@pytest.mark.deep
def test_a_kill_in_the_middle_changes_nothing(path: Path) -> None:
    before, copy = dump(path), path.parent.with_name("copy")
    shutil.rmtree(path.parent)
    shutil.copytree(FORMAT_1, path.parent)
    steps, said = 0, b""
    while said != b"begun\n":
        steps += 1
        shutil.rmtree(path.parent)
        shutil.copytree(FORMAT_1, path.parent)
        with subprocess.Popen(
            [sys.executable, "-c", MIGRATE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for step in range(steps):
                said = process.stdout.readline()
                if step < steps - 1:
                    process.stdin.write(b"\n")
                    process.stdin.flush()
            process.send_signal(signal.SIGKILL)
        shutil.copytree(path.parent, copy)
        if said == b"begun\n":
            assert rows(copy / path.name, "PRAGMA user_version") == [(2,)]
        else:
            assert said == b"next\n"
            assert dump(copy / path.name) == before, steps
        shutil.rmtree(copy)
        assert pending(path) == {**PENDING}
    assert steps == 14, "before each of 12 statements, after them, and after the commit"


@pytest.mark.deep
def test_a_kill_at_any_moment_changes_nothing_or_all(path: Path) -> None:
    """Also one between two writes of SQLite's, which no statement shows."""
    before, draw = dump(path), random.Random(1)
    ends, attempts = {1: 0, 2: 0}, 0
    while min(ends.values()) < 3:
        attempts += 1
        shutil.rmtree(path.parent)
        shutil.copytree(FORMAT_1, path.parent)
        read, write = os.pipe()
        forked = os.fork()
        if forked == 0:  # pragma: no cover  (runs in a process of its own)
            os.write(write, b"1")
            try:
                with opened_outbox(str(path)) as outbox:
                    outbox.forget("none")
            finally:
                os._exit(0)
        os.read(read, 1)
        os.close(read)
        os.close(write)
        for _ in range(draw.randrange(200 * attempts)):
            os.stat(path)  # takes some microseconds
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)
        ((version,),) = rows(path, "PRAGMA user_version")
        ends[version] += 1
        if version == 1:
            assert dump(path) == before
        assert pending(path) == {**PENDING}


@pytest.mark.parametrize("version", [0, 3, 4711])
async def test_a_version_that_is_not_known_is_refused(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = dump(path)
    expected = f"{path}: the outbox has format {version}, and this package knows 2: update trio-replica"
    with pytest.raises(ReplicaError, match=f"^{expected}$"):
        await open_and_close(replica.open([MemoryStore()], {"far": MemoryStore()}, outbox=path))
    with pytest.raises(ReplicaError, match=f"^{expected}$"), opened_outbox(str(path)):
        pass  # pragma: no cover  (it does not open)
    assert dump(path) == before
    await trio.lowlevel.checkpoint()
