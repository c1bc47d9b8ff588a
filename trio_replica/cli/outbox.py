"""The commands that show an outbox, flush it, drop entries from it, and accept another store under a known name."""

from __future__ import annotations

import os
import shlex
from contextlib import AsyncExitStack
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from .._async.outbox_by_hand import looked_at_outbox, opened_outbox
from .._errors import ReplicaError
from .._identity import read_identities
from .options import store_options
from .output import CommandError, Display, describe, say, write_lines
from .refs import checked_prefix
from .running import FAILED, run
from .stores import SHOWN, chosen_stores, open_each

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from .._async.outbox_by_hand import OutboxFile
    from .._async.storage import NotedStore
    from .._blob import Ref
    from .._replica import ReplicaStore
    from .._urls.store_url import StoreUrl
    from .stores import Stores

NOTHING: Final = "nothing is pending"


@click.group("outbox", invoke_without_command=True)
@click.option("--all", "keep_all", is_flag=True, help=f"Print every ref that is pending for a store, not just {SHOWN}.")
@store_options
@click.pass_context
def show_outbox(context: click.Context, *, keep_all: bool) -> int:
    """Print the refs that are pending for each async store, in the order of their puts.

    Below that it prints the stores that the outbox knows, with their roles and identities. A store that is marked as
    incomplete may lack blobs that have no entry. If the outbox was closed, it is only read, so it may be on a read-only
    disk.
    """
    if context.invoked_subcommand is None:
        stores = chosen_stores(context, to_create=True)
        write_lines(outbox_lines(stores.outbox(), stores.async_, None if keep_all else SHOWN))
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

    If NAME is not a store of the command any more, its identity is forgotten, too. The first digits of a ref will do,
    if no other that is pending for NAME begins with them.
    """
    stores = chosen_stores(context, to_create=True)
    if not ref and name not in stores.all():
        say(forget_store(stores.outbox(), name, ask=not yes))
    else:
        say(forget_entries(stores.outbox(), name, ref, ask=not yes))
    return 0


@show_outbox.command()
@click.argument("name")
@store_options
@click.pass_context
def accept(context: click.Context, name: str) -> int:
    """Take the store that is called NAME now, although the outbox knows another one by that name.

    It is created if there is none. The blobs that are pending for NAME will be delivered to it. It may lack all others,
    so run reconcile.
    """
    say(accept_store(chosen_stores(context, to_create=True), name))
    return 0


def outbox_lines(path: str, names: Container[str], shown: int | None) -> Iterator[str]:
    """Return lines with the number of entries of each store, at most `shown` of its refs, and all stores. Blocks.

    Args:
      path: the file.
      names: the async stores of the replica.
      shown: how many refs; None means all.

    Raises:
      ReplicaError: if the outbox does not exist, is in use or can't be used.

    """
    with looked_at_outbox(path) as outbox:
        pending = _pending(outbox)
        for name, count in pending.items():
            yield _line(name, count, names)
            for ref in islice(outbox.refs(name), shown):
                yield f"  {ref}"
            if shown is not None and count > shown:
                yield f"  and {count - shown} more, which --all prints"
        if not pending:
            yield NOTHING
        yield from _table(outbox.noted())


def accept_store(stores: Stores, name: str) -> str:
    """Have an outbox accept the store that has a name now. Blocks.

    If the command has no store by that name, the next replica notes the identity of its own store.
    Returns the line to print.

    Raises:
      CommandError: if the outbox does not know the name, the store can't be opened, or something is pending for another
        name that had its identity.
      ReplicaError: if the outbox is not there, is in use or can't be used.

    """
    with opened_outbox(stores.outbox()) as outbox:
        noted, url = outbox.noted(), stores.all().get(name)
        identity = None if url is None else run(_identity, name, url)
        former = next((other for other, one in noted.items() if one.identity and one.identity == identity), None)
        if name not in noted and former is None:
            known = ", ".join(noted) or "none"
            raise CommandError(f"the outbox does not know {name}: it notes a new store by itself; it knows {known}")
        if url is not None and name in noted and noted[name].identity == identity:
            return f"{name} is the store that the outbox knows: there is nothing to accept"
        if former is not None and (count := _pending(outbox).get(former)):
            raise CommandError(
                f"{name} is the store that the outbox knows as {former}, and {count} are pending for {former}: give it "
                f"that name, or first trio-replica outbox forget {shlex.quote(former)}"
            )
        outbox.accept(name, identity)
    if url is None:
        return (
            f"{name} will be the store that the next replica has by this name, and is marked as incomplete: "
            "reconcile it then"
        )
    return (
        f"{name} is now the store with the identity {identity or 'none'}, and is marked as incomplete: "
        "trio-replica reconcile"
    )


async def _identity(name: str, url: StoreUrl) -> str | None:
    async with AsyncExitStack() as stack:
        opened, problems = await open_each({name: url}, stack, may_create=[name])
        if problems:
            raise CommandError(f"{name} can't be opened: {problems[name]}")
        return (await read_identities(opened))[name]


def _table(noted: Mapping[str, NotedStore]) -> Iterator[str]:
    if noted:
        width = max(len("STORE"), *map(len, noted))
        yield f"{'STORE':{width}}  {'ROLE':5}  {'IDENTITY':32}  MARK"
        for name, (role, identity, is_incomplete) in noted.items():
            mark = "incomplete" if is_incomplete else ""
            yield f"{name:{width}}  {role or '':5}  {identity or 'none':32}  {mark}".rstrip()


def left_entries(path: str, names: Container[str]) -> list[str]:
    """Return one line for each store with entries. Blocks.

    Raises:
      ReplicaError: if the outbox does not exist, is in use or can't be used.

    """
    with looked_at_outbox(path) as outbox:
        return pending_lines(outbox, names)


def pending_lines(outbox: OutboxFile, names: Container[str]) -> list[str]:
    """Return one line for each store with entries. `names` are the async stores of the command. Blocks."""
    return [_line(name, count, names) for name, count in _pending(outbox).items()]


async def flush_outbox(store: ReplicaStore, display: Display) -> None:
    """Wait until the async stores of a replica have all blobs that are pending for them.

    Being cancelled changes nothing.

    Raises:
      StoreError, PoisonedError: in the same cases as with `ReplicaStore.flush`.

    """

    def left() -> str:
        counts = store.statistics().async_stores.items()
        return f"waiting for {', '.join(f'{name} ({one.pending})' for name, one in counts)}"

    display.begin(left)
    await display.during(store.flush)


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
            raise _nothing_pending(name, pending)
        ref = _pending_ref(outbox, name, prefix) if prefix else None
        what = f"all {pending[name]}" if ref is None else f"the entries of {ref}"
        if ask:
            _confirm(f"The blobs pending for {name} will not be delivered. Forget {what}?")
        dropped = outbox.forget(name, ref)
    return f"forgot {dropped} pending for {name}; reconcile copies the blobs that it lacks"


def forget_store(path: str, name: str, *, ask: bool) -> str:
    """Drop a store that the replica does not have any more, with its entries, after asking. Blocks.

    Returns the line to print.

    Raises:
      CommandError: if the outbox does not know it, or the answer is no.
      ReplicaError: if the outbox does not exist, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        pending = outbox.pending()
        if name not in pending:
            raise _nothing_pending(name, pending)
        if ask:
            lost = f"{name} is not a store of this command. Blobs that only it has will be lost."
            _confirm(f"{lost} Forget its identity, and the {pending[name]} pending for it?")
        dropped = outbox.forget_store(name)
    return f"forgot {name}, which is not a store of this command, and {dropped} pending for it"


