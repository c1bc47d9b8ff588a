"""Running many seeds, in several processes."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, final

from trio_replica._log import logger

from .mutants import MUTANTS
from .world import World

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from .trace import Trace

CHUNK: Final = 100
"""Seeds that a process is given at once."""


@final
@dataclass
class Failure:
    """A seed that broke a promise, and how."""

    seed: int
    error: str
    events: list[str]


@final
@dataclass
class Results:
    """The results of some seeds."""

    seeds: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """Of the traces of all seeds, or of some seeds each."""

    def add(self, other: Results) -> None:
        self.seeds += other.seeds
        self.tally += other.tally
        self.failures += other.failures
        self.digests += other.digests

    def digest(self) -> str:
        """Return a hash of the traces of all seeds."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()


def run_seed(seed: int) -> tuple[Trace, Exception | None]:
    """Run one seed, and return what happened, and what was wrong."""
    world = World(seed)
    with _traced_log(world.trace):
        try:
            world.run()
        except Exception as error:
            return world.trace, error
    return world.trace, None


def run_seeds(seeds: Iterable[int], bug: str | None = None) -> Results:
    """Run seeds one after another, until one has failed; with a planted bug, if one is named."""
    results = Results()
    with nullcontext() if bug is None else MUTANTS[bug]():
        for seed in seeds:
            trace, error = run_seed(seed)
            results.seeds += 1
            results.tally += trace.tally
            results.digests.append(trace.digest())
            if error is not None:
                results.failures.append(Failure(seed, "".join(traceback.format_exception(error)), trace.events))
                break
    return results


def run_in_processes(seeds: Sequence[int], bug: str | None = None, jobs: int | None = None) -> Results:
    """Run seeds in several processes, as many as there are processors if `jobs` is None, until one has failed."""
    results = Results()
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=context) as pool:
        for some in pool.map(partial(run_seeds, bug=bug), chunks):
            results.add(some)
            if some.failures:
                pool.shutdown(cancel_futures=True)
                break
    return results


@contextmanager
def _traced_log(trace: Trace) -> Generator[None, None, None]:
    """Have what the package logs in the trace, and nowhere else."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace.note(f"log {record.levelname}", record.getMessage())

    handler = Handler()
    propagated, level = logger.propagate, logger.level
    with ExitStack() as stack:
        stack.callback(logger.removeHandler, handler)
        stack.callback(setattr, logger, "propagate", propagated)
        stack.callback(logger.setLevel, level)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
        yield
