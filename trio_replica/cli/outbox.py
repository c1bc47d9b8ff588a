"""The commands that show an outbox, flush it, and drop entries from it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import click
import trio

from .._async.outbox_file import opened_outbox
from .._errors import ReplicaError
from .options import store_options
from .output import CommandError, Display, describe, say, write_lines
from .refs import checked_prefix
from .running import FAILED, run
from .stores import SHOWN, chosen_stores

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from .._async.outbox_file import OutboxFile
    from .._blob import Ref
    from .._replica import ReplicaStore
    from .stores import Stores

NOTHING: Final = "nothing is pending"


@click.group("outbox", invoke_without_command=True)
@click.option("--all", "keep_all", is_flag=True, help=f"Print every ref that is pending for a store, not just {SHOWN}.")
@store_options
@click.pass_context
def show_outbox(context: click.Context, *, keep_all: bool) -> int:
    """Print the refs that are pending for each async store, in the order of their puts."""
    if context.invoked_subcommand is None:
        stores = chosen_stores(context, to_create=True)
        write_lines(entry_lines(stores.outbox(), stores.async_, None if keep_all else SHOWN))
    return 0


@show_outbox.command()
@store_options
@click.pass_context
def flush(context: click.Context) -> int:
    """Deliver what is pending for the async stores, and wait until they have it.

    The exit status is 1 if anything is still pending in the end, also for a name that is not an async store of the
    replica.
    """
    stores = chosen_stores(context)
    path = stores.outbox()
    left_entries(path, stores.async_)  # this raises if there is no outbox, where a replica would create one
    run(_flush, stores)
    left = left_entries(path, stores.async_)
    for line in left:
        say(line)
    return FAILED if left else 0


@show_outbox.command()
@click.argument("name")
@click.argument("ref", required=False, callback=checked_prefix)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
@click.pass_context
def forget(context: click.Context, name: str, ref: str, *, yes: bool) -> int:
    """Drop what is pending for the async store NAME, or only the blob that REF names. It will not be delivered.

    The first digits of a ref will do, if no other that is pending for NAME begins with them.
    """
    path = chosen_stores(context, to_create=True).outbox()
    say(forget_entries(path, name, ref, ask=not yes))
    return 0


def entry_lines(path: str, names: Container[str], shown: int | None) -> Iterator[str]:
    """Return lines with the number of entries of each store, and at most `shown` of its refs. Blocks.

    Args:
      path: the file.
      names: the async stores of the replica.
      shown: how many refs; None means all.

    Raises:
      ReplicaError: if the outbox does not exist, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        pending = _pending(outbox)
        for name, count in pending.items():
            yield _line(name, count, names)
            for ref in islice(outbox.refs(name), shown):
                yield f"  {ref}"
            if shown is not None and count > shown:
                yield f"  and {count - shown} more, which --all prints"
        if not pending:
            yield NOTHING


def left_entries(path: str, names: Container[str]) -> list[str]:
    """Return one line for each store with entries. Blocks.

    Raises:
      ReplicaError: if the outbox does not exist, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        return [_line(name, count, names) for name, count in _pending(outbox).items()]


def pending_summary(path: str, names: Container[str]) -> Iterator[str]:
    """Return one line for each store with entries, or the problem with the outbox. Blocks."""
    try:
        for line in left_entries(path, names) or [NOTHING]:
            yield f"outbox: {line}"
    except ReplicaError as error:
        yield f"outbox: {describe(error)}"


async def flush_outbox(store: ReplicaStore, display: Display) -> None:
    """Wait until the async stores of a replica have all blobs that are pending for them.

    Being cancelled changes nothing.

    Raises:
      StoreError, PoisonedError: in the same cases as with `ReplicaStore.flush`.

    """

    def left() -> str:
        counts = store.statistics().async_stores.items()
        return f"waiting for {', '.join(f'{name} ({one.pending})' for name, one in counts)}"

    failures: list[Exception] = []
    display.begin(left)
    async with trio.open_nursery() as drawing:
        drawing.start_soon(display.run)
        try:
            await store.flush()
        except ReplicaError as error:  # raised below, because here it would come out in a group
            failures.append(error)
        drawing.cancel_scope.cancel()
    if failures:
        try:
            raise failures[0]
        finally:
            del failures


def forget_entries(path: str, name: str, prefix: str, *, ask: bool) -> str:
    """Drop the entries of a store, or those of the ref that begins with `prefix`, after asking. Blocks.

    Returns the line to print.

    Raises:
      CommandError: if there is no such entry, or the answer is no.
      ReplicaError: if the outbox does not exist, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        pending = outbox.pending()
        if not pending.get(name):
            known = ", ".join(other for other, count in pending.items() if count)
            others = f"; entries are pending for {known}" if known else ""
            raise CommandError(f"nothing is pending for {name}{others}")
        ref = _pending_ref(outbox, name, prefix) if prefix else None
        what = f"all {pending[name]}" if ref is None else f"the entries of {ref}"
        if ask and not click.confirm(f"The blobs pending for {name} will not be delivered. Forget {what}?", err=True):
            raise CommandError("nothing is forgotten")
        dropped = outbox.forget(name, ref)
    return f"forgot {dropped} pending for {name}; reconcile copies the blobs that it lacks"


def _pending_ref(outbox: OutboxFile, name: str, prefix: str) -> Ref:
    """Return the only ref with entries that begins with `prefix`."""
    found: Ref | None = None
    for ref in outbox.refs(name):
        if str(ref).startswith(prefix):
            if found not in {None, ref}:
                raise CommandError(f"{prefix} is ambiguous: {found} and {ref} begin so")
            found = ref
    if found is None:
        raise CommandError(f"{prefix} is not pending for {name}")
    return found


def _pending(outbox: OutboxFile) -> dict[str, int]:
    return {name: count for name, count in outbox.pending().items() if count}


def _line(name: str, count: int, names: Container[str]) -> str:
    return f"{count} pending for {name}" + ("" if name in names else ", which is not an async store of this replica")


async def _flush(stores: Stores) -> None:
    async with stores.open() as store:
        await flush_outbox(store, Display())
