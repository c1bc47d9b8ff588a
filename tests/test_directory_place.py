"""The identity of a directory store, the place of its files, and how it notices that it is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio

from trio_replica import (
    BlobNotFoundError,
    BlobTooLargeError,
    DirectoryStore,
    Ref,
    ReplicaError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
    open_directory,
    scrub,
)
from trio_replica._identity import is_identity
from trio_replica.stores._access import Access
from trio_replica.stores._directory import stored
from trio_replica.stores._directory.marks import create_mark, read_mark, replace_mark
from trio_replica.stores._directory.place import Place

from . import child
from .common import DATA, REF, open_and_close
from .directories import Disk, path_of, tree, try_to_open, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ONE = "0123456789abcdef" * 2
OTHER = "f" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return a value that differs once anything in a folder was changed, created or removed."""
    return {
        str(path): (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        for path in [folder, *folder.rglob("*")]
        for status in [path.lstat()]
    }


def refuse(number: int) -> Callable[..., NoReturn]:
    """Return a call that the system refuses."""

    def call(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


# The identity


async def test_a_store_keeps_its_identity(root: Path) -> None:
    async with open_directory(root) as store:
        identity = await store.identity()
        assert is_identity(identity)
        assert (store.is_durable, store.is_read_only) == (True, False)
    assert (root / "store-id").read_bytes() == f"{identity}\n".encode()
    root.rename(f"{root} elsewhere")
    async with open_directory(f"{root} elsewhere", durable=False, create=False) as store:
        assert await store.identity() == identity
        assert not store.is_durable
    async with open_directory(root) as store:
        assert await store.identity() != identity


@pytest.mark.parametrize("create", [True, False])
async def test_a_store_of_another_program_gets_an_identity(root: Path, *, create: bool) -> None:
    write(path_of(root))
    async with open_directory(root, read_only=True) as store:
        assert await store.identity() is None
    assert tree(root) == [str(path_of(root).relative_to(root))]
    async with open_directory(root, create=create) as store:
        assert read_mark(str(root / "store-id")) == await store.identity()
        assert await store.get(REF) == DATA


@pytest.mark.parametrize("has_links", [True, False])
async def test_of_two_processes_one_gives_the_store_its_identity(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    def lose(*paths: str) -> None:
        if paths[-1] == f"{root}/store-id":
            write(root / "store-id", f"{ONE}\n".encode())
        if not has_links:
            refuse(errno.EPERM)()
        really_link(*paths)

    really_link = os.link
    monkeypatch.setattr(os, "link", lose)
    async with open_directory(root) as store:
        assert await store.identity() == ONE
    assert tree(root) == ["blobs", "store-id", "tmp"]


def test_an_identity_appears_whole_where_there_are_no_links_and_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr("fcntl.flock", refuse(errno.ENOLCK))
    for identity in (ONE, OTHER):
        create_mark(str(tmp_path / "store-id"), identity, str(tmp_path / "new"))
        assert read_mark(str(tmp_path / "store-id")) == ONE
    assert os.listdir(tmp_path) == ["store-id"]


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_an_identity_that_can_not_be_written_leaves_nothing(
    root: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse(errno.ENOSPC))
        with pytest.raises(OSError, match="No space left on device"):
            await try_to_open(root, durable=False)
    assert tree(root) == ["blobs", "tmp"]
    async with open_directory(root) as store:
        assert is_identity(await store.identity())


async def test_where_no_identity_can_be_created_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def creating_no_file_in_root(path: str, flags: int, *mode: int, **options: Any) -> int:
        if flags & os.O_CREAT and os.path.dirname(path) == str(root):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really_open(path, flags, *mode, **options)

    write(path_of(root))
    really_open = os.open
    monkeypatch.setattr(os, "open", creating_no_file_in_root)
    with pytest.raises(PermissionError, match="the store has no identity yet, and none can be created") as info:
        await try_to_open(root)
    assert info.value.filename == f"{root}/store-id"


async def test_a_store_that_vanishes_while_it_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: str) -> None:
        really_link(*paths)
        if paths[-1] == f"{root}/store-id":
            root.rename(root.parent / "gone")

    really_link = os.link
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileNotFoundError, match="The directory store has vanished"):
        await try_to_open(root)
    assert not root.exists()


def make_text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


ODD: list[Callable[[Path], object]] = [
    make_text(""),
    make_text("mine\n"),
    make_text(ONE),
    make_text(f"{ONE}\n\n"),
    make_text(f"{ONE.upper()}\n"),
    lambda path: path.write_bytes(b"\xff" * 33),
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("elsewhere"),
]


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("read_only", [True, False])
async def test_anything_but_an_identity_is_an_error_and_never_overwritten(
    root: Path, make: Callable[[Path], object], *, read_only: bool
) -> None:
    write(path_of(root))
    write(root / "elsewhere", f"{ONE}\n".encode())
    make(root / "store-id")
    before = snapshot(root / "store-id")
    with pytest.raises(ReplicaError, match=f"{root}/store-id: this should be a file of 32 lowercase hex digits"):
        await try_to_open(root, read_only=read_only)
    assert snapshot(root / "store-id") == before


async def test_an_identity_that_the_system_does_not_give_is_no_missing_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        really_open = os.open

        def failing_open(path: Any, *arguments: Any, **options: Any) -> int:
            if path == f"{root}/store-id":
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return really_open(path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing_open)
            for call in (store.identity(), store.put(b"new"), store.get(Ref.ZERO), store.list_page(Ref.ZERO, 1)):
                with pytest.raises(OSError, match="Input/output error"):
                    await call
        assert await store.put(DATA) == (REF, False)


CALLS: list[Callable[[DirectoryStore], Awaitable[object]]] = [
    lambda store: store.put(DATA),
    lambda store: store.put(b"new"),
    lambda store: store.put_many([b"new", b"newer"]),
    lambda store: store.replace(DATA),
    lambda store: store.delete(REF),
    lambda store: store.set_aside(REF),
    lambda store: store.set_session_mark(ONE),
    lambda store: store.repair_integrity(),
    lambda store: store.get(Ref.ZERO),
    lambda store: store.get_stored(Ref.ZERO),
    lambda store: store.get_many([REF, Ref.ZERO]),
    lambda store: store.contains(REF),
    lambda store: store.list_page(Ref.ZERO, 1),
    lambda store: store.check_integrity(),
    lambda store: store.session_mark(),
]

IDS = [
    "put",
    "put new",
    "put_many",
    "replace",
    "delete",
    "set_aside",
    "set_session_mark",
    "repair_integrity",
    "get",
    "get_stored",
    "get_many",
    "contains",
    "list_page",
    "check_integrity",
    "session_mark",
]


@pytest.mark.parametrize("call", CALLS, ids=IDS)
async def test_no_call_takes_another_store_for_this_one(
    root: Path, call: Callable[[DirectoryStore], Awaitable[object]]
) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        identity = await store.identity()
        root.rename(f"{root} as it was")
        async with open_directory(root) as another:
            await another.put(DATA)
            await another.set_session_mark(OTHER)
            found = await another.identity()
        write(root / "blobs" / "ab", b"no folder")
        before = tree(root)
        with pytest.raises(StoreIdentityError, match=f"{root}: this is another store than before") as info:
            await call(store)
        assert (info.value.expected, info.value.found) == (identity, found)
        with pytest.raises(StoreIdentityError):
            await store.identity()
    assert tree(root) == before
    assert path_of(root).read_bytes() == DATA
    assert (root / "session-mark").read_text() == f"{OTHER}\n"


@pytest.mark.parametrize("call", CALLS, ids=IDS)
@pytest.mark.parametrize("gone", ["store-id", "blobs", "."])
async def test_no_call_works_on_what_is_left_of_a_store(
    root: Path, call: Callable[[DirectoryStore], Awaitable[object]], gone: str
) -> None:
    async with open_directory(root) as store:
        (root / gone).rename(root.parent / "gone")
        left = snapshot(root.parent)
        with pytest.raises(FileNotFoundError) as info:
            await call(store)
        assert info.value.filename.startswith(str(root))
        assert snapshot(root.parent) == left or gone == "blobs"
        with nullcontext() if gone == "blobs" else pytest.raises(StoreIdentityError, match="is none"):
            await store.identity()
    assert not (root / "blobs").exists() or gone == "store-id"


async def test_a_store_that_has_lost_its_blobs_does_not_begin_again(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
    shutil.rmtree(root / "blobs")
    before = snapshot(root)
    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(FileNotFoundError, match="The blobs of the store are gone: restore them"):
            await try_to_open(root, **options)
    assert snapshot(root) == before


def test_the_error_of_a_mark_that_the_disk_does_not_give_has_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "store-id"
    path.write_text(f"{ONE}\n")
    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
        read_mark(str(path))


# Opening what is not there, and reading only


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}, {"create": False, "read_only": True}])
@pytest.mark.parametrize("made", ["", "store", "store/tmp"])
async def test_nothing_is_created_unless_it_may_be(root: Path, options: dict[str, bool], made: str) -> None:
    (root.parent / made).mkdir(parents=True, exist_ok=True)
    before = snapshot(root.parent)
    with pytest.raises(StoreNotFoundError, match=f"{root}: there is no store here; mount its disk"):
        await try_to_open(root, **options)
    assert snapshot(root.parent) == before


