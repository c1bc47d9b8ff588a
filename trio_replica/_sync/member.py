"""A store that is read or written by a replica: its name, its counts, and how its calls are started."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

from .._calls.start import start_in_task
from .._store import StartableStore, results_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._blob import Blob, Ref
    from .._calls.start import Cancel, Done
    from .._errors import ReplicaError
    from .._store import PutResult, Store


@final
class Member:
    """A store with its name and its counts.

    The ``start_…`` methods start its calls, of a store whose calls can be started and of any other. Nobody else asks
    which of the two it is.
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
        startable = store if isinstance(store, StartableStore) else _InTasks(store)
        self.start_put = startable.start_put
        self.start_put_many = startable.start_put_many
        self.start_get = startable.start_get
        self.start_get_many = startable.start_get_many
        self.start_contains = startable.start_contains
        self.start_list_page = startable.start_list_page

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


@final
class _InTasks:
    """The calls of a store that can only be awaited, each in a task."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return start_in_task(partial(self._store.put, blob), done)

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        return start_in_task(partial(self._store.put_many, blobs), done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        return start_in_task(partial(self._store.get, ref), done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        return start_in_task(partial(self._store.get_many, refs), done)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        return start_in_task(partial(self._store.contains, ref), done)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        return start_in_task(partial(self._store.list_page, after, limit), done)
