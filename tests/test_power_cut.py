"""Power cuts: what is left of files of which not everything was synced, and what a replica makes of that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from . import sabotage
from .cutting import CUTS, Cuts, cut_power, record_traffic
from .killing import quick_folder
from .powercut.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.strace

SEEDS: Final = ("1", "2", "3", "4")


async def cut_power_of(records: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Cuts]:
    """Cut the power for several records at the same time."""

    async def cut(record: tuple[str, ...]) -> None:
        with quick_folder() as folder:
            ended[record] = await cut_power(folder, *record)

    ended: dict[tuple[str, ...], Cuts] = {}
    async with trio.open_nursery() as nursery:
        for record in records:
            nursery.start_soon(cut, record)
    return ended


async def test_what_was_acknowledged_survives_a_power_cut() -> None:
    records = [(seed,) for seed in SEEDS]
    assert await cut_power_of(records) == dict.fromkeys(records, Cuts(CUTS, []))


async def test_a_planted_mistake_is_found() -> None:
    ended = await cut_power_of([("1", mistake.__name__) for mistake in sabotage.SABOTAGES])
    assert len(ended) == len(sabotage.SABOTAGES)
    assert [record for record, cuts in ended.items() if not cuts.problems] == []


def test_the_model_of_the_disk_does_what_the_disk_does() -> None:
    class Luck:
        def keeps(self) -> bool:
            return True

        def parts(self, size: int, offset: int) -> list[slice]:  # pragma: no cover  (all is synced at the end)
            return [slice(0, size)]

    def tree(folder: str) -> dict[str, bytes | None]:
        paths = sorted(Path(folder).rglob("*"))
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}

    with quick_folder() as folder:
        calls = record_traffic(f"{folder}/recorded", "1")
        disk = Disk(f"{folder}/recorded", calls)
        disk.advance(calls[-1].end + 1)
        disk.leave(f"{folder}/left", Luck())
        assert tree(f"{folder}/left") == tree(f"{folder}/recorded")
        assert len(tree(f"{folder}/left")) > 500
