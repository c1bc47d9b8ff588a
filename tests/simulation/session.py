"""One session: a replica is opened, used by its clients, and closed, unless a crash ends it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio
import trio.testing

import trio_replica as replica
from trio_replica import PoisonedError, ReplicaError, StoreError
from trio_replica._async.outbox import NAME

from ..started import StartedDeletableStore
from .clients import Client
from .ledger import NAMES, Entries, named
from .observer import Observer, tasks
from .outbox import SimulatedOutbox
from .trace import Violation, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from trio_replica import AsyncStoreStatistics, Ref, ReplicaStore, Store

    from .drawing import Plan
    from .ledger import Put
    from .world import Surroundings, World


SLOW: Final = 1.0
"""Seconds of a step of an outbox that is too slow for its last commits, which have 5 s in all."""


class BodyError(Exception):
    """Raised by the body of a block."""


class Readable(NamedTuple):
    """The stores that have a blob, among those that a get asks."""

    any: set[str]
    healthy: set[str]
    """Those of them in which nothing goes wrong."""


@final
class Session:
    """A replica of some stores, the clients that use it, and the observer that checks its promises."""

    def __init__(self, world: World, plan: Plan, surroundings: Surroundings) -> None:
        self.world = world
        self.plan = plan
        self.draw = surroundings.draw
        self.trace = world.trace
        self.replica: ReplicaStore
        self.is_clean = False
        """Whether it has ended, and delivered all that it had to deliver."""
        self._surroundings = surroundings
        self._sync_stores = surroundings.sync_stores
        self._async_stores = surroundings.async_stores
        self._clients = [Client(self, number) for number in range(plan.clients)]
        self._observer = Observer(self._check)
        self._entries: Entries | None = None
        self._puts = 0  # that have returned
        self._accepted = 0  # their blobs
        self._pending: dict[str, set[Ref]] = {name: set() for name in self._async_stores}
        """The blobs that have been acknowledged and are not yet in each async store."""
        self._has_told = False
        """Whether a flush has said that something can't be delivered: then the end does not say so again."""
        self._checked_state: tuple[object, ...] = ()
        self._is_open = False
        self._is_ending = False
        self._block = trio.CancelScope()

    # Its life

    def run(self) -> None:
        """Run it.

        Raises:
          Violation: if a promise was broken.

        """
        self._observer.actions = {step: self._action(name) for step, name in self.plan.steps.items()}
        self._observer.run(self._use)

    def violate(self, violation: Violation) -> None:
        """Note that a promise was broken."""
        self._observer.violate(violation)

    async def _use(self) -> None:
        with self._outbox_installed():
            async with trio.open_nursery() as outside:
                raised: Exception | None = None
                with self._block:
                    try:
                        await self._open(outside)
                    except Violation:
                        raise
                    except Exception as error:
                        raised = error
                self._end(raised)

    def _outbox_installed(self) -> AbstractContextManager[None]:
        if self.world.outbox is None:
            return nullcontext()
        self._entries = entries = Entries(self.world.outbox)
        weather = self._surroundings.outbox_weather
        return SimulatedOutbox(self.world.outbox, weather, entries.asked, entries.told).installed()

    async def _open(self, outside: trio.Nursery) -> None:
        async with replica.open(self._given_sync_stores(), self._async_stores, **self.plan.options) as self.replica:
            self._begin()
            try:
                if self.plan.is_inside:
                    async with trio.open_nursery() as inside:
                        self._start_clients(inside)
                else:
                    self._start_clients(outside)
                    await trio.sleep(self.plan.seconds)
                if self.plan.ending == "raise":
                    raise BodyError
            finally:
                self._is_ending = True

    def _given_sync_stores(self) -> dict[str, Store]:
        if not self.plan.is_started:
            return {**self._sync_stores}
        return {
            name: StartedDeletableStore(store, interruptible=store.interruptible)
            for name, store in self._sync_stores.items()
        }

    def _begin(self) -> None:
        self._is_open = True
        if self._entries is not None:
            self._entries.begin()
        if self.plan.ending == "cancel":
            self._block.deadline = trio.current_time() + self.plan.seconds
        self.trace.note("open")

    def _start_clients(self, nursery: trio.Nursery) -> None:
        for client in self._clients:
            nursery.start_soon(client.run, self.plan.operations)

    # Events between steps

    def _action(self, name: str) -> Callable[[], None]:
        return {
            "cancel": self._cancel,
            "rot": self._rot,
            "arrive": self._arrive,
            "poison": self._poison,
            "interrupt": self._block.cancel,
            "kill": self._crash,
            "power cut": self._crash,
        }[name]

    def _cancel(self) -> None:
        scopes = [client.scope for client in self._clients if client.scope is not None]
        if scopes:
            self.draw.choice(scopes).cancel()

    def _rot(self) -> None:
        name = self.draw.choice(list(self._sync_stores))
        if ref := self.world.ledger.rot(self.draw, name):
            self.trace.note("rot", f"{name} {NAMES[ref]}")

    def _arrive(self) -> None:
        for name, refs in self.world.arrive():
            self.trace.note("late", f"{name} {named(refs)}")

    def _poison(self) -> None:
        self._async_stores[self.draw.choice(list(self._async_stores))].weather.fail_next()

    def _crash(self) -> None:
        assert self.plan.crash is not None
        self.trace.note(self.plan.crash)
        self.world.crash(self.draw, power_cut=self.plan.crash == "power cut")
        self._observer.end()

    # Promises

    def acknowledge(self, put: Put) -> None:
        """Note that a put has returned."""
        if self._observer.is_over:
            return
        self.world.ledger.acknowledge(put)
        if self._entries is not None:
            self._entries.acknowledge(put)
        self._puts += 1
        if self._puts == self.plan.crash_after:
            self._observer.actions[self._observer.steps + self.draw.randint(1, 40)] = self._crash
        self._accepted += len(put.refs)
        for refs in self._pending.values():
            refs.update(put.refs)

    def flushing(self) -> Callable[[], None]:
        """Return a check that a flush which begins now has kept its promise, to be made once it has returned."""
        awaited = {name: set(refs) for name, refs in self._pending.items()}
        entries = self._entries
        pending = {} if entries is None else {name: entries.pending(name).keys() for name in awaited}

        def check() -> None:
            for name, refs in awaited.items():
                lacking = [ref for ref in sorted(refs) if self._async_stores[name].media.read(ref) is None]
                require(not lacking, "a flush waits for what was acknowledged", name, named(lacking))
                if entries is not None:
                    left = pending[name] & entries.pending(name).keys()
                    require(not left, "a flush waits until entries are acknowledged", name, sorted(left))

        return check

    def readable(self, ref: Ref) -> Readable:
        """Return which of the stores that a get asks have a blob now."""
        having = self.world.ledger.holders(ref, [*self._sync_stores, *self.plan.options["fallback"]])
        return Readable(having, having - self._troubled())

    def is_in_all_sync_stores(self, ref: Ref) -> bool:
        """Return whether there is no sync store now that a put could add a blob to."""
        return all(store.media.read(ref) is not None for store in self._sync_stores.values())

    def listed(self) -> list[Ref]:
        """Return what is in the sync stores now."""
        return sorted({ref for store in self._sync_stores.values() for ref in store.media.refs()})

    def expect(self, error: Exception) -> None:
        """Check that an operation, or the block, may have raised what it did."""
        if isinstance(error, trio.ClosedResourceError):
            require(self._is_ending, "only a block that has ended is closed")
        elif isinstance(error, PoisonedError):
            require(self.is_troubled(error.failures), "only what fails poisons", *error.failures)
        elif isinstance(error, StoreError) and error.operation in {"flush", "drain"}:
            require(self._troubled() - self._async_stores.keys(), "an entry that can be read is delivered", error)
            self._has_told = self._has_told or not error.failures.keys() <= {NAME}
        elif isinstance(error, StoreError):
            require(self.is_troubled(error.failures), "only what fails fails an operation", error)
        elif type(error) is ReplicaError:
            has_failed = not self._is_open and NAME in self._troubled()
            require(has_failed, "only an outbox that fails keeps a replica from opening", error)
        else:
            require(isinstance(error, BodyError), "a block raises what it says", error)

    def is_troubled(self, names: Iterable[str]) -> bool:
        """Return whether something may have gone wrong in each of some stores."""
        return self._troubled().issuperset(names)

    def _troubled(self) -> set[str]:
        stores = self._sync_stores | self._async_stores
        troubled = {name for name, store in stores.items() if not store.weather.is_healthy}
        if self._surroundings.outbox_weather.error_rate:
            troubled.add(NAME)
        return troubled | self.world.ledger.rotten_stores

    def _check(self) -> None:
        """Check what has to hold after every step."""
        self.world.ledger.check_sync_stores()
        if not self._is_open:
            return
        queues = self.replica._delivery.queues
        if any(queue.failure is not None for queue in queues):
            waited_for = [queue.name for queue in queues if not queue._closed or queue._waiting]
            require(not waited_for, "poison ends all waiting for room", *waited_for)
        state = self._state()
        if state == self._checked_state:
            return
        self._checked_state = state
        unreplicated = self.replica.unreplicated
        for name, counts in self.replica.statistics().async_stores.items():
            pending = self._pending[name]
            media = self._async_stores[name].media
            pending.difference_update([ref for ref in pending if media.read(ref) is not None])
            self._check_queue(name, counts, unreplicated[name])

    def _state(self) -> tuple[object, ...]:
        """Return a value that changes whenever `_check_queue` has something new to look at. Few steps change it."""
        entries = self._entries
        return (
            self._puts,
            0 if entries is None else entries.changes,
            *[
                (len(queue._unconfirmed), queue.accepted, queue._taken, queue._written)
                for queue in self.replica._delivery.queues
            ],
            *[self.replica._delivery.backlog_counts(name).get("pending") for name in self._async_stores],
        )

    def _check_queue(self, name: str, counts: AsyncStoreStatistics, unreplicated: tuple[Ref, ...]) -> None:
        options = self.plan.options
        size = options["queue_size"] + (counts.in_flight == 0)  # one may be on its way to a worker that is idle
        require(counts.queued <= size, "a queue has its size", name, counts.queued)
        batch_size = options["batch_size"] or options["queue_size"]
        require(counts.in_flight <= batch_size, "a batch has its size", name, counts.in_flight)
        held = counts.queued + counts.in_flight
        require(len(unreplicated) <= held, "an unreplicated blob is queued or in flight", name, len(unreplicated), held)
        known = set(unreplicated)
        if self._entries is not None:
            pending = self._entries.pending(name)
            require(
                counts.pending == len(pending),
                "pending are the entries of puts that have ended",
                name,
                counts.pending,
                *pending,
            )
            require(not counts.blocked_puts, "with an outbox no put waits for room", name)
            known.update(pending.values())
        unknown = self._pending[name] - known
        require(not unknown, "a lacking blob is known to be unreplicated, or pending", name, named(sorted(unknown)))

    def _end(self, raised: Exception | None) -> None:
        """Check what has to hold when the block has ended."""
        if self._observer.is_over:
            return
        self.trace.note("end", "" if raised is None else type(raised).__name__)
        if raised is not None:
            self.expect(raised)
        if self._is_open:
            self._count()
        survivors = [task.name for task in tasks() if task.name.startswith("replica ")]
        require(not survivors, "no task survives the block", *survivors)
        closed = self._async_stores | (self._sync_stores if self.plan.is_inside else {})  # clients outside may go on
        writing = [name for name, store in closed.items() if store.puts_under_way]
        require(not writing, "no write survives the block", *writing)
        if self._entries is not None:
            self._entries.check_file()
            weather = self._surroundings.outbox_weather
            if not weather.error_rate and weather.pace < SLOW:  # else the last commits may not have come to their end
                self._entries.check_watermark()
        self.world.ledger.check_contents()
        if self._is_open and self._has_drained(raised):
            self._check_drained()

    def _count(self) -> None:
        """Note what happened in the background."""
        statistics = self.replica.statistics()
        for name, counts in statistics.async_stores.items():
            if counts.failure is not None:
                self.trace.note("poisoned", name)
            if self._entries is not None and counts.written > self._accepted:
                self.trace.note("relayed", name)
        for name, sync_counts in statistics.sync_stores.items():
            if sync_counts.repaired:
                self.trace.note("repaired", f"{name} {sync_counts.repaired}")

    def _has_drained(self, raised: Exception | None) -> bool:
        """Return whether the block says that everything has been delivered."""
        counts = self.replica.statistics().async_stores.values()
        if self._has_told or self._block.cancel_called or any(count.failure is not None for count in counts):
            return False
        return raised is None or (isinstance(raised, BodyError) and not hasattr(raised, "__notes__"))

    def _check_drained(self) -> None:
        for name, refs in self._pending.items():
            require(not refs, "a block ends when all is in every async store", name, named(sorted(refs)))
            if self._entries is not None and not self._surroundings.outbox_weather.error_rate:
                entries = self._entries.rows(name) if self.plan.is_inside else self._entries.pending(name)
                require(not entries, "a block ends when all entries are acknowledged", name, *entries)
        if self.world.outbox is not None:
            self.world.ledger.check_async_stores()
        self.is_clean = True
