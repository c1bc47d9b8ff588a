"""A store that is read or written by a replica: its name, its counts, and how its calls are started."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from .._store import results_error, startable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._blob import Blob
    from .._errors import ReplicaError
    from .._store import PutResult, Store


@final
class Member:
    """A store with its name and its counts.

    The ``start_…`` methods start its calls, whether the store is startable or not. No other code asks which it is.
    """

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.puts = 0
        self.put_failures = 0
        self.gets_won = 0
        self.get_failures = 0
        self.repaired = 0
        self.unrepairable = 0
        started = startable(store)
        self.start_put = started.start_put
        self.start_put_many = started.start_put_many
        self.start_get = started.start_get
        self.start_get_many = started.start_get_many
        self.start_contains = started.start_contains
        self.start_list_page = started.start_list_page

    def note_put(self, blobs: Sequence[Blob], results: Sequence[PutResult]) -> ReplicaError | None:
        """Count a write that has returned, and return what is wrong with its results, if anything."""
        error = results_error(blobs, results)
        if error is None:
            self.puts += len(blobs)
        else:
            self.put_failures += 1
        return error

    def note_put_failure(self) -> None:
        """Count a write that has failed."""
        self.put_failures += 1
