"""Directory stores on real file systems: overlays, FUSE, disks that are unmounted, read-only or damaged."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from trio_replica import MemoryStore, Ref, Store, StoreIdentityError, StoreNotFoundError, open_directory, scrub

from .common import DATA, REF, open_and_close
from .directories import path_of, tree, try_to_open
from .mounts import Mounts, forget_inodes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.mounts


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.mark.parametrize("kind", ["overlay", "fuse"])
async def test_inode_numbers_that_change_make_no_other_store(
    mounts: Mounts, disk: Path, tmp_path: Path, kind: str
) -> None:
    async with open_directory(tmp_path / "lower" / "store") as store:
        await store.put(b"old")
    getattr(mounts, kind)(tmp_path / "lower", disk)
    async with open_directory(disk / "store") as store:
        await store.put(DATA)
        identity = await store.identity()
        for number in range(3):
            forget_inodes()
            assert await store.put(b"new %d" % number) == (Ref.of(b"new %d" % number), True)
            assert await store.put(b"new %d" % number) == (Ref.of(b"new %d" % number), False)
            assert await store.get(Ref.of(b"old")) == b"old"
            assert not await store.contains(Ref.ZERO)
            assert await store.identity() == identity
        assert len(await store.list_page(Ref.ZERO, 10)) == 5


async def test_an_unmounted_disk_is_no_new_store(mounts: Mounts, disk: Path) -> None:
    mounts.tmpfs(disk)
    async with open_directory(disk) as store:
        await store.put(DATA)
        mounts.detach(disk)
        for call in (store.put(b"new"), store.get(REF), store.replace(DATA), store.list_page(Ref.ZERO, 1)):
            with pytest.raises(FileNotFoundError, match="The directory store has vanished; mount its disk again"):
                await call
    with pytest.raises(StoreNotFoundError):
        await try_to_open(disk, create=False)
    assert tree(disk) == []


async def test_another_disk_is_another_store(mounts: Mounts, disk: Path) -> None:
    """File systems in memory have the same numbers for their devices and inodes, one after another."""
    mounts.tmpfs(disk)
    async with open_directory(disk) as store:
        await store.put(DATA)
        mounts.detach(disk)
        mounts.tmpfs(disk)
        await open_and_close(open_directory(disk))
        for call in (store.put(b"new"), store.get(REF), store.delete(REF), store.list_page(Ref.ZERO, 1)):
            with pytest.raises(StoreIdentityError, match=f"{disk}: .* check which disk is mounted there"):
                await call
    assert tree(disk) == ["blobs", "store-id", "tmp"]


async def test_a_bind_mount_is_no_second_copy(mounts: Mounts, disk: Path, tmp_path: Path) -> None:
    mounts.bind(tmp_path, disk)
    async with open_directory(tmp_path / "store") as one, open_directory(disk / "store") as other:
        with pytest.raises(ValueError, match="one store"):
            await scrub([one, other])


MOUNTS: dict[str, Callable[[Mounts, Path, Path], object]] = {
    "tmpfs": lambda mounts, _, target: mounts.tmpfs(target),
    "bind": lambda mounts, source, target: mounts.bind(source, target),
    "ext4": lambda mounts, _, target: mounts.loop(target),
    "fuse": lambda mounts, source, target: mounts.fuse(source, target),
}


@pytest.mark.parametrize("kind", MOUNTS)
async def test_blobs_are_mounted_on_their_own(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    source.mkdir()
    MOUNTS[kind](mounts, source, root / "blobs")
    async with open_directory(root) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.put(DATA) == (REF, False)
        path_of(root).write_bytes(b"rot")
        assert await store.set_aside(REF) == f"{root}/blobs/damaged/{REF}-1"
        await store.replace(DATA)
        assert await store.get(REF) == DATA
        assert os.listdir(root / "blobs" / "tmp") == []
        mounts.detach(root / "blobs")
        for call in (store.put(b"new"), store.get(REF), store.contains(REF)):
            with pytest.raises(FileNotFoundError, match="The directory store has vanished; mount its disk again"):
                await call
    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(StoreIdentityError, match=f"{root}/blobs: this is another store than before"):
            await try_to_open(root, **options)
    assert tree(root / "blobs") == []


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "put": lambda store: store.put(b"new"),
    "put again": lambda store: store.put(DATA),
    "get": lambda store: store.get(REF),
    "contains": lambda store: store.contains(REF),
    "list_page": lambda store: store.list_page(Ref.ZERO, 1),
}


@pytest.mark.parametrize("kind", MOUNTS)
async def test_a_mount_over_the_blobs_of_a_store_is_refused(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    source.mkdir()
    async with open_directory(root) as store:
        await store.put(DATA)
        MOUNTS[kind](mounts, source, root / "blobs")
        before = tree(root)
        for call in CALLS.values():
            with pytest.raises(StoreIdentityError, match="unmount or remove what has taken the place of its blobs"):
                await call(store)
    for options in ({}, {"create": False}, {"durable": False}, {"read_only": True}):
        with pytest.raises(StoreIdentityError, match="unmount or remove what has taken the place of its blobs"):
            await try_to_open(root, **options)
    assert tree(root) == before
    async with open_directory(tmp_path / "other") as other:
        mounts.detach(root / "blobs")
        assert await other.put(DATA) == (REF, True)
    async with open_directory(root) as store:
        assert await store.get(REF) == DATA
    assert not (root / "blobs-apart").exists()


@pytest.mark.parametrize("kind", MOUNTS)
async def test_blobs_that_were_moved_to_another_disk(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    source.mkdir()
    async with open_directory(root) as store:
        await store.put(DATA)
    (root / "blobs").rename(root / "moved")
    MOUNTS[kind](mounts, source, root / "blobs")
    shutil.copytree(root / "moved", root / "blobs", dirs_exist_ok=True)
    shutil.copy(root / "store-id", root / "blobs" / "store-id")
    for options in ({"read_only": True}, {}, {}):
        async with open_directory(root, **options) as store:
            assert await store.get(REF) == DATA
    mounts.detach(root / "blobs")
    with pytest.raises(StoreIdentityError, match="check which disk is mounted there"):
        await try_to_open(root)


@pytest.mark.parametrize("kind", MOUNTS)
@pytest.mark.parametrize("folder", ["fa", "fa/fa2c"])
async def test_a_mount_over_a_folder_of_blobs_is_refused(
    mounts: Mounts, tmp_path: Path, kind: str, folder: str
) -> None:
    root, source = tmp_path / "a store", tmp_path / "source"
    source.mkdir()
    async with open_directory(root) as store:
        await store.put(DATA)
        for _ in range(2):
            MOUNTS[kind](mounts, source, root / "blobs" / folder)
            for call in CALLS.values():
                with pytest.raises(OSError, match="Something is mounted here, which hides blobs of the store") as info:
                    await call(store)
                assert info.value.filename == f"{root}/blobs/{folder}"
            for options in ({}, {"create": False}, {"read_only": True}):
                with pytest.raises(OSError, match="Something is mounted here, which hides blobs of the store"):
                    await try_to_open(root, **options)
            mounts.detach(root / "blobs" / folder)
            assert await store.get(REF) == DATA
            assert await store.put(DATA) == (REF, False)
            assert not await store.contains(Ref.ZERO)


@pytest.mark.parametrize("kind", MOUNTS)
async def test_a_mount_over_the_temporary_files(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    source.mkdir()
    async with open_directory(root) as store:
        await store.put(DATA)
        MOUNTS[kind](mounts, source, root / "tmp")
        with pytest.raises(OSError, match="unmount what is mounted over one of them, or open the store again"):
            await store.put(b"new")
        assert await store.put(DATA) == (REF, False)
        assert not await store.contains(Ref.of(b"new"))
    async with open_directory(root) as store:
        assert await store.put(b"new") == (Ref.of(b"new"), True)
        mounts.detach(root / "tmp")
        assert await store.get(REF) == DATA
    assert not (root / "blobs-apart").exists()
    assert tree(root / "blobs" / "tmp") == []


async def test_other_mounts_are_no_matter(mounts: Mounts, tmp_path: Path) -> None:
    async with open_directory(tmp_path / "store") as store:
        mounts.bind(tmp_path / "store" / "blobs", tmp_path / "backup")
        mounts.tmpfs(tmp_path / "store" / "mine")
        mounts.tmpfs(tmp_path / "store" / "blobs" / "lost+found")
        assert await store.put(DATA) == (REF, True)
        assert not await store.contains(Ref.ZERO)
    async with open_directory(tmp_path / "store", read_only=True) as store:
        assert await store.get(REF) == DATA


async def test_a_mount_under_the_disk_of_the_store_is_no_matter(mounts: Mounts, disk: Path) -> None:
    """Something was mounted in the folder where the disk of the store was missing, and then the disk."""
    mounts.tmpfs(disk / "blobs" / "aa")
    mounts.tmpfs(disk / "blobs")
    mounts.tmpfs(disk)
    async with open_directory(disk) as store:
        assert await store.put(DATA) == (REF, True)
    assert not (disk / "blobs-apart").exists()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "fuse"])
async def test_a_disk_that_can_only_be_read(mounts: Mounts, disk: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "source").mkdir()
    MOUNTS[kind](mounts, tmp_path / "source", disk)
    async with open_directory(disk / "store") as store:
        await store.put_many([DATA, b"other"])
        identity = await store.identity()
    mounts.make_read_only(disk)
    async with open_directory(disk / "store", read_only=True) as store:
        assert await store.identity() == identity
        assert await store.get(REF) == DATA
        assert [ref async for ref in store.list_refs()] == sorted([REF, Ref.of(b"other")])
        assert (await scrub([store])).is_sound
    with pytest.raises(OSError, match="read_only=True") as info:
        await try_to_open(disk / "store")
    assert (info.value.errno, info.value.filename) == (errno.EROFS, f"{disk}/store")


async def test_a_disk_that_becomes_read_only_while_it_is_open(mounts: Mounts, disk: Path) -> None:
    mounts.loop(disk)
    async with open_directory(disk / "store") as store:
        await store.put(DATA)
        mounts.make_read_only(disk)
        with pytest.raises(OSError, match="Read-only file system"):
            await store.put(b"new")
        assert await store.get(REF) == DATA
        assert await store.list_page(Ref.ZERO, 2) == [REF]


def flip(image: Path, data: bytes) -> None:
    """Change the first byte of `data` on a disk, wherever it is."""
    with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = content.find(data)
        assert place >= 0
        while place >= 0:
            content[place] ^= 1
            place = content.find(data, place + 1)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("is_mapped", [True, False])
async def test_a_scrub_reads_the_disk(mounts: Mounts, disk: Path, kind: str, *, is_mapped: bool) -> None:
    """The system remembers what was written, and a process has it mapped; on the disk it has rotted."""
    image = mounts.loop(disk, kind=kind)
    blobs = [bytes([number]) * 32 + os.urandom(size) for number, size in enumerate([0, 100, 4064, 5000, 300_000], 1)]
    good: Store = MemoryStore()
    await good.put_many(blobs)
    mapped: list[Any] = []
    async with open_directory(disk / "store") as store:
        await store.put_many(blobs)
        for blob in blobs:
            with path_of(disk / "store", Ref.of(blob)).open("rb") as file:
                mapped += [mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)] if is_mapped else []
                assert file.read() == blob
        assert (await scrub([store])).is_sound
        os.sync()
        for blob in blobs:
            flip(image, blob[:32])
        report = await scrub([store])
        assert {finding.ref for finding in report.findings} == set(map(Ref.of, blobs))
        for blob in blobs:
            assert (await store.get_stored(Ref.of(blob)))[0] == blob[0] ^ 1
        assert (await scrub([store, good], repair=True)).is_sound
        report = await scrub([store])
        assert report.is_sound
        assert report.stores["store-0"].refs == len(blobs)
    for one in mapped:
        one.close()


async def test_a_full_disk_opens_nothing_and_leaves_nothing(mounts: Mounts, disk: Path) -> None:
    mounts.tmpfs(disk, "nr_inodes=4")
    with pytest.raises(OSError, match="No space left on device"):
        await try_to_open(disk / "store")
    assert not any(name.startswith("trio-replica") for name in os.listdir(disk / "store"))
    shutil.rmtree(disk / "store")
