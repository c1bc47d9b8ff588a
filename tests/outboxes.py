"""An outbox in memory, on Trio's clock, which the threads of a real outbox would not wait for."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import trio

from trio_replica import ReplicaError
from trio_replica._async.storage import Changes, Entry, NotedStore, OutboxState, OutboxStorage
from trio_replica._open import open_with
from trio_replica._options import Options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_replica import Ref, ReplicaStore, Store
    from trio_replica._async.storage import SessionStore
    from trio_replica._calls.start import Cancel, Done
    from trio_replica._checks import Stores

FULL = ReplicaError("the disk is full")


@dataclass
class Disk:
    """The content of the outbox that survives a crash."""

    names: list[str] = field(default_factory=list)
    """Each one's place is the number of its store."""
    entries: dict[tuple[int, int], Ref] = field(default_factory=dict)
    """By the store and the number of the entry."""
    watermark: int = 1
    in_doubt: list[tuple[int, int]] = field(default_factory=list)
    noted: dict[str, NotedStore] = field(default_factory=dict)

    def pending(self, name: str) -> list[Ref]:
        """Return what is pending for a store, in order."""
        number = self.names.index(name)
        return [ref for (store, _), ref in sorted(self.entries.items(), key=lambda item: item[0]) if store == number]

    def copy(self) -> Disk:
        """Return what a crash at this moment would leave."""
        return Disk([*self.names], {**self.entries}, self.watermark, [*self.in_doubt], {**self.noted})

    def begin(self, stores: Sequence[SessionStore]) -> OutboxState:
        """Begin a session."""
        session = {store.name: store for store in stores}
        known_sync = [name for name, one in self.noted.items() if one.role == "sync"]
        for name in known_sync:
            if name not in session:
                self.noted[name] = self.noted[name]._replace(is_incomplete=True)
        for name, role, identity in stores:
            is_incomplete = name in self.noted and self.noted[name].is_incomplete
            is_new = role == "sync" and bool(known_sync) and name not in known_sync
            self.noted[name] = NotedStore(role, identity, is_incomplete or is_new)
            if name not in self.names:
                self.names.append(name)
        after_last = max((seq + 1 for _, seq in self.entries), default=1)
        self.in_doubt = [numbers for numbers in self.in_doubt if any(seq in range(*numbers) for _, seq in self.entries)]
        if after_last > self.watermark:
            self.in_doubt.append((self.watermark, after_last))
            self.watermark = after_last
        ids = {name: place for place, name in enumerate(self.names)}
        pending = {name: len(self.pending(name)) for name in self.names}
        return OutboxState(ids, pending, self.watermark, [range(*numbers) for numbers in self.in_doubt])

    def apply(self, changes: Changes) -> None:
        for seq, ref in zip(changes.seqs, changes.refs, strict=True):
            self.entries.update({(store, seq): ref for store in changes.stores})
        for store, seqs in changes.acknowledgements:
            for seq in seqs:
                self.entries.pop((store, seq), None)
        self.watermark = max(self.watermark, changes.watermark)


class MemoryOutbox(OutboxStorage):
    """An outbox whose commits take `seconds` each, and take everything that waits."""

    def __init__(self, disk: Disk, seconds: float = 0.0) -> None:
        self.disk = disk
        self.noted = {**disk.noted}
        self.seconds = seconds
        self.failures: deque[BaseException] = deque()
        """How the next requests end."""
        self.is_full = False
        """Whether commits fail."""
        self.is_stuck = False
        """Whether requests are left waiting."""
        self.commits = 0
        self._waiting: dict[object, tuple[object, Done]] = {}
        self._asked = trio.lowlevel.ParkingLot()

    async def begin(self, stores: Sequence[SessionStore]) -> OutboxState:
        await trio.lowlevel.checkpoint()
        return self.disk.begin(stores)

    def start_commit(self, changes: Changes, done: Done) -> Cancel:
        return self._start(changes, done)

    def start_page(self, store: int, after: int, before: int, limit: int, done: Done) -> Cancel:
        return self._start((store, after, before, limit), done)

    def _start(self, request: object, done: Done) -> Cancel:
        call = object()
        self._waiting[call] = request, done
        self._asked.unpark_all()
        return lambda: self._waiting.pop(call, None) is not None

    async def serve(self, scope: trio.CancelScope) -> None:
        """Do what is asked, until `scope` is cancelled."""
        with scope:
            while True:
                while not self._waiting or self.is_stuck:
                    await self._asked.park()
                batch, self._waiting = list(self._waiting.values()), {}
                await trio.sleep(self.seconds)
                for request, done in batch:
                    done(self._ended(request))

    def _ended(self, request: Any) -> outcome.Value[Any] | outcome.Error:
        if self.failures:
            return outcome.Error(self.failures.popleft())
        if isinstance(request, Changes):
            if self.is_full:
                return outcome.Error(FULL)
            self.commits += 1
            self.disk.apply(request)
            return outcome.Value(None)
        store, after, before, limit = request
        entries = self.disk.entries.items()
        page = sorted((seq, ref) for (owner, seq), ref in entries if owner == store and after < seq < before)
        return outcome.Value([Entry(seq, ref) for seq, ref in page[:limit]])


@asynccontextmanager
async def _served(storage: MemoryOutbox) -> AsyncGenerator[OutboxStorage, None]:
    await trio.lowlevel.checkpoint()
    serving = trio.CancelScope()
    trio.lowlevel.spawn_system_task(storage.serve, serving)  # the last commit of a block that is cancelled is made too
    try:
        yield storage
    finally:
        serving.cancel()


def open_with_outbox(
    sync_stores: Stores, async_stores: Mapping[str, Store], storage: MemoryOutbox, **options: Any
) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open what `open` opens with an outbox, but with that of a test."""
    return open_with(sync_stores, async_stores, Options(**options), partial(_served, storage))
