"""Measuring a real store: its service times, and the real replica in real time beside the recursion R.

The store is somebody's, with blobs in it. The blobs put there are random, noted before, and deleted at the end.
"""

from __future__ import annotations

import logging
import math
import signal
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import trio

from trio_replica import DeletableStore, open_store

from .own_blobs import LEAST_BYTES, NotedStore, StoreFailedError, described, random_blobs
from .real_run import Load, Run, run_replica
from .service import BatchTimes, PutTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from trio_replica import Blob, Ref, Store

QUEUE_SIZES: Final = (1, 4, 16, 64)
"""Of the runs, if there are enough puts in each."""

BATCH_SIZES: Final = (2, 4, 8, 16, 32, 64)
"""Blobs of the batches that are timed. A batch of one is a ``put``."""

ENOUGH: Final = 8
"""Puts of a run for each blob that its queue holds: with fewer, it is mostly about how the queue fills up."""

ALONE: Final = 0.15
"""The share of the time that single puts get at most, and batches too. The rest is for the runs of the replica."""

MOST_PUTS: Final = 2000
"""Single puts that are timed at most. Then the mean of times with cv = 1 is known to 2 %, and 20 are beyond the p99."""

MOST_ROUNDS: Final = 40
"""Rounds with a batch of each size, 126 blobs, at most."""

MOST_BYTES: Final = 2**30
"""Bytes that are put at most: a quarter of them in batches, an eighth in single puts, the rest in the runs."""

RUN_SHARE: Final = 1 / 8
"""The share of these bytes that one run gets at most: its blobs are made before it, and are all in memory."""

BATCH_BYTES: Final = 64 * 1024 * 1024
"""Bytes in a batch of more than 4, at most: they are all in memory."""

_SILENCE: Final = logging.NullHandler()  # what the library logs of a run that is cut off is no news


@dataclass(frozen=True)
class Plan:
    """The measurement to be made.

    Raises:
      ValueError: if a rate or a time is not above zero, or a blob is too small to be like no other.

    """

    rate: float
    """Puts a second."""
    blob_size: int
    """Bytes."""
    seconds: float = 20.0
    """The time that it takes, roughly, without deleting."""

    def __post_init__(self) -> None:
        for name in ("rate", "seconds"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} is a finite number above zero, not {value}")
        if self.blob_size < LEAST_BYTES:
            raise ValueError(f"blob_size is at least {LEAST_BYTES}, so that no two are alike, not {self.blob_size}")

    def most(self, share: float) -> int:
        """Return how many blobs make this share of the bytes that are put at most."""
        return max(1, int(share * MOST_BYTES / self.blob_size))


