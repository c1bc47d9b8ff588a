"""Finding and reading the files of a put. All of it blocks."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, final

from .._blob import Blob
from .._printable import printable
from .output import CommandError, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._blob import Ref

STANDARD_INPUT: Final = "-"

_READ_SIZE: Final = 1024 * 1024


class File(NamedTuple):
    """A file to be put, or a problem with it."""

    path: str
    size: int | None = None
    """Its length in bytes, or None if that is known only once it is read."""
    walked: bool = False
    """Whether it was found in a folder. If False, it was named."""
    problem: str = ""


@final
class OwnFiles:
    """The files of the stores and of the output, which are not put when they are found.

    Args:
      folders: folders of the stores, with everything in them.
      databases: SQLite databases. Nothing else may open their files, because closing one drops SQLite's locks.
      outputs: descriptors that are written to while the put goes on.

    """

    def __init__(self, folders: Iterable[str], databases: Iterable[str], outputs: Iterable[int]) -> None:
        self._folders = {os.path.realpath(folder) for folder in folders}
        self._databases = {
            os.path.realpath(database) + suffix for database in databases for suffix in ("", "-wal", "-shm", "-journal")
        }
        self._inodes = {_inode(os.stat(path)) for path in self._databases if os.path.exists(path)}
        self._outputs = {_inode(os.fstat(output)) for output in outputs}

    def has_folder(self, real_path: str) -> bool:
        """Return whether a folder belongs to a store."""
        return real_path in self._folders

    def has_path(self, real_path: str) -> bool:
        """Return whether a path is a store's folder, or within one."""
        return any(os.path.commonpath((folder, real_path)) == folder for folder in self._folders)

    def has_database(self, real_path: str, status: os.stat_result) -> bool:
        """Return whether a file belongs to a database, also if `real_path` is another name of it."""
        return real_path in self._databases or _inode(status) in self._inodes

    def has_part(self, path: str) -> bool:
        """Return whether a path belongs to a database or is in a store's folder, even if no file is there yet."""
        real_path = os.path.realpath(path)
        is_database = real_path in self._databases
        with suppress(OSError):  # the path does not exist
            is_database = self.has_database(real_path, os.stat(path))
        return is_database or self.has_path(real_path)

    def has_output(self, status: os.stat_result) -> bool:
        """Return whether the output goes to a file."""
        return _inode(status) in self._outputs


def find_files(paths: Iterable[str], own: OwnFiles, found: list[File], *, recursive: bool) -> None:
    """Add the files that `paths` name to `found`, in order.

    With `recursive`, a folder stands for every regular file under it, in the order of ``LC_ALL=C sort``. Symbolic links
    in it are not followed, and `own` files are skipped.
    """
    for path in paths:
        if path == STANDARD_INPUT:
            found.append(File(path))
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            found.append(_wrong(path, error.strerror))
            continue
        real_path = os.path.realpath(path)
        if recursive and (own.has_path(real_path) or own.has_database(real_path, status)):
            continue
        if stat.S_ISDIR(status.st_mode):
            if recursive:
                _walk(path, real_path, own, found)
            else:
                found.append(_wrong(path, "is a folder: -r puts the files in it"))
        elif own.has_database(real_path, status):
            found.append(_wrong(path, "is part of a store that this puts to"))
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            found.append(_wrong(path, "is a device, which may have no end"))
        else:
            found.append(File(path, status.st_size if stat.S_ISREG(status.st_mode) else None))


def nothing_to_put(paths: Iterable[str], *, recursive: bool) -> list[str]:
    """Return the problem with each path if there is nothing to put, and otherwise an empty list.

    With this, a command creates no store if it has nothing to put. Folders are not searched.
    """
    found: list[File] = []
    no_stores = OwnFiles((), (), ())
    for path in paths:
        if recursive and os.path.isdir(path):
            return []
        find_files([path], no_stores, found, recursive=False)
    return [file.problem for file in found] if all(file.problem for file in found) else []


