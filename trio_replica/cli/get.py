"""The command that writes one blob."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .._blob import REF_SIZE, Ref
from .._errors import BlobNotFoundError
from .files import write_file
from .options import store_options
from .output import CommandError, write_output
from .refs import checked_prefix
from .running import run
from .stores import chosen_stores

if TYPE_CHECKING:
    from .._replica import ReplicaStore
    from .stores import Stores


@click.command()
@click.argument("ref", callback=checked_prefix)
@click.option("-o", "--output", metavar="FILE", default="-", type=click.Path(), help="The file to write it to.")
@store_options
@click.pass_context
def get(context: click.Context, ref: str, output: str) -> int:
    """Write the blob that REF names. The first digits of a ref will do, if no other begins with them."""
    stores = chosen_stores(context)
    data = run(_get, stores, ref)
    if output == "-":
        write_output(data)
    else:
        write_file(output, data, stores.own_files())
    return 0


async def _get(stores: Stores, prefix: str) -> bytes:
    async with stores.open_what_is_there() as store:
        try:
            return await store.get(await _only_ref(store, prefix))
        except BlobNotFoundError:
            raise CommandError(f"{prefix}: not found") from None


async def _only_ref(store: ReplicaStore, prefix: str) -> Ref:
    """Return the only ref that begins with `prefix`. A complete ref is returned without looking for the blob."""
    first = Ref.from_hex(prefix.ljust(2 * REF_SIZE, "0"))
    if len(prefix) == 2 * REF_SIZE:
        return first  # noqa: ASYNC910  (the get has its own)
    found: list[Ref] = []
    after = _predecessor(first)
    while page := await store.list_page(after, 2):
        found += [ref for ref in page if str(ref).startswith(prefix)]
        after = page[-1]
        if len(found) > 1:
            raise CommandError(f"{prefix}: is ambiguous: {found[0]} and {found[1]} begin so")
        if after not in found:
            break
    if not found:
        raise CommandError(f"{prefix}: not found")
    return found[0]


def _predecessor(ref: Ref) -> Ref:
    """Return the ref before `ref`, or `ref` itself if it is the first."""
    return Ref(max(0, int.from_bytes(ref, "big") - 1).to_bytes(REF_SIZE, "big"))
