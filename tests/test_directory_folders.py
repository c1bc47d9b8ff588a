"""The folders of a directory store: what it removes from them, and what others remove, replace or put there."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from trio_replica import (
    BlobNotFoundError,
    Integrity,
    MemoryStore,
    Ref,
    StoreIdentityError,
    open_directory,
    scrub,
)
from trio_replica.stores import _files
from trio_replica.stores._directory.synced import COARSE_TICK, TICK, Synced

from .common import DATA, REF
from .directories import Disk, open_single, path_of, tree, try_to_open, write
from .test_directory_place import ONE, OTHER, refuse, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 24 * 60 * 60
LEFTOVER = f"trio-replica-{ONE}-12"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write_old(path: Path, seconds: float = 3 * DAY) -> None:
    write(path)
    os.utime(path, (time.time() - seconds,) * 2)


# Files that it removes


FOREIGN = [
    "thesis.odt",
    ONE,
    f"{ONE}-12",  # as object stores name what came in parts
    f"{LEFTOVER}.odt",
    f"my-{LEFTOVER}",
    LEFTOVER.upper(),
    f"trio-replica-{ONE}-",
    f"trio-replica-{ONE[1:]}-12",
    f"folder/{LEFTOVER}",
]


@pytest.mark.parametrize("is_link", [True, False])
async def test_only_files_of_a_store_that_were_left_a_day_ago_are_removed(root: Path, *, is_link: bool) -> None:
    if is_link:  # the root itself may be one
        (root.parent / "elsewhere").mkdir()
        root.symlink_to("elsewhere")
    for name in FOREIGN:
        write_old(root / "tmp" / name)
    ages = {"0": 1.01 * DAY, "1": 0.99 * DAY, "2": -DAY}
    for number, age in ages.items():
        write_old(root / "tmp" / f"{LEFTOVER}{number}", age)
    write_old(root / LEFTOVER)
    (root / "tmp" / f"{LEFTOVER}3").symlink_to("thesis.odt")
    (root / "tmp" / f"{LEFTOVER}4").mkdir()
    for number in "34":
        os.utime(root / "tmp" / f"{LEFTOVER}{number}", (0, 0), follow_symlinks=False)
    async with open_directory(root):
        kept = sorted([*FOREIGN, *(f"{LEFTOVER}{number}" for number in "1234")])
        assert tree(root / "tmp") == kept
    assert not (root / LEFTOVER).exists()


@pytest.mark.parametrize("link", ["tmp", "blobs/tmp", "damaged"])
async def test_nothing_is_removed_through_a_symbolic_link(root: Path, link: str) -> None:
    mail = root.parent / "mail"
    for name in ("letter", LEFTOVER, f"tmp/{LEFTOVER}"):
        write_old(mail / name)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(mail)
    good = MemoryStore()
    await good.put(DATA)
    for _ in range(2):
        async with open_directory(root) as store:
            await store.put(DATA)
            assert await store.get(REF) == DATA
            write(path_of(root), b"rot")
            await scrub([store, good], repair=True)
            await store.delete(REF)
    for name in ("letter", LEFTOVER, f"tmp/{LEFTOVER}"):
        assert (mail / name).read_bytes() == DATA


@pytest.mark.parametrize("is_elsewhere", [True, False])
async def test_leftovers_where_the_link_to_the_blobs_leads_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, is_elsewhere: bool
) -> None:
    disk = root.parent / "disk"
    root.mkdir()
    disk.mkdir()
    (root / "blobs").symlink_to(disk)
    if is_elsewhere:
        Borders(monkeypatch, root / "blobs")
    async with open_directory(root) as store:
        await store.put(DATA)
    temporary = (disk if is_elsewhere else root) / "tmp"
    for folder in (root, disk, temporary):
        write_old(folder / LEFTOVER)
        write_old(folder / "letter")
    (disk / f"{LEFTOVER}3").symlink_to("letter")
    os.utime(disk / f"{LEFTOVER}3", (0, 0), follow_symlinks=False)
    async with open_directory(root) as store:
        assert await store.get(REF) == DATA
    for folder in (root, disk, temporary):
        assert not (folder / LEFTOVER).exists()
        assert (folder / "letter").exists()
    assert (disk / f"{LEFTOVER}3").is_symlink()


async def test_a_link_for_the_folder_of_temporary_files_keeps_leftovers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = root / "blobs" / "mail"
    write_old(mail / LEFTOVER)
    (root / "blobs" / "tmp").symlink_to("mail")
    Borders(monkeypatch, root / "blobs")
    async with open_directory(root) as store:
        await store.put(DATA)
    assert os.listdir(mail) == [LEFTOVER]


async def test_the_age_of_a_leftover_is_that_on_its_own_file_system(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fstat(file: int) -> Any:
        return SimpleNamespace(st_mtime=really_fstat(file).st_mtime + ahead)

    really_fstat = os.fstat
    for ahead, is_left in [(-2 * DAY, True), (2 * DAY, False)]:
        write(root / "tmp" / LEFTOVER)
        os.utime(root / "tmp" / LEFTOVER, (time.time() - (DAY if ahead < 0 else 0),) * 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fstat)
            patch.setattr(time, "time", lambda: 1e10)
            async with open_directory(root, durable=False):
                assert (root / "tmp" / LEFTOVER).exists() is is_left
    assert os.listdir(root / "tmp") == []


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
async def test_a_leftover_that_can_not_be_removed_stays(
    root: Path, error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: str, **options: Any) -> None:
        if path == LEFTOVER:
            raise error
        really_unlink(path, **options)

    write_old(root / "tmp" / LEFTOVER)
    really_unlink = os.unlink
    monkeypatch.setattr(os, "unlink", unlink)
    async with open_directory(root) as store:
        assert await store.put(DATA) == (REF, True)
    assert (root / "tmp" / LEFTOVER).exists()


async def test_a_folder_that_may_not_be_listed_keeps_its_leftovers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(root / "tmp" / LEFTOVER)
    monkeypatch.setattr(os, "scandir", refuse(errno.EACCES))
    async with open_directory(root, durable=False) as store:
        await store.put(DATA)
    assert (root / "tmp" / LEFTOVER).exists()


# Files that others remove


async def test_the_folder_of_temporary_files_is_made_again(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(b"before")
        for put in (store.put, store.replace):
            shutil.rmtree(root / "tmp")
            await put(DATA)
            assert await store.get(REF) == DATA
    assert os.listdir(root / "tmp") == []


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("removed", ["tmp", "blobs/fa", "blobs/fa/fa2c"])
async def test_a_folder_that_is_removed_while_a_blob_is_put(
    root: Path, removed: str, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    def link(*paths: str) -> None:
        if not calls:
            shutil.rmtree(root / removed)
        calls.append(paths)
        really_link(*paths)

    calls: list[tuple[str, ...]] = []
    async with open_directory(root, durable=durable) as store:
        really_link = os.link
        monkeypatch.setattr(os, "link", link)
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
    assert os.listdir(root / "tmp") == []
    assert len(calls) == 2


@pytest.mark.parametrize("synced", ["blobs", "fa", "fa2c"])
@pytest.mark.parametrize("becomes", ["removed", "replaced by a copy", "moved away and back"])
async def test_a_folder_that_is_replaced_while_it_is_synced(
    root: Path, synced: str, becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_folder(path: str, *, is_followed: bool = True) -> None:
        if path == str(folder) and next(once, False):
            folder.rename(root / "aside")
            if becomes == "replaced by a copy":
                shutil.copytree(root / "aside", folder)
            elif becomes == "moved away and back":
                with pytest.raises(FileNotFoundError) as gone:
                    really_sync(path, is_followed=is_followed)
                (root / "aside").rename(folder)
                raise gone.value
        really_sync(path, is_followed=is_followed)

    once = iter([True])
    folder = next(parent for parent in path_of(root).parents if parent.name == synced)
    really_sync = _files.sync_folder
    monkeypatch.setattr("trio_replica.stores._directory.place.sync_folder", sync_folder)
    async with open_single(root) as store:
        disk = Disk(monkeypatch)
        if synced == "blobs" and becomes == "removed":
            with pytest.raises(FileNotFoundError, match="The directory store has vanished"):
                await store.put(DATA)
            return
        assert await store.put(DATA) == (REF, True)
        assert next(once, None) is None
        assert path_of(root).read_bytes() == DATA
        # The file that is there now is on the disk, by all its names.
        events = disk.take(path_of(root), *path_of(root).parents[:4])
        assert {("fsync", name) for name in (str(REF), "fa2c", "fa", "blobs", "store")} <= {*events}


@pytest.mark.parametrize("durable", [True, False])
async def test_a_deleted_blob_whose_folders_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    def unlink(path: str) -> None:
        really_unlink(path)
        shutil.rmtree(root / removed)

    async with open_directory(root, durable=durable) as store:
        for removed in ("blobs/fa/fa2c", "blobs/fa", "blobs"):
            await store.put(DATA)
            really_unlink = os.unlink
            with monkeypatch.context() as patch:
                patch.setattr(os, "unlink", unlink)
                if removed == "blobs" and durable:
                    with pytest.raises(FileNotFoundError):
                        await store.delete(REF)
                else:
                    assert await store.delete(REF)


# Names remembered as synced


async def test_a_folder_that_another_process_makes_again_is_synced_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(root)
    async with open_single(root) as store:
        await store.put(DATA)
        await store.put(DATA)
        disk = Disk(monkeypatch)
        for folder in (path.parents[0], path.parents[1], path.parents[2]):
            shutil.rmtree(folder)
            path.parents[0].mkdir(parents=True)
            assert await store.put(DATA) == (REF, True)
            events = disk.take(path, *path.parents[:4])
            made = [path.parents[0], *path.parents[: path.parents.index(folder) + 2]]
            assert {("fsync", name.name) for name in made} <= {*events}
            assert await store.put(DATA) == (REF, False)
            assert disk.events == []


async def test_a_blob_that_another_process_writes_again_is_synced_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(root)
    async with open_single(root) as store:
        await store.put(DATA)
        disk = Disk(monkeypatch)
        for _ in range(3):
            path.unlink()
            write(path)
            assert await store.put(DATA) == (REF, False)
            assert {("fsync", str(REF)), ("fsync", "fa2c")} <= {*disk.take(path, path.parent)}
            assert await store.put(DATA) == (REF, False)
            assert disk.events == []


async def test_a_copy_that_was_put_in_its_place_is_this_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_single(root) as store:
        await store.put(DATA)
        shutil.copytree(root, root.parent / "backup")
        await store.put(b"lost")
        root.rename(root.parent / "broken")
        (root.parent / "backup").rename(root)
        disk = Disk(monkeypatch)
        assert await store.put(DATA) == (REF, False)
        names = {("fsync", name) for name in (str(REF), "fa2c", "fa", "blobs", "store")}
        assert names <= {*disk.take(path_of(root), *path_of(root).parents[:4])}
        assert await store.put(b"lost") == (Ref.of(b"lost"), True)


async def test_a_file_that_has_just_changed_is_synced_once_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in the same tick would not show."""
    now = 1000.0
    async with open_single(root, tick=None) as store:
        monkeypatch.setattr(time, "monotonic", lambda: now)
        await store.put(DATA)
        disk = Disk(monkeypatch)
        for later, is_synced in [(0.0, True), (COARSE_TICK, True), (0.0, False), (1.0, False)]:
            now += later
            assert await store.put(DATA) == (REF, False)
            assert bool(disk.events) is is_synced
            disk.events.clear()


