"""The commands on a store that contradicts itself: their messages and exit status."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trio_replica import MemoryStore, Ref
from trio_replica.testing import Lie, LyingStore

from . import test_cli
from .common import BROKEN, put_numbers, refs
from .schemes import open_with_function

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_replica import DeletableStore

    from .test_cli import Run

run = test_cli.run

URLS = ("--sync", "dir:index", "--sync", "dir:other")
COUNT = 40
LAST = max(refs(*range(COUNT)))


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch, run: Run) -> LyingStore:
    """Return the store that ``dir:index`` means; ``dir:other`` has the same blobs, and does not lie."""
    store, other = LyingStore(MemoryStore()), MemoryStore()
    stores: dict[str, DeletableStore] = {"index": store, "other": other}

    @asynccontextmanager
    async def open_directory(path: str) -> AsyncGenerator[DeletableStore, None]:
        await trio.lowlevel.checkpoint()
        yield stores[path]

    async def fill() -> None:
        for path, one in stores.items():
            Path(path, "blobs", "00").mkdir(parents=True)  # commands that only look want a store that is there
            await put_numbers(one, range(COUNT))

    open_with_function(monkeypatch, open_directory, "dir")
    trio.run(fill)
    return store


def test_reconcile_names_a_put_after_which_nothing_is_there(run: Run, liar: LyingStore) -> None:
    liar.lie(Lie.DROPS)
    trio.run(liar.delete, LAST)
    ended = run("reconcile", *URLS)
    assert ended.problems == [f"dir:index: put of {LAST}: the put returned, but it is not there"]
    assert ended.status == 1
    liar.recover()
    assert run("reconcile", *URLS).status == 0


def test_reconcile_asks_for_all_if_it_is_told_to(run: Run, liar: LyingStore) -> None:
    asked: list[Ref] = []

    async def contains(ref: Ref) -> bool:
        asked.append(ref)
        return await LyingStore.contains(liar, ref)

    liar.contains = contains  # type: ignore[method-assign]
    liar.lie(Lie.LISTS, LAST, until_written=False)
    assert run("reconcile", "--dry-run", *URLS).status in {0, 1}, "it may be one of those that are asked for"
    assert len({*asked}) == 16
    ended = run("reconcile", "--dry-run", "--ask-all", *URLS)
    assert ended.problems == [f"dir:index: contains of {LAST}: it is listed, but not there"]
    assert ended.status == 1
    assert len({*asked}) == COUNT


def test_scrub_prints_a_contradiction_and_repairs_it(run: Run, liar: LyingStore) -> None:
    liar.lie(Lie.LISTS, LAST)
    ended = run("scrub", *URLS)
    assert ended.out.decode().splitlines()[0] == f"dir:index  {LAST}  it is listed, but not there"
    assert ended.status == 1
    ended = run("scrub", "--repair", *URLS)
    line = f"dir:index  {LAST}  it is listed, but not there; repaired from dir:other"
    assert ended.out.decode().splitlines()[0] == line
    assert ended.status == 0
    assert run("scrub", *URLS).status == 0


def test_a_question_that_fails_is_no_yes(run: Run, liar: LyingStore) -> None:
    async def contains(ref: Ref) -> bool:
        if ref == LAST:
            raise BROKEN
        return await LyingStore.contains(liar, ref)

    liar.contains = contains  # type: ignore[method-assign]
    ended = run("reconcile", "--ask-all", *URLS)
    assert ended.problems == [f"dir:index: contains of {LAST}: OSError: broken"]
    line = "dir:index  unanswered: it may lack 1 of its refs: run this again, or scrub"
    assert ended.out.decode().splitlines()[3:] == [line]
    assert ended.status == 1
    ended = run("scrub", *URLS)
    lines = ended.out.decode().splitlines()
    assert lines[0] == f"dir:index  {LAST}  another question about it failed: OSError: broken"
    assert lines[4:] == ["dir:index  unanswered: 1, because another question about the blob failed: scrub again"]
    assert ended.status == 1
