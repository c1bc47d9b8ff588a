"""The identities of stores: stores keep them, replicas compare them, and stores that wrap others pass them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica
from trio_replica import (
    MemoryStore,
    ReplicaError,
    RetryingDeletableStore,
    RetryingStore,
    Store,
    StoreError,
    StoreIdentityError,
    reconcile,
    scrub,
)
from trio_replica._identity import check_mark, is_identity, new_identity
from trio_replica.testing import SimulatedStore

from .common import BROKEN, PlainStore

if TYPE_CHECKING:
    from trio.testing import MockClock

ONE = "0123456789abcdef" * 2
OTHER = "f" * 32


class Told(PlainStore):
    """A store that returns any value as its identity."""

    def __init__(self, answer: object) -> None:
        super().__init__(MemoryStore())
        self.answer = answer

    async def identity(self) -> str | None:
        await trio.lowlevel.checkpoint()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]  # a store may answer with anything


def test_new_identities_differ() -> None:
    some = {new_identity() for _ in range(100)}
    assert len(some) == 100
    assert all(map(is_identity, some))


@pytest.mark.parametrize("text", ["", "f" * 31, "f" * 33, "F" * 32, "f" * 32 + "\n", "٣" * 32, b"f" * 32, 3, None])
def test_nothing_else_is_an_identity(text: object) -> None:
    assert not is_identity(text)


async def test_a_store_has_no_identity_unless_it_says_so() -> None:
    store = PlainStore(MemoryStore())
    assert (store.is_durable, store.is_read_only) == (True, False)
    with trio.testing.assert_checkpoints():
        assert await store.identity() is None
    with trio.testing.assert_checkpoints():
        await store.set_session_mark(ONE)
    with trio.testing.assert_checkpoints():
        assert await store.session_mark() is None


async def test_a_memory_store_has_the_identity_that_it_was_given() -> None:
    store = MemoryStore(identity=ONE)
    assert not store.is_durable
    with trio.testing.assert_checkpoints():
        assert await store.identity() == ONE
    with trio.testing.assert_checkpoints():
        assert await store.session_mark() is None
    with trio.testing.assert_checkpoints():
        await store.set_session_mark(OTHER)
    assert await store.session_mark() == OTHER


async def test_a_memory_store_is_given_a_new_identity() -> None:
    store = MemoryStore(identity=ONE)
    await store.set_session_mark(OTHER)
    retrying = RetryingStore(store)
    assert isinstance(retrying, RetryingDeletableStore)
    with trio.testing.assert_checkpoints():
        new = await retrying.renew_identity()
    assert is_identity(new)
    assert new != ONE
    assert (await store.identity(), await store.session_mark()) == (new, None)
    assert await MemoryStore().renew_identity() is None


async def test_by_default_a_store_that_can_delete_has_no_identity_to_renew() -> None:
    store = SimulatedStore()
    with trio.testing.assert_checkpoints():
        assert await store.renew_identity() is None


async def test_a_memory_store_without_an_identity_keeps_no_mark() -> None:
    store = MemoryStore()
    await store.set_session_mark(OTHER)
    assert (await store.identity(), await store.session_mark()) == (None, None)


@pytest.mark.parametrize(("bad", "said"), [("x", "'x'"), (None, "None"), ("F" * 32, f"'{'F' * 32}'")])
def test_a_bad_mark_is_refused(bad: Any, said: str) -> None:
    assert check_mark(ONE) == ONE
    with pytest.raises(ValueError, match=f"^the mark of a session is 32 lowercase hex digits, not {said}$"):
        check_mark(bad)


def test_a_bad_identity_is_refused() -> None:
    with pytest.raises(ValueError, match="an identity is 32 lowercase hex digits, not 'ABC'"):
        MemoryStore(identity="ABC")


async def test_a_retrying_store_is_the_store_that_it_repeats() -> None:
    inner = MemoryStore(identity=ONE)
    store = RetryingStore(inner)
    await store.set_session_mark(OTHER)
    assert (await store.identity(), await store.session_mark(), await inner.session_mark()) == (ONE, OTHER, OTHER)
    assert (store.is_durable, store.is_read_only) == (False, False)


async def test_a_retrying_store_asks_again_who_it_is(autojump_clock: MockClock) -> None:
    inner = Told(BROKEN)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            await trio.sleep(0.01)
            inner.answer = ONE

        assert await RetryingStore(inner).identity() == ONE


async def test_a_replica_is_as_durable_as_its_best_sync_store() -> None:
    async with trio_replica.open([MemoryStore(), MemoryStore()]) as store:
        assert not store.is_durable
        assert await store.identity() is None
    async with trio_replica.open([MemoryStore(), PlainStore(MemoryStore())], [MemoryStore()]) as store:
        assert store.is_durable


async def test_two_stores_with_one_identity_are_one() -> None:
    stores = {"a": MemoryStore(identity=ONE), "b": MemoryStore(identity=ONE)}
    text = f"'a' and 'b' are one store, with the identity {ONE}: name two stores"
    with pytest.raises(ValueError, match=text):
        async with trio_replica.open(stores):
            raise AssertionError  # pragma: no cover
    with pytest.raises(ValueError, match=text):
        async with trio_replica.open({"a": stores["a"]}, {"b": stores["b"]}):
            raise AssertionError  # pragma: no cover
    for check in (reconcile, scrub):
        with pytest.raises(ValueError, match=text):
            await check(stores)


async def test_stores_with_identities_of_their_own_are_several() -> None:
    stores = [MemoryStore(identity=ONE), MemoryStore(identity=OTHER), MemoryStore(), MemoryStore()]
    async with trio_replica.open(stores) as store:
        await store.put(b"x")
    assert (await reconcile(stores)).complete
    assert (await scrub(stores)).is_sound


@pytest.mark.parametrize("answer", [StoreIdentityError("disk", ONE, OTHER), BROKEN, "me", 5])
async def test_a_store_that_does_not_say_who_it_is_is_refused(answer: object) -> None:
    with pytest.raises(StoreError) as caught:
        async with trio_replica.open({"a": MemoryStore(), "b": Told(answer)}):
            raise AssertionError  # pragma: no cover
    failure = caught.value.failures["b"]
    if isinstance(answer, Exception):
        assert failure is answer
    else:
        assert isinstance(failure, ReplicaError)
        assert str(failure) == f"an identity is 32 lowercase hex digits, not {answer!r}"
    assert caught.value.operation == "identity"


def test_a_store_that_is_only_read_is_part_of_no_replica() -> None:
    class Snapshot(PlainStore):
        is_read_only = True

    snapshot = Snapshot(MemoryStore())
    assert isinstance(snapshot, Store)
    text = "old was opened with read_only=True, and a replica writes to its stores: open it without read_only"
    with pytest.raises(ValueError, match=text):
        trio_replica.open({"old": snapshot})
    with pytest.raises(ValueError, match=text):
        trio_replica.open([MemoryStore()], {"old": snapshot})
    assert RetryingStore(snapshot).is_read_only


async def test_a_store_that_does_not_tell_its_identity_is_left_out_of_a_reconcile_and_a_scrub() -> None:
    """It may be one of the others by a second name, and then its copies are no second ones."""

    class Silent(MemoryStore):  # type: ignore[misc]
        async def identity(self) -> str | None:
            await trio.lowlevel.checkpoint()
            raise OSError("away")

    silent, full, empty = Silent(), MemoryStore(identity=ONE), MemoryStore(identity=OTHER)
    await full.put(b"data")
    stores = {"silent": silent, "full": full, "empty": empty}
    report = await reconcile(stores)
    assert (len(silent), len(empty), report.complete) == (0, 1, True)
    error = "it does not tell its identity: OSError: away"
    assert {name: str(failure) for name, failure in report.failures.items()} == {"silent": error}
    scrubbed = await scrub(stores, repair=True)
    assert {name: str(failure) for name, failure in scrubbed.failures.items()} == {"silent": error}
    assert [counts.refs for counts in scrubbed.stores.values()] == [0, 1, 1]
    assert not scrubbed.is_sound
    assert not (await scrub([silent])).is_sound
    assert (await reconcile([silent])).failures.keys() == {"store-0"}
