"""One store of a scrub, which is checked as a whole and blob by blob, and repaired."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, final

import outcome
import trio

from .._blob import Blob, Ref, hashed
from .._calls.attempt import attempt
from .._calls.fan_out import concurrently
from .._deletable import DeletableStore, Integrity
from .._errors import BlobNotFoundError, CorruptBlobError, ReplicaError, describe_failure, shown
from .._listing import PAGE_SIZE
from .._printable import one_line
from .._store import check_results
from .._sync.union import check_page
from .contradiction import Contradiction, ContradictionError, UnansweredError, claim_of, contradiction_in, denial_of
from .pace import Pace
from .scrub_report import ScrubFinding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._calls.attempt import Ended
    from .._store import Store
    from .scrub_report import ScrubLog

_HIDDEN: Final = "an index hides it: no get finds it, no listing shows it"

_BLOCKED: Final = "something that is not a blob, such as a link, has its place, so it can't be stored"

_THERE: Final = (Contradiction.UNLISTED, Contradiction.DENIED)
"""Contradictions about a blob that a get finds, so that the store itself has a good copy."""


@final
class ScrubbedStore:
    """One of the stores. Its failures are noted and never raised."""

    def __init__(self, name: str, store: Store, log: ScrubLog, rate: float | None) -> None:
        self.name = name
        self.store = store
        self._log = log
        self._pace = None if rate is None else Pace(rate)
        self._get = store.get_stored if isinstance(store, DeletableStore) else store.get

    async def run(self, after: Ref, sources: Sequence[ScrubbedStore]) -> None:
        """Check the store as a whole, and read all its blobs. Repair the store and its blobs if there are `sources`."""
        if isinstance(self.store, DeletableStore):
            for ref in await self._check_itself(self.store, to_repair=bool(sources)):
                await self._find_blocked(ref, sources)
        while True:
            ended = await attempt(self._page, after)
            if isinstance(ended, outcome.Error):
                self._log.failures[self.name] = ended.error
                return
            if not ended.value:
                return
            await concurrently(partial(self._scrub_listed, sources), ended.value)
            after = ended.value[-1]
            self._log.reach(self.name, after)

    async def _page(self, after: Ref) -> list[Ref]:
        return check_page(await self.store.list_page(after, PAGE_SIZE), after, PAGE_SIZE)

    # The store as a whole

    async def _check_itself(self, store: DeletableStore, *, to_repair: bool) -> Sequence[Ref]:
        """Note the problems, have the store repair what it can, and return the refs that something else blocks."""
        before = await attempt(_check_integrity, store)
        if isinstance(before, outcome.Error):
            self._log.problems[self.name] = (f"it could not check itself: {describe_failure(before.error)}",)
            return ()
        found = left = before.value
        if to_repair and (found.problems or found.hidden_count):
            left = await self._repair_itself(store, found)
            self._log.repaired[self.name] = tuple(line for line in found.problems if line not in left.problems)
        if left.problems:
            self._log.problems[self.name] = left.problems
        self._log.count(self.name, corrupt=found.hidden_count, repaired=max(0, found.hidden_count - left.hidden_count))
        for ref in found.hidden:
            is_repaired = left.hidden_count == 0
            became = "" if not to_repair else "repaired: its index was rebuilt" if is_repaired else "not repaired"
            self._log.find(ScrubFinding(self.name, ref, _HIDDEN, True, is_repaired, became))
        self._log.count(self.name, corrupt=found.blocked_count - len(found.blocked))
        return found.blocked

    async def _find_blocked(self, ref: Ref, sources: Sequence[ScrubbedStore]) -> None:
        """Note that something else has the place of a blob, and put the blob there if another store has it."""
        await trio.lowlevel.checkpoint()
        finding = ScrubFinding(self.name, ref, _BLOCKED, is_corrupt=True)
        if sources:
            blob, origin = await self._good_copy(ref, sources)
            if blob is None:
                finding = _unrepaired(finding, f"no other store has a good copy{origin}")
            else:
                finding = await self._replace(finding, blob, f"repaired from {origin}")
        self._log.count(self.name, corrupt=1, repaired=finding.is_repaired)
        self._log.find(finding)

    async def _repair_itself(self, store: DeletableStore, found: Integrity) -> Integrity:
        """Have the store repair itself, and return the remaining problems."""
        repaired = await attempt(_repair_integrity, store)
        if isinstance(repaired, outcome.Error):
            why = f"it could not repair itself: {describe_failure(repaired.error)}"
            return replace(found, problems=(*found.problems, why))
        after = await attempt(_check_integrity, store)
        if isinstance(after, outcome.Error):
            why = f"it could not check itself once it was repaired: {describe_failure(after.error)}"
            return replace(found, problems=(*found.problems, why))
        return after.value

    # Its blobs

    async def _scrub_listed(self, sources: Sequence[ScrubbedStore], ref: Ref) -> None:
        """Scrub a blob that the store has listed, unless it has been deleted since."""
        ended = await self._examine(ref, listed=True)
        if ended is not None:
            await self._settle(sources, ref, ended)

    async def scrub_unlisted(self, sources: Sequence[ScrubbedStore], ref: Ref) -> None:
        """Ask for a blob that another store lists and this one does not; note it if any answer says that it is there.

        A missing blob is not a fault, because `reconcile` copies missing blobs. A question that fails is noted, too.
        """
        ended = await self._examine(ref, listed=False)
        if not isinstance(ended, outcome.Error):
            return
        if isinstance(ended.error, (ContradictionError, CorruptBlobError)):
            await self._settle(sources, ref, ended)
            return
        error = ended.error if isinstance(ended.error, UnansweredError) else UnansweredError(ended.error)
        self._log.count(self.name, unanswered=1)
        self._log.find(self._finding(ref, error))
        self._log.tell()

    async def _settle(  # noqa: ASYNC910  (the reading has one)
        self, sources: Sequence[ScrubbedStore], ref: Ref, ended: Ended[Blob]
    ) -> None:
        """Count a blob, note its finding, and repair it if there are `sources`."""
        if isinstance(ended, outcome.Error):
            finding = self._finding(ref, ended.error)
            if finding.is_corrupt and sources:
                repaired = await self._repair(finding, sources)
                if repaired is None:
                    return
                finding = repaired
            is_unanswered = isinstance(ended.error, UnansweredError)
            self._log.count(
                self.name,
                corrupt=finding.is_corrupt,
                repaired=finding.is_repaired,
                failed=not finding.is_corrupt and not is_unanswered,
                unanswered=is_unanswered,
            )
            self._log.find(finding)
        self._log.count(self.name, refs=1)
        self._log.tell()

    def _finding(self, ref: Ref, error: BaseException) -> ScrubFinding:
        contradiction = contradiction_in(error)
        if contradiction is not None:
            return ScrubFinding(self.name, ref, contradiction.value, is_corrupt=True, contradiction=contradiction)
        if isinstance(error, CorruptBlobError):
            return ScrubFinding(self.name, ref, f"its bytes are those of {error.actual!s:.12}", is_corrupt=True)
        if isinstance(error, UnansweredError):
            return ScrubFinding(self.name, ref, str(error), is_corrupt=False)
        return ScrubFinding(self.name, ref, f"it can't be read: {describe_failure(error)}", is_corrupt=False)

    # Its answers about a blob

    async def _examine(self, ref: Ref, *, listed: bool | None) -> Ended[Blob] | None:
        """Read a blob, and ask in other ways whether it is there.

        Args:
          ref: the ref of the blob.
          listed: whether the listing has just shown it. With None the listing is asked.

        Returns:
            The blob, or its error, such as a `ContradictionError`. None if all answers say that it is not there. An
            `UnansweredError` if a get was answered and another question failed.

        """
        ended = await self._read(ref, is_listed=listed is not False)
        if _says_missing(ended):
            return await self._examine_missing(ref, ask_listing=listed is not False)
        if isinstance(ended, outcome.Error):
            return ended
        denial = await attempt(partial(denial_of, ask_listing=listed is not True, ref=ref), self.store)
        if isinstance(denial, outcome.Error):
            return outcome.Error(UnansweredError(denial.error))
        if denial.value is None:
            return ended
        again = await self._read(ref)  # it may have been deleted in the meantime
        if isinstance(again, outcome.Value):
            return outcome.Error(ContradictionError(denial.value))
        return None if _says_missing(again) else again

    async def _examine_missing(self, ref: Ref, *, ask_listing: bool) -> Ended[Blob] | None:
        claim = await attempt(partial(claim_of, ask_listing=ask_listing, ref=ref), self.store)
        if isinstance(claim, outcome.Error):
            return outcome.Error(UnansweredError(claim.error))
        if claim.value is None:
            return None
        again = await self._read(ref)  # it may have come in the meantime
        return outcome.Error(ContradictionError(claim.value)) if _says_missing(again) else again

    async def _read(self, ref: Ref, *, is_listed: bool = True) -> Ended[Blob]:
        return await attempt(partial(self._verified, is_listed=is_listed), ref)

    async def _verified(self, ref: Ref, *, is_listed: bool) -> Blob:
        if self._pace is None:
            blob = Blob(await self._get(ref))
        else:
            blob = await self._pace.read(self._get, ref, is_listed=is_listed)
        self._log.count(self.name, bytes=len(blob))
        await hashed(blob)
        if blob.ref != ref:
            raise CorruptBlobError(ref, blob.ref)
        return blob

    # Repairing one

    async def _repair(self, finding: ScrubFinding, sources: Sequence[ScrubbedStore]) -> ScrubFinding | None:
        """Write a good copy of the blob. Return None if it has been deleted in the meantime."""
        ref = finding.ref
        if finding.contradiction in _THERE:
            own = await self._read(ref)
            if isinstance(own, outcome.Error):
                return None if _says_missing(own) else _unrepaired(finding, describe_failure(own.error))
            return await self._write(finding, own.value, "repaired: it was written again")
        blob, origin = await self._good_copy(ref, sources)
        there = await attempt(partial(claim_of, ref=ref), self.store)
        if isinstance(there, outcome.Error):
            return _unrepaired(finding, describe_failure(there.error))
        if there.value is None and _says_missing(await self._read(ref)):
            return None
        if blob is None:
            return _unrepaired(finding, f"no other store has a good copy{origin}")
        return await self._write(finding, blob, f"repaired from {origin}")

    async def _write(self, finding: ScrubFinding, blob: Blob, became: str) -> ScrubFinding:
        """Write a good copy. End a contradiction by a put if that is enough, and otherwise by a replacement."""
        assert isinstance(self.store, DeletableStore)
        if finding.contradiction is not None:
            put = await attempt(self._put, blob)
            again = put if isinstance(put, outcome.Error) else await self._examine(blob.ref, listed=None)
            if isinstance(again, outcome.Value):
                return replace(finding, is_repaired=True, outcome=became)
            if finding.contradiction in _THERE and type(self.store).replace is DeletableStore.replace:
                # The default `replace` would delete the blob first, and might fail to put it again.
                return _unrepaired(finding, f"it was put again, and {_still_wrong(again)}")
        return await self._replace(finding, blob, became)

    async def _put(self, blob: Blob) -> None:
        check_results([blob], [await self.store.put(blob)])

    async def _replace(self, finding: ScrubFinding, blob: Blob, became: str) -> ScrubFinding:
        assert isinstance(self.store, DeletableStore)
        aside = await attempt(partial(_set_aside, self.store), blob.ref)
        if isinstance(aside, outcome.Error):
            return _unrepaired(finding, f"its bytes could not be set aside: {describe_failure(aside.error)}")
        kept = "" if aside.value is None else f"; the bad bytes are kept: {aside.value}"
        replaced = await attempt(self.store.replace, blob)
        if isinstance(replaced, outcome.Error):
            return _unrepaired(finding, f"{describe_failure(replaced.error)}{kept}")
        again = await self._examine(blob.ref, listed=None)
        if isinstance(again, outcome.Value):
            return replace(finding, is_repaired=True, outcome=f"{became}{kept}")
        return _unrepaired(finding, f"it was replaced, and {_still_wrong(again)}{kept}")

    async def _good_copy(self, ref: Ref, sources: Sequence[ScrubbedStore]) -> tuple[Blob | None, str]:
        """Return the first good copy of another store and the name of that store, or None and the reasons."""
        reasons: list[str] = []
        for source in sources:
            if source is not self:
                ended = await source._read(ref)
                if isinstance(ended, outcome.Value):
                    return ended.value, source.name
                reasons.append(f"{source.name}: {describe_failure(ended.error)}")
        return None, f" ({'; '.join(reasons)})" if reasons else ""  # noqa: ASYNC910  (there may be no other)


async def _check_integrity(store: DeletableStore) -> Integrity:
    found = await store.check_integrity()
    lines, refs = (found.problems, (*found.hidden, *found.blocked)) if type(found) is Integrity else ((None,), ())
    if not all(type(line) is str for line in lines) or not all(type(ref) is Ref for ref in refs):
        raise ReplicaError(f"a check_integrity returned {shown(found)}, which is not an Integrity of texts and refs")
    return found


async def _set_aside(store: DeletableStore, ref: Ref) -> str | None:
    place = await store.set_aside(ref)
    if place is None or type(place) is str:
        return place and one_line(place)
    raise ReplicaError(f"a set_aside returned {shown(place)}, which is neither a text nor None")


async def _repair_integrity(store: DeletableStore) -> None:
    await store.repair_integrity()


def _says_missing(ended: Ended[Blob]) -> bool:
    return isinstance(ended, outcome.Error) and isinstance(ended.error, BlobNotFoundError)


def _still_wrong(ended: outcome.Error | None) -> str:
    if ended is None:
        return "is not there"
    if isinstance(ended.error, (ContradictionError, UnansweredError)):
        return str(ended.error)
    return f"can't be read: {describe_failure(ended.error)}"


def _unrepaired(finding: ScrubFinding, why: str) -> ScrubFinding:
    return replace(finding, outcome=f"not repaired: {why}")
