"""Any program of operations, cancellations and failures, against what is promised; and every cancellation in turn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

import trio_replica as replica
from trio_replica import BlobNotFoundError, PoisonedError, Ref, ReplicaStore, StoreError
from trio_replica.testing import Batched, Concurrent, Serial, SimulatedStore

from .common import CancelAtStep
from .started import StartedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_replica import Store

BROKEN = OSError("broken")
BLOBS = [b"blob %d" % number for number in range(6)]
REFS = [Ref.of(data) for data in BLOBS]

Kind: TypeAlias = Literal["put", "put_many", "get", "get_many", "contains", "listing", "flush"]


@dataclass
class Step:
    """One operation of a program."""

    at: float
    """When it begins, in seconds."""
    kind: Kind
    blobs: list[int]
    """The places of its blobs in `BLOBS`."""
    deadline: float
    """Seconds after which it is cancelled."""


@dataclass
class StoreOptions:
    """How a simulated store behaves."""

    put: float
    get: float
    page_size: int | None
    cost: Serial | Concurrent | Batched
    fails_after: int | None
    """The puts after which one fails; None if none does."""

    def open(self, *, count: float) -> SimulatedStore:
        store = SimulatedStore(
            put=self.put, get=self.get, list_page=self.get, page_size=self.page_size, put_many=self.cost
        )
        if self.fails_after is not None:
            store.fail(BROKEN, "put", "put_many", after=self.fails_after, count=count)
        return store


@dataclass
class Program:
    """A replica, what is done to it, and how its block ends."""

    sync_stores: list[StoreOptions]
    async_stores: list[StoreOptions]
    sync_calls: Literal["awaited", "started", "started, not to be interrupted"]
    options: dict[str, Any]
    steps: list[Step]
    ends_at: float
    end: Literal["normally", "error", "cancelled"]


# Where one of several is drawn, what lets most happen stands first: it is drawn most often.
times = st.sampled_from([0, 0, 1, 2, 5])
stores = st.builds(
    StoreOptions,
    put=times,
    get=times,
    page_size=st.none() | st.integers(1, 3),
    cost=st.sampled_from([Serial(), Concurrent(2), Batched(1, 0.5)]),
    fails_after=st.sampled_from([None, None, 0, 1, 3, 8]),
)
programs = st.builds(
    Program,
    sync_stores=st.lists(stores, min_size=1, max_size=3),
    async_stores=st.lists(stores, max_size=3),
    sync_calls=st.sampled_from(["started", "awaited", "started, not to be interrupted"]),
    options=st.fixed_dictionaries(
        {
            "queue_size": st.integers(1, 4),
            "batch_size": st.none() | st.integers(1, 3),
            "grace": st.sampled_from([0, 3, math.inf]),
            "hedge_delay": st.sampled_from([0, 1, math.inf]),
        }
    ),
    steps=st.lists(
        st.builds(
            Step,
            at=st.integers(0, 12),
            kind=st.sampled_from(["put", "put", "put_many", "get", "get_many", "contains", "listing", "flush"]),
            blobs=st.lists(st.integers(0, len(BLOBS) - 1), min_size=1, max_size=4),
            deadline=st.sampled_from([math.inf, math.inf, math.inf, 0, 1, 3]),
        ),
        min_size=4,
        max_size=20,
    ),
    ends_at=st.sampled_from([100, 100, 5, 0]),
    end=st.sampled_from(["normally", "error", "cancelled"]),
)


@dataclass
class Run:
    """One run of a program, and what has to hold in it."""

    program: Program
    sync_stores: list[SimulatedStore] = field(default_factory=list)
    async_stores: dict[str, SimulatedStore] = field(default_factory=dict)
    accepted: set[Ref] = field(default_factory=set)
    tried: set[Ref] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    """The async stores that a raised `PoisonedError` has named."""
    store: ReplicaStore | None = None

    async def main(self) -> None:
        self.sync_stores = [options.open(count=1) for options in self.program.sync_stores]
        self.async_stores = {
            f"async-{place}": options.open(count=math.inf) for place, options in enumerate(self.program.async_stores)
        }
        error: Exception | None = None
        scope = trio.CancelScope()
        try:
            with scope:
                async with trio.open_nursery() as tasks:
                    await self.run_block(tasks, scope)
        except Exception as raised:
            error = raised
        self.check_end(error, cancelled=scope.cancelled_caught)

    async def run_block(self, tasks: trio.Nursery, scope: trio.CancelScope) -> None:
        sync_stores: list[Store] = list(self.sync_stores)
        if self.program.sync_calls != "awaited":
            interruptible = self.program.sync_calls == "started"
            sync_stores = [StartedStore(each, interruptible=interruptible) for each in sync_stores]
        async with replica.open(sync_stores, self.async_stores, **self.program.options) as self.store:
            for step in self.program.steps:
                tasks.start_soon(self.run_step, self.store, step)
            await trio.sleep(self.program.ends_at)
            if self.program.end == "error":
                raise ZeroDivisionError
            if self.program.end == "cancelled":
                scope.cancel()

    async def run_step(self, store: ReplicaStore, step: Step) -> None:
        await trio.sleep(step.at)
        poisoned = any(counts.failure for counts in store.statistics().async_stores.values())
        try:
            with trio.move_on_after(step.deadline) as scope:
                await getattr(self, step.kind)(store, step.blobs)
                assert not poisoned, "a poisoned replica accepts nothing"
        except PoisonedError as error:
            self.told |= error.failures.keys()
            self.check_unreplicated(error.unreplicated)
        except StoreError as error:
            assert step.kind in ("put", "put_many")
            assert set(error.failures.values()) == {BROKEN}
        except trio.ClosedResourceError:
            assert trio.current_time() >= self.program.ends_at
        assert not scope.cancelled_caught or trio.current_time() >= step.at + step.deadline

    async def put(self, store: ReplicaStore, blobs: list[int]) -> None:
        self.tried.add(REFS[blobs[0]])
        ref, _ = await store.put(BLOBS[blobs[0]])
        assert ref == REFS[blobs[0]]
        self.accept([ref])

    async def put_many(self, store: ReplicaStore, blobs: list[int]) -> None:
        self.tried.update(REFS[number] for number in blobs)
        results = await store.put_many(BLOBS[number] for number in blobs)
        assert [ref for ref, _ in results] == [REFS[number] for number in blobs]
        self.accept([ref for ref, _ in results])

    def accept(self, refs: list[Ref]) -> None:
        self.accepted.update(refs)
        for each in self.sync_stores:
            assert each.blobs.keys() >= set(refs), "every sync store has it before the put returns"

    async def get(self, store: ReplicaStore, blobs: list[int]) -> None:
        ref = REFS[blobs[0]]
        accepted = ref in self.accepted
        try:
            assert await store.get(ref) == BLOBS[blobs[0]]
        except BlobNotFoundError:
            assert not accepted

    async def get_many(self, store: ReplicaStore, blobs: list[int]) -> None:
        accepted = {REFS[number] for number in blobs} & self.accepted
        found = await store.get_many(REFS[number] for number in blobs)
        assert found.keys() >= accepted
        assert found == {ref: BLOBS[REFS.index(ref)] for ref in found}

    async def contains(self, store: ReplicaStore, blobs: list[int]) -> None:
        accepted = REFS[blobs[0]] in self.accepted
        assert await store.contains(REFS[blobs[0]]) or not accepted

    async def listing(self, store: ReplicaStore, blobs: list[int]) -> None:
        before = set(self.accepted)
        listed = [ref async for ref in store.list_refs()]
        assert listed == sorted(set(listed))
        assert before <= set(listed) <= self.tried

    async def flush(self, store: ReplicaStore, blobs: list[int]) -> None:
        before = set(self.accepted)
        await store.flush()
        for each in self.async_stores.values():
            assert each.blobs.keys() >= before

    def check_unreplicated(self, unreplicated: Any) -> None:
        for name, each in self.async_stores.items():
            left = unreplicated.get(name, ())
            assert len(set(left)) == len(left)
            assert self.accepted <= each.blobs.keys() | set(left), "an accepted blob is there, or said to be missing"
            assert set(left) <= self.tried

    def check_end(self, error: Exception | None, *, cancelled: bool) -> None:
        assert self.store is not None
        counts = self.store.statistics().async_stores
        failed = {name for name, each in counts.items() if each.failure is not None}
        self.check_unreplicated(self.store.unreplicated)
        if isinstance(error, ExceptionGroup):  # of the nursery of the tasks
            (error,) = error.exceptions
        if self.program.end == "error":
            assert isinstance(error, ZeroDivisionError)
            assert bool(getattr(error, "__notes__", ())) == bool(failed - self.told)
        elif failed - self.told:
            assert isinstance(error, PoisonedError)
            assert error.failures.keys() == failed
        else:
            assert error is None
            if self.program.end == "normally":
                assert not cancelled
                for name in counts.keys() - failed:
                    assert self.store.unreplicated[name] == (), "a normal exit drains"
        for name, each in counts.items():
            assert (each.queued + each.in_flight > 0) == bool(self.store.unreplicated[name])
            assert each.peak_queued <= each.capacity + 1


QUICK = StoreOptions(put=0, get=0, page_size=None, cost=Serial(), fails_after=None)
FAILING = StoreOptions(put=0, get=0, page_size=None, cost=Serial(), fails_after=0)
PUT = Step(0, "put", [0], math.inf)
NOBODY_IS_TOLD = Program([QUICK], [FAILING], "awaited", {}, [PUT], 5, "normally")
SOMEBODY_IS_TOLD = Program([QUICK], [FAILING], "awaited", {}, [PUT, Step(1, "flush", [0], math.inf)], 5, "normally")
A_PUT_FAILS = Program([FAILING], [], "awaited", {}, [PUT], 5, "normally")


@given(program=programs, _=st.random_module())
@example(program=NOBODY_IS_TOLD, _=None)
@example(program=SOMEBODY_IS_TOLD, _=None)
@example(program=A_PUT_FAILS, _=None)
def test_programs(program: Program, _: object) -> None:
    trio.run(Run(program).main, clock=trio.testing.MockClock(autojump_threshold=0))


# Every cancellation in turn


async def list_all(store: ReplicaStore) -> None:
    assert set(REFS[:2]) <= {ref async for ref in store.list_refs()}


OPERATIONS: dict[str, Callable[[ReplicaStore], Awaitable[object]]] = {
    "put": lambda store: store.put(BLOBS[5]),
    "put_many": lambda store: store.put_many(BLOBS[3:]),
    "get": lambda store: store.get(REFS[0]),
    "get_many": lambda store: store.get_many(REFS[:2]),
    "contains": lambda store: store.contains(REFS[0]),
    "list_page": lambda store: store.list_page(Ref.ZERO, 10),
    "list_refs": list_all,
    "flush": lambda store: store.flush(),
}


@pytest.mark.parametrize("hedge_delay", [pytest.param(0, marks=pytest.mark.deep), 0.5])
@pytest.mark.parametrize("name", OPERATIONS)
def test_cancelled_at_every_checkpoint(name: str, hedge_delay: float) -> None:
    async def main(instrument: CancelAtStep) -> bool:
        sync_stores = [SimulatedStore(put=1, get=1, list_page=1, page_size=1), SimulatedStore(put=2, get=2)]
        async_stores = [SimulatedStore(put=3), SimulatedStore(put=4)]
        async with replica.open(
            sync_stores, async_stores, queue_size=1, batch_size=1, hedge_delay=hedge_delay
        ) as store:
            for data in BLOBS[:2]:
                await store.put(data)
            with trio.CancelScope() as instrument.scope:
                await OPERATIONS[name](store)
            cancelled = instrument.scope.cancelled_caught
            instrument.scope = None
            await OPERATIONS[name](store)
            await store.flush()
            expected = {"put": {0, 1, 5}, "put_many": {0, 1, 3, 4, 5}}.get(name, {0, 1})
            for each in (*sync_stores, *async_stores):
                assert each.blobs.keys() >= {REFS[number] for number in expected}
        assert store.unreplicated == {"async-0": (), "async-1": ()}
        return cancelled

    steps = 1
    while True:
        instrument = CancelAtStep(steps)
        cancelled = trio.run(
            main, instrument, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[instrument]
        )
        if not cancelled and instrument.steps > 0:
            break
        steps += 1
    assert steps > 2
