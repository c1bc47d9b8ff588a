"""The files of an open database: checking that each still has its name and its content, and closing it if not.

SQLite goes on with a file that was removed, or whose name was given to another file. A commit to a log that has no name
is lost. SQLite makes the next checkpoint when the last connection closes, if not before. It then writes that log over
the pages that another process has written since, and removes that process's log by its name. It also goes on with a log
that was truncated. The next commit leaves a hole in it, and the next checkpoint writes zeros over the database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, final

from ..._errors import ReplicaError
from ..._sqlite_connection import READING, USING_INDEX, close_without_checkpoint, is_locked_elsewhere
from ..._sqlite_files import PinnedFile, identity_of, status_of
from .index import BYTES, LogIndex

if TYPE_CHECKING:
    from collections.abc import Generator

DESCRIPTORS: Final = "/proc/self/fd"
"""The folder in which Linux lists the descriptors of this process."""

NAME_SECONDS: Final = 0.5
"""Seconds for which another process may hold a lock on a database without one on the index of its log."""


@final
class DatabaseFiles:
    """The database, its log, and the index of the log, as SQLite has them open in this process.

    All threads of a store use one object, without a lock, because it would be held during calls of the system.
    So a check compares only what it has read itself, and no check takes back a loss that another one has found.

    Once one of them has lost its name, or some of its content, `check` fails for good. Another process may have begun a
    log of its own. A checkpoint of this process would then write the rest of its log over the database.
    """

    def __init__(self, path: str) -> None:
        """Find the file that SQLite has just opened under `path`, before it has read anything.

        Raises:
          ReplicaError: if it has lost its name already.

        """
        self._path = path
        self._loss: str | None = None
        self._log: PinnedFile | None = None  # None until `find_log`
        self._index: PinnedFile | None = None
        self._database = self._find(path)
        self._files = [self._database]
        self._known: LogIndex | None = None  # the last one that the files were found to agree with
        self._is_comparable = False  # whether the index is known to describe the log and the database

    def find_log(self, connection: sqlite3.Connection) -> None:
        """Find the log and its index, which SQLite has open once it has read something. Call it in a transaction.

        Raises:
          ReplicaError: if one of them has lost its name already.

        """
        self._log, self._index = map(self._find, _beside(connection))
        self._files = [self._database, self._log, self._index]
        self._is_comparable = True

    def find_log_if_any(self, connection: sqlite3.Connection) -> None:
        """Find the log and its index if they exist. Their contents are not compared.

        A connection that can't write to the index ignores it if no other process writes to the database.

        Raises:
          ReplicaError: if one of them has lost its name already.

        """
        self._log, self._index = [None if status_of(name) is None else self._find(name) for name in _beside(connection)]
        self._files = [file for file in (self._database, self._log, self._index) if file is not None]

    def check_one_name(self, *, patience: float = NAME_SECONDS) -> None:
        """Check that no other process uses the database under another name. Call it after `find_log`.

        SQLite keeps a log beside each name, so the puts of one process are lost to the other. Each connection holds
        a lock on the database and one on the index of its log, except for a moment while it opens or closes.

        Raises:
          ReplicaError: if another process uses another name.

        """
        deadline = time.monotonic() + patience
        while self._database.links > 1 and self._is_used_with_another_log():
            if time.monotonic() > deadline:
                raise ReplicaError(
                    f"{self._path}: another program uses the database under another name (a hard link), where SQLite "
                    "has another log: use one name only"
                )
            time.sleep(0.005)

    def _is_used_with_another_log(self) -> bool:
        index = self._index
        return (
            self._database.descriptor is not None
            and is_locked_elsewhere(self._database.descriptor, READING)
            and (index is None or index.descriptor is None or not is_locked_elsewhere(index.descriptor, USING_INDEX))
        )

    @property
    def identity(self) -> tuple[int, int]:
        """The device and inode numbers of the database."""
        return self._database.identity

    @property
    def log_size(self) -> int:
        """The bytes of the log when it was last checked."""
        assert self._log is not None
        return self._log.size

    def check(self) -> None:
        """Check that each file still has its name, and has not been truncated or overwritten.

        Raises:
          ReplicaError: if one is lost, now or at an earlier check.
          OSError: if the system does not tell.

        """
        if self._loss is None and (found := self._found_loss()) is not None:
            self._loss = found
        if self._loss is not None:  # or another thread has found it in the meantime
            raise ReplicaError(self._loss)

    def check_log(self) -> None:
        """Check quickly, before a transaction, that the log has not been truncated since the last `check`.

        Raises:
          ReplicaError: if a file is lost.
          OSError: if the system does not tell.

        """
        data, known = self._read_index(), self._known
        log = self._log.descriptor if self._log is not None else None
        if data is None or log is None or known is None or known.data != data or not known.is_end_in(log):
            self.check()

    def check_names(self) -> None:
        """Check that each file still has its name, and that the database has not been truncated since the last `check`.

        Raises:
          ReplicaError: if a file is lost.
          OSError: if the system does not tell.

        """
        known = self._known
        size, loss = self._look()
        if loss is not None:
            self._loss = loss
        if self._loss is not None or (known is not None and size < known.database_size):
            self.check()

    def close(self, connection: sqlite3.Connection) -> None:
        """Close the last connection, with a checkpoint as SQLite makes it, unless a file is lost."""
        try:
            if self._log is None:
                self.find_log_if_any(connection)
            self.check()
        except (ReplicaError, OSError, sqlite3.Error):
            # The descriptor found first may belong to another store, which may be closed by now.
            close_without_checkpoint(connection, _open_descriptors().get(self._database.identity))
        else:
            connection.close()

    def _found_loss(self) -> str | None:
        while True:
            data = self._read_index()
            size, loss = self._look()
            short = None if loss is not None or data is None else self._short_file(data, size)
            if short is None:
                return loss
            # Other processes may have written to the files between two of these steps. Each of them would have written
            # to the index, too.
            if not self._has_found_descriptors() and data == self._read_index():
                return self._describe(short.path, "truncated or overwritten")

    def _look(self) -> tuple[int, str | None]:
        """Return the bytes of the database, and which file has lost its name, or None if none has."""
        sizes = []
        for file in self._files:
            status = file.look()
            if status is None:
                return 0, self._describe(file.path, "removed or replaced")
            sizes.append(status.st_size)
        return sizes[0], None

    def _read_index(self) -> bytes | None:
        """Return the beginning of the index, or None if the files are not to be compared."""
        descriptor = self._index.descriptor if self._is_comparable and self._index is not None else None
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, BYTES, 0)
        except OSError:
            if not self._has_found_descriptors():
                raise
        return self._read_index()

    def _short_file(self, data: bytes, database_size: int) -> PinnedFile | None:
        """Return a file that lacks content which it had according to the index, or None."""
        if len(data) < BYTES:
            return self._index
        known, log = self._known, self._log
        index = known if known is not None and known.data == data else LogIndex(data)
        if database_size < index.database_size:
            return self._database
        assert log is not None
        descriptor = log.descriptor
        if descriptor is None:
            return None
        # If the log was truncated and then written to, it has a hole at the beginning.
        if not index.is_end_in(descriptor) or (index is not known and not index.is_beginning_in(descriptor)):
            return log
        self._known = index
        return None

    def _has_found_descriptors(self) -> bool:
        """Find the descriptors again that SQLite has closed, and return whether there were any.

        Each connection has its own. Those that were found may belong to another store, which may be closed by now.
        """
        stale = [file for file in self._files if file.descriptor is not None and not file.has_its_descriptor()]
        descriptors = _open_descriptors()
        for file in stale:
            file.descriptor = descriptors.get(file.identity)
        return bool(stale)

    def _find(self, name: str) -> PinnedFile:
        status = status_of(name)
        descriptors = _open_descriptors()
        if status is not None:
            descriptor = descriptors.get(identity_of(status))
            if descriptor is not None or not descriptors:
                return PinnedFile(name, descriptor)
        self._loss = self._describe(name, "removed or replaced")
        raise ReplicaError(self._loss)

    def _describe(self, name: str, what: str) -> str:
        if name == self._path and what == "removed or replaced":
            return f"the database has vanished: {name}"
        return (
            f"{self._path}: {os.path.basename(name)} was {what} while the database was open, and its content may "
            "be lost: end all programs that use the database, open it again, and reconcile"
        )


def drop_cached(path: str) -> None:
    """Have the system drop its cached pages of an open database and its log, so that the disk is read again.

    Pages that are not on the disk yet stay cached. If SQLite's descriptors are not known, this does nothing.
    """
    descriptors = _open_descriptors()
    real = os.path.realpath(path)
    for status in map(status_of, (real, f"{real}-wal")):
        descriptor = descriptors.get(identity_of(status)) if status is not None else None
        if descriptor is not None:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def lacks_log(path: str) -> bool:
    """Return whether a database that is not open here has an index of its log, but no log.

    SQLite never leaves this behind, so another program has removed the log.
    """
    real = os.path.realpath(path)
    return not is_missing(f"{real}-shm") and is_missing(f"{real}-wal")


def check_removed_log(connection: sqlite3.Connection, path: str) -> None:
    """Check that no process still uses the log that was removed.

    This is the first thing that the connection does. SQLite starts the index again if no process uses it. Otherwise the
    index that is left describes the removed log. SQLite then looks in the new log for the pages of the old one, and the
    pages that it writes there are lost after a crash.

    Raises:
      ReplicaError: if a process still uses the removed log.

    """
    ((_, pages, written_back),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    if pages != written_back:
        raise ReplicaError(_REMOVED_LOG.format(path))


@contextmanager
def explaining_removed_log(path: str) -> Generator[None, None, None]:
    """Explain in one line the error that a log has fewer pages than its index says."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHORT_READ:
            raise
        raise ReplicaError(_REMOVED_LOG.format(path)) from None


