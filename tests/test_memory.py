"""The store in memory, and its index of refs against a model."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from trio_replica import MemoryStore, Ref
from trio_replica.stores.memory import _RefIndex
from trio_replica.testing import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Step: TypeAlias = tuple[str, int, int]

NUMBERS = 4096


def ref_number(number: int) -> Ref:
    # Scattered, as the refs of real blobs are: the multiplier is odd, so no two numbers have the same ref.
    return Ref((number * 2654435761 % NUMBERS).to_bytes(32, "big"))


REFS = [ref_number(number) for number in range(1, NUMBERS)]


class TestMemoryStore(StoreContract):
    @asynccontextmanager
    async def open_store(self) -> AsyncGenerator[MemoryStore, None]:
        yield MemoryStore()


async def test_it_shows_how_many_blobs_it_has() -> None:
    store = MemoryStore()
    assert repr(store) == "<MemoryStore of 0 blobs>"
    await store.put_many([b"a", b"b", b"a"])
    assert repr(store) == "<MemoryStore of 2 blobs>"
    assert len(store) == 2
    assert await store.delete(Ref.of(b"a"))
    assert not await store.delete(Ref.of(b"a"))
    assert len(store) == 1


async def test_it_keeps_the_very_bytes() -> None:
    store = MemoryStore()
    data = bytes(1000)
    ref, _ = await store.put(data)
    assert await store.get(ref) is data
    assert (await store.get_many([ref]))[ref] is data


async def test_replace_adds_what_is_not_there() -> None:
    store = MemoryStore()
    await store.replace(b"hello")
    assert [ref async for ref in store.list_refs()] == [Ref.of(b"hello")]
    assert not (await store.put(b"hello")).added


async def test_replace_repairs_what_is_there() -> None:
    store = MemoryStore()
    ref, _ = await store.put(b"hello")
    store._blobs[ref] = b"damaged"
    await store.replace(b"hello")
    assert await store.get(ref) == b"hello"
    assert [ref async for ref in store.list_refs()] == [ref]


async def test_a_blob_that_came_back_hides_no_other() -> None:
    """The index once showed a ref that was removed and came again twice, and left out others for it."""
    store = MemoryStore()
    blobs = [b"%d" % i for i in range(1100)]
    refs = sorted(map(Ref.of, blobs))
    data = {Ref.of(blob): blob for blob in blobs}
    await store.put_many(data[ref] for ref in refs[2:])
    await store.list_page(Ref.ZERO, 1)
    await store.put(data[refs[0]])
    await store.delete(refs[0])
    await store.put_many([data[refs[0]], data[refs[1]]])
    assert await store.list_page(Ref.ZERO, 2) == refs[:2]


async def test_every_call_is_a_checkpoint() -> None:
    store = MemoryStore()
    ref = Ref.of(b"hello")
    for call in (
        lambda: store.put(b"hello"),
        lambda: store.put_many([]),
        lambda: store.get(ref),
        lambda: store.get_many([]),
        lambda: store.contains(ref),
        lambda: store.list_page(Ref.ZERO, 1),
        lambda: store.replace(b"hello"),
        lambda: store.delete(ref),
        lambda: store.delete(ref),
    ):
        with trio.testing.assert_checkpoints():
            await call()


async def test_a_cancelled_call_does_nothing() -> None:
    store = MemoryStore()
    ref, _ = await store.put(b"hello")
    for call in (lambda: store.put(b"other"), lambda: store.put_many([b"other"]), lambda: store.delete(ref)):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught
    assert [shown async for shown in store.list_refs()] == [ref]


# The index

STEPS = st.one_of(
    st.tuples(st.sampled_from(["add", "remove", "toggle"]), st.integers(0, NUMBERS - 2), st.integers(1, 5)),
    st.tuples(st.sampled_from(["add", "remove", "toggle"]), st.integers(0, 5), st.sampled_from([1001, 1300, NUMBERS])),
    st.tuples(st.just("page"), st.integers(0, NUMBERS - 1), st.sampled_from([1, 2, 3, 10, 1000, NUMBERS, 2**70])),
)


@given(st.lists(STEPS, max_size=12))
@example([("add", 0, 1300), ("page", 0, 1), ("add", 2000, 3), ("remove", 2000, 3), ("add", 2000, 5), ("page", 0, 2)])
@example([("add", 0, NUMBERS), ("page", 0, 1), ("remove", 0, 1300), ("page", 0, 1), ("add", 0, 5), ("page", 0, 3)])
def test_index_against_a_model(program: list[Step]) -> None:
    check_program(_RefIndex(), program)


@given(st.lists(STEPS, max_size=12))
def test_an_index_of_short_runs_against_a_model(program: list[Step]) -> None:
    index = _RefIndex(recent_limit=5, run_limit=40)
    check_program(index, program)
    assert all(len(run) <= 40 for run in index._runs)


def check_program(index: _RefIndex, program: list[Step]) -> None:
    model: set[Ref] = set()
    for what, start, count in program:
        if what == "page":
            after = Ref(start.to_bytes(32, "big"))
            check_page(index, model, after, count)
        else:
            for ref in REFS[start : start + count]:
                if ref not in model and what != "remove":
                    index.add(ref)
                    model.add(ref)
                elif ref in model and what != "add":
                    index.remove(ref)
                    model.remove(ref)
    check_page(index, model, Ref.ZERO, NUMBERS)
    assert listed(index, 100) == sorted(model)


def check_page(index: _RefIndex, model: set[Ref], after: Ref, limit: int) -> None:
    expected = sorted(ref for ref in model if ref > after)[:limit]
    page = index.page(after, limit)
    assert page == expected[: len(page)]
    assert bool(page) == bool(expected)


def listed(index: _RefIndex, limit: int) -> list[Ref]:
    shown: list[Ref] = []
    after = Ref.ZERO
    while page := index.page(after, limit):
        shown += page
        after = page[-1]
    return shown


def test_no_step_moves_more_than_one_run() -> None:
    index = _RefIndex(recent_limit=10, run_limit=80)
    for ref in REFS:
        runs = {id(run) for run in index._runs}
        index.add(ref)
        moved = [run for run in index._runs if id(run) not in runs]
        assert sum(map(len, moved)) <= 80
    assert len(index._runs) <= 2 * len(REFS) // 80 + 3


def test_refs_that_were_removed_are_forgotten() -> None:
    index = _RefIndex(recent_limit=10, run_limit=80)
    for ref in REFS:
        index.add(ref)
    for ref in REFS[:-5]:
        index.remove(ref)
    assert len(index._removed) < 200
    assert index.page(Ref.ZERO, 10) == sorted(REFS[-5:])


def test_a_page_gets_past_many_that_were_removed() -> None:
    index = _RefIndex()
    for ref in REFS:
        index.add(ref)
    index.page(Ref.ZERO, 1)
    in_order = sorted(REFS)
    for ref in in_order[:1200]:
        index.remove(ref)
    assert index.page(Ref.ZERO, 1) == in_order[1200:1201]
    assert index._removed  # so nothing was sorted again
