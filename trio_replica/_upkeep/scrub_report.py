"""The report of a scrub: its counts and its findings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

from .._blob import Ref
from .._frozen import FrozenDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .contradiction import Contradiction

FINDINGS: Final = 10_000
"""Findings that a report keeps, of all stores together: some MB."""


@dataclass(frozen=True, slots=True)
class ScrubCounts:
    """How far the scrub of one store is."""

    refs: int = 0
    """Blobs that were read, whatever came of it; those that were deleted in the meantime are not counted."""
    bytes: int = 0
    """Bytes of what was read."""
    corrupt: int = 0
    """Blobs whose bytes are not those that the ref names, or that an index hides, or about which the store contradicts
    itself: listed and not there, for example."""
    repaired: int = 0
    """Those of them that have been repaired."""
    failed: int = 0
    """Blobs that could not be read, so that nobody knows."""
    reached: Ref = Ref.ZERO
    """The ref up to which all were read: what `scrub` takes for `after` to go on from there."""


@dataclass(frozen=True, slots=True)
class ScrubFinding:
    """A blob of a store that is corrupt, or could not be read, or about which the store contradicts itself."""

    store: str
    """The name of the store."""
    ref: Ref
    problem: str
    """What is wrong, in words."""
    is_corrupt: bool
    """Whether it is known to be corrupt, or the store contradicts itself about it; else it could not be read."""
    is_repaired: bool = False
    outcome: str = ""
    """What became of it, in words; empty if no repair was asked for."""
    contradiction: Contradiction | None = None
    """Which answers of the store cannot both be true; None if it does not contradict itself."""


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What a scrub has found. The mappings are by the names of the stores."""

    stores: Mapping[str, ScrubCounts]
    """What was counted in each."""
    findings: tuple[ScrubFinding, ...]
    """The first 10,000, in the order in which they were found; `stores` counts all."""
    problems: Mapping[str, tuple[str, ...]]
    """What stores found wrong with themselves as a whole, in words, and is still so."""
    repaired: Mapping[str, tuple[str, ...]]
    """What stores found wrong with themselves, and has been repaired."""
    failures: Mapping[str, BaseException]
    """Why the listing of a store failed; its blobs after `ScrubCounts.reached` have not been read."""

    @property
    def is_sound(self) -> bool:
        """Whether every blob was read and is right now, and no store has a problem or contradicts itself."""
        return not (
            self.problems
            or self.failures
            or any(counts.failed or counts.corrupt > counts.repaired for counts in self.stores.values())
        )


@final
class ScrubLog:
    """What has been found so far, and who is told. Nothing in here waits."""

    def __init__(
        self,
        names: Iterable[str],
        on_progress: Callable[[Mapping[str, ScrubCounts]], None] | None,
        on_finding: Callable[[ScrubFinding], None] | None,
        *,
        kept: int = FINDINGS,
    ) -> None:
        self.counts = dict.fromkeys(names, ScrubCounts())
        self.problems: dict[str, tuple[str, ...]] = {}
        self.repaired: dict[str, tuple[str, ...]] = {}
        self.failures: dict[str, BaseException] = {}
        self._findings: list[ScrubFinding] = []
        self._kept = kept
        self._on_progress = on_progress
        self._on_finding = on_finding

    def count(self, name: str, **changes: int) -> None:
        """Add `changes` to the counts of a store."""
        before = self.counts[name]
        self.counts[name] = replace(before, **{key: getattr(before, key) + more for key, more in changes.items()})

    def reach(self, name: str, ref: Ref) -> None:
        self.counts[name] = replace(self.counts[name], reached=ref)
        self.tell()

    def find(self, finding: ScrubFinding) -> None:
        if len(self._findings) < self._kept:
            self._findings.append(finding)
        if self._on_finding is not None:
            on_finding, self._on_finding = self._on_finding, None  # not to be called again once it has raised
            on_finding(finding)
            self._on_finding = on_finding

    def tell(self) -> None:
        if self._on_progress is not None:
            on_progress, self._on_progress = self._on_progress, None  # likewise
            on_progress(FrozenDict(self.counts))
            self._on_progress = on_progress

    def report(self) -> ScrubReport:
        return ScrubReport(
            stores=FrozenDict(self.counts),
            findings=tuple(self._findings),
            problems=FrozenDict(self.problems),
            repaired=FrozenDict(self.repaired),
            failures=FrozenDict(self.failures),
        )
