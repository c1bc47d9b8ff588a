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
"""Problems that a report names; it counts all of them."""


@dataclass(frozen=True, slots=True)
class ReconcileCounts:
    """What has been found in one store, and done for it.

    ``refs + missing`` is the number of distinct refs in all stores, for each that could be listed to its end.
    """

    refs: int
    """Blobs that it had: it listed them, or said so when it was asked again."""
    missing: int
    """Blobs that it lacked and another had. Of these, ``missing - copied`` are still missing."""
    copied: int
    """Missing blobs that were put to it, and that it has now."""
    failed: int
    """Missing blobs that no other store had intact, or whose put failed. None in a dry run, which copies nothing."""
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
    """What went wrong, in one line. An exception would keep the blob in memory."""

    def __str__(self) -> str:
        return f"{self.store}: {self.operation} of {self.ref}: {self.error}"


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What a `reconcile` has done, so far or in all."""

    stores: Mapping[str, ReconcileCounts]
    """By the name of the store."""
    failures: Mapping[str, BaseException]
    """The exception of each store whose listing failed, by its name. Its counts are of what it had listed before."""
    problems: tuple[ReconcileProblem, ...]
    """The first 100 problems with single blobs, also those after which another store helped: a corrupt blob, say."""
    problem_count: int
    """Of how many problems in all."""
    reached: Ref
    """Every ref up to this one has been dealt with: a `reconcile` with this as `after` would go on here."""

    @property
    def complete(self) -> bool:
        """Whether no store lacks a blob, as far as is known: those in `failures` are left out."""
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

    A blob is read from the first store that has it, and verified; if it is corrupt there, or the get fails, from the
    next. What a store does not list, it is asked for once more with `Store.contains`, so that stores may be put to
    while this runs. But don't delete from them: the blobs would come back. Blobs that are nowhere missing are not read,
    so not checked. A store that was opened to be read only is a source, and lacks nothing.

    Returning means that all refs have been dealt with; the report tells what is still missing. A blob that can't be
    copied does not stop the rest. A store whose listing fails is set aside: from there on it neither lacks nor gives
    anything, and the other stores go on, also when only one is left, which is then listed to its end. Being cancelled
    means that any of the blobs that are missing may have been copied, and nothing is left running. To do it again is
    harmless, and goes on where it was: what has been copied is not missing any more.

    Args:
      stores: an iterable of stores, which are named ``store-0``, ``store-1``, …, or a mapping of names to stores. They
        are read in this order.
      dry_run: whether to count only what is missing.
      after: the ref after which to begin.
      concurrency: the most blobs that are in memory, or looked up, at once. Beside these, it keeps a page of up to
        1000 refs of each store.
      on_progress: is called with a report of what has been done so far, after every page and every missing blob. What
        it raises ends it all, and comes out as it is.

    Raises:
      ValueError: if there is no store, `concurrency` is less than 1, a name or a store is given twice, or two have one
        identity.
      TypeError: if a store is no `Store`, `after` no `Ref` or `concurrency` no `int`.

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
    """A store with its place in its listing and its counts."""

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
        """Take the page that it listed, and return False: the others go on, however it ended."""
        if isinstance(ended, outcome.Error):
            self.failure = ended.error
        elif ended.value:
            self.page = ended.value
            self.after = self.page[-1]
        else:
            self.ended = True
        return False

    def take(self, end: Ref) -> set[Ref]:
        """Return the refs of its page up to `end`, which are merged with this."""
        size = bisect_right(self.page, end)
        taken, self.page = set(self.page[:size]), self.page[size:]
        self.refs += size
        return taken

    def counts(self) -> ReconcileCounts:
        return ReconcileCounts(self.refs, self.missing, self.copied, self.failed, self.bytes)


@final
class _Reconciliation:
    """One `reconcile`: a task lists, and others look after the gaps that it finds, each after one at a time."""

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
        self._listed = after  # what is up to here has been merged
        self._open: dict[Ref, Ref] = {}  # the gaps of this page that are not closed, each with the last ref before it
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
          BaseException: what `on_progress` raised.

        """
        raised: list[BaseException] = []

        def settle(_: Callable[[], Awaitable[None]], ended: Ended[None]) -> bool:
            if isinstance(ended, outcome.Error):
                raised.append(ended.error)
            return bool(raised)

        # Without a buffer: the next page is listed once the last gap of this one has been taken.
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
        """Merge the pages as far as they are known to be whole, and return the gaps."""
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
        """Return those stores that don't say, when they are asked again, that they have the blob by now."""
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
        """Return the blob from the first store that has it intact; None if none has."""

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
            else:  # also where it was not added: that says a put, too, which was repeated after its answer was lost
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
