"""Processes with an outbox that are killed in the middle of puts, and while they catch up."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, Final

import pytest
import trio

from .killing import KILLED, fork_server, quick_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .killing import ForkServer, Told

KILLS: Final = 300
"""Processes that are killed after 1, 2, 3, … acknowledgements."""

KILLS_OF_A_FOLDER: Final = 10
"""How many of them put to the same stores, one after another."""


class Folder:
    """A folder of stores, and what was acknowledged there."""

    def __init__(self, path: str) -> None:
        os.mkdir(path)
        self.path = path
        self.pending = 0
        self._checked: set[str] = set()
        self._unchecked: set[str] = set()

    async def kill_puts(self, server: ForkServer, seed: str, count: int) -> None:
        """Let a process put, on top of what is pending already, and kill it after so many acknowledgements."""
        told = await server.run("put", self.path, seed, kill_after=("acknowledged", count))
        assert told["ended"] == KILLED
        assert len(told["acknowledged"]) >= count
        self._unchecked.update(told["acknowledged"])

    async def kill_catching_up(self, server: ForkServer, count: int) -> None:
        """Let a process deliver the backlog, and kill it after so many writes to async stores."""
        told = await server.run("catch_up", self.path, kill_after=("written", count))
        assert told["ended"] == KILLED

    async def check(self, server: ForkServer) -> None:
        """Check that what is pending is delivered, and that every store has all since the last check."""
        await self._check(server, self._unchecked)
        self._checked |= self._unchecked
        self._unchecked = set()

    async def check_all(self, server: ForkServer) -> None:
        await self._check(server, self._checked)

    async def _check(self, server: ForkServer, refs: set[str]) -> None:
        told: Told = await server.run("check", self.path, *refs)
        assert (told["problem"], told["ended"]) == ([], ["0"])
        self.pending += int(told["pending"][0])


async def kill_again_and_again(path: str, counts: Sequence[int]) -> None:
    async with fork_server() as server:
        for first in range(0, len(counts), KILLS_OF_A_FOLDER):
            folder = Folder(path)
            for count in counts[first : first + KILLS_OF_A_FOLDER]:
                draw = random.Random(count)
                await folder.kill_puts(server, str(count), count)
                while draw.random() < 0.5:
                    if draw.random() < 0.7:
                        await folder.kill_catching_up(server, draw.randrange(1, 8))
                    else:
                        await folder.kill_puts(server, f"{count} more", draw.randrange(1, 30))
                await folder.check(server)
            await folder.check_all(server)
            assert folder.pending > 100
            shutil.rmtree(path)


@pytest.mark.deep
async def test_after_a_kill_all_that_was_acknowledged_comes_to_every_store() -> None:
    counts = list(range(1, KILLS + 1))
    random.Random(1).shuffle(counts)
    with quick_folder() as folder:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_again_and_again, f"{folder}/one", counts[::2])
            nursery.start_soon(kill_again_and_again, f"{folder}/other", counts[1::2])
