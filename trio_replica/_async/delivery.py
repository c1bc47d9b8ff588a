"""Accepting a put, first by the sync stores and then by the queues or the outbox.

It runs the workers and relays, too.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import ReplicaError, StoreError
from .._life import BackgroundTask
from .._log import log
from .outbox import NAME
from .queue import enqueue
from .relay import Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .._blob import Blob, Ref
    from .._life import Life
    from .._statistics import AsyncStoreStatistics
    from .._sync.readers import Readers
    from .._sync.sync_stores import Participant
    from .outbox import Outbox
    from .queue import BlobQueue

ResultT = TypeVar("ResultT")

REFS_LOGGED: Final = 10
"""The number of lacking refs that the log names for each store at the end. `ReplicaStore.unreplicated` has all."""


class Delivery(ABC):
    """The async side of a replica, a `Part` of its life. A put reads the same whether there is an outbox or not."""

    def __init__(self, life: Life, queues: Sequence[BlobQueue]) -> None:
        self._life = life
        self.queues = queues
        self._workers = [
            BackgroundTask(f"replica worker of {queue.name}", partial(self._work, queue), life) for queue in queues
        ]

    @abstractmethod
    async def accept(
        self, blobs: Sequence[Blob], write: Callable[[Sequence[Participant]], Awaitable[ResultT]]
    ) -> ResultT:
        """Write the blobs to the sync stores with ``write(others)``, then have them delivered.

        Returning means that every async store is going to be given the blobs. Being cancelled means that some stores
        may have the blobs, or will get them.

        Raises:
          PoisonedError, trio.ClosedResourceError: if the replica stops accepting before it has accepted all blobs.
          StoreError: if `write` raises it.

        """

    @abstractmethod
    async def flush(self) -> None:
        """Wait until every async store has every blob that was accepted before. See `ReplicaStore.flush`."""

    @abstractmethod
    def report(self) -> StoreError | None:
        """Log the blobs that are left at the end.

        Returns the error for undeliverable ones, if it was not raised yet.
        """

    def statistics(self, now: float) -> dict[str, AsyncStoreStatistics]:
        """Return the counts of each async store, as of `now` on Trio's clock."""
        return {queue.name: queue.statistics(now, **self.backlog_counts(queue.name)) for queue in self.queues}

    def backlog_counts(self, _: str) -> dict[str, int]:
        """Return the counts of one store's backlog for its statistics. Without an outbox there are none."""
        return {}

    def shown(self) -> list[str]:
        """Return, for the `repr` of the replica, the counts of undelivered blobs of each async store."""
        shown = []
        for queue in self.queues:
            counts = {"unreplicated": len(queue.unreplicated())} | self.backlog_counts(queue.name)
            named = [f"{count} {what}" for what, count in counts.items() if count or what != "deferred"]
            shown.append(f"{queue.name}: {', '.join(named)}")
        return shown

    def unreplicated(self) -> dict[str, tuple[Ref, ...]]:
        """Return the refs that entered each queue and that its store has not confirmed."""
        return {queue.name: queue.unreplicated() for queue in self.queues}

    # The life of a part

    def start(self, nursery: trio.Nursery) -> None:
        """Start the workers."""
        for worker in self._workers:
            worker.start(nursery)

    def fail(self) -> None:
        """Accept nothing more, and wake every task that waits for room or for a flush."""
        for queue in self.queues:
            queue.close()

    def close(self) -> None:
        """Accept nothing more. The workers still write the queued blobs."""
        self.fail()

    def stop(self, grace: float) -> None:
        """Give the workers `grace` more seconds."""
        for worker in self._workers:
            worker.stop(grace)

    async def ended(self) -> None:  # noqa: ASYNC910  (there may be no async store)
        """Wait until no worker runs."""
        for worker in self._workers:
            await worker.ended()

    async def _work(self, queue: BlobQueue) -> None:
        await queue.work(partial(self._life.poison, queue.name))


@final
class QueueDelivery(Delivery):
    """Delivery by queues alone. A put waits for room, and a kill loses the queued blobs."""

    async def accept(
        self, blobs: Sequence[Blob], write: Callable[[Sequence[Participant]], Awaitable[ResultT]]
    ) -> ResultT:
        """Write the blobs, and wait until they have entered every queue: see `Delivery.accept`."""
        result = await write(())
        # Between this check and the queues there is no checkpoint.
        self._life.check_accepting()
        if not await enqueue(self.queues, blobs):
            raise self._life.error()
        return result

    async def flush(self) -> None:
        """Wait until every blob that was queued before is in every async store."""
        queued = [(queue, queue.accepted) for queue in self.queues]
        await trio.lowlevel.checkpoint()
        for queue, count in queued:
            if not await queue.wait_written(count):
                raise self._life.error()

    def report(self) -> None:
        """Log the refs that the async stores lack."""
        for name, refs in self.unreplicated().items():
            if refs:
                shown = ", ".join(map(str, refs[:REFS_LOGGED])) + (", …" if len(refs) > REFS_LOGGED else "")
                log(logging.WARNING, f"the replica is closed, and {name} lacks {len(refs)} accepted: {shown}")


