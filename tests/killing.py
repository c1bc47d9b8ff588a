"""Processes that are killed at a moment of their own telling."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from . import traffic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

ROOT: Final = Path(__file__).parent.parent
"""Where ``tests`` is a package."""

MEMORY: Final = "/dev/shm"
"""Where Linux has a file system in memory."""

ROOM: Final = 2**28
"""Bytes that the stores of a test have at most, and as much again."""

KILLED: Final = [str(-signal.SIGKILL)]
"""How a process that was killed has ended."""

Told: TypeAlias = "dict[str, list[str]]"
"""The lines that a process told, without their first words, by these."""


class ForkServer:
    """A process of `tests.traffic`, whose children run one after another."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._unread = b""
        self._child: int | None = None

    async def run(self, program: str, *arguments: str, kill_after: tuple[str, int] = ("", 0)) -> Told:
        """Run a program, and return what it told; the last is how it ended.

        It is killed once it has told so many lines with one word, or is done.
        """
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps([program, *arguments]).encode() + b"\n")
        told: Told = defaultdict(list)
        while "ended" not in told:
            word, _, rest = (await self._line()).partition(" ")
            told[word].append(rest)
            if word == "started":
                self._child = int(rest)
            elif word == "ended":
                self._child = None
            elif word == "done" or (word, len(told[word])) == kill_after:
                self.kill()
        return told

    def kill(self) -> None:
        """Kill the child, if there is one, and it has not been killed yet."""
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            self._child = None

    async def _line(self) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            some = await self._process.stdout.receive_some()
            assert some, "the fork server has ended"
            self._unread += some
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()


@asynccontextmanager
async def fork_server() -> AsyncGenerator[ForkServer, None]:
    """Run a fork server for a block."""
    command = [sys.executable, "-m", traffic.__name__]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    server = ForkServer(process)
    async with process.stdin, process.stdout:
        try:
            yield server
        finally:
            server.kill()
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                await process.stdout.aclose()  # a child that still writes to it ends then
                await process.wait()


@contextmanager
def quick_folder() -> Generator[str, None, None]:
    """Lend a folder, in memory if there is room: what a kill leaves is the same there, and an fsync takes no time."""
    is_roomy = os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > ROOM
    with tempfile.TemporaryDirectory(dir=MEMORY if is_roomy else None) as folder:
        yield folder
