"""The scenarios of the sweep: what puts come, and what the stores are like. The mean service time is a second.

Each can be drawn again from a seed, and what is drawn is given to both engines.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from trio_replica._advice.calls import BatchCost, Calls
from trio_replica._advice.levels import Singles

from . import recursion, virtual
from .closed_forms import stall_caught_up
from .draws import GRID, on_grid, poisson_arrivals, service_times
from .points import Path, Point
from .recursion import Drained, Stall, lacking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_replica._advice.calls import Floats

    from .virtual import Ran

LARGEST_SHOWN: Final = 4096
"""The largest queue size that is looked at."""

HARDLY_ANY: Final = 1e-5
"""If a smaller share of the puts waits, a larger queue makes no difference that anybody notices: sweeps end there."""

WARM_UP: Final = 20_000
"""Puts of the run that says how long the queue is when a steady scenario begins.

With a load of ρ a queue forgets its beginning within some 1/(1-√ρ)² service times: 1,560 at ρ = 0.95, and 2.5 times
that with log-normal service of cv² = 4.
"""


@dataclass(frozen=True)
class Service:
    """The times that one async store takes for a put."""

    mean: float = 1.0
    """Seconds."""
    cv: float = 1.0
    """The coefficient of variation: see `draws.factors`."""

    def draw(self, source: np.random.Generator, count: int) -> Floats:
        """Draw so many service times."""
        return service_times(source, count, self.mean, self.cv)


class Drawn(ABC):
    """The times of one run of a scenario, which both engines are given."""

    window: tuple[int, int | None] = (0, None)
    """The puts that are looked at: from the first, until the last."""

    @abstractmethod
    def paths(self, queue_sizes: Iterable[int], *, batches: bool) -> Iterator[Path]:
        """Give for each queue size what happens by the recursion; with a `batch_size` of that or of 1."""

    @abstractmethod
    def run(self, queue_size: int, *, batches: bool) -> Ran:
        """Return what the real code does, in virtual time."""

    def path(self, queue_size: int, *, batches: bool) -> Path:
        """Return what happens by the recursion with one queue size."""
        (path,) = self.paths([queue_size], batches=batches)
        return path

    def point(self, path: Path) -> Point:
        """Return the figures of what happened."""
        return Point.of(path, *self.window)


@dataclass(frozen=True)
class OpenLoop(Drawn):
    """Puts that come when they come, whatever became of those before."""

    came: Floats
    services: Sequence[Floats]
    """The service times of each async store."""
    window: tuple[int, int | None] = (0, None)
    cost: BatchCost | None = None
    stall: Stall | None = None

    def paths(self, queue_sizes: Iterable[int], *, batches: bool) -> Iterator[Path]:
        workers = [recursion.drain(self.came, service, self.stall) for service in self.services]
        for queue_size in queue_sizes:
            if batches and queue_size > 1:
                workers = [self._drain(service, queue_size) for service in self.services]
            yield Path.of(workers, queue_size)

    def run(self, queue_size: int, *, batches: bool) -> Ran:
        stores = [virtual.store(service, self.cost, stall=self.stall) for service in self.services]
        return virtual.run_open_loop(self.came, stores, queue_size, queue_size if batches else 1)

    def _drain(self, service: Floats, batch_size: int) -> Drained:
        if self.cost is None:
            return recursion.drain_in_batches(self.came, service, batch_size, self.stall)
        return recursion.drain_at_cost(self.came, service, batch_size, self.cost, stall=self.stall)


@dataclass(frozen=True)
class ClosedLoop(Drawn):
    """Producers that put one blob after another, each after a pause."""

    pauses: Floats
    producers: int
    service: Floats
    window: tuple[int, int | None] = (0, None)

    def paths(self, queue_sizes: Iterable[int], *, batches: bool) -> Iterator[Path]:
        for queue_size in queue_sizes:
            batch_size = queue_size if batches else 1
            worker = recursion.drain_closed_loop(self.pauses, self.producers, self.service, queue_size, batch_size)
            yield Path.of([worker], queue_size)

    def run(self, queue_size: int, *, batches: bool) -> Ran:
        return virtual.run_closed_loop(
            self.pauses,
            self.producers,
            len(self.service),
            [virtual.store(self.service)],
            queue_size=queue_size,
            batch_size=queue_size if batches else 1,
        )


@dataclass(frozen=True)
class Scenario(ABC):
    """One curve of the sweep."""

    group: str
    """The scenarios that are shown together."""
    label: str
    """Its name among these."""

    @property
    def name(self) -> str:
        """The full name, with the group."""
        return f"{self.group}, {self.label}"

    def draw(self, seed: int, puts: int) -> Drawn:
        """Draw a run, of so many puts if they have no number of their own. The same seed gives the same run."""
        return self._draw(np.random.default_rng([seed, zlib.crc32(self.name.encode())]), puts)

    @abstractmethod
    def queue_sizes(self) -> list[int]:
        """Return the queue sizes that are looked at, ascending."""

    def lag_seconds(self) -> float:
        """Return for how many seconds the lag is shown over time; 0 if it is not."""
        return 0.0

    @abstractmethod
    def _draw(self, source: np.random.Generator, puts: int) -> Drawn: ...


@dataclass(frozen=True)
class Steady(Scenario):
    """Puts come as a Poisson process, and the queue has long forgotten how it began."""

    rate: float
    """Puts a second."""
    services: tuple[Service, ...] = (Service(),)
    largest: int = LARGEST_SHOWN
    cost: BatchCost | None = None

    def queue_sizes(self) -> list[int]:
        return powers_of_two(self.largest)

    def _draw(self, source: np.random.Generator, puts: int) -> OpenLoop:
        backlog = 0 if self.cost else self._backlog(source)
        skipped = WARM_UP // 40 if self.cost else backlog
        count = skipped + puts
        start = backlog * GRID
        came = np.concatenate(
            [
                np.arange(backlog) * GRID,
                poisson_arrivals(source, count - backlog, self.rate, start),
            ]
        )
        return OpenLoop(came, [service.draw(source, count) for service in self.services], (skipped, None), self.cost)

    def _backlog(self, source: np.random.Generator) -> int:
        """Return how many blobs there are in the system when it is looked at: the most that a store has to do."""
        came = poisson_arrivals(source, WARM_UP, self.rate)
        return max(
            int(lacking(came, recursion.drain(came, service.draw(source, WARM_UP)).written, came[-1:])[0]) - 1
            for service in self.services
        )


@dataclass(frozen=True)
class Burst(Scenario):
    """Some puts come faster than the store takes them, and then no more."""

    puts: int
    rate: float
    """Puts a second."""
    service: Service = Service()

    def queue_sizes(self) -> list[int]:
        return powers_of_two(LARGEST_SHOWN)

    def lag_seconds(self) -> float:
        return 1.1 * max(self.puts * self.service.mean, self.puts / self.rate)

    def _draw(self, source: np.random.Generator, puts: int) -> OpenLoop:
        came = poisson_arrivals(source, self.puts, self.rate)
        return OpenLoop(came, [self.service.draw(source, self.puts)])


@dataclass(frozen=True)
class Stalled(Scenario):
    """The store stops answering for some time. The puts looked at are those until it has caught up."""

    rate: float
    """Puts a second."""
    seconds: float
    """The time for which the store does not answer."""
    service: Service = Service()

    begins: ClassVar[float] = 100.0
    """Seconds after the first put."""

    @property
    def caught_up(self) -> float:
        """Seconds from its beginning until all blobs that arrived since are written, if all is even: μT/(μ-λ)."""
        return stall_caught_up(self.rate, 1 / self.service.mean, self.seconds)

    def queue_sizes(self) -> list[int]:
        return powers_of_two(LARGEST_SHOWN)

    def lag_seconds(self) -> float:
        return self.begins + self.caught_up

    def _draw(self, source: np.random.Generator, puts: int) -> OpenLoop:
        end = self.begins + self.caught_up
        count = int(self.rate * end + 6 * math.sqrt(self.rate * end))
        came = poisson_arrivals(source, count, self.rate)
        first, last = np.searchsorted(came, [self.begins, end]).tolist()
        stall = Stall(self.begins, self.begins + self.seconds)
        return OpenLoop(came[:last], [self.service.draw(source, last)], (first, None), stall=stall)


@dataclass(frozen=True)
class Producers(Scenario):
    """Some tasks put one blob after another."""

    producers: int
    pause: float
    """The mean of an exponential time between two puts of one task, in seconds; 0 for none."""

    largest: ClassVar[int] = 256

    def queue_sizes(self) -> list[int]:
        return powers_of_two(self.largest)

    def _draw(self, source: np.random.Generator, puts: int) -> ClosedLoop:
        first = self.largest + self.producers  # those before found a queue that was filling up
        count = first + puts
        if self.pause:
            pauses = on_grid(source.exponential(self.pause, count + self.producers))
        else:
            pauses = np.concatenate([np.arange(self.producers) * GRID, np.zeros(count)])
        return ClosedLoop(pauses, self.producers, Service().draw(source, count), (first, None))


def powers_of_two(largest: int) -> list[int]:
    """Return the powers of two from 1 to `largest`, which is one."""
    return [2**power for power in range(largest.bit_length())]


LOADS: Final = (0.5, 0.8, 0.9, 0.95)

BATCH_COST: Final = BatchCost(0.875, 0.125)
"""A put takes a second, and each further blob of the batch an eighth: on the grid."""


@cache
def scenarios() -> list[Scenario]:
    """Return all scenarios, those of a group one after another."""
    made: list[Scenario] = []
    for group, cv in (
        ("exponential service", 1.0),
        ("deterministic service", 0.0),
        ("log-normal service, cv² = 4", 2.0),
    ):
        made.extend(
            Steady(f"steady, {group}", f"ρ = {load}", load, (Service(cv=cv),), _steady_largest(load, cv))
            for load in LOADS
        )
    return [
        *made,
        Burst("burst", "1000 blobs at 4 μ", 1000, 4.0),
        Burst("overload", "3000 blobs at 1.2 μ", 3000, 1.2),
        Stalled("stall", "λT = 1000, ρ = 0.5", 0.5, 2000.0),
        Producers("producers", "8, no pause", 8, 0.0),
        Producers("producers", "8, pause of 10", 8, 10.0),
        Steady("cheap put_many", "λ = 4 μ, a + b·k = 0.875 + 0.125 k", 4.0, (Service(cv=0.0),), 256, BATCH_COST),
        *(
            Steady("two async stores", f"ρ = 0.9 and {load}", 0.9, (Service(), Service(load / 0.9)), 256)
            for load in (0.6, 0.8)
        ),
    ]


def _steady_largest(load: float, cv: float) -> int:
    """Return the first power of two with which hardly any put waits."""
    levels = Singles(Calls(load, 1.0, cv), LARGEST_SHOWN)
    return next(size for size in powers_of_two(LARGEST_SHOWN) if levels.share(size) < HARDLY_ANY)
