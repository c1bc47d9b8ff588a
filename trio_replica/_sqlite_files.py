"""The files of a SQLite database: checking that they keep their names while it is open, and what may be opened."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from typing import Final, NamedTuple, Self, final

from ._errors import ReplicaError

_O_PATH: Final[int | None] = getattr(os, "O_PATH", None)
"""Linux's flag for a descriptor that stands for a file without opening it.

A process that closes any other descriptor of a file drops all its locks on that file, SQLite's included.
"""

_locked: Final[set[PinnedFile]] = set()
"""The locked files of this process. A forked process inherits their descriptors, but not the locks."""


@final
class PinnedFile:
    """A file that SQLite has open, identified by a descriptor and not by its name.

    No other file gets its number as long as the descriptor is open. Some file systems, such as overlays and FUSE, give
    a file another number while it is open. So if the name has another number, the descriptor is asked, too.
    """

    def __init__(self, path: str, descriptor: int | None) -> None:
        """Take a descriptor of a file that somebody else closes.

        Args:
          path: the name of the file.
          descriptor: one that SQLite has for it; None if the system does not list them. Then the name is believed.

        Raises:
          OSError: if the system refuses, for example because the file is missing.

        """
        status = os.stat(path) if descriptor is None else os.fstat(descriptor)
        self.path: str = path
        self.descriptor: int | None = descriptor
        self.identity: tuple[int, int] = identity_of(status)
        """Its device and inode numbers."""
        self.size: int = status.st_size
        """Its bytes when it was last looked at by its name."""
        self.modified: int = status.st_mtime_ns
        """The time of the last write to it, also as of then."""
        self.links: int = status.st_nlink
        """The number of names that it had when it was found."""
        self._is_own = False

    @classmethod
    def opened(cls, path: str) -> Self:
        """Pin a file by a descriptor that only stands for it.

        Raises:
          OSError: if the system refuses, for example because the file is missing.

        """
        return cls._owning(path, _stand_for(path))

    @classmethod
    def locked(cls, path: str) -> Self:
        """Pin a write-ahead log, and lock it.

        A database can't be locked, because SQLite has its own locks there, and loses them when any descriptor of the
        file is closed. The lock on a log excludes every other connection that locks it in this way. It does so even if
        the database was replaced, or if SQLite has lost its locks because other code in this process read the file.

        Raises:
          BlockingIOError: if it is locked already.
          OSError: if the system refuses, for example because the file is missing.

        """
        file = cls._owning(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        assert file.descriptor is not None
        _locked.add(file)
        try:
            fcntl.flock(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            pass  # the file system has no such locks, so only SQLite's are left
        return file

    @classmethod
    def _owning(cls, path: str, descriptor: int | None) -> Self:
        file = cls(path, descriptor)
        file._is_own = True
        return file

    def has_its_name(self) -> bool:
        """Return whether opening the name opens this file, and note its size and time: see `look`."""
        return self.look() is not None

    def look(self) -> os.stat_result | None:
        """Return the status that the name shows, and note its size and time. None if the name opens another file.

        Another thread may note an older size at any time. So compare the size that is returned.

        Raises:
          OSError: if the system does not tell.

        """
        # Look only at the name. Opening and closing the file of a database would drop this process's locks on it.
        try:
            named = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        identity = named.st_dev, named.st_ino
        if identity != self.identity:
            if not self._is_described_by(identity):
                return None
            self.identity = identity
        self.size, self.modified = named.st_size, named.st_mtime_ns
        return named

    def has_its_descriptor(self) -> bool:
        """Return whether the descriptor is still one of this file. Its owner may have closed it."""
        return self._is_described_by(self.identity)

    def _is_described_by(self, identity: tuple[int, int]) -> bool:
        descriptor = self.descriptor  # another thread may change it
        if descriptor is None:
            return False
        try:
            return identity_of(os.fstat(descriptor)) == identity
        except OSError:
            return False

    def close(self) -> None:
        """Stop pinning the file, which unlocks it. May be called again."""
        _locked.discard(self)
        if self._is_own and self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _share_no_locks() -> None:
    """Close the descriptors of locks in a forked process, which may outlive the process that holds the locks."""
    for file in tuple(_locked):
        file.close()


os.register_at_fork(after_in_child=_share_no_locks)


def check_regular(path: str) -> None:
    """Check that the names of a database and of its logs belong to regular files or to none.

    SQLite would write to a device or a pipe, and leave a journal beside it.

    Raises:
      ReplicaError: if one belongs to something else.

    """
    real = os.path.realpath(path)
    for name in (path, *(f"{real}{suffix}" for suffix in ("-wal", "-shm", "-journal"))):
        with suppress(OSError):  # SQLite will report it
            mode = os.stat(name).st_mode
            if not stat.S_ISREG(mode):
                kind = _KINDS.get(stat.S_IFMT(mode), "a device")
                raise ReplicaError(f"{name}: this is {kind}, not a regular file: name a file")


_KINDS: Final = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def check_single_name(path: str) -> None:
    """Check that a database has only one name, because its log is kept beside the name that is opened.

    If it were opened by another name after a crash, it would be used without its log. Symbolic links to its name or its
    folder do not count as other names, because SQLite follows them.

    Raises:
      ReplicaError: if it has hard links, or is mounted without its folder.

    """
    with suppress(OSError):  # SQLite will report it
        links = os.stat(path).st_nlink
        if links > 1:
            raise ReplicaError(
                f"{path}: the file has {links} names, and its log is beside only one of them: remove the "
                "other hard links, or name a copy"
            )
        real = os.path.realpath(path)
        if _mount_of(real) != _mount_of(os.path.dirname(real)):
            raise ReplicaError(
                f"{path}: the file is mounted without its folder, and so without its log: mount the folder instead"
            )


class Stamp(NamedTuple):
    """The properties of a database that change when it is written to."""

    identity: tuple[int, int]
    size: int
    modified: int
    changed: int


def stamp_of(path: str) -> Stamp | None:
    """Return a stamp that changes once a database is written to; None if it may have a log or be in use.

    The database is looked at first. A log that is written back and removed between the two looks changes the database,
    so a later stamp differs.

    Raises:
      OSError: if the system does not tell.

    """
    real = os.path.realpath(path)
    status = status_of(path)
    if status is None:
        return None
    log, index, journal = [status_of(f"{real}{suffix}") for suffix in ("-wal", "-shm", "-journal")]
    if (log and log.st_size) or (journal and journal.st_size) or (log and index):
        return None
    return Stamp(identity_of(status), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a file, or None if the path is free.

    Raises:
      OSError: if the system does not tell.

    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """Return the device and inode numbers of a file."""
    return status.st_dev, status.st_ino


def _stand_for(path: str) -> int | None:
    """Return a descriptor that stands for a file, or None if the system has no such descriptors."""
    return None if _O_PATH is None else os.open(path, _O_PATH | os.O_CLOEXEC)


def _mount_of(path: str) -> str | None:
    """Return the number of the mount that a file or folder is in, or None if the system does not tell."""
    file = _stand_for(path)
    if file is None:
        return None
    try:
        with open(f"/proc/self/fdinfo/{file}", encoding="ascii") as lines:
            return next((line for line in lines if line.startswith("mnt_id:")), None)
    finally:
        os.close(file)
