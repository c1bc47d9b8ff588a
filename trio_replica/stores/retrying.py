"""A store that repeats what fails in another one."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast, final

import outcome
import trio

from .._blob import all_hashed, hashed
from .._calls.attempt import attempt
from .._checks import check_seconds, check_size
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError, CorruptBlobError, PoisonedError, StoreError, describe_failure
from .._redact import redacted
from .._store import Store, check_refs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tenacity import RetryCallState

    from .._blob import Blob, BytesLike, Ref
    from .._calls.attempt import Ended
    from .._deletable import Integrity
    from .._store import PutResult

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")

ATTEMPTS: Final = 20
"""Times that an operation is tried. With the delays below they take longer than `SECONDS`, so that the time decides,
unless each attempt takes long itself."""

SECONDS: Final = 60.0
"""Seconds after the first failure: longer than a server takes to start again."""

FIRST_DELAY: Final = 0.1
"""Seconds before the first repetition: a connection that was lost is there again at once."""

LONGEST_DELAY: Final = 10.0
"""Seconds between two attempts in the end: a server that is up again is noticed that soon."""

_DOUBLINGS: Final = 64  # more would be more than a float holds, and than anybody waits

logger: Final = logging.getLogger("trio_replica")

_NEVER: Final = (
    BlobNotFoundError,  # an answer, and no failure
    CorruptBlobError,  # the blob is not another one the next time
    PoisonedError,  # a replica that is poisoned stays so
    trio.ClosedResourceError,  # as does a store that is closed
    TypeError,  # bad input
    ValueError,
    RuntimeError,  # a store that is used in the wrong place
    AssertionError,
)

_NEVER_OF_DATABASES: Final = frozenset({"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"})
"""Names of classes that each module for a database has (PEP 249), and whose errors are in what was asked for."""


@dataclass(frozen=True, slots=True)
class RetryingStatistics:
    """The counts of a `RetryingStore` since it was made."""

    calls: int
    """Operations that were called; for a listing, pages."""
    retries: int
    """Repetitions of these."""
    gave_up: int
    """Calls that were repeated as often as was allowed, and failed."""
    waiting: int
    """Calls that wait now for their next attempt."""
    last_error: str
    """What the last failure said that was worth a repetition, without secrets; empty if there was none."""


class RetryingStore(Store):
    """A store that repeats, after a pause, what fails in `store`.

    In front of an async store it keeps a fault that passes from poisoning the replica: puts notice only if the queue
    fills meanwhile. In front of a sync store it makes a put or get wait in place of failing. Of a `DeletableStore` it
    is a `RetryingDeletableStore`. It has nothing to open or close.

    The pauses double from `first_delay` to `longest_delay`; of each, a random part between half and all is taken, so
    that not all callers come back at once. The last attempt is made when `seconds` have passed, exactly, unless
    `attempts` have been made before; what it raises is raised as it is, with a note. So an outage that is shorter than
    `seconds` is survived if the store fails at once meanwhile, and the attempts last. An attempt is never cut short.

    Not repeated are `BlobNotFoundError`, `CorruptBlobError`, `trio.ClosedResourceError`, `PoisonedError`, errors of the
    program (`TypeError`, `ValueError`, `RuntimeError`, `AssertionError`, and a database's ``DataError``,
    ``IntegrityError``, ``NotSupportedError``, ``ProgrammingError``), and what is no `Exception`. Each repetition is
    logged at WARNING under ``trio_replica``. Being cancelled ends a pause at once.

    A write that failed may have been done, so that its repetition finds it done: then a put's ``added`` is False, and
    so is what a `delete` returns, although it was this call that did it. `put_many` and `get_many` are repeated whole.
    `DeletableStore.repair_integrity` is not repeated: a store that refuses to repair itself would only refuse again.

    It takes the package tenacity, which the extras ``cloud``, ``postgres`` and ``retry`` install.

    Args:
      store: the store. It is not closed.
      attempts: how often an operation is tried, the first time included.
      seconds: how long after its first failure an operation is tried again; `math.inf` for as long as the attempts
        last.
      first_delay: the pause before the first repetition, in seconds.
      longest_delay: the longest pause, in seconds.
      seed: what the pauses are drawn with; None takes one from the system.

    Raises:
      TypeError: if `store` is no `Store`, `attempts` no `int`, or a time no number.
      ValueError: if `attempts` is less than 1, or a time negative or NaN.
      ModuleNotFoundError: if tenacity is not installed.

    """

    def __new__(cls, store: Store, **_: Any) -> Self:
        """Return one that can delete if `store` can."""
        kind = RetryingDeletableStore if cls is RetryingStore and isinstance(store, DeletableStore) else cls
        return super().__new__(cast("type[Self]", kind))

    def __init__(
        self,
        store: Store,
        *,
        attempts: int = ATTEMPTS,
        seconds: float = SECONDS,
        first_delay: float = FIRST_DELAY,
        longest_delay: float = LONGEST_DELAY,
        seed: int | None = None,
    ) -> None:
        if not isinstance(store, Store):
            raise TypeError(f"a RetryingStore is made of a Store, not of {type(store).__name__}")
        check_size("attempts", attempts)
        check_seconds("seconds", seconds)
        check_seconds("first_delay", first_delay)
        check_seconds("longest_delay", longest_delay)
        _check_tenacity()
        self._store = store
        self._attempts = attempts
        self._seconds = seconds
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._random = random.Random(seed)  # noqa: S311  (for pauses)
        self._calls = 0
        self._retries = 0
        self._gave_up = 0
        self._waiting = 0
        self._last_error = ""

    def __repr__(self) -> str:
        counts = f"{self._calls} calls, {self._retries} retries, {self._gave_up} given up"
        return f"<{type(self).__name__} of {self._shown_store()}, {counts}>"

    def statistics(self) -> RetryingStatistics:
        """Return the counts as of now."""
        return RetryingStatistics(
            calls=self._calls,
            retries=self._retries,
            gave_up=self._gave_up,
            waiting=self._waiting,
            last_error=self._last_error,
        )

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Store a blob: see `Store.put`."""
        return await self._call("put", self._store.put, await hashed(blob))

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, all of them again if that fails: see `Store.put_many`."""
        return await self._call("put_many", self._store.put_many, await all_hashed(blobs))

    async def get(self, ref: Ref) -> bytes:
        """Return a blob: see `Store.get`."""
        return await self._call("get", self._store.get, ref)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return those of many blobs that are there: see `Store.get_many`."""
        return await self._call("get_many", self._store.get_many, check_refs(refs))

    async def contains(self, ref: Ref) -> bool:
        """Return whether a blob is there: see `Store.contains`."""
        return await self._call("contains", self._store.contains, ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs: see `Store.list_page`."""
        return await self._call("list_page", partial(self._store.list_page, after), limit)

    async def _call(
        self, operation: str, call: Callable[[ArgumentT], Awaitable[ResultT]], argument: ArgumentT
    ) -> ResultT:
        """Return what ``await call(argument)`` returns, in the end."""
        self._calls += 1
        ended = await attempt(call, argument)  # tenacity is asked only when there is something to repeat: it takes long
        if _may_pass(ended):
            ended = await _Repetitions(self, operation, partial(attempt, call, argument), ended).run()
        try:
            return ended.unwrap()
        finally:
            del ended  # its error's traceback refers to this frame

    def _shown_store(self) -> str:
        return redacted(repr(self._store))


@final
class RetryingDeletableStore(RetryingStore, DeletableStore):
    """A `RetryingStore` of a `DeletableStore`."""

    def __init__(self, store: DeletableStore, **options: Any) -> None:
        super().__init__(store, **options)
        if not isinstance(store, DeletableStore):
            raise TypeError(f"a RetryingDeletableStore is made of a DeletableStore, not of {type(store).__name__}")
        self._deletable = store

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`."""
        return await self._call("delete", self._deletable.delete, ref)

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever is there: see `DeletableStore.replace`."""
        await self._call("replace", self._deletable.replace, await hashed(blob))

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep a copy of what is under a ref: see `DeletableStore.set_aside`."""
        return await self._call("set_aside", self._deletable.set_aside, ref)

    async def check_integrity(self) -> Integrity:
        """Look for what is wrong with the store as a whole: see `DeletableStore.check_integrity`."""
        return await self._call("check_integrity", lambda _: self._deletable.check_integrity(), None)

    async def repair_integrity(self) -> None:
        """Make again what the store derives from its blobs: see `DeletableStore.repair_integrity`. Never repeated."""
        self._calls += 1
        await self._deletable.repair_integrity()


@final
class _Repetitions:
    """One call that has failed, and what follows.

    What an attempt raises is handed through tenacity as a value, for what that catches it keeps in a cycle of
    references, with the frames of the attempts and so with the blobs. The budget is measured here, on Trio's clock.
    """

    def __init__(
        self,
        store: RetryingStore,
        operation: str,
        attempt_again: Callable[[], Awaitable[Ended[ResultT]]],
        failed: Ended[ResultT],
    ) -> None:
        self._store = store
        self._operation = operation
        self._attempt_again = attempt_again
        self._first: Ended[Any] | None = failed
        self._failed_at = trio.current_time()
        self._deadline = self._failed_at + store._seconds
        self._wake_at = 0.0

    async def run(self) -> Ended[Any]:
        """Return how the last attempt ended."""
        from tenacity import AsyncRetrying, retry_if_result  # noqa: PLC0415  (see _check_tenacity)

        retrying = AsyncRetrying(
            sleep=self._sleep,
            stop=self._is_last,
            wait=self._delay,
            retry=retry_if_result(_may_pass),
            before_sleep=self._announce,
            retry_error_callback=self._give_up,
        )
        ended: Ended[Any] = await retrying(self._attempt)
        return ended

    async def _attempt(self) -> Ended[Any]:
        if self._first is None:
            return await self._attempt_again()
        first, self._first = self._first, None
        return first  # noqa: ASYNC910  (this attempt has been made)

    def _delay(self, state: RetryCallState) -> float:
        longest = min(
            self._store._longest_delay, self._store._first_delay * 2.0 ** min(state.attempt_number - 1, _DOUBLINGS)
        )
        now = trio.current_time()
        self._wake_at = min(now + longest * self._store._random.uniform(0.5, 1.0), self._deadline)
        return self._wake_at - now

    def _is_last(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self._store._attempts or trio.current_time() >= self._deadline

    def _announce(self, state: RetryCallState) -> None:
        self._store._last_error = describe_failure(_failure(state))
        logger.warning(
            "%s of %s failed, attempt %d of %d: %s; again in %.3g seconds",
            self._operation,
            self._store._shown_store(),
            state.attempt_number,
            self._store._attempts,
            self._store._last_error,
            state.upcoming_sleep,
        )

    async def _sleep(self, _: float) -> None:
        self._store._waiting += 1
        try:
            await trio.sleep_until(self._wake_at)
        finally:
            self._store._waiting -= 1
        self._store._retries += 1

    def _give_up(self, state: RetryCallState) -> Ended[Any]:
        failure = _failure(state)
        self._store._gave_up += 1
        self._store._last_error = describe_failure(failure)
        seconds = trio.current_time() - self._failed_at
        failure.add_note(f"given up after {state.attempt_number} attempts in {seconds:.3g} seconds: see RetryingStore")
        return outcome.Error(failure)


def _may_pass(ended: Ended[Any]) -> bool:
    return isinstance(ended, outcome.Error) and _is_passing(ended.error)


def _is_passing(error: BaseException) -> bool:
    """Whether a failure may not come again."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_passing, error.exceptions))
    if isinstance(error, StoreError):  # of a replica within: any of its stores may get well
        return any(map(_is_passing, error.failures.values()))
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, Exception) and not isinstance(error, _NEVER) and not kinds & _NEVER_OF_DATABASES


def _failure(state: RetryCallState) -> BaseException:
    assert state.outcome is not None
    ended = state.outcome.result()
    assert isinstance(ended, outcome.Error)
    return ended.error


def _check_tenacity() -> None:
    try:
        import tenacity  # noqa: F401, PLC0415  (an extra: without it the stores work that don't retry)
    except ModuleNotFoundError as error:
        if error.name != "tenacity":
            raise
        raise ModuleNotFoundError(
            "to retry takes more: pip install 'trio-replica[retry]'; or leave it out with retry=false", name="tenacity"
        ) from None
