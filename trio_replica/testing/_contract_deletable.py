"""The tests that every store that can delete blobs passes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from .._blob import Ref
from .._deletable import DeletableStore, Integrity
from .._errors import BlobNotFoundError
from ._contract_parts import ABSENT, ContractPart, assert_raises, skip, some_blobs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


class DeletableContract(ContractPart):
    """The behaviours that `DeletableStore` promises. Other stores skip these tests."""

    async def test_delete(self) -> None:
        """A deleted blob is gone, and can be put again."""
        async with self._open_deletable() as store:
            await store.put_many([b"one", b"two"])
            with trio.testing.assert_checkpoints():
                assert await store.delete(Ref.of(b"one")) is True
            with trio.testing.assert_checkpoints():
                assert await store.delete(Ref.of(b"one")) is False
            await assert_raises(BlobNotFoundError, store.get, Ref.of(b"one"))
            assert [ref async for ref in store.list_refs()] == [Ref.of(b"two")]
            assert (await store.put(b"one")).added is True
            assert [ref async for ref in store.list_refs()] == sorted([Ref.of(b"one"), Ref.of(b"two")])
            bad: Any = bytes(ABSENT)
            await assert_raises(TypeError, store.delete, bad)

    async def test_replace(self) -> None:
        """The blob is there afterwards, whether it was before or not."""
        async with self._open_deletable() as store:
            await store.put(b"old")
            for data in (b"old", b"new"):
                with trio.testing.assert_checkpoints():
                    await store.replace(data)
                assert await store.get(Ref.of(data)) == data
                assert (await store.put(data)).added is False
            assert [ref async for ref in store.list_refs()] == sorted([Ref.of(b"old"), Ref.of(b"new")])
            bad: Any = "text"
            await assert_raises(TypeError, store.replace, bad)

    async def test_what_is_stored_is_what_was_put(self) -> None:
        """Reading past the store's caches finds the same blobs, and no others."""
        async with self._open_deletable() as store:
            for data in (b"", *some_blobs(5)):
                ref, _ = await store.put(data)
                with trio.testing.assert_checkpoints():
                    assert await store.get_stored(ref) == data
            with trio.testing.assert_checkpoints():
                await assert_raises(BlobNotFoundError, store.get_stored, ABSENT)
            bad: Any = bytes(ABSENT)
            await assert_raises(TypeError, store.get_stored, bad)

    async def test_what_is_set_aside_stays_as_it_was(self) -> None:
        """Whether a copy is kept or not, the blob is still there, and can be replaced."""
        async with self._open_deletable() as store:
            ref, _ = await store.put(b"damaged")
            for _ in range(2):  # it may be repeated
                with trio.testing.assert_checkpoints():
                    place = await store.set_aside(ref)
                assert place is None or (isinstance(place, str) and place), "where the copy is, in words"
                assert await store.get(ref) == b"damaged"
            await store.replace(b"damaged")
            assert await store.get(ref) == b"damaged"
            assert [ref async for ref in store.list_refs()] == [ref]
            bad: Any = bytes(ref)
            await assert_raises(TypeError, store.set_aside, bad)

    async def test_a_copy_that_is_set_aside_is_no_blob(self) -> None:
        """Once the blob itself is deleted, nothing shows that there is a copy."""
        async with self._open_deletable() as store:
            blobs = some_blobs(5)
            refs = sorted(result.ref for result in await store.put_many(blobs))
            for ref in refs:
                await store.set_aside(ref)
            assert [ref async for ref in store.list_refs()] == refs
            for ref in refs:
                assert await store.delete(ref) is True
                assert await store.contains(ref) is False
                await assert_raises(BlobNotFoundError, store.get, ref)
            assert [ref async for ref in store.list_refs()] == []
            assert [result.added for result in await store.put_many(blobs)] == [True] * 5

    async def test_what_is_missing_is_not_set_aside(self) -> None:
        """Setting aside a missing blob keeps nothing."""
        async with self._open_deletable() as store:
            await store.put(b"another")
            for ref in (ABSENT, Ref.ZERO):
                with trio.testing.assert_checkpoints():
                    assert await store.set_aside(ref) is None
                assert await store.contains(ref) is False
            assert [ref async for ref in store.list_refs()] == [Ref.of(b"another")]

    async def test_a_sound_store_finds_nothing_wrong(self) -> None:
        """A check finds no problem in an empty or full store, and changes no blob."""
        blobs = some_blobs(30)
        async with self._open_deletable() as store:
            for some in ([], blobs):
                await store.put_many(some)
                with trio.testing.assert_checkpoints():
                    assert await store.check_integrity() == Integrity()
                await _assert_has(store, some)

    async def test_repairing_a_sound_store_loses_nothing(self) -> None:
        """A repair may be made at any time, and loses no blob."""
        blobs = some_blobs(30)
        async with self._open_deletable() as store:
            for some in ([], blobs, blobs):
                await store.put_many(some)
                with trio.testing.assert_checkpoints():
                    await store.repair_integrity()
                await _assert_has(store, some)
            assert (await store.check_integrity()).is_sound
            assert (await store.put(b"more")).added is True
            assert await store.delete(Ref.of(b"more")) is True

    async def test_deleting_and_repairing_cancelled_at_once(self) -> None:
        """A cancelled call leaves the store usable, and can be repeated."""
        blobs = some_blobs(5)
        async with self._open_deletable() as store:
            await store.put_many(blobs)
            calls: list[tuple[Callable[..., Awaitable[object]], list[object]]] = [
                (store.replace, [blobs[0]]),
                (store.delete, [ABSENT]),
                (store.set_aside, [Ref.of(blobs[0])]),
                (store.check_integrity, []),
                (store.repair_integrity, []),
            ]
            for method, arguments in calls:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await method(*arguments)
                assert scope.cancelled_caught
            await store.put(blobs[0])  # a `replace` that deletes first may have been cancelled in between
            await _assert_has(store, blobs)
            for method, arguments in calls:
                await method(*arguments)
            await _assert_has(store, blobs)

    @asynccontextmanager
    async def _open_deletable(self) -> AsyncGenerator[DeletableStore, None]:
        async with self.open_store() as store:
            if not isinstance(store, DeletableStore):
                skip("the store can't delete")
            yield store


async def _assert_has(store: DeletableStore, blobs: list[bytes]) -> None:
    """Check that a store has these blobs and no others."""
    refs = list(map(Ref.of, blobs))
    assert [ref async for ref in store.list_refs()] == sorted(refs)
    assert await store.get_many(refs) == dict(zip(refs, blobs, strict=True))
