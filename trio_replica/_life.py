"""The life of a replica: its states, the parts that run in its block, and the exception that leaves the block."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, final

import trio
from trio.lowlevel import enable_ki_protection

from ._errors import PoisonedError, closed_error, describe_failures
from ._log import log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from ._blob import Ref
    from ._errors import StoreError


class Part(Protocol):
    """A part of a replica that runs in the background. It begins with the block, and ends with it in three steps."""

    def start(self, nursery: trio.Nursery) -> None:
        """Start its tasks, which never raise."""

    def close(self) -> None:
        """Begin nothing new. The part ends by itself once its work is done."""

    def stop(self, grace: float) -> None:
        """End within `grace` seconds, because the block was cancelled or interrupted. May be called again."""

    async def ended(self) -> None:
        """Wait until all its tasks have ended. Being cancelled changes nothing."""


class AsyncSide(Protocol):
    """The async stores, as the life of a replica sees them."""

    def fail(self) -> None:
        """Accept nothing more, and wake every task that waits for room or for a flush."""

    def unreplicated(self) -> Mapping[str, tuple[Ref, ...]]:
        """Return the refs that each async store has not confirmed."""

    def report(self) -> StoreError | None:
        """Log the blobs that are left at the end.

        Returns the error for undeliverable ones, if it was not raised yet.
        """


@final
class BackgroundTask:
    """One task of a part.

    It runs in the nursery of the block, under a shielded cancel scope of its own. So a cancellation from outside
    reaches the body of the block but not this task. The task ends by itself or because of `stop`. A `KeyboardInterrupt`
    or `SystemExit` that a store raises in it is passed on to end the block.
    """

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], life: Life) -> None:
        self._name = name
        self._run = run
        self._life = life
        self._scope = trio.CancelScope(shield=True)
        self._ended = trio.Event()

    def start(self, nursery: trio.Nursery) -> None:
        """Start the task."""
        nursery.start_soon(self._work, name=self._name)

    def stop(self, grace: float = 0.0) -> None:
        """Give the task `grace` more seconds. With 0 it ends as soon as it can be interrupted."""
        if grace > 0:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + grace)
        else:
            self._scope.cancel()

    async def ended(self) -> None:  # noqa: ASYNC910  (it may have)
        """Wait until the task has ended. Being cancelled changes nothing."""
        if not self._ended.is_set():
            await self._ended.wait()

    @enable_ki_protection
    async def _work(self) -> None:  # noqa: ASYNC910  (a task of its own)
        try:
            with self._scope:
                await self._run()
        except (KeyboardInterrupt, SystemExit) as request:
            self._life.carry_out(request)
        finally:
            self._ended.set()


@final
class Life:
    """The state of one replica, which changes only here.

    ::

          worker fails                 block ends
      open ───────────────▶ poisoned ───────────────────▶ closed
        └──────────────────────────────────────────────────▲
                             block ends

    Every change is one synchronous step, which notes the state first and then wakes every waiting task. So the task
    that runs next finds the new state, and no operation is accepted that nobody would finish.
    """

    def __init__(self) -> None:
        self.not_accepting: trio.Event = trio.Event()
        """Set when it is poisoned or closed."""
        self.ended_at: float | None = None
        self._failures: dict[str, BaseException] = {}  # of the async stores, in the order in which they failed
        self._reported: set[str] = set()  # the failed async stores that a raised PoisonedError has named
        self._closed = False
        self._exit_request: BaseException | None = None
        self._parts: Sequence[Part] = ()
        self._async_side: AsyncSide | None = None
        self._block: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def state(self) -> str:
        """The state in one word."""
        return "closed" if self._closed else "poisoned" if self._failures else "open"

    # Checks of callers

    def check_here(self) -> None:
        """Check that this is the `trio.run` that entered the block."""
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("a replica belongs to the trio.run that opened it")

    def check_open(self) -> None:
        """Check that the block has not ended. This is for operations that go on in a poisoned replica."""
        self.check_here()
        if self._closed:
            raise self.error()

    def check_accepting(self) -> None:
        """Check that the replica accepts operations. This inlines other checks, because every operation uses it."""
        if trio.lowlevel.current_trio_token() is not self._token:
            self.check_here()
        if self._closed or self._failures:
            raise self.error()

    def error(self) -> PoisonedError | trio.ClosedResourceError:
        """Return the error of a replica that accepts nothing more, for the caller to raise."""
        if self._closed:
            return closed_error()
        self._reported.update(self._failures)
        return self._poisoned_error()

    async def wait_poisoned(self) -> PoisonedError:
        """Wait until the replica is poisoned, and return the error that says so."""
        self.check_open()
        await self.not_accepting.wait()
        if not self._failures:
            raise self.error()
        return self._poisoned_error()

    # Changes

    def poison(self, name: str, failure: BaseException) -> None:
        """Note that an async store has failed, and let every operation fail from now on."""
        self._failures[name] = failure
        self.not_accepting.set()
        assert self._async_side is not None
        self._async_side.fail()
        described = describe_failures({name: failure})
        log(logging.ERROR, f"the replica is poisoned by an async store: {described}", failure)

    def carry_out(self, request: BaseException) -> None:
        """Carry out a `KeyboardInterrupt` or `SystemExit` that a store has raised, by ending the block."""
        self._exit_request = request
        self._close()
        assert self._block is not None
        self._block.cancel()

    def _close(self) -> None:
        self._closed = True
        self.not_accepting.set()
        for part in self._parts:
            part.close()

    # The block

    @asynccontextmanager
    @enable_ki_protection
    async def block(self, async_side: AsyncSide, parts: Sequence[Part], grace: float) -> AsyncGenerator[None, None]:
        """Run the `parts` of a replica for a block. At its end, wait for them in their order."""
        ended: BaseException | None = None
        interruption: BaseException | None = None
        raised: BaseException | None = None
        self._async_side, self._parts = async_side, parts
        try:
            async with trio.open_nursery() as nursery:
                self._token = trio.lowlevel.current_trio_token()
                self._block = nursery.cancel_scope
                for part in parts:
                    part.start(nursery)
                try:
                    yield
                except BaseException as exc:  # noqa: ASYNC103  (raised below, outside of the nursery)
                    ended = exc
                interruption = await self._shut_down(None if isinstance(ended, Exception) else ended, grace)
            raised = self._end(ended, interruption)
            if raised is not None:
                raise raised
        finally:
            del ended, interruption, raised  # their tracebacks refer to this frame

    async def _shut_down(self, interruption: BaseException | None, grace: float) -> BaseException | None:
        """Close the parts and wait for them. Returns the last exception that interrupted the block or this, if any.

        After an interruption the waiting is shielded, because the parts have their grace. A second interruption ends
        the grace.
        """
        self._close()
        try:
            while True:  # noqa: ASYNC913  (it returns at the end of the parts)
                if interruption is not None:
                    for part in self._parts:
                        part.stop(grace)
                try:
                    with trio.CancelScope(shield=interruption is not None):  # noqa: ASYNC912  (all may have ended)
                        for part in self._parts:
                            await part.ended()
                except BaseException as exc:  # noqa: ASYNC103  (Cancelled, KeyboardInterrupt: raised once all is quiet)
                    if interruption is not None:
                        grace = 0.0
                    interruption = exc
                else:
                    return interruption  # noqa: ASYNC910  (likewise)
        finally:
            del interruption  # its traceback may refer to this frame

    def _end(self, ended: BaseException | None, interruption: BaseException | None) -> BaseException | None:
        """Report the blobs that are left, and return the exception that the block has to raise, if any."""
        self.ended_at = trio.current_time()
        assert self._async_side is not None
        undelivered = self._async_side.report()
        failure = self._poisoned_error() if self._failures.keys() - self._reported else None
        interrupted = interruption is not None and not _is_cancellation(interruption)
        by_rank = (
            self._exit_request,
            interruption if interrupted else None,
            ended if isinstance(ended, Exception) else None,
            failure,
            interruption,
            undelivered,
        )
        raised = next((exc for exc in by_rank if exc is not None), None)
        for also in (failure, undelivered):
            if raised is not None and also is not None and raised is not also:
                raised.add_note(f"Moreover, {also}")
        return raised

    def _poisoned_error(self) -> PoisonedError:
        assert self._async_side is not None
        return PoisonedError(self._failures, self._async_side.unreplicated())


def _is_cancellation(exc: BaseException) -> bool:
    """Return whether `exc` is a `trio.Cancelled`, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)
