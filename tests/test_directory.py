"""The directory store: its format, what it leaves alone, what it repairs, and when it waits for the disk."""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import logging
import os
import re
import shutil
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio

from trio_replica import Blob, BlobNotFoundError, DirectoryStore, PutResult, Ref, StoreIdentityError, open_directory
from trio_replica.stores import _files
from trio_replica.stores._directory import place, writes
from trio_replica.testing import StoreContract

from . import child
from .common import DATA, REF, open_and_close
from .directories import Disk, open_single, path_of, tree, write
from .held import in_one_batch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


class TestDirectoryStore(StoreContract):
    is_persistent = True

    DEEP = frozenset({"test_get_many", "test_many_tasks", "test_pages", "test_puts_during_a_listing"})
    """Tests that sync hundreds of files."""

    @pytest.fixture(autouse=True)
    def _keep_root(self, root: Path) -> None:
        self.root = root

    def open_store(self) -> AbstractAsyncContextManager[DirectoryStore]:
        return open_directory(self.root)


@pytest.mark.deep
class TestDirectoryStoreThatIsNotDurable(TestDirectoryStore):
    DEEP = frozenset()

    def open_store(self) -> AbstractAsyncContextManager[DirectoryStore]:
        return open_directory(self.root, durable=False)


def siblings() -> tuple[Blob, Blob]:
    """Return two blobs that belong into one folder."""
    by_folder: dict[bytes, Blob] = {}
    number = 0
    while True:
        blob = Blob(b"%d" % number)
        number += 1
        if (sibling := by_folder.setdefault(blob.ref[:2], blob)) is not blob:
            return sibling, blob


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


# The files on the disk


@pytest.mark.parametrize("durable", [True, False])
async def test_the_format_on_the_disk(root: Path, *, durable: bool) -> None:
    umask = os.umask(0o027)
    try:
        async with open_directory(root, durable=durable) as store:
            assert await store.put(b"") == (Ref.of(b""), True)
            assert await store.put(DATA) == (REF, True)
    finally:
        os.umask(umask)
    assert tree(root) == [
        "blobs/e3/e3b0/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "blobs/fa/fa2c/fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8",
        "store-id",
        "tmp",
    ]
    assert re.fullmatch(r"[0-9a-f]{32}\n", (root / "store-id").read_text())
    assert path_of(root).read_bytes() == DATA
    assert path_of(root).stat().st_mode == 0o100640


async def test_blobs_of_another_program_are_read(root: Path) -> None:
    write(path_of(root))
    async with open_directory(root) as store:
        assert await store.get(REF) == DATA
        assert await store.get_many([REF, Ref.ZERO]) == {REF: DATA}
        assert await store.contains(REF)
        assert await store.list_page(Ref.ZERO, 10) == [REF]
        assert await store.put(DATA) == (REF, False)
        assert await store.delete(REF)
    assert not path_of(root).exists()


FOREIGN_NAMES = [
    f"{REF}",
    f"tmp/{REF}",
    f"blobs/{REF}",
    f"blobs/fa/{REF}",
    f"blobs/00/0000/{REF}",
    f"blobs/fa/fa00/{REF}",
    f"blobs/fa/0000/{REF}",
    f"blobs/FA/FA2C/{REF}",
    f"blobs/fa/fa2c/{str(REF).upper()}",
    f"blobs/fa/fa2c/{str(REF)[:-1]}",
    f"blobs/fa/fa2c/{REF}0",
    f"blobs/fa/fa2c/fa2c{'x' * 60}",
    f"blobs/fa/fa2c/{REF}.tmp/{REF}",
    "blobs/aa",
    "blobs/fb/fb00",
    "blobs/notes.txt",
    "notes.txt",
]