@final
class OutboxDelivery(Delivery):
    """Delivery by queues with an outbox.

    No put waits for room: the relay of a store reads back the blobs that found none.
    """

    def __init__(
        self, life: Life, queues: Sequence[BlobQueue], outbox: Outbox, sync_stores: Readers, batch_size: int
    ) -> None:
        super().__init__(life, queues)
        self.outbox = outbox
        self._relays = {queue.name: Relay(outbox, queue, sync_stores, batch_size, life) for queue in queues}
        self._reported: set[str] = set()  # stores whose problems a raised StoreError has named

    @enable_ki_protection  # an interrupted put has to end too, because relays wait for puts under way
    async def accept(
        self, blobs: Sequence[Blob], write: Callable[[Sequence[Participant]], Awaitable[ResultT]]
    ) -> ResultT:
        """Write the blobs and at the same time their entries: see `Delivery.accept`."""
        intent = self.outbox.intent(blobs)
        try:
            result = await write((intent,))
            # From here to the end of the put there is no checkpoint.
            self._life.check_accepting()
            self.outbox.give(intent, blobs, self.queues)
        except BaseException:
            self.outbox.abandon(intent)
            raise
        return result

    async def flush(self) -> None:
        """Wait until all blobs whose put has ended are in every async store, and their entries acknowledged.

        Being cancelled changes nothing.

        Raises:
          StoreError: if some blobs can't be delivered, or their entries can't be acknowledged.

        """
        before = self.outbox.next_seq
        await trio.lowlevel.checkpoint()
        failures: dict[str, BaseException] = {}
        is_accepting = True
        try:
            is_accepting = await self._wait_caught_up(before)
            if is_accepting:
                await self.outbox.commit(before)
        except ReplicaError as error:
            failures[NAME] = error
        if not is_accepting:
            raise self._life.error()
        problems = self._problems()
        failures |= problems
        if failures:
            self._reported.update(problems)
            raise StoreError("flush", None, failures)

    async def _wait_caught_up(self, before: int) -> bool:
        """Wait until no entry numbered below `before` is left to deliver. Returns False if the replica has failed."""
        for relay in self._relays.values():
            while relay.failure is None and not relay.backlog.has_caught_up(before):
                if self._life.not_accepting.is_set():
                    return False
                if self.outbox.has_room:
                    await relay.backlog.changed.park()
                else:
                    await self.outbox.commit()  # a flush learns only here why commits fail, while the workers wait
        return True  # noqa: ASYNC910  (a flush has its own checkpoint)

    def backlog_counts(self, name: str) -> dict[str, int]:
        """Return how many entries are pending for one async store, and how many of them are deferred."""
        return self.outbox.backlogs[name].counts()

    def report(self) -> StoreError | None:
        """Log what the outbox keeps. Returns the error for undeliverable blobs, unless it was raised before."""
        for backlog in self.outbox.backlogs.values():
            if backlog.pending and not self.outbox.is_lost:
                log(
                    logging.WARNING,
                    f"the replica is closed with {backlog.pending} pending for {backlog.name}: the outbox keeps them",
                )
        failures = {name: problem for name, problem in self._problems().items() if name not in self._reported}
        return StoreError("drain", None, failures) if failures else None

    # The life of a part

    def start(self, nursery: trio.Nursery) -> None:
        """Start the relays and the workers."""
        for relay in self._relays.values():
            relay.start(nursery)
        super().start(nursery)

    def fail(self) -> None:
        """Accept nothing more, and wake every task that waits for a flush."""
        super().fail()
        for backlog in self.outbox.backlogs.values():
            backlog.changed.unpark_all()

    def close(self) -> None:
        """Accept nothing more. Each relay ends once its store has caught up, then its worker ends."""
        super().close()
        for relay in self._relays.values():
            relay.close()

    def stop(self, grace: float) -> None:
        """Stop the relays at once, and give the workers `grace` more seconds. Blobs not yet queued stay pending."""
        for relay in self._relays.values():
            relay.stop()
        super().stop(grace)

    async def ended(self) -> None:
        """Wait until no relay and no worker runs."""
        for relay in self._relays.values():
            await relay.ended()
        await super().ended()

    async def _work(self, queue: BlobQueue) -> None:
        try:
            await super()._work(queue)
        finally:
            self._relays[queue.name].stop()  # nobody would write the blobs that it queues

    def _problems(self) -> dict[str, BaseException]:
        problems = {name: relay.problem() for name, relay in self._relays.items()}
        return {name: problem for name, problem in problems.items() if problem is not None}
