"""The mappings in statistics and reports: nobody can change them, and they can be copied, pickled and shown as JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import pickletools
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_replica as replica
from trio_replica import MemoryStore, ReplicaError
from trio_replica._frozen import FrozenDict
from trio_replica.testing import SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Callable

MAPPINGS = {
    "ReplicaStatistics": ["sync_stores", "async_stores"],
    "ReconcileReport": ["stores", "failures"],
    "ScrubReport": ["stores", "problems", "repaired", "failures"],
}
"""The mappings of each class."""


class OddError(Exception):
    """An exception that can be pickled, but not read back."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


async def snapshots(failure: Exception | None = None) -> list[Any]:
    """Return statistics and reports of stores of which one may fail."""
    broken = SimulatedStore()
    if failure is not None:
        broken.fail(failure, "list_page")
    store = MemoryStore()
    async with replica.open({"a": store}, {"b": MemoryStore()}) as opened:
        await opened.put(b"hello")
        statistics = opened.statistics()
    stores = {"a": store, "b": broken}
    return [statistics, await replica.reconcile(stores), await replica.scrub(stores)]


@pytest.mark.parametrize("change", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
async def test_a_copy_is_equal_and_frozen(autojump_clock: object, change: Callable[[Any], Any]) -> None:
    for snapshot in await snapshots():
        again = change(snapshot)
        assert again == snapshot
        for name in MAPPINGS[type(snapshot).__name__]:
            mapping: Any = getattr(again, name)
            with pytest.raises(TypeError, match="read-only"):
                mapping["c"] = 1
            assert change(mapping) == getattr(snapshot, name)


async def test_a_snapshot_becomes_dictionaries(autojump_clock: object) -> None:
    statistics, reconciled, scrubbed = map(dataclasses.asdict, await snapshots())
    assert json.loads(json.dumps(statistics))["sync_stores"]["a"]["puts"] == 1
    assert reconciled["stores"]["b"]["copied"] == 1
    assert scrubbed["stores"]["a"]["refs"] == 1


async def test_a_pickle_names_what_is_public(autojump_clock: object) -> None:
    for snapshot in await snapshots(OSError("x")):
        parts = [str(part) for _, part, _ in pickletools.genops(pickle.dumps(snapshot))]
        assert {part for part in parts if part.startswith("trio_replica")} == {"trio_replica"}


async def test_a_failure_that_can_not_be_pickled_is_described(autojump_clock: object) -> None:
    for snapshot in (await snapshots(OddError("one", "two")))[1:]:
        failure = pickle.loads(pickle.dumps(snapshot)).failures["b"]
        assert (type(failure), str(failure)) == (ReplicaError, "OddError('one two')")


async def test_a_failure_in_statistics_that_can_not_be_pickled_is_described(autojump_clock: object) -> None:
    broken = SimulatedStore()
    broken.fail(OddError("one", "two"), "put")
    with pytest.raises(replica.PoisonedError):
        async with replica.open([MemoryStore()], {"b": broken}) as store:
            await store.put(b"hello")
            await store.wait_poisoned()
            statistics = store.statistics()
    counts = statistics.async_stores["b"]
    assert isinstance(counts.failure, OddError)
    again = pickle.loads(pickle.dumps(statistics)).async_stores["b"]
    assert dataclasses.replace(again, failure=None) == dataclasses.replace(counts, failure=None)
    assert str(again.failure) == "OddError('one two')"


async def test_what_is_not_replicated_is_frozen() -> None:
    async with replica.open([MemoryStore()], {"b": MemoryStore()}) as store:
        await trio.lowlevel.checkpoint()
        assert copy.deepcopy(store.unreplicated) == {"b": ()}


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.__setitem__("a", 2),
        lambda it: it.__delitem__("a"),
        lambda it: it.__ior__({"b": 2}),
        lambda it: it.clear(),
        lambda it: it.pop("a"),
        lambda it: it.popitem(),
        lambda it: it.setdefault("b", 2),
        lambda it: it.update(b=2),
    ],
)
def test_every_change_is_refused(change: Callable[[Any], object]) -> None:
    mapping = FrozenDict({"a": 1})
    with pytest.raises(TypeError, match=r"^this mapping is read-only: copy it with dict\(…\)$"):
        change(mapping)
    assert mapping == {"a": 1}
    assert mapping | {"b": 2} == {"a": 1, "b": 2}
