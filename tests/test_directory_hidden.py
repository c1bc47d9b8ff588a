"""A directory store whose blobs are hidden by something else: a mount, a link, or an empty folder."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import shutil
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from trio_replica import BlobNotFoundError, DirectoryStore, Ref, StoreIdentityError, StoreNotFoundError, open_directory
from trio_replica._urls.parse import parse_url
from trio_replica.cli.stores import absence
from trio_replica.stores import directory
from trio_replica.stores._access import Access
from trio_replica.stores._directory import leftovers
from trio_replica.stores._directory.marks import create_mark, read_mark
from trio_replica.stores._directory.mounts import NOTHING, Mounts
from trio_replica.stores._directory.names import landmark
from trio_replica.stores._directory.place import Place
from trio_replica.stores._directory.writes import BlobWrites

from .common import DATA, REF, open_and_close
from .directories import path_of, tree, try_to_open, write
from .test_directory_folders import Borders, write_old
from .test_directory_place import CALLS, IDS, ONE, OTHER, refuse, snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from trio_replica.stores._directory.mounts import Mounted

OPTIONS: list[dict[str, bool]] = [{}, {"create": False}, {"durable": False}, {"read_only": True}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


class FakeMounts:
    """Mounts that a test makes up."""

    def __init__(self) -> None:
        self.now: Mounted = NOTHING
        self.is_closed = False

    def __call__(self, _: str) -> Any:
        return self

    def look(self) -> Mounted:
        return self.now

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def fake() -> FakeMounts:
    return FakeMounts()


def open_watched(root: Path, watch: FakeMounts, **options: bool) -> AbstractAsyncContextManager[DirectoryStore]:
    durable = options.pop("durable", True)
    place = Place(str(root), Access(**options), durable=durable, watch=watch)
    return directory.open_files(place, BlobWrites(place), writers=1)


async def try_to_open_watched(root: Path, watch: FakeMounts, **options: bool) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_watched(root, watch, **options))


async def make(root: Path) -> str:
    """Make a store with one blob, and return its identity."""
    async with open_directory(root, durable=False) as store:
        await store.put(DATA)
        identity = await store.identity()
        assert identity is not None
        return identity


def move_blobs(root: Path) -> Path:
    """Replace the folder of blobs by a link to an empty folder elsewhere, which is returned."""
    (root / "blobs").rename(root.parent / "hidden")
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (root / "blobs").symlink_to(elsewhere)
    return elsewhere


REMEDY = "unmount or remove what has taken the place of its blobs, or, if you moved them there, copy .*/store-id to "


# When it is opened


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("found", [None, OTHER])
async def test_a_link_in_place_of_the_blobs_is_refused(root: Path, options: dict[str, bool], found: str | None) -> None:
    identity = await make(root)
    elsewhere = move_blobs(root)
    if found is not None:
        write(elsewhere / "store-id", f"{found}\n".encode())
    before = snapshot(root.parent)
    with pytest.raises(StoreIdentityError, match=f"^{root}/blobs: .*; {REMEDY}{root}/blobs/store-id$") as info:
        await try_to_open(root, **options)
    assert (info.value.expected, info.value.found) == (identity, found)
    assert snapshot(root.parent) == before


@pytest.mark.parametrize("options", OPTIONS)
async def test_a_mount_over_the_blobs_is_refused(root: Path, fake: FakeMounts, options: dict[str, bool]) -> None:
    await make(root)
    fake.now = NOTHING._replace(over_blobs=True)
    before = snapshot(root)
    with pytest.raises(StoreIdentityError, match=REMEDY):
        await try_to_open_watched(root, fake, **options)
    assert snapshot(root) == before
    assert fake.is_closed


@pytest.mark.parametrize("options", OPTIONS)
async def test_another_device_in_place_of_the_blobs_is_refused(
    root: Path, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(root)
    give_device(monkeypatch, root / "blobs", 1)
    with pytest.raises(StoreIdentityError, match=REMEDY):
        await try_to_open(root, **options)
    assert not (root / "blobs-apart").exists()


def give_device(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Let a folder, with all in it, be on another device."""

    def changed(call: Callable[..., os.stat_result]) -> Callable[..., Any]:
        def stat(path: Any, **options: Any) -> Any:
            status = call(path, **options)
            if not str(path).startswith(str(folder)):
                return status
            fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
            return SimpleNamespace(**{**fields, "st_dev": number})

        return stat

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, changed(getattr(os, name)))


