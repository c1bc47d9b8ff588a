"""Stores that another program has written: see tests/data/README.md."""

from __future__ import annotations

import gzip
import sqlite3
import tarfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from trio_replica import DeletableStore, MemoryStore, PutResult, Ref, open_directory, open_sqlite, reconcile, scrub
from trio_replica._identity import is_identity

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

DATA: Final = Path(__file__).parent / "data"

BLOBS: Final = {Ref.of(data): data for data in (b"", *(b"gold %d" % number for number in range(1, 500)))}

Open: TypeAlias = "Callable[[], AbstractAsyncContextManager[DeletableStore]]"


class Foreign:
    """A store of the other program, in a folder of the test."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._place = folder / kind
        self.open: Open
        if kind == "directory":
            with tarfile.open(DATA / "directory.tar.gz") as archive:
                archive.extractall(folder, filter="data")
            self.open = partial(open_directory, self._place)
        else:
            self._place.write_bytes(gzip.decompress((DATA / "blobs.db.gz").read_bytes()))
            self.open = partial(open_sqlite, self._place)

    def contents(self) -> dict[str, tuple[bytes, object]]:
        """Return its blobs by the hex of their refs, with what shows that they were not written again."""
        if self._place.is_dir():
            files = [path for path in (self._place / "blobs").rglob("*") if path.is_file()]
            return {path.name: (path.read_bytes(), (path.stat().st_ino, path.stat().st_mtime_ns)) for path in files}
        with closing(sqlite3.connect(self._place)) as connection:
            rows = connection.execute("SELECT ref, data, rowid FROM blobs").fetchall()
        return {ref.hex(): (data, rowid) for ref, data, rowid in rows}


FAST = pytest.mark.parametrize(
    "foreign", [pytest.param("directory", marks=pytest.mark.deep), "blobs.db"], indirect=True
)
"""The directory has a file for each blob, which takes long to read and write."""


@pytest.fixture(params=["directory", "blobs.db"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Foreign:
    return Foreign(request.param, tmp_path)


async def test_it_is_listed_and_read(foreign: Foreign) -> None:
    async with foreign.open() as store:
        assert [ref async for ref in store.list_refs()] == sorted(BLOBS)
        assert await store.get_many(BLOBS) == BLOBS
        for ref, data in BLOBS.items():
            assert await store.get(ref) == data
            assert await store.contains(ref)


@FAST
async def test_a_blob_that_is_there_is_not_added(foreign: Foreign) -> None:
    before = foreign.contents()
    assert {Ref.from_hex(ref): data for ref, (data, _) in before.items()} == BLOBS
    async with foreign.open() as store:
        assert await store.put_many(BLOBS.values()) == [PutResult(ref, added=False) for ref in BLOBS]
        for ref, data in list(BLOBS.items())[:20]:
            assert await store.put(data) == PutResult(ref, added=False)
    assert foreign.contents() == before


@FAST
async def test_an_added_blob_leaves_the_rest_as_it_was(foreign: Foreign) -> None:
    before = foreign.contents()
    more = [b"silver %d" % number for number in range(50)]
    async with foreign.open() as store:
        assert await store.put_many(more) == [PutResult(Ref.of(data), added=True) for data in more]
        assert await store.delete(Ref.of(more.pop())) is True
    async with foreign.open() as store:
        assert [ref async for ref in store.list_refs()] == sorted([*BLOBS, *map(Ref.of, more)])
        assert await store.get_many(map(Ref.of, more)) == {Ref.of(data): data for data in more}
    after = foreign.contents()
    assert {ref: after[ref] for ref in before} == before
    assert len(after) == len(before) + len(more)


@pytest.mark.deep
async def test_it_is_sound_and_can_be_copied(foreign: Foreign) -> None:
    copy = MemoryStore()
    async with foreign.open() as store:
        assert (await scrub({"old": store}, repair=True)).is_sound
        report = await reconcile({"old": store, "copy": copy})
        assert (report.complete, report.problems, report.stores["copy"].copied) == (True, (), 500)
        scrubbed = await scrub({"old": store, "copy": copy})
    assert (scrubbed.is_sound, scrubbed.findings, scrubbed.stores["old"].refs) == (True, (), 500)


async def test_it_gets_an_identity_and_keeps_it(foreign: Foreign) -> None:
    before = foreign.contents()
    async with foreign.open() as store:
        identity = await store.identity()
        assert identity is None or is_identity(identity)
        assert [ref async for ref in store.list_refs()] == sorted(BLOBS)
    async with foreign.open() as store:
        assert await store.identity() == identity
    assert foreign.contents() == before