async def test_what_is_no_blob_is_left_alone(root: Path) -> None:
    for name in FOREIGN_NAMES:
        write(root / name, b"foreign")
    async with open_directory(root) as store:
        assert [ref async for ref in store.list_refs()] == []
        assert not await store.contains(REF)
        assert not await store.delete(REF)
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        assert await store.put(DATA) == (REF, True)
        assert [ref async for ref in store.list_refs()] == [REF]
    assert tree(root) == sorted([*FOREIGN_NAMES, str(path_of(root).relative_to(root)), "store-id"])
    for name in FOREIGN_NAMES:
        assert (root / name).read_bytes() == b"foreign"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)  # because the name of a socket has at most 107 bytes
        bound.bind(path.name)


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        make_socket,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.parent.parent / "elsewhere"),
    ],
    ids=["folder", "pipe", "socket", "dangling symbolic link", "symbolic link"],
)
async def test_what_is_no_regular_file_is_no_blob(
    root: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(root)
    write(path.parent.parent / "elsewhere")
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)
    make(path)
    before = path.lstat()
    async with open_directory(root) as store:
        files = open_files()
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        assert open_files() == files
        assert not await store.contains(REF)
        assert not await store.delete(REF)
        assert await store.list_page(Ref.ZERO, 10) == []
        for _ in range(2):
            with pytest.raises(
                FileExistsError, match="The name of a blob is taken by something that is not a regular file"
            ) as info:
                await store.put(DATA)
            assert info.value.filename == str(path)
        assert await store.put(b"another") == (Ref.of(b"another"), True)
        assert os.path.samestat(path.lstat(), before)
        await store.replace(DATA)
        assert await store.get(REF) == DATA
    assert os.path.samestat((root / "damaged" / f"{REF}-1" / str(REF)).lstat(), before)
    assert os.listdir(root / "tmp") == []


@pytest.mark.parametrize("folder", ["fa", "fa/fa2c"])
async def test_a_file_in_place_of_a_folder(root: Path, folder: str) -> None:
    write(root / "blobs" / folder, b"foreign")
    async with open_directory(root) as store:
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        assert not await store.contains(REF)
        assert not await store.delete(REF)
        assert await store.list_page(Ref.ZERO, 10) == []
        for attempt in (store.put, store.replace):
            with pytest.raises(NotADirectoryError) as info:
                await attempt(DATA)
            assert info.value.filename == str(root / "blobs" / folder)
    assert tree(root) == [f"blobs/{folder}", "store-id", "tmp"]


async def test_a_file_that_comes_in_place_of_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: str) -> None:
        Path(path).write_bytes(b"foreign")
        really_mkdir(path)

    async with open_directory(root) as store:
        really_mkdir = os.mkdir
        monkeypatch.setattr(os, "mkdir", mkdir)
        with pytest.raises(NotADirectoryError) as info:
            await store.put(DATA)
        assert info.value.filename == str(path_of(root).parent.parent)


@pytest.mark.parametrize("torn", [b"", b"blo", b"blob and more"])
@pytest.mark.parametrize("durable", [True, False])
async def test_a_torn_file_of_another_program_is_repaired(
    root: Path, torn: bytes, caplog: pytest.LogCaptureFixture, *, durable: bool
) -> None:
    write(path_of(root), torn)
    async with open_directory(root, durable=durable) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
        assert await store.put(DATA) == (REF, False)
    assert os.listdir(root / "tmp") == []
    assert caplog.record_tuples == [
        (
            "trio_replica",
            logging.WARNING,
            f"replaced {path_of(root)}: it had {len(torn)} bytes where the blob has 4",
        )
    ]


# Waits for the disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("folders_are_there", [True, False])
async def test_a_blob_is_on_the_disk_before_it_has_its_name(root: Path, disk: Disk, *, folders_are_there: bool) -> None:
    first, second = siblings()
    path, other = path_of(root, first.ref), path_of(root, second.ref)
    if folders_are_there:
        path.parent.mkdir(parents=True)
    async with open_single(root) as store:
        disk.events.clear()
        await store.put(first)
        folder, above, top = path.parents[0], path.parents[1], path.parents[2]
        assert disk.take(path, folder, above, top, root) == [
            ("fsync", path.name),
            ("link", path.name),
            ("unlink", path.name),
            ("fsync", "store"),
            ("fsync", "blobs"),
            ("fsync", above.name),
            ("fsync", folder.name),
        ]
        await store.put(second)
        assert disk.take(other, folder, above, top, root) == [
            ("fsync", other.name),
            ("link", other.name),
            ("unlink", other.name),
            ("fsync", folder.name),
        ]


