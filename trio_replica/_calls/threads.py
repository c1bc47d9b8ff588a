"""Dedicated threads for a store that blocks, which serve its calls in batches."""

from __future__ import annotations

import copy
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, final

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from .._errors import ReplicaError
from .start import ended_call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .start import Cancel, Done

RequestT = TypeVar("RequestT")

BATCH_CALLS: Final = 256
"""The most calls in one batch. With 256 callers, one transaction for each batch is 6 times as fast as one for each
put."""

BATCH_BYTES: Final = 64 * 1024 * 1024
"""The bytes at which a batch ends. A larger call is a batch of its own. Reads count as 0 bytes because their size is
not known in advance."""

ALONE: Final = BATCH_BYTES + 1
"""The size that makes each call a batch of its own, whatever the sizes of the calls around it. Calls to a server need
that, because a call in a batch waits for the answers to all others."""


@final
class Call(Generic[RequestT]):
    """One call to the store. The handler of its batch sets `outcome`."""

    __slots__ = ("_abandon_on_cancel", "_done", "_threads", "outcome", "request", "size")

    def __init__(
        self, request: RequestT, size: int, threads: StoreThreads[RequestT], done: Done, abandon_on_cancel: bool
    ) -> None:
        self.request: RequestT = request
        self.size: int = size
        self.outcome: outcome.Value[Any] | outcome.Error | None = None
        self._threads = threads
        self._done: Done | None = done  # None once nobody waits for the outcome
        self._abandon_on_cancel = abandon_on_cancel

    def fail(self, failure: BaseException) -> None:
        """Set an outcome that raises an exception like `failure`, which is an object of this call's own."""
        self.outcome = outcome.Error(_own(failure))

    def _cancel(self) -> bool:
        if self._threads._withdraw(self) or (self._abandon_on_cancel and hasattr(self, "_done")):
            self._done = None
            return True
        return False


Handler: TypeAlias = Callable[[Sequence[Call[RequestT]]], None]


@asynccontextmanager
@enable_ki_protection
async def open_store_threads(
    name: str, serve: Callable[[], AbstractContextManager[Handler[RequestT]]], *, threads: int = 1
) -> AsyncGenerator[StoreThreads[RequestT], None]:
    """Run `threads` threads for the block.

    Each enters ``serve()``, and hands its batches to the handler that this yields.

    The handler gives every call of the batch its outcome. When it raises, each call without an outcome gets an
    exception like that one, and the thread goes on.

    When the block ends, calls that still wait raise `trio.ClosedResourceError`. The block waits for those that run,
    even if it is cancelled. No thread outlives it. The threads do not survive a fork.

    Raises:
      ValueError: if `threads` is less than 1.
      Exception: if ``serve()`` raises it when a thread enters it, or a thread can't be started (`RuntimeError`). The
        other threads have ended by then. Also if ``serve()`` raises it when a thread leaves it, and the block ends
        normally.

    """
    if threads < 1:
        raise ValueError(f"threads is at least 1, not {threads}")
    store_threads = StoreThreads(name, serve, threads)
    try:
        store_threads._start()
        await store_threads._wait_started()
        yield store_threads
    finally:
        store_threads._refuse()
        await store_threads._wait_ended()  # noqa: ASYNC102  (not cancelled, because a write under way must end)
    store_threads._check()


