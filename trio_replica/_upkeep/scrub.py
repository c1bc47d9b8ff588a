"""Scrubbing stores, which finds corrupt blobs in one store and repairs them from another."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, final

import outcome
import trio

from .._blob import Blob, Ref, hashed
from .._calls.attempt import attempt
from .._calls.fan_out import concurrently, fan_out
from .._checks import named_peers
from .._deletable import DeletableStore, Integrity
from .._errors import BlobNotFoundError, CorruptBlobError, describe_failure
from .._identity import check_distinct
from .._listing import PAGE_SIZE, check_ref
from .._sync.union import check_page
from .scrub_report import ScrubCounts, ScrubFinding, ScrubLog, ScrubReport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._calls.attempt import Ended
    from .._checks import Stores
    from .._store import Store

_HIDDEN: Final = "an index hides it: no get finds it, no listing shows it"

_BLOCKED: Final = "something that is no blob, such as a link, has its place: it can't be stored"


async def scrub(
    stores: Stores,
    *,
    repair: bool = False,
    after: Ref = Ref.ZERO,
    bytes_per_second: float | None = None,
    on_progress: Callable[[Mapping[str, ScrubCounts]], None] | None = None,
    on_finding: Callable[[ScrubFinding], None] | None = None,
) -> ScrubReport:
    """Read every blob of every store, hash it again, and report corrupt blobs.

    The stores are scrubbed at the same time, each with up to 16 reads under way, so up to 16 blobs of each are in
    memory, with `repair` twice as many, and a page of up to 1000 refs. They are read as they are on the medium, past
    caches as far as a store can (`DeletableStore.get_stored`, of directories). A store that can look at itself as a
    whole does so first (`DeletableStore.check_integrity`, of directories and SQLite). What fails in one place does not
    stop the rest.

    With `repair`, a corrupt blob is replaced by the copy of the first other store that has a good one. Once the good
    copy is in memory, the bad bytes are set aside if the store can do that (`DeletableStore.set_aside`). Then they are
    replaced, atomically if the store can do that (`DeletableStore.replace`), and the blob is read again. If there is
    no good copy, or the bad bytes can't be set aside, nothing is changed. A blob that could not be read is not
    replaced. A blob that is deleted during its repair may come back.

    Returning means that every blob that could be read was read. `ScrubReport.is_sound` says whether all is well. Being
    cancelled leaves no blob half repaired in stores whose ``replace`` is atomic, and nothing running. To go on from
    there, use the last counts that `on_progress` got.

    Args:
      stores: an iterable of stores, which are named ``store-0``, ``store-1``, …, or a mapping of names to stores. A
        replica may be open on them at the same time.
      repair: whether to repair corrupt blobs.
      after: the ref after which to begin.
      bytes_per_second: the most bytes to read from each store in a second, or None for no limit. A read begins when the
        limit allows for the reads before it. SQLite's own check does not count.
      on_progress: a function, not async, that is called with the counts of each store after every blob and every page.
      on_finding: a function that is called with every finding, once its outcome is known. If either of these functions
        raises an exception, the scrub ends and raises it.

    Raises:
      ValueError: before anything is read, if there is no store, a name or a store is given twice, two have one
        identity, or `bytes_per_second` is not more than 0.
      TypeError: before anything is read, if a store is not a `Store` (with `repair`, not a `DeletableStore`), or
        another argument has the wrong type.

    """
    named = named_peers(stores)
    check_ref(after)
    _check_rate(bytes_per_second)
    if repair:
        _check_repairable(named)
    await check_distinct(named)
    log = ScrubLog(list(named), on_progress, on_finding)
    await scrub_into(log, named, repair=repair, after=after, bytes_per_second=bytes_per_second)
    return log.report()


async def scrub_into(
    log: ScrubLog,
    named: Mapping[str, Store],
    *,
    repair: bool = False,
    after: Ref = Ref.ZERO,
    bytes_per_second: float | None = None,
) -> None:
    """Scrub stores as `scrub` does, without checking the arguments, and note everything in `log`."""
    await trio.lowlevel.checkpoint()
    scrubbed = [_ScrubbedStore(name, store, log, bytes_per_second) for name, store in named.items()]
    raised: list[BaseException] = []

    async def run(one: _ScrubbedStore) -> None:
        await one.run(after, scrubbed if repair else ())

    def settle(_: _ScrubbedStore, ended: Ended[None]) -> bool:
        if isinstance(ended, outcome.Error):  # a callback raised it, because failures of stores are noted
            raised.append(ended.error)
        return bool(raised)

    await fan_out(scrubbed, run, settle)
    if raised:
        try:
            raise raised[0]
        finally:
            del raised


@final
class _ScrubbedStore:
    """One of the stores. Its failures are noted, and never raised."""

    def __init__(self, name: str, store: Store, log: ScrubLog, rate: float | None) -> None:
        self.name = name
        self._store = store
        self._log = log
        self._pace = None if rate is None else _Pace(rate)

    async def run(self, after: Ref, sources: Sequence[_ScrubbedStore]) -> None:
        """Check the store as a whole, and read all its blobs. Repair it and them if there are `sources`."""
        if isinstance(self._store, DeletableStore):
            for ref in await self._check_itself(self._store, to_repair=bool(sources)):
                await self._find_blocked(ref, sources)
        while True:
            ended = await attempt(self._page, after)
            if isinstance(ended, outcome.Error):
                self._log.failures[self.name] = ended.error
                return
            if not ended.value:
                return
            await concurrently(partial(self._scrub_blob, sources), ended.value)
            after = ended.value[-1]
            self._log.reach(self.name, after)

    async def _page(self, after: Ref) -> list[Ref]:
        return check_page(await self._store.list_page(after, PAGE_SIZE), after, PAGE_SIZE)

    # The store as a whole

    async def _check_itself(self, store: DeletableStore, *, to_repair: bool) -> Sequence[Ref]:
        """Note what is wrong, and have the store repair what it can; return refs whose place something else has."""
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
            became = "" if not to_repair else "repaired: its index was made again" if is_repaired else "not repaired"
            self._log.find(ScrubFinding(self.name, ref, _HIDDEN, True, is_repaired, became))
        self._log.count(self.name, corrupt=found.blocked_count - len(found.blocked))
        return found.blocked

    async def _find_blocked(self, ref: Ref, sources: Sequence[_ScrubbedStore]) -> None:
        """Note that something that is no blob has a blob's place; put the blob there, if another store has it."""
        await trio.lowlevel.checkpoint()
        finding = ScrubFinding(self.name, ref, _BLOCKED, is_corrupt=True)
        if sources:
            blob, origin = await self._good_copy(ref, sources)
            finding = await self._replace(finding, blob, origin)
        self._log.count(self.name, corrupt=1, repaired=finding.is_repaired)
        self._log.find(finding)

    async def _repair_itself(self, store: DeletableStore, found: Integrity) -> Integrity:
        """Have the store repair itself, and return the problems that are left."""
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

    async def _scrub_blob(self, sources: Sequence[_ScrubbedStore], ref: Ref) -> None:
        ended = await self._read(ref)
        if _says_missing(ended):  # deleted since it was listed, or damaged
            there = await attempt(self._store.contains, ref)
            if isinstance(there, outcome.Error):
                ended = there
            elif not there.value:
                return
            else:
                ended = await self._read(ref)
        if isinstance(ended, outcome.Error):
            finding = self._finding(ref, ended.error)
            if finding.is_corrupt and sources:
                repaired = await self._repair(finding, sources)
                if repaired is None:
                    return
                finding = repaired
            self._log.count(
                self.name,
                corrupt=finding.is_corrupt,
                repaired=finding.is_repaired,
                failed=not finding.is_corrupt,
            )
            self._log.find(finding)
        self._log.count(self.name, refs=1)
        self._log.tell()

    def _finding(self, ref: Ref, error: BaseException) -> ScrubFinding:
        if isinstance(error, CorruptBlobError):
            return ScrubFinding(self.name, ref, f"its bytes are those of {error.actual!s:.12}", is_corrupt=True)
        if isinstance(error, BlobNotFoundError):
            return ScrubFinding(self.name, ref, "it is listed, but not there", is_corrupt=True)
        return ScrubFinding(self.name, ref, f"it can't be read: {describe_failure(error)}", is_corrupt=False)

    async def _read(self, ref: Ref) -> Ended[Blob]:
        return await attempt(self._verified, ref)

    async def _verified(self, ref: Ref) -> Blob:
        if self._pace is None:
            blob = Blob(await _stored(self._store, ref))
        else:
            blob = await self._pace.read(self._store, ref)
        self._log.count(self.name, bytes=len(blob))
        await hashed(blob)
        if blob.ref != ref:
            raise CorruptBlobError(ref, blob.ref)
        return blob

    async def _repair(self, finding: ScrubFinding, sources: Sequence[_ScrubbedStore]) -> ScrubFinding | None:
        """Replace a blob by a good copy from another store. Return None if it has been deleted in the meantime."""
        ref = finding.ref
        blob, origin = await self._good_copy(ref, sources)
        there = await attempt(self._store.contains, ref)
        if isinstance(there, outcome.Error):
            return _unrepaired(finding, describe_failure(there.error))
        if not there.value:
            return None
        return await self._replace(finding, blob, origin)

    async def _replace(self, finding: ScrubFinding, blob: Blob | None, origin: str) -> ScrubFinding:
        if blob is None:
            return _unrepaired(finding, f"no other store has a good copy{origin}")  # noqa: ASYNC910  (_repair has them)
        assert isinstance(self._store, DeletableStore)
        aside = await attempt(self._store.set_aside, blob.ref)
        if isinstance(aside, outcome.Error):
            return _unrepaired(finding, f"its bytes could not be set aside: {describe_failure(aside.error)}")
        kept = "" if aside.value is None else f"; the bad bytes are kept: {aside.value}"
        replaced = await attempt(self._store.replace, blob)
        if isinstance(replaced, outcome.Error):
            return _unrepaired(finding, f"{describe_failure(replaced.error)}{kept}")
        again = await self._read(blob.ref)
        if isinstance(again, outcome.Error):
            return _unrepaired(finding, f"it was replaced, and can't be read: {describe_failure(again.error)}{kept}")
        return replace(finding, is_repaired=True, outcome=f"repaired from {origin}{kept}")

    async def _good_copy(self, ref: Ref, sources: Sequence[_ScrubbedStore]) -> tuple[Blob | None, str]:
        """Return the first good copy in another store, and the name of that store.

        Otherwise return None and the reasons.
        """
        reasons: list[str] = []
        for source in sources:
            if source is not self:
                ended = await source._read(ref)
                if isinstance(ended, outcome.Value):
                    return ended.value, source.name
                reasons.append(f"{source.name}: {describe_failure(ended.error)}")
        return None, f" ({'; '.join(reasons)})" if reasons else ""  # noqa: ASYNC910  (there may be no other)


