"""Code that a user would write without the library: good code, but one call at a time in a thread."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio
from botocore.config import Config

from trio_replica import Ref

from . import workloads
from .servers import BUCKET

if TYPE_CHECKING:
    from pathlib import Path

    from .rounds import Run
    from .servers import Ceph

INSERT: Final = "INSERT INTO blobs (ref, data) VALUES (?, ?) ON CONFLICT (ref) DO NOTHING"


class Database:
    """The same table as that of a SQLite store, one transaction a put."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "blobs.db"
        self._lock = threading.Lock()
        self._connection = self.connect()
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)")

    def connect(self) -> sqlite3.Connection:
        """Return a connection that any one thread at a time may use."""
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def put(self, ref: Ref, data: bytes) -> None:
        """Insert a blob, durably."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(INSERT, (ref, data))
            self._connection.execute("COMMIT")


def puts_into_sqlite(databases: int, callers: int, size: int) -> Run:
    """Put new blobs into some databases at once: a nursery of writes in threads."""

    async def run(folder: Path, seconds: float) -> float:
        payload = workloads.payloads(size)
        opened = [Database(folder / str(number)) for number in range(databases)]

        async def put() -> None:
            data = payload()
            ref = Ref.of(data)
            async with trio.open_nursery() as nursery:
                for database in opened:
                    nursery.start_soon(trio.to_thread.run_sync, database.put, ref, data)

        result = await workloads.rate(callers, put, seconds)
        for database in opened:
            database.close()
        return result

    return run


def gets_from_sqlite(connections: int, callers: int, size: int) -> Run:
    """Get blobs that are there: each in a thread, with one of some connections."""

    async def run(folder: Path, seconds: float) -> float:
        async with workloads.sqlite(folder) as store:
            refs = cycle(await workloads.fill(store, size))
        with closing(Database(folder)) as database:
            free: SimpleQueue[sqlite3.Connection] = SimpleQueue()
            opened = [database.connect() for _ in range(connections)]
            for connection in opened:
                free.put(connection)
            limiter = trio.CapacityLimiter(connections)

            def select(ref: Ref) -> bytes:
                connection = free.get()
                try:
                    (data,) = connection.execute("SELECT data FROM blobs WHERE ref = ?", (ref,)).fetchone()
                finally:
                    free.put(connection)
                assert isinstance(data, bytes)
                return data

            async def get() -> None:
                await trio.to_thread.run_sync(select, next(refs), limiter=limiter)

            result = await workloads.rate(callers, get, seconds)
            for connection in opened:
                connection.close()
        return result

    return run


def puts_with_boto3(ceph: Ceph, threads: int, size: int) -> Run:
    """Put new objects, only if there is none of the name, from some threads with one client, and nothing else."""

    async def run(_: Path, seconds: float) -> float:  # noqa: ASYNC124  (a run is one)
        payload = workloads.payloads(size)
        prefix = ceph.new_prefix()
        client = ceph.boto3_client(Config(max_pool_connections=threads))

        def put_some(_: int) -> int:
            blobs = 0
            while not blobs or perf_counter() < end:
                data = payload()
                client.put_object(Bucket=BUCKET, Key=f"{prefix}/b:{Ref.of(data)}", Body=data, IfNoneMatch="*")
                blobs += 1
            return blobs

        with closing(client), ThreadPoolExecutor(threads) as pool:
            began = perf_counter()
            end = began + seconds
            blobs = sum(pool.map(put_some, range(threads)))
            result = blobs / (perf_counter() - began)
        return result

    return run


def puts_into_files(size: int, *, durable: bool) -> Run:
    """Put new blobs as files, one after another, with the same names and fsyncs as a directory store's."""

    async def run(folder: Path, seconds: float) -> float:  # noqa: ASYNC124  (a run is one)
        return _write_files(str(folder), size, seconds, durable=durable)

    return run


def _write_files(root: str, size: int, seconds: float, *, durable: bool) -> float:
    payload = workloads.payloads(size)
    made: set[str] = set()
    blobs = 0
    os.mkdir(f"{root}/blobs")
    os.mkdir(f"{root}/tmp")
    began = perf_counter()
    while not blobs or perf_counter() < began + seconds:
        data = payload()
        name = str(Ref.of(data))
        top = f"{root}/blobs/{name[:2]}"
        for folder, holder in ((top, f"{root}/blobs"), (f"{top}/{name[:4]}", top)):
            if folder not in made:
                os.makedirs(folder, exist_ok=True)
                if durable:
                    _sync(holder)
                made.add(folder)
        temporary = f"{root}/tmp/{blobs}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(file, data)
        if durable:
            os.fsync(file)
        os.close(file)
        os.link(temporary, f"{top}/{name[:4]}/{name}")
        os.unlink(temporary)
        if durable:
            _sync(f"{top}/{name[:4]}")
        blobs += 1
    return blobs / (perf_counter() - began)


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
