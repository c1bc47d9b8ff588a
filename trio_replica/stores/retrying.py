"""`RetryingStore`, which retries failed calls of another store after pauses."""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, final

import outcome
import trio

from .._blob import hashed
from .._calls.attempt import attempt
from .._calls.start import Unfinished, ended_call, never, start_in_task
from .._checks import check_seconds, check_size
from .._deletable import DeletableStore
from .._errors import (
    describe_failure,
    exit_request_in,
    failure_of_started,
)
from .._log import log
from .._redact import redacted
from .._store import Store, startable
from ._retrying.passing import may_pass
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .._blob import Blob, BytesLike, Ref
    from .._calls.attempt import Ended
    from .._calls.start import Cancel, Done
    from .._deletable import Integrity

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")

ATTEMPTS: Final = 20
"""The most attempts of an operation. With the delays below they take longer than `SECONDS`, so the time is the limit,
unless each attempt itself takes long."""

SECONDS: Final = 60.0
"""Seconds after the first failure. This is longer than a server takes to start again."""

FIRST_DELAY: Final = 0.1
"""Seconds before the first repetition. It is short because a lost connection can usually be made again at once."""

LONGEST_DELAY: Final = 10.0
"""The longest pause, in seconds. A server that is up again is noticed within this time."""

_DOUBLINGS: Final = 64  # more would overflow a float, and nobody waits that long


@dataclass(frozen=True, slots=True)
class RetryingStatistics:
    """The counts of a `RetryingStore` since it was made."""

    calls: int
    """Operations that were called. Each page of a listing counts as one."""
    retries: int
    """Repetitions of operations."""
    gave_up: int
    """Calls that failed after all allowed repetitions."""
    waiting: int
    """Calls that are waiting for their next attempt."""
    last_error: str
    """The last failure that led to a repetition, without secrets. Empty if there was none."""


