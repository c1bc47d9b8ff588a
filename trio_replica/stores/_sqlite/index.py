"""The index of a log (``-shm``), which says what the log and the database have to hold while the database is open.

SQLite documents its format (https://sqlite.org/walformat.html). Whoever commits to the log writes to the log first, and
to the index last. Whoever starts the log again or truncates it, for example by a checkpoint of another process
(``wal_checkpoint(TRUNCATE)``, ``journal_size_limit``), writes to the index first. Whoever truncates the database after
a VACUUM notes the end of the checkpoint last. So at no time may a file hold less than the index says.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple, Self

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


class LogIndex(NamedTuple):
    """An index as it was when it was read."""

    page_size: int
    frames: int
    """Pages in the log that have been committed."""
    pages: int
    """Pages of the database after the last commit."""
    end: bytes
    """The salt and the checksum in the last frame of the log."""
    written_back: int
    """Pages of the log that are in the database, too, and on the disk."""

    @classmethod
    def parsed(cls, data: bytes) -> Self | None:
        """Return the index that begins with `data`, or None while a process writes its header."""
        if data[:_COPY] != data[_COPY : 2 * _COPY]:
            return None
        page_size, frames, pages, first, second, salt = _FIELDS.unpack_from(data)
        (written_back,) = struct.unpack_from("=I", data, 2 * _COPY)
        page_size = (page_size & 0xFE00) | (page_size & 1) << 16  # 1 stands for 65536
        return cls(page_size, frames, pages, salt + struct.pack(">II", first, second), written_back)

    @property
    def database_size(self) -> int:
        """The bytes that the database has at least."""
        if self.frames == self.written_back:
            return self.pages * self.page_size
        return self.page_size if self.frames else 0  # other pages may be only in the log

    def is_end_in(self, log: int) -> bool:
        """Return whether `log`, a descriptor, reads as a log with the header and last frame of this index."""
        if self.frames == self.written_back:
            return True  # it is not read any more, and the next commit begins it again
        last = _LOG_HEADER + (self.frames - 1) * (_FRAME_HEADER + self.page_size)
        try:
            frame, header = os.pread(log, _FRAME_HEADER, last), os.pread(log, _LOG_HEADER, 0)
        except OSError:
            return False
        return frame[8:] == self.end and header[_SALT] == self.end[:8]

    @property
    def log_size(self) -> int:
        """The bytes that the log has at least."""
        is_read = self.frames != self.written_back
        return _LOG_HEADER + self.frames * (_FRAME_HEADER + self.page_size) if is_read else 0