async def test_puts_that_come_together_share_their_fsyncs(root: Path, disk: Disk) -> None:
    first, second = siblings()
    path, other = path_of(root, first.ref), path_of(root, second.ref)
    async with open_single(root) as store:
        disk.events.clear()
        puts = [partial(store.put, blob) for blob in (first, second, first)]
        one, two, again = await in_one_batch(store._writers, *puts)
        assert one.unwrap() == (first.ref, True)
        assert two.unwrap() == (second.ref, True)
        assert again.unwrap() == (first.ref, False)
    assert disk.take(path, other, *path.parents[:4]) == [
        ("fsync", path.name),
        ("fsync", other.name),
        ("fsync", "?"),  # the same blob once more, which finds that its name is taken
        ("link", path.name),
        ("link", other.name),
        ("link", "?"),
        ("fsync", path.name),
        ("fsync", path.parents[0].name),
        ("fsync", "store"),
        ("fsync", "blobs"),
        ("fsync", path.parents[1].name),
        ("unlink", path.name),
        ("unlink", other.name),
        ("unlink", "?"),
        ("fsync", path.parents[0].name),
    ]


async def test_more_puts_than_files_may_be_open_come_together(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def counting_fsync(file: int) -> None:
        nonlocal most
        most = max(most, open_files() - before)
        really_fsync(file)

    async with open_single(root, at_once=3) as store:
        before, really_fsync = open_files(), os.fsync
        monkeypatch.setattr(os, "fsync", counting_fsync)
        ended = await in_one_batch(store._writers, *[partial(store.put, b"%d" % i) for i in range(10)])
        assert [one.unwrap() for one in ended] == [(Ref.of(b"%d" % i), True) for i in range(10)]
        assert len([ref async for ref in store.list_refs()]) == 10
    assert 0 < most <= 4  # the three, and the folder that counts them


@pytest.mark.parametrize("step", ["open", "write", "fsync", "link", "folder"])
async def test_a_put_that_fails_does_not_fail_its_neighbours(
    root: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: str, number: int) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            is_counted = name != "open" or arguments[0].startswith(f"{root}/tmp/")
            if is_counted and next(numbers) == number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return really(*arguments, **options)

        numbers = itertools.count()
        really = getattr(os, name)
        monkeypatch.setattr(os, name, call)

    blobs = [b"1", b"2", b"3"]  # in three folders
    async with open_single(root) as store:
        for blob in blobs:
            path_of(root, Ref.of(blob)).parent.mkdir(parents=True)
        # Of three files opened, written, synced and named, the second; of eight folders synced, the last.
        failing("fsync" if step == "folder" else step, 3 + 7 if step == "folder" else 1)
        first, second, third = await in_one_batch(store._writers, *[partial(store.put, blob) for blob in blobs])
        monkeypatch.undo()
        good, bad = ((first, second), third) if step == "folder" else ((first, third), second)
        assert [one.unwrap().added for one in good] == [True, True]
        assert isinstance(bad, outcome.Error)
        assert isinstance(bad.error, OSError)
        assert bad.error.errno == errno.EIO
        assert os.listdir(root / "tmp") == []
        results = await store.put_many(blobs)
        assert [result.added for result in results] == [False, step != "folder", False]


async def test_a_put_that_fails_keeps_no_blob_of_its_batch_alive(root: Path) -> None:
    path_of(root).mkdir(parents=True)  # the name of one blob is taken
    async with open_single(root) as store:
        bodies = [b"%d of this batch" % i for i in range(5)]
        *_, bad = await in_one_batch(store._writers, *[partial(store.put, body) for body in (*bodies, DATA)])
        assert isinstance(bad, outcome.Error)
        gc.collect()
        alive = [kept.data for kept in gc.get_objects() if type(kept) is Blob]
        assert not {*alive} & {*bodies}
        assert isinstance(bad.error, FileExistsError)
        assert bad.error.filename == str(path_of(root))


async def test_a_blob_that_is_deleted_while_its_folder_is_synced_is_put_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    def sync_folder(path: str, *, is_followed: bool = True) -> None:
        really_sync(path, is_followed=is_followed)
        if path == str(path_of(root).parent) and path_of(root).exists() and next(deletions):
            path_of(root).unlink()

    deletions = iter([True, False, *[True] * 4])
    really_sync = _files.sync_folder
    monkeypatch.setattr(place, "sync_folder", sync_folder)
    async with open_single(root) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
        path_of(root).unlink()
        with pytest.raises(FileNotFoundError, match="The blob was removed again and again while it was put") as info:
            await store.put(DATA)
        assert info.value.filename == str(path_of(root))
        assert next(deletions, None) is None


async def test_a_deleted_blob_is_not_taken_for_synced(root: Path, disk: Disk) -> None:
    async with open_single(root) as store:
        await store.put(DATA)
        assert await store.delete(REF)
        write(path_of(root))  # by a process that does not sync
        disk.events.clear()
        assert await store.put(DATA) == (REF, False)
        assert disk.take(path_of(root), path_of(root).parent) == [("fsync", REF.hex()), ("fsync", "fa2c")]


async def test_a_temporary_file_that_can_not_be_removed_fails_only_its_own_put(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: str) -> None:
        if next(numbers) == 1:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        really_unlink(path)

    async with open_single(root) as store:
        numbers, really_unlink = itertools.count(), os.unlink
        monkeypatch.setattr(os, "unlink", unlink)
        first, second, third = await in_one_batch(store._writers, *[partial(store.put, b"%d" % i) for i in range(3)])
        assert first.unwrap().added
        assert third.unwrap().added
        assert isinstance(second, outcome.Error)
        assert isinstance(second.error, PermissionError)
        assert await store.put(b"1") == (Ref.of(b"1"), False)


async def test_a_put_of_many_that_fails_raises_once_all_have_ended(root: Path) -> None:
    path_of(root).mkdir(parents=True)  # the name of one blob is taken
    async with open_single(root) as store:
        with pytest.raises(FileExistsError):
            await store.put_many([b"before", DATA, b"after"])
        assert await store.get_many([Ref.of(b"before"), REF, Ref.of(b"after")]) == {
            Ref.of(b"before"): b"before",
            Ref.of(b"after"): b"after",
        }


async def test_a_file_is_read_whole_however_little_comes_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        really_read = os.read
        monkeypatch.setattr(os, "read", lambda file, size: really_read(file, min(size, 3)))
        assert await store.get(REF) == DATA


async def test_a_blob_that_is_there_is_synced_once(root: Path, disk: Disk) -> None:
    path = path_of(root)
    write(path)
    names = sorted(("fsync", name) for name in (path.name, "fa2c", "fa", "blobs", "store"))
    async with open_single(root) as store:
        disk.events.clear()
        assert await store.put(DATA) == (REF, False)
        assert sorted(disk.take(path, *path.parents[:4])) == names
        assert await store.put_many([DATA, DATA]) == [(REF, False)] * 2
        assert disk.events == []
    async with open_single(root) as store:
        disk.events.clear()
        assert await store.put(DATA) == (REF, False)
        assert sorted(disk.take(path, *path.parents[:4])) == names


async def test_a_session_that_forgets_what_it_synced_syncs_again(root: Path, disk: Disk) -> None:
    async with open_single(root, remember=2) as store:
        for data in (b"1", b"2", b"3"):
            await store.put(data)
        disk.events.clear()
        await store.put(b"3")
        assert disk.events == []
        await store.put(b"1")
        assert [event for event, _ in disk.events] == ["fsync", "fsync"]


async def test_a_replaced_blob_is_on_the_disk_before_it_has_its_name(root: Path, disk: Disk) -> None:
    path = path_of(root)
    async with open_single(root) as store:
        await store.put(DATA)
        disk.events.clear()
        await store.replace(DATA)
        assert disk.take(path, path.parent) == [("fsync", path.name), ("replace", path.name), ("fsync", "fa2c")]


async def test_a_deleted_blob_is_gone_from_the_disk(root: Path, disk: Disk) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        disk.events.clear()
        assert await store.delete(REF)
        assert disk.take(path_of(root).parent) == [("unlink", "?"), ("fsync", "fa2c")]
        assert not await store.delete(REF)
        write(path_of(root))
        await store.put(DATA)
        assert ("fsync", path_of(root).name) in disk.take(path_of(root))


async def test_new_folders_are_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    root = tmp_path / "new" / "folder"
    async with open_directory(root):
        synced = disk.take(tmp_path, root.parent, root)
    # The last but one is the file of its identity.
    assert [name for event, name in synced if event == "fsync"] == ["?", tmp_path.name, "new", "?", "folder"]
    async with open_directory(root):
        synced = disk.take(tmp_path, root.parent, root)
    assert [name for event, name in synced if event == "fsync"] == ["new", "folder"]


async def test_durable_false_waits_for_the_disk_only_to_have_an_identity(root: Path, disk: Disk) -> None:
    async with open_directory(root, durable=False):
        assert [event for event, _ in disk.events].count("fsync") == 2  # its file and its name
    disk.events.clear()
    async with open_directory(root, durable=False) as store:
        assert [one for one in disk.take(root) if one[0] == "fsync"] == [("fsync", root.name)]
        await store.put(DATA)
        await store.put(DATA)
        await store.replace(DATA)
        await store.delete(REF)
        write(path_of(root), b"torn")
        await store.put(DATA)
    assert "fsync" not in [event for event, _ in disk.events]


# Failures of the disk


async def test_a_short_write_is_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: really_write(file, data[:3]))
    async with open_directory(root) as store:
        await store.put(b"0123456789")
        assert await store.get(Ref.of(b"0123456789")) == b"0123456789"


