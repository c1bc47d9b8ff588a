"""Programs that tests run on a SQLite store in other processes: ``python sqlite_child.py PROGRAM PATH``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

import trio_replica as replica
from trio_replica import _sqlite_connection as connection
from trio_replica.stores._sqlite import files

if TYPE_CHECKING:
    from collections.abc import Generator


def command(program: str, path: object) -> list[str]:
    """Return the command line of a program of this module."""
    return [sys.executable, __file__, program, str(path)]


@contextmanager
def running(program: str, path: object) -> Generator[subprocess.Popen[str], None, None]:
    """Run a program of this module for the block, from the moment that it says that it is ready."""
    with subprocess.Popen(command(program, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


# The programs


async def lose_log(path: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Remove the log between two puts, print the refs of those that were acknowledged after it, and be killed."""
    async with replica.open_sqlite(path) as store:
        await store.put(b"before")
        os.unlink(f"{path}-wal")
        for i in range(3):
            try:
                print((await store.put(b"%d" % i)).ref, flush=True)
            except replica.ReplicaError as error:
                print(error, file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)


async def put_many(path: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put 100 blobs."""
    async with replica.open_sqlite(path) as store:
        await store.put_many([b"second %d" % i for i in range(100)])


async def put_late(path: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put blobs, wait for a line, put one more, and print what that raised. Then end as a program does."""
    async with replica.open_sqlite(path) as store:
        await store.put_many([b"first %d" % i for i in range(100)])
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        try:
            await store.put(b"late")
        except replica.ReplicaError as error:
            print(error, flush=True)


async def put_late_and_leave_open(path: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Do so where a connection can't be closed without a checkpoint."""
    vars(files)["close_without_checkpoint"] = lambda left, _: connection._leave_open(left)
    await put_late(path)


if __name__ == "__main__":  # pragma: no cover  (runs in a process of its own)
    trio.run(partial(globals()[sys.argv[1]], *sys.argv[2:]))
