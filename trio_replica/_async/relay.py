"""The relay of an async store, which replays the entries that a crash, a failed store or a full queue has left.

Its backlog is the entries whose blobs no put will queue. They are those of earlier sessions, and those of puts that
found the queue full.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import enable_ki_protection

from .._blob import to_blob, to_blobs
from .._errors import BlobNotFoundError, CorruptBlobError, ReplicaError, StoreError, describe_failure
from .._life import BackgroundTask
from .._log import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._blob import Blob, Ref
    from .._life import Life
    from .._sync.readers import Readers
    from .backlog import Backlog
    from .outbox import Outbox
    from .queue import BlobQueue
    from .storage import Entry

ENTRIES_LOGGED: Final = 10
"""The number of deferred entries that the log names for each of the two reasons. All are counted."""


@final
class Relay:
    """The relay of one async store. It delivers the backlog in the order of the puts."""

    def __init__(self, outbox: Outbox, queue: BlobQueue, sync_stores: Readers, batch_size: int, life: Life) -> None:
        self.failure: BaseException | None = None
        """The failure that ended the relay early because it could not read the outbox."""
        self._outbox = outbox
        self.backlog: Backlog = outbox.backlogs[queue.name]
        self._queue = queue
        queue.add_relay(self._acknowledge)
        self._sync_stores = sync_stores
        self._batch_size = batch_size
        self._is_closed = False
        self._task = BackgroundTask(f"replica relay of {queue.name}", self._run, life)

    @property
    def name(self) -> str:
        return self._queue.name

    def problem(self) -> BaseException | None:
        """Return why some entries can't be delivered in this session, or None if all can."""
        backlog = self.backlog
        if self.failure is None and backlog.deferred:
            return ReplicaError(
                f"{backlog.deferred} of the blobs pending for it can't be read from any sync store, and "
                f"{backlog.missing} of them no sync store has any more: see the log, or trio-replica outbox"
            )
        return self.failure

    def start(self, nursery: trio.Nursery) -> None:
        """Start the task."""
        self._task.start(nursery)

    def close(self) -> None:
        """Let the relay end once the store has caught up."""
        self._is_closed = True
        self.backlog.changed.unpark_all()

    def stop(self) -> None:
        """End the relay now. The blobs that it has not queued stay pending."""
        self._task.stop()

    async def ended(self) -> None:
        """Wait until the relay has ended."""
        await self._task.ended()

    @enable_ki_protection
    async def _run(self) -> None:  # noqa: ASYNC910  (a task of its own)
        """Queue the blobs of the backlog as there is room, until `close` or `stop`."""
        try:
            while not self._is_closed or self.backlog.is_catching_up:
                if self.backlog.is_catching_up:
                    await self._relay_page()
                else:
                    await self.backlog.changed.park()
        except Exception as error:
            self.failure = error
            self.backlog.changed.unpark_all()
            log(logging.ERROR, f"{self.name} does not catch up in this session: {describe_failure(error)}")
        finally:
            self._queue.remove_relay()

    async def _relay_page(self) -> None:
        await self._outbox.wait_room()  # a withdrawn entry needs room, too
        page, before = await self._outbox.page(self.backlog, self._batch_size)
        if page.last is None:
            if not self.backlog.end_catching_up(before) and self._outbox.bound == before:
                await self.backlog.changed.park()  # until the first put under way ends
            return
        found, failures = await self._read(list(dict.fromkeys(entry.ref for entry in page.entries)))
        for entry in page.entries:
            if entry.ref in found:
                await self._enqueue(entry, found[entry.ref])
            elif entry.ref in failures:
                self._defer_unreadable(entry, failures[entry.ref])
            else:
                self._withdraw_or_defer(entry)
            # The cursor moves only once the entry is in hand, deferred or withdrawn, because a flush takes all entries
            # up to the cursor as dealt with.
            self.backlog.cursor = entry.seq
        # The page may end with entries that are in hand or being acknowledged. These are dealt with as well.
        self.backlog.cursor = page.last
        self.backlog.changed.unpark_all()

    async def _read(self, refs: Sequence[Ref]) -> tuple[dict[Ref, Blob], dict[Ref, str]]:
        """Return the blobs that the sync stores have, and why other blobs can't be read. No store has the rest."""
        found: dict[Ref, Blob] = {}
        with suppress(StoreError):
            answers = await self._sync_stores.get_many(list(refs))
            found = dict(zip(answers, await to_blobs(answers.values()), strict=True))
            if all(blob.ref == ref for ref, blob in found.items()):
                return found, {}
            found = {}
        # These are texts, because the traceback of an exception would refer to this frame, which has the blobs.
        failures: dict[Ref, str] = {}
        for ref in refs:
            try:
                blob = await to_blob(await self._sync_stores.get(ref))
            except BlobNotFoundError:
                continue
            except StoreError as error:
                failures[ref] = describe_failure(error)
                continue
            if blob.ref == ref:
                found[ref] = blob
            else:  # the replica does not verify
                failures[ref] = describe_failure(CorruptBlobError(ref, blob.ref))
        return found, failures  # noqa: ASYNC910  (there is at least one ref, and the get of it has one)

    async def _enqueue(self, entry: Entry, blob: Blob) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # the worker may have failed since the last checkpoint
        while not self._queue.enter([blob], [entry.seq]):
            await self._queue.wait_room()
            await trio.lowlevel.checkpoint_if_cancelled()
        self.backlog.hold([entry.seq])

    def _defer_unreadable(self, entry: Entry, why: str) -> None:
        self.backlog.unreadable += 1
        if self.backlog.unreadable <= ENTRIES_LOGGED:
            log(logging.WARNING, f"{entry.ref} is deferred for {self.name}, because it can't be read: {why}")

    def _withdraw_or_defer(self, entry: Entry) -> None:
        """Withdraw an entry in doubt, or defer any other, because every sync store says that it lacks the blob.

        That proves nothing if none of them is known to have been there when the put was made. Then an entry in doubt is
        deferred, too.
        """
        is_in_doubt = self._outbox.is_in_doubt(entry.seq)
        if is_in_doubt and not self._outbox.can_prove_absence:
            self._defer_unreadable(entry, "no sync store has it, and they are new or incomplete: reconcile the stores")
        elif is_in_doubt:
            why = "its put may never have returned, and no sync store has it"
            log(logging.INFO, f"{entry.ref} is not pending for {self.name} any more: {why}")
            self._outbox.acknowledge(self.backlog, [entry.seq])
        else:
            self.backlog.missing += 1
            if self.backlog.missing <= ENTRIES_LOGGED:
                log(logging.ERROR, f"{entry.ref} is deferred for {self.name}, because no sync store has it any more")

    async def _acknowledge(self, seqs: Sequence[int]) -> None:
        self._outbox.acknowledge(self.backlog, seqs)
        await self._outbox.wait_room()
