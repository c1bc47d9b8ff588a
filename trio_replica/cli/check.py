"""The command that tests every store with one blob."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import click
import trio

from .._blob import Blob, Ref
from .._errors import CorruptBlobError
from .._printable import printable
from .options import store_options
from .output import describe, say, write_output
from .running import FAILED, run
from .stores import absence, chosen_stores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .._deletable import DeletableStore
    from .._urls.store_url import StoreUrl

BLOB_BYTES: Final = 64
"""Bytes of a test blob. They are random, so that no store has the same blob already."""

GONE: Final = "delete: the blob was not there any more"

DELETE_SECONDS: Final = 10.0
"""Seconds for the deletion of a test blob after the command has been interrupted."""


@click.command()
@store_options
@click.pass_context
def check(context: click.Context) -> int:
    """Open every store, and write, read and delete a test blob in each. The round trip is the time of these three.

    The blob is written twice, to find a store that does not notice that a blob was there. No store is created, because
    the disk of a missing store may not be mounted.
    """
    stores = chosen_stores(context)
    return 0 if run(check_stores, stores.all()) else FAILED


async def print_line(line: str) -> None:
    """Print a line. Being cancelled does not wait for a slow reader."""
    await trio.to_thread.run_sync(write_output, f"{printable(line)}\n".encode(), abandon_on_cancel=True)


async def check_stores(urls: Mapping[str, StoreUrl], *, tell: Callable[[str], Awaitable[None]] = print_line) -> bool:
    """Write, read and delete a blob in each store, one by one. Report the results, and return whether all went well.

    Being cancelled ends this after the deletion.
    """
    width = max(map(len, (*urls, "STORE")))
    await tell(f"{'STORE':{width}}  {'ROUND TRIP':>12}  OUTCOME")
    all_went_well = True
    for name, url in urls.items():
        seconds = None
        try:
            if not (problem := absence(url)):
                async with url.not_created().open(retry=False) as store:
                    seconds, problem = await _check(store)
        except Exception as error:  # a store may raise anything
            problem = describe(error)
        time = "" if seconds is None or problem else f"{seconds * 1000:.1f} ms"
        await tell(f"{name:{width}}  {time:>12}  {f'failed: {problem}' if problem else 'ok'}")
        all_went_well = all_went_well and not problem
    return all_went_well


async def _check(store: DeletableStore) -> tuple[float, str]:
    """Return the seconds of a round trip, and the problem, if there is one. The blob is deleted in any case."""
    blob = Blob(secrets.token_bytes(BLOB_BYTES))
    began = trio.current_time()
    problem: str | None = None
    try:
        problem = await _write_and_read(store, blob)
    finally:
        with trio.CancelScope(deadline=trio.current_time() + DELETE_SECONDS, shield=True) as scope:
            deletion = await _delete(store, blob.ref, was_written=problem == "")
        if scope.cancelled_caught:
            deletion = f"delete: took more than {DELETE_SECONDS:g} seconds"
        left = f"the test blob {blob.ref} may be left"
        if problem is None and deletion:  # interrupted
            say(f"{left}: {deletion}")
        elif deletion and deletion != GONE:
            deletion = f"{deletion}; {left}"
    return trio.current_time() - began, "; ".join(filter(None, (problem, deletion)))


async def _write_and_read(store: DeletableStore, blob: Blob) -> str:
    try:
        await store.put(blob)
        again = await store.put(blob)
    except Exception as error:  # a store may raise anything
        return f"put: {describe(error)}"  # noqa: ASYNC910  (the store's own are enough)
    if again.added:
        return "put: it added a blob that was there, so it has no create-if-absent, and may overwrite what others write"
    try:
        data = await store.get(blob.ref)
    except Exception as error:  # likewise
        return f"get: {describe(error)}"
    return "" if data == blob.data else f"get: {CorruptBlobError(blob.ref, Ref.of(data))}"


async def _delete(store: DeletableStore, ref: Ref, *, was_written: bool) -> str:
    try:
        was_there = await store.delete(ref)
    except Exception as error:  # likewise
        return f"delete: {describe(error)}"  # noqa: ASYNC910  (likewise)
    return GONE if was_written and not was_there else ""