def clear_marks(path: str, identities: Mapping[str, str | None]) -> Iterator[str]:
    """Note which stores are no longer incomplete, after a reconcile that has left nothing missing. Blocks.

    Return the lines to print.

    Args:
      path: the outbox. Nothing happens if it does not exist.
      identities: the identities of the stores that took part, by their names.

    """
    if not os.path.lexists(path):
        return
    try:
        with opened_outbox(path) as outbox:
            noted = outbox.noted()
            took_part = {name for name, one in noted.items() if name in identities and identities[name] == one.identity}
            sync = {name for name, one in noted.items() if one.role == "sync"}
            marked = [name for name, one in noted.items() if one.is_incomplete and name in identities]
            # A sync store without the mark has all that was accepted, and so have all known sync stores together.
            away = sync - took_part if all(noted[name].is_incomplete for name in sync & took_part) else set()
            completed = [] if away else [name for name in marked if name in took_part]
            if completed:  # a change would also migrate an outbox of an older format
                outbox.complete(completed)
    except ReplicaError as error:
        yield f"the outbox was not looked at, so stores that it marks as incomplete stay so: {describe(error)}"
        return
    for name in marked:
        if name in completed:
            yield f"{name} is no longer incomplete"
        elif others := away & identities.keys():
            why = f"{min(others)} is not the store that the outbox knows: open the replica first"
            yield f"{name} stays incomplete, because {why}"
        elif away:
            yield f"{name} stays incomplete, because {min(away)} took no part"
        else:
            yield f"{name} stays incomplete, because the outbox does not know this store: open the replica first"


def _nothing_pending(name: str, pending: Mapping[str, int]) -> CommandError:
    known = ", ".join(other for other, count in pending.items() if count)
    return CommandError(f"nothing is pending for {name}" + (f"; entries are pending for {known}" if known else ""))


def _confirm(question: str) -> None:
    if not click.confirm(question, err=True):
        raise CommandError("nothing is forgotten")


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
