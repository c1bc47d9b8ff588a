"""The report of a reconcile: its counts and its problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._blob import Ref
    from .contradiction import Contradiction


@dataclass(frozen=True, slots=True)
class ReconcileCounts:
    """The counts of one store: the blobs found in it, and the blobs copied to it.

    ``refs + missing`` is the number of distinct refs in all stores, unless the listing of this store failed.
    """

    refs: int
    """Blobs that it had, according to its listing or its answer when it was asked again."""
    missing: int
    """Blobs that it lacked and another store had. ``missing - copied`` of these are still missing.

    A blob about which it has contradicted itself counts as missing.
    """
    copied: int
    """Missing blobs that were put to it, and that it confirmed when it was asked after the put."""
    failed: int
    """Missing blobs that no other store had intact, or whose put failed, or that were not there after it.

    Also those whose put returned, while another question after it failed. Repeating the reconcile settles these. 0 in a
    dry run, which copies nothing, and for a store that is only read.
    """
    bytes: int
    """Bytes of the copied blobs."""
    unanswered: int = 0
    """Blobs that it lists, but that it may not have, because another question to it about them had no good answer.

    A ``contains`` failed, or a get failed or returned other bytes. Repeat the reconcile, or scrub the store. 0 for
    `sources`.
    """


@dataclass(frozen=True, slots=True)
class ReconcileProblem:
    """One call of a store that failed for one blob, or whose answer another answer of the store contradicts."""

    store: str
    """The name of the store."""
    operation: str
    """The method that was called: ``"get"``, ``"put"``, ``"contains"`` or ``"list_page"``."""
    ref: Ref
    """The ref of the blob."""
    error: str
    """The error in one line. It is text because an exception would keep the blob in memory."""
    contradiction: Contradiction | None = None
    """The answers of the store that cannot both be true, or None if the call failed."""

    def __str__(self) -> str:
        return f"{self.store}: {self.operation} of {self.ref}: {self.error}"


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The results of a `reconcile`, so far or in the end."""

    stores: Mapping[str, ReconcileCounts]
    """The counts of each store by its name."""
    failures: Mapping[str, BaseException]
    """The exception of each store that failed to list its refs or to tell its identity, by its name.

    Its counts cover what it had listed before.
    """
    problems: tuple[ReconcileProblem, ...]
    """The first 100 problems with single blobs. This includes problems after which another store had a good copy.

    A contradiction that a copy has ended is one of them, too.
    """
    problem_count: int
    """The number of all problems."""
    reached: Ref
    """The ref up to which all have been dealt with. A `reconcile` with this as `after` would go on here."""

    @property
    def complete(self) -> bool:
        """Whether no store lacks a blob, leaving out the stores in `failures`.

        It is False if a store still contradicts itself about a blob that it was asked for, or did not answer.
        `reconcile` says which blobs it asks for, and `scrub` asks for all.
        """
        return all(
            counts.missing == counts.copied and not counts.unanswered
            for name, counts in self.stores.items()
            if name not in self.failures
        )
