"""Scrubbing stores, which finds corrupt blobs in one store and repairs them from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import outcome
import trio

from .._blob import Ref
from .._calls.fan_out import fan_out
from .._checks import named_peers
from .._deletable import DeletableStore
from .._identity import check_distinct
from .._listing import check_ref
from .comparison import compare
from .scrub_report import ScrubCounts, ScrubFinding, ScrubLog, ScrubReport
from .scrubbed import ScrubbedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._calls.attempt import Ended
    from .._checks import Stores
    from .._store import Store


async def scrub(
    stores: Stores,
    *,
    repair: bool = False,
    after: Ref = Ref.ZERO,
    bytes_per_second: float | None = None,
    on_progress: Callable[[Mapping[str, ScrubCounts]], None] | None = None,
    on_finding: Callable[[ScrubFinding], None] | None = None,
) -> ScrubReport:
    """Read every blob of every store, hash it again, and report corrupt blobs.

    The stores are scrubbed at the same time, each with up to 16 reads in progress. So up to 16 blobs of each store are
    in memory, twice as many with `repair`, and a page of up to 1000 refs. Blobs are read from the medium, past
    caches as far as a store can (`DeletableStore.get_stored`, of directories). A store that can check itself as a
    whole does so first (`DeletableStore.check_integrity`, of directories and SQLite). A failure in one place does not
    stop the rest. A store that does not tell its identity is left out, because it may be another one by a second name.

    No single answer of a store is trusted. A blob is asked for with a get, and with `Store.contains` if the store
    has one of its own. Once all blobs are read, the stores are listed again side by side, and each store is asked for
    the blobs that only others list. If two answers differ, the finding has a `Contradiction`. For example, a blob is
    listed but not there. If one of these questions fails, that is a finding, too. A blob that no store lists is not
    looked for.

    With `repair`, a corrupt blob is replaced by the copy of the first other store that has a good one. Once the good
    copy is in memory, the bad bytes are set aside if the store can do that (`DeletableStore.set_aside`). Then they are
    replaced, atomically if the store can do that (`DeletableStore.replace`), and the blob is read again. If there is
    no good copy, or the bad bytes can't be set aside, nothing is changed. A blob that could not be read is not
    replaced. A blob that is deleted during its repair may come back. A contradiction is repaired by a put, and by
    ``replace`` if the put does not end it. The bytes are the store's own if a get finds them. Otherwise they come from
    another store.

    Returning means that every blob that could be read was read. `ScrubReport.is_sound` says whether all is well. Being
    cancelled leaves no blob half repaired in stores whose ``replace`` is atomic, and nothing running. To go on from
    there, use the last counts that `on_progress` got.

    Args:
      stores: an iterable of stores, which are named ``store-0``, ``store-1``, …, or a mapping of names to stores. A
        replica may be open on them at the same time.
      repair: whether to repair corrupt blobs.
      after: the ref after which to begin.
      bytes_per_second: the most bytes to read from each store in a second, or None for no limit. A read begins when the
        limit allows for the reads before it. SQLite's own check does not count.
      on_progress: a function, not async, that is called with the counts of each store after every blob and every page.
      on_finding: a function that is called with every finding, once its outcome is known. If either of these functions
        raises an exception, the scrub ends and raises it.

    Raises:
      ValueError: before anything is read, if there is no store, a name or a store is given twice, two have the
        same identity, or `bytes_per_second` is not more than 0.
      TypeError: before anything is read, if a store is not a `Store` (with `repair`, not a `DeletableStore`), or
        another argument has the wrong type.

    """
    named = named_peers(stores)
    check_ref(after)
    _check_rate(bytes_per_second)
    if repair:
        _check_repairable(named)
    log = ScrubLog(list(named), on_progress, on_finding)
    log.failures.update(await check_distinct(named))
    await scrub_into(log, named, repair=repair, after=after, bytes_per_second=bytes_per_second)
    return log.report()


async def scrub_into(
    log: ScrubLog,
    named: Mapping[str, Store],
    *,
    repair: bool = False,
    after: Ref = Ref.ZERO,
    bytes_per_second: float | None = None,
) -> None:
    """Scrub stores as `scrub` does, without checking the arguments, and note everything in `log`.

    A store that has failed before takes no part.
    """
    await trio.lowlevel.checkpoint()
    scrubbed = [
        ScrubbedStore(name, store, log, bytes_per_second) for name, store in named.items() if name not in log.failures
    ]
    raised: list[BaseException] = []

    async def run(one: ScrubbedStore) -> None:
        await one.run(after, scrubbed if repair else ())

    def settle(_: ScrubbedStore, ended: Ended[None]) -> bool:
        if isinstance(ended, outcome.Error):  # a callback raised it, because failures of stores are noted
            raised.append(ended.error)
        return bool(raised)

    await fan_out(scrubbed, run, settle)
    if raised:
        try:
            raise raised[0]
        finally:
            del raised
    await compare(scrubbed, log, after, to_repair=repair)


def _check_rate(rate: float | None) -> None:
    if rate is None:
        return
    if not isinstance(rate, (int, float)) or isinstance(rate, bool):
        raise TypeError(f"bytes_per_second is a number, or None for no limit, not {rate!r}")
    if not rate > 0:
        raise ValueError(f"bytes_per_second is more than 0, not {rate}")


def _check_repairable(stores: Mapping[str, Store]) -> None:
    for name, store in stores.items():
        if not isinstance(store, DeletableStore):
            raise TypeError(
                f"{name} is of type {type(store).__name__}, not a DeletableStore: a repair needs its replace method"
            )