@contextmanager
def explaining_unwritable(path: str) -> Generator[None, None, None]:
    """Add the remedy to the error that a database which can be read can't be opened to be written."""
    try:
        yield
    except sqlite3.OperationalError as error:
        is_refusal = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
        is_writable = all(os.access(name, os.W_OK) for name in (path, os.path.dirname(os.path.realpath(path))))
        if not is_refusal or is_writable or not os.access(path, os.R_OK):
            raise
        explained = type(error)(
            f"{error.sqlite_errorname}: {error}: {path}: the database or its folder can't be written: get permission, "
            "or open the store with read_only=True to read its blobs"
        )
        explained.__dict__.update(error.__dict__)
        raise explained from None


_REMOVED_LOG: Final = (
    "{}: its -wal was removed, and this or another program still uses it: end that one, open the database again, and "
    "reconcile, because the content of the -wal may be lost"
)


def is_missing(path: str) -> bool:
    """Return whether a path is known to be free. If the system refuses to say, it may be taken."""
    try:
        return status_of(path) is None
    except OSError:
        return False


def _beside(connection: sqlite3.Connection) -> list[str]:
    """Return the paths of the log and its index."""
    ((_, _, file),) = connection.execute("PRAGMA database_list").fetchall()
    return [f"{file}-wal", f"{file}-shm"]


def _open_descriptors() -> dict[tuple[int, int], int]:
    """Return the files that this process has open, each with a descriptor; empty if the system does not list them."""
    descriptors: dict[tuple[int, int], int] = {}
    with suppress(OSError):
        for number in map(int, os.listdir(DESCRIPTORS)):
            with suppress(OSError):  # the descriptor of the listing itself is closed by now
                descriptors[identity_of(os.fstat(number))] = number
    return descriptors