async def test_a_full_disk_fails_only_the_puts_that_have_no_room(root: Path) -> None:
    ended = await child.run("fill", f"dir:{root}", 64_000)
    stored = {
        str(path.relative_to(root)) for path in map(partial(path_of, root), map(Ref.from_hex, ended)) if path.exists()
    }
    assert tree(root) == sorted([*stored, "store-id", "tmp"])
    for ref, error in ended.items():
        if error is None:
            assert Ref.of(path_of(root, Ref.from_hex(ref)).read_bytes()) == Ref.from_hex(ref)
        else:
            assert error.startswith(f"OSError: [Errno 27] File too large: '{root}/tmp/")
            assert not path_of(root, Ref.from_hex(ref)).exists()
    assert [error is None for error in ended.values()].count(False) == 18


@pytest.mark.parametrize("call", ["write", "fsync", "close"])
@pytest.mark.parametrize("operation", ["put", "replace"])
async def test_a_failing_disk_fails_the_put_with_the_path_and_leaves_nothing(
    root: Path, call: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, *_: object) -> None:
        if call == "close":
            is_new = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_WRONLY
            really_close(file)
            if not is_new:
                return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    really_close = os.close
    async with open_directory(root) as store:
        files = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match="No space left on device") as info:
                await getattr(store, operation)(DATA)
        assert info.value.errno == errno.ENOSPC
        assert info.value.filename.startswith(f"{root}/tmp/")
        assert open_files() == files
        assert tree(root) == ["blobs", "store-id", "tmp"]
        assert await store.put(DATA) == (REF, True)


