"""The outbox's file: its format, what survives, and what is wrong with others."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, PoisonedError, ReplicaError, StoreError
from trio_replica._async import outbox_connection as internals
from trio_replica._async.outbox_by_hand import opened_outbox
from trio_replica._async.outbox_connection import transaction
from trio_replica._async.outbox_file import open_sqlite_outbox
from trio_replica._async.storage import Acknowledgement, Changes, Entry, OutboxState, OutboxStorage, SessionStore
from trio_replica._calls.start import ended_call
from trio_replica.testing import SimulatedStore

from .common import BROKEN, open_and_close, put_numbers, refs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from trio_replica import Ref
    from trio_replica._async.outbox_by_hand import OutboxFile

USED = "another replica has used the outbox in the meantime, or a command has changed it: open this replica again"

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "outbox.db")


@asynccontextmanager
async def session(path: str, names: Sequence[str]) -> AsyncGenerator[tuple[OutboxStorage, OutboxState], None]:
    """Open an outbox with some async stores."""
    async with open_sqlite_outbox(path) as storage:
        yield storage, await storage.begin([SessionStore(name, "async", None) for name in names])


async def commit(
    storage: OutboxStorage, seqs: Sequence[int] = (), refs: Sequence[Ref] = (), stores: Sequence[int] = (), **named: Any
) -> None:
    changes = Changes(seqs, refs, [100 + seq for seq in seqs], stores, **named)
    await ended_call(partial(storage.start_commit, changes))


async def page(storage: OutboxStorage, store: int, after: int, before: int, limit: int) -> list[Entry]:
    found: list[Entry] = await ended_call(partial(storage.start_page, store, after, before, limit))
    return found


def rows(path: str, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def make_outbox(path: str) -> None:
    await open_and_close(session(path, ["a"]))


async def opening_problem(path: str) -> str:
    store = MemoryStore()
    with pytest.raises(ReplicaError) as caught:
        await open_and_close(replica.open([store], {"copy": MemoryStore()}, outbox=path))
    return str(caught.value)


async def test_the_format_is_that_of_the_protocol(path: str) -> None:
    async with session(path, ["a", "b"]) as (storage, state):
        assert (state.ids, state.pending, state.next_seq, state.in_doubt) == ({"a": 1, "b": 2}, {"a": 0, "b": 0}, 1, [])
        one, two = refs(1, 2)
        await commit(storage, [1, 2], [one, two], [1, 2], watermark=1)
        await commit(storage, acknowledgements=[Acknowledgement(2, [1])], watermark=3)
    async with session(path, ["c", "b"]) as (_, state):
        assert (state.ids, state.pending) == ({"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 1, "c": 0})
        assert (state.next_seq, state.in_doubt) == (3, [])
    assert rows(path, "PRAGMA application_id") == [(0x74724F42,)]
    assert rows(path, "PRAGMA user_version") == [(2,)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert rows(path, "SELECT * FROM stores") == [
        (number, name, "async", None, None, None, 0, None) for number, name in enumerate("abc", 1)
    ]
    assert rows(path, "SELECT * FROM entries") == [(1, 1, one, 101), (1, 2, two, 102), (2, 2, two, 102)]
    assert rows(path, "SELECT * FROM meta") == [(3, 2)]
    assert rows(path, "SELECT * FROM in_doubt") == rows(path, "SELECT * FROM deferred") == []


async def test_entries_in_doubt_stay_so_until_they_are_dropped(path: str) -> None:
    async def commit_in_a_session(
        *entries: int, acknowledged: Sequence[int] = (), watermark: int = 0
    ) -> tuple[int, list[range]]:
        async with session(path, ["a", "b"]) as (storage, state):
            acknowledgements = [Acknowledgement(store, acknowledged) for store in (1, 2)]
            await commit(
                storage, entries, refs(*entries), [1, 2], acknowledgements=acknowledgements, watermark=watermark
            )
        return state.next_seq, [*state.in_doubt]

    assert await commit_in_a_session(1, 2, 3, watermark=2) == (1, [])
    assert await commit_in_a_session(watermark=4) == (4, [range(2, 4)]), "a crash, it seems"
    assert await commit_in_a_session(acknowledged=[3]) == (4, [range(2, 4)]), "the watermark has passed it, and yet"
    assert await commit_in_a_session(4, 5, watermark=4) == (4, [range(2, 4)])
    assert await commit_in_a_session(acknowledged=[2]) == (6, [range(2, 4), range(4, 6)])
    assert await commit_in_a_session(acknowledged=[1, 4, 5], watermark=9) == (6, [range(4, 6)])
    assert await commit_in_a_session() == (9, [])


@pytest.mark.parametrize("left", [1, 2, 3])
async def test_a_range_in_doubt_is_kept_for_whichever_entry_is_left_of_it(path: str, left: int) -> None:
    async with session(path, ["a", "b"]) as (storage, _):
        await commit(storage, [1, 2, 3], refs(1, 2, 3), [1, 2], watermark=1)
    async with session(path, ["a", "b"]) as (storage, state):
        assert state.in_doubt == [range(1, 4)]
        others = [seq for seq in (1, 2, 3) if seq != left]
        acknowledgements = [Acknowledgement(1, [1, 2, 3]), Acknowledgement(2, others)]
        await commit(storage, acknowledgements=acknowledgements, watermark=9)
    for _ in range(2):
        async with session(path, ["a", "b"]) as (storage, state):
            assert state.in_doubt == [range(1, 4)]
    async with session(path, ["a", "b"]) as (storage, _):
        await commit(storage, acknowledgements=[Acknowledgement(2, [left])])
    async with session(path, ["a", "b"]) as (_, state):
        assert state.in_doubt == []


async def test_an_acknowledgement_drops_no_other_entry_of_the_same_blob(path: str) -> None:
    async with session(path, ["a", "b"]) as (storage, _):
        await commit(storage, [1, 2, 3], refs(0, 0, 0), [1, 2])
        await commit(storage, acknowledgements=[Acknowledgement(1, [2])])
        assert [seq for seq, _ in await page(storage, 1, 0, 9, 9)] == [1, 3]
        assert [seq for seq, _ in await page(storage, 2, 0, 9, 9)] == [1, 2, 3]


async def test_a_session_that_loses_its_connection_has_nothing_in_doubt(path: str) -> None:
    async with session(path, ["a"]) as (storage, state):
        await commit(storage, [1], refs(1), [1], watermark=1)
        with pytest.raises(ReplicaError, match="UNIQUE"):
            await commit(storage, [1], refs(1), [1])
        assert await page(storage, 1, 0, 9, 9) == [Entry(1, refs(1)[0])]
        assert state.in_doubt == []
    assert rows(path, "SELECT * FROM in_doubt") == []
    assert rows(path, "SELECT watermark FROM meta") == [(1,)]


async def test_a_commit_is_synced(path: str) -> None:
    async with session(path, []) as (storage, _):
        sqlite_storage: Any = storage
        database = sqlite_storage._threads._serve.__self__
        ran: list[Any] = []

        def look() -> None:
            connection = database._connection.sql
            ran.extend(
                connection.execute(f"PRAGMA {name}").fetchall()[0][0]
                for name in ("synchronous", "journal_mode", "locking_mode")
            )

        database._page = lambda _: look()
        await page(storage, 1, 0, 1, 1)
    assert ran == [2, "wal", "exclusive"]


async def test_pages_are_in_order_and_within_bounds(path: str) -> None:
    async with session(path, ["a", "b"]) as (storage, _):
        entries = [Entry(seq, ref) for seq, ref in enumerate(refs(*range(10)))]
        await commit(storage, range(10), refs(*range(10)), [1])
        assert await page(storage, 1, 2, 8, 3) == entries[3:6]
        assert await page(storage, 1, 5, 8, 3) == entries[6:8]
        assert await page(storage, 2, 0, 8, 3) == []


async def test_changes_that_wait_together_are_one_transaction_in_their_order(path: str) -> None:
    async with session(path, ["a"]) as (storage, _), trio.open_nursery() as nursery:
        for changes in (
            Changes([1], refs(1), [5], [1], watermark=1),
            Changes(acknowledgements=[Acknowledgement(1, [1])], watermark=2),
        ):
            storage.start_commit(changes, lambda _: None)
        found: list[Entry] = []

        async def read() -> None:
            found.extend(await page(storage, 1, 0, 9, 9))

        nursery.start_soon(read)
        await commit(storage, watermark=1)
        assert found == []
    assert rows(path, "SELECT watermark FROM meta") == [(2,)], "it does not go back"


async def test_a_bad_change_undoes_its_transaction_and_the_next_one_works(path: str) -> None:
    async with session(path, ["a"]) as (storage, _):
        await commit(storage, [1], refs(1), [1])
        with pytest.raises(ReplicaError, match=r"outbox.db: UNIQUE .*\(SQLITE_CONSTRAINT_PRIMARYKEY\)$"):
            await commit(storage, [2, 1], refs(2, 1), [1])
        assert await page(storage, 1, 0, 9, 9) == [Entry(1, refs(1)[0])]
        await commit(storage, [2], refs(2), [1])
    with opened_outbox(path) as outbox:
        assert list(outbox.refs("a")) == [*refs(1, 2)]


async def test_a_database_that_others_had_in_the_meantime_is_not_used_on(path: str) -> None:
    async with session(path, ["a"]) as (storage, _):
        await commit(storage, [1], refs(1), [1])
        with pytest.raises(ReplicaError, match="UNIQUE"):
            await commit(storage, [1], refs(1), [1])
        async with session(path, ["a"]):
            with pytest.raises(ReplicaError, match="the file is in use by another replica"):
                await page(storage, 1, 0, 9, 9)
        for _ in range(2):  # nor is the connection that found it out
            with pytest.raises(ReplicaError, match=USED):
                await page(storage, 1, 0, 9, 9)


@pytest.mark.parametrize(
    "change",
    [
        lambda outbox: outbox.forget("a"),
        lambda outbox: outbox.forget("a", refs(1)[0]),
        lambda outbox: outbox.accept("a", "1" * 32),
    ],
)
async def test_a_database_that_was_changed_by_hand_in_the_meantime_is_not_used_on(
    path: str, change: Callable[[OutboxFile], object]
) -> None:
    async with session(path, ["a"]) as (storage, _):
        await commit(storage, [1], refs(1), [1])
        with pytest.raises(ReplicaError, match="UNIQUE"):
            await commit(storage, [1], refs(1), [1])
        with opened_outbox(path) as outbox:
            change(outbox)
        for _ in range(2):
            with pytest.raises(ReplicaError, match=USED):
                await commit(storage, [2], refs(2), [1])
    with opened_outbox(path) as outbox:
        assert refs(2)[0] not in list(outbox.refs("a"))


async def test_a_database_that_was_only_looked_at_in_the_meantime_is_used_on(path: str) -> None:
    async with session(path, ["a"]) as (storage, _):
        await commit(storage, [1], refs(1), [1])
        with pytest.raises(ReplicaError, match="UNIQUE"):
            await commit(storage, [1], refs(1), [1])
        with opened_outbox(path) as outbox:
            assert outbox.pending() == {"a": 1}
            assert list(outbox.noted()) == ["a"]
        await commit(storage, [2], refs(2), [1])
    with opened_outbox(path) as outbox:
        assert list(outbox.refs("a")) == [*refs(1, 2)]


async def test_an_outbox_is_used_once_in_a_process(path: str) -> None:
    async with replica.open([MemoryStore()], {"copy": MemoryStore()}, outbox=path):
        expected = f"{path}: the file is in use by another replica, or as the database of a store (SQLITE_BUSY)"
        assert await opening_problem(path) == expected


def test_an_outbox_is_used_by_one_process_and_free_after_its_death(path: str) -> None:
    program = f"""