@dataclass
class Measurement:
    """The results so far. They are filled in step by step, so an error or Ctrl-C leaves those measured before."""

    name: str
    """The store's."""
    plan: Plan
    puts: PutTimes | None = None
    """Single puts, with nothing else going on."""
    batches: BatchTimes | None = None
    """Batches, likewise."""
    runs: list[Run] = field(default_factory=list)
    put: int = 0
    """Blobs that were put there, or may have been, and were not there before."""
    deleted: int = 0
    """Those of them that were deleted."""
    left: tuple[Ref, ...] = ()
    """The others. One whose put did not return may be missing."""
    deletion_failure: Exception | None = None
    """The exception of the first deletion that failed."""

    @property
    def batches_pay(self) -> bool:
        """Whether a blob takes clearly less time in a large batch than alone."""
        return self.puts is not None and self.batches is not None and self.batches.pay(self.puts)

    def slower(self, *, batches: bool) -> float:
        """Return how many times as long as alone the store took in the runs with batches, or in those without.

        1 if there was none.
        """
        assert self.puts is not None
        runs = [run for run in self.runs if (run.batch_size > 1) == batches]
        alone = sum(run.worker.sum() / run.slower(self.puts, self.batches) for run in runs)
        return float(sum(run.worker.sum() for run in runs) / alone) if runs else 1.0

    def loads(self, seconds: float) -> list[tuple[Load, int, int]]:
        """Return what the replica is given in each run, in so many seconds, and its `queue_size` and `batch_size`."""
        assert self.puts is not None
        if seconds <= 0:  # calls that can't be interrupted took it all
            return []
        rate = min(self.plan.rate, 1 / self.puts.mean)
        for count in range(len(QUEUE_SIZES), 0, -1):
            sizes = [(size, 1) for size in QUEUE_SIZES[:count]]
            if self.batches_pay:
                sizes += [(size, size) for size in QUEUE_SIZES[1:count]]
            if rate * seconds / len(sizes) >= ENOUGH * QUEUE_SIZES[count - 1]:
                break
        most = self.plan.most(min(RUN_SHARE, 5 / 8 / len(sizes)))
        return [
            (Load(self.plan.rate, seconds / len(sizes), most, self._capacity(batch)), queue, batch)
            for queue, batch in sizes
        ]

    def _capacity(self, batch_size: int) -> float:
        """Return how many blobs a second the store took alone."""
        assert self.puts is not None
        if batch_size == 1 or self.batches is None:
            return 1 / self.puts.mean
        return batch_size / self.batches.cost.of(batch_size)

    def workload(self) -> dict[str, Any]:
        """Return the arguments of `recommend_queue_size` that were measured.

        The times are those of the runs, where there were any: alone the store is faster than in use.
        """
        assert self.puts is not None
        used = [run.worker for run in self.runs if run.batch_size == 1]
        puts = PutTimes(np.concatenate(used)) if used else self.puts
        workload: dict[str, Any] = {
            "rate": self.plan.rate,
            "service_time": puts.mean,
            "service_cv": puts.cv,
            "blob_size": self.plan.blob_size,
            "margin": round(puts.margin, 1),
        }
        if self.batches is not None and self.batches_pay:
            fixed, each = self.batches.cost
            slower = self.slower(batches=True)
            workload["batch_cost"] = fixed * slower, each * slower
        return workload


def measure_url(url: str, measurement: Measurement, *, told: Callable[[str], None], keep: bool = False) -> None:
    """Open the store that `url` names, and do what `measure` does.

    Raises:
      ValueError: if the URL is none.
      StoreFailedError: if the store can't be opened, too.
      KeyboardInterrupt: as `measure`.

    """
    opening = open_store(url)
    logging.getLogger("trio_replica").addHandler(_SILENCE)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            try:
                store = await stack.enter_async_context(opening)
            except Exception as failure:
                raise StoreFailedError(f"{url} can't be opened: {described(failure)}") from failure
            await measure(store, measurement, told=told, keep=keep)

    try:
        trio.run(main)
    finally:
        logging.getLogger("trio_replica").removeHandler(_SILENCE)


async def measure(store: Store, measurement: Measurement, *, told: Callable[[str], None], keep: bool = False) -> None:
    """Measure `store` as the plan says, then delete what was put there and was not there before.

    Deleting is not left out after an error or a cancellation, which has to wait for it. Ctrl-C ends the measuring, too.
    Deleting goes on after one more, and a second one ends it. `told` is told what is being done.

    Raises:
      ValueError: if the store can't delete, and nothing says that what is put may stay.
      StoreFailedError: if a put fails, or takes too long.
      KeyboardInterrupt: if Ctrl-C was pressed.

    """
    if not keep and not isinstance(store, DeletableStore):
        raise ValueError(f"{measurement.name} can't delete, and what is put there would stay")
    noted = NotedStore(measurement.name, store)
    try:
        with _interrupts(told) as interrupts:
            try:
                with interrupts.cancelling(trio.CancelScope(), after=1):
                    await _measure(noted, measurement, told)
            finally:
                measurement.put = len(noted.given)
                try:
                    if not keep:
                        with interrupts.cancelling(trio.CancelScope(shield=True), after=2):
                            await noted.delete_given(told)  # noqa: ASYNC102  (as long as it takes: Ctrl-C ends it)
                finally:
                    measurement.left = noted.given
                    measurement.deleted = measurement.put - len(noted.given)
                    measurement.deletion_failure = noted.deletion_failure
    except BaseExceptionGroup as group:  # of a nursery
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    if interrupts.count:
        raise KeyboardInterrupt


