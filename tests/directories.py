"""Helpers for the tests of directory stores: their files, and their calls to the disk."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from trio_replica import open_directory
from trio_replica.stores import directory
from trio_replica.stores._access import Access
from trio_replica.stores._directory.place import Place
from trio_replica.stores._directory.writes import FILES_AT_ONCE, SYNCED_LIMIT, BlobWrites

from .common import DATA, REF

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import pytest

    from trio_replica import DirectoryStore, Ref


def open_single(
    root: Path, *, at_once: int = FILES_AT_ONCE, remember: int = SYNCED_LIMIT, tick: float | None = 0
) -> AbstractAsyncContextManager[DirectoryStore]:
    """Open a store with one writer, so that all puts that wait are one batch.

    It trusts the times of files to differ after each change, unless it is given a `tick`.
    """
    there = Place(str(root), Access(), durable=True)
    return directory.open_files(there, BlobWrites(there, at_once=at_once, remember=remember, tick=tick), writers=1)


def path_of(root: Path, ref: Ref = REF) -> Path:
    digits = str(ref)
    return root / "blobs" / digits[:2] / digits[:4] / digits


def write(path: Path, data: bytes = DATA) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tree(root: Path) -> list[str]:
    """Return the files and the empty folders below `root`."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or not [*path.iterdir()])


async def try_to_open(root: Path, **options: Any) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_directory(root, **options))


class Disk:
    """Which files were synced, named, renamed and removed, by their inodes, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int]] = []
        for name in ("link", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name), os.lstat))
        monkeypatch.setattr(os, "fsync", self._recorded("fsync", os.fsync, os.fstat))

    def _recorded(self, name: str, call: Callable[..., None], status: Callable[..., os.stat_result]) -> object:
        def recorded(file: Any, *rest: str, **options: Any) -> None:  # a path or a descriptor
            self.events.append((name, status(file, **options).st_ino))
            call(file, *rest, **options)

        return recorded

    def take(self, *named: Path) -> list[tuple[str, str]]:
        """Return the events since the last time, with the relative names of those files."""
        names = {path.stat().st_ino: path.name for path in named}
        taken = [(event, names.get(inode, "?")) for event, inode in self.events]
        self.events.clear()
        return taken
