"""The names in a directory store: those of blobs, and those of files that are not blobs yet."""

from __future__ import annotations

import heapq
import itertools
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._blob import Ref

IDENTITY: Final = "store-id"
"""The file that has the identity. It is in the root and, if the blobs are apart, also in their folder."""

SESSION: Final = "session-mark"
"""The file that has the mark of the last session."""

APART: Final = "blobs-apart"
"""The file whose presence says that the folder of the blobs has the identity, too."""

_REF_DIGITS: Final = 64

_DIGITS: Final = frozenset("0123456789abcdef")

_TEMPORARY: Final = re.compile(r"trio-replica-[0-9a-f]{32}-[0-9]+")


@final
class TemporaryNames:
    """Names of temporary files, each of which is drawn once. No other program uses such names."""

    def __init__(self) -> None:
        self._session = secrets.token_hex(16)
        self._numbers = itertools.count()

    def draw(self) -> str:
        """Return the next name."""
        return f"trio-replica-{self._session}-{next(self._numbers)}"


def is_temporary(name: str) -> bool:
    """Return whether a name is one that `TemporaryNames` draws, in this process or another."""
    return _TEMPORARY.fullmatch(name) is not None


def folder_of(blobs: str, ref: Ref) -> str:
    """Return the folder that a blob is in."""
    digits = ref[:2].hex()
    return f"{blobs}/{digits[:2]}/{digits}"


def path_of(blobs: str, ref: Ref) -> str:
    """Return the path of a blob's file."""
    return f"{folder_of(blobs, ref)}/{ref}"


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a name, without following a symbolic link; None if nothing has the name."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def no_folder_above(folder: str) -> str | None:
    """Return what has the name of a blob's folder, or of the one above it, and is no folder; None if there is nothing.

    A symbolic link is no folder, because it may lead into another store.
    """
    for path in (os.path.dirname(folder), folder):
        status = status_of(path)
        if status is None:
            return None
        if not stat.S_ISDIR(status.st_mode):
            return path
    return None


def own_status_of(blobs: str, ref: Ref) -> os.stat_result | None:
    """Return the status of the name of a blob; None if nothing has the name, or only a link leads there."""
    status = status_of(path_of(blobs, ref))
    return None if status is None or no_folder_above(folder_of(blobs, ref)) else status


def is_blob(status: os.stat_result | None) -> bool:
    """Return whether a directory entry with the name of a blob is a blob, which is a regular file."""
    return status is not None and stat.S_ISREG(status.st_mode)


def is_folder(path: str) -> bool:
    """Return whether a path is a folder or a link to one. Raises `OSError` if it can't be read."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def landmark(root: str) -> str:
    """Return a path that exists only if there is a store in a folder: its identity, or a folder of blobs.

    A store of another program has no identity. If its folder of all blobs is empty, it is not a store, because another
    disk may have to be mounted there.

    Raises:
      OSError: if the system refuses.

    """
    blobs = f"{root}/blobs"
    places = [f"{root}/{IDENTITY}", f"{root}/{APART}", f"{blobs}/{IDENTITY}"]
    for path in places:
        if status_of(path) is not None:
            return path
    if not is_folder(blobs):
        return blobs
    for entry in _entries(blobs, "", 2):
        if entry.is_dir(follow_symlinks=False):
            return entry.path
    return places[0]


def folders_in(folder: str, prefix: str, first: str = "") -> list[str]:
    """Return the names in a folder that name folders of blobs, in order, starting at the beginning of `first`.

    They have two digits more than `prefix`, with which they begin. Symbolic links are left out.
    """
    length = len(prefix) + 2
    return sorted(
        entry.name
        for entry in _entries(folder, prefix, length)
        if entry.name >= first[:length] and entry.is_dir(follow_symlinks=False)
    )


def blobs_in(folder: str, prefix: str, first: str, limit: int) -> list[str]:
    """Return up to `limit` names of blobs in a folder, in order, starting at `first`."""
    names = (
        entry.name
        for entry in _entries(folder, prefix, _REF_DIGITS)
        if entry.name >= first and entry.is_file(follow_symlinks=False)
    )
    return heapq.nsmallest(limit, names)


def other_blobs_in(folder: str, prefix: str, limit: int) -> tuple[int, list[str]]:
    """Count the names in a folder that look like blobs but belong to something else, and return up to `limit`."""
    count, names = 0, []
    for entry in _entries(folder, prefix, _REF_DIGITS):
        if not entry.is_file(follow_symlinks=False):
            count += 1
            if count <= limit:
                names.append(entry.name)
    return count, sorted(names)


def other_folders_in(folder: str, prefix: str) -> list[str]:
    """Return the names in a folder, two digits longer than `prefix`, that name folders and that something else has."""
    entries = _entries(folder, prefix, len(prefix) + 2)
    return sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))


def _entries(folder: str, prefix: str, length: int) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder with names of `length` digits after `prefix`; nothing if it is not a folder."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if len(name) == length and name.startswith(prefix) and _DIGITS.issuperset(name):
                yield entry
