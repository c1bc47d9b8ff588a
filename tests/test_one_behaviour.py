"""One behaviour for all kinds of stores: every operation of a replica in every situation, on Trio's mock clock.

A store whose calls can be started, one that can only be awaited, and both together in either order give the same
outcome at the same time. The first store takes 1 second for a call, the second one 3, unless the situation says else.
"""

from __future__ import annotations

import math
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import pytest
import trio

import trio_replica as replica
from trio_replica import PutResult, StoreError
from trio_replica.testing import SimulatedStore

from .common import BROKEN, DATA, REF, PlainStore
from .started import StartedStore, let_calls_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trio_replica import ReplicaStore, Store

KINDS: Final[dict[str, list[Callable[[Store], Store]]]] = {
    "startable": [StartedStore, StartedStore],
    "awaited": [PlainStore, PlainStore],
    "startable first": [StartedStore, PlainStore],
    "awaited first": [PlainStore, StartedStore],
}

OPERATIONS: Final[dict[str, Callable[[ReplicaStore], Awaitable[object]]]] = {
    "put": lambda store: store.put(DATA),
    "put_many": lambda store: store.put_many([DATA]),
    "get": lambda store: store.get(REF),
    "get_many": lambda store: store.get_many([REF]),
    "contains": lambda store: store.contains(REF),
    "list_page": lambda store: store.list_page(replica.Ref.ZERO, 10),
}

ANSWERS: Final[dict[str, object]] = {
    "put": PutResult(REF, added=False),
    "put_many": [PutResult(REF, added=False)],
    "get": DATA,
    "get_many": {REF: DATA},
    "contains": True,
    "list_page": [REF],
}

Outcome: TypeAlias = "tuple[type[BaseException] | str, float]"
"""The exception that comes out, or that it is the ``answer``; and when."""


class Situation(NamedTuple):
    """The events during an operation that begins at 0 seconds."""

    outcomes: dict[str, Outcome]
    seconds: tuple[float, float] = (1, 3)
    first: str = ""
    """Whether the first store ``hangs`` or ``raises``."""
    cancelled: float = math.inf
    """When the caller is cancelled."""
    deadline: float = math.inf
    """The deadline of the caller."""
    block_ends: float = math.inf
    block_is_cancelled: float = math.inf
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)


def of(writes: Outcome, reads: Outcome, listing: Outcome) -> dict[str, Outcome]:
    """Return the outcomes of all operations."""
    return (
        dict.fromkeys(("put", "put_many"), writes)
        | dict.fromkeys(("get", "get_many", "contains"), reads)
        | {"list_page": listing}
    )


SITUATIONS: Final = {
    "all go well": Situation(of(("answer", 3), ("answer", 1), ("answer", 3))),
    "the caller is cancelled": Situation(
        of((trio.Cancelled, 0.5), (trio.Cancelled, 0.5), (trio.Cancelled, 0.5)), cancelled=0.5
    ),
    "the caller has a deadline": Situation(of((trio.Cancelled, 2), ("answer", 1), (trio.Cancelled, 2)), deadline=2),
    "the block ends": Situation(of((trio.ClosedResourceError, 0.5), ("answer", 1), ("answer", 3)), block_ends=0.5),
    "the block is cancelled": Situation(
        of((trio.ClosedResourceError, 0.5), (trio.ClosedResourceError, 0.5), (trio.ClosedResourceError, 0.5)),
        block_is_cancelled=0.5,
    ),
    "the block is cancelled and has grace": Situation(
        of((trio.ClosedResourceError, 0.5), ("answer", 1), (trio.ClosedResourceError, 2.5)),
        block_is_cancelled=0.5,
        options={"grace": 2},
    ),
    "the first store hangs": Situation(
        of((trio.Cancelled, 9), ("answer", 3), (trio.Cancelled, 9)), first="hangs", deadline=9
    ),
    "the first store raises": Situation(of((StoreError, 1), ("answer", 3), (StoreError, 1)), first="raises"),
    "a hedge is in time": Situation(
        of(("answer", 3), ("answer", 1.5), ("answer", 3)), seconds=(3, 1), options={"hedge_delay": 0.5}
    ),
    "no hedge is needed": Situation(of(("answer", 3), ("answer", 1), ("answer", 3)), options={"hedge_delay": 2}),
    "the first store raises before its hedge": Situation(
        of((StoreError, 1), ("answer", 4), (StoreError, 1)), first="raises", options={"hedge_delay": math.inf}
    ),
    "the first store hangs and a hedge helps": Situation(
        of((trio.Cancelled, 9), ("answer", 3.5), (trio.Cancelled, 9)),
        first="hangs",
        deadline=9,
        options={"hedge_delay": 0.5},
    ),
    "the block ends and closing starts the hedge that waits": Situation(
        of((trio.ClosedResourceError, 0.5), ("answer", 3.5), (trio.Cancelled, 9)),
        first="hangs",
        deadline=9,
        block_ends=0.5,
        options={"hedge_delay": math.inf},
    ),
}


async def open_stores(situation: Situation) -> list[SimulatedStore]:
    stores = []
    for seconds in situation.seconds:
        stores.append(SimulatedStore(put=chain([0], repeat(seconds)), get=seconds, list_page=seconds))
        await stores[-1].put(DATA)
        stores[-1].calls.clear()
    if situation.first == "hangs":
        stores[0].hang()
    elif situation.first == "raises":
        stores[0].fail(BROKEN)
    return stores


class Caller:
    """A task that makes one operation, and how that ended."""

    def __init__(self, deadline: float) -> None:
        self.scope = trio.CancelScope(deadline=deadline)
        self.what: object = None
        self.at = math.nan

    async def call(self, operation: Callable[[ReplicaStore], Awaitable[object]], store: ReplicaStore) -> None:
        with self.scope:
            try:
                self.what = await operation(store)
            except BaseException as error:  # noqa: ASYNC103  (it is the outcome)
                self.what = type(error)
                self.at = trio.current_time()
                if isinstance(error, trio.Cancelled):
                    raise
        self.at = trio.current_time()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_the_outcome_is_the_same_for_all_kinds_of_stores(
    autojump_clock: MockClock, situation: str, operation: str, kind: str
) -> None:
    it = SITUATIONS[situation]
    simulated = await open_stores(it)
    stores = [wrap(store) for wrap, store in zip(KINDS[kind], simulated, strict=True)]
    caller = Caller(it.deadline)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(deadline=it.block_is_cancelled):
            async with replica.open(stores, **it.options) as store:
                nursery.start_soon(caller.call, OPERATIONS[operation], store)  # noqa: ASYNC111  (it outlives the block)
                await trio.sleep_until(min(it.block_ends, it.cancelled, 20))
                if it.cancelled < math.inf:
                    caller.scope.cancel()
        ended_at = trio.current_time()
    what, at = it.outcomes[operation]
    assert (caller.what, caller.at) == (ANSWERS[operation] if what == "answer" else what, at)
    if it.block_ends < 20 or it.block_is_cancelled < 20:
        assert ended_at == at, "the block waits for its operations, and for nothing else"
    await let_calls_end()
    assert all(call.ended is not None and call.ended <= at for store in simulated for call in store.calls)
