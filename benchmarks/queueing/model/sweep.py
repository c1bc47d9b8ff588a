"""The sweep: every scenario at every queue size by the recursion, and at some by the real code, in all processes."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from ..._spread import Spread
from .points import Point, lag

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from trio_replica._advice.calls import Floats

    from .scenarios import Scenario

REAL_SIZES: Final = (1, 4, 16, 64, 256)
"""The queue sizes at which the real code runs."""

LAG_SIZES: Final = (16, 256, 4096)
"""The queue sizes for which lag is shown over time."""

LAG_TIMES: Final = 200


class Extent(NamedTuple):
    """How much is done."""

    seeds: int
    """Independent runs of each scenario by the recursion."""
    puts: int
    """Puts of a run that are looked at."""
    real_puts: int
    """Puts of a run by the real code."""


QUICK: Final = Extent(seeds=3, puts=2_000, real_puts=100)
NORMAL: Final = Extent(seeds=8, puts=30_000, real_puts=1_000)
FULL: Final = Extent(seeds=20, puts=100_000, real_puts=4_000)


class Checked(NamedTuple):
    """A run of the real code, beside what the recursion says for the same times."""

    real: Point
    by_recursion: Point
    difference: float
    """Seconds: the largest of any put's wait."""
    same_blocked_puts: bool
    """Whether its statistics count as many waits for each async store as there are by the recursion."""
    puts: int
    """The number of puts of the whole run, none of whose waits differs by more."""
    drain: float
    """Seconds that the real code took to drain at its exit, from the last put on."""

    @property
    def agrees(self) -> bool:
        """Whether the two are the same, to the last bit."""
        return self.difference == 0 and self.same_blocked_puts


@dataclass(frozen=True)
class Curve:
    """All that was found for one scenario, with batches of one or of the queue's size."""

    scenario: Scenario
    batches: bool
    points: dict[int, list[Point]] = field(default_factory=dict)
    """By the queue size: a point for each seed."""
    checked: dict[int, Checked] = field(default_factory=dict)
    """By the queue size."""
    lags: dict[int, list[Floats]] = field(default_factory=dict)
    """By the queue size: for each seed the lag in seconds, at the `lag_times` until the scenario's `lag_seconds`."""

    def spread(self, queue_size: int, name: str) -> Spread:
        """Return the spread over the seeds of what a `Point` has under that name."""
        return Spread.of([getattr(point, name) for point in self.points[queue_size]])

    def mean(self, queue_size: int, name: str) -> float:
        """Return the mean over the seeds of what a `Point` has under that name."""
        return float(np.mean([getattr(point, name) for point in self.points[queue_size]]))

    def puts(self, queue_size: int) -> int:
        """Return how many puts were looked at, of all seeds together."""
        return sum(point.puts for point in self.points[queue_size])


class Task(NamedTuple):
    """The work of one process at a time."""

    scenario: Scenario
    seed: int
    puts: int
    real: tuple[bool, int] | None = None
    """With batches or not, and the queue size, if the real code shall run."""

    def run(self) -> Found:
        """Do it."""
        return _by_recursion(self) if self.real is None else _by_real_code(self, *self.real)


Found: TypeAlias = "list[tuple[bool, int, Point, Floats | None]] | Checked"


def tasks(wanted: Iterable[Scenario], extent: Extent) -> list[Task]:
    """Return what there is to do, the longest first."""
    wanted = list(wanted)
    real = [
        Task(scenario, 0, extent.real_puts, (batches, size))
        for scenario in wanted
        for size in scenario.queue_sizes()
        for batches in (False, True)
        if size in REAL_SIZES
    ]
    return real + [Task(scenario, seed, extent.puts) for scenario in wanted for seed in range(extent.seeds)]


def sweep(todo: Sequence[Task], done: Callable[[], None]) -> tuple[list[Curve], bool]:
    """Do it all, on all processors; `done` is called after each task.

    Returns the curves, in the order of their scenarios, and whether all is in them: if it is interrupted, or a process
    is killed, it returns what there is.
    """
    curves = {(task.scenario, batches): Curve(task.scenario, batches) for task in todo for batches in (False, True)}
    complete = False
    context = get_context("spawn")  # a forked process would inherit the threads of whoever shows the progress
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
        try:
            with _interrupts_put_off():
                futures: dict[Future[Found], Task] = {pool.submit(task.run): task for task in todo}
            for future in as_completed(futures):
                _keep(curves, futures[future], future.result())
                done()
            complete = True
        except (KeyboardInterrupt, BrokenProcessPool):
            former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what runs ends soon, and what there is is kept
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGINT, former)
    return [curve for curve in curves.values() if curve.points or curve.checked], complete


def lag_times(until: float) -> Floats:
    """Return the times at which the lag is looked at, in seconds."""
    return np.linspace(0, until, LAG_TIMES)


@contextmanager
def _interrupts_put_off() -> Generator[None, None, None]:
    """Put Ctrl-C off for the block. Processes that begin in it never get it, because the parent ends them."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _keep(curves: Mapping[tuple[Scenario, bool], Curve], task: Task, found: Found) -> None:
    if isinstance(found, Checked):
        assert task.real is not None
        batches, queue_size = task.real
        curves[task.scenario, batches].checked[queue_size] = found
        return
    for batches, queue_size, point, lags in found:
        curve = curves[task.scenario, batches]
        curve.points.setdefault(queue_size, []).append(point)
        if lags is not None:
            curve.lags.setdefault(queue_size, []).append(lags)


def _by_recursion(task: Task) -> Found:
    sizes = task.scenario.queue_sizes()
    drawn = task.scenario.draw(task.seed, task.puts)
    until = task.scenario.lag_seconds()
    return [
        (batches, size, drawn.point(path), lag(path, lag_times(until)) if until and size in LAG_SIZES else None)
        for batches in (False, True)
        for size, path in zip(sizes, drawn.paths(sizes, batches=batches), strict=True)
    ]


def _by_real_code(task: Task, batches: bool, queue_size: int) -> Found:
    drawn = task.scenario.draw(task.seed, task.puts)
    path = drawn.path(queue_size, batches=batches)
    ran = drawn.run(queue_size, batches=batches)
    waits, real_waits = path.entered - path.came, ran.path.entered - ran.path.came
    return Checked(
        drawn.point(ran.path._replace(alone=path.alone)),  # which no run can show
        drawn.point(path),
        float(np.abs(waits - real_waits).max()),
        ran.path.blocked_puts == path.blocked_puts,
        len(waits),
        ran.drain,
    )
