"""The file systems that tests mount for themselves."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from . import mounts as own
from .mounts import Mounts, missing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_where_nothing_can_be_mounted_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_effective_capabilities", lambda: 0)
    assert missing() == "only root may mount file systems"
    monkeypatch.setattr(own, "_effective_capabilities", lambda: 1 << 21)
    monkeypatch.setattr(shutil, "which", lambda program: None if program in ("bindfs", "mkfs.xfs") else program)
    assert missing() == "not all that they take is installed (apt-get install xfsprogs bindfs)"
    monkeypatch.setattr(shutil, "which", lambda program: program)
    assert missing() is None


def test_a_mount_that_is_refused_skips_the_test_with_the_words_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mount").write_text("#!/bin/sh\necho no $4 today >&2\nexit 1\n")
    (tmp_path / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    mounts = Mounts(tmp_path)
    with pytest.raises(pytest.skip.Exception, match=f"mount says: no {tmp_path}/target today"):
        mounts.tmpfs(tmp_path / "target")
    mounts.end()


KINDS: list[Callable[[Mounts, Path, Path], object]] = [
    lambda mounts, _, target: mounts.tmpfs(target, "size=1m"),
    lambda mounts, source, target: mounts.bind(source, target),
    lambda mounts, source, target: mounts.overlay(source, target),
    lambda mounts, _, target: mounts.loop(target),
    lambda mounts, _, target: mounts.loop(target, kind="xfs"),
    lambda mounts, source, target: mounts.fuse(source, target),
]


@pytest.mark.mounts
@pytest.mark.parametrize("mount", KINDS, ids=["tmpfs", "bind", "overlay", "ext4", "xfs", "fuse"])
def test_each_mount_is_unmounted(mounts: Mounts, tmp_path: Path, mount: Callable[..., object]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    mount(mounts, source, target)
    assert os.path.ismount(target) or mount is KINDS[1]  # which is on the same device
    (target / "file").write_text("new")
    mounts.make_read_only(target)
    with pytest.raises(OSError, match="Read-only file system"):
        (target / "another").touch()
    mounts.unmount(target)
    assert list(target.iterdir()) == []
    mount(mounts, source, target)
    mounts.end()
    assert list(target.iterdir()) == []
