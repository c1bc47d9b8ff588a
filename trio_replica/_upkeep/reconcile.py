"""Reconciling stores: copying blobs from stores that have them to stores that lack them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import outcome
import trio

from .._blob import Ref, hashed
from .._calls.attempt import attempt
from .._calls.fan_out import CONCURRENCY, fan_out
from .._checks import check_size, named_peers
from .._errors import CorruptBlobError, describe_failure
from .._frozen import FrozenDict
from .._identity import check_distinct
from .._listing import PAGE_SIZE, check_ref
from .._store import check_results
from .._sync.union import check_page, union

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from .._blob import Blob
    from .._calls.attempt import Ended
    from .._checks import Stores
    from .._store import Store

PROBLEMS_KEPT: Final = 100
"""The number of problems that a report names. It counts all of them."""


@dataclass(frozen=True, slots=True)
class ReconcileCounts:
    """The counts of one store: the blobs found in it, and the blobs copied to it.

    ``refs + missing`` is the number of distinct refs in all stores, unless the listing of this store failed.
    """

    refs: int
    """Blobs that it had, because it listed them or said so when it was asked again."""
    missing: int
    """Blobs that it lacked and another store had. ``missing - copied`` of these are still missing."""
    copied: int
    """Missing blobs that were put to it, so that it has them now."""
    failed: int
    """Missing blobs that no other store had intact, or whose put failed. 0 in a dry run, which copies nothing."""
    bytes: int
    """Bytes of the copied blobs."""


@dataclass(frozen=True, slots=True)
class ReconcileProblem:
    """One call of a store that failed for one blob."""

    store: str
    """The name of the store."""
    operation: str
    """The method that was called: ``"get"``, ``"put"`` or ``"contains"``."""
    ref: Ref
    """The ref of the blob."""
    error: str
    """The error in one line. It is text because an exception would keep the blob in memory."""

    def __str__(self) -> str:
        return f"{self.store}: {self.operation} of {self.ref}: {self.error}"


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The results of a `reconcile`, so far or in the end."""

    stores: Mapping[str, ReconcileCounts]
    """The counts of each store by its name."""
    failures: Mapping[str, BaseException]
    """The exception of each store whose listing failed, by its name. Its counts cover what it had listed before."""
    problems: tuple[ReconcileProblem, ...]
    """The first 100 problems with single blobs. This includes problems after which another store had a good copy."""
    problem_count: int
    """The number of all problems."""
    reached: Ref
    """The ref up to which all have been dealt with. A `reconcile` with this as `after` would go on here."""

    @property
    def complete(self) -> bool:
        """Whether no store lacks a blob, leaving out the stores in `failures`."""
        return all(counts.missing == counts.copied for name, counts in self.stores.items() if name not in self.failures)


async def reconcile(
    stores: Stores,
    *,
    dry_run: bool = False,
    after: Ref = Ref.ZERO,
    concurrency: int = CONCURRENCY,
    on_progress: Callable[[ReconcileReport], object] | None = None,
) -> ReconcileReport:
    """Copy every blob that some of `stores` have and others lack to those that lack it.

    A blob is read from the first store that has it, and verified. If it is corrupt there, or the get fails, it is read
    from the next one. Before a blob counts as missing, its store is asked again with `Store.contains`, so puts may go
    on while this runs. But don't delete from the stores, because the blobs would come back. Blobs that no store lacks
    are not read, and so not checked. A store that was opened to be read only is a source, and lacks nothing.

    Returning means that all refs have been dealt with. The report shows which are still missing. A blob that can't be
    copied does not stop the rest. If the listing of a store fails, the store is left out from there on: nothing is read
    from it or copied to it. The other stores go on. If only one is left, it is listed to its end. Being cancelled means
    that any of the missing blobs may have been copied. Nothing is left running. It is harmless to repeat the call,
    which then copies only the blobs that are still missing.

    Args:
      stores: an iterable of stores, which are named ``store-0``, ``store-1``, …, or a mapping of names to stores. They
        are read in this order.
      dry_run: whether to count the missing blobs without copying them.
      after: the ref after which to begin.
      concurrency: the most blobs that are in memory, or looked up, at once. There is also a page of up to 1000 refs of
        each store in memory.
      on_progress: a function that is called with a report of the results so far, after every page and every missing
        blob. If it raises an exception, the reconcile ends and raises that exception.

    Raises:
      ValueError: if there is no store, `concurrency` is less than 1, a name or a store is given twice, or two have one
        identity.
      TypeError: if a store is not a `Store`, `after` is not a `Ref`, or `concurrency` is not an `int`.

    """
    members = [_Member(name, store, check_ref(after)) for name, store in named_peers(stores).items()]
    check_size("concurrency", concurrency)
    reconciliation = _Reconciliation(members, after, dry_run=dry_run, on_progress=on_progress)
    await check_distinct({member.name: member.store for member in members})
    await reconciliation.run(concurrency)
    return reconciliation.report()


