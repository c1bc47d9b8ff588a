"""`SimulatedStore`, a store on Trio's clock with the service times and faults that a test gives it."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import trio

from .._blob import to_blob, to_blobs
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from .._identity import check_mark, is_identity, new_identity
from .._listing import check_page_request, check_ref
from .._store import PutResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._blob import Blob, BytesLike, Ref


class Distribution(Protocol):
    """A distribution of service times."""

    def sample(self, source: random.Random) -> float:
        """Return a time in seconds, drawn with `source`."""


@dataclass(frozen=True)
class Exponential:
    """Exponential times, like the times between independent events."""

    mean: float
    """Seconds."""

    def sample(self, source: random.Random) -> float:
        """Return a time in seconds, drawn with `source`."""
        return source.expovariate(1 / self.mean)


@dataclass(frozen=True)
class LogNormal:
    """Log-normal times, which are mostly short and sometimes very long, like those of disks and networks."""

    mean: float
    """Seconds."""
    squared_cv: float
    """The squared coefficient of variation: the variance divided by the square of the mean."""

    def sample(self, source: random.Random) -> float:
        """Return a time in seconds, drawn with `source`."""
        # Of exp(N(mu, s²)) the mean is exp(mu + s²/2) and the squared coefficient of variation exp(s²) - 1.
        variance = math.log1p(self.squared_cv)
        return source.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))


Times: TypeAlias = float | Iterable[float] | Distribution
"""Service times in seconds: one number for all, numbers that are used in order, or a distribution."""


class PutManyCost(Protocol):
    """The cost of a ``put_many``, which determines when each of its blobs is stored."""

    def completions(self, count: int, put_time: Callable[[], float]) -> Sequence[float]:
        """Return for each of `count` blobs the seconds from the beginning until it is stored.

        `put_time` returns the time of a single put.
        """


@dataclass(frozen=True)
class Serial:
    """The cost of one put after another."""

    def completions(self, count: int, put_time: Callable[[], float]) -> Sequence[float]:
        """Return the seconds until each blob is stored."""
        return Concurrent(1).completions(count, put_time)


@dataclass(frozen=True)
class Concurrent:
    """The cost of several puts at once. The next one begins when one ends."""

    limit: int
    """The most puts at once."""

    def completions(self, count: int, put_time: Callable[[], float]) -> Sequence[float]:
        """Return the seconds until each blob is stored."""
        lanes = [0.0] * self.limit
        ends = []
        for _ in range(count):
            ends.append(lanes[0] + put_time())
            heapq.heapreplace(lanes, ends[-1])
        return ends


@dataclass(frozen=True)
class Batched:
    """The cost of one transaction, which takes a + b·k seconds for k blobs."""

    fixed: float
    """Seconds for the batch (a)."""
    each: float
    """Additional seconds for each blob (b)."""

    def completions(self, count: int, put_time: Callable[[], float]) -> Sequence[float]:  # noqa: ARG002
        """Return the seconds until each blob is stored."""
        return [self.fixed + self.each * count] * count


@dataclass
class SimulatedCall:
    """One call of a `SimulatedStore`."""

    operation: str
    """The method: ``"put"``, ``"put_many"``, ``"get"``, ``"list_page"``, ``"delete"`` or ``"replace"``."""
    refs: tuple[Ref, ...]
    """The blobs that it is about. For a listing, the ref after which the page begins."""
    started: float
    """Seconds on Trio's clock."""
    ended: float | None = None
    """Seconds on Trio's clock, or None while it is under way."""
    error: BaseException | None = None
    """The exception that it raised, if any. This may be a `trio.Cancelled`."""


@dataclass
class _Fault:
    operations: frozenset[str]
    after: int
    count: float
    error: BaseException | None  # None: hang
    stored: bool


@dataclass(frozen=True)
class _Outage:
    start: float
    end: float
    error: BaseException | None  # None: calls are held up instead