class RetryingStore(StartedStore):
    """A store that retries the failed calls of another store after pauses.

    In front of an async store it keeps a temporary fault from poisoning the replica. Puts notice the fault only if the
    queue fills up. In front of a sync store it makes a put or get wait instead of failing. If `store` is a
    `DeletableStore`, it is a `RetryingDeletableStore`. It has nothing to open or close.

    The pauses double from `first_delay` to `longest_delay`. A random part of each, between half and all of it, is
    used, so that not all callers come back at once. The last attempt is made exactly when `seconds` have passed, unless
    `attempts` have been made before. Its error is raised as it is, with a note. So the store survives an outage shorter
    than `seconds`, if calls fail at once during the outage and the attempts suffice. An attempt is never cut short.

    Some errors are not retried. These are `BlobNotFoundError`, `BlobTooLargeError`, `CorruptBlobError`,
    `StoreIdentityError`, `StoreNotFoundError`, `StoreReadOnlyError`, `trio.ClosedResourceError`, `PoisonedError`, and
    everything that is not an `Exception`. The others are errors of the program: `TypeError`, `ValueError`,
    `RuntimeError`, `AssertionError`, and a database's ``DataError``, ``IntegrityError``, ``NotSupportedError`` and
    ``ProgrammingError``. Each repetition is logged at WARNING under ``trio_replica``. Being cancelled ends a pause at
    once.

    A failed write may have succeeded in the store, and then its repetition finds it done. So ``added`` of a put, or the
    result of a `delete`, may be False although it was this call that did it. `put_many` and `get_many` are repeated
    whole. `DeletableStore.repair_integrity` is not retried, because a store that refuses to repair itself would refuse
    again.

    The first attempt of a call is started (see `StartableStore`), and takes no task if `store` is startable, too. The
    pauses and the other attempts are awaited in a task. All of them run in the caller's context.

    Args:
      store: the store. It is not closed.
      attempts: how often an operation is tried, including the first time.
      seconds: how long after its first failure an operation is tried again. With `math.inf` only the attempts are
        limited.
      first_delay: the pause before the first repetition, in seconds.
      longest_delay: the longest pause, in seconds.
      seed: the seed of the random pauses. None takes one from the system.

    Raises:
      TypeError: if `store` is not a `Store`, `attempts` is not an `int`, or a time is not a number.
      ValueError: if `attempts` is less than 1, or a time is negative or NaN.

    """

    def __new__(cls, store: Store, **_: Any) -> Self:
        """Return a `RetryingDeletableStore` if `store` can delete."""
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
        self._inner = store
        self._store = startable(store)
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

    @property
    def is_durable(self) -> bool:
        """Whether the store is durable: see `Store.is_durable`."""
        return self._inner.is_durable

    @property
    def is_read_only(self) -> bool:
        """Whether the store was opened with ``read_only=True``: see `Store.is_read_only`."""
        return self._inner.is_read_only

    async def identity(self) -> str | None:
        """Return the identity of the store: see `Store.identity`."""
        return await self._call("identity", self._inner.identity)

    async def session_mark(self) -> str | None:
        """Return the mark of the last session: see `Store.session_mark`."""
        return await self._call("session_mark", self._inner.session_mark)

    async def set_session_mark(self, mark: str) -> None:
        """Keep the mark of a session: see `Store.set_session_mark`."""
        await self._call("set_session_mark", partial(self._inner.set_session_mark, mark))

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`."""
        return self._start("put", self._store.start_put, blob, done)

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs. A retry repeats all of them: see `StartableStore`."""
        return self._start("put_many", self._store.start_put_many, blobs, done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`."""
        return self._start("get", self._store.start_get, ref, done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start a `get_many`: see `StartableStore`."""
        return self._start("get_many", self._store.start_get_many, refs, done)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""
        return self._start("contains", self._store.start_contains, ref, done)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`."""
        return self._start("list_page", partial(self._store.start_list_page, after), limit, done)

    def _start(
        self, operation: str, start: Callable[[ArgumentT, Done], Cancel], argument: ArgumentT, done: Done
    ) -> Cancel:
        """Start a call. ``start(argument, …)`` starts each of its attempts.

        The first attempt is under way when this returns, and the `Cancel` of the store withdraws it. If the call goes
        on after its first attempt, it ends as `Unfinished`, and the task that awaits the rest can cancel that.
        """
        self._calls += 1
        first = _FirstAttempt(self, operation, start, argument, done)
        try:
            return start(argument, first.ended)
        except BaseException as raised:  # noqa: ASYNC103  (this is the end of the attempt)
            first.ended(outcome.Error(raised))
        return never

    async def _call(self, operation: str, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Return the result of ``await call()``, repeating the call as needed."""
        result: ResultT = await ended_call(partial(self._start, operation, start_in_task, call))
        return result

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
        return await self._call("delete", partial(self._deletable.delete, ref))

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever is there: see `DeletableStore.replace`."""
        await self._call("replace", partial(self._deletable.replace, await hashed(blob)))

    async def renew_identity(self) -> str | None:
        """Give the store a new identity: see `DeletableStore.renew_identity`."""
        return await self._call("renew_identity", self._deletable.renew_identity)

    async def get_stored(self, ref: Ref) -> bytes:
        """Return a blob as it is on the medium: see `DeletableStore.get_stored`."""
        return await self._call("get_stored", partial(self._deletable.get_stored, ref))

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep a copy of the bytes under a ref: see `DeletableStore.set_aside`."""
        return await self._call("set_aside", partial(self._deletable.set_aside, ref))

    async def check_integrity(self) -> Integrity:
        """Look for problems of the store as a whole: see `DeletableStore.check_integrity`."""
        return await self._call("check_integrity", self._deletable.check_integrity)

    async def repair_integrity(self) -> None:
        """Rebuild what the store derives from its blobs: see `DeletableStore.repair_integrity`. It is not retried."""
        self._calls += 1
        await self._deletable.repair_integrity()


@final
class _FirstAttempt(Generic[ArgumentT]):
    """The first attempt of one call. Nearly all calls end with it, so only this object is made for them."""

    __slots__ = ("_argument", "_done", "_operation", "_start", "_store")

    def __init__(
        self,
        store: RetryingStore,
        operation: str,
        start: Callable[[ArgumentT, Done], Cancel],
        argument: ArgumentT,
        done: Done,
    ) -> None:
        self._store = store
        self._operation = operation
        self._start = start
        self._argument = argument
        self._done = done

    def ended(self, how: Ended[Any] | Unfinished) -> None:
        """End the call, or have it go on."""
        if not isinstance(how, outcome.Value):
            how = _Repetitions(self._store, self._operation, partial(self._start, self._argument)).after_first(how)
        self._done(how)


@final
class _Repetitions:
    """The pauses and further attempts of one call. Its first attempt has failed or needs a task.

    This object refers neither to a failure nor to the waiter of the call. The traceback of a failure leads to frames of
    this class. So otherwise each failure would be in a cycle of references, which keeps its blobs until a collection.
    """

    def __init__(self, store: RetryingStore, operation: str, start: Callable[[Done], Cancel]) -> None:
        self._store = store
        self._operation = operation
        self._start = start
        self._attempts = 1  # made so far
        self._failed_at = self._deadline = self._next_at = math.inf
        self._error = ""

    def after_first(self, ended: outcome.Error | Unfinished) -> outcome.Error | Unfinished:
        """Return how the call ends or goes on after its first attempt. It never raises, because a `Done` must not."""
        if isinstance(ended, Unfinished):
            return Unfinished(partial(self._finish, ended.call))
        if (request := exit_request_in(ended.error)) is not None:
            return outcome.Error(request)
        failure = failure_of_started(ended.error)
        return Unfinished(self._finish) if self._goes_on(failure) else outcome.Error(failure)

    def _goes_on(self, failure: BaseException) -> bool:
        """Note a failed attempt, and return whether there will be another one, at `_next_at`."""
        if not may_pass(failure):
            return False
        store, now = self._store, trio.current_time()
        store._last_error = self._error = describe_failure(failure)
        if self._attempts == 1:
            self._failed_at = now
            self._deadline = now + store._seconds
        if self._attempts >= store._attempts or now >= self._deadline:
            store._gave_up += 1
            seconds = now - self._failed_at
            failure.add_note(f"given up after {self._attempts} attempts in {seconds:.3g} seconds: see RetryingStore")
            return False
        longest = min(store._longest_delay, store._first_delay * 2.0 ** min(self._attempts - 1, _DOUBLINGS))
        self._next_at = min(now + longest * store._random.uniform(0.5, 1.0), self._deadline)
        return True

    async def _finish(self, rest: Callable[[], Awaitable[Any]] | None = None) -> Any:
        """Await the rest of the first attempt, if it has one, and make other attempts until the call ends."""
        while True:
            if rest is None:
                await self._pause()
                ended = await attempt(ended_call, self._start)
            else:
                ended = await attempt(_awaited, rest)
                rest = None
            try:
                if isinstance(ended, outcome.Value) or not self._goes_on(ended.error):
                    return ended.unwrap()
            finally:
                del ended  # its error's traceback refers to this frame

    async def _pause(self) -> None:
        """Wait until the next attempt is due, and count it."""
        store = self._store
        log(
            logging.WARNING,
            f"{self._operation} of {store._shown_store()} failed, attempt {self._attempts} of {store._attempts}: "
            f"{self._error}; again in {self._next_at - trio.current_time():.3g} seconds",
        )
        store._waiting += 1
        try:
            await trio.sleep_until(self._next_at)
        finally:
            store._waiting -= 1
        store._retries += 1
        self._attempts += 1


async def _awaited(call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    return await call()
