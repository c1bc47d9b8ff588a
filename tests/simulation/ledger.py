"""A record of the promises made: the puts that returned, and the entries that are pending for each async store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

from trio_replica import Ref

from .trace import require

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping

    from trio_replica._async.storage import Changes

    from .disks import Media
    from .outbox import DatabaseFile

BLOBS: Final = {Ref.of(data): data for data in (b"blob %d" % number for number in range(24))}
"""All blobs that there are: few, so that many puts are of one that is there, or on its way."""

REFS: Final = list(BLOBS)

NAMES: Final = {ref: f"b{number}" for number, ref in enumerate(REFS)}
"""Their names in a trace."""


def named(refs: Iterable[Ref]) -> str:
    """Return what some refs are called."""
    return " ".join(NAMES[ref] for ref in refs)


@final
@dataclass(eq=False)
class Put:
    """One put, of one blob or several."""

    refs: list[Ref]
    seqs: list[int] = field(default_factory=list)
    """The numbers of its entries."""


PUT: ContextVar[Put] = ContextVar("PUT")
"""The put that a client has under way: so that an outbox knows whose entries it is to write."""


@final
class Ledger:
    """The blobs acknowledged since the beginning, over all crashes."""

    def __init__(self, sync_media: dict[str, Media], async_media: dict[str, Media]) -> None:
        self.sync_media = sync_media
        self.async_media = async_media
        self.acknowledged: dict[Ref, None] = {}
        self.lost: dict[str, set[Ref]] = {name: set() for name in sync_media}
        """The blobs that each sync store had, and lost with all else. The replica is not to blame for these."""
        self.rotten: set[tuple[str, Ref]] = set()
        """The blobs that have rotted in a sync store."""

    def acknowledge(self, put: Put) -> None:
        """Note that a put has returned: every sync store has its blobs, and keeps them."""
        for ref in put.refs:
            self.acknowledged[ref] = None
            for name, media in self.sync_media.items():
                require(media.read(ref) is not None, "an acknowledged blob is in every sync store", name, NAMES[ref])
                is_durable = all(len(data or b"") == len(BLOBS[ref]) for data in media.possible(ref))
                require(is_durable, "an acknowledged blob survives a power cut", name, NAMES[ref])
                self.lost[name].discard(ref)

    def check_sync_stores(self) -> None:
        """Check that no sync store has lost what was acknowledged."""
        for name, media in self.sync_media.items():
            lacking = media.lacking(self.acknowledged) - self.lost[name]
            require(not lacking, "an acknowledged blob stays in every sync store", name, named(sorted(lacking)))

    def check_contents(self) -> None:
        """Check that all stores have what was put to them, but for what has rotted."""
        for name, media in (self.sync_media | self.async_media).items():
            wrong = [ref for ref in media.refs() if media.read(ref) != BLOBS[ref] and (name, ref) not in self.rotten]
            require(not wrong, "a store has what was put to it", name, named(wrong))

    def check_async_stores(self) -> None:
        """Check that every async store has everything, as it is when all has been delivered."""
        for name, media in self.async_media.items():
            lacking = sorted(media.lacking(self.acknowledged))
            require(not lacking, "an acknowledged blob comes to every async store", name, named(lacking))

    def check_all_stores(self) -> None:
        """Check that every store has everything, as it is when all has been reconciled."""
        for lost in self.lost.values():
            lost.clear()
        self.check_sync_stores()
        self.check_async_stores()

    def check_intact(self) -> None:
        """Check that everything is everywhere as it was put."""
        for ref in self.acknowledged:
            lacking = self.sync_media.keys() | self.async_media.keys()
            lacking -= self.holders(ref, lacking)
            require(not lacking, "a blob that is repaired is intact", NAMES[ref], *sorted(lacking))

    def holders(self, ref: Ref, names: Iterable[str]) -> set[str]:
        """Return which of some stores have a blob as it is."""
        media = self.sync_media | self.async_media
        return {name for name in names if media[name].read(ref) == BLOBS[ref]}

    def is_safe_without(self, lost: str, refs: Iterable[Ref]) -> bool:
        """Return whether some blobs are still in a sync store, whole and durable, when one is lost."""
        others = [media for name, media in self.sync_media.items() if name != lost]
        return all(any(media.possible(ref) == {BLOBS[ref]} for media in others) for ref in refs)

    @property
    def rotten_stores(self) -> set[str]:
        return {name for name, _ in self.rotten}

    def rot(self, draw: random.Random, name: str) -> Ref | None:
        """Let a blob of a sync store rot that is safe in another, and return its ref, if there is one."""
        media = self.sync_media[name]
        acknowledged = [ref for ref in media.refs() if ref in self.acknowledged]
        safe = [ref for ref in acknowledged if self.is_safe_without(name, [ref])]
        if not safe:
            return None
        ref = draw.choice(safe)
        media.rot(ref)
        self.rotten.add((name, ref))
        return ref

    def lose(self, name: str) -> None:
        """Empty a sync store."""
        self.lost[name].update(self.sync_media[name].refs())
        self.sync_media[name].clear()


@final
class Entries:
    """The entries pending in one session, as the session was told. The outbox has to report the same."""

    def __init__(self, file: DatabaseFile) -> None:
        self.changes = 0
        """How often it has been told of any."""
        self._file = file
        self._rows = _rows(file)
        self._opening = set(self._rows)
        self._acknowledged: set[int] = set()
        self._asked: set[tuple[int, int]] = set()  # to be dropped
        self._dropped: set[tuple[int, int]] = set()
        self._ids: Mapping[str, int] = {}
        self._last = 0  # the highest number of an entry that was asked for
        before = _watermark(file)
        self._in_doubt = {seq for _, seq in self._rows if seq >= before or _is_in_doubt(file, seq)}

    def begin(self) -> None:
        """Know the numbers of the stores: the outbox has been opened."""
        self._ids = _ids(self._file)
        certain = [seq for seq in self._in_doubt if not _is_in_doubt(self._file, seq)]
        require(not certain, "an entry stays in doubt as long as it is there", *certain)

    def asked(self, changes: Changes) -> None:
        """Note whose entries are to be written, and which may be dropped from now on."""
        self._asked.update(_dropped(changes))
        if changes.seqs:
            PUT.get().seqs = [*changes.seqs]
            self._last = max(self._last, *changes.seqs)

    def told(self, changes: Changes) -> None:
        """Take over changes that are said to be durable."""
        self.changes += 1
        for seq, ref in zip(changes.seqs, changes.refs, strict=True):
            self._rows.update({(store, seq): ref for store in changes.stores})
        for entry in _dropped(changes):
            self._rows.pop(entry, None)
            self._dropped.add(entry)

    def acknowledge(self, put: Put) -> None:
        """Note that a put has returned: all its entries are durable."""
        self._acknowledged.update(put.seqs)
        for name, number in self._ids.items():
            rows = [self._rows.get((number, seq)) for seq in put.seqs]
            require(rows == put.refs, "a put whose entries are not on the disk does not return", name, named(put.refs))

    def rows(self, name: str) -> list[int]:
        """Return the numbers of all entries of a store, those of puts that failed included."""
        return [seq for store, seq in self._rows if store == self._ids[name]]

    def pending(self, name: str) -> dict[int, Ref]:
        """Return what is pending for a store, by the numbers: entries of puts that have ended."""
        number = self._ids[name]
        return {
            seq: ref
            for (store, seq), ref in self._rows.items()
            if store == number and (seq in self._acknowledged or (store, seq) in self._opening)
        }

    def check_file(self) -> None:
        """Check that what was said to be durable is on the disk."""
        rows = _rows(self._file)
        lost = self._rows.keys() - rows.keys() - self._asked
        require(not lost, "an entry that was written is on the disk", *sorted(lost))
        require(not self._dropped & rows.keys(), "an entry that was dropped is not on the disk any more")

    def check_watermark(self) -> None:
        """Check that nothing will be in doubt, as it is when all puts have ended and this was committed."""
        watermark = _watermark(self._file)
        require(watermark > self._last, "a clean exit leaves nothing in doubt", watermark, self._last)


def _dropped(changes: Changes) -> list[tuple[int, int]]:
    return [(store, seq) for store, seqs in changes.acknowledgements for seq in seqs]


def _rows(file: DatabaseFile) -> dict[tuple[int, int], Ref]:
    rows = _selected(file, "SELECT store, seq, ref FROM entries")
    return {(store, seq): Ref(ref) for store, seq, ref in rows}


def _ids(file: DatabaseFile) -> dict[str, int]:
    return dict(_selected(file, "SELECT name, id FROM stores WHERE role = 'async'"))


def _watermark(file: DatabaseFile) -> int:
    """Return the number below which all puts had ended; 1 if there is no outbox yet."""
    return next((watermark for (watermark,) in _selected(file, "SELECT watermark FROM meta")), 1)


def _is_in_doubt(file: DatabaseFile, seq: int) -> bool:
    return any(first <= seq < after for first, after in _selected(file, "SELECT first, after FROM in_doubt"))


def _selected(file: DatabaseFile, statement: str) -> list[Any]:
    if file.content is None:
        return []
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(file.content)
        return connection.execute(statement).fetchall()