async def test_a_store_that_may_not_be_looked_at_is_not_taken_for_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_and_close(open_directory(root))
    monkeypatch.setattr(os, "stat", refuse(errno.EACCES))
    with pytest.raises(PermissionError):
        await try_to_open(root, create=False)


async def test_a_store_that_is_only_read_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        assert flags & (os.O_CREAT | os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY
        return really_open(path, flags, *arguments, **options)

    async with open_directory(root) as store:
        await store.put_many([DATA, b"other"])
        await store.set_session_mark(ONE)
        identity = await store.identity()
    leftover = root / "tmp" / f"trio-replica-{ONE}-0"
    write(leftover)
    os.utime(leftover, (0, 0))
    before = snapshot(root)
    really_open = os.open
    monkeypatch.setattr(os, "open", read_only_open)
    for name in ("link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink", "utime", "write"):
        monkeypatch.setattr(os, name, refuse(errno.EROFS))
    async with open_directory(root, read_only=True) as store:
        assert store.is_read_only
        assert await store.identity() == identity
        assert await store.session_mark() == ONE
        assert await store.get(REF) == DATA
        assert [ref async for ref in store.list_refs()] == sorted([REF, Ref.of(b"other")])
        assert (await scrub([store])).is_sound
        for call in CALLS[:8]:
            with pytest.raises(StoreReadOnlyError, match=f"{root}: the store was opened with read_only=True"):
                await call(store)
    assert snapshot(root) == before


async def test_reading_takes_no_permission_to_write(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
    for path in (root.parent, root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert await child.run("read_as_nobody", root.parent, root.name) == [True, "blob"]


async def test_where_nothing_can_be_written_it_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_and_close(open_directory(root))
    monkeypatch.setattr(os, "link", refuse(errno.EROFS))
    monkeypatch.setattr(os, "rename", refuse(errno.EROFS))
    with pytest.raises(OSError, match="open the store with read_only=True to read its blobs") as info:
        await try_to_open(root)
    assert (info.value.errno, info.value.filename) == (errno.EROFS, str(root))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
async def test_folders_that_can_not_be_synced_are_an_error_that_says_what_to_do(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: int) -> None:
        if os.path.isdir(f"/dev/fd/{file}"):
            refuse(number)()

    async with open_directory(root) as store:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="open the store with durable=False if it may"):
            await store.put(DATA)
    with pytest.raises(OSError, match="durable=False") as info:
        await try_to_open(root)
    assert (info.value.errno, info.value.filename) == (number, str(root))
    async with open_directory(root, durable=False) as store:
        await store.put(DATA)


# The mark of a session


async def test_a_store_keeps_the_mark_of_a_session(root: Path) -> None:
    async with open_directory(root) as store:
        assert await store.session_mark() is None
        for mark in (ONE, OTHER):
            await store.set_session_mark(mark)
            assert await store.session_mark() == mark
        with pytest.raises(ValueError, match="the mark of a session is 32 lowercase hex digits, not 'mine'"):
            await store.set_session_mark("mine")
    async with open_directory(root, read_only=True) as store:
        assert await store.session_mark() == OTHER
    assert tree(root) == ["blobs", "session-mark", "store-id", "tmp"]
    assert (root / "session-mark").read_text() == f"{OTHER}\n"


@pytest.mark.parametrize("durable", [True, False])
async def test_the_mark_of_a_session_is_on_the_disk_before_it_has_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    async with open_directory(root, durable=durable) as store:
        disk = Disk(monkeypatch)
        await store.set_session_mark(ONE)
    events = [("fsync", "session-mark"), ("replace", "session-mark"), ("fsync", "store")]
    assert disk.take(root, root / "session-mark") == events[: 3 if durable else 2]


@pytest.mark.parametrize("make", ODD)
async def test_anything_but_a_mark_is_an_error_and_stays(root: Path, make: Callable[[Path], object]) -> None:
    async with open_directory(root) as store:
        write(root / "elsewhere", f"{ONE}\n".encode())
        make(root / "session-mark")
        before = snapshot(root)
        with pytest.raises(ReplicaError, match=f"{root}/session-mark: this should be a file of 32"):
            await store.session_mark()
        with pytest.raises(ReplicaError, match=f"{root}/session-mark: this should be a file of 32"):
            await store.set_session_mark(ONE)
        assert snapshot(root) == before


async def test_a_mark_that_can_not_be_written_leaves_the_one_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_directory(root) as store:
        await store.set_session_mark(ONE)
        for call in ("write", "fsync", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, refuse(errno.ENOSPC))
                with pytest.raises(OSError, match="No space left on device"):
                    await store.set_session_mark(OTHER)
        assert await store.session_mark() == ONE
    assert tree(root) == ["blobs", "session-mark", "store-id", "tmp"]


# Blobs that are too large


async def test_a_blob_that_takes_too_much_memory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_directory(root, max_memory=10) as store:
        assert (await store.put(b"0123456789")).added
        assert await store.get(Ref.of(b"0123456789")) == b"0123456789"
        assert await store.get_stored(Ref.of(b"0123456789")) == b"0123456789"
        for put in (store.put(b"0123456789a"), store.put_many([b"1", b"0123456789a"]), store.replace(b"0123456789a")):
            with pytest.raises(BlobTooLargeError, match=f"{root}: a blob has 11 bytes, but max_memory is 10"):
                await put
        write(path_of(root), b"x" * 11)
        monkeypatch.setattr(os, "read", refuse(errno.EIO))  # before it is read
        monkeypatch.setattr(os, "readv", refuse(errno.EIO))
        for get in (store.get(REF), store.get_many([REF]), store.get_stored(REF)):
            with pytest.raises(BlobTooLargeError):
                await get
    assert not path_of(root, Ref.of(b"0123456789a")).exists()


@pytest.mark.parametrize("read", ["get", "get_stored"])
@pytest.mark.parametrize("size", [1, 10])
async def test_a_blob_that_grows_while_it_is_read_stops_at_the_limit(
    root: Path, read: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fstat(file: int) -> os.stat_result:
        status = really_fstat(file)
        if status.st_size == size:
            with path_of(root).open("ab") as growing:
                growing.write(b"x" * 1_000_000)
        return status

    async with open_directory(root, max_memory=10) as store:
        write(path_of(root), b"x" * size)
        really_fstat = os.fstat
        monkeypatch.setattr(os, "fstat", fstat)
        with pytest.raises(BlobTooLargeError) as info:
            await getattr(store, read)(REF)
        assert 10 < info.value.size <= 70_000


async def test_a_blob_that_is_cut_while_it_is_read_is_read_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        really_read = os.read
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", lambda file, size: really_read(file, 3 if size == 5 else size))
            assert await store.get(REF) == DATA


# Reading what is on the disk


async def test_stored_blobs_are_read_whole(root: Path) -> None:
    blobs = [b"", DATA, b"x" * 4096, b"y" * 1_048_576, b"z" * 3_000_001]
    async with open_directory(root, durable=False) as store:
        for blob in blobs:
            ref, _ = await store.put(blob)
            assert await store.get_stored(ref) == blob
        with pytest.raises(BlobNotFoundError):
            await store.get_stored(Ref.ZERO)
        with pytest.raises(TypeError):
            await store.get_stored("x")  # type: ignore[arg-type]


async def test_a_file_is_forgotten_by_the_system_and_read_past_its_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        calls: list[str] = []
        really_fcntl = fcntl.fcntl

        def noting(file: int, command: int, *flags: int) -> int:
            if flags and flags[0] & os.O_DIRECT:
                calls.append("direct")
            return int(really_fcntl(file, command, *flags))

        monkeypatch.setattr(os, "fdatasync", lambda file: calls.append("sync"))
        monkeypatch.setattr(os, "posix_fadvise", lambda file, *how: calls.append(f"advise {how}"))
        monkeypatch.setattr("fcntl.fcntl", noting)
        assert await store.get_stored(REF) == DATA
        advised = f"advise {(0, 0, os.POSIX_FADV_DONTNEED)}"
        assert calls == ["direct", advised]
        calls.clear()
        monkeypatch.setattr("fcntl.fcntl", lambda *how: 0 if len(how) == 2 else refuse(errno.EINVAL)())
        assert await store.get_stored(REF) == DATA
        assert calls == ["sync", advised]


async def test_a_file_system_without_direct_reads_is_read_through_its_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def readv(file: int, buffers: list[memoryview]) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            refuse(errno.EINVAL)()
        return really_readv(file, buffers)

    really_readv, really_fcntl = os.readv, fcntl.fcntl
    async with open_directory(root) as store:
        await store.put(DATA)
        with monkeypatch.context() as patch:
            patch.setattr(os, "readv", readv)
            patch.setattr(os, "fdatasync", refuse(errno.EROFS))
            assert await store.get_stored(REF) == DATA
        with monkeypatch.context() as patch:
            patch.setattr(
                "fcntl.fcntl",
                lambda *arguments: really_fcntl(*arguments) if len(arguments) == 2 else refuse(errno.EINVAL)(),
            )
            assert await store.get_stored(REF) == DATA
        with monkeypatch.context() as patch:
            patch.setattr(stored, "_IS_LINUX", False)
            assert await store.get_stored(REF) == DATA
        for call in ("readv", "fdatasync"):
            with monkeypatch.context() as patch:
                if call == "fdatasync":
                    patch.setattr(os, "readv", readv)
                patch.setattr(os, call, refuse(errno.EIO))
                with pytest.raises(OSError, match="Input/output error") as info:
                    await store.get_stored(REF)
                assert info.value.filename == str(path_of(root))


async def test_another_trio_run_gets_no_identity(root: Path) -> None:
    async with open_directory(root) as store:
        with pytest.raises(RuntimeError):
            await trio.to_thread.run_sync(trio.run, store.identity)


async def test_a_new_identity_of_blobs_that_are_apart(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    root.mkdir()
    (root / "blobs").symlink_to(tmp_path / "elsewhere")
    async with open_directory(root) as store:
        await store.put(DATA)
        former = await store.identity()
        new = await store.renew_identity()
        assert is_identity(new)
        assert new != former
        await store.put(b"more")
    for path in ("store-id", "blobs-apart", "blobs/store-id"):
        assert (root / path).read_text() == f"{new}\n"
    async with open_directory(root) as store:
        assert (await store.identity(), await store.get(REF)) == (new, DATA)


async def test_a_new_identity_without_fsyncs(root: Path) -> None:
    async with open_directory(root, durable=False) as store:
        new = await store.renew_identity()
        assert await store.identity() == new


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("durable", [True, False])
async def test_a_renewal_that_is_killed_leaves_a_store_that_opens(
    root: Path, tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    def replace(path: str, mark: str, temporary: str) -> None:
        replaced.append(mark)
        if len(replaced) > steps:
            raise KeyboardInterrupt
        replace_mark(path, mark, temporary)

    replaced: list[str] = []
    (tmp_path / "elsewhere").mkdir()
    root.mkdir()
    (root / "blobs").symlink_to(tmp_path / "elsewhere")
    async with open_directory(root, durable=durable) as store:
        await store.put(DATA)
        await store.set_session_mark(ONE)
        former = await store.identity()
    there = Place(str(root), Access(), durable=durable)
    there.prepare()
    with monkeypatch.context() as patch:
        patch.setattr("trio_replica.stores._directory.place.replace_mark", replace)
        with pytest.raises(KeyboardInterrupt) if steps < 3 else nullcontext():
            there.renew_identity()
    expected = former if steps < 2 else replaced[0]
    async with open_directory(root, read_only=True) as reading:
        async with open_directory(root, durable=durable) as store:
            for each in (reading, store):
                assert (await each.identity(), await each.session_mark()) == (expected, None)
                assert await each.get(REF) == DATA
                assert not await each.contains(Ref.ZERO)
            assert (root / "store-id").read_text() == (root / "blobs/store-id").read_text() == f"{expected}\n"
            new = await store.renew_identity()
        for path in ("store-id", "blobs-apart", "blobs/store-id"):
            assert (root / path).read_text() == f"{new}\n"
        with pytest.raises(StoreIdentityError):
            await reading.identity()


@pytest.mark.parametrize("is_apart", [True, False])
async def test_an_identity_is_synced_in_a_store_that_is_not_durable(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_apart: bool
) -> None:
    root.mkdir()
    if is_apart:
        (tmp_path / "elsewhere").mkdir()
        (root / "blobs").symlink_to(tmp_path / "elsewhere")
    disk = Disk(monkeypatch)
    folders = [root, *([tmp_path / "elsewhere"] if is_apart else [])]
    async with open_directory(root, durable=False) as store:
        for renew in (False, True):
            if renew:
                await store.renew_identity()
            events = disk.take(*folders)
            assert {("fsync", folder.name) for folder in folders} <= {*events}
            assert events[-1] == ("fsync", "store")
    async with open_directory(root, durable=False):  # the process that made it may have been killed
        assert ("fsync", "store") in disk.take(*folders)


@pytest.mark.parametrize("durable", [True, False])
async def test_an_identity_where_folders_can_not_be_synced(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    def fsync(file: int) -> None:
        if os.path.isdir(f"/dev/fd/{file}"):
            refuse(errno.EINVAL)()

    async with open_directory(root, durable=durable) as store:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Invalid argument") if durable else nullcontext():
            assert is_identity(await store.renew_identity())
