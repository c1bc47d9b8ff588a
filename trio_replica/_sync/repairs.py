"""Read repair, which writes a blob back to a sync store in which a get found it missing or corrupt."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, final

import outcome
import trio
from trio.lowlevel import enable_ki_protection

from .._blob import to_blob
from .._calls.attempt import attempt
from .._deletable import DeletableStore
from .._errors import describe_failure
from .._life import BackgroundTask
from .._log import log
from .._store import check_results

if TYPE_CHECKING:
    from .._blob import Ref
    from .._life import Life
    from .readers import Lack
    from .sync_stores import Member

BLOBS: Final = 64
"""The most blobs that wait for one store or are being written to it. They are enough to fill its transactions."""

BYTES: Final = 16 * 1024 * 1024
"""The most bytes of these blobs. A single blob may be larger."""

REFS_REMEMBERED: Final = 10_000
"""Refs of each store that are remembered and not tried again, which take about 2 MB. Then the oldest is forgotten."""

END_SECONDS: Final = 5.0
"""Seconds that repairs under way get when the replica is closed. A later get repairs the rest."""


@final
class Repairs:
    """The repairs of one sync store.

    They delay no get, because a blob beyond the bounds is dropped, and may come again.
    """

    def __init__(self, member: Member, life: Life) -> None:
        self.member = member
        self._waiting: deque[tuple[Lack, bytes]] = deque()
        self._blobs = 0  # the blobs that wait or are being written
        self._bytes = 0  # the bytes of these blobs
        self._tried: dict[Ref, None] = {}  # in the order in which they were tried
        self._has_failed = False
        self._closed = False
        self._life = life
        self._offered = trio.lowlevel.ParkingLot()
        self._task = BackgroundTask(f"replica repairs of {member.name}", self._work, life)

    def offer(self, lack: Lack, data: bytes) -> None:
        """Have a blob written back to the store that lacks it, unless it was tried before or too many wait."""
        if self._closed or lack.ref in self._tried or not isinstance(data, bytes):
            return
        if lack.is_corrupt and not isinstance(self.member.store, DeletableStore):
            self._remember(lack.ref)
            self._fail(lack.ref, "it is corrupt, and the store can't replace it")
        elif not self._blobs or (self._blobs < BLOBS and self._bytes + len(data) <= BYTES):
            self._remember(lack.ref)
            self._blobs += 1
            self._bytes += len(data)
            self._waiting.append((lack, data))
            self._offered.unpark_all()

    def start(self, nursery: trio.Nursery) -> None:
        """Start to write back the blobs that are offered."""
        self._task.start(nursery)

    def close(self) -> None:
        """Drop the waiting repairs, and give the repairs under way `END_SECONDS`."""
        self._closed = True
        self._waiting.clear()
        self._offered.unpark_all()
        self._task.stop(END_SECONDS)

    def stop(self, grace: float) -> None:
        """Give the repairs under way at most `grace` more seconds.

        A write that can't be interrupted still runs to its end.
        """
        self._task.stop(grace)

    async def ended(self) -> None:
        """Wait until nothing is being written."""
        await self._task.ended()

    @enable_ki_protection
    async def _work(self) -> None:
        async with trio.open_nursery() as nursery:
            while not self._closed:
                while self._waiting:
                    nursery.start_soon(self._repair, *self._waiting.popleft())
                await self._offered.park()

    @enable_ki_protection
    async def _repair(self, lack: Lack, data: bytes) -> None:  # noqa: ASYNC910  (a task of its own)
        try:
            ended = await attempt(partial(self._write, data), lack)
            if isinstance(ended, outcome.Error):
                self._fail(lack.ref, describe_failure(ended.error))
            elif ended.value:
                self.member.repaired += 1
            else:
                self._tried.pop(lack.ref, None)
        except (KeyboardInterrupt, SystemExit) as request:
            self._life.carry_out(request)
        finally:
            self._blobs -= 1
            self._bytes -= len(data)

    async def _write(self, data: bytes, lack: Lack) -> bool:
        """Give the store a blob. Returns False if these are other bytes, from a replica that does not verify."""
        blob = await to_blob(data)
        if blob.ref != lack.ref:  # the replica does not verify
            return False
        store = self.member.store
        if lack.is_corrupt:
            assert isinstance(store, DeletableStore)
            await store.replace(blob)
        else:
            check_results([blob], [await store.put(blob)])
        return True

    def _remember(self, ref: Ref) -> None:
        self._tried[ref] = None
        if len(self._tried) > REFS_REMEMBERED:
            del self._tried[next(iter(self._tried))]

    def _fail(self, ref: Ref, reason: str) -> None:
        self.member.unrepairable += 1
        if not self._has_failed:
            self._has_failed = True
            log(
                logging.WARNING,
                f"{self.member.name} can't be given back {ref!s:.12}: {reason}; later failures are only counted",
            )