async def test_a_folder_that_can_not_be_synced_fails_the_put_with_its_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write(path_of(root))
    async with open_directory(root) as store:
        files = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="Input/output error") as info:
                await store.put(DATA)
        assert info.value.filename == str(path_of(root))
        assert open_files() == files
        assert await store.put(DATA) == (REF, False)


async def test_a_folder_that_can_not_be_synced_fails_the_repair_of_a_blob(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, *, is_followed: bool = True) -> None:
        if path == str(path_of(root).parent):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    async with open_directory(root) as store:
        await store.put(DATA)
        monkeypatch.setattr(place, "sync_folder", fail)
        with pytest.raises(OSError, match="Input/output error"):
            await store.replace(DATA)


async def test_a_file_that_can_not_be_read_fails_the_get_with_its_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with open_directory(root) as store:
        await store.put(DATA)
        files = open_files()
        for call in ("fstat", "open"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, fail)
                with pytest.raises(OSError, match="Input/output error"):
                    await store.get(REF)
            assert open_files() == files
        assert await store.get_many([REF]) == {REF: DATA}


# Other programs at the same time


async def test_a_file_system_without_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    async with open_directory(root) as store:
        assert os.listdir(root / "tmp") == []
        assert await store.put(DATA) == (REF, True)
        assert await store.put(DATA) == (REF, False)
        assert await store.get(REF) == DATA
        assert os.listdir(root / "tmp") == []
        path_of(root).unlink()
        path_of(root).parent.rmdir()
        assert await store.put(DATA) == (REF, True)


