"""Two answers of one store that cannot both be true, and the questions that show them."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import trio

from .._errors import ReplicaError, describe_failure, shown
from .._listing import predecessor
from .._store import Store
from .._sync.union import check_page

if TYPE_CHECKING:
    from .._blob import Ref


class Contradiction(Enum):
    """Two answers of one store about one blob that cannot both be true. The value describes them in words."""

    LISTED_ABSENT = "it is listed, but not there"
    """The listing shows it; a get does not find it, or ``contains`` says that it is not there."""
    UNLISTED = "it is there, but not listed"
    """A get finds it, or ``contains`` says that it is there; the listing does not show it."""
    CLAIMED = "contains says that it is there, but a get does not find it"
    """The listing does not show it either."""
    DENIED = "a get finds it, but contains says that it is not there"
    """The listing may or may not show it."""
    NOT_STORED = "the put returned, but it is not there"
    """Another question, asked after the put, got this answer. It does not matter whether the put said ``added``."""

    def __str__(self) -> str:
        return self.value


class ContradictionError(ReplicaError):
    """A store has contradicted itself. Only reconcile and scrub see this error; reports have its `Contradiction`."""

    def __init__(self, contradiction: Contradiction) -> None:
        super().__init__(contradiction.value)
        self.contradiction = contradiction


class UnansweredError(ReplicaError):
    """A question about a blob failed, beside a get that was answered. Only scrub sees this error."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__(f"another question about it failed: {describe_failure(failure)}")


def contradiction_in(error: BaseException) -> Contradiction | None:
    """Return the contradiction that an error reports, or None for any other error."""
    return error.contradiction if isinstance(error, ContradictionError) else None


def has_own_contains(store: Store) -> bool:
    """Return whether ``contains`` may differ from the listing, unlike `Store.contains`, which asks the listing."""
    return type(store).contains is not Store.contains


async def contains(store: Store, ref: Ref) -> bool:
    """Return whether a store says that it has a blob."""
    answer = await store.contains(ref)
    if type(answer) is not bool:
        raise ReplicaError(f"a contains returned {shown(answer)}, not True or False")
    return answer


async def is_listed(store: Store, ref: Ref) -> bool:
    """Return whether the listing of a store shows a blob now."""
    before = predecessor(ref)
    return check_page(await store.list_page(before, 1), before, 1) == [ref]


async def claim_of(store: Store, ref: Ref, *, ask_listing: bool = True) -> Contradiction | None:
    """Return the contradiction about a blob that a get does not find, or None if no other answer shows it."""
    await trio.lowlevel.checkpoint()
    if ask_listing and await is_listed(store, ref):
        return Contradiction.LISTED_ABSENT
    if has_own_contains(store) and await contains(store, ref):
        return Contradiction.CLAIMED
    return None


async def denial_of(store: Store, ref: Ref, *, ask_listing: bool = True) -> Contradiction | None:
    """Return the contradiction about a blob that a get finds, or None if all other answers show it, too."""
    await trio.lowlevel.checkpoint()
    if ask_listing and not await is_listed(store, ref):
        return Contradiction.UNLISTED
    if has_own_contains(store) and not await contains(store, ref):
        return Contradiction.DENIED
    return None
