"""The tasks that use a replica, and the answers that they may expect of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

import trio

from trio_replica import BlobNotFoundError, PoisonedError, Ref, StoreError

from .ledger import BLOBS, NAMES, PUT, REFS, Put, named
from .trace import Violation, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .session import Session


@final
class Client:
    """A task that does one thing after another."""

    def __init__(self, session: Session, number: int) -> None:
        self.scope: trio.CancelScope | None = None
        """Cancels the operation that is under way."""
        self._session = session
        self._draw = session.draw
        self._name = f"client {number}"

    async def run(self, operations: int) -> None:
        """Do some things, until the replica takes no more."""
        for _ in range(operations):
            operation = self._draw.choice(_OPERATIONS)
            name = operation.__name__.lstrip("_")
            try:
                goes_on = await self._try(name, operation)
            except Violation as violation:
                self._session.violate(violation)
                return
            if not goes_on:
                return
            await trio.sleep(self._draw.choice((0.0, 0.0, 0.001, 0.05)))

    async def _try(self, name: str, operation: Callable[[Client], Awaitable[None]]) -> bool:
        """Do something that may fail, and return whether the replica is still there."""
        try:
            await self._do(name, operation)
        except (PoisonedError, trio.ClosedResourceError) as error:
            self._session.expect(error)
            self._session.trace.note("not accepted", f"{self._name} {name} {type(error).__name__}")
            return False
        except StoreError as error:
            self._session.expect(error)
            self._session.trace.note(f"failed {name}", f"{self._name} {sorted(error.failures)}")
        return True

    async def _do(self, name: str, operation: Callable[[Client], Awaitable[None]]) -> None:
        seconds = self._draw.choice((*[math.inf] * 6, 0.002, 0.05, 2.0))
        with trio.move_on_after(seconds) as scope:
            self.scope = scope
            try:
                await operation(self)
            finally:
                self.scope = None
            self._session.trace.note(name, self._name)
        if scope.cancelled_caught:
            self._session.trace.note(f"cancelled {name}", self._name)

    def _some(self) -> list[Ref]:
        return self._draw.choices(REFS[: self._session.world.pool], k=self._draw.randint(1, 5))

    # Writing

    async def _put(self) -> None:
        (ref,) = refs = self._some()[:1]
        put = self._begin(refs)
        is_everywhere = self._session.is_in_all_sync_stores(ref)
        result = await self._session.replica.put(BLOBS[ref])
        require(result.ref == ref, "a put returns the ref of its blob")
        is_only_one = self._session.world.begun[ref] == 1
        require(result.added or not is_only_one, "a put says that it has added a blob", NAMES[ref])
        require(not (result.added and is_everywhere), "a put says that a blob was there", NAMES[ref])
        self._session.acknowledge(put)

    async def _put_many(self) -> None:
        put = self._begin(self._some())
        results = await self._session.replica.put_many([BLOBS[ref] for ref in put.refs])
        require([result.ref for result in results] == put.refs, "a put_many returns results in the order of its blobs")
        self._session.acknowledge(put)

    def _begin(self, refs: list[Ref]) -> Put:
        put = Put(refs)
        PUT.set(put)
        self._session.world.begun.update(set(refs))
        self._session.trace.note("begin", f"{self._name} {named(refs)}")
        return put

    async def _flush(self) -> None:
        check = self._session.flushing()
        await self._session.replica.flush()
        check()

    # Reading

    async def _get(self) -> None:
        ref = self._draw.choice(REFS[: self._session.world.pool])
        before = self._session.readable(ref)
        try:
            data = await self._session.replica.get(ref)
        except BlobNotFoundError:
            require(not before.any, "a get finds what a store has", NAMES[ref], *sorted(before.any))
            self._session.trace.note("not found", NAMES[ref])
        except StoreError:
            still = before.healthy & self._session.readable(ref).healthy
            require(not still, "a get finds what a healthy store has", NAMES[ref], *sorted(still))
            raise
        else:
            self._check(ref, data)

    async def _get_many(self) -> None:
        refs = self._some()
        before = {ref: self._session.readable(ref) for ref in refs}
        try:
            found = await self._session.replica.get_many(refs)
        except StoreError:
            lacking = [ref for ref in refs if not before[ref].healthy & self._session.readable(ref).healthy]
            require(lacking, "a get_many finds what healthy stores have", named(refs))
            raise
        require(list(found) == [ref for ref in dict.fromkeys(refs) if ref in found], "a get_many answers in order")
        for ref in refs:
            require(ref in found or not before[ref].any, "a get_many finds what a store has", NAMES[ref])
        for ref, data in found.items():
            self._check(ref, data)

    async def _contains(self) -> None:
        ref = self._draw.choice(REFS[: self._session.world.pool])
        before = self._session.readable(ref)
        try:
            found = await self._session.replica.contains(ref)
        except StoreError:
            still = before.healthy & self._session.readable(ref).healthy
            require(not still, "contains asks every store that is healthy", NAMES[ref], *sorted(still))
            raise
        require(found or not before.any, "contains knows what a store has", NAMES[ref])
        has_come = before.any or self._session.readable(ref).any or self._session.world.ledger.rotten
        require(not found or has_come, "contains knows what no store has", NAMES[ref])

    async def _list_refs(self) -> None:
        before = self._session.listed()
        after = self._draw.choice([Ref.ZERO, Ref.ZERO, *REFS])
        try:
            listed = [ref async for ref in self._session.replica.list_refs(after)]
        except StoreError as error:
            require(self._session.is_troubled(error.failures), "a listing of healthy stores does not fail")
            raise
        require(listed == sorted(set(listed)), "a listing is ascending, each ref once", named(listed))
        lacking = [ref for ref in before if ref not in listed and ref > after]
        require(not lacking, "a listing is complete as of its start", named(lacking))
        require(set(listed) <= set(self._session.listed()), "a listing shows what is there")

    def _check(self, ref: Ref, data: bytes) -> None:
        is_right = data == BLOBS[ref] or not self._session.plan.options["verify"]
        require(is_right, "a get returns what was put", NAMES[ref], data)


_OPERATIONS: Final = (
    *[Client._put] * 3,
    Client._put_many,
    *[Client._get] * 2,
    Client._get_many,
    Client._contains,
    Client._list_refs,
    Client._flush,
)
