"""Reads of several stores, which choose and verify the answer of a get, `get_many` or `contains`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, final

import outcome

from .._blob import HASH_INLINE_LIMIT, HASH_OVERHEAD, Blob, Ref, hashed, sha256, to_blobs
from .._calls.operation import Operation
from .._calls.start import Unfinished
from .._errors import BlobNotFoundError, CorruptBlobError, ReplicaError, StoreError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._calls.attempt import Ended
    from .._calls.operation import Operations
    from .._calls.start import Cancel, Done
    from .sync_stores import Member


class Lack(NamedTuple):
    """A store that answered a read with "not found" or with corrupt bytes."""

    member: Member
    ref: Ref
    is_corrupt: bool


class _Verified(NamedTuple):
    """An answer to a get that has the right hash."""

    data: bytes


class _Answers(NamedTuple):
    """The answers of one store to a `get_many`."""

    good: dict[Ref, bytes]
    corrupt: dict[Ref, CorruptBlobError]


@final
class Found:
    """The blobs that some stores gave for many refs, and the failures of these stores."""

    def __init__(self) -> None:
        self.blobs: dict[Ref, bytes] = {}
        self.failures: dict[str, BaseException] = {}
        """The failures of stores that gave no answer for any ref, by their names."""
        self._corrupt: dict[Ref, dict[str, BaseException]] = {}

    def note_corrupt(self, name: str, error: CorruptBlobError, ref: Ref) -> None:
        """Note that a store had other bytes under a ref."""
        self._corrupt.setdefault(ref, {})[name] = error

    def include(self, found: Found) -> None:
        """Add the blobs and failures of other stores."""
        self.blobs |= found.blobs
        self.failures |= found.failures
        for ref, failures in found._corrupt.items():
            self._corrupt[ref] = self._corrupt.get(ref, {}) | failures

    def in_order(self, wanted: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return the blobs in the order of `wanted`. Blobs that every store lacks are absent.

        Raises:
          StoreError: if no blob was found for a ref, and a store failed to say whether it has it.

        """
        for ref in wanted:
            if ref not in self.blobs and (failures := self.failures | self._corrupt.get(ref, {})):
                raise StoreError("get_many", None, failures)
        return {ref: self.blobs[ref] for ref in wanted if ref in self.blobs}


class Readers:
    """The stores that are read together, in the order of preference."""

    def __init__(self, members: list[Member], operations: Operations, *, verify: bool) -> None:
        self.members = members
        self._operations = operations
        self._verify = verify

    async def get(self, ref: Ref, lacks: list[Lack] | None = None) -> bytes:
        """Return the first good answer, and cancel the other calls.

        The stores that answered before it without the blob are added to `lacks`.
        """
        get = _Get(self.members, ref, lacks, self._verify)
        failures = await self._operations.read(get)
        try:
            if get.answer is not None:
                return get.answer
            if failures:
                raise StoreError("get", ref, failures)
            raise BlobNotFoundError(ref)
        finally:
            del failures  # see `Operation.run`

    async def get_many(self, wanted: list[Ref]) -> dict[Ref, bytes]:
        """Return the first good answer for each ref. Refs that every store lacks are absent."""
        return (await self.find_many(wanted)).in_order(wanted)

    async def find_many(self, wanted: list[Ref], lacks: list[Lack] | None = None) -> Found:
        """Return the first good answer for each ref, and the failures. See `get` about `lacks`."""
        get_many = _GetMany(self.members, wanted, lacks, self._verify)
        get_many.found.failures = dict(await self._operations.read(get_many))
        return get_many.take_found()

    async def contains(self, ref: Ref) -> bool:
        """Return whether any store says that it has the blob."""
        contains = _Contains(self.members, ref)
        failures = await self._operations.read(contains)
        try:
            if failures and not contains.answer:
                raise StoreError("contains", ref, failures)
            return contains.answer
        finally:
            del failures  # see `Operation.run`


class _Get(Operation["Member"]):
    """One get, which ends with the first answer that has the right hash."""

    __slots__ = ("_lacks", "_ref", "_verify", "answer")

    def __init__(self, members: list[Member], ref: Ref, lacks: list[Lack] | None, verify: bool) -> None:
        super().__init__(members)
        self._ref = ref
        self._lacks = lacks
        self._verify = verify
        self.answer: bytes | None = None

    def start_call(self, member: Member, done: Done) -> Cancel:
        return member.start_get(self._ref, done)

    def settle(self, member: Member, ended: Ended[Any]) -> bool | Unfinished:
        if self.answer is not None:
            return True  # a loser
        if isinstance(ended, outcome.Value):
            answer = ended.value
            if isinstance(answer, _Verified):
                answer = answer.data
            elif not self._verify:
                answer = Blob(answer).data  # whatever is no bytes is a failure, also of a store that is trusted
            elif not _is_right(self._ref, answer):
                return Unfinished(partial(_verified, self._ref, answer))
            self.answer = answer
            member.gets_won += 1
            return True
        failure = ended.error
        if not isinstance(failure, BlobNotFoundError):
            self.fail(member.name, failure)
            member.get_failures += 1
        if self._lacks is not None and isinstance(failure, (BlobNotFoundError, CorruptBlobError)):
            self._lacks.append(Lack(member, self._ref, isinstance(failure, CorruptBlobError)))
        return False


