"""The stores that an outbox knows: whether each is the one that it knows by that name, and what it notes of it."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, PoisonedError, ReplicaError, StoreError, StoreIdentityError
from trio_replica._async.outbox_by_hand import opened_outbox
from trio_replica._async.storage import NotedStore
from trio_replica.testing import SimulatedStore

from .common import BROKEN, open_and_close, put_numbers, refs
from .outboxes import Disk, MemoryOutbox, open_with_outbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from trio_replica import Store

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


async def noted(disk: Disk, sync: Mapping[str, str | None] | Sequence[str | None], **copies: str | None) -> Disk:
    """Open and close a replica of stores with such identities, with the outbox `disk`."""
    if isinstance(sync, dict):
        sync_stores: Mapping[str, Store] | list[Store] = {name: MemoryStore(identity=one) for name, one in sync.items()}
    else:
        sync_stores = [MemoryStore(identity=one) for one in sync]
    async_stores = {name: MemoryStore(identity=identity) for name, identity in copies.items()}
    await open_and_close(open_with_outbox(sync_stores, async_stores, MemoryOutbox(disk)))
    return disk


async def test_names_roles_and_identities_are_noted(autojump_clock: MockClock) -> None:
    disk = await noted(Disk(), {"local": ONE, "second": None}, copy=TWO, other=None)
    assert disk.noted == {
        "local": NotedStore("sync", ONE, False),
        "second": NotedStore("sync", None, False),
        "copy": NotedStore("async", TWO, False),
        "other": NotedStore("async", None, False),
    }
    await noted(disk, {"copy": TWO}, local=ONE)
    assert [one.role for one in disk.noted.values()] == ["async", "sync", "sync", "async"]


async def test_sync_stores_without_names_are_not_noted(autojump_clock: MockClock) -> None:
    disk = await noted(Disk(), [ONE, TWO], copy=THREE)
    assert list(disk.noted) == ["copy"]
    await noted(disk, [TWO, ONE], copy=THREE)


@pytest.mark.parametrize(("was", "found"), [(ONE, ONE), (None, None)])
async def test_a_store_that_is_the_one_that_is_noted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, was: str | None, found: str | None
) -> None:
    caplog.set_level(logging.INFO)
    disk = await noted(Disk(), {"local": was}, copy=None)
    await noted(disk, {"local": found}, copy=None)
    assert disk.noted["local"].identity == was
    assert caplog.records == []


@pytest.mark.parametrize("was", [ONE, None])
@pytest.mark.parametrize("found", [TWO, None])
@pytest.mark.parametrize("role", ["sync", "async"])
async def test_a_store_that_is_another_than_the_one_that_is_noted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, role: str, was: str | None, found: str | None
) -> None:
    async def session(identity: str | None) -> None:
        if role == "sync":
            await noted(disk, {"the store": identity}, copy=THREE)
        else:
            await noted(disk, {"local": THREE}, **{"the store": identity})

    caplog.set_level(logging.INFO)
    disk = Disk()
    await session(was)
    before = disk.copy()
    if was is None:
        await session(found)
        notes = [f"the outbox notes the identity of the store, which it did not know: {found}"] if found else []
        assert [record.getMessage() for record in caplog.records] == notes
        assert disk.noted["the store"].identity == found
        return
    with pytest.raises(ReplicaError) as caught:
        await session(found)
    assert str(caught.value) == (
        f"the store: the outbox knows another store by this name: its identity was {ONE} and is {found or 'none'}: "
        "open the one that it knows, or take this one: trio-replica outbox accept 'the store'"
    )
    cause = caught.value.__cause__
    assert isinstance(cause, StoreIdentityError)
    assert (cause.store, cause.expected, cause.found) == ("the store", ONE, found)
    assert disk == before, "nothing is noted, and nothing is in doubt that was not"


def known_as(name: str, identity: str, other: str, was: str = "") -> str:
    return (
        f"{name}: its identity {identity} is the one that the outbox knows as {other}{was}: give the stores their "
        f"former names, or take this one as {name}: trio-replica outbox accept {name}"
    )


@pytest.mark.parametrize(
    ("copies", "says"),
    [
        ({"one": TWO, "two": ONE}, known_as("one", TWO, "two", f", while one's was {ONE}")),
        ({"renamed": ONE}, known_as("renamed", ONE, "one")),
        ({"none": TWO}, known_as("none", TWO, "two")),
    ],
)
async def test_a_store_that_is_noted_by_another_name(
    autojump_clock: MockClock, copies: dict[str, str | None], says: str
) -> None:
    disk = await noted(Disk(), {"local": THREE}, one=ONE, two=TWO, none=None)
    with pytest.raises(ReplicaError) as caught:
        await noted(disk, {"local": THREE}, **copies)
    assert str(caught.value) == says
    assert isinstance(caught.value.__cause__, StoreIdentityError)
    with pytest.raises(ReplicaError, match=r"^one: its identity 3+ is the one that the outbox knows as local"):
        await noted(disk, [None], one=THREE)


async def test_a_store_that_another_of_the_replica_is(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match=r"^'one' and 'two' are one store"):
        await noted(Disk(), {"local": THREE}, one=ONE, two=ONE)


async def test_stores_that_change_places_do_not_get_each_others_entries(path: Path) -> None:
    local, one, two = MemoryStore(identity=THREE), MemoryStore(identity=ONE), Known(TWO)
    two.fail(BROKEN)
    with pytest.raises(PoisonedError):
        async with replica.open({"local": local}, {"one": one, "two": two}, outbox=path) as store:
            await store.put_many([b"%d" % number for number in range(5)])
    with opened_outbox(str(path)) as outbox:
        left = dict(outbox.pending())
    assert left["two"] == 5
    two.recover()
    with pytest.raises(ReplicaError, match=r"^one: its identity 2+ is the one that the outbox knows as two, while"):
        await open_and_close(replica.open({"local": local}, {"one": two, "two": one}, outbox=path))
    with opened_outbox(str(path)) as outbox:
        assert outbox.pending() == left
    async with replica.open({"local": local}, {"two": two, "one": one}, outbox=path) as store:
        await store.flush()
    assert set(two.blobs) == set(refs(*range(5)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


async def test_nothing_is_relayed_before_the_stores_are_known(path: Path) -> None:
    """Neither are entries in doubt, because a store of another name might have the blob, or seem to lack it."""
    await open_and_close(replica.open({"local": MemoryStore(identity=ONE)}, {"copy": MemoryStore()}, outbox=path))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO entries VALUES (2, 7, ?, 1)", refs(0))
        connection.commit()
        before = list(connection.iterdump())
    copy = MemoryStore()
    with pytest.raises(ReplicaError, match="accept local"):
        await open_and_close(replica.open({"local": MemoryStore(identity=TWO)}, {"copy": copy}, outbox=path))
    with pytest.raises(StoreError, match=r"^identity failed: local: OSError: broken$"):
        await open_and_close(replica.open({"local": Silent()}, {"copy": copy}, outbox=path))
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before
    async with replica.open({"local": MemoryStore(identity=ONE)}, {"copy": copy}, outbox=path) as store:
        await store.flush()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM in_doubt").fetchall() == [(1, 8)]
        assert connection.execute("SELECT * FROM entries").fetchall() == []


class Known(SimulatedStore):
    """A store with an identity."""

    def __init__(self, identity: str) -> None:
        super().__init__()
        self._identity = identity

    async def identity(self) -> str | None:
        await trio.lowlevel.checkpoint()
        return self._identity


class Silent(SimulatedStore):
    """A store that fails to return its identity."""

    async def identity(self) -> str | None:
        await trio.lowlevel.checkpoint()
        raise BROKEN


async def test_urls_of_sync_stores_without_names_are_not_noted(tmp_path: Path, path: Path) -> None:
    urls = [f"dir:{tmp_path}/a", f"dir:{tmp_path}/b"]
    async with replica.open_urls(urls, {"copy": f"dir:{tmp_path}/copy"}, outbox=path) as store:
        await put_numbers(store, range(2))
        assert list(store.statistics().sync_stores) == ["sync-0", "sync-1"]
    with opened_outbox(str(path)) as outbox:
        assert list(outbox.noted()) == ["copy"]
    await open_and_close(replica.open_urls(urls[::-1], {"copy": f"dir:{tmp_path}/copy"}, outbox=path))
    await open_and_close(replica.open_urls({"a": urls[0]}, {"copy": f"dir:{tmp_path}/copy"}, outbox=path))
    with opened_outbox(str(path)) as outbox:
        assert {name: one.role for name, one in outbox.noted().items()} == {"copy": "async", "a": "sync"}
