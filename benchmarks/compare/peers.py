"""The same work with other libraries that keep blobs on a disk, in a plain loop in one thread."""

from __future__ import annotations

import importlib.util
import io
import tempfile
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from trio_replica import Ref

from . import workloads
from .rounds import Comparison, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from .rounds import Run

BATCH: Final = 64

POWER_CUT: Final = "a power cut leaves"

MAP_SIZE: Final = 64 * 2**30
"""Bytes of the address space that LMDB gets; its file is as large as its content."""


class PeerStore(Protocol):
    """A store of another library, with the calls that are measured."""

    def put(self, blobs: Sequence[bytes]) -> Sequence[Any]:
        """Store blobs, and return what each is got with."""

    def get(self, key: Any) -> bytes:
        """Return a blob."""


class Peer(NamedTuple):
    """Another library, and what it promises."""

    package: str
    work: str
    promise: str
    """The state in which a power cut leaves a blob whose put has returned."""
    open: Callable[[Path], AbstractContextManager[PeerStore]]
    batch: int = 1
    """Blobs in one put."""

    @property
    def name(self) -> str:
        return f"{self.package}, {self.work}"

    @property
    def is_there(self) -> bool:
        return importlib.util.find_spec(self.package.replace("-", "_")) is not None


# Each library's own calls


class _Lmdb:
    def __init__(self, environment: Any) -> None:
        self._environment = environment

    def put(self, blobs: Sequence[bytes]) -> list[Ref]:
        refs = [Ref.of(blob) for blob in blobs]
        with self._environment.begin(write=True) as transaction:
            for ref, blob in zip(refs, blobs, strict=True):
                transaction.put(bytes(ref), blob, overwrite=False)
        return refs

    def get(self, key: Ref) -> bytes:
        with self._environment.begin() as transaction:
            blob: bytes = transaction.get(bytes(key))
        return blob


@contextmanager
def _open_lmdb(folder: Path, *, sync: bool) -> Generator[PeerStore, None, None]:
    import lmdb  # noqa: PLC0415  (optional)

    with lmdb.open(str(folder / "lmdb"), map_size=MAP_SIZE, sync=sync) as environment:
        yield _Lmdb(environment)


class _Container:
    def __init__(self, container: Any, *, packed: bool) -> None:
        self._container = container
        self._packed = packed

    def put(self, blobs: Sequence[bytes]) -> list[str]:
        if self._packed:
            return list(self._container.add_objects_to_pack(list(blobs)))
        return [self._container.add_object(blob) for blob in blobs]

    def get(self, key: str) -> bytes:
        blob: bytes = self._container.get_object_content(key)
        return blob


@contextmanager
def _open_container(folder: Path, *, packed: bool) -> Generator[PeerStore, None, None]:
    from disk_objectstore import Container  # noqa: PLC0415  (optional)

    with closing(Container(folder / "container")) as container:
        container.init_container()
        yield _Container(container, packed=packed)


class _Cache:
    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def put(self, blobs: Sequence[bytes]) -> list[Ref]:
        refs = [Ref.of(blob) for blob in blobs]
        for ref, blob in zip(refs, blobs, strict=True):
            self._cache.add(bytes(ref), blob)
        return refs

    def get(self, key: Ref) -> bytes:
        blob: bytes = self._cache[bytes(key)]
        return blob


@contextmanager
def _open_cache(folder: Path) -> Generator[PeerStore, None, None]:
    import diskcache  # noqa: PLC0415  (optional)

    with diskcache.Cache(str(folder / "cache"), eviction_policy="none", size_limit=MAP_SIZE) as cache:
        yield _Cache(cache)


class _HashFS:
    def __init__(self, files: Any) -> None:
        self._files = files

    def put(self, blobs: Sequence[bytes]) -> list[str]:
        return [self._files.put(io.BytesIO(blob)).id for blob in blobs]

    def get(self, key: str) -> bytes:
        with self._files.open(key) as file:
            blob: bytes = file.read()
        return blob


@contextmanager
def _open_hashfs(folder: Path) -> Generator[PeerStore, None, None]:
    from hashfs import HashFS  # noqa: PLC0415  (optional)

    usual, tempfile.tempdir = tempfile.tempdir, str(folder)  # where it writes a file before it moves it
    try:
        yield _HashFS(HashFS(str(folder / "hashfs"), depth=2, width=2, algorithm="sha256"))
    finally:
        tempfile.tempdir = usual


DURABLE: Final = [
    Peer("lmdb", "a transaction each", "all of it", partial(_open_lmdb, sync=True)),
    Peer("lmdb", f"{BATCH} a transaction", "all of it", partial(_open_lmdb, sync=True), BATCH),
    Peer("disk-objectstore", "loose", "its bytes, not surely its name", partial(_open_container, packed=False)),
    Peer("disk-objectstore", f"{BATCH} into a pack", "all of it", partial(_open_container, packed=True), BATCH),
]
"""Those that sync what they put."""

