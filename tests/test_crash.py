"""Processes that are killed in the middle of puts, and processes that use one store at the same time."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest
import trio

import trio_replica as replica
from trio_replica import Ref

from . import child

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path


class Putting:
    """A process that puts blobs, 16 at a time, and prints each that is acknowledged."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._printed = b""

    async def wait_open(self) -> None:
        assert await self._lines(1) == ["open"]

    async def begin(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"\n")

    async def acknowledged(self, count: int) -> dict[Ref, bool]:
        """Wait for so many acknowledgements, or for the end; return all, and whether each blob was added."""
        _, *lines = await self._lines(1 + count)
        return {Ref.from_hex(ref): added == "1" for ref, added in map(str.split, lines)}

    async def _lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        while self._printed.count(b"\n") < count and (some := await self.process.stdout.receive_some()):
            self._printed += some
        return self._printed.decode().split("\n")[:-1]


@asynccontextmanager
async def putting(url: str, seed: str, count: int) -> AsyncGenerator[Putting, None]:
    """Run a process that puts `count` blobs made from `seed` once it is told to."""
    command = child.command("put", url, seed, count)
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            yield Putting(process)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def kill_again_and_again(url: str, counts: Sequence[int]) -> None:
    """Kill a process after each of these numbers of acknowledgements, and look at what is there each time."""
    acknowledged: set[Ref] = set()
    seen: set[Ref] = set()
    for count in counts:
        async with putting(url, f"until {count}", 100_000) as one:
            await one.begin()
            await one.acknowledged(count)
            one.process.kill()
            until_it_died = await one.acknowledged(100_000)
        assert one.process.returncode == -signal.SIGKILL
        assert count <= len(until_it_died) < 100_000
        acknowledged.update(until_it_died)
        async with replica.open_store(url) as store:
            refs = {ref async for ref in store.list_refs()}
            assert acknowledged <= refs
            found = await store.get_many(refs - seen)
        assert {ref: Ref.of(data) for ref, data in found.items()} == {ref: ref for ref in refs - seen}
        seen = refs


@pytest.mark.deep
async def test_a_killed_process_leaves_no_torn_blob_and_all_that_it_acknowledged(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_again_and_again, f"dir:{tmp_path}/directory", range(1, 51, 2))
        nursery.start_soon(kill_again_and_again, f"sqlite:{tmp_path}/blobs.db", range(2, 51, 2))
    for file in tmp_path.glob("directory/blobs/**/*"):
        digits = file.name
        assert file.is_dir() or file == tmp_path / "directory" / "blobs" / digits[:2] / digits[:4] / digits
    with closing(sqlite3.connect(tmp_path / "blobs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def put_in_processes(url: str, seeds: Sequence[str], count: int) -> list[dict[Ref, bool]]:
    """Put `count` blobs made from each seed in a process of its own, all at once, and return what they acknowledged."""

    async def end(i: int) -> None:
        ended[i] = await processes[i].acknowledged(count)
        assert await processes[i].process.wait() == 0

    ended: dict[int, dict[Ref, bool]] = {}
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(putting(url, seed, count)) for seed in seeds]
        for one in processes:
            await one.wait_open()
        for one in processes:
            await one.begin()
        async with trio.open_nursery() as nursery:
            for i in range(len(seeds)):
                nursery.start_soon(end, i)
    async with replica.open_store(url) as store:
        refs = {ref async for ref in store.list_refs()}
    assert refs == {ref for acknowledged in ended.values() for ref in acknowledged}
    return [ended[i] for i in range(len(seeds))]


@pytest.mark.deep
@pytest.mark.parametrize("scheme", ["dir", "sqlite"])
async def test_of_racing_processes_exactly_one_adds_each_blob(tmp_path: Path, scheme: str) -> None:
    ended = await put_in_processes(f"{scheme}:{tmp_path}/store", ["the same"] * 4, 200)
    added = Counter(ref for acknowledged in ended for ref, added in acknowledged.items() if added)
    assert [len(acknowledged) for acknowledged in ended] == [200] * 4
    assert sorted(added.values()) == [1] * 200


@pytest.mark.deep
@pytest.mark.parametrize("scheme", ["dir", "sqlite"])
async def test_processes_that_put_different_blobs_do_not_hinder_each_other(tmp_path: Path, scheme: str) -> None:
    ended = await put_in_processes(f"{scheme}:{tmp_path}/store", ["one", "two", "three"], 500)
    assert [sum(acknowledged.values()) for acknowledged in ended] == [500] * 3
