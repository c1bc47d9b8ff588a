"""File systems that a test mounts for itself: the fixture `mounts`, which unmounts them again.

It takes root, and for a few kinds a program. Where the system refuses a mount, the test is skipped with its words.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

PROGRAMS: Final = {"mount": "mount", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "bindfs": "bindfs"}
"""The programs that are run, and the Debian packages that have them."""

IMAGE_BYTES: Final[dict[str, int]] = {"ext4": 16 * 1024**2, "xfs": 320 * 1024**2}
"""Bytes of the image of a new file system, most of them a hole. XFS takes no fewer than 300 MB."""

_SYS_ADMIN: Final = 21
"""The number of the capability that mounting takes: see capabilities(7)."""


def missing() -> str | None:
    """Return why nothing can be mounted here; None if it is likely that it can."""
    if not _effective_capabilities() >> _SYS_ADMIN & 1:
        return "only root may mount file systems"
    absent = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return f"not all that they take is installed (apt-get install {' '.join(absent)})" if absent else None


def _effective_capabilities() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)


class Mounts:
    """File systems that are mounted for one test. Each method makes the folder that it mounts on, if need be."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._mounted: list[Path] = []

    def tmpfs(self, target: Path, *options: str) -> Path:
        """Mount an empty file system in memory, with such options as ``size=1m``, and return where."""
        return self._mount(target, "-t", "tmpfs", *_with(options), "tmpfs")

    def bind(self, source: Path, target: Path) -> Path:
        """Mount a folder in another place, too."""
        return self._mount(target, "--bind", str(source))

    def overlay(self, lower: Path, target: Path) -> Path:
        """Mount an overlay of `lower` and a file system of its own, so that the kernel has to make up inode numbers."""
        upper = self.tmpfs(self._scratch / f"upper-{len(self._mounted)}")
        for name in ("changes", "work"):
            (upper / name).mkdir()
        options = f"lowerdir={lower},upperdir={upper}/changes,workdir={upper}/work"
        return self._mount(target, "-t", "overlay", "-o", options, "overlay")

    def loop(self, target: Path, *, kind: str = "ext4") -> Path:
        """Mount a new file system that is kept in a file, and return that file. Writing to it writes to the disk."""
        image = self._scratch / f"image-{len(self._mounted)}"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES[kind])
        _run(f"mkfs.{kind}", "-q", str(image))
        self._mount(target, "-o", "loop", str(image))
        return image

    def fuse(self, source: Path, target: Path) -> Path:
        """Mount a folder in another place, too, by a program outside of the kernel."""
        target.mkdir(parents=True, exist_ok=True)
        options = ["-o", "nonempty"] if _has_old_fuse() else []
        _run("bindfs", *options, str(source), str(target))
        self._mounted.append(target)
        return target

    def make_read_only(self, target: Path) -> None:
        """Refuse all writes from now on to what is mounted there, as a kernel does when a disk fails."""
        _run("mount", "-o", "remount,bind,ro", str(target))

    def unmount(self, target: Path) -> None:
        """Unmount what was mounted there last."""
        _run("umount", str(target))
        del self._mounted[len(self._mounted) - 1 - self._mounted[::-1].index(target)]

    def detach(self, target: Path) -> None:
        """Unmount what was mounted there last, although files in it are open."""
        _run("umount", "--lazy", str(target))
        del self._mounted[len(self._mounted) - 1 - self._mounted[::-1].index(target)]

    def end(self) -> None:
        """Unmount all that is left, the last one first."""
        while self._mounted:
            self.detach(self._mounted[-1])

    def _mount(self, target: Path, *arguments: str) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        _run("mount", *arguments, str(target))
        self._mounted.append(target)
        return target


def forget_inodes() -> None:
    """Have the kernel drop the inodes that nobody uses, as it does when memory is short."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


@pytest.fixture
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mounts, None, None]:
    """Mount file systems for one test."""
    made = Mounts(tmp_path_factory.mktemp("mounts"))
    yield made
    made.end()


def _has_old_fuse() -> bool:
    """Return whether bindfs has to be told to mount over files. Newer versions do not know that option."""
    ended = subprocess.run(["bindfs", "--fuse-version"], capture_output=True, text=True, check=True)
    return "version 2." in ended.stdout + ended.stderr


def _with(options: tuple[str, ...]) -> list[str]:
    return ["-o", ",".join(options)] if options else []


def _run(*command: str) -> None:
    """Run a command; skip the test, with what it said, if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"{command[0]} says: {ended.stderr.strip() or ended.returncode}")
