"""Scrubbing stores: finding corrupt blobs in one, and repairing them from another."""

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
    """Read every blob of every store, hash it again, and report what is corrupt.

    The stores are scrubbed at the same time, each with up to 16 reads under way, so up to 16 blobs of each are in
    memory, with `repair` twice as many, and a page of up to 1000 refs. A store that can look at itself as a whole does
    so first (`DeletableStore.check_integrity`, of SQLite). What fails in one place does not stop the rest.

    No store is believed for one answer alone. A blob is asked for with a get, and with `Store.contains` where the store
    has one of its own. Once all are read, the stores are listed again side by side, and each is asked for the blobs
    that others list and it does not. Where two answers differ, the finding has a `Contradiction`: a blob that is listed
    and not there, for example. A blob that a store does not list, and that no other store lists, is not looked for.

    With `repair`, a corrupt blob is replaced by the copy of the first other store that has a good one. Only once that
    is in hand, the bad bytes are set aside, where the store can (`DeletableStore.set_aside`), and replaced, at once
    where the store can (`DeletableStore.replace`); then the blob is read again. Without a good copy, or if the bad
    bytes can't be set aside, nothing is touched. A blob that could not be read is not replaced. One that is deleted
    in the moment of its repair may come back. A contradiction is repaired by a put, and by ``replace`` if that does not
    end it: with the store's own bytes if a get finds them, else with the copy of another store.

    Returning means that all was read that could be; `ScrubReport.is_sound` tells whether all is well. Being cancelled
    leaves no blob half repaired, in stores whose ``replace`` is atomic, and nothing running; `on_progress` has told
    from where to go on.

    Args:
      stores: the stores, with names as in `open`; without names they are ``store-0``, ``store-1``, …. A replica may
        be open on them in the meantime.
      repair: whether to repair.
      after: the ref after which to begin.
      bytes_per_second: how many bytes to read from each store in a second, at most; None for no limit. It counts from
        blob to blob: a next read begins when the pace allows for those before it. SQLite's own check is not counted.
      on_progress: is called, not awaited, for every blob that was read and every page, with the counts of each store.
      on_finding: is called likewise for every finding, once its outcome is known. What either raises ends the scrub.

    Raises:
      ValueError: before anything is touched: if there is no store, a name or a store is given twice, two have one
        identity, or `bytes_per_second` is not more than 0.
      TypeError: likewise: if what is given for a store is none, or with `repair` no `DeletableStore`; or an argument
        is of another type.

    """
    named = named_peers(stores)
    check_ref(after)
    _check_rate(bytes_per_second)
    if repair:
        _check_repairable(named)
    await check_distinct(named)
    log = ScrubLog(list(named), on_progress, on_finding)
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
    """Scrub stores whose arguments have been checked, as `scrub` does, and note all of it in `log`."""
    await trio.lowlevel.checkpoint()
    scrubbed = [ScrubbedStore(name, store, log, bytes_per_second) for name, store in named.items()]
    raised: list[BaseException] = []

    async def run(one: ScrubbedStore) -> None:
        await one.run(after, scrubbed if repair else ())

    def settle(_: ScrubbedStore, ended: Ended[None]) -> bool:
        if isinstance(ended, outcome.Error):  # of a callback, for what a store raises is noted
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
                f"{name} is of type {type(store).__name__}, not a DeletableStore: to repair takes its replace"
            )