@pytest.mark.parametrize(("rival", "added"), [(DATA, False), (b"torn by a crash", True)])
async def test_another_writer_is_first(root: Path, rival: bytes, added: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(temporary: str, path: str) -> None:
        write(Path(path), rival)
        really_link(temporary, path)

    async with open_directory(root) as store:
        really_link = os.link
        monkeypatch.setattr(os, "link", link)
        assert await store.put(DATA) == (REF, added)
        assert await store.get(REF) == DATA
        assert os.listdir(root / "tmp") == []


async def test_a_blob_that_is_deleted_while_it_is_put_is_written_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(path: str) -> None:
        assert path == str(path_of(root))
        os.unlink(path)
        really_sync(path)

    write(path_of(root))
    async with open_directory(root) as store:
        really_sync = _files.sync
        monkeypatch.setattr(writes, "sync", sync)
        assert await store.put(DATA) == (REF, True)
        assert path_of(root).read_bytes() == DATA


async def test_another_process_deletes_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlink(path: str) -> None:
        really_unlink(path)
        really_unlink(path)

    async with open_directory(root) as store:
        await store.put(DATA)
        really_unlink = os.unlink
        monkeypatch.setattr(os, "unlink", unlink)
        assert not await store.delete(REF)


@pytest.mark.parametrize("operation", ["put", "replace"])
@pytest.mark.parametrize("removed", [1, 2])
async def test_folders_that_are_removed_when_empty_are_made_again(root: Path, operation: str, removed: int) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        path_of(root).unlink()
        for folder in path_of(root).parents[:removed]:
            folder.rmdir()
        await getattr(store, operation)(DATA)
        assert await store.get(REF) == DATA
    assert os.listdir(root / "tmp") == []


async def test_100_puts_of_one_blob_add_it_once(root: Path) -> None:
    async def put() -> None:
        results.append(await store.put(DATA))

    results: list[PutResult] = []
    async with open_directory(root) as store, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(put)
    assert sorted(results) == [PutResult(REF, False)] * 99 + [PutResult(REF, True)]


# The root


async def open_and_put(root: Path | str) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)


async def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with open_directory("store") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        await store.put(DATA)
        assert await store.get(REF) == DATA
    assert path_of(tmp_path / "store").exists()
    assert os.listdir(tmp_path / "elsewhere") == []


async def test_a_root_that_is_a_symbolic_link(tmp_path: Path, root: Path) -> None:
    (tmp_path / "real").mkdir()
    root.symlink_to("real")
    await open_and_put(root)
    assert path_of(tmp_path / "real").exists()


@pytest.mark.parametrize("taken", ["store", "store/blobs", "store/tmp"])
async def test_a_file_in_place_of_the_root_or_its_folders(tmp_path: Path, root: Path, taken: str) -> None:
    write(tmp_path / taken)
    with pytest.raises(NotADirectoryError) as info:
        await open_and_put(root)
    assert info.value.filename == str(tmp_path / taken)
    assert (tmp_path / taken).read_bytes() == DATA


async def test_a_root_below_a_file(root: Path) -> None:
    write(root)
    with pytest.raises(NotADirectoryError) as info:
        await open_and_put(root / "below")
    assert info.value.filename == str(root)


@pytest.mark.parametrize("there", [True, pytest.param(False, marks=pytest.mark.deep)])
async def test_a_root_that_is_not_writable(root: Path, *, there: bool) -> None:
    if there:
        await open_and_put(root)
    else:
        root.mkdir()
    for folder in (root.parent, root, *root.iterdir()):
        folder.chmod(0o555)
    error = await child.run("open_as_nobody", "dir", root.parent, root.name)
    assert error.startswith("PermissionError: [Errno 13] Permission denied: ")
    assert ("/store/tmp/" if there else "/store/blobs") in error


