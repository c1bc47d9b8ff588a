"""Stores that are read: a get takes the first good answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

import outcome

from .._blob import HASH_INLINE_LIMIT, hashed, sha256, to_blobs
from .._calls.fan_out import failure_in, fan_out
from .._calls.started import Hedges, StartedCalls, fan_out_started
from .._errors import BlobNotFoundError, CorruptBlobError, StoreError
from .._store import StartableStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    import trio

    from .._blob import Ref
    from .._calls.fan_out import Ended
    from .._calls.started import Cancel, Done
    from .._store import Store


@final
class Member:
    """A store with its name and its counts."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.puts = 0
        self.put_failures = 0
        self.gets_won = 0
        self.get_failures = 0
        self.repaired = 0
        self.unrepairable = 0


class Lack(NamedTuple):
    """That a store said, when it was read, that it has no such blob, or had other bytes under its ref."""

    member: Member
    ref: Ref
    is_corrupt: bool


class _Answers(NamedTuple):
    """What one store answered to a `get_many`."""

    good: dict[Ref, bytes]
    corrupt: dict[Ref, CorruptBlobError]


@final
class Found:
    """What stores have of many blobs that they were asked for."""

    def __init__(self) -> None:
        self.blobs: dict[Ref, bytes] = {}
        self._failures: dict[str, BaseException] = {}
        self._corrupt: dict[Ref, dict[str, BaseException]] = {}

    def fail(self, name: str, failure: BaseException, ref: Ref | None = None) -> None:
        """Note that a store has failed to tell of a blob, or of any if that is None."""
        if ref is None:
            self._failures[name] = failure
        else:
            self._corrupt.setdefault(ref, {})[name] = failure

    def include(self, found: Found) -> None:
        """Add what other stores have."""
        self.blobs |= found.blobs
        self._failures |= found._failures
        for ref, failures in found._corrupt.items():
            self._corrupt[ref] = self._corrupt.get(ref, {}) | failures

    def in_order(self, wanted: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return the blobs in the order in which they are `wanted`; those that every store lacks are absent.

        Raises:
          StoreError: if there is none for a ref of which a store failed to tell.

        """
        for ref in wanted:
            if ref not in self.blobs and (failures := self._failures | self._corrupt.get(ref, {})):
                raise StoreError("get_many", None, failures)
        return {ref: self.blobs[ref] for ref in wanted if ref in self.blobs}


class Readers:
    """The stores that are read together, in the order in which they are preferred."""

    def __init__(self, stores: Mapping[str, Store], hedge_delay: float, verify: bool) -> None:
        self.members: list[Member] = [Member(name, store) for name, store in stores.items()]
        self._startable = all(isinstance(store, StartableStore) for store in stores.values())
        self._hedge_delay = hedge_delay
        self._hedges = Hedges(hedge_delay) if hedge_delay > 0 and self._startable and len(stores) > 1 else None
        self._verify = verify

    def start(self, nursery: trio.Nursery) -> None:
        """Start what runs in the background."""
        if self._hedges is not None:
            nursery.start_soon(self._hedges.watch, name="replica hedges")

    def close(self) -> None:
        """Stop what runs in the background."""
        if self._hedges is not None:
            self._hedges.stop()

    async def get(self, ref: Ref, lacks: list[Lack] | None = None) -> bytes:
        """Return the first good answer; the other calls are cancelled. To `lacks` is added who had none before that."""
        if len(self.members) == 1:
            return await self._get_from(self.members[0], ref, lacks)
        answers: list[bytes] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: Member) -> bytes:
            return await self._answer(member, ref)

        def settle(member: Member, ended: Ended[bytes]) -> bool:
            if answers:
                pass  # a loser
            elif isinstance(ended, outcome.Value):
                answers.append(ended.value)
                member.gets_won += 1
            else:
                if not isinstance(ended.error, BlobNotFoundError):
                    failures[member.name] = ended.error
                    member.get_failures += 1
                _note(lacks, member, ref, ended.error)
            return bool(answers)

        if self._startable:
            calls = StartedCalls(self.members, partial(_start_get, ref), hedges=self._hedges)
            await fan_out_started(calls, settle, finish=partial(_verifying, ref) if self._verify else None)
        else:
            await fan_out(self.members, ask, settle, stagger=self._hedge_delay)
        if answers:
            return answers[0]
        if failures:
            raise StoreError("get", ref, failures)
        raise BlobNotFoundError(ref)

    async def _get_from(self, member: Member, ref: Ref, lacks: list[Lack] | None) -> bytes:
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
            _note(lacks, member, ref, failure)
            if isinstance(failure, BlobNotFoundError):
                raise BlobNotFoundError(ref)
            member.get_failures += 1
            raise StoreError("get", ref, {member.name: failure})
        finally:
            del raised, failure

    async def _answer(self, member: Member, ref: Ref) -> bytes:
        answer = await member.store.get(ref)
        return await _verified(ref, answer) if self._verify and not _is_right(ref, answer) else answer

    async def get_many(self, wanted: list[Ref]) -> dict[Ref, bytes]:
        """Return the first good answer for each ref; those that every store lacks are absent."""
        return (await self.find_many(wanted)).in_order(wanted)

    async def find_many(self, wanted: list[Ref], lacks: list[Lack] | None = None) -> Found:
        """Return the first good answer for each ref, and what failed. For `lacks` see `get`."""
        found = Found()

        async def ask(member: Member) -> _Answers:
            answer = await member.store.get_many([ref for ref in wanted if ref not in found.blobs])
            return await _divided(answer) if self._verify else _Answers(dict(answer), {})

        def settle(member: Member, ended: Ended[_Answers]) -> bool:
            if len(found.blobs) == len(wanted):
                return True  # a loser
            if isinstance(ended, outcome.Error):
                found.fail(member.name, ended.error)
                member.get_failures += 1
                return False
            good, corrupt = ended.value
            for ref, error in corrupt.items():
                found.fail(member.name, error, ref)
                member.get_failures += 1
            for ref in wanted:
                if ref in found.blobs:
                    continue
                if ref in good:
                    found.blobs[ref] = good[ref]
                    member.gets_won += 1
                elif lacks is not None:
                    lacks.append(Lack(member, ref, ref in corrupt))
            return len(found.blobs) == len(wanted)

        await fan_out(self.members, ask, settle, stagger=self._hedge_delay)
        return found

    async def contains(self, ref: Ref) -> bool:
        """Return whether any store says that it has the blob."""
        answers: list[bool] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: Member) -> bool:
            return await member.store.contains(ref)

        def settle(member: Member, ended: Ended[bool]) -> bool:
            if isinstance(ended, outcome.Value):
                answers.append(ended.value)
            else:
                failures[member.name] = ended.error
            return any(answers)

        await fan_out(self.members, ask, settle, stagger=self._hedge_delay)
        if failures and not any(answers):
            raise StoreError("contains", ref, failures)
        return any(answers)


def _note(lacks: list[Lack] | None, member: Member, ref: Ref, failure: BaseException) -> None:
    """Add to `lacks`, if somebody wants to know, that a store has no blob for `ref`, or a corrupt one."""
    if lacks is not None and isinstance(failure, (BlobNotFoundError, CorruptBlobError)):
        lacks.append(Lack(member, ref, isinstance(failure, CorruptBlobError)))


def _start_get(ref: Ref, member: Member, done: Done) -> Cancel:
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
