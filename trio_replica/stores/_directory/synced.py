"""A memory of synced files and folders that notices when another program has changed or replaced them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable

TICK: Final = 0.05
"""Seconds within which two changes may get the same time. The kernel's clock for files ticks every 1 to 10 ms."""

COARSE_TICK: Final = 2.5
"""The same for a file system that keeps only whole or hundredth seconds. FAT keeps steps of 2 seconds."""

_HUNDREDTH: Final = 10_000_000  # nanoseconds


class Look(NamedTuple):
    """The state of a file or folder when it was looked at, before it is synced."""

    stamp: int
    """Differs for another file under the same name, and after each change."""
    since: float
    """When it was first seen in this state, on the monotonic clock."""
    is_settled: bool
    """Whether a change after this look would get a different time from the last one before it."""


@final
class Synced:
    """The files and folders that this session has synced, by any keys.

    Inode numbers are used again, and a file system may make them up, so a file is known by its times as well. The time
    of the last change can't be set. Two changes within one tick have the same time, though. So a file that was synced
    within a tick of its last change is not trusted, and is synced once more when it is used again.
    Several threads use it. A race between them costs one more fsync.
    """

    def __init__(self, limit: int, *, tick: float | None = None) -> None:
        self._limit = limit
        self._tick = tick
        self._known: dict[Hashable, Look] = {}

    def look(self, key: Hashable, status: os.stat_result) -> Look | None:
        """Return None if the file now under a name is synced; else the state to `note` once it has been synced."""
        now = time.monotonic()
        stamp = hash((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        known = self._known.get(key)
        if known is None or known.stamp != stamp:
            since = now
        elif known.is_settled:
            return None
        else:
            since = known.since
        return Look(stamp, since, now - since >= self._tick_of(status))

    def note(self, key: Hashable, look: Look | None) -> None:
        """Note that a file or folder has been synced since `look`, unless it already was."""
        if look is None:
            return
        if len(self._known) >= self._limit and key not in self._known:
            self._known.clear()
        self._known[key] = look

    def forget(self, key: Hashable) -> None:
        """Forget one."""
        self._known.pop(key, None)

    def _tick_of(self, status: os.stat_result) -> float:
        if self._tick is not None:
            return self._tick
        return TICK if status.st_ctime_ns % _HUNDREDTH else COARSE_TICK