@pytest.mark.parametrize("durable", [True, False])
async def test_blobs_where_no_file_of_the_root_gets_a_name_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    """The list of mounts may not tell, and a folder of the same device may be mounted."""
    await make(root)
    Borders(monkeypatch, root / "blobs")
    before = tree(root)
    with pytest.raises(StoreIdentityError, match=REMEDY):
        await try_to_open(root, durable=durable)
    assert tree(root) == before
    write(root / "blobs" / "store-id", (root / "store-id").read_bytes())
    async with open_directory(root) as store:
        assert await store.put(b"new") == (Ref.of(b"new"), True)
    assert (root / "blobs-apart").read_bytes() == (root / "store-id").read_bytes()


async def test_blobs_that_were_moved_on_purpose(root: Path) -> None:
    identity = await make(root)
    elsewhere = move_blobs(root)
    shutil.copytree(root.parent / "hidden", elsewhere, dirs_exist_ok=True)
    shutil.copy(root / "store-id", root / "blobs" / "store-id")
    async with open_directory(root, read_only=True) as store:
        assert await store.get(REF) == DATA
    assert not (root / "blobs-apart").exists()
    async with open_directory(root) as store:
        assert (await store.identity(), await store.get(REF)) == (identity, DATA)
    assert (root / "blobs-apart").read_text() == f"{identity}\n"
    elsewhere.rename(root.parent / "unmounted")
    elsewhere.mkdir()
    with pytest.raises(StoreIdentityError, match="check which disk is mounted there, and mount the store's own again"):
        await try_to_open(root, read_only=True)


@pytest.mark.parametrize("is_there", [True, False], ids=["an empty folder", "no folder"])
async def test_blobs_that_were_apart_and_are_lost(root: Path, is_there: bool) -> None:
    """Who follows the errors gets an empty store."""
    elsewhere = root.parent / "disk"
    elsewhere.mkdir()
    root.mkdir()
    (root / "blobs").symlink_to(elsewhere)
    identity = await make(root)
    shutil.rmtree(elsewhere)
    if is_there:
        elsewhere.mkdir()
    else:
        (root / "blobs").unlink()
    remedy = "remove store-id and blobs-apart beside (the folder|them) to begin empty"
    for _ in range(2):
        with pytest.raises((StoreIdentityError, FileNotFoundError), match=remedy):
            await try_to_open(root)
        (root / "store-id").unlink(missing_ok=True)
        if not is_there:
            break
    (root / "blobs-apart").unlink()
    async with open_directory(root) as store:
        assert await store.put(DATA) == (REF, True)
        assert await store.identity() != identity


