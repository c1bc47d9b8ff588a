"""Removing the temporary files that killed processes left."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from .names import is_temporary

if TYPE_CHECKING:
    from .names import TemporaryNames

LEFTOVER_AGE: Final = 24 * 60 * 60
"""Seconds after which a temporary file counts as left by a killed process."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def remove_leftovers(names: TemporaryNames, root: str, *inner: str) -> None:
    """Remove the temporary files that a killed process left in a folder, which is `root` or inside it.

    It removes only regular files with names that only a store draws, and only those that are a day older than a file
    that is created now in the same folder. The clock of its file system may differ from that of this machine. It
    follows no symbolic link but `root` itself, which the caller knows to lead to a folder of the store.
    """
    folder = os.open(root, _FOLDER)
    try:
        for name in inner:
            try:
                inside = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError:  # a symbolic link, for example
                return
            os.close(folder)
            folder = inside
        _remove_old(folder, names.draw())
    finally:
        os.close(folder)


def _remove_old(folder: int, new: str) -> None:
    now: float | None = None
    with os.scandir(folder) as entries:  # there may be millions, so none is kept
        for entry in entries:
            if is_temporary(entry.name) and entry.is_file(follow_symlinks=False):
                now = _time_in(folder, new) if now is None else now
                with suppress(FileNotFoundError, PermissionError):  # removed by another process; or another user's
                    if now - entry.stat(follow_symlinks=False).st_mtime > LEFTOVER_AGE:
                        os.unlink(entry.name, dir_fd=folder)


def _time_in(folder: int, new: str) -> float:
    """Return the time that a file created now has."""
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        os.unlink(new, dir_fd=folder)
