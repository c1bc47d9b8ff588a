"""The tests that the answers of a store agree with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._blob import Ref
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from ._contract_parts import ABSENT, ContractPart, skip, some_blobs

if TYPE_CHECKING:
    from collections.abc import Collection

    from .._store import Store


class AgreementContract(ContractPart):
    """The results of puts, ``get``, ``get_many``, ``contains`` and the listing agree about every blob."""

    async def test_its_answers_agree_after_puts(self) -> None:
        """All answers show each blob once its put has returned, even if it was there before."""
        blobs = some_blobs(12)
        async with self.open_store() as store:
            await _assert_agrees(store, [], blobs)
            for count, data in enumerate(blobs[:6], 1):
                assert (await store.put(data)).added is True
                await _assert_agrees(store, blobs[:count], blobs)
            results = await store.put_many(blobs[3:])
            assert [result.added for result in results] == [False] * 3 + [True] * 6
            await _assert_agrees(store, blobs, [])
            for data in blobs:
                assert (await store.put(data)).added is False
            await _assert_agrees(store, blobs, [])

    async def test_its_answers_agree_after_deletions(self) -> None:
        """No answer shows a deleted blob, and all answers show a replaced one."""
        blobs = some_blobs(6)
        async with self.open_store() as store:
            if not isinstance(store, DeletableStore):
                skip("the store can't delete")
            await store.put_many(blobs)
            for count, data in enumerate(blobs[:3], 1):
                assert await store.delete(Ref.of(data)) is True
                await _assert_agrees(store, blobs[count:], blobs)
            for count, data in enumerate(blobs[:3], 1):
                await store.replace(data)
                await _assert_agrees(store, blobs[:count] + blobs[3:], blobs)


async def _assert_agrees(store: Store, present: Collection[bytes], others: Collection[bytes]) -> None:
    """Check that all answers of a store show the present blobs and no others."""
    listed = [ref async for ref in store.list_refs()]
    assert listed == sorted(map(Ref.of, present)), "a listing shows what is there"
    asked = {Ref.of(data): data for data in (*present, *others)}
    there = {ref: data for ref, data in asked.items() if data in present}
    assert await store.get_many([*asked, ABSENT]) == there, "a get_many finds what is there"
    for ref, data in asked.items():
        try:
            got: bytes | None = await store.get(ref)
        except BlobNotFoundError:
            got = None
        assert got == (data if ref in there else None), "a get finds what is there"
        assert await store.contains(ref) is (ref in there), "contains says what is there"