@final
class StoreThreads(Generic[RequestT]):
    """Threads that serve one blocking store: see `open_store_threads`, which makes them.

    Calls wait in one line. A thread that is free takes its share of the waiting calls, at most 256 calls or 64 MiB, as
    one batch, and wakes Trio once for the whole batch. One lock decides between withdrawing a call and taking it.
    """

    def __init__(self, name: str, serve: Callable[[], AbstractContextManager[Handler[RequestT]]], threads: int) -> None:
        self._name = name
        self._serve = serve
        self._threads = [threading.Thread(target=self._run, name=f"{name} {i}", daemon=True) for i in range(threads)]
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Guarded by _lock:
        self._waiting: OrderedDict[Call[RequestT], None] = OrderedDict()
        self._idle = 0  # threads that wait for _changed and have not been notified
        self._taken = 0  # calls that the threads run
        self._refusing = False
        # Only Trio's thread uses the rest.
        self._starting = threads
        self._running = 0
        self._failure: BaseException | None = None
        self._started = trio.Event()
        self._closer: trio.lowlevel.Task | None = None

    def __repr__(self) -> str:
        state = "closed" if self._refusing else "open"
        return f"<StoreThreads {self._name!r} {state}, {self._running} threads, {len(self._waiting)} calls waiting>"

    @enable_ki_protection
    async def run(self, request: RequestT, *, size: int = 0, abandon_on_cancel: bool = False) -> Any:
        """Have the threads serve `request`, and return the value or raise the error that the handler gives its call.

        Being cancelled while the call waits withdraws it. Once the call runs, it can't be interrupted. Then the
        cancellation has to wait, and the real outcome is delivered, unless `abandon_on_cancel` says that it is not
        needed.

        Args:
          request: the value that the handler finds in `Call.request`.
          size: the bytes that the call counts for in a batch.
          abandon_on_cancel: whether to drop the outcome of a running call that is cancelled.

        Raises:
          trio.ClosedResourceError: if the block has ended, or ends while the call waits.
          RuntimeError: in another `trio.run` than that of the block.

        """
        return await ended_call(partial(self.start, request, size=size, abandon_on_cancel=abandon_on_cancel))

    @enable_ki_protection
    def start(self, request: RequestT, done: Done, *, size: int = 0, abandon_on_cancel: bool = False) -> Cancel:
        """Do the same as `run` without a task that waits. When the call has ended, ``done(outcome)`` is called.

        `done` is called later, in Trio's thread, and must not raise. Returns a function that cancels the call. That
        function returns True if `done` will not be called, and False for a call that runs and is not abandoned.

        Raises:
          trio.ClosedResourceError: if the block has ended.
          RuntimeError: in another `trio.run` than that of the block.

        """
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(f"{self._name} belongs to the trio.run that opened it")
        call = Call(request, size, self, done, abandon_on_cancel)
        with self._lock:
            if self._refusing:
                raise trio.ClosedResourceError(f"{self._name} is closed")
            self._waiting[call] = None
            if self._idle:
                self._idle -= 1
                self._changed.notify()
        return call._cancel  # a closure would be five objects

    # In the Trio thread

    def _withdraw(self, call: Call[RequestT]) -> bool:
        with self._lock:
            if is_waiting := call in self._waiting:
                del self._waiting[call]
        return is_waiting

    def _start(self) -> None:
        for thread in self._threads:
            thread.start()
            self._running += 1

    async def _wait_started(self) -> None:
        await self._started.wait()
        self._check()

    def _check(self) -> None:
        """Raise what ``serve()`` raised in a thread."""
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None

    def _refuse(self) -> None:
        with self._lock:
            self._refusing = True
            withdrawn = tuple(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for call in withdrawn:
            call.outcome = outcome.Error(trio.ClosedResourceError(f"{self._name} is closed"))
        self._deliver(withdrawn)

    async def _wait_ended(self) -> None:  # noqa: ASYNC910  (none may have been started)
        if self._running:
            self._closer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.FAILED)
        for thread in self._threads:
            if thread.ident is not None:  # the thread was started
                thread.join()  # this is short, because the thread has nothing left to do

    def _deliver(self, calls: Sequence[Call[RequestT]]) -> None:
        for call in calls:
            done, ended = call._done, call.outcome
            # An idle thread still refers to its last batch, and so does the traceback of an exception that one of its
            # calls raised. Without `_done` the call has ended, and can't be cancelled any more.
            del call._done, call.outcome, call.request
            if done is not None:
                assert ended is not None
                done(ended)

    def _count_start(self) -> None:
        self._starting -= 1
        if self._starting == 0:
            self._started.set()

    def _record(self, failure: BaseException) -> None:
        self._failure = failure
        self._started.set()

    def _count_end(self) -> None:
        self._running -= 1
        if self._running == 0 and self._closer is not None:
            trio.lowlevel.reschedule(self._closer)

    # In the store's threads

    def _run(self) -> None:
        try:
            with self._serve() as handle:
                self._tell_trio(self._count_start)
                while batch := self._take():
                    self._handle(handle, batch)
                    with self._lock:
                        self._taken -= len(batch)
        except BaseException as failure:  # noqa: ASYNC103  (of entering or leaving `serve`; Trio is in another thread)
            self._tell_trio(self._record, failure)
        finally:
            self._tell_trio(self._count_end)

    def _take(self) -> list[Call[RequestT]]:
        """Return the next batch. An empty one means that there are no more."""
        batch: list[Call[RequestT]] = []
        size = 0
        with self._lock:
            while not self._waiting and not self._refusing:
                self._idle += 1
                self._changed.wait()
            # This is a share of all calls, including those that other threads run. Otherwise a free thread would take
            # calls one by one.
            share = -(-(len(self._waiting) + self._taken) // len(self._threads))
            share = min(share, len(self._waiting), BATCH_CALLS)
            while len(batch) < share:
                call, _ = self._waiting.popitem(last=False)
                size += call.size
                if batch and size > BATCH_BYTES:
                    self._waiting[call] = None
                    self._waiting.move_to_end(call, last=False)
                    break
                batch.append(call)
            self._taken += len(batch)
        return batch

    def _handle(self, handle: Handler[RequestT], batch: list[Call[RequestT]]) -> None:
        try:
            handle(batch)
        except BaseException as failure:  # noqa: ASYNC103  (the thread goes on; Trio is in another)
            _fail_rest(batch, failure)
        else:
            _fail_rest(batch, ReplicaError(f"{self._name} gave a call no outcome"))
        self._tell_trio(self._deliver, batch)

    def _tell_trio(self, callback: Callable[..., None], *args: object) -> None:
        with suppress(trio.RunFinishedError):  # the Trio run has ended, so nobody waits
            self._token.run_sync_soon(callback, *args)


def _fail_rest(batch: Sequence[Call[RequestT]], failure: BaseException) -> None:
    for call in batch:
        if call.outcome is None:
            call.fail(failure)


def _own(failure: BaseException) -> BaseException:
    """Return a copy of `failure` for one caller to raise.

    If it can't be copied, return a `ReplicaError` caused by it.
    """
    try:
        own = copy.copy(failure)
        alike = type(own) is type(failure) and own.args == failure.args
    except Exception:  # whatever its constructor raises
        alike = False
    if not alike:
        own = ReplicaError("".join(traceback.format_exception_only(failure)).rstrip())
        own.__cause__ = failure
        return own
    if hasattr(own, "__notes__"):
        own.__notes__ = list(own.__notes__)
    own.__cause__, own.__context__ = failure.__cause__, failure.__context__
    own.__suppress_context__ = failure.__suppress_context__  # setting the cause has set it
    return own.with_traceback(failure.__traceback__)
