"""Power cuts again and again, in a process of its own: there, nothing is slowed down by the measuring of coverage.

``python -m tests.cutting FOLDER SEED [SABOTAGE…]`` records traffic, cuts the power at moments that the seed draws, and
prints how often it has been cut, and what was wrong with what the last cut left. It ends once something is.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

import trio_replica as replica
from trio_replica import Ref

from . import traffic
from .killing import ROOT
from .powercut.disk import Disk
from .powercut.fates import DrawnFate
from .powercut.recording import record
from .traffic import QUEUE_SIZE, opened_stores, outbox_path, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .powercut.trace import Call

CUTS: Final = 100
"""Power cuts for each record. Every sabotage is found within so many."""


class Cuts(NamedTuple):
    """The number of power cuts made, and the problems found."""

    number: int
    problems: list[str]
    """The problems after the last of them."""


async def cut_power(folder: str, *arguments: str) -> Cuts:
    """Cut the power again and again in a process of its own, with a seed and the names of sabotages."""
    command = [sys.executable, "-m", __name__, folder, *arguments]
    ended = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
    return Cuts(*json.loads(ended.stdout))


def record_traffic(folder: str, *arguments: str) -> list[Call]:
    Path(folder).mkdir()
    return record([sys.executable, "-m", traffic.__name__, "record", folder, *arguments], ROOT)


# The work of the process


def acknowledgements(calls: list[Call]) -> list[tuple[int, Ref]]:  # pragma: no cover  (runs in a process of its own)
    """Return each line of a record on which an acknowledgement began, with its ref."""
    texts = [(call.begin, call.arguments[1]) for call in calls if call.name == "write" and call.arguments[0] == 1]
    words = [(line, text.decode().split()) for line, text in texts if isinstance(text, bytes)]
    return [(line, Ref.from_hex(ref)) for line, (word, *rest) in words if word == "acknowledged" for ref in rest]


def drawn_cuts(seed: str, calls: list[Call]) -> list[int]:  # pragma: no cover  (runs in a process of its own)
    """Return the lines before which the power is cut: most often right after an acknowledgement."""
    draw = random.Random(f"cuts {seed}")
    after = [line + 1 for line, _ in acknowledgements(calls)]
    lines = range(calls[-1].end + 2)
    return sorted(draw.choice(after) if draw.random() < 0.7 else draw.choice(lines) for _ in range(CUTS))


def power_cuts(folder: str, *arguments: str) -> Iterator[set[Ref]]:  # pragma: no cover  (runs in a process of its own)
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


async def check(folder: str, acknowledged: set[Ref]) -> list[str]:  # pragma: no cover  (runs in a process of its own)
    """Return what is wrong with what a power cut has left, before and after it was opened and has caught up."""
    found: list[str] = []
    try:
        async with opened_stores(folder, durable=False) as (sync_stores, async_stores):
            found += await problems(sync_stores, acknowledged)
            try:
                async with replica.open(
                    sync_stores, async_stores, queue_size=QUEUE_SIZE, outbox=outbox_path(folder)
                ) as store:
                    await store.flush()
            except replica.ReplicaError as error:
                found.append(str(error))
            found += await problems(async_stores, acknowledged)
    except replica.ReplicaError as error:  # of a store that can't be opened
        found.append(str(error))
    return found


async def main(folder: str, *arguments: str) -> None:  # pragma: no cover  (runs in a process of its own)
    cuts = Cuts(0, [])
    for acknowledged in power_cuts(folder, *arguments):
        cuts = Cuts(cuts.number + 1, await check(f"{folder}/left", acknowledged))
        if cuts.problems:
            break
    print(json.dumps(cuts))


if __name__ == "__main__":  # pragma: no cover  (runs in a process of its own)
    trio.run(partial(main, *sys.argv[1:]))
