"""The command that copies blobs to the stores that lack them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, final

import click
import outcome
import trio
from rich.filesize import decimal

from .._calls.attempt import attempt
from .._identity import read_identities
from .._printable import printable
from .._upkeep.reconcile import SPOT_CHECKS, reconcile
from .._upkeep.reconcile_report import ReconcileCounts
from .identities import kept_stores
from .options import checked_urls, store_options
from .outbox import clear_marks
from .output import Display, describe, say, write_output
from .running import FAILED, run
from .stores import check_once, chosen_stores, open_each, to_read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .._blob import Ref
    from .._upkeep.reconcile_report import ReconcileReport
    from .._urls.store_url import StoreUrl
    from .stores import Stores

STEPS: Final = 2**32
"""Steps of the bar. Refs are spread evenly, so the first bytes of the last ref show the progress."""

_NONE: Final = ReconcileCounts(0, 0, 0, 0, 0)


@click.command("reconcile")
@click.option(
    "--from",
    "sources",
    metavar="URL",
    multiple=True,
    callback=checked_urls,
    help="A store that blobs are only copied from: a snapshot, or a disk that is read-only. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only count the missing blobs. Copy nothing, and create no store.")
@click.option("--ask-all", is_flag=True, help="Ask each store for every blob that it lists, not for some of them.")
@store_options
@click.pass_context
def reconcile_stores(context: click.Context, *, sources: list[StoreUrl], dry_run: bool, ask_all: bool) -> int:
    """Copy every blob that a store has and others lack to those.

    The exit status is 1 if anything is still missing, also in a store that is read-only, or if a store did not answer a
    question. Nothing counts as missing in the stores of --from.

    Each store is asked whether it has the blobs that it lists: some of each page, or all with --ask-all.

    Don't delete from the stores while this runs, because the blobs would come back. After an interruption, run it
    again. It goes on with the blobs that are still missing.
    """
    stores = chosen_stores(context, to_create=not dry_run)
    if not dry_run:
        stores.prepare()
    read_only = {url.shown: url for url in sources}
    check_once(context, [*stores.all().values(), *sources])
    return run(_reconcile, stores, read_only, dry_run, ask_all, kept_stores(stores))


@final
class Reconciling:
    """A reconcile of the stores of a command, and its results."""

    def __init__(
        self,
        urls: Mapping[str, StoreUrl],
        sources: Mapping[str, StoreUrl],
        display: Display,
        *,
        only_read: Iterable[str],
        kept: Mapping[str, str],
    ) -> None:
        self.identities: Mapping[str, str | None] = {}
        """The identities of the stores, by their names, once nothing is missing in them."""
        self._urls = {**urls, **to_read(sources)}
        self._kept = kept  # the remedies for stores that are not created
        self._sources = sources
        self._display = display
        self._only_read = {*only_read}
        self._unopened: dict[str, str] = {}
        self._report: ReconcileReport | None = None

    @property
    def succeeded(self) -> bool:
        """Whether all stores could be listed, no question was left unanswered and nothing is missing."""
        return not self._unopened and self._report is not None and self._report.complete and not self._report.failures

    async def run(self, *, dry_run: bool, ask_all: bool) -> None:
        """Copy the blobs that some stores have and others lack. In a dry run only count them.

        A problem with a blob causes one line on standard error, and the rest goes on. A store that can't be opened
        does not stop the others. Being cancelled means that some blobs may have been copied.
        """
        self._display.begin(self._progress, STEPS)
        async with AsyncExitStack() as stack:
            may_create = self._urls.keys() - self._kept.keys()
            stores, self._unopened = await open_each(self._urls, stack, may_create=may_create, remedies=self._kept)
            if stores:
                report = await self._display.during(
                    partial(
                        reconcile,
                        stores,
                        sources=[name for name in self._sources if name in stores],
                        dry_run=dry_run,
                        spot_checks=None if ask_all else SPOT_CHECKS,
                        on_progress=self._note,
                    )
                )
                if not dry_run:
                    self._only_read |= {name for name, store in stores.items() if store.is_read_only}
                if self.succeeded:
                    ended = await attempt(read_identities, stores)
                    self.identities = ended.value if isinstance(ended, outcome.Value) else {}
                if more := report.problem_count - len(report.problems):
                    self._display.problem(f"and {more} more such problems")

    def table(self, kinds: Mapping[str, str]) -> Iterator[str]:
        """Return the lines of the table of results. `kinds` has the kind of each store of the command.

        A store that blobs were only copied from is of the kind ``from``, and a count that it can't have is ``-``.
        """
        width = max(map(len, (*self._urls, "STORE")))
        yield f"{'STORE':{width}}  KIND   {'REFS':>10}  {'MISSING':>10}  {'COPIED':>10}  {'FAILED':>10}  {'BYTES':>14}"
        for name in self._urls:
            is_target = name in kinds and name not in self._only_read
            row = f"{name:{width}}  {kinds[name] if is_target else 'from':5}"
            counts, failure = self._counts(name), self._failure(name)
            if counts != _NONE or not failure:
                missing = counts.missing if name in kinds else "-"
                copied, failed, size = (counts.copied, counts.failed, counts.bytes) if is_target else "---"
                row += f"  {counts.refs:>10}  {missing:>10}  {copied:>10}  {failed:>10}  {size:>14}"
            yield f"{row}  failed: {failure}" if failure else row
        for name in self._urls:
            counts = self._counts(name)
            if counts.missing and name in self._only_read:
                yield f"{name}  lacks {counts.missing} and is only read: remove read_only, or name it with --from"
            if counts.unanswered:
                yield f"{name}  unanswered: it may lack {counts.unanswered} of its refs: run this again, or scrub"

    def _counts(self, name: str) -> ReconcileCounts:
        return _NONE if self._report is None else self._report.stores.get(name, _NONE)

    def _failure(self, name: str) -> str:
        failures = {} if self._report is None else self._report.failures
        return describe(failures[name]) if name in failures else self._unopened.get(name, "")

    def _note(self, report: ReconcileReport) -> None:
        known, steps = (0, 0) if self._report is None else (len(self._report.problems), _steps(self._report.reached))
        for problem in report.problems[known:]:
            self._display.problem(str(problem))
        self._display.advance(_steps(report.reached) - steps)
        self._report = report

    def _progress(self) -> str:
        if self._report is None:
            return "listing"
        counts = self._report.stores.values()
        refs = max(one.refs + one.missing for one in counts)
        missing, copied = sum(one.missing for one in counts), sum(one.copied for one in counts)
        size = sum(one.bytes for one in counts)
        speed = decimal(int(size / (self._display.seconds or 1)))
        return f"{refs:,} refs, {copied:,}/{missing:,} copied {speed}/s"


def _steps(ref: Ref) -> int:
    return int.from_bytes(ref[:4], "big")


async def _reconcile(
    stores: Stores, sources: Mapping[str, StoreUrl], dry_run: bool, ask_all: bool, kept: Mapping[str, str]
) -> int:
    urls = stores.with_stand_ins() if dry_run else stores.all()
    only_read = [name for name, url in stores.all().items() if url.options.get("read_only")]
    reconciling = Reconciling(urls, sources, Display(), only_read=only_read, kept=kept)
    await reconciling.run(dry_run=dry_run, ask_all=ask_all)
    lines = "".join(f"{printable(line)}\n" for line in reconciling.table(stores.kinds())).encode()
    await trio.to_thread.run_sync(write_output, lines, abandon_on_cancel=True)
    if reconciling.succeeded and not dry_run and "outbox" in stores.options:
        identities = {name: identity for name, identity in reconciling.identities.items() if name in stores.all()}
        for line in await trio.to_thread.run_sync(lambda: list(clear_marks(stores.outbox(), identities))):
            say(line)
    return 0 if reconciling.succeeded else FAILED