@pytest.mark.parametrize("how", ["link", "mount", "device"])
async def test_temporary_files_elsewhere_do_not_set_the_blobs_apart(
    root: Path, fake: FakeMounts, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(root)
    if how == "link":
        (root / "tmp").rename(root.parent / "tmp elsewhere")
        (root / "tmp").symlink_to(root.parent / "tmp elsewhere")
    else:
        Borders(monkeypatch, root / "tmp")
        fake.now = NOTHING._replace(over_temporary=how == "mount")
        if how == "device":
            give_device(monkeypatch, root / "tmp", 1)
    async with open_watched(root, fake) as store:
        assert await store.put(b"new") == (Ref.of(b"new"), True)
        assert await store.get(REF) == DATA
    assert os.listdir(root / "blobs" / "tmp") == []
    assert not (root / "blobs-apart").exists()
    assert not (root / "blobs" / "store-id").exists()


@pytest.mark.parametrize("options", OPTIONS)
async def test_a_mount_over_a_folder_of_blobs_is_refused(
    root: Path, fake: FakeMounts, options: dict[str, bool]
) -> None:
    await make(root)
    fake.now = NOTHING._replace(inside=f"{root}/blobs/fa")
    with pytest.raises(OSError, match="Something is mounted here, which hides blobs of the store; unmount") as info:
        await try_to_open_watched(root, fake, **options)
    assert (info.value.errno, info.value.filename) == (errno.EXDEV, f"{root}/blobs/fa")


# While it is open


@pytest.mark.parametrize("call", CALLS, ids=IDS)
async def test_no_call_works_while_something_is_mounted_over_blobs(
    root: Path, fake: FakeMounts, call: Callable[[DirectoryStore], Awaitable[object]]
) -> None:
    async with open_watched(root, fake) as store:
        await store.put(DATA)
        for now, error in (
            (NOTHING._replace(over_blobs=True), StoreIdentityError),
            (NOTHING._replace(inside=f"{root}/blobs/fa/fa2c"), OSError),
        ):
            fake.now = now
            with pytest.raises(error):
                await call(store)
            fake.now = NOTHING
        assert await store.put(b"after") == (Ref.of(b"after"), True)


@pytest.mark.parametrize("call", CALLS, ids=IDS)
async def test_no_call_follows_a_link_that_takes_the_place_of_the_blobs(
    root: Path, call: Callable[[DirectoryStore], Awaitable[object]]
) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        elsewhere = move_blobs(root)
        write(elsewhere / "00", b"no folder")
        with pytest.raises(StoreIdentityError, match=REMEDY):
            await call(store)
        assert tree(elsewhere) == ["00"]
        (root / "blobs").unlink()
        (root / "blobs").symlink_to("nowhere")
        with pytest.raises(FileNotFoundError, match="The directory store has vanished; mount its disk again"):
            await store.contains(REF)
        (root / "blobs").unlink()
        (root.parent / "hidden").rename(root / "blobs")
        assert await store.get(REF) == DATA


@pytest.mark.parametrize("was_over", [False, True])
async def test_a_store_without_an_identity_notices_what_hides_its_blobs(
    root: Path, fake: FakeMounts, *, was_over: bool
) -> None:
    """Also that the disk of its blobs is not mounted any more, which leaves an empty folder."""
    write(path_of(root))
    fake.now = NOTHING._replace(over_blobs=was_over)
    async with open_watched(root, fake, read_only=True) as store:
        assert await store.identity() is None
        assert not await store.contains(Ref.ZERO)
        fake.now = NOTHING._replace(over_blobs=not was_over)
        await check_vanished(store)


async def test_a_store_without_an_identity_is_not_believed_on_another_device(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path_of(root))
    async with open_directory(root, read_only=True) as store:
        give_device(monkeypatch, root, 1)
        await check_vanished(store)


async def test_a_store_without_an_identity_does_not_follow_a_new_link(root: Path) -> None:
    write(path_of(root))
    async with open_directory(root, read_only=True) as store:
        (root / "blobs").rename(root / "other")
        (root / "blobs").symlink_to(root / "other")
        await check_vanished(store)


async def check_vanished(store: DirectoryStore) -> None:
    for call in (store.contains(Ref.ZERO), store.get(Ref.ZERO), store.list_page(Ref.ZERO, 1)):
        with pytest.raises(FileNotFoundError, match="The directory store has vanished; mount its disk again"):
            await call


async def test_a_disk_that_comes_back_as_another_device_has_the_same_blobs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_directory(root) as store:
        await store.put(DATA)
        for number in (1, 2):
            give_device(monkeypatch, root, number)
            assert not await store.contains(Ref.ZERO)
            assert await store.put(b"%d" % number) == (Ref.of(b"%d" % number), True)
        give_device(monkeypatch, root / "blobs", 3)
        with pytest.raises(StoreIdentityError, match=REMEDY):
            await store.contains(Ref.ZERO)
        write(root / "blobs" / "store-id", (root / "store-id").read_bytes())  # so it was moved
        assert not await store.contains(Ref.ZERO)


async def test_no_folder_is_made_in_what_is_mounted_while_a_blob_is_put(
    root: Path, fake: FakeMounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: str) -> None:
        path_of(root).parent.rmdir()
        fake.now = NOTHING._replace(over_blobs=True)
        refuse(errno.ENOENT)()

    async with open_watched(root, fake) as store:
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(StoreIdentityError, match=REMEDY):
            await store.put(DATA)
    assert not path_of(root).parent.exists()


async def test_temporary_files_that_can_get_no_name_any_more_say_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_directory(root) as store:
        Borders(monkeypatch, root / "tmp")
        with pytest.raises(OSError, match=f"on one file system with {root}/tmp, .*; unmount what is mounted over one"):
            await store.put(DATA)
        assert not await store.contains(REF)
    assert os.listdir(root / "tmp") == []


# The list of mounts


LINE = "{number} {parent} 0:30 {top} {place} rw,relatime shared:1 - ext4 /dev/sda rw\n"


def write_table(path: Path, *places: str, top: str = "/") -> str:
    """Write the list as it is when these have been mounted one after another."""
    lines, parents = [], {"": 28}
    for number, place in enumerate(("/", *places), start=29):
        parent = next(parents[above] for above in reversed(parents) if f"{place}/".startswith(f"{above}/"))
        lines.append(LINE.format(number=number, parent=parent, top=top, place=place))
        parents.pop(place.rstrip("/"), None)
        parents[place.rstrip("/")] = number
    path.write_text("".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("{}/blobs", {"over_blobs": True}),
        ("{}/tmp", {"over_temporary": True}),
        ("{}/blobs/fa", {"inside": "{}/blobs/fa"}),
        ("{}/blobs/fa/fa2c", {"inside": "{}/blobs/fa/fa2c"}),
        ("{}/blobs/fa/fa2c/x", {"inside": "{}/blobs/fa/fa2c/x"}),
        ("{}", {}),
        ("{}/blob", {}),
        ("{}/blobs2", {}),
        ("{}/blobs/damaged", {}),
        ("{}/blobs/tmp", {}),
        ("{}/blobs/f", {}),
        ("/elsewhere{}/blobs", {}),
    ],
)
def test_mounts_are_found_in_the_list_of_the_system(tmp_path: Path, place: str, expected: dict[str, Any]) -> None:
    root = tmp_path / "a store"
    escaped = str(root).replace(" ", "\\040")
    mounts = Mounts(str(root), table=write_table(tmp_path / "table", place.format(escaped)))
    wanted: dict[str, Any] = dict(expected)
    if "inside" in expected:
        wanted["inside"] = expected["inside"].format(root)
    assert mounts.look() == NOTHING._replace(**wanted)
    mounts.close()
    mounts.close()
    assert mounts.look() == NOTHING


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["{}/blobs", "{}"], {}),
        (["{}/blobs", "{}", "{}/blobs"], {"over_blobs": True}),
        (["{}/blobs/aa", "{}/blobs"], {"over_blobs": True}),
        (["{}/blobs/aa", "{}"], {}),
        (["{}", "{}/blobs/aa", "/"], {}),
        (["{}", "{}/blobs/aa", "{}"], {}),
        (["{}", "{}", "{}/blobs/aa"], {"inside": "{}/blobs/aa"}),
        (["{}/blobs/aa", "{}/blobs/aa"], {"inside": "{}/blobs/aa"}),
    ],
)
def test_a_mount_under_another_one_is_no_matter(tmp_path: Path, places: list[str], expected: dict[str, Any]) -> None:
    """The system lists it as well. It hides nothing that is in sight."""
    table = write_table(tmp_path / "table", *(place.format(tmp_path) for place in places))
    mounts = Mounts(str(tmp_path), table=table)
    wanted = dict(expected)
    if "inside" in expected:
        wanted["inside"] = expected["inside"].format(tmp_path)
    assert mounts.look() == NOTHING._replace(**wanted)
    mounts.close()


