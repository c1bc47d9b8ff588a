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
"""Findings that a report keeps, of all stores together. They take a few MB."""


@dataclass(frozen=True, slots=True)
class ScrubCounts:
    """The counts of the scrub of one store."""

    refs: int = 0
    """Blobs that were read, with whatever result. Blobs deleted in the meantime do not count."""
    bytes: int = 0
    """Bytes that were read."""
    corrupt: int = 0
    """Blobs with bytes that do not match the ref, hidden by an index, or subject to a contradiction of the store."""
    repaired: int = 0
    """Corrupt blobs that have been repaired."""
    failed: int = 0
    """Blobs that could not be read, so it is unknown whether they are corrupt."""
    unanswered: int = 0
    """Blobs about which the store may contradict itself, because another question to it about them failed."""
    reached: Ref = Ref.ZERO
    """The ref up to which all were read. Pass it to `scrub` as `after` to go on from there."""


@dataclass(frozen=True, slots=True)
class ScrubFinding:
    """A blob of a store that is corrupt or could not be read, or about which its answers differ or are missing."""

    store: str
    """The name of the store."""
    ref: Ref
    problem: str
    """The problem, in words."""
    is_corrupt: bool
    """Whether the blob is known to be corrupt, or the store contradicts itself.

    If False, it could not be read, or another question about it failed.
    """
    is_repaired: bool = False
    outcome: str = ""
    """The outcome of its repair, in words. Empty if no repair was requested."""
    contradiction: Contradiction | None = None
    """The answers of the store that cannot both be true, or None if it does not contradict itself."""


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """The results of a scrub. The keys of the mappings are the names of the stores."""

    stores: Mapping[str, ScrubCounts]
    """The counts of each store."""
    findings: tuple[ScrubFinding, ...]
    """The first 10,000 findings, in the order in which they were found. `stores` counts all of them."""
    problems: Mapping[str, tuple[str, ...]]
    """The problems that stores found with themselves as a whole and that are left, in words."""
    repaired: Mapping[str, tuple[str, ...]]
    """The problems that stores found with themselves as a whole and that have been repaired, in words."""
    failures: Mapping[str, BaseException]
    """The exception of each store that failed to list its refs or to tell its identity.

    Its blobs after `ScrubCounts.reached` have not been read.
    """

    @property
    def is_sound(self) -> bool:
        """Whether every blob was read and is now intact, and no store has a problem or contradicts itself.

        It is False if a question was not answered.
        """
        return not (
            self.problems
            or self.failures
            or any(
                counts.failed or counts.unanswered or counts.corrupt > counts.repaired
                for counts in self.stores.values()
            )
        )


@final
class ScrubLog:
    """The results so far, and the callbacks that report them. No method waits."""

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
