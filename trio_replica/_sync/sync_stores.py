"""The sync stores of a replica: a write goes to all, they are read as `Readers`, and a listing is their union."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, final

import outcome
import trio

from .._blob import hashed, takes_thread, to_blobs
from .._calls.fan_out import fan_out
from .._calls.started import StartedCalls, ended_call, fan_out_started
from .._errors import StoreError, closed_error
from .._statistics import SyncStoreStatistics
from .._store import StartableStore, results_error
from .readers import Member, Readers
from .union import check_page, union

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from .._blob import Blob, BytesLike, Ref
    from .._calls.fan_out import Cancellable, Ended
    from .._calls.started import Cancel, Done
    from .._store import PutResult, Store


class Beside(Protocol):
    """What is done beside a write to the stores, and is part of it: it fails and ends with that."""

    @property
    def name(self) -> str:
        """What it is called when it fails."""

    def start(self, done: Done) -> Cancel:
        """Start it: see `StartableStore.start_put`."""


class _Write:
    """What has become of one write of some blobs to all stores."""

    __slots__ = ("_beside_ended", "_blobs", "_failures", "_ref", "_results")

    def __init__(self, blobs: list[Blob], beside: Beside | None, ref: Ref | None = None) -> None:
        self._blobs = blobs
        self._beside_ended = beside is None
        self._ref = ref  # of the only one, if it is a put and no put_many
        self._results: list[list[PutResult]] = []
        self._failures: dict[str, BaseException] = {}

    def settle(self, member: Member | Beside, ended: Ended[Any]) -> bool:
        """Note how the call of one store ended, and return whether the write has failed."""
        results: list[PutResult] = []
        if not isinstance(member, Member):
            if isinstance(ended, outcome.Value):
                self._beside_ended = True
            else:
                self._failures[member.name] = ended.error
            return bool(self._failures)
        if isinstance(ended, outcome.Value):
            results = ended.value if self._ref is None else [ended.value]
            failure: BaseException | None = results_error(self._blobs, results)
        else:
            failure = ended.error
        if failure is None:
            self._results.append(results)
            member.puts += len(self._blobs)
        else:
            self._failures[member.name] = failure
            member.put_failures += 1
        return bool(self._failures)

    def results(self, stores: int) -> list[PutResult]:
        """Return the results of the store that finished first, once all `stores` have.

        Raises:
          StoreError: if one failed.
          trio.ClosedResourceError: if one has not finished, for the replica has been closed.

        """
        if self._failures:
            raise StoreError("put_many" if self._ref is None else "put", self._ref, self._failures)
        if len(self._results) < stores or not self._beside_ended:
            raise closed_error()
        return self._results[0]


@final
class SyncStores(Readers):
    """The sync stores of one replica, in the order in which they are preferred."""

    def __init__(self, stores: Mapping[str, Store], hedge_delay: float, verify: bool) -> None:
        super().__init__(stores, hedge_delay, verify)
        self._writes: set[Cancellable] = set()  # those that are under way

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    def statistics(self) -> dict[str, SyncStoreStatistics]:
        return {
            member.name: SyncStoreStatistics(
                member.puts,
                member.put_failures,
                member.gets_won,
                member.get_failures,
                member.repaired,
                member.unrepairable,
            )
            for member in self.members
        }

    def close(self) -> None:
        """Stop what runs in the background, and let the puts under way raise `trio.ClosedResourceError`."""
        super().close()
        for write in tuple(self._writes):
            write.cancel()

    async def hashed(self, blob: Blob) -> Blob:
        """Return `blob` with its ref computed, in a thread if it is large."""
        if takes_thread(blob):
            with self._until_closed():
                await hashed(blob)
        return blob  # noqa: ASYNC910  (the write has a checkpoint)

    async def all_hashed(self, items: Iterable[Blob | BytesLike]) -> list[Blob]:
        """Return blobs with their refs computed."""
        with self._until_closed():
            return await to_blobs(items)

    async def put(self, blob: Blob, beside: Beside | None = None) -> PutResult:
        """Put `blob`, which is hashed, to all stores, and return the result of the one that finished first."""
        write = _Write([blob], beside, blob.ref)
        members = self._members_and(beside)
        if self._startable:
            calls = StartedCalls(members, partial(_start_put, blob), needs_all=True)
            await fan_out_started(calls, write.settle, cancellable=self._writes)
        else:
            await fan_out(members, partial(_put, blob), write.settle, cancellable=self._writes)
        return write.results(len(self.members))[0]

    async def put_many(self, blobs: list[Blob], beside: Beside | None = None) -> list[PutResult]:
        """Put blobs, which are hashed, to all stores, and return the results of the one that finished first."""

        async def put_many(member: Member | Beside) -> Any:
            return await (member.store.put_many(blobs) if isinstance(member, Member) else ended_call(member.start))

        write = _Write(blobs, beside)
        members = self._members_and(beside)
        await fan_out(members, put_many, write.settle, cancellable=self._writes)
        return write.results(len(self.members))

    def _members_and(self, beside: Beside | None) -> Sequence[Member | Beside]:
        return self.members if beside is None else [*self.members, beside]

    @contextmanager
    def _until_closed(self) -> Generator[None, None, None]:
        """Cancel what is done within when the replica is closed, and raise then."""
        with trio.CancelScope() as scope:
            self._writes.add(scope)
            try:
                yield
            finally:
                self._writes.discard(scope)
        if scope.cancel_called:
            raise closed_error()

    async def union_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the union of one page of each store: all that these prove, which may be more than `limit`."""
        pages: list[list[Ref]] = []
        failures: dict[str, BaseException] = {}

        async def ask(member: Member) -> list[Ref]:
            return check_page(await member.store.list_page(after, limit), after, limit)

        def settle(member: Member, ended: Ended[list[Ref]]) -> bool:
            if isinstance(ended, outcome.Value):
                pages.append(ended.value)
            else:
                failures[member.name] = ended.error
            return bool(failures)

        await fan_out(self.members, ask, settle)
        if failures:
            raise StoreError("list_page", None, failures)
        return union(pages)


async def _put(blob: Blob, member: Member | Beside) -> Any:
    return await (member.store.put(blob) if isinstance(member, Member) else ended_call(member.start))


def _start_put(blob: Blob, member: Member | Beside, done: Done) -> Cancel:
    if not isinstance(member, Member):
        return member.start(done)
    return cast("StartableStore", member.store).start_put(blob, done)