def test_mounts_are_found_where_the_store_is_the_root_of_all_files(tmp_path: Path) -> None:
    """A root that is its own parent, as that of the memory that Linux starts with, is the end of all."""
    table = tmp_path / "table"
    table.write_text("".join(LINE.format(number=n, parent=1, top="/", place=p) for n, p in ((1, "/"), (2, "/tmp"))))
    mounts = Mounts("/", table=str(table))
    assert mounts.look() == NOTHING._replace(over_temporary=True)
    mounts.close()


def test_odd_names_are_found_in_the_list_of_mounts(tmp_path: Path) -> None:
    root = tmp_path / "a\tb\nc\\d.+"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    table = write_table(tmp_path / "table", f"{tmp_path}/a\\011b\\012c\\134d.+/blobs/00")
    mounts = Mounts(str(tmp_path / "link"), table=table)
    assert mounts.look().inside == f"{root}/blobs/00"
    mounts.close()


def test_a_mount_elsewhere_does_not_matter(tmp_path: Path) -> None:
    """A mount of the blobs in another place, too, names them as its source."""
    mounts = Mounts(str(tmp_path), table=write_table(tmp_path / "table", "/backup", top=f"{tmp_path}/blobs"))
    assert mounts.look() == NOTHING
    mounts.close()


def test_blobs_behind_a_link_are_looked_for_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "blobs").symlink_to(tmp_path / "disk")
    mounts = Mounts(str(tmp_path), table=write_table(tmp_path / "table", f"{tmp_path}/disk", f"{tmp_path}/disk/aa"))
    assert mounts.look() == NOTHING._replace(inside=f"{tmp_path}/disk/aa")
    mounts.close()


