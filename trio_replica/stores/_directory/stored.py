"""Reading a file from the disk, past the system's cache."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_IS_LINUX: Final = sys.platform == "linux"

_CHUNK: Final = 1024 * 1024
"""Bytes to read at once: enough to keep a disk busy."""

_BLOCK: Final = 4096
"""Reads past the cache are a multiple of these bytes, the largest block of a disk."""

_NOTHING_TO_SYNC: Final = frozenset({errno.EROFS, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


def read_stored(file: int, size: int, check: Callable[[int], None]) -> bytes:
    """Return the bytes on the disk of an open file of `size` bytes; ``check(bytes)`` raises when there are too many.

    Two ways lead past the system's cache. Neither works everywhere, so both are used. The system is asked to drop its
    cached pages, but it keeps those that a process has mapped. Reads are also made direct, but a file system that
    journals content accepts this and reads from the cache all the same. Together they worked on Linux 6.18, on XFS,
    overlays, and ext4. With ``data=journal`` they worked if no process had the file mapped. A file system that has no
    disk in this kernel (tmpfs, FUSE, network file systems) answers from its own cache.
    """
    is_direct = _set_direct(file, True)
    _forget_cached(file, is_direct)
    data = io.BytesIO()
    with mmap.mmap(-1, min(_CHUNK, (size // _BLOCK + 1) * _BLOCK)) as buffer, memoryview(buffer) as view:
        while True:
            try:
                count = os.readv(file, [view])
            except OSError as error:
                # The last bytes of a file may not be readable directly, and a file system may refuse only now.
                if error.errno != errno.EINVAL or not is_direct:
                    raise
                is_direct = _set_direct(file, False)
                _forget_cached(file, is_direct)
                continue
            if not count:
                return data.getvalue()
            check(data.tell() + count)
            data.write(view[:count])


def _forget_cached(file: int, is_direct: bool) -> None:
    """Have the system drop its cached content of a file.

    Only content that is on the disk can be dropped. A direct read writes the rest. For other reads it is written now,
    which may take milliseconds even if there is nothing to write.
    """
    if not _IS_LINUX:
        return
    if not is_direct:
        try:
            os.fdatasync(file)
        except OSError as error:
            if error.errno not in _NOTHING_TO_SYNC:
                raise
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _set_direct(file: int, wanted: bool) -> bool:
    """Make reads of a file go past the cache, or through it, and return whether they go past it."""
    if not _IS_LINUX:
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError:  # not on this file system
        return False
    return wanted
