"""Reading a file as it is on the disk, and not as the system remembers it."""

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
"""Bytes to read at once: enough for a disk to be busy."""

_BLOCK: Final = 4096
"""Bytes that what is read past the cache is a multiple of: the largest block of a disk."""

_NOTHING_TO_SYNC: Final = frozenset({errno.EROFS, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


def read_stored(file: int, size: int, check: Callable[[int], None]) -> bytes:
    """Return what the disk has for an open file of `size` bytes; ``check(bytes)`` raises when these are too many.

    Two ways lead past the system's cache, and neither does everywhere, so both are taken. The system is told to forget
    what it has, which it does not do for pages that a process has mapped. And reads are to go to the disk directly,
    which is accepted, but not done, where a journal has the content of files. Together they worked on Linux 6.18, on
    XFS, overlays, and ext4, also with ``data=journal`` if no process had the file mapped. A file system that has no
    disk of its own in this kernel (tmpfs, FUSE, those of a network) answers from whatever it keeps.
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
    """Have the system forget the content of a file.

    Only what is on the disk can be forgotten. A direct read writes what is not; for others it is written now, which may
    take milliseconds also where there is nothing to write.
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
    """Have reads of a file go past the cache, or not, and return whether they do."""
    if not _IS_LINUX:
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError:  # not on this file system
        return False
    return wanted
