"""The command that prints the identity of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import checked_url
from .output import CommandError, write_lines
from .running import run
from .stores import absence

if TYPE_CHECKING:
    from .._urls.store_url import StoreUrl


@click.command()
@click.argument("url", callback=checked_url)
@click.option("--new", is_flag=True, help="Give it a new identity first, because it is a copy of another store.")
def identify(*, url: StoreUrl, new: bool) -> int:
    """Print the identity that the store at URL keeps. A store without an identity is given one."""
    if problem := absence(url):
        raise CommandError(problem)
    write_lines([run(_identify, url, new)])
    return 0


async def _identify(url: StoreUrl, new: bool) -> str:
    identity: str | None = None
    if not new:
        async with url.to_read().open() as store:
            identity = await store.identity()
    if identity is None:  # it is given one when it is opened to be written
        async with url.not_created().open() as store:
            identity = await (store.renew_identity() if new else store.identity())
    if identity is None:
        raise CommandError(f"{url.shown}: stores of this kind keep no identity")
    return identity  # noqa: ASYNC910  (opening a store has one)
