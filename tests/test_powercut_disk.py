"""The model of a file system, and the files that it keeps through a power cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .powercut.disk import RECORDED, Disk, UnknownCallError
from .powercut.fates import DrawnFate
from .powercut.trace import Call

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Tree = dict[str, bytes | None]
"""The contents of files, and None for folders, by their paths."""

NOTHING, ALL = False, True


class Fate:
    """Keeps all, or nothing, of what was not synced; or of names and lengths one decision after another."""

    def __init__(self, *keeps: bool, parts: Iterable[slice] | None = None) -> None:
        self._keeps = [*keeps]
        self._parts = parts

    def keeps(self) -> bool:
        return self._keeps.pop(0) if len(self._keeps) > 1 else self._keeps[0]

    def parts(self, size: int, offset: int) -> Iterable[slice]:
        if self._parts is not None:
            return self._parts
        return [slice(0, size)] if self._keeps[0] else []


def call(line: int, name: str, *arguments: Any, result: int = 0, end: int | None = None) -> Call:
    return Call(line, line if end is None else end, name, arguments, result)


def calls(*steps: tuple[Any, ...]) -> list[Call]:
    """Return calls one after another: each a name, its arguments and its result."""
    return [call(line, name, *arguments, result=result) for line, (name, *arguments, result) in enumerate(steps)]


def created(path: bytes, file: int) -> tuple[Any, ...]:
    return ("openat", "AT_FDCWD", path, "O_RDWR|O_CREAT|O_CLOEXEC", 644, file)


def opened(path: bytes, file: int, flags: str = "O_RDONLY") -> tuple[Any, ...]:
    return ("openat", "AT_FDCWD", path, flags, file)


def synced(path: bytes) -> list[tuple[Any, ...]]:
    return [opened(path, 99), ("fsync", 99, 0), ("close", 99, 0)]


def left(tmp_path: Path, done: Iterable[Call], fate: Any, line: int = 1000) -> Tree:
    """Return what a power cut before a line leaves of the folder ``/r``."""
    disk = Disk("/r", done)
    disk.advance(line)
    target = tmp_path / "left"
    while target.exists():
        target = target.with_name(f"{target.name} more")
    disk.leave(str(target), fate)
    found = sorted(target.rglob("*"))
    return {str(path.relative_to(target)): path.read_bytes() if path.is_file() else None for path in found}


def both(tmp_path: Path, done: list[Call]) -> list[Tree]:
    """Return what is left at worst, and what at best."""
    return [left(tmp_path, done, Fate(kept)) for kept in (NOTHING, ALL)]


def test_a_file_whose_name_is_not_synced_is_lost(tmp_path: Path) -> None:
    done = calls(created(b"/r/a", 3), ("write", 3, b"hello", 5, 5), ("fsync", 3, 0))
    assert both(tmp_path, done) == [{}, {"a": b"hello"}]


def test_a_file_that_is_not_synced_is_empty(tmp_path: Path) -> None:
    done = calls(created(b"/r/a", 3), ("write", 3, b"hello", 5, 5), *synced(b"/r"))
    assert both(tmp_path, done) == [{"a": b""}, {"a": b"hello"}]


@pytest.mark.parametrize("sync", ["fsync", "fdatasync"])
def test_what_is_synced_stays_and_what_is_written_later_may_not(tmp_path: Path, sync: str) -> None:
    done = calls(
        created(b"/r/a", 3),
        *synced(b"/r"),
        ("write", 3, b"he", 2, 2),
        ("write", 3, b"llo", 3, 3),
        (sync, 3, 0),
        ("pwrite64", 3, b"J", 1, 0, 1),
        ("pwrite64", 3, b"!", 1, 7, 1),
    )
    assert both(tmp_path, done) == [{"a": b"hello"}, {"a": b"Jello\0\0!"}]


def test_a_write_may_be_torn(tmp_path: Path) -> None:
    done = calls(created(b"/r/a", 3), *synced(b"/r"), ("pwrite64", 3, b"abcdef", 6, 1, 6))
    assert left(tmp_path, done, Fate(NOTHING, parts=[slice(0, 1), slice(3, 5)])) == {"a": b"\0a\0\0de"}


def test_of_a_short_write_only_what_was_written_counts(tmp_path: Path) -> None:
    done = calls(created(b"/r/a", 3), ("write", 3, b"hello", 5, 2), ("write", 3, b"y", 1, 1))
    assert left(tmp_path, done, Fate(ALL)) == {"a": b"hey"}


def test_a_sync_covers_what_had_ended_when_it_began_and_only_once_it_has_ended(tmp_path: Path) -> None:
    done = [
        *calls(created(b"/r/a", 3), *synced(b"/r")),
        call(10, "pwrite64", 3, b"1", 1, 0, result=1),
        call(11, "pwrite64", 3, b"2", 1, 1, result=1, end=13),
        call(12, "fsync", 3, end=14),
    ]
    assert left(tmp_path, done, Fate(NOTHING), line=14) == {"a": b""}
    assert left(tmp_path, done, Fate(NOTHING), line=15) == {"a": b"1"}
    assert left(tmp_path, done, Fate(ALL), line=12) == {"a": b"12"}


def test_the_sync_of_a_folder_covers_what_had_ended_when_it_began(tmp_path: Path) -> None:
    done = [
        *calls(created(b"/r/a", 3), opened(b"/r", 4)),
        call(11, "mkdir", b"/r/b", 777, end=13),
        call(12, "fsync", 4),
    ]
    assert both(tmp_path, done) == [{"a": b""}, {"a": b"", "b": None}]


def test_a_file_that_is_there_is_opened_once_more(tmp_path: Path) -> None:
    done = calls(created(b"/r/a", 3), ("write", 3, b"hello", 5, 5), created(b"/r/a", 4), ("write", 4, b"J", 1, 1))
    assert both(tmp_path, done) == [{}, {"a": b"Jello"}]


def test_lengths(tmp_path: Path) -> None:
    start = [created(b"/r/a", 3), *synced(b"/r"), ("write", 3, b"hello", 5, 5), ("fsync", 3, 0)]
    assert both(tmp_path, calls(*start, ("ftruncate", 3, 2, 0))) == [{"a": b"hello"}, {"a": b"he"}]
    assert both(tmp_path, calls(*start, ("ftruncate", 3, 6, 0))) == [{"a": b"hello"}, {"a": b"hello\0"}]
    assert both(tmp_path, calls(*start, opened(b"/r/a", 4, "O_WRONLY|O_TRUNC"))) == [{"a": b"hello"}, {"a": b""}]
    assert both(tmp_path, calls(*start, ("ftruncate", 3, 2, 0), ("fsync", 3, 0))) == [{"a": b"he"}] * 2


def test_each_folder_keeps_its_own_names(tmp_path: Path) -> None:
    made = [("mkdir", b"/r/b", 777, 0), ("mkdirat", "AT_FDCWD", b"/r/b/c", 777, 0), created(b"/r/b/c/a", 3)]
    assert both(tmp_path, calls(*made)) == [{}, {"b": None, "b/c": None, "b/c/a": b""}]
    assert left(tmp_path, calls(*made, *synced(b"/r"), *synced(b"/r/b/c")), Fate(NOTHING)) == {"b": None}
    assert (
        len(
            left(
                tmp_path, calls(*made, *map(tuple, synced(b"/r")), *synced(b"/r/b"), *synced(b"/r/b/c")), Fate(NOTHING)
            )
        )
        == 3
    )


def test_a_second_name(tmp_path: Path) -> None:
    done = calls(
        *[created(b"/r/a", 3), ("write", 3, b"hello", 5, 5), ("fsync", 3, 0), ("close", 3, 0), *synced(b"/r")],
        *[("link", b"/r/a", b"/r/b", 0), ("unlink", b"/r/a", 0), ("write", 3, b"to another", 10, 10)],
    )
    assert both(tmp_path, done) == [{"a": b"hello"}, {"b": b"hello"}]
    assert left(tmp_path, done, Fate(True, False)) == {"a": b"hello", "b": b"hello"}
    assert left(tmp_path, done, Fate(False, True)) == {}


def test_a_name_that_was_taken_away_may_come_back(tmp_path: Path) -> None:
    start = [("mkdir", b"/r/b", 777, 0), created(b"/r/a", 3), *synced(b"/r")]
    gone = [("unlinkat", "AT_FDCWD", b"/r/a", 0, 0), ("rmdir", b"/r/b", 0)]
    assert both(tmp_path, calls(*start, *gone)) == [{"a": b"", "b": None}, {}]
    assert both(tmp_path, calls(*start, *gone, *synced(b"/r"))) == [{}, {}]
    assert left(tmp_path, calls(*start, *gone, created(b"/r/a", 4), ("write", 4, b"new", 3, 3)), Fate(ALL)) == {
        "a": b"new"
    }


@pytest.mark.parametrize("folder", [b"/r", b"/r/b"])
def test_a_rename_is_made_in_both_folders_or_in_none(tmp_path: Path, folder: bytes) -> None:
    start = [("mkdir", b"/r/b", 777, 0), created(b"/r/a", 3), *synced(b"/r")]
    renamed = ("renameat", "AT_FDCWD", b"/r/a", "AT_FDCWD", b"/r/b/a", 0)
    assert both(tmp_path, calls(*start, renamed)) == [{"a": b"", "b": None}, {"b": None, "b/a": b""}]
    assert both(tmp_path, calls(*start, renamed, *synced(folder))) == [{"b": None, "b/a": b""}] * 2


def test_what_sqlite_makes_anew_is_left_out(tmp_path: Path) -> None:
    assert left(tmp_path, calls(created(b"/r/a-shm", 3), created(b"/r/a-wal", 4)), Fate(ALL)) == {"a-wal": b""}


def test_what_failed_or_happened_elsewhere_is_nothing(tmp_path: Path) -> None:
    done = calls(
        *[created(b"/r/a", -1), created(b"/rest/a", 3), ("write", 3, b"hello", 5, 5), ("ftruncate", 3, 1, 0)],
        *[("fsync", 3, 0), ("lseek", 3, 0, "SEEK_SET", 0), ("mkdir", b"/r", 777, -1), ("mkdir", b"/r2", 777, 0)],
        *[("unlink", b"/a", 0), ("link", b"/a", b"/b", 0), ("rename", b"/a", b"/b", 0), ("dup", 3, 4)],
    )
    assert both(tmp_path, done) == [{}, {}]


@pytest.mark.parametrize(
    "step",
    [
        ("lseek", 3, 0, "SEEK_SET", 0),
        ("symlink", b"/r/a", b"/r/b", 0),
        ("unlink", b"a", 0),
        opened(b"/r/a", 4, "O_WRONLY|O_APPEND"),
        opened(b"/r/what is this", 4),
        opened(b"/r/a/b", 4),
    ],
)
def test_what_the_model_does_not_know_is_an_error(step: tuple[Any, ...]) -> None:
    disk = Disk("/r", calls(created(b"/r/a", 3), step))
    assert step[0] in RECORDED
    with pytest.raises(UnknownCallError):
        disk.advance(2)


def test_fates_are_drawn_and_many_are_extreme() -> None:
    def draw(seed: int) -> tuple[int, list[tuple[int, int]]]:
        fate = DrawnFate(str(seed))
        return sum(fate.keeps() for _ in range(10)), [(part.start, part.stop) for part in fate.parts(9000, 100)]

    drawn = [draw(seed) for seed in range(200)]
    assert drawn == [draw(seed) for seed in range(200)]
    assert {count for count, _ in drawn} == {*range(11)}
    parts = [found for _, found in drawn]
    assert [] in parts
    assert [(0, 9000)] in parts
    assert [(0, 3996), (3996, 8092), (8092, 9000)] in parts
    assert [(8092, 9000)] in parts
    assert any(len(found) == 18 for found in parts)
    for found in parts:
        assert all(0 <= first < end <= 9000 for first, end in found)
        assert found == sorted(found)
