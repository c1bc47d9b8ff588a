"""The debts of a replica: its outbox, and the feeders that bring to the queues what no put brings there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import trio

from .._errors import ReplicaError, StoreError
from .._log import log
from .outbox import NAME, Outbox
from .relay import Feeder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._sync.sync_stores import SyncStores
    from .queue import BlobQueue
    from .storage import Books, OutboxStorage

END_SECONDS: Final = 5.0
"""Seconds that the last commit is given. What is not struck is paid again, which is harmless."""


@final
class Debts:
    """What a replica owes to its async stores, and how it is paid."""

    def __init__(
        self,
        storage: OutboxStorage,
        books: Books,
        queues: Sequence[BlobQueue],
        sync_stores: SyncStores,
        batch_size: int,
    ) -> None:
        self.outbox = Outbox(storage, books, [queue.name for queue in queues])
        self._feeders = [Feeder(self.outbox, queue, sync_stores, batch_size) for queue in queues]
        self._settling = trio.CancelScope(shield=True)
        self._reported: set[str] = set()  # stores whose debts a raised StoreError has named
        for name, count in books.owed.items():
            if count and name not in self.outbox.accounts:
                log(logging.WARNING, f"the outbox has {count} debts to {name}, which is no async store: they are kept")

    def counts(self, name: str) -> dict[str, int]:
        """Return what the statistics of one async store have of its debts."""
        return self.outbox.accounts[name].counts()

    # Their life

    def start(self, nursery: trio.Nursery, carry_out: Callable[[BaseException], None]) -> None:
        """Start what runs in the background; `carry_out` ends the block when a store asks for it."""
        for feeder in self._feeders:
            nursery.start_soon(feeder.feed, carry_out, name=f"replica feeder of {feeder.name}")
        nursery.start_soon(self.outbox.settle_in_time, self._settling, name="replica outbox")

    def wake(self) -> None:
        """Wake those who flush, for the replica refuses."""
        for account in self.outbox.accounts.values():
            account.changed.unpark_all()

    def finish(self) -> None:
        """Let each feeder end once its store has caught up."""
        for feeder in self._feeders:
            feeder.finish()

    def stop(self, *names: str) -> None:
        """End the feeders of some stores, or of all. What they have not brought is owed still."""
        for feeder in self._feeders:
            if not names or feeder.name in names:
                feeder.stop()

    async def flush(self, refusing: trio.Event) -> bool:
        """Wait until every blob whose put has ended is in every async store, and struck. False if `refusing` is set.

        Raises:
          StoreError: if some can't be brought, or struck.

        """
        before = self.outbox.next_seq
        await trio.lowlevel.checkpoint()
        failures: dict[str, BaseException] = {}
        try:
            for feeder in self._feeders:
                while feeder.failure is None and not feeder.account.has_caught_up(before):
                    if refusing.is_set():
                        return False
                    if self.outbox.has_room:
                        await feeder.account.changed.park()
                    else:
                        await self.outbox.settle()  # the workers wait for that, and only here it is told why it fails
            await self.outbox.settle(before)
        except ReplicaError as error:
            failures[NAME] = error
        problems = self._problems()
        failures |= problems
        if failures:
            self._reported.update(problems)
            raise StoreError("flush", None, failures)
        return True

    async def settle(self) -> BaseException | None:
        """Strike at the end, for a limited time, what has been paid. Returns what interrupted this."""
        self._settling.cancel()
        interruption: BaseException | None = None
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
                is_behind = self.outbox.watermark < self.outbox.next_seq
                await self.outbox.settle(self.outbox.next_seq)
                if is_behind:  # only now the watermark can pass what has been struck
                    await self.outbox.settle(self.outbox.next_seq)
        except ReplicaError as error:
            log(logging.ERROR, f"debts that are paid can't be struck, so they will be paid again: {error}")
        except BaseException as exc:  # noqa: ASYNC103  (KeyboardInterrupt: raised once all is quiet)
            interruption = exc
        return interruption  # noqa: ASYNC910  (the commit has one)

    def end(self) -> StoreError | None:
        """Log what is owed still. Returns the error of what could not be brought, if none that was raised names it."""
        for account in self.outbox.accounts.values():
            if account.owed:
                log(
                    logging.WARNING,
                    f"the replica is closed, and {account.name} is owed {account.owed} blobs: the outbox keeps them",
                )
        failures = {name: problem for name, problem in self._problems().items() if name not in self._reported}
        return StoreError("drain", None, failures) if failures else None

    def _problems(self) -> dict[str, BaseException]:
        problems = {feeder.name: feeder.problem() for feeder in self._feeders}
        return {name: problem for name, problem in problems.items() if problem is not None}
