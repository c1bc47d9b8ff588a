"""`Store`, the base class of all stores, and `StartableStore`, the one of stores whose calls need no task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

from ._blob import Ref, hashed, to_blobs
from ._calls.fan_out import concurrently
from ._calls.start import ended_call, start_in_task
from ._errors import BlobNotFoundError, CorruptBlobError, ReplicaError, shown
from ._listing import RefIterator, check_ref, check_refs, predecessor
from ._parts import in_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from ._blob import Blob, BytesLike
    from ._calls.start import Cancel, Done


class PutResult(NamedTuple):
    """The result of a put."""

    ref: Ref
    """The ref of the blob."""
    added: bool
    """Whether this put added the blob. False if the store already had it."""


class Store(ABC):
    """A place that keeps blobs by their refs.

    A store implements `put`, `get` and `list_page`. The other methods have defaults that use these, and a store
    overrides them where it can do better. `trio_replica.testing.StoreContract` tests all of the promises.

    A blob is never visible in part, also after a crash. A store belongs to the `trio.run` that opened it. In another
    run its methods raise `RuntimeError`.
    """

    @property
    def is_durable(self) -> bool:
        """Whether a blob whose put has returned survives a crash of the machine. It does not change."""
        return True

    @property
    def is_read_only(self) -> bool:
        """Whether the store was opened with ``read_only=True``: every write raises `StoreReadOnlyError`."""
        return False

    async def identity(self) -> str | None:
        """Return the identity of this store: 32 random lowercase hex digits, drawn when it was created and kept in it.

        It stays the same wherever the store is moved to and however it is reached. So it tells two stores apart, and a
        disk from the empty folder that it is mounted on. This default returns None, which means that the store keeps no
        identity and is known by its name only. Being cancelled changes nothing.

        Raises:
          StoreIdentityError: if the store no longer has the identity that it had when it was opened.
          Exception: any other error of the store.
        """
        await trio.lowlevel.checkpoint()
        return None

    async def session_mark(self) -> str | None:
        """Return the mark that `set_session_mark` left last, or None if there is no mark. This default returns None.

        Being cancelled changes nothing.

        Raises:
          Exception: any error of the store.

        """
        await trio.lowlevel.checkpoint()
        return None

    async def set_session_mark(self, mark: str) -> None:
        """Keep a mark of 32 lowercase hex digits beside the identity, instead of the last one.

        A program that leaves a new mark in every session can notice a store that was restored from an older copy,
        because that store has an older mark. Returning means that the mark is kept as durably as a blob. Being
        cancelled means that it may or may not be kept. This default does nothing, because a store without an identity
        keeps no mark.

        Raises:
          ValueError: if `mark` has another form.
          StoreReadOnlyError: if the store was opened with ``read_only=True``.
          Exception: any other error of the store.

        """
        del mark
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Store a blob. Repeating it is harmless.

        Returning means that the store has the blob and keeps its promise of durability for it, also if the blob was
        there already. Being cancelled means that the blob may or may not be stored. Repeat the put to be sure.

        Raises:
          TypeError: if `blob` is neither a `Blob` nor bytes-like.
          Exception: if the store fails. The blob may or may not be stored.

        """

    @abstractmethod
    async def get(self, ref: Ref) -> bytes:
        """Return the blob that `ref` names. Being cancelled changes nothing.

        Raises:
          BlobNotFoundError: only if the store is sure that it has no such blob.
          TypeError: if `ref` is not a `Ref`.
          Exception: if anything else keeps the store from answering, such as damage, a missing permission or a
            time-out.

        """

    @abstractmethod
    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return up to `limit` refs greater than `after`, ascending, each once.

        Only an empty page means that there are no more refs. A short page does not. The store keeps no state between
        pages, so a listing resumes anywhere. Being cancelled changes nothing.

        Raises:
          TypeError: if `after` is not a `Ref`, or `limit` is not an `int`.
          ValueError: if `limit` is less than 1.
          Exception: if the store fails.

        """

    def list_refs(self, after: Ref = Ref.ZERO) -> AsyncIterator[Ref]:
        """Return an asynchronous iterator over all refs greater than `after`, ascending.

        It shows every blob that is there from the beginning of the iteration to its end. A blob that is added or
        deleted in the meantime may be shown. The iterator has a checkpoint for each page, so not for each ref. A loop
        that ends early leaves nothing to clean up. When a page raises or is cancelled, iterating again goes on where it
        stopped.

        Raises:
          TypeError: at once, if `after` is not a `Ref`.
          ReplicaError: while iterating, if a page is not after the one before it.
          Exception: while iterating, if `list_page` raises it.

        """
        return RefIterator(self.list_page, after)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, and return a result for each, in the same order.

        Returning means that the store has all blobs, as durably as after a `put`. At most one of several equal blobs is
        reported as added. More than 1000 are stored in parts, one after another, so that other tasks run in between.
        Being cancelled means that any part of the blobs may be stored. Repeat the whole call to be sure.

        Raises:
          TypeError: if one is neither a `Blob` nor bytes-like. Then none is stored.
          Exception: if the store fails. Any part of the blobs may be stored. The default raises the error of the first
            put that fails, and cancels the others.

        """
        results: list[PutResult] = []
        for part in in_parts(await to_blobs(blobs)):
            results += await self._put_part(part)
        return results

    async def _put_part(self, blobs: Sequence[Blob]) -> list[PutResult]:
        added: dict[Ref, bool] = {}

        async def put(blob: Blob) -> None:
            result = await self.put(blob)
            check_results([blob], [result])
            added[blob.ref] = result[1]

        await concurrently(put, list(dict.fromkeys(blobs)))
        return [PutResult(blob.ref, added.pop(blob.ref, False)) for blob in blobs]

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return the blobs that `refs` name by their refs. Blobs that the store lacks are absent.

        Being cancelled changes nothing.

        Raises:
          TypeError: if one is not a `Ref`.
          Exception: if the store fails. The default raises the first error that is not a `BlobNotFoundError`.

        """
        found: dict[Ref, bytes] = {}

        async def get(ref: Ref) -> None:  # noqa: ASYNC910  (the store's own are enough)
            try:  # noqa: SIM105  (from Python 3.12 on, suppress looks into groups too)
                found[ref] = await self.get(ref)
            except BlobNotFoundError:
                pass

        await concurrently(get, check_refs(refs))
        return found

    async def contains(self, ref: Ref) -> bool:
        """Return whether the store has the blob that `ref` names. Being cancelled changes nothing.

        Raises:
          TypeError: if `ref` is not a `Ref`.
          Exception: if anything keeps the store from answering.

        """
        check_ref(ref)
        if ref == Ref.ZERO:  # nothing comes before it, so no listing shows it
            await trio.lowlevel.checkpoint()
            return False
        return await self.list_page(predecessor(ref), 1) == [ref]


class StartableStore(Store):
    """A store whose calls can be started without a task that waits for each, like calls of `open_store_threads`.

    With such stores, a replica writes to all, and reads from the first that answers, for a fraction of the cost of
    tasks.

    `put` and `get` use `start_put` and `start_get`. Each of these calls ``done`` once with the outcome of the call. It
    is an `outcome.Value` or an `outcome.Error`, and ``Error(BlobNotFoundError(ref))`` for a missing blob. ``done`` is
    called in Trio's thread, at once or later. A call that can't go on without waiting ends with ``Unfinished(call)``
    instead. Its caller then awaits ``call()`` in a task, and takes the outcome of that.

    Each returns a function that cancels the call. That function returns True if ``done`` will not be called, and False
    if the call can no longer be interrupted, or has ended. It may be called several times, and must not raise.
    `StoreThreads.start` does all of this.

    The other four ``start_…`` methods do the same for calls on many blobs and on listings. A store overrides them where
    it needs no task, and then overrides the method itself as well.

    A replica calls these six methods of its sync stores and its `fallback`, not `put`, `get` and so on. The calls run
    outside of the cancel scopes of the replica's caller, but in its context, so that context variables reach the store.
    A start must not set context variables, because its caller may or may not see them. The methods of a subclass that
    overrides `put` or `get` are called in tasks, so that the overriding method is used.
    """

    @abstractmethod
    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put` of a blob whose ref has been computed. Its value is a `PutResult`.

        Raises:
          Exception: if the store refuses the blob at once. Then ``done`` is not called.

        """

    @abstractmethod
    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`.

        Raises:
          Exception: if the store refuses the call at once. Then ``done`` is not called.

        """

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start a `put_many` of blobs whose refs are computed. By default `put_many` is awaited in a task."""
        return start_in_task(partial(self.put_many, blobs), done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start a `get_many`. By default `get_many` is awaited in a task."""
        return start_in_task(partial(self.get_many, refs), done)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`. By default `contains` is awaited in a task."""
        return start_in_task(partial(self.contains, ref), done)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`. By default `list_page` is awaited in a task."""
        return start_in_task(partial(self.list_page, after, limit), done)

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        """Store a blob: see `Store.put`."""
        blob = await hashed(blob)
        result: PutResult = await ended_call(partial(self.start_put, blob))
        return result

    async def get(self, ref: Ref) -> bytes:
        """Return a blob: see `Store.get`."""
        check_ref(ref)
        data: bytes = await ended_call(partial(self.start_get, ref))
        return data


