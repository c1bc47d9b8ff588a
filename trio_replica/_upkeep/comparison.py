"""Comparing the listings of the stores of a scrub: each store is asked for the refs that only others list."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from .._calls.fan_out import concurrently
from .listings import Listing, list_pages, merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._blob import Ref
    from .scrub_report import ScrubLog
    from .scrubbed import ScrubbedStore


@final
class _ComparedStore(Listing):
    """A store with its place in its listing."""

    def __init__(self, scrubbed: ScrubbedStore, after: Ref) -> None:
        super().__init__(scrubbed.name, scrubbed.store, after)
        self.scrubbed = scrubbed


async def compare(scrubbed: Sequence[ScrubbedStore], log: ScrubLog, after: Ref, *, to_repair: bool) -> None:
    """Ask each store for the blobs that others list and it does not, because its listing alone does not prove anything.

    A store whose listing fails, or has failed before, takes no part.
    """
    compared = [_ComparedStore(one, after) for one in scrubbed if one.name not in log.failures]
    if len(compared) == 1:
        return  # noqa: ASYNC910  (the reading has a checkpoint)
    sources = scrubbed if to_repair else ()

    async def ask(unlisted: tuple[ScrubbedStore, Ref]) -> None:
        store, ref = unlisted
        await store.scrub_unlisted(sources, ref)

    while await list_pages(compared):
        refs, held = merge(compared)
        await concurrently(ask, [(one.scrubbed, ref) for one, taken in held for ref in refs if ref not in taken])
    log.failures.update({one.name: one.failure for one in compared if one.failure is not None})
