"""A connection to a SQLite database: opening it, and closing it without a checkpoint."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sqlite3
import struct
from contextlib import suppress
from typing import Final
from urllib.parse import quote

LOCKED: Final = "mode=ro"
"""To read with SQLite's locks. It needs the log and the index of the log, and creates them if it may."""

IMMUTABLE: Final = "mode=ro&immutable=1"
"""To read without locks and without the log. Use it only for a database that has no log and is not written to."""

READING: Final = (0x40000000 + 2, 510)
"""The first byte and the length of the part of a database that every connection to it locks (SQLite's os.h)."""

USING_INDEX: Final = (128, 1)
"""The same for the index of a log (UNIX_SHM_DMS in SQLite's os_unix.c)."""

_NO_CHECKPOINT_ON_CLOSE: Final = 1006
"""SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE (https://sqlite.org/c3ref/c_dbconfig_defensive.html), which Python 3.11 lacks."""


def connect(path: str, parameters: str | None) -> sqlite3.Connection:
    """Connect to a database, with parameters of a URI. Without parameters, the database is created if it is missing."""
    name = path if parameters is None else f"file://{quote(os.fsencode(path))}?{parameters}"
    return sqlite3.connect(name, timeout=0, isolation_level=None, cached_statements=64, uri=parameters is not None)


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo the transaction, if there is one."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # SQLite may have rolled back already
            connection.execute("ROLLBACK")


def close_without_checkpoint(
    connection: sqlite3.Connection, descriptor: int | None = None, *, has_moved: bool = False
) -> None:
    """Close a connection, and leave the database and its log as they are, which may belong to another process by now.

    Where Python can't do that, the connection stays open until the process ends, and so do its locks.

    Args:
      connection: the last one that this process has to the database, without a transaction.
      descriptor: a descriptor that SQLite has for the database, if one is known. It can't be used if the connection has
        the database for itself (``locking_mode=EXCLUSIVE``).
      has_moved: whether the database has lost its name. Then SQLite itself makes no checkpoint.

    """
    if hasattr(connection, "setconfig"):  # from Python 3.12 on
        connection.setconfig(_NO_CHECKPOINT_ON_CLOSE, True)
    elif not has_moved and not _lock_shared(descriptor):
        _leave_open(connection)
        return
    connection.close()


def is_locked_elsewhere(descriptor: int, place: tuple[int, int]) -> bool:
    """Return whether another process has locked some of these bytes of a file. It changes no lock."""
    found = fcntl.fcntl(descriptor, fcntl.F_GETLK, _lock(fcntl.F_WRLCK, place))
    kind: int = struct.unpack_from("h", found)[0]
    return kind != fcntl.F_UNLCK


def _lock(kind: int, place: tuple[int, int]) -> bytes:
    """Return a ``struct flock``: kind, whence, first byte, number of bytes, process."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, *place, 0)


def _lock_shared(descriptor: int | None) -> bool:
    """Keep SQLite from getting the exclusive lock that it needs for a checkpoint on closing.

    A lock that belongs to an open file conflicts with the locks of its own process, unlike another lock of that
    process. It ends when SQLite closes the file.
    """
    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None or descriptor is None:
        return False
    try:
        fcntl.fcntl(descriptor, command, _lock(fcntl.F_RDLCK, READING))
    except OSError:
        return False
    return True


def _leave_open(connection: sqlite3.Connection) -> None:
    """Keep a connection open until the process has ended, even while the interpreter shuts down.

    A reference in a module would not be enough, because modules are cleared at the end.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
