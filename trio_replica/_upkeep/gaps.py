"""A ref that only some stores list: asking the stores again, and copying the blob to those that lack it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import outcome

from .._blob import hashed
from .._calls.attempt import attempt
from .._calls.fan_out import fan_out
from .._errors import BlobNotFoundError, CorruptBlobError, describe_failure
from .._store import check_results
from .contradiction import (
    Contradiction,
    ContradictionError,
    claim_of,
    contains,
    contradiction_in,
    has_own_contains,
    is_listed,
)
from .listings import Listing
from .reconcile_report import ReconcileCounts, ReconcileProblem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._blob import Blob, Ref
    from .._calls.attempt import Ended
    from .._store import Store

PROBLEMS_KEPT: Final = 100
"""The most problems that a report names. It counts all of them."""


@final
class Member(Listing):
    """A store with its position in its listing and its counts."""

    def __init__(self, name: str, store: Store, after: Ref, *, is_source: bool = False) -> None:
        super().__init__(name, store, after)
        self.is_source = is_source
        """Whether it is one of the `sources`, so that nothing counts as missing in it."""
        self.is_target = not is_source and not store.is_read_only
        """Whether blobs are copied to it."""
        self.refs = 0
        self.missing = 0
        self.copied = 0
        self.failed = 0
        self.bytes = 0
        self.unanswered = 0

    def counts(self) -> ReconcileCounts:
        return ReconcileCounts(self.refs, self.missing, self.copied, self.failed, self.bytes, self.unanswered)


@final
class Problems:
    """The calls that failed, and the answers that contradict other answers."""

    def __init__(self) -> None:
        self.kept: list[ReconcileProblem] = []
        self.count = 0

    def note(self, member: Member, operation: str, ref: Ref, error: BaseException) -> None:
        self.count += 1
        if len(self.kept) < PROBLEMS_KEPT:
            contradiction = contradiction_in(error)
            words = describe_failure(error) if contradiction is None else contradiction.value
            self.kept.append(ReconcileProblem(member.name, operation, ref, words, contradiction))


class _Answer(NamedTuple):
    """The answer to a second question about a blob."""

    is_there: bool
    contradiction: Contradiction | None = None


@final
class Gap:
    """A ref, the stores that have it, and the stores that lack it. Stores move between the two as they answer."""

    __slots__ = ("_doubtful", "_having", "_lacking", "_problems", "_to_ask", "_unanswered", "ref")

    def __init__(
        self, ref: Ref, having: list[Member], lacking: list[Member], to_ask: list[Member], problems: Problems
    ) -> None:
        self.ref = ref
        self._having = having
        self._lacking = lacking
        self._to_ask = to_ask  # stores that have listed it, and are asked whether they have it
        self._problems = problems
        # There is a gap for each ref of a page, and nearly all of them leave these empty. Sets would take more memory.
        self._doubtful: list[Member] = []  # have contradicted themselves, so only a get proves that they have it
        self._unanswered: list[Member] = []  # have listed it, and had no good answer to another question

    # Asking

    async def ask(self) -> None:
        """Ask the stores that have not listed the blob and some that have, and count the stores that lack it."""
        await self._ask_lacking()
        await self._ask_having()
        for member in self._lacking:
            member.missing += 1

    async def _ask_lacking(self) -> None:
        """Ask stores that have not listed the blob whether they have it by now. No answer counts as no."""
        asked, self._lacking = self._lacking, []

        async def ask(member: Member) -> _Answer:
            if not await contains(member.store, self.ref):
                return _Answer(is_there=False)
            is_there = await is_listed(member.store, self.ref)
            return _Answer(is_there, None if is_there else Contradiction.UNLISTED)

        def settle(member: Member, ended: Ended[_Answer]) -> bool:
            if isinstance(ended, outcome.Value) and ended.value.is_there:
                member.refs += 1
                self._having.append(member)
            else:
                self._lacking.append(member)
            self._note_answer(member, ended)
            return False

        await fan_out(asked, ask, settle)

    async def _ask_having(self) -> None:
        """Ask some stores that have listed the blob whether they have it. No answer counts as yes."""

        async def ask(member: Member) -> _Answer:
            if await contains(member.store, self.ref):
                return _Answer(is_there=True)
            is_ghost = await is_listed(member.store, self.ref)  # if not, it has been deleted
            return _Answer(is_there=False, contradiction=Contradiction.LISTED_ABSENT if is_ghost else None)

        def settle(member: Member, ended: Ended[_Answer]) -> bool:
            if isinstance(ended, outcome.Error):
                self._unanswered.append(member)
            elif not ended.value.is_there:
                self._lose(member)
            self._note_answer(member, ended)
            return False

        await fan_out(self._to_ask, ask, settle)

    # Copying

    async def copy(self) -> None:
        """Copy the blob to the stores that lack it, from the first that has it intact."""
        if not self._targets:
            return  # noqa: ASYNC910  (`ask` has asked those that have it)
        blob = await self._read()
        if blob is not None:
            await self._write(blob)
            return
        for member in self._targets:
            member.failed += 1

    @property
    def _targets(self) -> list[Member]:
        return [member for member in self._lacking if member.is_target]

    async def _read(self) -> Blob | None:
        """Return the blob from the first store that has it intact, or None if no store has."""
        for member in [*self._having]:
            blob = await self._read_from(member)
            if blob is not None:
                return blob
        return None  # noqa: ASYNC910  (likewise)

    async def _read_from(self, member: Member) -> Blob | None:
        ended = await attempt(self._get, member)
        if isinstance(ended, outcome.Error) and isinstance(ended.error, BlobNotFoundError):
            ended = await self._look_again(member, ended)
        if isinstance(ended, outcome.Value):
            self._unanswered = [other for other in self._unanswered if other is not member]
            return ended.value
        if isinstance(ended.error, (BlobNotFoundError, ContradictionError)):
            self._lose(member)
            member.missing += 0 if member.is_source else 1
        elif member not in self._unanswered:
            self._unanswered.append(member)
        self._problems.note(member, "get", self.ref, ended.error)
        return None

    async def _look_again(self, member: Member, ended: outcome.Error) -> Ended[Blob]:
        """Return the answer of a store once it has said that it lacks a blob that it has listed."""
        claimed = await attempt(partial(claim_of, ref=self.ref), member.store)
        claim = claimed.value if isinstance(claimed, outcome.Value) else None
        if claim is None and isinstance(claimed, outcome.Value):
            return ended  # it has been deleted
        again = await attempt(self._get, member)  # it may have come in the meantime
        if isinstance(again, outcome.Value):
            return again
        self._doubtful.append(member)  # also if the claim could not be asked for
        return again if claim is None else outcome.Error(ContradictionError(claim))

    async def _write(self, blob: Blob) -> None:
        async def put(member: Member) -> bool:
            check_results([blob], [await member.store.put(blob)])
            return await self._is_confirmed(member)

        def settle(member: Member, ended: Ended[bool]) -> bool:
            if isinstance(ended, outcome.Error):
                member.failed += 1
                self._problems.note(member, "put", self.ref, ended.error)
            elif not ended.value:  # the questions that failed are noted
                member.failed += 1
            else:  # even if it was not added, because a put that is repeated after a lost answer says so, too
                member.copied += 1
                member.bytes += len(blob)
            return False

        await fan_out(self._targets, put, settle)

    async def _is_confirmed(self, member: Member) -> bool:
        """Ask a store in other ways whether it has the blob that was put to it. Return whether all answers are yes.

        A question that fails is noted, and confirms nothing.

        Raises:
          ContradictionError: if one answer is no.

        """
        questions: dict[str, Callable[[Member], Awaitable[bool]]] = {}
        if member in self._doubtful:
            questions["get"] = self._gives
        if has_own_contains(member.store):
            questions["contains"] = lambda member: contains(member.store, self.ref)
        questions["list_page"] = lambda member: is_listed(member.store, self.ref)
        confirmed = 0
        for operation, question in questions.items():
            ended = await attempt(question, member)
            if isinstance(ended, outcome.Error):
                self._problems.note(member, operation, self.ref, ended.error)
            elif ended.value:
                confirmed += 1
            else:
                is_unlisted = confirmed and operation == "list_page"
                raise ContradictionError(Contradiction.UNLISTED if is_unlisted else Contradiction.NOT_STORED)
        return confirmed == len(questions)  # noqa: ASYNC910  (there is at least one question)

    async def _get(self, member: Member) -> Blob:
        blob = await hashed(await member.store.get(self.ref))
        if blob.ref != self.ref:
            raise CorruptBlobError(self.ref, blob.ref)
        return blob

    async def _gives(self, member: Member) -> bool:
        try:
            await self._get(member)
        except BlobNotFoundError:
            return False  # noqa: ASYNC910  (the get has one)
        return True

    # Counting

    def count_unanswered(self) -> None:
        """Count the stores that list the blob, but may not have it, because another question was not answered."""
        for member in self._unanswered:
            if member in self._having and not member.is_source:
                member.unanswered += 1

    def _lose(self, member: Member) -> None:
        """Count a store that has listed the blob as one that lacks it."""
        member.refs -= 1
        self._having.remove(member)
        if not member.is_source:
            self._lacking.append(member)

    def _note_answer(self, member: Member, ended: Ended[_Answer]) -> None:
        """Note the failure of a question, or an answer that contradicts the listing."""
        if isinstance(ended, outcome.Error):
            self._problems.note(member, "contains", self.ref, ended.error)
        elif ended.value.contradiction is not None:
            self._doubtful.append(member)
            self._problems.note(member, "contains", self.ref, ContradictionError(ended.value.contradiction))