class _Gap(NamedTuple):
    """A ref that not all stores have listed."""

    ref: Ref
    having: list[_Member]
    lacking: list[_Member]


@final
class _Member:
    """A store with the state of its listing and its counts."""

    def __init__(self, name: str, store: Store, after: Ref) -> None:
        self.name = name
        self.store = store
        self.page: list[Ref] = []  # refs that it has listed and that have not been merged yet
        self.after = after
        self.ended = False
        self.failure: BaseException | None = None
        self.refs = 0
        self.missing = 0
        self.copied = 0
        self.failed = 0
        self.bytes = 0

    async def list_page(self) -> list[Ref]:
        return check_page(await self.store.list_page(self.after, PAGE_SIZE), self.after, PAGE_SIZE)

    def settle_page(self, ended: Ended[list[Ref]]) -> bool:
        """Take the page of its listing. Return False, because the other stores go on however this one ended."""
        if isinstance(ended, outcome.Error):
            self.failure = ended.error
        elif ended.value:
            self.page = ended.value
            self.after = self.page[-1]
        else:
            self.ended = True
        return False

    def take(self, end: Ref) -> set[Ref]:
        """Return the refs of its page up to `end`, and drop them from the page."""
        size = bisect_right(self.page, end)
        taken, self.page = set(self.page[:size]), self.page[size:]
        self.refs += size
        return taken

    def counts(self) -> ReconcileCounts:
        return ReconcileCounts(self.refs, self.missing, self.copied, self.failed, self.bytes)


