"""The queue of one async store. A put waits here when the queue is full, and a worker drains it."""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast, final

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from .._errors import split_failure
from .._statistics import AsyncStoreStatistics
from .._store import check_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._blob import Blob, Ref
    from .._store import Store


_Unconfirmed: TypeAlias = "tuple[Ref, int, float, int]"
"""An accepted blob that the store has not confirmed.

The parts are its ref, its length in bytes, when it was queued, and the number of its entry (with an outbox).
"""


class Acknowledge(Protocol):
    """Callback: the worker reports the entries that it has just delivered."""

    async def __call__(self, seqs: Sequence[int], /) -> None:
        """Note that the store has the blobs. This may wait, and it never fails."""


class _Wait:
    """A put that waits for room in some queues.

    Its task parks once, however many queues are full. `queues` has the queues that some of its blobs have not entered
    yet, and the put stands in the line of each of these. The step that empties `queues` wakes the task, and so does
    closing a queue. Both first take the put out of every line, so its task is woken exactly once.
    """

    __slots__ = ("queues", "since", "task")

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.queues: set[BlobQueue] = set()
        self.since = trio.current_time()

    def end(self) -> None:
        """Leave all queues. Blobs that have not entered a queue by now never will."""
        for queue in tuple(self.queues):
            queue.leave(self)


