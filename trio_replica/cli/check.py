"""The command that tests every store with one blob."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import click
import trio

from .._async.storage import OutboxInUseError
from .._blob import REF_SIZE, Blob, Ref
from .._errors import CorruptBlobError, ReplicaError, StoreIdentityError, shown
from .._identity import read_identity
from .._listing import PAGE_SIZE, predecessor
from .._printable import printable
from .._store import check_results
from .._sync.union import check_page
from .identities import identity_problems, known_stores
from .options import store_options
from .output import describe, say, write_output
from .running import FAILED, run
from .stores import absence, chosen_stores

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from .._async.storage import NotedStore
    from .._deletable import DeletableStore
    from .._urls.store_url import StoreUrl

BLOB_BYTES: Final = 64
"""Bytes of a test blob. They are random, so that no store has the same blob already."""

DELETE_SECONDS: Final = 10.0
"""Seconds for the deletion of a test blob after the command has been interrupted."""

_LAST: Final = Ref(b"\xff" * REF_SIZE)
"""The ref after which every listing ends."""


@click.command()
@store_options
@click.pass_context
def check(context: click.Context) -> int:
    """Open every store, and write, read, list and delete a test blob in each. The round trip is the time of all that.

    The blob is written twice, to find a store that does not notice that a blob was there. The end of the listing is
    asked for, too. The stores are compared by their identities with each other, and with those that the outbox knows.

    No store is created, because the disk of a missing store may not be mounted. The exit status is 1 if anything is
    wrong. An outbox that a replica uses can't be compared. The replica compared it when it opened the stores.
    """
    stores = chosen_stores(context)
    known: Mapping[str, NotedStore] = {}
    is_usable = True
    try:
        known = known_stores(stores)
    except ReplicaError as error:
        say(f"the stores are not compared with those that the outbox knows: {describe(error)}")
        is_usable = isinstance(error, OutboxInUseError)
    return 0 if run(check_stores, stores.all(), known) and is_usable else FAILED


async def print_line(line: str) -> None:
    """Print a line. Being cancelled does not wait for a slow reader."""
    await trio.to_thread.run_sync(write_output, f"{printable(line)}\n".encode(), abandon_on_cancel=True)


async def check_stores(
    urls: Mapping[str, StoreUrl],
    known: Mapping[str, NotedStore],
    *,
    tell: Callable[[str], Awaitable[None]] = print_line,
) -> bool:
    """Open all stores, and write, read, list and delete a blob in each, one by one.

    Report the results, and return whether all went well. Being cancelled ends this after the deletion.

    Args:
      urls: the stores by their names.
      known: the stores that the outbox knows.
      tell: a function that prints a line.

    """
    width = max(map(len, (*urls, "STORE")))
    await tell(f"{'STORE':{width}}  {'ROUND TRIP':>12}  OUTCOME")
    trials = [_Trial(name, url) for name, url in urls.items()]
    async with AsyncExitStack() as stack:
        for trial in trials:
            await trial.open(stack)
        identities = {trial.name: trial.identity for trial in trials if trial.store is not None}
        problems = identity_problems(identities, known)
        for trial in trials:
            seconds = await trial.run()
            if trial.name in problems:
                trial.problems.append(problems[trial.name])
            time = "" if trial.problems else f"{seconds * 1000:.1f} ms"
            outcome = f"failed: {'; '.join(trial.problems)}" if trial.problems else "ok"
            await tell(f"{trial.name:{width}}  {time:>12}  {outcome}")
    for trial in trials:
        if trial.closing:
            await tell(f"{trial.name:{width}}  {'':12}  failed: close: {trial.closing}")
    return not any(trial.problems or trial.closing for trial in trials)


@final
class _Trial:
    """The test of one store."""

    def __init__(self, name: str, url: StoreUrl) -> None:
        self.name = name
        self.problems: list[str] = []
        self.closing = ""
        """The problem with closing the store."""
        self.store: DeletableStore | None = None
        """The store, once it is open and has told its identity."""
        self.identity: str | None = None
        self._url = url

    async def open(self, stack: AsyncExitStack) -> None:  # noqa: ASYNC910  (it may be known not to open)
        """Open the store until `stack` is left, and read its identity, or note the problem."""
        if problem := absence(self._url):
            self.problems.append(problem)
            return  # noqa: ASYNC910  (likewise)
        try:
            store = await stack.enter_async_context(self._opened())
        except Exception as error:  # a store may raise anything
            self.problems.append(describe(error))
            return  # noqa: ASYNC910  (likewise)
        try:
            self.identity = await read_identity(store)
        except Exception as error:  # likewise
            self.problems.append(f"identity: {describe(error)}")
            return
        self.store = store

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[DeletableStore, None]:
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(self._url.not_created().open(retry=False))
            try:
                await stack.aclose()
            except Exception as error:  # likewise
                self.closing = describe(error)

    async def run(self) -> float:  # noqa: ASYNC910  (it may not be open)
        """Make the round trip, note the problems, and return the seconds that it took."""
        if self.store is None:
            return 0.0  # noqa: ASYNC910  (likewise)
        began = trio.current_time()
        self.problems += await _check(self.store)
        seconds = trio.current_time() - began
        try:
            identity = await read_identity(self.store)
        except Exception as error:  # likewise
            self.problems.append(f"identity: {describe(error)}")
        else:
            if identity != self.identity:
                self.problems.append(describe(StoreIdentityError(self.name, self.identity, identity)))
        return seconds


async def _check(store: DeletableStore) -> list[str]:
    """Make a round trip, and return its problems. The blob is deleted in any case."""
    blob = Blob(secrets.token_bytes(BLOB_BYTES))
    problem: str | None = None
    try:
        problem = await _write_and_read(store, blob)
    finally:
        with trio.CancelScope(deadline=trio.current_time() + DELETE_SECONDS, shield=True) as scope:
            deletion = await _delete(store, blob.ref, was_written=problem == "")
        if scope.cancelled_caught:
            deletion = _left(blob.ref, f"took more than {DELETE_SECONDS:g} seconds")
        if problem is None and deletion:
            say(deletion)
    return [found for found in (problem, deletion) if found]


async def _write_and_read(store: DeletableStore, blob: Blob) -> str:
    try:
        check_results([blob], [await store.put(blob)])
        again = await store.put(blob)
        check_results([blob], [again])
    except Exception as error:  # a store may raise anything
        return f"put: {describe(error)}"  # noqa: ASYNC910  (the store's own are enough)
    if again.added:
        return "put: it added a blob that was there, so it has no create-if-absent, and may overwrite others' blobs"
    try:
        data = Blob(await store.get(blob.ref))
    except Exception as error:  # likewise
        return f"get: {describe(error)}"
    if data != blob:
        return f"get: {CorruptBlobError(blob.ref, data.ref)}"
    return await _list(store, blob.ref)


async def _list(store: DeletableStore, ref: Ref) -> str:
    """List a page that has to begin with the blob, and one that has to be empty because the listing ends before it."""
    try:
        before = predecessor(ref)
        page = check_page(await store.list_page(before, PAGE_SIZE), before, PAGE_SIZE)
        check_page(await store.list_page(_LAST, PAGE_SIZE), _LAST, PAGE_SIZE)
    except Exception as error:  # likewise
        return f"list_page: {describe(error)}"  # noqa: ASYNC910  (likewise)
    return "" if page[:1] == [ref] else "list_page: it does not list the blob"


async def _delete(store: DeletableStore, ref: Ref, *, was_written: bool) -> str:
    try:
        was_there = await store.delete(ref)
        if type(was_there) is not bool:
            raise ReplicaError(f"a delete returned {shown(was_there)}, not True or False")  # noqa: TRY301
    except Exception as error:  # likewise
        return _left(ref, describe(error))  # noqa: ASYNC910  (likewise)
    return "delete: the blob was not there any more" if was_written and not was_there else ""


def _left(ref: Ref, problem: str) -> str:
    return f"the test blob {ref} may be left: delete: {problem}"
