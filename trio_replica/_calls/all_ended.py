"""`all_ended`: starting several calls of one store at once, when all of their results are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import outcome

from .operation import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .attempt import Ended
    from .start import Cancel, Done

MemberT = TypeVar("MemberT")


async def all_ended(
    members: Sequence[MemberT], start: Callable[[MemberT, Done], Cancel], *, absent: type[Exception] | None = None
) -> dict[MemberT, Any]:
    """Start a call for each of `members`, outside of any replica, and return their values.

    A member whose call raises an `absent` is left out. Being cancelled cancels the calls, and waits for those that
    can't be interrupted. So does the first other failure, which is raised as it is.
    """
    calls = _All(members, start, absent)
    failures = await calls.run({})
    for failure in failures.values():
        try:
            raise failure
        finally:
            del failure, failures
    return calls.values


class _All(Operation[MemberT]):
    """An operation that needs all of its calls. The first failure decides it."""

    def __init__(
        self,
        members: Sequence[MemberT],
        start: Callable[[MemberT, Done], Cancel],
        absent: type[Exception] | None,
    ) -> None:
        super().__init__(members)
        self._start_one = start
        self._absent = absent
        self.values: dict[MemberT, Any] = {}

    def start_call(self, member: MemberT, done: Done) -> Cancel:
        return self._start_one(member, done)

    def settle(self, member: MemberT, ended: Ended[Any]) -> bool:
        if isinstance(ended, outcome.Value):
            self.values[member] = ended.value
        elif self._absent is None or not isinstance(ended.error, self._absent):
            self.fail("", ended.error)
            return True
        return False
