"""The outbox of a replica and the relays of its async stores, as the replica sees them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import trio

from .._errors import ReplicaError, StoreError
from .._log import log
from .outbox import NAME, Outbox
from .relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._sync.sync_stores import SyncStores
    from .queue import BlobQueue
    from .storage import OutboxState, OutboxStorage

END_SECONDS: Final = 5.0
"""Seconds for the last commit. Blobs whose acknowledgement it does not make are delivered again, which is harmless."""


@final
class OutboxDelivery:
    """What is pending for the async stores of a replica, and how it is delivered."""

    def __init__(
        self,
        storage: OutboxStorage,
        state: OutboxState,
        queues: Sequence[BlobQueue],
        sync_stores: SyncStores,
        batch_size: int,
    ) -> None:
        self.outbox = Outbox(storage, state, [queue.name for queue in queues])
        self._relays = [Relay(self.outbox, queue, sync_stores, batch_size) for queue in queues]
        self._commits = trio.CancelScope(shield=True)
        self._reported: set[str] = set()  # stores whose problems a raised StoreError has named
        for name, count in state.pending.items():
            if count and name not in self.outbox.backlogs:
                log(
                    logging.WARNING,
                    f"the outbox has {count} pending for {name}, which is no async store: it keeps them",
                )

    def counts(self, name: str) -> dict[str, int]:
        """Return what the statistics of one async store have of its backlog."""
        return self.outbox.backlogs[name].counts()

    # Its life

    def start(self, nursery: trio.Nursery, carry_out: Callable[[BaseException], None]) -> None:
        """Start what runs in the background; `carry_out` ends the block when a store asks for it."""
        for relay in self._relays:
            nursery.start_soon(relay.run, carry_out, name=f"replica relay of {relay.name}")
        nursery.start_soon(self.outbox.commit_in_time, self._commits, name="replica outbox")

    def fail_flushes(self) -> None:
        """Wake the flushes that wait, which fail because the replica accepts nothing any more."""
        for backlog in self.outbox.backlogs.values():
            backlog.changed.unpark_all()

    def close(self) -> None:
        """Let each relay end once its store has caught up."""
        for relay in self._relays:
            relay.close()

    def stop(self, *names: str) -> None:
        """Stop the relays of some stores, or of all. The blobs that they have not queued stay pending."""
        for relay in self._relays:
            if not names or relay.name in names:
                relay.stop()

    async def flush(self, not_accepting: trio.Event) -> bool:
        """Wait until all blobs whose put has ended are in every async store, and their entries acknowledged.

        Returns False if `not_accepting` is set before.

        Raises:
          StoreError: if some can't be delivered, or acknowledged.

        """
        before = self.outbox.next_seq
        await trio.lowlevel.checkpoint()
        failures: dict[str, BaseException] = {}
        try:
            for relay in self._relays:
                while relay.failure is None and not relay.backlog.has_caught_up(before):
                    if not_accepting.is_set():
                        return False
                    if self.outbox.has_room:
                        await relay.backlog.changed.park()
                    else:
                        await self.outbox.commit()  # the workers wait for that, and only here it is told why it fails
            await self.outbox.commit(before)
        except ReplicaError as error:
            failures[NAME] = error
        problems = self._problems()
        failures |= problems
        if failures:
            self._reported.update(problems)
            raise StoreError("flush", None, failures)
        return True

    async def commit(self) -> BaseException | None:
        """Commit the last acknowledgements, within `END_SECONDS`. Returns what interrupted this."""
        self._commits.cancel()
        interruption: BaseException | None = None
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
                needs_second = self.outbox.watermark < self.outbox.next_seq
                await self.outbox.commit(self.outbox.next_seq)
                if needs_second:  # only now the watermark can pass the entries that have been withdrawn
                    await self.outbox.commit(self.outbox.next_seq)
        except ReplicaError as error:
            log(
                logging.ERROR,
                f"delivered blobs can't be acknowledged, so they will be delivered again: {error}",
            )
        except BaseException as exc:  # noqa: ASYNC103  (KeyboardInterrupt: raised once all is quiet)
            interruption = exc
        return interruption  # noqa: ASYNC910  (the commit has one)

    def report(self) -> StoreError | None:
        """Log what is still pending. Returns the error of what could not be delivered, unless one was raised before."""
        for backlog in self.outbox.backlogs.values():
            if backlog.pending:
                log(
                    logging.WARNING,
                    f"the replica is closed with {backlog.pending} pending for {backlog.name}: the outbox keeps them",
                )
        failures = {name: problem for name, problem in self._problems().items() if name not in self._reported}
        return StoreError("drain", None, failures) if failures else None

    def _problems(self) -> dict[str, BaseException]:
        problems = {relay.name: relay.problem() for relay in self._relays}
        return {name: problem for name, problem in problems.items() if problem is not None}
