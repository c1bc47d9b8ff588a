"""The sync stores of a replica: a write goes to all, a get to the first good answer, a listing is their union."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

import outcome
import trio

from ._blob import HASH_INLINE_LIMIT, hashed, sha256, takes_thread, to_blobs
from ._errors import BlobNotFoundError, CorruptBlobError, StoreError, closed_error
from ._fan_out import failure_in, fan_out
from ._started import Hedges, StartedCalls, ended_call, fan_out_started
from ._statistics import SyncStoreStatistics
from ._store import StartableStore, results_error
from ._union import check_page, union

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Iterable, Mapping, Sequence

    from ._blob import Blob, BytesLike, Ref
    from ._fan_out import Cancellable, Ended
    from ._started import Cancel, Done
    from ._store import PutResult, Store


class Beside(Protocol):
    """What is done beside a write to the stores, and is part of it: it fails and ends with that."""

    @property
    def name(self) -> str:
        """What it is called when it fails."""

    def start(self, done: Done) -> Cancel:
        """Start it: see `StartableStore.start_put`."""


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


class _Write:
    """What has become of one write of some blobs to all stores."""

    __slots__ = ("_beside_ended", "_blobs", "_failures", "_ref", "_results")

    def __init__(self, blobs: list[Blob], beside: Beside | None, ref: Ref | None = None) -> None:
        self._blobs = blobs
        self._beside_ended = beside is None
        self._ref = ref  # of the only one, if it is a put and no put_many
        self._results: list[list[PutResult]] = []
        self._failures: dict[str, BaseException] = {}

    def settle(self, member: _SyncStore | Beside, ended: Ended[Any]) -> bool:
        """Note how the call of one store ended, and return whether the write has failed."""
        results: list[PutResult] = []
        if not isinstance(member, _SyncStore):
            self._beside_ended = isinstance(ended, outcome.Value)
            if isinstance(ended, outcome.Error):
                self._failures[member.name] = ended.error
            return bool(self._failures)
        if isinstance(ended, outcome.Error):
            failure: BaseException | None = ended.error
        else:
            results = ended.value if self._ref is None else [ended.value]
            failure = results_error(self._blobs, results)
        if failure is None:
            self._results.append(results)
            member.puts += len(self._blobs)
        else:
            self._failures[member.name] = failure
            member.put_failures += 1
        return bool(self._failures)

    def results(self, stores: int) -> list[PutResult]:
        """Return the results of the store that finished first, once all `stores` have.

        Raises:
          StoreError: if one failed.
          trio.ClosedResourceError: if one has not finished, for the replica has been closed.

        """
        if self._failures:
            raise StoreError("put_many" if self._ref is None else "put", self._ref, self._failures)
        if len(self._results) < stores or not self._beside_ended:
            raise closed_error()
        return self._results[0]


@final
class SyncStores:
    """The sync stores of one replica, in the order in which they are preferred."""

    def __init__(self, stores: Mapping[str, Store], hedge_delay: float, verify: bool) -> None:
        self._members = [_SyncStore(name, store) for name, store in stores.items()]
        self._startable = all(isinstance(store, StartableStore) for store in stores.values())
        self._hedge_delay = hedge_delay
        self._hedges = Hedges(hedge_delay) if hedge_delay > 0 and self._startable and len(stores) > 1 else None
        self._verify = verify
        self._writes: set[Cancellable] = set()  # those that are under way

    @property
    def names(self) -> list[str]:
        return [member.name for member in self._members]

    def statistics(self) -> dict[str, SyncStoreStatistics]:
        return {
            member.name: SyncStoreStatistics(member.puts, member.put_failures, member.gets_won, member.get_failures)
            for member in self._members
        }

    def start(self, nursery: trio.Nursery) -> None:
        """Start what runs in the background."""
        if self._hedges is not None:
            nursery.start_soon(self._hedges.watch, name="replica hedges")

    def close(self) -> None:
        """Stop what runs in the background, and let the puts under way raise `trio.ClosedResourceError`."""
        if self._hedges is not None:
            self._hedges.stop()
        for write in tuple(self._writes):
            write.cancel()

    async def hashed(self, blob: Blob) -> Blob:
        """Return `blob` with its ref computed, in a thread if it is large."""
        if takes_thread(blob):
            with self._until_closed():
                await hashed(blob)
        return blob  # noqa: ASYNC910  (the write has a checkpoint)

    async def all_hashed(self, items: Iterable[Blob | BytesLike]) -> list[Blob]:
        """Return blobs with their refs computed."""
        with self._until_closed():
            return await to_blobs(items)

    async def put(self, blob: Blob, beside: Beside | None = None) -> PutResult:
        """Put `blob`, which is hashed, to all stores, and return the result of the one that finished first."""
        write = _Write([blob], beside, blob.ref)
        members = self._members_and(beside)
        if self._startable:
            calls = StartedCalls(members, partial(_start_put, blob), needs_all=True)
            await fan_out_started(calls, write.settle, cancellable=self._writes)
        else:
            await fan_out(members, partial(_put, blob), write.settle, cancellable=self._writes)
        return write.results(len(self._members))[0]

    async def put_many(self, blobs: list[Blob], beside: Beside | None = None) -> list[PutResult]:
        """Put blobs, which are hashed, to all stores, and return the results of the one that finished first."""

        async def put_many(member: _SyncStore | Beside) -> Any:
            return await (member.store.put_many(blobs) if isinstance(member, _SyncStore) else ended_call(member.start))

        write = _Write(blobs, beside)
        members = self._members_and(beside)
        await fan_out(members, put_many, write.settle, cancellable=self._writes)
        return write.results(len(self._members))

    def _members_and(self, beside: Beside | None) -> Sequence[_SyncStore | Beside]:
        return self._members if beside is None else [*self._members, beside]

    @contextmanager
    def _until_closed(self) -> Generator[None, None, None]:
        """Cancel what is done within when the replica is closed, and raise then."""
        with trio.CancelScope() as scope:
            self._writes.add(scope)
            try:
                yield
            finally:
                self._writes.discard(scope)
        if scope.cancel_called:
            raise closed_error()

    async def get(self, ref: Ref) -> bytes:
        """Return the first good answer; the other calls are cancelled."""
        if len(self._members) == 1:
            return await self._get_from(self._members[0], ref)
        answers: list[bytes] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: _SyncStore) -> bytes:
            return await self._answer(member, ref)

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

        if self._startable:
            calls = StartedCalls(self._members, partial(_start_get, ref), hedges=self._hedges)
            await fan_out_started(calls, settle, finish=partial(_verifying, ref) if self._verify else None)
        else:
            await fan_out(self._members, ask, settle, stagger=self._hedge_delay)
        if answers:
            return answers[0]
        if failures:
            raise StoreError("get", ref, failures)
        raise BlobNotFoundError(ref)

    async def _get_from(self, member: _SyncStore, ref: Ref) -> bytes:
        """Return the answer of the only store: what `get` does for several would take a fifth of the gets a second."""
        try:
            answer = await self._answer(member, ref)
        except BaseException as exc:  # noqa: ASYNC103  (what goes on is raised below)
            raised = exc
        else:
            member.gets_won += 1
            return answer
        failure: BaseException | None = None
        try:
            failure = failure_in(raised)
            if isinstance(failure, BlobNotFoundError):
                raise BlobNotFoundError(ref)
            member.get_failures += 1
            raise StoreError("get", ref, {member.name: failure})
        finally:
            del raised, failure

    async def _answer(self, member: _SyncStore, ref: Ref) -> bytes:
        answer = await member.store.get(ref)
        return await _verified(ref, answer) if self._verify and not _is_right(ref, answer) else answer

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


async def _put(blob: Blob, member: _SyncStore | Beside) -> Any:
    return await (member.store.put(blob) if isinstance(member, _SyncStore) else ended_call(member.start))


def _start_put(blob: Blob, member: _SyncStore | Beside, done: Done) -> Cancel:
    if not isinstance(member, _SyncStore):
        return member.start(done)
    assert isinstance(member.store, StartableStore)
    return member.store.start_put(blob, done)


def _start_get(ref: Ref, member: _SyncStore, done: Done) -> Cancel:
    assert isinstance(member.store, StartableStore)
    return member.store.start_get(ref, done)


def _is_right(ref: Ref, answer: bytes) -> bool:
    """Whether `answer` is small and what `ref` names, as nearly all are; if not, `_verified` says more."""
    return type(answer) is bytes and len(answer) <= HASH_INLINE_LIMIT and sha256(answer) == ref


async def _verified(ref: Ref, answer: bytes) -> bytes:
    """Return `answer`, which a store gave for `ref`, if it is right; a large one is hashed in a thread."""
    blob = await hashed(answer)
    if blob.ref != ref:
        raise CorruptBlobError(ref, blob.ref)
    return blob.data  # noqa: ASYNC910  (the store's get had one)


def _verifying(ref: Ref, answer: bytes) -> Awaitable[bytes] | None:
    return None if _is_right(ref, answer) else _verified(ref, answer)


async def _divided(answer: dict[Ref, bytes]) -> _Answers:
    good: dict[Ref, bytes] = {}
    corrupt: dict[Ref, CorruptBlobError] = {}
    for ref, blob in zip(answer, await to_blobs(answer.values()), strict=True):
        if blob.ref == ref:
            good[ref] = blob.data
        else:
            corrupt[ref] = CorruptBlobError(ref, blob.ref)
    return _Answers(good, corrupt)
