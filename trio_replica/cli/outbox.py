"""What an outbox has, for the command line."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import click
import trio

from .._async.outbox_file import opened_outbox
from .._errors import ReplicaError
from .output import CommandError, describe

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from .._async.outbox_file import OutboxFile
    from .._blob import Ref
    from .._replica import ReplicaStore
    from .output import Display


NOTHING: Final = "nothing is owed"


def debt_lines(path: str, names: Container[str], shown: int | None) -> Iterator[str]:
    """Return what an outbox has for each store, and the refs, at most `shown` for each. Blocks.

    Args:
      path: the file.
      names: the async stores of the replica.
      shown: how many refs; None means all.

    Raises:
      ReplicaError: if it is not there, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        debts = _debts(outbox)
        for name, owed in debts.items():
            yield _line(name, owed, names)
            for ref in islice(outbox.refs(name), shown):
                yield f"  {ref}"
            if shown is not None and owed > shown:
                yield f"  and {owed - shown} more, which --all prints"
        if not debts:
            yield NOTHING


def left_debts(path: str, names: Container[str]) -> list[str]:
    """Return one line for each store that is owed something. Blocks.

    Raises:
      ReplicaError: if the outbox is not there, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        return [_line(name, owed, names) for name, owed in _debts(outbox).items()]


def debt_summary(path: str, names: Container[str]) -> Iterator[str]:
    """Return one line for each store that is owed something, or what is wrong with the outbox. Blocks."""
    try:
        for line in left_debts(path, names) or [NOTHING]:
            yield f"outbox: {line}"
    except ReplicaError as error:
        yield f"outbox: {describe(error)}"


async def flush_debts(store: ReplicaStore, display: Display) -> None:
    """Wait until the async stores of a replica have what they are owed.

    Raises:
      StoreError, PoisonedError: see `ReplicaStore.flush`.

    """

    def left() -> str:
        counts = store.statistics().async_stores.items()
        return f"waiting for {', '.join(f'{name} ({one.owed})' for name, one in counts)}"

    failures: list[Exception] = []
    display.begin(left)
    async with trio.open_nursery() as drawing:
        drawing.start_soon(display.run)
        try:
            await store.flush()
        except ReplicaError as error:  # raised out here it would come out in a group
            failures.append(error)
        drawing.cancel_scope.cancel()
    if failures:
        try:
            raise failures[0]
        finally:
            del failures


def forget_debts(path: str, name: str, ref: Ref | None, *, ask: bool) -> str:
    """Strike debts to a store, or those of one ref, after asking. Returns what says so. Blocks.

    Raises:
      CommandError: if there is no such debt, or the answer is no.
      ReplicaError: if the outbox is not there, is in use or can't be used.

    """
    with opened_outbox(path) as outbox:
        owed = outbox.owed()
        if not owed.get(name):
            known = ", ".join(other for other, count in owed.items() if count) or "nobody"
            raise CommandError(f"{name} is owed nothing; {known} is")
        what = f"the {owed[name]} debts" if ref is None else f"the debts of {ref}"
        if ask and not click.confirm(f"{name} will not be given what it is owed. Forget {what}?", err=True):
            raise CommandError("nothing is forgotten")
        struck = outbox.forget(name, ref)
    if struck == 0:
        raise CommandError(f"{name} is not owed {ref}")
    return f"{struck} debts to {name} are forgotten; reconcile gives it what it lacks"


def _debts(outbox: OutboxFile) -> dict[str, int]:
    return {name: owed for name, owed in outbox.owed().items() if owed}


def _line(name: str, owed: int, names: Container[str]) -> str:
    return f"{name} is owed {owed}" + ("" if name in names else ", and is no async store of this replica")