def status(**changes: int) -> Any:
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    return SimpleNamespace(**dict.fromkeys(names, 1) | changes)


def test_a_look_is_trusted_once_a_change_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for ctime, tick in [(1, TICK), (5 * 10**9, COARSE_TICK), (10**7, COARSE_TICK)]:
        synced = Synced(10)
        there = status(st_ctime_ns=ctime)
        for later in (0.0, tick / 2, tick / 2):
            now += later
            look = synced.look("x", there)
            assert look is not None
            synced.note("x", look)
        assert synced.look("x", there) is None
        for name in vars(there):
            assert synced.look("x", status(**vars(there) | {name: 2})) is not None
        synced.forget("x")
        assert synced.look("x", there) is not None


def test_the_memory_is_bounded() -> None:
    synced = Synced(2, tick=0)
    for key in "abab":
        synced.note(key, synced.look(key, status()))
    assert [synced.look(key, status()) for key in "ab"] == [None, None]
    synced.note("c", synced.look("c", status()))
    assert [synced.look(key, status()) is None for key in "abc"] == [False, False, True]


# Folders on other file systems


class Borders:
    """Fakes file systems: no link and no rename leads from one of some folders out of it, or into it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
        self._folders = [*map(str, folders)]
        for name in ("link", "rename", "replace"):
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name)))

    def _guarded(self, call: Callable[..., None]) -> Callable[..., None]:
        def guarded(old: str, new: str) -> None:
            for folder in self._folders:
                if old.startswith(f"{folder}/") is not new.startswith(f"{folder}/"):
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), old, None, new)
            call(old, new)

        return guarded


async def put_and_repair(root: Path) -> str:
    """Use a store in all ways that name files, and return its identity."""
    good = MemoryStore()
    await good.put(DATA)
    async with open_directory(root) as store:
        await store.put(DATA)
        await store.replace(b"other")
        await store.set_session_mark(ONE)
        path_of(root).unlink()
        write(path_of(root), b"rot")
        report = await scrub([store, good], repair=True)
        assert (report.is_sound, report.stores["store-0"].repaired) == (True, 1)
        assert await store.get(REF) == DATA
        identity = await store.identity()
        assert identity is not None
        return identity


async def test_blobs_on_a_file_system_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Borders(monkeypatch, root / "blobs")
    identity = await put_and_repair(root)
    digits = Ref.of(b"other").hex()
    assert tree(root) == [
        "blobs-apart",
        f"blobs/{digits[:2]}/{digits[:4]}/{digits}",
        f"blobs/damaged/{REF}-1",
        f"blobs/fa/fa2c/{REF}",
        "blobs/store-id",
        "blobs/tmp",
        "session-mark",
        "store-id",
        "tmp",
    ]
    write_old(root / "blobs" / "tmp" / LEFTOVER)
    assert await put_and_repair(root) == identity
    assert os.listdir(root / "blobs" / "tmp") == []
    async with open_directory(root, read_only=True) as store:
        assert [ref async for ref in store.list_refs()] == sorted([REF, Ref.of(b"other")])


@pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}])
async def test_blobs_that_are_not_mounted_are_noticed(
    root: Path, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = root.parent / "mounted"
    mounted.mkdir()
    root.mkdir()
    (root / "blobs").symlink_to(mounted)
    async with open_directory(root) as store:
        identity = await store.identity()
        await store.put(DATA)
        for becomes in (None, ONE):
            mounted.rename(root.parent / "disk")
            mounted.mkdir()
            if becomes is not None:
                write(mounted / "store-id", f"{becomes}\n".encode())
            before = snapshot(root.parent)
            for call in (store.get(REF), store.put(b"new"), store.contains(REF), store.list_page(Ref.ZERO, 1)):
                with pytest.raises((FileNotFoundError, StoreIdentityError)):
                    await call
            with pytest.raises(StoreIdentityError, match=f"{root}/blobs: this is another store than before") as info:
                await try_to_open(root, **options)
            assert (info.value.expected, info.value.found) == (identity, becomes)
            assert snapshot(root.parent) == before
            shutil.rmtree(mounted)
            (root.parent / "disk").rename(mounted)
        assert await store.get(REF) == DATA


async def test_the_blobs_of_another_store_are_not_taken_for_this_ones(root: Path) -> None:
    mounted = root.parent / "mounted"
    write(mounted / "store-id", f"{ONE}\n".encode())
    write(root / "store-id", f"{OTHER}\n".encode())
    (root / "blobs").symlink_to(mounted)
    for _ in range(2):
        with pytest.raises(StoreIdentityError, match=f"{root}/blobs: "):
            await try_to_open(root, durable=False)
    assert (mounted / "store-id").read_text() == f"{ONE}\n"


async def test_blobs_bring_their_identity_along(root: Path) -> None:
    mounted = root.parent / "mounted"
    for place in (root, root.parent / "another"):
        place.mkdir()
        mounted.mkdir(exist_ok=True)
        (place / "blobs").symlink_to(mounted)
        async with open_directory(place, durable=False) as store:
            await store.put(DATA)
    async with open_directory(root) as one, open_directory(root.parent / "another") as other:
        with pytest.raises(ValueError, match="one store"):  # they share their blobs
            await scrub([one, other])
        identity = await one.identity()
    (root / "store-id").unlink()
    async with open_directory(root) as store:
        assert await store.identity() == identity
    (root / "store-id").unlink()
    (mounted / "store-id").unlink()
    with pytest.raises(StoreIdentityError):
        await try_to_open(root)
    assert not (root / "store-id").exists()


@pytest.mark.parametrize("has_links", [True, False])
async def test_temporary_files_on_a_file_system_of_their_own_are_no_use(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    Borders(monkeypatch, root / "tmp")
    if not has_links:
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    await put_and_repair(root)
    assert os.listdir(root / "tmp") == []
    assert os.listdir(root / "blobs" / "tmp") == []


async def test_where_no_file_can_get_the_name_of_a_blob_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Borders(monkeypatch, root / "blobs", root / "blobs" / "tmp")
    with pytest.raises(OSError, match="This has to be a folder on the same file system as its parent") as info:
        await try_to_open(root)
    assert info.value.filename == f"{root}/blobs/tmp"


async def test_a_folder_of_blobs_on_another_file_system_fails_its_puts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Borders(monkeypatch, root / "blobs" / "fa")
    async with open_directory(root) as store:
        with pytest.raises(OSError, match="The folders of blobs have to be on one file system") as info:
            await store.put(DATA)
        assert (info.value.errno, info.value.filename) == (errno.EXDEV, str(path_of(root).parent))
        await store.put(b"other")
    assert os.listdir(root / "tmp") == []


# Names that something else has


TAKEN: list[Callable[[Path], object]] = [
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to(path.parent.parent / "mine"),
]


@pytest.mark.parametrize("make", TAKEN, ids=["folder", "pipe", "dangling link", "link"])
@pytest.mark.parametrize("durable", [pytest.param(True, marks=pytest.mark.deep), False])
async def test_a_scrub_finds_and_repairs_what_has_the_name_of_a_blob(
    root: Path, make: Callable[[Path], object], *, durable: bool
) -> None:
    good = MemoryStore()
    await good.put_many([DATA, b"other"])
    path = path_of(root)
    async with open_directory(root, durable=durable) as store:
        await store.put_many([DATA, b"other"])
        path.rename(path.parent.parent / "mine")
        make(path)
        taken = path.lstat()
        assert await store.check_integrity() == Integrity(blocked=(REF,), blocked_count=1)
        assert not (await store.check_integrity()).is_sound
        with pytest.raises(BlobNotFoundError):
            await store.get_stored(REF)
        report = await scrub({"store": store, "good": good})
        assert not report.is_sound
        (finding,) = report.findings
        assert (finding.store, finding.ref, finding.is_corrupt) == ("store", REF, True)
        assert finding.problem == "something that is not a blob, such as a link, has its place, so it can't be stored"
        assert os.path.samestat(path.lstat(), taken)

        report = await scrub({"store": store, "empty": MemoryStore()}, repair=True)
        assert [finding.outcome for finding in report.findings] == [
            f"not repaired: no other store has a good copy (empty: BlobNotFoundError: blob {REF} not found)"
        ]
        assert os.path.samestat(path.lstat(), taken)

        report = await scrub({"store": store, "good": good}, repair=True)
        aside = root / "damaged" / f"{REF}-1" / str(REF)
        (finding,) = report.findings
        assert finding.is_repaired
        assert finding.outcome == f"repaired from good; the bad bytes are kept: {aside}"
        assert report.stores["store"].repaired == 1
        assert os.path.samestat(aside.lstat(), taken)
        assert (await scrub([store, good])).is_sound
        assert await store.put(DATA) == (REF, False)
    assert (path.parent.parent / "mine").read_bytes() == DATA


@pytest.mark.parametrize("folder", ["fa", "fa/fa2c"])
@pytest.mark.parametrize("durable", [True, pytest.param(False, marks=pytest.mark.deep)])
async def test_a_repair_moves_what_has_the_name_of_a_folder(root: Path, folder: str, *, durable: bool) -> None:
    async with open_directory(root, durable=durable) as store:
        write(root / "blobs" / folder, b"mine")
        report = await scrub([store])
        assert report.problems == {
            "store-0": (f"{root}/blobs/{folder} is not a folder, so no blob can be stored in it",)
        }
        report = await scrub([store], repair=True)
        assert report.is_sound
        assert report.repaired == {
            "store-0": (f"{root}/blobs/{folder} is not a folder, so no blob can be stored in it",)
        }
        name = folder.rpartition("/")[2]
        assert (root / "damaged" / f"{name}-1" / name).read_bytes() == b"mine"
        assert await store.put(DATA) == (REF, True)
        write(root / "blobs" / "fb", b"more")
        (root / "damaged" / "fb-1").mkdir()
        await store.repair_integrity()
        assert (root / "damaged" / "fb-2" / "fb").read_bytes() == b"more"


async def test_a_name_that_has_become_a_folder_is_not_moved(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        store._writes.clear_folder_name(str(path_of(root).parent))
        assert await store.get(REF) == DATA
    assert not (root / "damaged").exists()


async def test_nothing_is_set_aside_where_a_link_leads(root: Path) -> None:
    (root.parent / "mail").mkdir()
    async with open_directory(root) as store:
        await store.put(DATA)
        (root / "damaged").symlink_to(root.parent / "mail")
        with pytest.raises(NotADirectoryError, match="This is a symbolic link, where the store keeps damaged files"):
            await store.set_aside(REF)
        path_of(root).unlink()
        os.mkfifo(path_of(root))
        with pytest.raises(NotADirectoryError):
            await store.replace(DATA)
    assert os.listdir(root.parent / "mail") == []


async def test_a_link_to_a_blob_is_no_copy_of_it(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        (root / "damaged").mkdir()
        (root / "damaged" / f"{REF}-1").symlink_to(path_of(root))
        assert await store.set_aside(REF) == f"{root}/damaged/{REF}-2"


# Links that have the names of folders


@pytest.mark.parametrize("folder", ["fa", "fa/fa2c"])
@pytest.mark.parametrize("durable", [True, False])
async def test_a_link_to_a_folder_of_another_store_is_not_followed(root: Path, folder: str, *, durable: bool) -> None:
    async with open_directory(root.parent / "other") as other:
        await other.put(DATA)
    link = root / "blobs" / folder
    link.parent.mkdir(parents=True)
    link.symlink_to(root.parent / "other" / "blobs" / folder)
    before = snapshot(root.parent / "other")
    async with open_directory(root, durable=durable) as store:
        for call in (store.put(DATA), store.put(DATA), store.replace(DATA)):
            with pytest.raises(NotADirectoryError, match="A symbolic link has the name of a folder of blobs") as info:
                await call
            assert info.value.filename == str(link)
        for get in (store.get, store.get_stored):
            with pytest.raises(BlobNotFoundError):
                await get(REF)
        assert await store.get_many([REF]) == {}
        assert not await store.contains(REF)
        assert not await store.delete(REF)
        assert await store.set_aside(REF) is None
        assert await store.list_page(Ref.ZERO, 1) == []
        problem = f"{link} is not a folder, so no blob can be stored in it"
        assert await store.check_integrity() == Integrity(problems=(problem,))
        await store.repair_integrity()
        assert (root / "damaged" / f"{link.name}-1" / link.name).is_symlink()
        assert await store.put(DATA) == (REF, True)
        assert await store.delete(REF)
    assert snapshot(root.parent / "other") == before


async def test_no_folder_is_made_through_a_link(root: Path) -> None:
    other = root.parent / "other"
    other.mkdir()
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / "fa").symlink_to(other)
    async with open_directory(root) as store:
        with pytest.raises(NotADirectoryError, match="A symbolic link has the name of a folder of blobs"):
            await store.put(DATA)
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo], ids=["a file", "a pipe"])
@pytest.mark.parametrize("folder", ["fa", "fa/fa2c"])
async def test_something_else_has_the_name_of_a_folder(root: Path, folder: str, make: Callable[[Path], object]) -> None:
    path = root / "blobs" / folder
    path.parent.mkdir(parents=True)
    make(path)
    async with open_directory(root) as store:
        for call in (store.put, store.replace):
            with pytest.raises(
                NotADirectoryError, match="Something that is no folder has the name of a folder"
            ) as info:
                await call(DATA)
            assert info.value.filename == str(path)
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        await scrub([store, MemoryStore()], repair=True)
        assert await store.put(DATA) == (REF, True)


@pytest.mark.parametrize("folder", ["fa", "fa/fa2c"])
async def test_a_put_notices_that_a_folder_has_become_a_link(root: Path, folder: str) -> None:
    path = root / "blobs" / folder
    async with open_single(root) as store:
        await store.put(DATA)
        assert await store.put(DATA) == (REF, False)
        path.rename(root.parent / "moved")
        path.symlink_to(root.parent / "moved")
        with pytest.raises(NotADirectoryError, match="A symbolic link has the name of a folder of blobs"):
            await store.put(DATA)
        next((root.parent / "moved").rglob(str(REF))).unlink()
        with pytest.raises(NotADirectoryError, match="A symbolic link has the name of a folder of blobs"):
            await store.put(DATA)


async def test_a_link_that_appears_before_a_folder_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: str) -> None:
        path_of(root).parent.rmdir()
        path_of(root).parent.symlink_to("nowhere")
        monkeypatch.setattr(os, "link", really_link)
        really_link(*paths)

    really_link = os.link
    async with open_directory(root) as store:
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(NotADirectoryError, match="A symbolic link has the name of a folder of blobs"):
            await store.put(DATA)


async def test_links_are_looked_for_once_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lstat(path: str) -> os.stat_result:
        looked.append(path)
        return really_lstat(path)

    async with open_directory(root) as store:
        await store.put(DATA)
    looked: list[str] = []
    really_lstat = os.lstat
    async with open_directory(root, durable=False) as store:
        monkeypatch.setattr(os, "lstat", lstat)
        for _ in range(3):
            assert await store.put(DATA) == (REF, False)
    for folder in path_of(root).parents[:2]:
        assert looked.count(str(folder)) == 1
