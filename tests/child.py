"""The programs that tests run in processes of their own: ``python child.py PROGRAM [ARGUMENT…]``."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

import trio_replica as replica
from trio_replica._async.outbox_by_hand import looked_at_outbox
from trio_replica.testing import SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOBODY: Final = 65534
"""The user who owns nothing."""


def command(program: str, *arguments: object) -> list[str]:
    """Return the command line of a program of this module."""
    return [sys.executable, __file__, program, *map(str, arguments)]


async def run(program: str, *arguments: object) -> Any:
    """Run a program of this module, and return what it prints."""
    ended = await trio.run_process(command(program, *arguments), capture_stdout=True)
    return json.loads(ended.stdout)


# The programs


async def put(url: str, seed: str, count: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put blobs, many at once, and print the ref of each, and whether it was added, when it is acknowledged.

    It prints a line when it has opened the store, and begins when it is sent one.
    """

    async def put_some(first: int) -> None:
        for i in range(first, int(count), 16):
            ref, added = await store.put(f"{seed} {i} ".encode() * 2 ** (i % 14))
            os.write(1, f"{ref} {added:d}\n".encode())

    async with replica.open_store(url) as store:
        os.write(1, b"open\n")
        await trio.to_thread.run_sync(sys.stdin.readline)
        async with trio.open_nursery() as nursery:
            for first in range(16):
                nursery.start_soon(put_some, first)


async def fill(url: str, limit: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put 40 blobs at once while no file may grow beyond `limit` bytes, then one more without that limit.

    It prints what each raised, by its ref; None if it was acknowledged.
    """

    async def put_one(data: bytes) -> None:
        blob = replica.Blob(data)
        try:
            await store.put(blob)
        except Exception as error:
            ended[str(blob.ref)] = f"{type(error).__name__}: {error}"
        else:
            ended[str(blob.ref)] = None

    ended: dict[str, str | None] = {}
    async with replica.open_store(url) as store:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
        async with trio.open_nursery() as nursery:
            for i in range(40):
                nursery.start_soon(put_one, bytes([i]) * 3000 * i)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await put_one(b"there is room again")
    print(json.dumps(ended))


async def open_as_nobody(
    scheme: str, folder: str, name: str
) -> None:  # pragma: no cover  (runs in a process of its own)
    """Open the store `name` in `folder` as a user who owns nothing, and print what that raises."""
    folder = _become_nobody(folder)
    try:
        async with replica.open_store(f"{scheme}:{folder}/{name}"):
            print(json.dumps(None))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))


async def read_as_nobody(
    folder: str, name: str, scheme: str = "dir"
) -> None:  # pragma: no cover  (runs in a process of its own)
    """Read all of a store as a user who owns nothing, and print what it has, or what that raises."""
    folder = _become_nobody(folder)
    try:
        opening = replica.open_directory if scheme == "dir" else replica.open_sqlite
        async with opening(f"{folder}/{name}", read_only=True) as store:
            refs = [ref async for ref in store.list_refs()]
            report = await replica.scrub([store])
            found = await store.get_many(refs)
            print(json.dumps([report.is_sound, *(data.decode() for data in found.values())]))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))


async def open_outbox_as_nobody(folder: str, name: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Open a replica with the outbox `name` in `folder` as a user who owns nothing, and print what that raises."""
    await _print_problem(f"{_become_nobody(folder)}/{name}")


async def look_at_outbox_as_nobody(folder: str, name: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Look at the outbox `name` in `folder` as a user who owns nothing, and print what that shows or raises."""
    path = f"{_become_nobody(folder)}/{name}"
    await trio.lowlevel.checkpoint()
    try:
        with looked_at_outbox(path) as outbox:
            print(json.dumps([len(outbox.noted()), *map(str, outbox.refs("copy"))]))
    except replica.ReplicaError as error:
        print(json.dumps(str(error)))


async def open_outbox_where_nothing_can_be_written(
    path: str, limit: str
) -> None:  # pragma: no cover  (runs in a process of its own)
    """Open a replica with an outbox while no file may grow beyond `limit` bytes, and print what that raises."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    await _print_problem(path)


class Lagging(SimulatedStore):  # pragma: no cover  (runs in a process of its own)
    """A store that writes nothing before its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = trio.Event()

    async def put(self, blob: replica.Blob | replica.BytesLike) -> replica.PutResult:
        await self.turn.wait()
        return await super().put(blob)


async def hold_outbox(path: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Open a replica with an outbox, and put the lines of the input. It prints what each of these raised.

    ``read`` lets it open and close the file, ``fork`` forks a process that waits, and ``end`` leaves the block.
    """
    copy = Lagging()

    async def hold() -> None:
        async with replica.open([replica.MemoryStore()], {"copy": copy}, outbox=path) as store:
            _tell("open")
            for line in map(str.strip, sys.stdin):
                if line == "end":
                    copy.turn.set()
                    return
                if line in commands:
                    _tell(commands[line]())
                else:
                    await _tell_problem(store.put, line.encode())

    commands: dict[str, Callable[[], object]] = {"read": partial(_read_file, path), "fork": _fork_idle}
    await _tell_problem(hold)


def _read_file(path: str) -> None:  # pragma: no cover  (runs in a process of its own)
    with open(path, "rb"):
        pass


def _fork_idle() -> int:  # pragma: no cover  (runs in a process of its own)
    read, write = os.pipe()
    forked = os.fork()
    if forked == 0:
        os.write(write, b"1")
        signal.pause()
    os.read(read, 1)
    return forked


async def _tell_problem(
    call: Callable[..., Awaitable[object]], *arguments: object
) -> None:  # pragma: no cover  (runs in a process of its own)
    try:
        await call(*arguments)
    except replica.ReplicaError as error:
        _tell(f"{type(error).__name__}: {error}")
    else:
        _tell(None)


def _tell(said: object) -> None:  # pragma: no cover  (runs in a process of its own)
    os.write(1, f"{json.dumps(said)}\n".encode())


async def _print_problem(outbox: str) -> None:  # pragma: no cover  (runs in a process of its own)
    try:
        async with replica.open([replica.MemoryStore()], {"copy": replica.MemoryStore()}, outbox=outbox):
            print(json.dumps(None))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))


def _become_nobody(folder: str) -> str:  # pragma: no cover  (runs in a process of its own)
    """Be a user who owns nothing, and return the path that the folder has from then on."""
    if os.getuid() != 0:
        return folder
    os.chroot(folder)  # its parents are closed to others
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    return ""


if __name__ == "__main__":  # pragma: no cover  (runs in a process of its own)
    trio.run(partial(globals()[sys.argv[1]], *sys.argv[2:]))
