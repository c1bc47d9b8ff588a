"""The store that the documentation builds: it passes the contract, and keeps the promises that the page speaks of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

from trio_replica import Ref, open_store_threads

from .held import in_one_batch

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parent.parent / "docs" / "own-store.md").read_text()
NAMES: dict[str, Any] = {}
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


def test_it_is_made_of_what_is_public() -> None:
    assert NAMES["open_store_threads"] is open_store_threads
    assert "trio_replica._" not in PAGE