def test_a_list_that_can_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of a change once."""
    table = tmp_path / "table"
    mounts = Mounts(str(tmp_path), table=write_table(table))
    assert mounts.look() == NOTHING
    write_table(table, f"{tmp_path}/blobs")
    assert mounts.look() == NOTHING, "no change was told"
    changes = iter([[1], [], []])
    monkeypatch.setattr(mounts, "_poll", SimpleNamespace(poll=lambda _: next(changes)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", refuse(errno.EIO))
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                mounts.look()
    assert mounts.look().over_blobs
    mounts.close()


def test_a_system_without_a_list_of_mounts_finds_none(tmp_path: Path) -> None:
    mounts = Mounts(str(tmp_path), table=str(tmp_path / "none"))
    assert mounts.look() == NOTHING
    mounts.close()


# A new store whose blobs are apart


@pytest.mark.parametrize("kill", [0, 1, 2, 3, 4, 5])
async def test_a_new_store_whose_process_is_killed_opens_afterwards(
    root: Path, kill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_here() -> None:
        if next(steps) == kill:
            raise KeyboardInterrupt

    def create(path: str, mark: str, temporary: str) -> None:
        kill_here()
        create_mark(path, mark, temporary)
        created.append(path)
        kill_here()

    steps, created = itertools.count(), list[str]()
    root.mkdir()
    (root.parent / "elsewhere").mkdir()
    (root / "blobs").symlink_to(root.parent / "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr("trio_replica.stores._directory.place.create_mark", create)
        with pytest.raises(KeyboardInterrupt):
            Place(str(root), Access(), durable=True).prepare()
    made = [f"{root}/{name}" for name in ("blobs/store-id", "blobs-apart", "store-id")]
    assert created == made[: (kill + 1) // 2]
    made_so_far = read_mark(made[0])
    with nullcontext() if created else pytest.raises(StoreNotFoundError):
        async with open_directory(root, read_only=True) as reading:
            assert await reading.identity() == (made_so_far if len(created) > 1 else None)
            assert not await reading.contains(REF)
            with pytest.raises(BlobNotFoundError):
                await reading.get(REF)
    async with open_directory(root, create=not created) as store:
        identity = await store.identity()
        assert made_so_far in (None, identity)
        assert await store.put(DATA) == (REF, True)
    assert {read_mark(path) for path in made} == {identity}
    assert sorted(os.listdir(root)) == ["blobs", "blobs-apart", "store-id", "tmp"]


@pytest.mark.parametrize("name", ["blobs/store-id", "blobs-apart", "store-id"])
@pytest.mark.parametrize("has_other", [True, False])
async def test_of_two_processes_one_makes_a_store_whose_blobs_are_apart(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch, *, has_other: bool
) -> None:
    """Both have the same identity, or one of them does not open."""

    def create(path: str, mark: str, temporary: str) -> None:
        if path == f"{root}/{name}":
            mark_of_winner = OTHER if has_other or name == "blobs/store-id" else read_mark(f"{root}/blobs/store-id")
            write(Path(path), f"{mark_of_winner}\n".encode())
        create_mark(path, mark, temporary)

    root.mkdir()
    (root.parent / "elsewhere").mkdir()
    (root / "blobs").symlink_to(root.parent / "elsewhere")
    monkeypatch.setattr("trio_replica.stores._directory.place.create_mark", create)
    is_refused = has_other and name != "blobs/store-id"
    with pytest.raises(StoreIdentityError) if is_refused else nullcontext():
        await try_to_open(root)
    marks = {read_mark(f"{root}/{each}") for each in ("blobs/store-id", "blobs-apart", "store-id")}
    assert (len(marks) == 1) is not is_refused


async def test_a_root_that_has_lost_its_identity_gets_it_back_from_its_blobs(root: Path) -> None:
    root.mkdir()
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (root / "blobs").symlink_to(elsewhere)
    identity = await make(root)
    (root / "store-id").unlink()
    async with open_directory(root, read_only=True) as store:
        assert (await store.identity(), await store.get(REF)) == (identity, DATA)
        elsewhere.rename(root.parent / "unmounted")
        elsewhere.mkdir()
        with pytest.raises(FileNotFoundError, match="The directory store has vanished"):
            await store.get(Ref.ZERO)
        elsewhere.rmdir()
        (root.parent / "unmounted").rename(elsewhere)
    assert not (root / "store-id").exists()
    async with open_directory(root, create=False) as store:
        assert await store.identity() == identity == read_mark(f"{root}/store-id")


# Many names that are not the store's


async def test_names_of_others_are_neither_kept_nor_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be millions in each folder."""

    def keep(limit: int, names: Iterable[str]) -> list[str]:
        kept.append(limit)
        return really_keep(limit, names)

    kept: list[int] = []
    really_keep = heapq.nsmallest
    identity = await make(root)
    folders = [root, root / "tmp", *[root / "blobs" / name for name in ("", "fa", "fa/fa2c")]]
    for folder in folders:
        for number in range(300):
            (folder / f"foreign-{number}").touch()
    async with open_directory(root) as store:
        monkeypatch.setattr(heapq, "nsmallest", keep)
        monkeypatch.setattr(os, "stat", refuse_foreign(os.stat))
        monkeypatch.setattr(os, "lstat", refuse_foreign(os.lstat))
        assert await store.list_page(Ref.ZERO, 1) == [REF]
        assert kept == [2]
        assert (await store.check_integrity()).is_sound
        assert await store.identity() == identity