NOT_DURABLE: Final = [
    Peer("diskcache", "add", "perhaps nothing; over 32 KiB, perhaps a file cut short", _open_cache),
    Peer("hashfs", "put", "perhaps nothing, or a file cut short", _open_hashfs),
    Peer("lmdb", "sync=False", "perhaps nothing, perhaps no database", partial(_open_lmdb, sync=False)),
]
"""Those that don't."""


def comparisons(sizes: Sequence[str]) -> Iterator[Comparison]:
    """Return the comparisons, with those libraries that are there."""
    for size in sizes:
        length = workloads.SIZES[size]
        yield Comparison("durable put", size, "blobs/s", _durable_puts(length), notes=POWER_CUT)
        yield Comparison("put without a promise", size, "blobs/s", _other_puts(length), notes=POWER_CUT)
        yield Comparison("get", size, "blobs/s", _all_gets(length))


def _durable_puts(length: int) -> list[Variant]:
    sqlite, directory, two = workloads.sqlite, workloads.directory, workloads.replicated(workloads.sqlite, 2)
    of_many = workloads.puts_of_many(sqlite, BATCH, length)
    return [
        Variant("SQLite store, 64 callers", workloads.puts(sqlite, 64, length), note="all of it"),
        Variant("SQLite store, 1 caller", workloads.puts(sqlite, 1, length), note="all of it"),
        Variant(f"SQLite store, put_many of {BATCH}", of_many, note="all of it"),
        Variant("directory store, 64 callers", workloads.puts(directory, 64, length), note="all of it"),
        Variant("replica of 2 SQLite stores, 64 callers", workloads.puts(two, 64, length), note="all of it, twice"),
        *(Variant(peer.name, _puts(peer, length), note=peer.promise) for peer in DURABLE if peer.is_there),
    ]


def _other_puts(length: int) -> list[Variant]:
    sqlite, directory = partial(workloads.sqlite, durable=False), partial(workloads.directory, durable=False)
    return [
        Variant(
            "SQLite store, durable=False, 64 callers",
            workloads.puts(sqlite, 64, length),
            note="perhaps nothing; the database is whole",
        ),
        Variant(
            "directory store, durable=False, 64 callers",
            workloads.puts(directory, 64, length),
            note="perhaps nothing, or a file cut short, which the next put repairs",
        ),
        *(Variant(peer.name, _puts(peer, length), note=peer.promise) for peer in NOT_DURABLE if peer.is_there),
    ]


def _all_gets(length: int) -> list[Variant]:
    sqlite, directory, two = workloads.sqlite, workloads.directory, workloads.replicated(workloads.sqlite, 2)
    shown = (DURABLE[1], DURABLE[3], *NOT_DURABLE[:2])
    return [
        Variant("SQLite store, 64 callers", workloads.gets(sqlite, 64, length)),
        Variant("SQLite store, 1 caller", workloads.gets(sqlite, 1, length)),
        Variant(f"SQLite store, get_many of {BATCH}", workloads.gets_of_many(sqlite, BATCH, length)),
        Variant("directory store, 64 callers", workloads.gets(directory, 64, length)),
        Variant("replica of 2 SQLite stores, 64 callers", workloads.gets(two, 64, length)),
        *(Variant(peer.package, _gets(peer, length)) for peer in shown if peer.is_there),
    ]


def missing() -> list[str]:
    """Return the packages that are not installed."""
    return sorted({peer.package for peer in (*DURABLE, *NOT_DURABLE) if not peer.is_there})


def _puts(peer: Peer, size: int) -> Run:
    async def run(folder: Path, seconds: float) -> float:  # noqa: ASYNC124  (a run is one)
        payload = workloads.payloads(size)
        blobs = 0
        with peer.open(folder) as store:
            began = perf_counter()
            while not blobs or perf_counter() < began + seconds:
                store.put([payload() for _ in range(peer.batch)])
                blobs += peer.batch
            result = blobs / (perf_counter() - began)
        return result

    return run


def _gets(peer: Peer, size: int) -> Run:
    async def run(folder: Path, seconds: float) -> float:  # noqa: ASYNC124  (a run is one)
        payload = workloads.payloads(size)
        gets = 0
        with peer.open(folder) as store:
            blobs = [payload() for _ in range(workloads.number_to_read(size))]
            keys = cycle([key for first in range(0, len(blobs), 256) for key in store.put(blobs[first : first + 256])])
            began = perf_counter()
            while not gets or perf_counter() < began + seconds:
                store.get(next(keys))
                gets += 1
            result = gets / (perf_counter() - began)
        return result

    return run