@final
class _Reconciliation:
    """One `reconcile`. One task lists and finds gaps, and other tasks close the gaps, each one at a time."""

    def __init__(
        self,
        members: list[_Member],
        after: Ref,
        *,
        dry_run: bool,
        on_progress: Callable[[ReconcileReport], object] | None,
    ) -> None:
        self._members = members
        self._dry_run = dry_run
        self._on_progress = on_progress
        self._listed = after  # the refs up to this one have been merged
        self._open: dict[Ref, Ref] = {}  # the open gaps of this page, each with the ref before it
        self._problems: list[ReconcileProblem] = []
        self._problem_count = 0

    def report(self) -> ReconcileReport:
        return ReconcileReport(
            stores=FrozenDict({member.name: member.counts() for member in self._members}),
            failures=FrozenDict(
                {member.name: member.failure for member in self._members if member.failure is not None}
            ),
            problems=tuple(self._problems),
            problem_count=self._problem_count,
            reached=next(iter(self._open.values()), self._listed),
        )

    async def run(self, concurrency: int) -> None:
        """Reconcile.

        Raises:
          BaseException: if `on_progress` raised it.

        """
        raised: list[BaseException] = []

        def settle(_: Callable[[], Awaitable[None]], ended: Ended[None]) -> bool:
            if isinstance(ended, outcome.Error):
                raised.append(ended.error)
            return bool(raised)

        # The channel has no buffer, so the next page is listed only once the last gap of this one has been taken.
        sending, receiving = trio.open_memory_channel[_Gap](0)
        with receiving:
            close = partial(self._close_gaps, receiving)
            await fan_out([partial(self._list, sending), *[close] * concurrency], _run, settle)
        if raised:
            try:
                raise raised[0]
            finally:
                del raised  # its traceback refers to this frame

    # Finding gaps

    async def _list(self, gaps: trio.MemorySendChannel[_Gap]) -> None:
        with gaps:
            while await self._list_pages():
                found = list(self._merge())
                self._progress()
                for gap in found:
                    await gaps.send(gap)
            self._progress()

    async def _list_pages(self) -> bool:
        """List the next page of every store whose last one is merged, and return whether there is anything to merge."""
        due = [member for member in self._members if not (member.page or member.ended or member.failure)]
        await fan_out(due, _Member.list_page, _Member.settle_page)
        return any(member.page for member in self._members)

    def _merge(self) -> Iterator[_Gap]:
        """Merge the pages as far as they are known to be complete, and return the gaps."""
        refs = union([member.page for member in self._members])
        held = [(member, member.take(refs[-1])) for member in self._members if member.failure is None]
        before, self._listed = self._listed, refs[-1]
        if all(len(taken) == len(refs) for _, taken in held):
            return
        for ref in refs:
            gap = _Gap(ref, [], [])
            for member, taken in held:
                if ref in taken:
                    gap.having.append(member)
                elif not member.store.is_read_only:
                    gap.lacking.append(member)
            if gap.lacking:
                self._open[ref] = before
                yield gap
            before = ref

    # Closing them

    async def _close_gaps(self, gaps: trio.MemoryReceiveChannel[_Gap]) -> None:
        async for gap in gaps:
            await self._close(gap)
            del self._open[gap.ref]
            self._progress()

    async def _close(self, gap: _Gap) -> None:
        lacking = await self._still_lacking(gap)
        for member in lacking:
            member.missing += 1
        if not lacking or self._dry_run:
            return
        blob = await self._read(gap)
        if blob is None:
            for member in lacking:
                member.failed += 1
        else:
            await self._write(blob, lacking)

    async def _still_lacking(self, gap: _Gap) -> list[_Member]:
        """Ask the stores again, and return the ones that do not say that they have the blob by now."""
        lacking: list[_Member] = []

        async def ask(member: _Member) -> bool:
            return await member.store.contains(gap.ref)

        def settle(member: _Member, ended: Ended[bool]) -> bool:
            if isinstance(ended, outcome.Value) and ended.value:
                member.refs += 1
                gap.having.append(member)
            else:
                lacking.append(member)
                self._note(member, "contains", gap.ref, ended)
            return False

        await fan_out(gap.lacking, ask, settle)
        return lacking

    async def _read(self, gap: _Gap) -> Blob | None:
        """Return the blob from the first store that has it intact, or None if no store has."""

        async def get(member: _Member) -> Blob:
            blob = await hashed(await member.store.get(gap.ref))
            if blob.ref != gap.ref:
                raise CorruptBlobError(gap.ref, blob.ref)
            return blob

        for member in gap.having:
            ended = await attempt(get, member)
            if isinstance(ended, outcome.Value):
                return ended.value
            self._note(member, "get", gap.ref, ended)
        return None  # noqa: ASYNC910  (some store has it)

    async def _write(self, blob: Blob, lacking: list[_Member]) -> None:
        async def put(member: _Member) -> None:
            check_results([blob], [await member.store.put(blob)])

        def settle(member: _Member, ended: Ended[None]) -> bool:
            if isinstance(ended, outcome.Error):
                member.failed += 1
                self._note(member, "put", blob.ref, ended)
            else:  # also if `added` is False, as for a put that was repeated after its answer was lost
                member.copied += 1
                member.bytes += len(blob)
            return False

        await fan_out(lacking, put, settle)

    # Telling

    def _note(self, member: _Member, operation: str, ref: Ref, ended: Ended[object]) -> None:
        """Note that a call failed, if it did."""
        if isinstance(ended, outcome.Error):
            self._problem_count += 1
            if len(self._problems) < PROBLEMS_KEPT:
                self._problems.append(ReconcileProblem(member.name, operation, ref, describe_failure(ended.error)))

    def _progress(self) -> None:
        if self._on_progress is not None:
            on_progress, self._on_progress = self._on_progress, None  # not to be called again once it has raised
            on_progress(self.report())
            self._on_progress = on_progress


async def _run(call: Callable[[], Awaitable[None]]) -> None:
    await call()