@final
class BlobQueue:
    """The queue of one async store.

    The blobs are in a memory channel. A put that finds it full joins the line of the waiting ones. The worker lets them
    in as it makes room, first come, first served. All state changes happen in synchronous methods, so no task sees a
    half-made change.
    """

    def __init__(self, name: str, store: Store, capacity: int, batch_size: int) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self._store = store
        self._capacity = capacity
        self._batch_size = batch_size
        self._send, self._receive = trio.open_memory_channel["Blob"](capacity)
        self._waiting: OrderedDict[_Wait, deque[Blob]] = OrderedDict()
        self._unconfirmed: deque[_Unconfirmed] = deque()
        self._progress = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._acknowledge: Acknowledge | None = None
        self._has_relay = False
        self._closed = False
        self._accepted = 0
        self._taken = 0
        self._written = 0
        self._peak_queued = 0
        self._bytes = 0
        self._peak_bytes = 0
        self._blocked_puts = 0
        self._blocked_seconds = 0.0

    @property
    def accepted(self) -> int:
        """The number of blobs that have entered the queue since it was made."""
        return self._accepted

    def unreplicated(self) -> tuple[Ref, ...]:
        """Return the refs of all queued blobs that the store has not confirmed, each once, in queue order."""
        return tuple(dict.fromkeys(ref for ref, *_ in self._unconfirmed))

    def statistics(self, now: float, **of_outbox: int) -> AsyncStoreStatistics:
        """Return the counts as of `now` (seconds on Trio's clock). `of_outbox` are the counts of an outbox."""
        return AsyncStoreStatistics(
            capacity=self._capacity,
            queued=self._accepted - self._taken,
            in_flight=self._taken - self._written,
            peak_queued=self._peak_queued,
            queued_bytes=self._bytes,
            peak_bytes=self._peak_bytes,
            written=self._written,
            blocked_puts=self._blocked_puts,
            blocked_seconds=self._blocked_seconds,
            lag_seconds=now - self._unconfirmed[0][2] if self._unconfirmed else 0.0,
            failure=self.failure,
            **of_outbox,
        )

    # Entering

    def enter(self, blobs: Sequence[Blob], seqs: Iterable[int] = repeat(0)) -> int:
        """Queue as many of `blobs` as there is room for, in their order, and return how many.

        With an outbox, `seqs` are the numbers of their entries.
        """
        return 0 if self._waiting else self._enter(blobs, seqs)  # puts that wait were here first

    def join(self, blobs: Iterable[Blob], wait: _Wait) -> None:
        """Let `wait` wait for room for `blobs`."""
        self._waiting[wait] = deque(blobs)
        wait.queues.add(self)
        self._blocked_puts += 1

    def leave(self, wait: _Wait) -> None:
        """End the waiting of `wait` in this queue."""
        del self._waiting[wait]
        wait.queues.remove(self)
        self._blocked_seconds += trio.current_time() - wait.since

    def close(self) -> None:
        """Accept nothing more, except from a relay. Wake every task that waits for room or for blobs to be written."""
        self._closed = True
        if not self._has_relay:
            self._send.close()
        for wait in tuple(self._waiting):
            wait.end()
            trio.lowlevel.reschedule(wait.task, outcome.Value(False))
        self._progress.unpark_all()

    async def wait_room(self) -> None:
        """Wait until the worker has taken something."""
        await self._room.park()

    def add_relay(self, acknowledge: Acknowledge) -> None:
        """Have a relay until `remove_relay`.

        The worker calls `acknowledge` with the entries of the blobs that it has written.
        """
        self._acknowledge = acknowledge
        self._has_relay = True

    def remove_relay(self) -> None:
        """Note that no relay fills the queue any more, so the worker ends once the queue is closed and empty."""
        self._has_relay = False
        if self._closed:
            self._send.close()

    def _enter(self, blobs: Iterable[Blob], seqs: Iterable[int] = repeat(0)) -> int:
        now = trio.current_time()
        entered = 0
        with suppress(trio.WouldBlock):
            for blob, seq in zip(blobs, seqs, strict=False):
                self._send.send_nowait(blob)
                size = len(blob)
                self._unconfirmed.append((blob.ref, size, now, seq))
                self._bytes += size
                entered += 1
        self._accepted += entered
        self._peak_queued = max(self._peak_queued, self._accepted - self._taken)
        self._peak_bytes = max(self._peak_bytes, self._bytes)
        return entered

    def _admit_waiting(self) -> None:
        while self._waiting:
            wait, blobs = next(iter(self._waiting.items()))
            for _ in range(self._enter(blobs)):
                blobs.popleft()
            if blobs:
                break
            self.leave(wait)
            if not wait.queues:
                trio.lowlevel.reschedule(wait.task, outcome.Value(True))

    # Draining

    @enable_ki_protection
    async def work(self, poison: Callable[[BaseException], None]) -> None:
        """Write the blobs to the store as they come, until the queue is closed and empty, or the store fails.

        A failure is kept in `failure`, and then passed to `poison`.

        Raises:
          trio.Cancelled: if the worker is cancelled. The blobs that the store has not confirmed stay in `unreplicated`.
          KeyboardInterrupt, SystemExit: if the store raised one.

        """
        with self._receive:  # closing it drops the blobs that are not written
            async for blob in self._receive:
                try:
                    await self._write(self._take(blob))
                except BaseException as raised:  # noqa: ASYNC103  (its Cancelled is raised; the rest is a failure)
                    self.failure, cancelled = split_failure(raised)
                    if self.failure is not None:
                        poison(self.failure)
                    try:
                        if cancelled is not None:
                            raise cancelled from None  # noqa: ASYNC104  (it is the one that was raised)
                    finally:
                        del cancelled  # its traceback refers to this frame
                    break  # noqa: ASYNC104  (it was no cancellation)
                finally:
                    del blob  # so that it is not kept alive while the worker waits for the next

    async def wait_written(self, count: int) -> bool:
        """Wait until `count` blobs have been written since the queue was made.

        Return False if it is closed before that.
        """
        while self._written < count and not self._closed:
            await self._progress.park()
        return self._written >= count  # noqa: ASYNC910  (a flush has its own checkpoint)

    def _take(self, first: Blob) -> list[Blob]:
        """Return the next batch, which begins with `first`. Waiting puts enter the room that it leaves."""
        batch = [first]
        self._taken += 1
        while True:
            while len(batch) < self._batch_size and self._accepted > self._taken:
                batch.append(self._receive.receive_nowait())
                self._taken += 1
            self._admit_waiting()
            self._room.unpark_all()
            if len(batch) == self._batch_size or self._accepted == self._taken:
                return batch

    async def _write(self, batch: list[Blob]) -> None:
        if len(batch) == 1:
            results = [await self._store.put(batch[0])]
        else:
            results = await self._store.put_many(batch)
        check_results(batch, results)
        seqs = []
        for _ in batch:
            _, size, _, seq = self._unconfirmed.popleft()
            self._bytes -= size
            seqs.append(seq)
        self._written += len(batch)
        self._progress.unpark_all()
        if self._acknowledge is not None:
            await self._acknowledge(seqs)


@enable_ki_protection
async def enqueue(queues: Sequence[BlobQueue], blobs: Sequence[Blob]) -> bool:
    """Queue `blobs` in all `queues`, each in their order, and wait where there is no room.

    The blobs enter every queue that has room at once. If all queues have room, there is no checkpoint. Returns whether
    all blobs entered all queues, which is False if the queues were closed in the meantime. In that case, and after a
    cancellation, some blobs may have entered some queues, and the rest will not.
    """
    wait: _Wait | None = None
    for queue in queues:
        entered = queue.enter(blobs)
        if entered < len(blobs):
            wait = wait or _Wait(trio.lowlevel.current_task())
            queue.join(blobs[entered:], wait)
    if wait is None:
        return True  # noqa: ASYNC910  (the put had one)

    def withdraw(_: object) -> Abort:
        wait.end()
        return Abort.SUCCEEDED

    return cast("bool", await trio.lowlevel.wait_task_rescheduled(withdraw))