def read_files(files: Iterable[File]) -> list[Blob | str]:
    """Read `files`, and return for each the blob with its ref, or the problem."""
    return [file.problem or _read(file) for file in files]


def write_file(path: str, data: bytes, own: OwnFiles) -> None:
    """Write `data` to a file, device or pipe. A file keeps its old content until all of `data` is written.

    Raises:
      CommandError: if the file belongs to a store, which would lose data, or the system refuses.

    """
    if not os.path.isdir(path) and own.has_part(path):
        raise CommandError(f"{printable(path)}: is part of a store; write the blob to another place")
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb", buffering=0) as writer:
                write_all(writer.fileno(), data)
        else:
            _replace_file(os.path.realpath(path), data)
    except OSError as error:
        raise CommandError(f"{printable(path)}: {error.strerror}") from error


def write_new_file(path: str, data: bytes) -> None:
    """Write `data` to a new file that nobody else may read.

    Raises:
      CommandError: if the file exists, or the system refuses.

    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CommandError(f"{printable(path)} is there already: it is not overwritten") from None
    except OSError as error:
        raise CommandError(f"{printable(path)}: {error.strerror}") from error
    try:
        write_all(file, data)
    except OSError as error:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(path), os.fstat(file)):  # another program may have replaced it
                os.unlink(path)
        raise CommandError(f"{printable(path)}: {error.strerror}") from error
    finally:
        os.close(file)


def sum_line(path: str, ref: Ref) -> bytes:
    """Return the line that ``sha256sum`` prints for a file."""
    name = os.fsencode(path)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"%b%b  %b\n" % (b"\\" if escaped != name else b"", str(ref).encode(), escaped)


def _walk(top: str, real_top: str, own: OwnFiles, found: list[File]) -> None:
    # The paths still to come, the next one last. This is not recursive, because folders can nest deeper than calls.
    remaining = [(top, real_top, True)]
    while remaining:
        path, real_path, is_folder = remaining.pop()
        try:
            if not is_folder:
                status = os.lstat(path)
                is_own = own.has_database(real_path, status) or own.has_output(status)
                if stat.S_ISREG(status.st_mode) and not is_own:
                    found.append(File(path, status.st_size, walked=True))
            elif not own.has_folder(real_path):
                remaining += [
                    (os.path.join(path, name), os.path.join(real_path, name), inner_is_folder)
                    for name, inner_is_folder in reversed(_names_in(path))
                ]
        except OSError as error:
            found.append(_wrong(path, error.strerror))


def _names_in(folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, each with whether it is a folder, in the order of the paths of their files."""
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    return sorted(names, key=lambda name: os.fsencode(name[0]) + b"/" * name[1])


def _read(file: File) -> Blob | str:
    try:
        blob = Blob(_read_standard_input() if file.path == STANDARD_INPUT else _read_path(file))
    except OSError as error:
        return _wrong(file.path, error.strerror).problem
    except MemoryError:
        return _wrong(file.path, "is too large for the memory").problem
    blob.ref  # noqa: B018  (the first access computes it)
    return blob


def _read_path(file: File) -> bytes:
    # The file may have been replaced since it was found, by a link, or by a pipe that nobody writes to.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK if file.walked else 0
    with open(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb", buffering=0) as reader:
        if file.walked and not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise OSError(errno.ESTALE, "is no longer a regular file")
        return reader.readall()


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    parts: list[bytes] = []
    while part := os.read(0, _READ_SIZE):
        parts.append(part)
    return b"".join(parts)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _wrong(path: str, why: str | None) -> File:
    return File(path, 0, problem=f"{printable(path)}: {why}")


def _replace_file(path: str, data: bytes) -> None:
    if os.path.exists(path) and not os.access(path, os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # replacing it would not need this permission
    temporary = os.path.join(os.path.dirname(path), f".trio-replica-{secrets.token_hex(8)}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            if os.path.exists(path):
                os.fchmod(file, stat.S_IMODE(os.stat(path).st_mode))
            write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
