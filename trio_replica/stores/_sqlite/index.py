"""The index of a log (``-shm``), which says what the log and the database have to hold while the database is open.

SQLite documents its format (https://sqlite.org/walformat.html). A process that commits writes to the log first, and
to the index last. A process that starts the log again or truncates it, for example by a checkpoint
(``wal_checkpoint(TRUNCATE)``, ``journal_size_limit``), writes to the index first. A process that truncates the database
after a VACUUM notes the end of the checkpoint last. So at no time may a file hold less than the index says.
"""

from __future__ import annotations

import os
import struct
from typing import Final, final

BYTES: Final = 100
"""Bytes at the beginning of an index: its header, a copy of it, and how much of the log has been written back."""

_COPY: Final = 48
"""Bytes of the header, after which its copy begins."""

_FIELDS: Final = struct.Struct("=14xHIIII8s")
"""The fields of the header that are used, in the byte order of the machine: page size, frames, pages, the two numbers
of the checksum of the last frame, and the salt."""

_LOG_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_SALT: Final = slice(16, 24)
"""Bytes of the header of a log that all of its frames repeat."""


@final
class LogIndex:
    """An index as it was when it was read."""

    __slots__ = ("_end", "_frame_size", "_last", "data", "database_size")

    def __init__(self, data: bytes) -> None:
        """Parse the beginning of an index."""
        self.data: bytes = data
        self.database_size: int = 0
        """The bytes that the database has at least."""
        self._last = self._frame_size = 0
        self._end = b""
        if data[:_COPY] != data[_COPY : 2 * _COPY]:
            return  # a process writes it right now
        page_size, frames, pages, first, second, salt = _FIELDS.unpack_from(data)
        (written_back,) = struct.unpack_from("=I", data, 2 * _COPY)
        page_size = (page_size & 0xFE00) | (page_size & 1) << 16  # 1 stands for 65536
        if frames == written_back:  # the log is not read any more, and the next commit begins it again
            self.database_size = pages * page_size
        elif frames:
            self.database_size = page_size  # other pages may be only in the log
            self._frame_size = _FRAME_HEADER + page_size
            self._last = _LOG_HEADER + (frames - 1) * self._frame_size
            self._end = salt + struct.pack(">II", first, second)

    def is_end_in(self, log: int) -> bool:
        """Return whether `log`, a descriptor, reads as a log with the whole last frame of this index."""
        if not self._end:
            return True
        try:
            frame = os.pread(log, self._frame_size, self._last)
        except OSError:
            return False
        return len(frame) == self._frame_size and frame[8:_FRAME_HEADER] == self._end

    def is_beginning_in(self, log: int) -> bool:
        """Return whether `log`, a descriptor, reads as a log with the header of this index."""
        if not self._end:
            return True
        try:
            return os.pread(log, _LOG_HEADER, 0)[_SALT] == self._end[:8]
        except OSError:
            return False
