"""Comparisons: some variants of the same work, measured in turn, and the ratios of their rates round by round.

A machine's speed drifts, and a disk's more so: a rate is true of its moment. Within a round the variants follow each
other at once, every second round in the opposite order (A B B A), so the ratio of two rates of one round says what
the rates don't.
"""

from __future__ import annotations

import gc
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from .._spread import Spread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

Run: TypeAlias = Callable[[Path, float], Awaitable[float]]
"""Do the work for some seconds, with a new folder to keep things in, and return how much was done in a second."""

LEAST_FREE: Final = 20 * 2**30
"""Bytes of the disk that a comparison may need: with less, what those before it wrote is removed before the end."""


@dataclass(frozen=True)
class Variant:
    """One way of doing the work."""

    name: str
    run: Run
    at_least: float | None = None
    """The ratio to the first variant that the library promises, if it does."""
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Some ways of doing the same work. All ratios are to the first."""

    group: str
    """The name of the table and the plot that it stands in."""
    work: str
    unit: str
    variants: Sequence[Variant]
    notes: str = ""
    """The heading of the variants' notes, if they have any."""
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    """Return the context in which all runs take place, such as a server that the variants need."""


@dataclass(frozen=True)
class Measured:
    """The rates of a comparison: for each variant, by its name, one a round."""

    comparison: Comparison
    rates: Mapping[str, Sequence[float]]

    def rate(self, variant: Variant) -> Spread:
        """Return the spread of a variant's rates, in the comparison's unit."""
        return Spread.of(self.rates[variant.name])

    def ratio(self, variant: Variant) -> Spread:
        """Return the spread of the ratios of a variant's rates to those of the first, round by round."""
        base = self.rates[self.comparison.variants[0].name]
        return Spread.of([rate / base_rate for rate, base_rate in zip(self.rates[variant.name], base, strict=True)])


@dataclass
class Folders:
    """New folders for the runs, in a place that is removed at the end, with all that they have.

    Not sooner, unless the disk fills up: ext4 is about ten times slower for a while after many files were deleted.
    """

    parent: Path
    _place: Path = field(init=False)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __enter__(self) -> Self:
        self._place = Path(tempfile.mkdtemp(prefix="benchmark-", dir=self.parent))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._place)

    def new(self) -> Path:
        """Return a new folder."""
        folder = self._place / str(next(self._numbers))
        folder.mkdir()
        return folder

    def make_room(self) -> None:
        """Remove what was written so far, if the disk is nearly full."""
        if shutil.disk_usage(self._place).free < LEAST_FREE:
            for folder in self._place.iterdir():
                shutil.rmtree(folder)


def measure(
    comparison: Comparison, rounds: int, seconds: float, folders: Folders, began: Callable[[str], None]
) -> Measured:
    """Run the variants in turn, `rounds` times each, for at least `seconds` a run. `began` is told what is run."""
    rates: dict[str, list[float]] = {variant.name: [] for variant in comparison.variants}
    folders.make_room()
    with comparison.within():
        for number in range(rounds):
            order = comparison.variants if number % 2 == 0 else list(reversed(comparison.variants))
            for variant in order:
                began(f"{comparison.group}, {comparison.work}: {variant.name}, round {number + 1} of {rounds}")
                gc.collect()
                try:
                    rates[variant.name].append(trio.run(variant.run, folders.new(), seconds))
                except BaseExceptionGroup as group:  # of a nursery
                    if group.subgroup(KeyboardInterrupt):
                        raise KeyboardInterrupt from None
                    raise
    return Measured(comparison, rates)
