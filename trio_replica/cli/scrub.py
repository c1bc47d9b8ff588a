"""The command that reads every blob again. It prints findings as they come, then a table."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, final

import click
import trio
from rich.filesize import decimal

from .._identity import check_distinct
from .._printable import printable
from .._upkeep.scrub import scrub
from .._upkeep.scrub_report import ScrubCounts, ScrubFinding, ScrubReport
from .options import store_options
from .output import Display, describe
from .running import FAILED, run
from .stores import chosen_stores, open_each, to_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._store import Store
    from .stores import Stores

STEPS: Final = 2**16
"""Steps of the bar for each store. Refs are spread evenly, so the first bytes of one show how far a listing is."""

_NOTHING: Final = ScrubReport({}, (), {}, {}, {})


@click.command("scrub")
@click.option("--repair", is_flag=True, help="Replace corrupt blobs by good copies from other stores.")
@click.option(
    "--bytes-per-second", metavar="N", type=click.IntRange(min=1), help="Read at most N bytes a second from each store."
)
@store_options
@click.pass_context
def scrub_command(context: click.Context, *, repair: bool, bytes_per_second: int | None) -> int:
    """Read every blob of every store, hash it again, and print which are corrupt.

    The exit status is 1 if a blob is corrupt and not repaired, a store or a blob could not be read, or a store did not
    answer another question about a blob.
    """
    stores = chosen_stores(context)
    is_sound = run(lambda: scrub_stores(stores, Display(), repair=repair, bytes_per_second=bytes_per_second))
    return 0 if is_sound else FAILED


async def scrub_stores(stores: Stores, display: Display, *, repair: bool, bytes_per_second: int | None) -> bool:
    """Scrub the stores, print a line for each finding as it comes, then a table, and return whether all is well.

    A store that can't be opened does not stop the others. No store is created. Being cancelled means that some blobs
    may have been repaired whose line was not printed.

    Raises:
      OutputError: if standard output accepts no more.

    """
    async with AsyncExitStack() as stack:
        urls = stores.all() if repair else to_read(stores.all())
        opened, problems = await open_each(urls, stack)
        await check_distinct(opened)  # here, because an error of the scrub comes out in a group
        scrubbing = _Scrubbing(display, opened)
        report = await scrubbing.run(repair=repair, bytes_per_second=bytes_per_second) if opened else _NOTHING
    problems |= {name: describe(failure) for name, failure in report.failures.items()}
    await display.write(_text(_table(stores, report, problems)))
    return report.is_sound and not problems


@final
class _Scrubbing:
    """A scrub with a display of its progress and findings."""

    def __init__(self, display: Display, stores: Mapping[str, Store]) -> None:
        self._display = display
        self._stores = stores
        self._counts: Mapping[str, ScrubCounts] = {}
        self._steps = 0
        self._failure: Exception | None = None
        display.begin(self._progress, STEPS * len(stores))

    async def run(self, *, repair: bool, bytes_per_second: int | None) -> ScrubReport:
        report: ScrubReport | None = None
        # This has no bound, because a scrub does not wait for the reader of its output. A finding is less than 1 kB.
        sender, receiver = trio.open_memory_channel[ScrubFinding](math.inf)
        async with trio.open_nursery() as drawing:
            drawing.start_soon(self._display.run)
            async with trio.open_nursery() as writing:
                writing.start_soon(self._write, receiver, drawing.cancel_scope)
                with sender:
                    report = await scrub(
                        self._stores,
                        repair=repair,
                        bytes_per_second=bytes_per_second,
                        on_progress=self._show,
                        on_finding=sender.send_nowait,
                    )
            drawing.cancel_scope.cancel()
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                del self
        assert report is not None
        return report

    async def _write(  # noqa: ASYNC910  (a task of its own)
        self, findings: trio.MemoryReceiveChannel[ScrubFinding], everything: trio.CancelScope
    ) -> None:
        try:
            async for finding in findings:
                became = finding.outcome and f"; {finding.outcome}"
                await self._display.write(_text([f"{finding.store}  {finding.ref}  {finding.problem}{became}"]))
        except Exception as failure:  # `run` raises it
            self._failure = failure
            everything.cancel()

    def _show(self, counts: Mapping[str, ScrubCounts]) -> None:
        self._counts = counts
        steps = sum(int.from_bytes(one.reached[:2], "big") for one in counts.values())
        self._display.advance(steps - self._steps)
        self._steps = steps

    def _progress(self) -> str:
        counts = self._counts.values()
        size = sum(one.bytes for one in counts)
        speed = decimal(int(size / (self._display.seconds or 1)))
        bad = sum(one.corrupt + one.failed + one.unanswered for one in counts)
        read = f"{sum(one.refs for one in counts):,} blobs {decimal(size)} {speed}/s"
        return f"{read}, {bad:,} bad" if bad else read


def _table(stores: Stores, report: ScrubReport, problems: Mapping[str, str]) -> Iterator[str]:
    kinds = stores.kinds()
    width = max(map(len, (*kinds, "STORE")))
    yield f"{'STORE':{width}}  {'KIND':5}  {'REFS':>10}  {'BYTES':>14}  {'CORRUPT':>8}  {'REPAIRED':>8}  {'FAILED':>8}"
    for name, kind in kinds.items():
        row = f"{name:{width}}  {kind:5}"
        if name in report.stores:
            one = report.stores[name]
            row += f"  {one.refs:>10}  {one.bytes:>14}  {one.corrupt:>8}  {one.repaired:>8}  {one.failed:>8}"
        yield f"{row}  failed: {problems[name]}" if name in problems else row
    for name, one in report.stores.items():
        if one.unanswered:
            yield f"{name}  unanswered: {one.unanswered}, because another question about the blob failed: scrub again"
    for what, lines in (("repaired", report.repaired), ("problem", report.problems)):
        yield from (f"{name}  {what}: {line}" for name, some in lines.items() for line in some)


def _text(lines: Iterator[str] | list[str]) -> bytes:
    return "".join(f"{printable(line)}\n" for line in lines).encode()
