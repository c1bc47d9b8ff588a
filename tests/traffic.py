"""Traffic through a replica of real files, in a process of its own that is to be killed or recorded.

``python -m tests.traffic`` is a fork server: it has imported all that its children need, and runs for each line of
its input one program of this module, with its arguments, in a child. A child tells what it does in lines on the
standard output, and the server how it ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

import trio_replica as replica
from trio_replica import Ref

from . import sabotage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from trio_replica import Blob, DeletableStore, PutResult, ReplicaStore, Store
    from trio_replica._blob import BytesLike

TASKS: Final = 16
"""Tasks that put at once."""

QUEUE_SIZE: Final = 4
"""Blobs that wait for one async store: few, so that most are left to the relays."""

SYNC_STORES: Final = {"database": "near.db", "files": "near"}
ASYNC_STORES: Final = {"far database": "far.db", "far files": "far"}
"""The paths of the stores in a folder, by their names."""


class Stores(NamedTuple):
    """The stores in a folder, by their names."""

    sync_stores: dict[str, DeletableStore]
    async_stores: dict[str, DeletableStore]


@asynccontextmanager  # pragma: no cover  (runs in a process of its own)
async def opened_stores(folder: str, *, durable: bool = True) -> AsyncGenerator[Stores, None]:
    """Open the stores in a folder, for a block."""
    async with AsyncExitStack() as stack:

        async def open_all(paths: dict[str, str]) -> dict[str, DeletableStore]:
            opened: dict[str, DeletableStore] = {}
            for name, path in paths.items():
                open_one = replica.open_sqlite if path.endswith(".db") else replica.open_directory
                opened[name] = await stack.enter_async_context(open_one(f"{folder}/{path}", durable=durable))
            return opened

        yield Stores(await open_all(SYNC_STORES), await open_all(ASYNC_STORES))


def outbox_path(folder: str) -> str:  # pragma: no cover  (runs in a process of its own)
    return f"{folder}/outbox.db"


def drawn_data(seed: str) -> bytes:  # pragma: no cover  (runs in a process of its own)
    """Return the content of a blob: a few bytes, pages of a database, or more than a call writes."""
    size = random.Random(f"size {seed}").choice([30] * 8 + [300] * 4 + [3000] * 3 + [9000] * 2 + [40_000])
    return (seed.encode() + b" ").ljust(size, b".")


def tell(*words: object) -> None:  # pragma: no cover  (runs in a process of its own)
    """Tell the parent something: with one write, which is whole or not there."""
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


@final
class Lagging(replica.Store):  # pragma: no cover  (runs in a process of its own)
    """A store that tells when it has written, and, held back, writes only as often as it is let."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = trio.Semaphore(0)
        self._is_free = trio.Event()

    def let(self) -> None:
        """Let it write once more."""
        self._turns.release()

    def free(self) -> None:
        """Let it write from now on."""
        self._is_free.set()
        self._turns.release()

    async def identity(self) -> str | None:
        return await self._store.identity()

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        await self._wait_turn()
        result = await self._store.put(blob)
        tell("written", result.ref)
        return result

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        await self._wait_turn()
        results = await self._store.put_many(blobs)
        tell("written", *(ref for ref, _ in results))
        return results

    async def get(self, ref: Ref) -> bytes:
        return await self._store.get(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._store.list_page(after, limit)

    async def _wait_turn(self) -> None:
        if not self._is_free.is_set():
            await self._turns.acquire()


@final
class Traffic:  # pragma: no cover  (runs in a process of its own)
    """Puts of many tasks, drawn from a seed, whose acknowledgements are told."""

    def __init__(self, seed: str, store: ReplicaStore, laggards: Iterable[Lagging]) -> None:
        self._seed = seed
        self._store = store
        self._laggards = list(laggards)
        self._draw = random.Random(f"lag {seed}")

    async def run(self, steps: int) -> None:
        """Let every task make so many steps."""
        async with trio.open_nursery() as nursery:
            for task in range(TASKS):
                nursery.start_soon(self._run_task, task, steps, nursery)

    async def _run_task(self, task: int, steps: int, nursery: trio.Nursery) -> None:
        draw = random.Random(f"{self._seed} {task}")
        for step in range(steps):
            owner = "all" if draw.random() < 0.3 else task  # with the others, at about the same time, or alone
            count = 4 if draw.random() < 0.1 else 1
            blobs = [
                drawn_data(f"{self._seed} {owner} {step} {part % 3}") for part in range(count)
            ]  # one is there twice
            with trio.CancelScope() as scope:
                if draw.random() < 0.15:
                    nursery.start_soon(_cancel_after, scope, draw.randrange(40))
                await self._put(blobs)

    async def _put(self, blobs: list[bytes]) -> None:
        if len(blobs) == 1:
            results = [await self._store.put(blobs[0])]
        else:
            results = await self._store.put_many(blobs)
        for ref, _ in results:
            tell("acknowledged", ref)
        for laggard in self._laggards:
            if self._draw.random() < 0.1:
                laggard.let()


async def _cancel_after(
    scope: trio.CancelScope, ticks: int
) -> None:  # pragma: no cover  (runs in a process of its own)
    for _ in range(ticks):
        await trio.lowlevel.checkpoint()
    scope.cancel()


# The programs


async def put(folder: str, seed: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put without end, into stores with an outbox; the async stores get a backlog."""
    async with opened_stores(folder) as (sync_stores, async_stores):
        laggards = {name: Lagging(store) for name, store in async_stores.items()}
        async with replica.open(sync_stores, laggards, queue_size=QUEUE_SIZE, outbox=outbox_path(folder)) as store:
            await Traffic(seed, store, laggards.values()).run(sys.maxsize)


async def put_without_outbox(folder: str, seed: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put without end, into stores without an outbox."""
    async with opened_stores(folder) as (sync_stores, async_stores):
        async with replica.open(sync_stores, async_stores, queue_size=QUEUE_SIZE) as store:
            await Traffic(seed, store, ()).run(sys.maxsize)


async def catch_up(folder: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Open what is there, let the async stores catch up, and wait to be killed."""
    async with opened_stores(folder) as (sync_stores, async_stores):
        laggards = {name: Lagging(store) for name, store in async_stores.items()}
        for laggard in laggards.values():
            laggard.free()
        async with replica.open(sync_stores, laggards, queue_size=QUEUE_SIZE, outbox=outbox_path(folder)) as store:
            await store.flush()
            tell("done")
            await trio.sleep_forever()


async def check(folder: str, *digits: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Open what is there, flush, and tell what is wrong with blobs that were acknowledged."""
    async with opened_stores(folder) as (sync_stores, async_stores):
        async with replica.open(sync_stores, async_stores, queue_size=QUEUE_SIZE, outbox=outbox_path(folder)) as store:
            tell("pending", sum(counts.pending for counts in store.statistics().async_stores.values()))
            await store.flush()
            for name, counts in store.statistics().async_stores.items():
                if counts.pending or counts.deferred:
                    tell("problem", f"{name}: {counts}")
        for problem in await problems(sync_stores | async_stores, map(Ref.from_hex, digits)):
            tell("problem", problem)


async def reconcile(folder: str, *digits: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Reconcile what is there, and tell what is wrong with blobs that were acknowledged."""
    async with opened_stores(folder) as (sync_stores, async_stores):
        stores = sync_stores | async_stores
        report = await replica.reconcile(stores)
        tell("copied", sum(counts.copied for counts in report.stores.values()))
        for problem in await problems(stores, map(Ref.from_hex, digits)):
            tell("problem", problem)


async def record(folder: str, seed: str, *sabotages: str) -> None:  # pragma: no cover  (runs in a process of its own)
    """Put, break off while the async stores have a backlog, and put on top of that until they have caught up."""
    for name in sabotages:
        getattr(sabotage, name)()
    async with opened_stores(folder) as (sync_stores, async_stores):
        for session in range(2):
            laggards = {name: Lagging(store) for name, store in async_stores.items()}
            opening = replica.open(sync_stores, laggards, queue_size=QUEUE_SIZE, outbox=outbox_path(folder))
            with trio.CancelScope() as scope:
                async with opening as store:
                    await Traffic(f"{seed} {session}", store, laggards.values()).run(5)
                    if session == 0:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                    for laggard in laggards.values():
                        laggard.free()
                    await store.flush()


async def problems(
    stores: dict[str, DeletableStore], refs: Iterable[Ref]
) -> list[str]:  # pragma: no cover  (runs in a process of its own)
    """Return what is wrong with blobs that every store is to have."""
    refs = set(refs)
    found = {name: await store.get_many(refs) for name, store in stores.items()}
    lacking = [f"{name} lacks {ref}" for name, blobs in found.items() for ref in refs - blobs.keys()]
    damaged = [
        f"{name} has damaged {ref}" for name, blobs in found.items() for ref in blobs if Ref.of(blobs[ref]) != ref
    ]
    return lacking + damaged


def serve() -> None:  # pragma: no cover  (runs in a process of its own)
    """Run, one after another, the programs that the lines of the input name."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of a child too: it ends when nobody listens any more
    for line in sys.stdin:
        program, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                tell("started", os.getpid())
                trio.run(partial(globals()[program], *arguments))
                status = 0
            except BaseException:  # noqa: ASYNC103  (told here, because the process ends)
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        tell("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":  # pragma: no cover  (runs in a process of its own)
    if len(sys.argv) > 1:
        trio.run(globals()[sys.argv[1]], *sys.argv[2:])
    else:
        serve()