import trio, trio_replica as replica
async def main():
    async with replica.open([replica.MemoryStore()], {{"copy": replica.MemoryStore()}}, outbox={path!r}):
        print("open", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        assert "in use" in trio.run(opening_problem, path)
        with pytest.raises(ReplicaError, match="in use"), opened_outbox(path):
            pass  # pragma: no cover  (it does not open)
        child.kill()
    trio.run(make_outbox, path)


async def test_a_look_at_an_outbox_holds_up_who_opens_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "LOCK_SECONDS", 10.0)
    await open_and_close(session(path, []))
    look = opened_outbox(path)
    look.__enter__()
    async with trio.open_nursery() as nursery:

        async def end_looking() -> None:
            await trio.lowlevel.checkpoint()
            look.__exit__(None, None, None)

        nursery.start_soon(end_looking)
        await open_and_close(session(path, []))


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def make(path: str, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def damage(path: str) -> None:
    trio.run(make_outbox, path)
    data = bytearray(Path(path).read_bytes())
    data[100] = 77  # the kind of a page of the schema
    Path(path).write_bytes(data)


WRONG: list[tuple[Callable[[str], object], str]] = [
    (
        partial(write, data=b"some text, that is long enough"),
        "the file is not an outbox: name another one (SQLITE_NOTADB)",
    ),
    (
        lambda path: make(path, "CREATE TABLE blobs (ref)"),
        "the file is a database, but not an outbox: name another one",
    ),
    (
        lambda path: make(path, "PRAGMA application_id = 5"),
        "the file is a database, but not an outbox: name another one",
    ),
    (
        lambda path: make(path, f"PRAGMA application_id = {0x74724F42}", "PRAGMA user_version = 2"),
        "the file is a database, but not an outbox: name another one",
    ),
    (
        lambda path: make(path, f"PRAGMA application_id = {0x74724F42}", "PRAGMA user_version = 3"),
        "the outbox has format 3, and this package knows 2: update trio-replica",
    ),
    (lambda path: Path(path).mkdir(), "this is a folder, not a regular file: name a file"),
    (damage, "the outbox is damaged: set the file aside, and reconcile the stores (SQLITE_CORRUPT)"),
]


@pytest.mark.parametrize(("spoil", "expected"), WRONG)
def test_what_is_no_outbox_is_refused(path: str, spoil: Callable[[str], object], expected: str) -> None:
    spoil(path)
    before = Path(path).is_file() and Path(path).read_bytes()
    assert trio.run(opening_problem, path) == f"{path}: {expected}"
    with pytest.raises(ReplicaError) as caught, opened_outbox(path):
        pass  # pragma: no cover  (it does not open)
    assert str(caught.value) == f"{path}: {expected}"
    assert (Path(path).is_file() and Path(path).read_bytes()) == before


async def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert "name a file in a folder that exists" in await opening_problem(str(tmp_path / "none" / "outbox.db"))


async def test_a_bad_outbox_is_found_before_a_store_is_opened(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("none")
    opening = replica.open_urls({"a": f"sqlite:{tmp_path}/a"}, {"b": f"dir:{tmp_path}/b"}, outbox=tmp_path / "outbox")
    with pytest.raises(ReplicaError, match="not an outbox"):
        await open_and_close(opening)
    assert [entry.name for entry in tmp_path.iterdir()] == ["outbox"]


def test_urls_need_names_and_the_outbox_a_file_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^with an outbox, async_ has to be a mapping of names to URLs"):
        replica.open_urls(["memory:"], ["memory:"], outbox="outbox.db")
    with pytest.raises(ValueError, match=r"^the outbox '.*/a' is a store as well: name another file$"):
        replica.open_urls({"a": f"sqlite:{tmp_path}/a"}, {}, outbox=f"{tmp_path}/./a")
    with pytest.raises(TypeError, match=r"^outbox is the path of a file, not 5$"):
        replica.open_urls({"a": "memory:"}, {}, outbox=5)  # type: ignore[arg-type]


async def test_urls_with_an_outbox(tmp_path: Path) -> None:
    urls = {"a": f"sqlite:{tmp_path}/a"}, {"b": f"dir:{tmp_path}/b"}
    async with replica.open_urls(*urls, outbox=tmp_path / "outbox") as store:
        await put_numbers(store, range(3))
        await store.flush()
        assert store.statistics().async_stores["b"].pending == 0
    with opened_outbox(str(tmp_path / "outbox")) as outbox:
        assert outbox.pending() == {"a": 0, "b": 0}


async def test_what_is_pending_for_a_failed_store_is_there_for_the_next_replica(path: str) -> None:
    sync, copy = MemoryStore(), SimulatedStore()
    copy.fail(BROKEN)
    with pytest.raises(PoisonedError):
        async with replica.open([sync], {"copy": copy}, outbox=path) as store:
            await put_numbers(store, range(9))
    assert trio.current_time() > 0
    with opened_outbox(path) as outbox:
        pending = outbox.pending()["copy"]
        assert pending >= 1
        assert list(outbox.refs("copy")) == [*refs(*range(pending))]
    copy.recover()
    async with replica.open([sync], {"copy": copy}, outbox=path) as store:
        await put_numbers(store, range(9))
        await store.flush()
        assert set(copy.blobs) == set(refs(*range(9)))


async def test_a_full_disk_fails_puts_until_there_is_room(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = SimulatedStore()
    async with replica.open([MemoryStore()], {"copy": copy}, outbox=path) as store:
        await put_numbers(store, [0])
        original = internals.transaction
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorcode, full.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"

        def failing(connection: sqlite3.Connection) -> Any:
            raise full

        monkeypatch.setattr("trio_replica._async.outbox_file.transaction", failing)
        with pytest.raises(StoreError, match=r"outbox: ReplicaError: .*: the disk of the outbox is full: make room"):
            await store.put(b"1")
        monkeypatch.setattr("trio_replica._async.outbox_file.transaction", original)
        await store.put(b"2")
        await store.flush()
        assert set(refs(0, 2)) == set(copy.blobs)
        assert store.statistics().async_stores["copy"].pending == 0


async def test_a_transaction_that_fails_is_undone_even_if_that_fails(path: str) -> None:
    await open_and_close(session(path, ["a"]))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(KeyError), transaction(connection):
            connection.execute("DELETE FROM stores")
            raise KeyError
        assert not connection.in_transaction
        with pytest.raises(KeyError), transaction(connection):
            connection.execute("ROLLBACK")
            raise KeyError
        assert connection.execute("SELECT name FROM stores").fetchall() == [("a",)]


async def test_what_is_pending_can_be_looked_at_and_forgotten(path: str) -> None:
    async with session(path, ["a", "b"]) as (storage, _):
        await commit(storage, range(1, 6), refs(0, 1, 2, 1, 3), [1, 2])
    with opened_outbox(path) as outbox:
        assert outbox.pending() == {"a": 5, "b": 5}
        assert list(outbox.refs("b", at_once=2)) == [*refs(0, 1, 2, 1, 3)]
        assert outbox.forget("a", refs(1)[0]) == 2
        assert outbox.forget("a", refs(9)[0]) == 0
        assert outbox.forget("b") == 5
        assert outbox.forget("c") == 0
    with opened_outbox(path) as outbox:
        assert (outbox.pending(), list(outbox.refs("a"))) == ({"a": 3, "b": 0}, [*refs(0, 2, 3)])


def test_an_empty_file_is_an_outbox_and_none_is_not(path: str) -> None:
    with pytest.raises(ReplicaError, match="there is no such outbox"), opened_outbox(path):
        pass  # pragma: no cover  (it does not open)
    assert not Path(path).exists()
    Path(path).touch()
    with opened_outbox(path) as outbox:
        assert outbox.pending() == {}
