"""Tests of the simulation itself: its disks after a crash, and its threads."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import Any, cast

import pytest
import trio
import trio.testing

from .disks import Bucket, File, Folder
from .ledger import REFS
from .outbox import Connection, DatabaseFile, OutboxWeather, SimulatedOutbox, SimulatedThread
from .trace import Trace

DATA = b"abcd"
(REF, OTHER, *_) = REFS


def left(folder: Folder, *, power_cut: bool = True) -> set[bytes | None]:
    """Return what many crashes leave under a ref."""
    return {folder.left(random.Random(seed), power_cut=power_cut).read(REF) for seed in range(100)}


def test_what_is_synced_with_its_name_survives_everything() -> None:
    folder = Folder({REF: (file := File(DATA))})
    file.sync()
    folder.sync_names(dict(folder.names))
    assert left(folder) == folder.possible(REF) == {DATA}
    assert left(folder, power_cut=False) == {DATA}


def test_a_name_that_is_not_synced_may_be_lost() -> None:
    folder = Folder({REF: (file := File(DATA))})
    file.sync()
    assert left(folder) == folder.possible(REF) == {DATA, None}
    assert left(folder, power_cut=False) == {DATA}


def test_a_file_that_is_not_synced_may_be_short() -> None:
    folder = Folder({REF: File(DATA)})
    folder.sync_names(dict(folder.names))
    assert left(folder) == {DATA, b"ab", b""}
    assert b"" in folder.possible(REF)


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one() -> None:
    folder = Folder({REF: (file := File(b"old"))})
    file.sync()
    folder.sync_names(dict(folder.names))
    folder.names[REF] = file = File(DATA)
    file.sync()
    assert left(folder) == folder.possible(REF) == {DATA, b"old"}


def test_what_a_kill_leaves_is_not_safe_from_a_power_cut() -> None:
    folder = Folder({REF: File(DATA)}).left(random.Random(0), power_cut=False)
    assert left(folder) == {DATA, b"ab", b"", None}


def test_what_a_dead_program_does_does_not_show() -> None:
    folder = Folder({REF: (file := File(DATA))}, {REF: file})
    after = folder.left(random.Random(0), power_cut=False)
    file.sync()
    folder.names[OTHER] = file
    assert after.refs() == [REF]
    assert after.names[REF].synced == 0


@pytest.mark.parametrize("power_cut", [False, True])
def test_what_was_sent_to_a_server_may_arrive_late(power_cut: bool) -> None:
    came = set()
    for seed in range(20):
        bucket = Bucket(under_way={1: (REF, DATA)}).left(random.Random(seed), power_cut=power_cut)
        assert bucket.refs() == []
        came.add(bool(bucket.arrive()))
        assert bucket.arrive() == []
        assert bucket.possible(REF) == {DATA if bucket.refs() else None}
    assert came == {False, True}


def test_a_power_cut_leaves_the_first_of_the_commits_that_were_not_synced() -> None:
    file = DatabaseFile()
    file.commit(b"1", to_sync=True)
    file.end_commit()
    for content in (b"2", b"3"):
        file.commit(content, to_sync=False)
        file.end_commit()
    assert file.content == b"3"
    assert {file.left(random.Random(seed), power_cut=True).content for seed in range(50)} == {b"1", b"2", b"3"}
    assert file.left(random.Random(0), power_cut=False).content == b"3"


async def test_a_call_that_waits_for_a_thread_that_ends_is_refused() -> None:
    ended: list[Any] = []
    weather = OutboxWeather(random.Random(0), Trace())
    thread = SimulatedThread(cast("Any", pytest.fail), SimulatedOutbox(DatabaseFile(), weather, print, print))
    thread.start("a request", ended.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.close)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(thread.run)
    with pytest.raises(trio.ClosedResourceError):
        ended[0].unwrap()
    with pytest.raises(trio.ClosedResourceError):
        thread.start("another", ended.append)


async def test_a_disk_that_fails_can_not_be_read() -> None:  # noqa: ASYNC124  (the trace has Trio's time)
    with closing(sqlite3.connect(":memory:", factory=Connection)) as connection:
        connection.file = DatabaseFile()
        connection.weather = OutboxWeather(random.Random(0), Trace(), error_rate=1.0)
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            connection.execute("SELECT seq FROM entries")


def test_an_object_that_rots_has_other_bytes_until_it_is_gone() -> None:
    bucket = Bucket({REF: DATA})
    bucket.rot(REF)
    assert bucket.read(REF) not in (DATA, None)
    bucket.clear()
    assert bucket.read(REF) is None
