"""Processes without an outbox that are killed in the middle of puts: `reconcile` makes up for it."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from .killing import KILLED, fork_server, quick_folder


@pytest.mark.deep
async def test_after_a_kill_reconcile_copies_all_that_was_acknowledged_to_every_store() -> None:
    copied = 0
    with quick_folder() as folder:
        async with fork_server() as server:
            for seed in range(4):
                os.mkdir(f"{folder}/{seed}")
                draw = random.Random(seed)
                acknowledged: set[str] = set()
                for _ in range(10):
                    count = draw.randrange(1, 100)
                    told = await server.run(
                        "put_without_outbox", f"{folder}/{seed}", f"{seed} {count}", kill_after=("acknowledged", count)
                    )
                    assert told["ended"] == KILLED
                    acknowledged.update(told["acknowledged"])
                    told = await server.run("reconcile", f"{folder}/{seed}", *acknowledged)
                    assert (told["problem"], told["ended"]) == ([], ["0"])
                    copied += int(told["copied"][0])
                shutil.rmtree(f"{folder}/{seed}")
    assert copied > 100
