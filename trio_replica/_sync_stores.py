"""The sync stores of a replica: a write goes to all, a get to the first good answer, a listing is their union."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import outcome

from ._blob import HASH_INLINE_LIMIT, Blob, to_blob, to_blobs
from ._errors import BlobNotFoundError, CorruptBlobError, StoreError
from ._fan_out import fan_out
from ._statistics import SyncStoreStatistics
from ._store import check_results
from ._union import check_page, union

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ._blob import Ref
    from ._fan_out import Ended
    from ._store import PutResult, Store


class _SyncStore:
    """A sync store with its name and its counts."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.puts = 0
        self.put_failures = 0
        self.gets_won = 0
        self.get_failures = 0


class _Answers(NamedTuple):
    """What one store answered to a `get_many`."""

    good: dict[Ref, bytes]
    corrupt: dict[Ref, CorruptBlobError]


@final
class SyncStores:
    """The sync stores of one replica, in the order in which they are preferred."""

    def __init__(self, stores: Mapping[str, Store], hedge_delay: float, verify: bool) -> None:
        self._members = [_SyncStore(name, store) for name, store in stores.items()]
        self._hedge_delay = hedge_delay
        self._verify = verify

    @property
    def names(self) -> list[str]:
        return [member.name for member in self._members]

    def statistics(self) -> dict[str, SyncStoreStatistics]:
        return {
            member.name: SyncStoreStatistics(member.puts, member.put_failures, member.gets_won, member.get_failures)
            for member in self._members
        }

    async def put(self, blob: Blob) -> PutResult:
        """Put `blob` to all stores, and return the result of the one that finished first."""

        async def write(store: Store) -> list[PutResult]:
            return [await store.put(blob)]

        results = await self._write("put", blob.ref, [blob], write)
        return results[0]

    async def put_many(self, blobs: list[Blob]) -> list[PutResult]:
        """Put `blobs` to all stores, and return the results of the one that finished first."""

        async def write(store: Store) -> list[PutResult]:
            return await store.put_many(blobs)

        return await self._write("put_many", None, blobs, write)

    async def _write(
        self,
        operation: str,
        ref: Ref | None,
        blobs: list[Blob],
        write: Callable[[Store], Awaitable[list[PutResult]]],
    ) -> list[PutResult]:
        results: list[list[PutResult]] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: _SyncStore) -> list[PutResult]:
            answer = await write(member.store)
            check_results(blobs, answer)
            return answer

        def settle(member: _SyncStore, ended: Ended[list[PutResult]]) -> bool:
            if isinstance(ended, outcome.Value):
                results.append(ended.value)
                member.puts += len(blobs)
            else:
                failures[member.name] = ended.error
                member.put_failures += 1
            return bool(failures)

        await fan_out(self._members, ask, settle)
        if failures:
            raise StoreError(operation, ref, failures)
        return results[0]

    async def get(self, ref: Ref) -> bytes:
        """Return the first good answer; the other calls are cancelled."""
        answers: list[bytes] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: _SyncStore) -> bytes:
            answer = await member.store.get(ref)
            return await _verified(ref, answer) if self._verify else answer

        def settle(member: _SyncStore, ended: Ended[bytes]) -> bool:
            if answers:
                pass  # a loser
            elif isinstance(ended, outcome.Value):
                answers.append(ended.value)
                member.gets_won += 1
            elif not isinstance(ended.error, BlobNotFoundError):
                failures[member.name] = ended.error
                member.get_failures += 1
            return bool(answers)

        await fan_out(self._members, ask, settle, stagger=self._hedge_delay)
        if answers:
            return answers[0]
        if failures:
            raise StoreError("get", ref, failures)
        raise BlobNotFoundError(ref)

    async def get_many(self, wanted: list[Ref]) -> dict[Ref, bytes]:
        """Return the first good answer for each ref; those that every store lacks are absent."""
        found: dict[Ref, bytes] = {}
        failures: dict[str, BaseException] = {}
        corrupt: dict[Ref, dict[str, BaseException]] = {}

        async def ask(member: _SyncStore) -> _Answers:
            answer = await member.store.get_many([ref for ref in wanted if ref not in found])
            return await _divided(answer) if self._verify else _Answers(dict(answer), {})

        def settle(member: _SyncStore, ended: Ended[_Answers]) -> bool:
            if len(found) == len(wanted):
                return True  # a loser
            if isinstance(ended, outcome.Error):
                failures[member.name] = ended.error
                member.get_failures += 1
                return False
            for ref, error in ended.value.corrupt.items():
                corrupt.setdefault(ref, {})[member.name] = error
                member.get_failures += 1
            for ref in wanted:
                if ref not in found and ref in ended.value.good:
                    found[ref] = ended.value.good[ref]
                    member.gets_won += 1
            return len(found) == len(wanted)

        await fan_out(self._members, ask, settle, stagger=self._hedge_delay)
        for ref in wanted:
            if ref not in found and (blamed := failures | corrupt.get(ref, {})):
                raise StoreError("get_many", None, blamed)
        return {ref: found[ref] for ref in wanted if ref in found}

    async def contains(self, ref: Ref) -> bool:
        """Return whether any store says that it has the blob."""
        answers: list[bool] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: _SyncStore) -> bool:
            return await member.store.contains(ref)

        def settle(member: _SyncStore, ended: Ended[bool]) -> bool:
            if isinstance(ended, outcome.Value):
                answers.append(ended.value)
            else:
                failures[member.name] = ended.error
            return any(answers)

        await fan_out(self._members, ask, settle, stagger=self._hedge_delay)
        if failures and not any(answers):
            raise StoreError("contains", ref, failures)
        return any(answers)

    async def union_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the union of one page of each store: all that these prove, which may be more than `limit`."""
        pages: list[list[Ref]] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: _SyncStore) -> list[Ref]:
            return check_page(await member.store.list_page(after, limit), after, limit)

        def settle(member: _SyncStore, ended: Ended[list[Ref]]) -> bool:
            if isinstance(ended, outcome.Value):
                pages.append(ended.value)
            else:
                failures[member.name] = ended.error
            return bool(failures)

        await fan_out(self._members, ask, settle)
        if failures:
            raise StoreError("list_page", None, failures)
        return union(pages)


async def _verified(ref: Ref, answer: bytes) -> bytes:
    """Return `answer`, which a store gave for `ref`, if it is right; a large one is hashed in a thread."""
    blob = Blob(answer)
    if len(blob) > HASH_INLINE_LIMIT:
        await to_blob(blob)
    if blob.ref != ref:
        raise CorruptBlobError(ref, blob.ref)
    return blob.data  # noqa: ASYNC910  (the store's get had one)


async def _divided(answer: dict[Ref, bytes]) -> _Answers:
    good: dict[Ref, bytes] = {}
    corrupt: dict[Ref, CorruptBlobError] = {}
    for ref, blob in zip(answer, await to_blobs(answer.values()), strict=True):
        if blob.ref == ref:
            good[ref] = blob.data
        else:
            corrupt[ref] = CorruptBlobError(ref, blob.ref)
    return _Answers(good, corrupt)
