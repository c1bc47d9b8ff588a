"""Power cuts: what is left of files of which not everything was synced, and what a replica makes of that."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import trio_replica as replica
from trio_replica import Ref

from . import sabotage, traffic
from .killing import ROOT, quick_folder
from .powercut.disk import Disk
from .powercut.fates import DrawnFate
from .powercut.recording import record
from .traffic import QUEUE_SIZE, opened_stores, outbox_path, problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .powercut.trace import Call

pytestmark = pytest.mark.strace

CUTS: Final = 100
"""Power cuts for each record. Every sabotage is found within so many."""


def record_traffic(folder: str, *arguments: str) -> list[Call]:
    Path(folder).mkdir()
    return record([sys.executable, "-m", traffic.__name__, "record", folder, *arguments], ROOT)


def acknowledgements(calls: list[Call]) -> list[tuple[int, Ref]]:
    """Return each line of a record on which an acknowledgement began, with its ref."""
    texts = [(call.begin, call.arguments[1]) for call in calls if call.name == "write" and call.arguments[0] == 1]
    words = [(line, text.decode().split()) for line, text in texts if isinstance(text, bytes)]
    return [(line, Ref.from_hex(ref)) for line, (word, *rest) in words if word == "acknowledged" for ref in rest]


def drawn_cuts(seed: str, calls: list[Call]) -> list[int]:
    """Return the lines before which the power is cut: most often right after an acknowledgement."""
    draw = random.Random(f"cuts {seed}")
    after = [line + 1 for line, _ in acknowledgements(calls)]
    lines = range(calls[-1].end + 2)
    return sorted(draw.choice(after) if draw.random() < 0.7 else draw.choice(lines) for _ in range(CUTS))


def power_cuts(folder: str, *arguments: str) -> Iterator[set[Ref]]:
    """Record traffic, and cut the power again and again: ``FOLDER/left`` is what is left each time.

    Yields what was acknowledged until then.
    """
    seed = " ".join(arguments)
    calls = record_traffic(f"{folder}/recorded", *arguments)
    disk = Disk(f"{folder}/recorded", calls)
    for number, line in enumerate(drawn_cuts(seed, calls)):
        disk.advance(line)
        disk.leave(f"{folder}/left", DrawnFate(f"{seed} {number}"))
        yield {ref for begin, ref in acknowledgements(calls) if begin < line}
        shutil.rmtree(f"{folder}/left")


async def check(folder: str, acknowledged: set[Ref]) -> list[str]:
    """Return what is wrong with what a power cut has left, before and after it was opened and has caught up."""
    async with opened_stores(folder, durable=False) as (sync_stores, async_stores):
        found = await problems(sync_stores, acknowledged)
        try:
            async with replica.open(
                sync_stores, async_stores, queue_size=QUEUE_SIZE, outbox=outbox_path(folder)
            ) as store:
                await store.flush()
        except replica.ReplicaError as error:  # pragma: no cover  (after some of the planted mistakes, at some moments)
            found.append(str(error))
        return found + await problems(async_stores, acknowledged)


@pytest.mark.parametrize("seed", ["1", "2", "3", "4"])
async def test_what_was_acknowledged_survives_a_power_cut(seed: str) -> None:
    with quick_folder() as folder:
        for acknowledged in power_cuts(folder, seed):
            assert await check(f"{folder}/left", acknowledged) == []


@pytest.mark.parametrize("mistake", sabotage.SABOTAGES)
async def test_a_planted_mistake_is_found(mistake: Callable[[], None]) -> None:
    with quick_folder() as folder:
        for acknowledged in power_cuts(folder, "1", mistake.__name__):
            if await check(f"{folder}/left", acknowledged):
                return
    pytest.fail("it was not found")  # pragma: no cover


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
