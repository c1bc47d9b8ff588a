"""The reads of a directory store. They block, and run in the store's threads, several at once."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, final

import outcome

from ..._blob import Ref
from ..._errors import BlobNotFoundError
from .names import (
    blobs_in,
    folders_in,
    is_blob,
    no_folder_above,
    other_blobs_in,
    other_folders_in,
    path_of,
    status_of,
)
from .stored import read_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .place import Place

READ_AT_LEAST: Final = 64 * 1024
"""Bytes to ask for when a file no longer has the size that it had."""


class Taken(NamedTuple):
    """Names of the store that are taken by something else."""

    refs_count: int
    """The number of names of blobs that something else has: a folder, a symbolic link, a pipe."""
    refs: list[Ref]
    """The first of them."""
    folders: list[str]
    """Names of folders of blobs that something else has."""


@final
class BlobReads:
    """The reads of one directory store. They write nothing."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._plain_folders: set[bytes] = set()  # those that were no links, by the first two bytes of their refs

    def get(self, ref: Ref) -> bytes:
        """Return a blob.

        Raises:
          BlobNotFoundError: if no file has its name.
          BlobTooLargeError: if it has more bytes than `max_memory`.
          OSError: if the system refuses, or the store has vanished.

        """
        return self._found(ref, self._read(ref, _read))

    def get_stored(self, ref: Ref) -> bytes:
        """Return a blob as it is on the disk. Raises what `get` raises."""
        return self._found(ref, self._read(ref, read_stored))

    def get_all(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return those of many blobs that are there."""
        ended = {ref: self._read(ref, _read) for ref in dict.fromkeys(refs)}
        found = {ref: data for ref, data in ended.items() if data is not None}
        if len(found) < len(ended):
            self._place.check_present()
        return found

    def contain(self, refs: Iterable[Ref]) -> list[outcome.Value[bool] | outcome.Error]:
        """Return for each ref whether its blob is there, or the error of looking at it."""
        answers = [outcome.capture(self._has, ref) for ref in refs]
        present = outcome.capture(self._place.check_present)
        return [present] * len(answers) if isinstance(present, outcome.Error) else answers

    def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs: see `Store.list_page`.

        It keeps at most `limit` names, and one more, of each folder of blobs, and passes over all others. To find the
        next names it has to read all names in each folder that it looks into, because a folder has no order.
        """
        first = str(after)
        names: list[str] = []
        blobs = self._place.blobs
        for top in folders_in(blobs, "", first):
            for folder in folders_in(f"{blobs}/{top}", top, first):
                names += blobs_in(f"{blobs}/{top}/{folder}", folder, first, limit + 1)
                if len(names) > limit:  # one more than enough, because the first may be `after` itself
                    break
            else:
                continue
            break
        self._place.check_present()
        return [Ref.from_hex(name) for name in names if name != first][:limit]

    def find_taken(self, digits: str, limit: int) -> Taken:
        """Return the taken names of the store that begin with two `digits`, but no more than `limit` of blobs."""
        top = f"{self._place.blobs}/{digits}"
        count, refs, folders = 0, list[Ref](), [top]
        status = status_of(top)
        if status is None or stat.S_ISDIR(
            status.st_mode
        ):  # else it may be a link to a folder, which is not looked into
            folders = [f"{top}/{name}" for name in other_folders_in(top, digits)]
            for folder in folders_in(top, digits):
                found, names = other_blobs_in(f"{top}/{folder}", folder, limit - len(refs))
                count += found
                refs += map(Ref.from_hex, names)
        self._place.check_present()
        return Taken(count, refs, folders)

    def _has(self, ref: Ref) -> bool:
        path = path_of(self._place.blobs, ref)
        return is_blob(status_of(path)) and not self._is_behind_link(ref, path)

    def _found(self, ref: Ref, data: bytes | None) -> bytes:
        if data is None:
            self._place.check_present()
            raise BlobNotFoundError(ref)
        return data

    def _read(self, ref: Ref, read: Callable[[int, int, Callable[[int], None]], bytes]) -> bytes | None:
        """Return the result of `read`, given an open file, its size and a check of sizes; None if there is no blob."""
        path = path_of(self._place.blobs, ref)
        try:
            # With NONBLOCK, opening a pipe, which is not a blob either, does not wait for its writer.
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NO_REGULAR_FILE:
                raise
            return None
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or self._is_behind_link(ref, path):
                return None
            self._check_size(status.st_size)
            return read(file, status.st_size, self._check_size)
        except OSError as error:
            error.filename = error.filename or path
            raise
        finally:
            os.close(file)

    def _is_behind_link(self, ref: Ref, path: str) -> bool:
        """Return whether only a symbolic link leads to a blob. Each folder is looked at once in a session."""
        folder = bytes(ref[:2])
        if folder in self._plain_folders:
            return False
        if no_folder_above(os.path.dirname(path)) is not None:
            return True
        self._plain_folders.add(folder)
        return False

    def _check_size(self, size: int) -> None:
        self._place.access.check_size(self._place.root, size)


_NO_REGULAR_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""The errors of opening a missing file, a path through a file, a symbolic link, or a socket."""


def _read(file: int, size: int, check: Callable[[int], None]) -> bytes:
    """Return the bytes of a file of `size` bytes, with one call, because another thread may run at each call.

    ``check(bytes)`` raises when there are too many.
    """
    data = os.read(file, size + 1)
    if len(data) == size:
        return data
    check(len(data))
    parts = io.BytesIO(data)  # a huge file needs several calls, as does one that has just changed
    parts.seek(0, io.SEEK_END)
    while data:
        del data  # to be the only copy
        data = os.read(file, max(size - parts.tell(), READ_AT_LEAST))
        check(parts.tell() + len(data))
        parts.write(data)
    return parts.getvalue()