async def _measure(store: NotedStore, measurement: Measurement, told: Callable[[str], None]) -> None:
    plan, blob = measurement.plan, random_blobs(measurement.plan.blob_size)
    end = trio.current_time() + plan.seconds
    told("single puts, one after another")
    try:
        await time_puts(store, blob, ALONE * plan.seconds, min(MOST_PUTS, plan.most(1 / 8)))
    finally:
        if store.calls:
            measurement.puts = PutTimes(np.array([call.seconds for call in store.calls]))
    if measurement.puts is None:
        raise StoreFailedError(f"{measurement.name}: no put ended within {2 * ALONE * plan.seconds:.3g} s")
    told("batches of several sizes, in turn")
    earlier = len(store.calls)
    sizes = [size for size in BATCH_SIZES if size <= max(BATCH_SIZES[1], BATCH_BYTES // plan.blob_size)]
    rounds = min(MOST_ROUNDS, max(1, plan.most(1 / 4) // sum(sizes)))
    try:
        await time_batches(store, blob, ALONE * plan.seconds, sizes, rounds)
    finally:
        measurement.batches = BatchTimes.of([(len(call.refs), call.seconds) for call in store.calls[earlier:]])
    loads = measurement.loads(end - trio.current_time())
    for seed, (load, queue_size, batch_size) in enumerate(loads):
        told(f"the replica with queue_size={queue_size}, batch_size={batch_size}: {seed + 1} of {len(loads)} runs")
        run = await run_replica(store, load, queue_size=queue_size, batch_size=batch_size, blob=blob, seed=seed)
        if len(run.sizes):
            measurement.runs.append(run)


async def time_puts(store: NotedStore, blob: Callable[[], Blob], seconds: float, most: int) -> None:
    """Put one blob after another for so many seconds, the last one to its end, but not for more than twice as long.

    The store's calls have the times. The ref of a blob has been computed before, as it has where a replica puts it.

    Raises:
      StoreFailedError: if a put fails.

    """
    end = trio.current_time() + seconds
    with trio.move_on_after(2 * seconds):
        for _ in range(most):
            await store.put(_hashed(blob()))
            if trio.current_time() >= end:
                break


async def time_batches(
    store: NotedStore, blob: Callable[[], Blob], seconds: float, sizes: Sequence[int], rounds: int
) -> None:
    """Put batches of each of the ascending sizes in turn, so many rounds or for so many seconds: see `time_puts`.

    A batch is left out when twice the time of the one before, which is half as large, would not fit.
    """
    end = trio.current_time() + seconds
    with trio.move_on_after(2 * seconds):
        for _ in range(rounds):
            took = 0.0
            for size in sizes:
                if trio.current_time() + 2 * took >= end:
                    break
                await store.put_many([_hashed(blob()) for _ in range(size)])
                took = store.calls[-1].seconds


def _hashed(blob: Blob) -> Blob:
    blob.ref  # noqa: B018  (the first access computes it)
    return blob


class _Interrupts:
    """Ctrl-C, counted; and the scope that it cancels."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self.count = 0
        self._told = told
        self._scope = trio.CancelScope()
        self._until = 1

    def cancelling(self, scope: trio.CancelScope, *, after: int) -> trio.CancelScope:
        """Let so many more of them cancel `scope`, which is returned."""
        self._scope, self._until = scope, self.count + after
        return scope

    def come(self) -> None:
        self.count += 1
        if self.count >= self._until:
            self._scope.cancel()
        else:
            self._told("deleting what was put goes on; Ctrl-C once more leaves the rest there")


@contextmanager
def _interrupts(told: Callable[[str], None]) -> Generator[_Interrupts, None, None]:
    """Count SIGINT in the block, where a KeyboardInterrupt could come between any two steps of the program.

    A process that ignores SIGINT, one in the background of a script for example, goes on to ignore it.
    """
    interrupts, token = _Interrupts(told), trio.lowlevel.current_trio_token()
    former = signal.getsignal(signal.SIGINT)
    if former is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: token.run_sync_soon(interrupts.come))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, former)
