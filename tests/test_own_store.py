"""The store that the documentation builds: it passes the contract, and keeps the promises that the page speaks of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

from trio_replica import Ref, open_store_threads

from . import store_packages
from .held import in_one_batch
from .store_packages import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from .store_packages import Site

PAGE = (Path(__file__).parent.parent / "docs" / "own-store.md").read_text()
NAMES: dict[str, Any] = {}
site = store_packages.site
exec(compile("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), "own-store.md", "exec"), NAMES)

TestLmdbStore = NAMES["TestLmdbStore"]
open_lmdb: Callable[..., Any] = NAMES["open_lmdb"]


async def test_a_blob_that_does_not_fit_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    async with open_lmdb(tmp_path, map_size=1024 * 1024) as store:
        small = [b"%d" % number for number in range(3)]
        puts = [lambda data=data: store.put(data) for data in (small[0], b"large" * 300_000, *small[1:])]
        first, large, *others = await in_one_batch(store._writer, *puts)
        assert [one.unwrap().added for one in (first, *others)] == [True] * 3
        with pytest.raises(lmdb.MapFullError):
            large.unwrap()
        assert [ref async for ref in store.list_refs()] == sorted(map(Ref.of, small))


def test_a_package_with_it_gives_it_a_url(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    ((group, scheme, entry),) = re.findall(r'```toml\n\[project.entry-points."(.*)"\]\n(.*) = "(.*)"\n```', PAGE)
    site.add("trio-lmdb", "\n".join(block for block in blocks if "pytest" not in block), {scheme: entry}, group=group)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "x.toml").write_text('[sync]\nlocal = { url = "lmdb:blobs", map_size = 1048576 }\n')
    put = run_command(site, "put", "data", "--config", "x.toml")
    assert (put.returncode, put.stdout, put.stderr) == (0, f"{Ref.of(b'data')}  data\n", "")
    assert run_command(site, "ls", "--sync", "lmdb:blobs").stdout == f"{Ref.of(b'data')}\n"
    assert (tmp_path / "blobs" / "data.mdb").stat().st_size <= 1048576


def test_it_is_made_of_what_is_public() -> None:
    assert NAMES["open_store_threads"] is open_store_threads
    assert "trio_replica._" not in PAGE