def startable(store: Store) -> StartableStore:
    """Return `store` if its calls can be started, or else a wrapper that gives each call of `store` a task.

    A subclass that overrides a method but not its start is wrapped. Otherwise its own method would not be called.
    """
    if not isinstance(store, StartableStore):
        return _InTasks(store)
    return _InTasks(store) if any(_is_overridden(type(store), name) for name in _STARTED) else store


_STARTED: Final = ("put", "put_many", "get", "get_many", "contains", "list_page")


def _is_overridden(kind: type[StartableStore], name: str) -> bool:
    """Return whether a class overrides a method before the class that has its start, so that the start ignores it."""
    classes = kind.__mro__
    start = next(place for place, one in enumerate(classes) if f"start_{name}" in vars(one))
    method = next(place for place, one in enumerate(classes) if name in vars(one))
    return classes[start] is not StartableStore and method < start  # a mixin comes before it, too


@final
class _InTasks(StartableStore):
    """A wrapper of a store whose calls can only be awaited, so each call that is started takes a task."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return repr(self._store)

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        return start_in_task(partial(self._store.put, blob), done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        return start_in_task(partial(self._store.get, ref), done)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        return await self._store.put_many(blobs)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        return await self._store.get_many(refs)

    async def contains(self, ref: Ref) -> bool:
        return await self._store.contains(ref)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        return await self._store.list_page(after, limit)


_SEQUENCES: Final = (list, tuple)
_RESULTS: Final = (PutResult, tuple)
_REFS: Final = (Ref, bytes)
"""The exact types of answers to puts. A subclass may answer differently each time, and its iteration need not end."""


def check_results(blobs: Sequence[Blob], results: Sequence[PutResult]) -> None:
    """Check that a store answered a put of `blobs` with a result for each.

    Raises:
      ReplicaError: if `results_error` returns one.

    """
    error = results_error(blobs, results)
    if error is not None:
        raise error


def are_put_results(results: Sequence[PutResult]) -> bool:
    """Return whether all results are exactly of these types, and not just equal to results that are."""
    return all(
        type(result) is PutResult and type(result.ref) is Ref and type(result.added) is bool for result in results
    )


def results_error(blobs: Sequence[Blob], results: Sequence[PutResult]) -> ReplicaError | None:
    """Return the error in the results of a store for a put of `blobs`, or None if they are right.

    It is a `ReplicaError` if there are more or fewer results than blobs, or one is not a `PutResult`. It is a
    `CorruptBlobError` if one has another ref than its blob.
    """
    if type(results) not in _SEQUENCES:
        return ReplicaError(f"a put_many returned {shown(results)}, which is not a list of results")
    if len(results) != len(blobs):
        return ReplicaError(f"{len(results)} results for {len(blobs)} blobs")
    if are_put_results(results) and [result.ref for result in results] == [blob.ref for blob in blobs]:
        return None
    return next(filter(None, map(_result_error, blobs, results)), None)


def _result_error(blob: Blob, result: PutResult) -> ReplicaError | None:
    if type(result) not in _RESULTS or len(result) != len(PutResult._fields):
        return ReplicaError(f"a put returned {shown(result)}, which is not a PutResult")
    if type(result[0]) not in _REFS:
        return ReplicaError(f"a put returned {shown(result[0])}, which is not a Ref")
    if result[0] != blob.ref:
        return CorruptBlobError(blob.ref, result[0])
    if type(result[1]) is not bool:
        return ReplicaError(f"a put returned {shown(result[1])} for added, which is True or False")
    return None