class _GetMany(Operation["Member"]):
    """One get of many blobs, which ends with a good answer for each ref.

    Each store is asked for the refs still missing.
    """

    def __init__(self, members: list[Member], wanted: list[Ref], lacks: list[Lack] | None, verify: bool) -> None:
        super().__init__(members)
        self._wanted = wanted
        self._lacks = lacks
        self._verify = verify
        self.found = Found()

    def take_found(self) -> Found:
        """Return the results and drop them, because the tracebacks of the failures may lead to this operation."""
        found, self.found = self.found, Found()
        return found

    def start_call(self, member: Member, done: Done) -> Cancel:
        return member.start_get_many([ref for ref in self._wanted if ref not in self.found.blobs], done)

    def settle(self, member: Member, ended: Ended[Any]) -> bool | Unfinished:
        found = self.found
        if len(found.blobs) == len(self._wanted):
            return True  # a loser
        if isinstance(ended, outcome.Error):
            self.fail(member.name, ended.error)
            member.get_failures += 1
            return False
        answers = ended.value
        if not isinstance(answers, _Answers):
            soon = _divided_soon(answers, self._verify)
            if soon is None:
                return Unfinished(partial(_divided, answers))
            answers = soon
        for ref, error in answers.corrupt.items():
            found.note_corrupt(member.name, error, ref)
            member.get_failures += 1
        for ref in self._wanted:
            if ref in found.blobs:
                continue
            if ref in answers.good:
                found.blobs[ref] = answers.good[ref]
                member.gets_won += 1
            elif self._lacks is not None:
                self._lacks.append(Lack(member, ref, ref in answers.corrupt))
        return len(found.blobs) == len(self._wanted)


class _Contains(Operation["Member"]):
    """One question whether a blob is there, which ends with the first yes."""

    def __init__(self, members: list[Member], ref: Ref) -> None:
        super().__init__(members)
        self._ref = ref
        self.answer = False

    def start_call(self, member: Member, done: Done) -> Cancel:
        return member.start_contains(self._ref, done)

    def settle(self, member: Member, ended: Ended[Any]) -> bool:
        if isinstance(ended, outcome.Error):
            self.fail(member.name, ended.error)
        elif type(ended.value) is not bool:
            self.fail(member.name, ReplicaError(f"a contains returned {shown(ended.value)}, not True or False"))
        elif ended.value:
            self.answer = True
        return self.answer


def _is_right(ref: Ref, answer: bytes) -> bool:
    """Return whether `answer` is small and has the right hash, like nearly all. If not, `_verified` decides."""
    return type(answer) is bytes and len(answer) <= HASH_INLINE_LIMIT and sha256(answer) == ref


async def _verified(ref: Ref, answer: bytes) -> _Verified:
    """Return the answer of a store for `ref` if it is right. A large one is hashed in a thread."""
    blob = await hashed(answer)
    if blob.ref != ref:
        raise CorruptBlobError(ref, blob.ref)
    return _Verified(blob.data)  # noqa: ASYNC910  (the store's get had one)


def _divided_soon(answer: Any, verify: bool) -> _Answers | None:
    """Divide the answer to a `get_many` into good and corrupt.

    Return None if hashing takes long, or it is malformed.
    """
    if type(answer) is not dict:
        return None
    if not verify:
        return _Answers({ref: Blob(data).data for ref, data in answer.items()}, {})
    size = HASH_OVERHEAD * len(answer)
    for data in answer.values():
        if type(data) is not bytes:
            return None
        size += len(data)
    return None if size > HASH_INLINE_LIMIT else _answers(answer, map(sha256, answer.values()))


async def _divided(answer: dict[Ref, bytes]) -> _Answers:
    if type(answer) is not dict:  # the iteration of a subclass need not end
        raise ReplicaError(f"a get_many returned {shown(answer)}, which is not a dict of refs and bytes")
    blobs = await to_blobs(answer.values())
    good = {ref: blob.data for ref, blob in zip(answer, blobs, strict=True)}
    return _answers(good, (blob.ref for blob in blobs))


def _answers(answer: dict[Ref, bytes], actual: Iterable[bytes]) -> _Answers:
    """Divide an answer into good and corrupt. `actual` are the refs of its values, in their order."""
    good: dict[Ref, bytes] = {}
    corrupt: dict[Ref, CorruptBlobError] = {}
    for (ref, data), found in zip(answer.items(), actual, strict=True):
        if found == ref:
            good[ref] = data
        else:
            corrupt[ref] = CorruptBlobError(ref, Ref(found))
    return _Answers(good, corrupt)
