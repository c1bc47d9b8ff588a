"""The mounts over the folders of blobs, and noticing that they have changed."""

from __future__ import annotations

import os
import re
import select
import threading
from contextlib import suppress
from typing import Final, NamedTuple, final

TABLE: Final = "/proc/self/mountinfo"
"""The file in which Linux lists the mounts that this process sees, one a line: see proc_pid_mountinfo(5)."""

_ESCAPED: Final = re.compile(rb"[ \t\n\\]")
"""The bytes of a path that are octal numbers in that file."""


class Mounted(NamedTuple):
    """The mounts that hide blobs of a store."""

    over_blobs: bool
    """Whether something is mounted over the folder of all blobs."""
    over_temporary: bool
    """Whether something is mounted over the folder of temporary files."""
    inside: str
    """A folder in it, or a file, that something is mounted over. Empty if there is none."""


NOTHING: Final = Mounted(over_blobs=False, over_temporary=False, inside="")


@final
class Mounts:
    """A watch over the mounts that hide blobs of one store.

    A folder of the same file system may be mounted there, so the number of the device does not show it. On Linux the
    list of mounts does. A `poll` tells that it has changed since the last one, so usually a look costs one system call.
    Elsewhere no mount is found.
    """

    def __init__(self, root: str, *, table: str = TABLE) -> None:
        self._root = root
        self._lock = threading.Lock()  # a poll reports each change once, to one thread
        self._poll = select.poll()
        self._mounted: Mounted | None = None
        self._table: int | None = None
        with suppress(OSError):  # not on this system
            self._table = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._table, select.POLLPRI)

    def close(self) -> None:
        """Stop watching."""
        table, self._table = self._table, None
        if table is not None:
            os.close(table)

    def look(self) -> Mounted:
        """Return which mounts hide blobs now."""
        if self._table is None:
            return NOTHING
        with self._lock:
            if self._poll.poll(0) or self._mounted is None:
                self._mounted = None  # also if it can't be read, so that the next look reads it
                self._mounted = _find(self._root, _read(self._table))
            return self._mounted


def _read(table: int) -> bytes:
    parts = []
    os.lseek(table, 0, os.SEEK_SET)
    while part := os.read(table, 65536):
        parts.append(part)
    return b"".join(parts)


def _find(root: str, table: bytes) -> Mounted:
    root = os.path.realpath(root).rstrip("/")
    over_blobs, over_temporary = [_mounted(f"{root}/{name}", b"", table) is not None for name in ("blobs", "tmp")]
    # If it is a link, it leads to another path. Files set aside may be on a file system of their own.
    inside = _mounted(os.path.realpath(f"{root}/blobs"), rb"/[0-9a-f]{2}(?:/[^ \n]*)?", table)
    return Mounted(over_blobs=over_blobs, over_temporary=over_temporary, inside=inside or "")


def _mounted(path: str, rest: bytes, table: bytes) -> str | None:
    """Return the first mount whose place is `path` followed by something that `rest` matches."""
    escaped = _ESCAPED.sub(lambda found: b"\\%03o" % ord(found[0]), os.fsencode(path))
    line = rb"^([^ \n]+) [^ \n]+ [^ \n]+ [^ \n]+ %b(%b) " % (re.escape(escaped), rest)
    for found in re.finditer(line, table, re.MULTILINE):
        if _is_in_sight(found[1], table):
            return path + os.fsdecode(found[2])
    return None


def _is_in_sight(number: bytes, table: bytes) -> bool:
    """Return whether paths lead to the mount with this number. Not if a folder above it was mounted over later.

    The list has hidden mounts, too. Each mount has the number of its parent, which its place is in. If another one is
    in the same parent, at a folder above that place, it came later, because otherwise it would be the parent.
    """
    mounts = {line[0]: (line[1], line[4]) for line in (row.split(b" ", 5) for row in table.split(b"\n")) if line[4:]}
    for _ in mounts:  # usually fewer, up to the root
        parent, place = mounts.get(number, (number, b""))
        if parent == number:
            break
        for other, (its_parent, above) in mounts.items():
            if its_parent == parent and other not in {number, parent} and place.startswith(above.rstrip(b"/") + b"/"):
                return False
        number = parent
    return True
