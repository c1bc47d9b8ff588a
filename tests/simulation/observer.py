"""An observer of every step of every task, which makes things happen between the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import outcome
import trio
import trio.testing

from .trace import Violation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

STEPS: Final = 20_000
"""Steps after which something goes round for ever: ten times what a long session takes."""

PATIENCE: Final = 100_000.0
"""Seconds after which something waits for ever: many times what all hangs and outages of a session take."""


@final
class Observer(trio.abc.Instrument):
    """Does what is planned before the steps of tasks, and checks what has to hold after each."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.actions: dict[int, Callable[[], None]] = {}
        """The actions to take before the steps with these numbers."""
        self.steps = 0
        self.is_over = False
        """Whether nothing is done and checked any more."""
        self.violation: Violation | None = None
        """The first thing that was wrong."""
        self._check = check
        self._scope = trio.CancelScope()
        self._clock = trio.testing.MockClock(autojump_threshold=0)

    def before_task_step(self, _: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps % STEPS == 0:
            self.violate(Violation("nothing goes round for ever"))
            self._clock.jump(PATIENCE)  # it stands still as long as something goes round, so no deadline comes
            if self.steps > STEPS:
                _free_all()
        if self.steps in self.actions:
            self._do(self.actions[self.steps])

    def after_task_step(self, _: trio.lowlevel.Task) -> None:
        self._do(self._check)

    def _do(self, something: Callable[[], None]) -> None:
        """Do something unless all is over. It must not raise: Trio would log that, and remove the instrument."""
        if not self.is_over:
            try:
                something()
            except Violation as violation:
                self.violate(violation)
            except Exception as error:
                self.violate(Violation(f"nothing raises that is looked at: {error!r}"))

    def violate(self, violation: Violation) -> None:
        """Note that something is wrong, and let all tasks end."""
        if not self.is_over:
            self.violation = violation
            self.end()

    def end(self) -> None:
        """Do and check nothing any more, and let all tasks end."""
        self.is_over = True
        self._scope.cancel()

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run ``main()`` on a clock of its own, until it ends, or all is to end.

        Raises:
          Violation: the first thing that was wrong.

        """
        trio.run(self._watch, main, clock=self._clock, instruments=[self])
        if self.violation is not None:
            raise self.violation

    async def _watch(self, main: Callable[[], Awaitable[None]]) -> None:
        watching = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._lose_patience, watching)
        with self._scope:
            try:
                await main()
            except* Violation as violations:
                self.violate(_first(violations))
        self.is_over = True
        watching.cancel()

    async def _lose_patience(self, watching: trio.CancelScope) -> None:
        with watching:
            await trio.sleep(PATIENCE)
            self.violate(Violation("nothing waits for ever"))
            while True:
                await trio.sleep(PATIENCE)
                _free_all()
                await trio.sleep(PATIENCE)
                _wake_all()


def tasks() -> Iterator[trio.lowlevel.Task]:
    """Return all tasks that there are."""
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _free_all() -> None:
    """Let cancellations through to all tasks that are shielded from them."""
    for task in tasks():
        status: trio._core._run.CancelStatus | None = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status.parent


def _wake_all() -> None:
    """Let all tasks go on that wait for what never comes, and that can't be cancelled."""
    for task in [*tasks()]:
        is_waiting = task._next_send_fn is None and task is not trio.lowlevel.current_task()
        if is_waiting and task._abort_func is None and not task.child_nurseries:
            trio.lowlevel.reschedule(task, outcome.Error(Violation("nothing waits for ever")))


def _first(group: BaseExceptionGroup[Violation]) -> Violation:
    exception = group.exceptions[0]
    return _first(exception) if isinstance(exception, BaseExceptionGroup) else exception
