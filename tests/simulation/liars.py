"""A reconcile or a scrub of stores, one of which contradicts itself: whether the report says so, and is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

from trio_replica import BlobNotFoundError, DeletableStore, Store, reconcile, scrub
from trio_replica.testing import Lie, LyingStore

from .disks import Bucket, flipped
from .drawing import PAGE_SIZES, fair_weather
from .ledger import BLOBS, NAMES, REFS, named
from .observer import Observer
from .stores import RemoteStore
from .trace import require

if TYPE_CHECKING:
    import random

    from trio_replica import Ref

    from .trace import Trace


class Answers(NamedTuple):
    """Whether a store says that it has a blob."""

    listed: bool
    contained: bool
    got: bool


class Liar(LyingStore):
    """A store that lies, and notes which blobs it was asked to give."""

    def __init__(self, store: RemoteStore) -> None:
        super().__init__(store)
        self.asked: set[Ref] = set()

    async def get(self, ref: Ref) -> bytes:
        self.asked.add(ref)
        return await super().get(ref)


@final
class PlainLiar(Liar):
    """One whose ``contains`` is its listing."""

    contains = Store.contains


@final
class Upkeep:
    """Some stores that nobody else uses, and what is done to them."""

    def __init__(self, draw: random.Random, trace: Trace, pool: int) -> None:
        self._draw = draw
        self._trace = trace
        self._refs = draw.sample(REFS[:pool], draw.randint(1, pool))
        self._buckets = [Bucket() for _ in range(draw.choice([2, 3, 3]))]
        self._fill()
        honest = [self._store(number) for number in range(len(self._buckets))]
        self._liar = draw.choice([Liar, PlainLiar])(honest[0])
        self._lie = draw.choice([*Lie, Lie.LISTS])
        self._is_mended = draw.random() < 0.5
        self._about = draw.sample(self._refs, draw.randint(1, len(self._refs)))
        if self._lie is Lie.LISTS or draw.random() < 0.7:
            self._liar.lie(self._lie, *self._about, until_written=self._is_mended)
        else:
            self._liar.lie(self._lie, until_written=self._is_mended)
            self._about = self._refs
        stores: list[DeletableStore] = [self._liar, *honest[1:]]
        if draw.random() < 0.5:
            stores.reverse()
        self._stores = {f"store-{number}": store for number, store in enumerate(stores)}

    def _fill(self) -> None:
        """Let an honest store have each blob as it is, and the others perhaps; one may have rotted."""
        draw = self._draw
        sound = draw.randint(1, len(self._buckets) - 1)
        share = draw.choice([0.5, 0.5, 1.0])
        for ref in self._refs:
            for number, bucket in enumerate(self._buckets):
                if number == sound or draw.random() < share:
                    bucket.blobs[ref] = BLOBS[ref]
        if draw.random() < 0.3:
            others = [bucket for number, bucket in enumerate(self._buckets) if number != sound and bucket.blobs]
            for bucket in others[:1]:
                ref = draw.choice(sorted(bucket.blobs))
                bucket.blobs[ref] = flipped(BLOBS[ref])

    def _store(self, number: int) -> RemoteStore:
        weather = fair_weather(self._draw, self._trace, f"store-{number}")
        weather.page_size = self._draw.choice(PAGE_SIZES)
        return RemoteStore(self._buckets[number], weather)

    def run(self) -> None:
        """Do something to them.

        Raises:
          Violation: if it said what is not so.

        """
        Observer().run(self._draw.choice([self._reconcile, self._reconcile, self._scrub, self._repair, self._repair]))

    async def _reconcile(self) -> None:
        dry_run = self._draw.random() < 0.1
        concurrency = self._draw.randint(1, 4)
        report = await reconcile(self._stores, dry_run=dry_run, concurrency=concurrency, spot_checks=None)
        self._trace.note("reconcile of a liar", f"{self._lie.name} {report.complete}")
        require(not report.failures, "a store that lies does not fail", *report.failures)
        if not report.complete:
            require(
                dry_run or report.problems, "a reconcile in fair weather is complete, or says why not", *report.problems
            )
            return
        asked = {*self._liar.asked}
        for name, store in self._stores.items():
            for ref in self._refs:
                answers = await _answers(store, ref)
                # A blob that is listed, and that nobody had to read from there, may be a ghost: scrub reads it.
                is_there = answers.listed and answers.contained and (answers.got or ref not in asked)
                require(is_there, "all say that they have what is reconciled", name, NAMES[ref], answers)

    async def _scrub(self) -> None:
        disagreeing = await self._disagreeing()
        wrong = [ref for bucket in self._buckets for ref, data in bucket.blobs.items() if data != BLOBS[ref]]
        report = await scrub(self._stores)
        self._trace.note("scrub of a liar", f"{self._lie.name} {report.is_sound}")
        found = {finding.ref for finding in report.findings if finding.contradiction is not None}
        missed = disagreeing - found - {*wrong}
        require(not missed, "a scrub finds each contradiction", self._lie.name, named(sorted(missed)))
        invented = found - disagreeing
        require(not invented, "a scrub finds no contradiction where there is none", named(sorted(invented)))
        require(report.is_sound == (not disagreeing and not wrong), "a scrub says whether all is well", report)

    async def _repair(self) -> None:
        report = await scrub(self._stores, repair=True)
        self._trace.note("repair of a liar", f"{self._lie.name} {report.is_sound}")
        disagreeing = await self._disagreeing()
        if report.is_sound:
            require(not disagreeing, "what is repaired contradicts itself no more", named(sorted(disagreeing)))
            for bucket in self._buckets:
                wrong = [ref for ref, data in bucket.blobs.items() if data != BLOBS[ref]]
                require(not wrong, "what is repaired is intact", named(wrong))
        is_mendable = self._lie in {Lie.LISTS, Lie.HIDES} and self._is_mended and self._about is not self._refs
        require(report.is_sound or not is_mendable, "a repair ends a contradiction that a write ends", report.findings)

    async def _disagreeing(self) -> set[Ref]:
        """Return the blobs about which the liar contradicts itself now."""
        return {ref for ref in self._refs if len({*await _answers(self._liar, ref)}) > 1}


async def _answers(store: Store, ref: Ref) -> Answers:
    listed = [listed async for listed in store.list_refs()]
    try:
        await store.get(ref)
    except BlobNotFoundError:
        got = False
    else:
        got = True
    return Answers(ref in listed, await store.contains(ref), got)
