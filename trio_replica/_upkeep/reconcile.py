"""Reconciling stores: copying blobs from stores that have them to stores that lack them."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final, final

import outcome
import trio

from .._blob import Ref
from .._calls.fan_out import CONCURRENCY, fan_out
from .._checks import check_size, checked_names, named_peers
from .._frozen import FrozenDict
from .._identity import check_distinct
from .._listing import check_ref
from .contradiction import has_own_contains
from .gaps import Gap, Member, Problems
from .listings import list_pages, merge
from .reconcile_report import ReconcileReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator

    from .._calls.attempt import Ended
    from .._checks import Stores

SPOT_CHECKS: Final = 16
"""The number of refs of each page for which a store is asked again. This adds at most one request for every 60 refs,
and one round of requests beside the one for the page."""


async def reconcile(
    stores: Stores,
    *,
    sources: Iterable[str] = (),
    dry_run: bool = False,
    after: Ref = Ref.ZERO,
    concurrency: int = CONCURRENCY,
    spot_checks: int | None = SPOT_CHECKS,
    on_progress: Callable[[ReconcileReport], object] | None = None,
) -> ReconcileReport:
    """Copy every blob that some of `stores` have and others lack to those that lack it.

    A blob is read from the first store that has it, and verified. If it is corrupt there, or the get fails, it is read
    from the next one. Before a blob counts as missing, its store is asked again with `Store.contains`, so puts may go
    on while this runs. But don't delete from the stores, because the blobs would come back. Blobs that no store lacks
    are not read, and so not checked.

    No single answer of a store is trusted if another one was asked for:
    - A blob that a store says it has but does not list is missing, unless a new page of its listing shows it.
    - A blob that a store lists but a get does not find is missing.
    - A blob has been copied when the listing and `Store.contains` show it after the put. If the store contradicted
      itself about the blob before, a get has to return it, too. If one of these questions fails, the blob counts as
      failed.
    - For some refs of each page that a store lists, it is asked again with `Store.contains`, if it has one of its own.
      If the question fails, or a get of a listed blob fails, the blob counts as unanswered.

    A blob that a store lists and claims to have, although a get would not find it, is noticed only if it has to be read
    from there. `scrub` reads everything.

    Returning means that all refs have been dealt with. The report shows which are still missing. A blob that can't be
    copied does not stop the rest. If the listing of a store fails, the store is left out from there on: nothing is read
    from it or copied to it. A store that does not tell its identity is left out from the beginning, because it may be
    another one by a second name. The other stores go on. If only one is left, it is listed to its end. Being cancelled
    means that any of the missing blobs may have been copied. Nothing is left running. It is harmless to repeat the
    call, which then copies only the blobs that are still missing.

    Args:
      stores: an iterable of stores, which are named ``store-0``, ``store-1``, …, or a mapping of names to stores. They
        are read in this order.
      sources: the names of stores that blobs are only copied from, such as a snapshot. Nothing counts as missing in
        them. A store that was opened with ``read_only=True`` is only read, too. If it is not named here, the blobs that
        it lacks count as missing, because nobody can copy them to it.
      dry_run: whether to count the missing blobs without copying them.
      after: the ref after which to begin.
      concurrency: the most blobs that are in memory, or looked up, at once. There is also a page of up to 1000 refs of
        each store in memory.
      spot_checks: the number of refs of each page for which a store is asked with `Store.contains`. They are drawn at
        random. None asks for every ref, which takes a thousand times as many requests as the listing.
      on_progress: a function that is called with a report of the results so far, after every page and every missing
        blob. If it raises an exception, the reconcile ends and raises that exception.

    Raises:
      ValueError: if there is no store, `concurrency` is less than 1, `spot_checks` is negative, a name or a store is
        given twice, two have the same identity, or a source is not one of the stores.
      TypeError: if a store is not a `Store`, `after` is not a `Ref`, or one of the numbers is not an `int`.

    """
    named = named_peers(stores)
    only_read = set(checked_names("sources", sources))
    if unknown := only_read - named.keys():
        raise ValueError(f"sources has {min(unknown)!r}, which is not one of the stores: {', '.join(map(repr, named))}")
    members = [Member(name, store, check_ref(after), is_source=name in only_read) for name, store in named.items()]
    check_size("concurrency", concurrency)
    if spot_checks is not None:
        check_size("spot_checks", spot_checks, at_least=0)
    reconciliation = _Reconciliation(members, after, dry_run=dry_run, spot_checks=spot_checks, on_progress=on_progress)
    untold = await check_distinct({member.name: member.store for member in members})
    for member in members:
        member.failure = untold.get(member.name)
    await reconciliation.run(concurrency)
    return reconciliation.report()


@final
class _Reconciliation:
    """One `reconcile`. One task lists and finds gaps, and other tasks close the gaps, each one at a time."""

    def __init__(
        self,
        members: list[Member],
        after: Ref,
        *,
        dry_run: bool,
        spot_checks: int | None,
        on_progress: Callable[[ReconcileReport], object] | None,
    ) -> None:
        self._members = members
        self._dry_run = dry_run
        self._spot_checks = spot_checks
        self._on_progress = on_progress
        self._listed = after  # the refs up to this one have been merged
        self._open: dict[Ref, Ref] = {}  # the open gaps of this page, each with the ref before it
        self._problems = Problems()

    def report(self) -> ReconcileReport:
        return ReconcileReport(
            stores=FrozenDict({member.name: member.counts() for member in self._members}),
            failures=FrozenDict(
                {member.name: member.failure for member in self._members if member.failure is not None}
            ),
            problems=tuple(self._problems.kept),
            problem_count=self._problems.count,
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
        sending, receiving = trio.open_memory_channel[Gap](0)
        with receiving:
            close = partial(self._close_gaps, receiving)
            await fan_out([partial(self._list, sending), *[close] * concurrency], _run, settle)
        if raised:
            try:
                raise raised[0]
            finally:
                del raised  # its traceback refers to this frame

    # Finding gaps

    async def _list(self, gaps: trio.MemorySendChannel[Gap]) -> None:
        with gaps:
            while await list_pages(self._members):
                found = list(self._merge())
                self._progress()
                for gap in found:
                    await gaps.send(gap)
            self._progress()

    def _merge(self) -> Iterator[Gap]:
        """Merge the pages as far as they are known to be complete, and return the gaps."""
        refs, held = merge(self._members)
        before, self._listed = self._listed, refs[-1]
        for member, taken in held:
            member.refs += len(taken)
        to_ask = [(member, self._to_ask(member, taken)) for member, taken in held]
        if all(len(taken) == len(refs) for _, taken in held) and not any(some for _, some in to_ask):
            return
        for ref in refs:
            lacking = [member for member, taken in held if ref not in taken and not member.is_source]
            asked = [member for member, some in to_ask if ref in some]
            if lacking or asked:
                having = [member for member, taken in held if ref in taken]
                self._open[ref] = before
                yield Gap(ref, having, lacking, asked, self._problems)
            before = ref

    def _to_ask(self, member: Member, listed: Collection[Ref]) -> Collection[Ref]:
        """Return the refs that a store has listed and will be asked for again."""
        if not has_own_contains(member.store):
            return ()
        if self._spot_checks is None or len(listed) <= self._spot_checks:
            return listed
        return set(random.sample(sorted(listed), self._spot_checks))

    # Closing them

    async def _close_gaps(self, gaps: trio.MemoryReceiveChannel[Gap]) -> None:
        async for gap in gaps:
            await gap.ask()
            if not self._dry_run:
                await gap.copy()
            gap.count_unanswered()
            del self._open[gap.ref]
            self._progress()

    def _progress(self) -> None:
        if self._on_progress is not None:
            on_progress, self._on_progress = self._on_progress, None  # not to be called again once it has raised
            on_progress(self.report())
            self._on_progress = on_progress


async def _run(call: Callable[[], Awaitable[None]]) -> None:
    await call()
