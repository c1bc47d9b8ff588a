"""Packages of stores, as an installer would leave them: a module, and its entry points, in a folder of the path."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from trio_replica._urls.registry import GROUP, claims, damage, find_scheme

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path


@dataclass
class Site:
    """A folder that packages are installed in."""

    folder: Path

    def add(self, package: str, source: str, entries: Mapping[str, str], *, group: str = GROUP) -> Path:
        """Install a package of one module, and return the folder of its metadata."""
        module = package.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source)
        information = self.folder / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}\n" for name, value in entries.items()]
        (information / "entry_points.txt").write_text(f"[{group}]\n{''.join(lines)}")
        return information


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Generator[Site, None, None]:
    """Put a folder for packages on the path, and forget its packages in the end."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(folder))
    for cached in (claims, damage, find_scheme):
        cached.cache_clear()
    yield Site(folder)
    for cached in (claims, damage, find_scheme):
        cached.cache_clear()
    for name in [path.stem for path in folder.glob("*.py")]:
        sys.modules.pop(name, None)


def run_command(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own that has the packages of a site."""
    path = os.pathsep.join(filter(None, [str(site.folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "trio_replica", *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
