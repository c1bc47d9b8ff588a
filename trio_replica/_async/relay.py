"""Bringing debts to an async store's queue that no put brings there: of former sessions, or because it was full."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import enable_ki_protection

from .._blob import to_blob, to_blobs
from .._errors import BlobNotFoundError, CorruptBlobError, ReplicaError, StoreError, describe_failure
from .._log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._blob import Blob, Ref
    from .._sync.sync_stores import SyncStores
    from .outbox import Account, Outbox
    from .queue import BlobQueue
    from .storage import Debt

DEBTS_LOGGED: Final = 10
"""Of the debts that can't be read, and of those whose blob is missing, how many the log names; all are counted."""


@final
class Feeder:
    """The feeder of one async store: it reads blobs back from the sync stores, in the order of their puts."""

    def __init__(self, outbox: Outbox, queue: BlobQueue, sync_stores: SyncStores, batch_size: int) -> None:
        self.failure: BaseException | None = None
        """What ended it early: the outbox could not be read."""
        self._outbox = outbox
        self.account: Account = outbox.accounts[queue.name]
        self._queue = queue
        queue.be_fed(self._paid)
        self._sync_stores = sync_stores
        self._batch_size = batch_size
        self._is_finishing = False
        self._scope = trio.CancelScope(shield=True)

    @property
    def name(self) -> str:
        return self._queue.name

    def problem(self) -> BaseException | None:
        """Return why debts can't be paid in this session, if that is so."""
        account = self.account
        if self.failure is None and (account.missing or account.unreadable):
            return ReplicaError(
                f"{account.missing + account.unreadable} blobs that it is owed can't be read from any sync store, and "
                f"{account.missing} of these none has any more: see the log, or trio-replica outbox"
            )
        return self.failure

    def finish(self) -> None:
        """Let it end once the store has caught up."""
        self._is_finishing = True
        self.account.changed.unpark_all()

    def stop(self) -> None:
        """End it. What it has not brought is owed still."""
        self._scope.cancel()

    @enable_ki_protection
    async def feed(self, carry_out: Callable[[BaseException], None]) -> None:  # noqa: ASYNC910  (a task of its own)
        """Bring the debts to the queue as they come, until `finish` or `stop`.

        A `KeyboardInterrupt` or `SystemExit` that a sync store raises is for `carry_out`.
        """
        with self._scope:
            try:
                while not self._is_finishing or self.account.is_behind:
                    if self.account.is_behind:
                        await self._feed_page()
                    else:
                        await self.account.changed.park()
            except (KeyboardInterrupt, SystemExit) as request:
                carry_out(request)
            except Exception as error:
                self.failure = error
                self.account.changed.unpark_all()
                log(logging.ERROR, f"{self.name} is fed no more in this session: {describe_failure(error)}")
        self._queue.end_feeding()

    async def _feed_page(self) -> None:
        await self._outbox.wait_room()  # for strikes of what is missing
        page, before = await self._outbox.page(self.account, self._batch_size)
        if page.last is None:
            if not self.account.end_behind(before) and self._outbox.bound == before:
                await self.account.changed.park()  # until the put ends that is the first of those under way
            return
        found, failures = await self._read(list(dict.fromkeys(debt.ref for debt in page.debts)))
        for debt in page.debts:
            if debt.ref in found:
                await self._bring(debt, found[debt.ref])
            elif debt.ref in failures:
                self._pass_over(debt, failures[debt.ref])
            else:
                self._settle_missing(debt)
            self.account.cursor = debt.seq
        self.account.cursor = page.last
        self.account.changed.unpark_all()

    async def _read(self, refs: Sequence[Ref]) -> tuple[dict[Ref, Blob], dict[Ref, str]]:
        """Return those of the blobs that the sync stores have, and why others can't be read. All else, none has."""
        found: dict[Ref, Blob] = {}
        with suppress(StoreError):
            answers = await self._sync_stores.get_many(list(refs))
            found = dict(zip(answers, await to_blobs(answers.values()), strict=True))
            if all(blob.ref == ref for ref, blob in found.items()):
                return found, {}
            found = {}
        failures: dict[Ref, str] = {}  # no exceptions: their tracebacks would refer to this frame, which has the blobs
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
            else:  # of a replica that does not verify
                failures[ref] = describe_failure(CorruptBlobError(ref, blob.ref))
        return found, failures  # noqa: ASYNC910  (there is at least one ref, and the get of it has one)

    async def _bring(self, debt: Debt, blob: Blob) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # by a worker that has failed meanwhile
        while not self._queue.enter([blob], [debt.seq]):
            await self._queue.wait_room()
            await trio.lowlevel.checkpoint_if_cancelled()
        self.account.hold([debt.seq])

    def _pass_over(self, debt: Debt, why: str) -> None:
        self.account.unreadable += 1
        if self.account.unreadable <= DEBTS_LOGGED:
            log(logging.WARNING, f"{self.name} is owed {debt.ref}, which can't be read: {why}")

    def _settle_missing(self, debt: Debt) -> None:
        """Settle a debt of a blob that every sync store says it has not."""
        if self._outbox.may_be_unacknowledged(debt.seq):
            why = "its put may never have returned, and no sync store has it"
            log(logging.INFO, f"{self.name} is not owed {debt.ref}: {why}")
            self._outbox.strike(self.account, [debt.seq])
        else:
            self.account.missing += 1
            if self.account.missing <= DEBTS_LOGGED:
                log(logging.ERROR, f"{self.name} is owed {debt.ref}, and no sync store has it any more")

    async def _paid(self, seqs: Sequence[int]) -> None:
        self._outbox.strike(self.account, seqs)
        await self._outbox.wait_room()