async def test_a_parent_that_can_not_be_read_is_not_synced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync_folder(path: str, *, is_followed: bool = True) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(_files, "sync_folder", sync_folder)
    await open_and_put(root)
    assert path_of(root).exists()


OPERATIONS: list[Callable[[DirectoryStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put(b"new"),
    lambda store: store.put_many([DATA, b"new"]),
    lambda store: store.replace(DATA),
    lambda store: store.get(REF),
    lambda store: store.get_many([REF]),
    lambda store: store.contains(REF),
    lambda store: store.delete(REF),
    lambda store: store.list_page(Ref.ZERO, 1),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("put_before", [True, False])
async def test_a_root_that_vanishes_fails_every_operation(
    root: Path, operation: Callable[[DirectoryStore], Awaitable[object]], *, put_before: bool
) -> None:
    async with open_directory(root) as store:
        if put_before:
            await store.put(DATA)
        shutil.rmtree(root)
        with pytest.raises(FileNotFoundError, match=str(root)):
            await operation(store)
    assert not root.exists()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("put_before", [True, False])
async def test_another_store_in_place_of_the_root_is_not_mistaken_for_it(
    root: Path, operation: Callable[[DirectoryStore], Awaitable[object]], *, put_before: bool
) -> None:
    async with open_directory(root) as store:
        if put_before:
            await store.put(DATA)
        root.rename(f"{root} as it was")
        await open_and_close(open_directory(root))
        there = tree(root)
        with pytest.raises(StoreIdentityError, match=f"{root}: this is another store than before"):
            await operation(store)
        assert tree(root) == there


async def test_a_blob_in_another_store_in_place_of_the_root_is_not_taken_for_ours(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        root.rename(f"{root} as it was")
        await open_and_put(root)
        with pytest.raises(StoreIdentityError):
            await store.put(DATA)


# Many


async def test_many_at_once(root: Path) -> None:
    blobs = [Blob(b"%d" % i) for i in range(100)]
    async with open_directory(root, durable=False) as store:
        await store.put(blobs[7])
        results = await store.put_many([*blobs, blobs[3]])
        assert results == [PutResult(blob.ref, blob is not blobs[7]) for blob in blobs] + [
            PutResult(blobs[3].ref, False)
        ]
        found = await store.get_many([blob.ref for blob in blobs] + [Ref.ZERO])
        assert found == {blob.ref: blob.data for blob in blobs}
        assert await store.put_many([]) == []
        assert await store.get_many([]) == {}


async def test_one_bad_blob_does_not_fail_the_puts_of_others(root: Path) -> None:
    path_of(root).mkdir(parents=True)
    async with open_directory(root, durable=False) as store:
        with pytest.raises(FileExistsError):
            await store.put_many([b"%d" % i for i in range(50)] + [DATA])
        async with trio.open_nursery() as nursery:
            for i in range(50, 100):
                nursery.start_soon(store.put, b"%d" % i)
            with pytest.raises(FileExistsError):
                await store.put(DATA)
        assert len(await store.list_page(Ref.ZERO, 1000)) >= 50


async def test_pages(root: Path) -> None:
    first, second = siblings()
    blobs = [first, second, *(Blob(b"blob %d" % i) for i in range(60))]
    refs = sorted(blob.ref for blob in blobs)
    last = Ref(b"\xff" * 32)
    async with open_directory(root, durable=False) as store:
        await store.put_many(blobs)
        for after in (Ref.ZERO, *refs, Ref.of(b"not there"), Ref(refs[30][:31] + b"\0"), last):
            rest = [ref for ref in refs if ref > after]
            for limit in (1, 2, 10, 1000):
                assert await store.list_page(after, limit) == rest[:limit]


async def test_a_corrupt_blob_is_returned_as_it_is_and_replaced(root: Path) -> None:
    write(path_of(root), b"glob")
    async with open_directory(root) as store:
        assert await store.get(REF) == b"glob"
        assert await store.put(DATA) == (REF, False)
        with path_of(root).open("rb") as old:
            await store.replace(DATA)
            assert old.read() == b"glob"  # who reads the old one is not disturbed
        assert await store.get(REF) == DATA
    assert os.listdir(root / "tmp") == []


async def test_another_trio_run_is_refused(root: Path) -> None:
    async with open_directory(root) as store:
        for operation in OPERATIONS:
            with pytest.raises(RuntimeError, match=r"belongs to the trio\.run that opened it"):
                await trio.to_thread.run_sync(partial(trio.run, operation, store))


async def test_closed(root: Path) -> None:
    async with open_directory(root) as store:
        assert repr(store) == f"<DirectoryStore {str(root)!r}>"
    for operation in OPERATIONS:
        with pytest.raises(trio.ClosedResourceError, match=str(root)):
            await operation(store)


async def test_a_top_folder_that_is_removed_while_it_is_open_is_made_again(root: Path) -> None:
    by_top: dict[bytes, Blob] = {}
    number = 0
    while True:
        blob = Blob(b"%d" % number)
        number += 1
        first = by_top.setdefault(blob.ref[:1], blob)
        if first.ref[:2] != blob.ref[:2]:
            break
    async with open_directory(root) as store:
        await store.put(first)
        shutil.rmtree(path_of(root, first.ref).parents[1])
        assert await store.put(blob) == (blob.ref, True)  # in another folder of the same top folder
        assert await store.put(first) == (first.ref, True)


# Setting aside


def rot(root: Path, data: bytes) -> None:
    """Let a file be damaged in its place."""
    path_of(root).unlink()
    write(path_of(root), data)


@pytest.mark.parametrize("has_links", [True, False])
async def test_bad_bytes_are_set_aside(root: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool) -> None:
    def refuse(*_: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    asides = [str(root / "damaged" / f"{REF}-{number}") for number in (1, 2, 3)]
    async with open_directory(root) as store:
        assert await store.set_aside(REF) is None
        assert not (root / "damaged").exists()
        write(path_of(root), b"rot")
        assert await store.set_aside(REF) == asides[0]
        # One that has a second name already is not given a third one.
        assert await store.set_aside(REF) == asides[0 if has_links else 1]
        await store.replace(DATA)
        rot(root, b"more")
        assert await store.set_aside(REF) == asides[1 if has_links else 2]
        assert path_of(root).read_bytes() == b"more"
        assert [ref async for ref in store.list_refs()] == [REF]
        with pytest.raises(TypeError):
            await store.set_aside(bytes(REF))  # type: ignore[arg-type]
    kept = [b"rot", b"more"] if has_links else [b"rot", b"rot", b"more"]
    assert [Path(aside).read_bytes() for aside in asides[: len(kept)]] == kept


async def test_what_is_set_aside_is_on_the_disk(root: Path, disk: Disk) -> None:
    async with open_directory(root) as store:
        write(path_of(root), b"rot")
        disk.events.clear()
        await store.set_aside(REF)
    assert disk.take(path_of(root), root / "damaged", root) == [
        ("link", path_of(root).name),
        ("fsync", path_of(root).name),
        ("fsync", "damaged"),
        ("fsync", "store"),
    ]


async def test_what_is_not_durable_is_set_aside_without_syncing(root: Path, disk: Disk) -> None:
    async with open_directory(root, durable=False) as store:
        write(path_of(root), b"rot")
        disk.events.clear()
        await store.set_aside(REF)
    assert disk.take(path_of(root)) == [("link", path_of(root).name)]


async def test_a_copy_that_fails_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with open_directory(root) as store:
        monkeypatch.setattr(store._place, "can_link", False)
        monkeypatch.setattr(shutil, "copyfileobj", fail)
        write(path_of(root), b"rot")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await store.set_aside(REF)
    assert os.listdir(root / "damaged") == []


async def test_reading_a_blob_does_not_look_whether_the_store_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an answer that something is missing needs that, once for all of a batch."""
    async with open_directory(tmp_path / "store") as store:
        await store.put(DATA)
        looks: list[place.Place] = []

        def look(self: place.Place) -> None:
            looks.append(self)

        monkeypatch.setattr(place.Place, "check_present", look)
        assert await store.get(REF) == DATA
        assert await store.get_many([REF]) == {REF: DATA}
        assert looks == []
        assert await store.contains(REF)
        assert len(looks) == 1