def refuse_foreign(call: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    """Return a call that may not be made for foreign files."""

    def checked(path: str, **options: Any) -> os.stat_result:
        assert "foreign" not in path
        return call(path, **options)

    return checked


async def test_of_many_names_that_something_else_has_some_are_returned(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "BLOCKED_LIMIT", 3)
    async with open_directory(root, durable=False) as store:
        for digits in ("00", "00", "00", "01", "01", "ff"):
            folder = root / "blobs" / digits / f"{digits}00"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{digits}00{len(os.listdir(folder))}".ljust(64, "0")).mkdir()
        found = await store.check_integrity()
    assert (found.blocked_count, len(found.blocked)) == (6, 3)
    assert {ref[0] for ref in found.blocked} == {0}


async def test_leftovers_are_removed_one_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time on the file system is asked for once."""
    await make(root)
    for number in range(20):
        write_old(root / "tmp" / f"trio-replica-{ONE}-{number}")
    write(root / "tmp" / f"trio-replica-{ONE}-new")
    asked = 0
    really_time_in = leftovers._time_in

    def time_in(folder: int, new: str) -> float:
        nonlocal asked
        asked += 1
        return really_time_in(folder, new)

    monkeypatch.setattr(leftovers, "_time_in", time_in)
    await try_to_open(root)
    assert asked == 1
    assert os.listdir(root / "tmp") == [f"trio-replica-{ONE}-new"]


# An empty folder of blobs


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
@pytest.mark.parametrize("made", ["blobs", "blobs/lost+found", "blobs/damaged", "blobs/a", "blobs/0g"])
async def test_a_folder_of_no_blobs_is_no_store(root: Path, options: dict[str, bool], made: str) -> None:
    (root / made).mkdir(parents=True)
    write(root / "blobs" / "00", b"no folder")
    before = snapshot(root.parent)
    with pytest.raises(StoreNotFoundError, match=f"{root}: there is no store here; mount its disk"):
        await try_to_open(root, **options)
    assert absence(parse_url(f"dir:{root}")) == (
        f"there is no store dir:{root}: {root}/store-id: No such file or directory"
    )
    assert snapshot(root.parent) == before
    await make_from(root)


async def make_from(root: Path) -> None:
    async with open_directory(root) as store:
        await store.put(b"some")
    for options in ({"create": False}, {"read_only": True}):
        async with open_directory(root, **options) as store:
            assert await store.get(Ref.of(b"some")) == b"some"


@pytest.mark.parametrize(
    "path", ["store-id", "blobs-apart", "blobs/store-id", "blobs/00"], ids=lambda path: path.replace("/", " ")
)
def test_the_path_that_shows_that_there_is_a_store(root: Path, path: str) -> None:
    (root / "blobs").mkdir(parents=True)
    assert landmark(str(root)) == f"{root}/store-id"
    (root / path).mkdir()
    assert landmark(str(root)) == f"{root}/{path}"
    assert absence(parse_url(f"dir:{root}")) == ""


def test_a_missing_folder_of_blobs_is_named(root: Path) -> None:
    assert landmark(str(root)) == f"{root}/blobs"


def test_a_store_that_can_not_be_looked_for_is_not_taken_for_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "blobs").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", refuse(errno.EACCES))
    with pytest.raises(PermissionError):
        landmark(str(root))
    assert absence(parse_url(f"dir:{root}")) == f"there is no store dir:{root}: Permission denied"


async def test_a_store_that_has_lost_all_blobs_is_still_a_store(root: Path) -> None:
    await open_and_close(open_directory(root))
    for options in OPTIONS:
        async with open_directory(root, **options) as store:
            assert await store.list_page(Ref.ZERO, 1) == []
    assert (root / "store-id").read_text() != f"{ONE}\n"
