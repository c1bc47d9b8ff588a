"""The command that lists the refs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import trio

from .._blob import Ref
from .._listing import PAGE_SIZE
from .options import store_options
from .output import write_output
from .refs import checked_ref
from .running import run
from .stores import chosen_stores

if TYPE_CHECKING:
    from .stores import Stores


@click.command("ls")
@click.option("--after", metavar="REF", callback=checked_ref, help="Begin with the first ref after this one.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=sys.maxsize, help="Print at most N refs.")
@store_options
@click.pass_context
def list_refs(context: click.Context, after: Ref | None, limit: int) -> int:
    """Print the refs of all blobs in the sync stores, in order."""
    run(_list, chosen_stores(context), after or Ref.ZERO, limit)
    return 0


async def _list(stores: Stores, after: Ref, limit: int) -> None:
    async with stores.open_to_read() as store:
        while limit and (page := await store.list_page(after, min(limit, PAGE_SIZE))):
            lines = "".join(f"{ref}\n" for ref in page).encode()
            await trio.to_thread.run_sync(write_output, lines, abandon_on_cancel=True)
            after = page[-1]
            limit -= len(page)