@final
class _Pace:
    """Reads of one store, delayed so that together they keep to a rate of bytes, on Trio's clock.

    The size of a blob is not known before it is read. So each read is assumed to be as long as the one before it, and
    this is corrected when it ends. Until a first read has ended, reads are made one at a time.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._turn = trio.Lock()  # first come, first served
        self._due = -math.inf
        self._expected: int | None = None

    async def read(self, store: Store, ref: Ref) -> Blob:
        """Return the bytes that `store` has for `ref`, once the rate allows for the reads before this one."""
        async with self._turn:
            while self._due > trio.current_time():  # noqa: ASYNC110  (reads that end in the meantime move it)
                await trio.sleep_until(self._due)
            expected = self._expected or 0
            self._due = max(self._due, trio.current_time()) + expected / self._rate
            if self._expected is None:
                return await self._get(store, ref, expected)
        return await self._get(store, ref, expected)

    async def _get(self, store: Store, ref: Ref, expected: int) -> Blob:
        blob = Blob(await _stored(store, ref))  # if this raises, it counts as much as the one before
        self._due += (len(blob) - expected) / self._rate
        self._expected = len(blob)
        return blob


async def _stored(store: Store, ref: Ref) -> bytes:
    """Return a blob as it is on the medium, if the store can tell that from what it remembers."""
    return await (store.get_stored(ref) if isinstance(store, DeletableStore) else store.get(ref))


async def _check_integrity(store: DeletableStore) -> Integrity:
    return await store.check_integrity()


async def _repair_integrity(store: DeletableStore) -> None:
    await store.repair_integrity()


def _says_missing(ended: Ended[Blob]) -> bool:
    return isinstance(ended, outcome.Error) and isinstance(ended.error, BlobNotFoundError)


def _unrepaired(finding: ScrubFinding, why: str) -> ScrubFinding:
    return replace(finding, outcome=f"not repaired: {why}")


def _check_rate(rate: float | None) -> None:
    if rate is None:
        return
    if not isinstance(rate, (int, float)) or isinstance(rate, bool):
        raise TypeError(f"bytes_per_second is a number, or None for no limit, not {rate!r}")
    if not rate > 0:
        raise ValueError(f"bytes_per_second is more than 0, not {rate}")


def _check_repairable(stores: Mapping[str, Store]) -> None:
    for name, store in stores.items():
        if not isinstance(store, DeletableStore):
            raise TypeError(
                f"{name} is of type {type(store).__name__}, not a DeletableStore: a repair needs its replace method"
            )
