"""The command that counts the blobs that each store holds, and those that it lacks and others hold."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import AsyncExitStack, ExitStack
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Final, Self, final

import click

from .._async.outbox_by_hand import looked_at_outbox
from .._blob import REF_SIZE, Ref
from .._calls.fan_out import concurrently
from .._errors import ReplicaError
from .._identity import read_identity
from .._sync.union import check_page, union
from .identities import identity_problems
from .options import store_options
from .outbox import NOTHING, pending_lines
from .output import describe, say, write_lines
from .running import FAILED, run
from .stores import SHOWN, absence, chosen_stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from .._async.storage import NotedStore
    from .._store import Store
    from .._urls.store_url import StoreUrl
    from .stores import Stores

PAGE_SIZE: Final = 10_000
"""Refs that are requested from a store at once and held in memory, about 1 MB."""


@click.command()
@click.option("--all", "keep_all", is_flag=True, help=f"Print every ref that a store lacks, not just {SHOWN}.")
@store_options
@click.pass_context
def status(context: click.Context, *, keep_all: bool) -> int:
    """Print how many refs each store holds, and which refs it lacks that others hold.

    With an outbox it also prints how many blobs are pending for each async store. The exit status is 1 if a store or
    the outbox can't be read, two names are one store, or a store is not the one that the outbox knows by its name.
    Missing refs do not change it.
    """
    stores = chosen_stores(context)
    kinds = (("sync", stores.sync), ("async", stores.async_))
    with ExitStack() as stack:
        holdings = [
            stack.enter_context(Holdings(name, url, kind, absence(url), keep_all=keep_all))
            for kind, urls in kinds
            for name, url in urls.items()
        ]
        run(survey, holdings)
        known, pending, unusable = _look_at_outbox(stores)
        problems = identity_problems({one.name: one.identity for one in holdings if not one.problem}, known)
        write_lines(_status_lines(holdings, problems))
    write_lines(f"outbox: {line}" for line in pending)
    if unusable:
        say(f"outbox: {unusable}")
    return FAILED if unusable or problems or any(one.problem for one in holdings) else 0


@final
class Holdings:
    """The counts of one store. This is a context manager, because the refs that it keeps may be in a temporary file.

    Args:
      name: the name of the store.
      url: the store.
      kind: whether it is sync or async.
      problem: the reason why it can't be opened, if that is known already. Otherwise empty.
      keep_all: whether to keep every ref that it lacks.

    """

    def __init__(self, name: str, url: StoreUrl, kind: str, problem: str, *, keep_all: bool) -> None:
        self.name = name
        self.kind = kind
        self.problem: str = problem
        self.identity: str | None = None
        """The identity of the store, or None as long as it is not open, and if it keeps none."""
        self.refs: int = 0
        """Refs that it holds."""
        self.lacks: int = 0
        """Refs that it lacks."""
        self.page: list[Ref] = []
        """Refs that it holds and that have not been counted yet."""
        self._kept = SpooledTemporaryFile(1024 * 1024)  # noqa: SIM115  (closed by __exit__)
        self._keep_all = keep_all
        self._url = url
        self._store: Store | None = None
        self._after = Ref.ZERO

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kept.close()

    def lacking(self) -> Iterator[Ref]:
        """Return all refs that it lacks, or the first `SHOWN`, ascending."""
        self._kept.seek(0)
        while digest := self._kept.read(REF_SIZE):
            yield Ref(digest)

    async def open(self, stack: AsyncExitStack) -> None:  # noqa: ASYNC910  (it may be known not to open)
        """Open the store until `stack` is left, or note the problem."""
        if not self.problem:
            try:
                store = await stack.enter_async_context(self._url.to_read().open())
                self.identity = await read_identity(store)
                self._store = store
            except Exception as error:  # a store may raise anything
                self.problem = describe(error)

    async def next_page(self) -> None:  # noqa: ASYNC910  (there may be none to ask for)
        """Ask the store for its next page unless the last one is not counted yet. Note the problem if this fails."""
        if self._store is None or self.page:
            return  # noqa: ASYNC910  (likewise)
        try:
            self.page = check_page(await self._store.list_page(self._after, PAGE_SIZE), self._after, PAGE_SIZE)
        except Exception as error:  # a store may raise anything
            self.problem = describe(error)
        if self.page:
            self._after = self.page[-1]
        else:
            self._store = None  # it has shown all of its refs

    def count(self, refs: list[Ref]) -> None:
        """Count which of `refs`, the next refs of all stores, this one has."""
        size = bisect_right(self.page, refs[-1])
        held, self.page = set(self.page[:size]), self.page[size:]
        self.refs += size
        if size < len(refs):
            lacking = [ref for ref in refs if ref not in held]
            self._kept.write(b"".join(lacking if self._keep_all else lacking[: max(0, SHOWN - self.lacks)]))
            self.lacks += len(lacking)


async def survey(holdings: Sequence[Holdings]) -> None:
    """Count the refs that each store holds and lacks, in one pass over the pages of all.

    A store that fails does not stop the others. Its `Holdings.problem` has the reason.
    """
    async with AsyncExitStack() as stack:
        for one in holdings:
            await one.open(stack)
        while True:
            await concurrently(Holdings.next_page, list(holdings))
            refs = union([one.page for one in holdings])
            if not refs:
                break
            for one in holdings:
                one.count(refs)


def _look_at_outbox(stores: Stores) -> tuple[Mapping[str, NotedStore], Sequence[str], str]:
    """Return the stores that the outbox knows, lines on what is pending, and why it can't be looked at. Blocks.

    It is looked at once, so that the lines and the stores belong together, and a replica is waited for once.
    """
    if "outbox" not in stores.options:
        return {}, (), ""
    try:
        with looked_at_outbox(stores.outbox()) as outbox:
            return outbox.noted(), pending_lines(outbox, stores.async_) or [NOTHING], ""
    except ReplicaError as error:
        return {}, (), describe(error)


def _status_lines(holdings: Sequence[Holdings], problems: Mapping[str, str]) -> Iterator[str]:
    width = max(len("STORE"), *(len(one.name) for one in holdings))
    yield f"{'STORE':{width}}  {'KIND':5}  {'REFS':>10}  {'LACKS':>10}"
    for one in holdings:
        found = f"{one.refs:>10}  {one.lacks:>10}" if not one.problem else f"failed: {one.problem}"
        yield f"{one.name:{width}}  {one.kind:5}  {found}"
    yield from (f"{name}  {problem}" for name, problem in problems.items())
    for one in holdings:
        if one.lacks and not one.problem:
            yield f"{one.name} lacks"
            more = one.lacks
            for ref in one.lacking():
                yield f"  {ref}"
                more -= 1
            if more:
                yield f"  and {more} more, which --all prints"
