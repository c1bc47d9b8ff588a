"""An outbox on files, folders and disks that are not as they have to be."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, Ref, ReplicaError, StoreError
from trio_replica._async import outbox_connection as internals

from . import child
from .common import open_and_close, put_numbers
from .held import Held

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "outbox.db"


async def make_outbox(path: Path) -> None:
    async with replica.open([MemoryStore()], {"copy": MemoryStore()}, outbox=path) as store:
        await put_numbers(store, range(3))


WRITABLE_FOLDER, READABLE_FOLDER = 0o777, 0o555


@pytest.mark.deep
@pytest.mark.parametrize(
    ("mode", "folder_mode", "message"),
    [
        (0o444, WRITABLE_FOLDER, "the outbox can't be written: get permission to write it and its folder"),
        (0o444, READABLE_FOLDER, "the outbox can't be written: get permission to write it and its folder"),
        (0o666, READABLE_FOLDER, "the outbox can't be written: get permission to write it and its folder"),
        (0o000, WRITABLE_FOLDER, "the outbox can't be opened: name a file in a folder that exists and may be written"),
        (None, READABLE_FOLDER, "the outbox can't be opened: name a file in a folder that exists and may be written"),
    ],
)
async def test_an_outbox_that_may_not_be_written(path: Path, mode: int | None, folder_mode: int, message: str) -> None:
    if mode is not None:
        await make_outbox(path)
        path.chmod(mode)
    path.parent.chmod(folder_mode)
    said = await child.run("open_outbox_as_nobody", path.parent, path.name)
    kind, where, what = said.split(": ", 2)
    assert (kind, os.path.basename(where)) == ("ReplicaError", path.name)
    assert what.partition(" (SQLITE_")[0] == message
    path.parent.chmod(0o777)


@pytest.mark.parametrize("is_there", [pytest.param(False, marks=pytest.mark.deep), True])
async def test_files_that_may_not_grow(path: Path, *, is_there: bool) -> None:
    if is_there:
        await make_outbox(path)
    said = await child.run("open_outbox_where_nothing_can_be_written", path, 0)
    assert said.startswith(f"ReplicaError: {path}: the outbox can't be written: check its disk")


async def problem(path: Path, *stores: replica.Store) -> str:
    with pytest.raises(ReplicaError) as caught:
        await open_and_close(replica.open(stores or [MemoryStore()], {"copy": MemoryStore()}, outbox=path))
    return str(caught.value)


@pytest.mark.parametrize("as_path", [False, True])
async def test_a_name_that_looks_like_a_url(path: Path, monkeypatch: pytest.MonkeyPatch, *, as_path: bool) -> None:
    monkeypatch.chdir(path.parent)
    async with replica.open([MemoryStore()], {}, outbox=Path("sqlite:a") if as_path else "./sqlite:a"):
        assert os.listdir(path.parent)[0].startswith("sqlite:a")


async def test_the_database_of_a_store(path: Path) -> None:
    async with replica.open_sqlite(path) as store:
        ref, _ = await store.put(b"hello")
        assert (await problem(path, store)).startswith(f"{path}: the file is in use by another replica, or as the")
        assert await store.get(ref) == b"hello"
        await store.put(b"more")
    assert await problem(path) == f"{path}: the file is a database, but not an outbox: name another one"
    async with replica.open_sqlite(path) as store:
        assert [ref async for ref in store.list_refs()] == sorted([Ref.of(b"hello"), Ref.of(b"more")])


class Disk:
    """A disk with room for so many pages of an outbox."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
        self.pages = pages
        self._transaction = internals.transaction
        for module in ("outbox_connection", "outbox_file"):
            monkeypatch.setattr(f"trio_replica._async.{module}.transaction", self._limited_transaction)

    @contextmanager
    def _limited_transaction(self, connection: sqlite3.Connection) -> Generator[None, None, None]:
        connection.execute(f"PRAGMA max_page_count = {self.pages}").fetchall()
        with self._transaction(connection):
            yield


async def test_a_disk_that_is_full_when_the_outbox_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 1)
    assert await problem(path) == f"{path}: the disk of the outbox is full: make room (SQLITE_FULL)"
    disk.pages = 1000
    await make_outbox(path)


async def test_a_disk_that_gets_full_and_has_room_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(number: int) -> None:
        try:
            ref, _ = await store.put(b"%d" % number)
        except StoreError as error:
            assert list(error.failures) == ["outbox"]
            failed.append(number)
            messages.add(str(error.failures["outbox"]))
        else:
            acknowledged.add(ref)

    async def put_at_once(first: int) -> None:
        async with trio.open_nursery() as putting:
            for number in range(first, first + 50):
                putting.start_soon(put, number)

    disk = Disk(monkeypatch, 9)
    acknowledged: set[Ref] = set()
    failed: list[int] = []
    messages: set[str] = set()
    with Held() as held:
        async with replica.open_sqlite(path.with_name("far.db")) as far, trio.open_nursery() as nursery:
            nursery.start_soon(far._writer.run, held)  # so that entries pile up
            async with replica.open([MemoryStore()], {"far": far}, outbox=path, queue_size=1) as store:
                for first in range(0, 500, 50):
                    await put_at_once(first)
                assert len(acknowledged) > 100
                assert len(failed) > 50
                assert messages == {f"{path}: the disk of the outbox is full: make room (SQLITE_FULL)"}
                assert store.statistics().async_stores["far"].pending == len(acknowledged)
                disk.pages = 1000
                there = len(acknowledged)
                await put_at_once(500)
                assert len(acknowledged) == there + 50
                for number in failed:
                    await put(number)
                assert len(acknowledged) == 550
                held.release()
                await store.flush()
                assert store.statistics().async_stores["far"].pending == 0
                assert {ref async for ref in far.list_refs()} == acknowledged