class SimulatedStore(DeletableStore):
    """A store in memory with the service times and faults that a test gives it.

    ``put``, ``get`` and ``list_page`` take their service time on Trio's clock and then have their whole effect at once.
    A ``put_many`` stores each blob at the time that `put_many` says. Calls are served independently of each other. The
    other methods are the defaults of `Store`, so they take the time of the methods that they call. ``delete`` and
    ``replace`` take no time. Nothing uses a thread except the hashing of blobs over 1 MiB, and a mock clock does not
    wait for that.

    Args:
      put, get, list_page: the service times in seconds. Each is a number, an iterable of numbers with one for each call
        in order (a call that finds none left raises `RuntimeError`), or a `Distribution`.
      put_many: the cost of a ``put_many``: `Serial`, `Concurrent` or `Batched`.
      page_size: the most refs in a page, to make pages shorter than requested.
      seed: the seed of the distributions.
      identity: its identity of 32 lowercase hex digits, or None. Without an identity it keeps no mark of a session.

    Raises:
      ValueError: if `identity` is something else.

    """

    def __init__(
        self,
        *,
        put: Times = 0.0,
        get: Times = 0.0,
        list_page: Times = 0.0,
        put_many: PutManyCost = Serial(),
        page_size: int | None = None,
        seed: int = 0,
        identity: str | None = None,
    ) -> None:
        if identity is not None and not is_identity(identity):
            raise ValueError(f"an identity is 32 lowercase hex digits, not {identity!r:.80}")
        self._identity = identity
        self._mark: str | None = None
        source = random.Random(seed)  # noqa: S311  (a simulation)
        self._put_time = _drawing(put, "put", source)
        self._get_time = _drawing(get, "get", source)
        self._list_time = _drawing(list_page, "list_page", source)
        self._put_many_cost = put_many
        self._page_size = page_size
        self._blobs: dict[Ref, bytes] = {}
        self._faults: list[_Fault] = []
        self._outages: list[_Outage] = []
        self.calls: list[SimulatedCall] = []
        """All calls so far, in the order in which they began."""

    def __repr__(self) -> str:
        return f"<SimulatedStore of {len(self._blobs)} blobs>"

    @property
    def blobs(self) -> Mapping[Ref, bytes]:
        """The blobs that are stored now."""
        return dict(self._blobs)

    # Faults

    def fail(
        self, error: BaseException, *operations: str, after: int = 0, count: float = math.inf, stored: bool = False
    ) -> None:
        """Let calls fail with `error`, at the end of their service time.

        Args:
          error: the exception that they raise.
          operations: the names of the methods. All methods if none is named.
          after: the number of calls that succeed first.
          count: the number of calls that fail.
          stored: whether a failing put stores its blobs all the same, like one whose answer was lost.

        """
        self._faults.append(_Fault(frozenset(operations), after, count, error, stored))

    def hang(self, *operations: str, after: int = 0, count: float = math.inf) -> None:
        """Let calls hang until they are cancelled. The arguments are those of `fail`."""
        self._faults.append(_Fault(frozenset(operations), after, count, None, stored=False))

    def recover(self) -> None:
        """Let no call that begins from now on fail or hang, except in outages."""
        self._faults.clear()

    def outage(self, start: float, end: float, error: BaseException | None = None) -> None:
        """Let the store be away from `start` to `end`, in seconds on Trio's clock.

        With an `error`, calls raise it at once, or when the outage begins. Without one, they wait until it ends.
        """
        self._outages.append(_Outage(start, end, error))

    def corrupt(self, ref: Ref, data: bytes | None = None) -> None:
        """Let the store have `data` under `ref`. With None, flip the first bit of the blob that it has."""
        if data is None:
            blob = self._blobs[ref]
            data = bytes([blob[0] ^ 0x80]) + blob[1:] if blob else b"\x80"
        self._blobs[ref] = data

    # The methods of a store

    async def identity(self) -> str | None:
        """Return the identity that it was given, in no time: see `Store.identity`."""
        await trio.lowlevel.checkpoint()
        return self._identity

    async def session_mark(self) -> str | None:
        """Return the mark of the last session, in no time: see `Store.session_mark`."""
        await trio.lowlevel.checkpoint()
        return self._mark

    async def set_session_mark(self, mark: str) -> None:
        """Keep the mark of a session, in no time, if it has an identity: see `Store.set_session_mark`."""
        check_mark(mark)
        await trio.lowlevel.checkpoint()
        if self._identity is not None:
            self._mark = mark

    async def renew_identity(self) -> str | None:
        """Draw a new identity, in no time, if it has one: see `DeletableStore.renew_identity`."""
        await trio.lowlevel.checkpoint()
        if self._identity is not None:
            self._identity, self._mark = new_identity(), None
        return self._identity

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Store a blob after a service time: see `Store.put`."""
        blob = await to_blob(blob)
        (result,) = await self._put("put", [blob], Serial())
        return result

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, each when the cost says: see `Store.put_many`."""
        return await self._put("put_many", await to_blobs(blobs), self._put_many_cost)

    async def get(self, ref: Ref) -> bytes:
        """Return a blob after a service time: see `Store.get`."""
        check_ref(ref)
        await self._serve("get", (ref,), self._get_time())
        if ref not in self._blobs:
            raise BlobNotFoundError(ref)
        return self._blobs[ref]

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs after a service time: see `Store.list_page`."""
        check_page_request(after, limit)
        await self._serve("list_page", (after,), self._list_time())
        return sorted(ref for ref in self._blobs if ref > after)[: min(limit, self._page_size or limit)]

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        await self._serve("delete", (check_ref(ref),), 0.0)
        return self._blobs.pop(ref, None) is not None

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically, whatever is there: see `DeletableStore.replace`."""
        blob = await to_blob(blob)
        await self._serve("replace", (blob.ref,), 0.0)
        self._blobs[blob.ref] = blob.data

    # How

    async def _put(self, operation: str, blobs: list[Blob], cost: PutManyCost) -> list[PutResult]:
        completions = cost.completions(len(blobs), self._put_time)
        added: dict[int, bool] = {}

        def store(place: int) -> None:
            added[place] = blobs[place].ref not in self._blobs
            self._blobs.setdefault(blobs[place].ref, blobs[place].data)

        await self._serve(
            operation,
            tuple(blob.ref for blob in blobs),
            max(completions, default=0.0),
            sorted(zip(completions, range(len(blobs)), strict=True)),
            store,
        )
        return [PutResult(blob.ref, added[place]) for place, blob in enumerate(blobs)]

    async def _serve(  # noqa: ASYNC910  (`_pass` has one, and is always called)
        self,
        operation: str,
        refs: tuple[Ref, ...],
        seconds: float,
        effects: Sequence[tuple[float, int]] = (),
        apply: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Let a call take `seconds`, and apply its effects when they are due."""
        call = SimulatedCall(operation, refs, trio.current_time())
        self.calls.append(call)
        try:
            fault = self._next_fault(operation)
            if fault is not None:
                if fault.error is None:
                    await trio.sleep_forever()
                effects = [(seconds, place) for _, place in effects] if fault.stored else ()
            served = 0.0
            for due, place in effects:
                await self._pass(due - served)
                served = due
                apply(place)
            if not effects or served < seconds:
                await self._pass(seconds - served)
            if fault is not None and fault.error is not None:
                raise fault.error  # noqa: TRY301  (so that it is recorded)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.ended = trio.current_time()

    def _next_fault(self, operation: str) -> _Fault | None:
        for fault in self._faults:
            if fault.operations and operation not in fault.operations:
                continue
            if fault.after > 0:
                fault.after -= 1
            elif fault.count > 0:
                fault.count -= 1
                return fault
        return None

    async def _pass(self, seconds: float) -> None:
        """Let `seconds` of service pass, and the outages that come in their way."""
        now = trio.current_time()
        for outage in sorted(self._outages, key=lambda outage: outage.start):
            if outage.end <= now or outage.start > now + seconds:
                continue
            if outage.error is not None:
                await trio.sleep(max(0.0, outage.start - now))
                raise outage.error
            seconds += outage.end - max(now, outage.start)
        await trio.sleep(seconds)


def _drawing(times: Times, operation: str, source: random.Random) -> Callable[[], float]:
    """Return a function that gives one service time after another."""
    if isinstance(times, (int, float)):
        return lambda: times
    if not isinstance(times, Iterable):
        return partial(times.sample, source)
    remaining = iter(times)

    def draw() -> float:
        for seconds in remaining:
            return seconds
        raise RuntimeError(f"no service time is left for a {operation}")

    return draw
