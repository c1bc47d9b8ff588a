"""A model of a file system that keeps what POSIX promises, and no more.

Bytes written to a file stay if the file was synced after that. If it was not, any part of them may stay. A name in a
folder stays, or stays away, if the folder was synced after that. If it was not, any of the changes since may have been
made. A rename is made in both folders or in none.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .trace import Argument, Call

NEVER_LEFT: Final = b"-shm"
"""The ending of the name of a file that SQLite makes again when nobody has the database open."""


class Fate(Protocol):
    """Decides which changes are left that were not synced."""

    def keeps(self) -> bool:
        """Return whether the next change is left: of a folder's names, or of a file's length."""

    def parts(self, size: int, offset: int) -> Iterable[slice]:
        """Return the parts that are left of a write of `size` bytes at `offset`."""


@dataclass
class Write:
    """Bytes that were written to a file."""

    end: int
    offset: int
    data: bytes

    def apply(self, content: bytearray, fate: Fate | None = None) -> None:
        parts = [slice(0, len(self.data))] if fate is None else fate.parts(len(self.data), self.offset)
        for part in parts:
            place, data = self.offset + part.start, self.data[part]
            content.extend(bytes(max(0, place - len(content))))
            content[place : place + len(data)] = data


@dataclass
class Truncation:
    """A file that was given another length."""

    end: int
    size: int

    def apply(self, content: bytearray, fate: Fate | None = None) -> None:
        if fate is None or fate.keeps():
            del content[self.size :]
            content.extend(bytes(self.size - len(content)))


@dataclass(eq=False)
class Change:
    """A change of names, in one folder or two, that is made as a whole or not at all."""

    is_synced: bool = False


@dataclass
class Naming:
    """A folder's part in a change of names: what they mean from then on."""

    end: int
    names: dict[bytes, Node | None]
    change: Change


@dataclass(eq=False)
class File:
    """A file, with what is sure to be left of it and what has been done since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncation] = field(default_factory=list)

    def sync(self, before: int) -> None:
        """Keep all that had ended before a line of the record."""
        for step in self.pending:
            if step.end < before:
                step.apply(self.synced)
        self.pending = [step for step in self.pending if step.end >= before]

    def left(self, fate: Fate) -> bytes:
        """Return what a power cut leaves."""
        content = bytearray(self.synced)
        for step in self.pending:
            step.apply(content, fate)
        return bytes(content)


@dataclass(eq=False)
class Folder:
    """A folder, with the names that are sure to be left and what has been done since."""

    synced: dict[bytes, Node | None] = field(default_factory=dict)
    pending: list[Naming] = field(default_factory=list)
    names: dict[bytes, Node | None] = field(default_factory=dict)
    """As the program sees them."""

    def name(self, naming: Naming) -> None:
        self.names.update(naming.names)
        self.pending.append(naming)

    def sync(self, before: int) -> None:
        """Keep all that had ended before a line of the record."""
        for naming in self.pending:
            if naming.end < before:
                self.synced.update(naming.names)
                naming.change.is_synced = True
        self.pending = [naming for naming in self.pending if naming.end >= before]

    def left(self, is_left: Callable[[Change], bool]) -> dict[bytes, Node]:
        """Return what a power cut leaves."""
        names = dict(self.synced)
        for naming in self.pending:
            if is_left(naming.change):
                names.update(naming.names)
        return {name: node for name, node in names.items() if node is not None}


Node: TypeAlias = File | Folder


class UnknownCallError(Exception):
    """A call that the model has no idea of."""


class Disk:
    """A folder that was empty at first, in which one process works, whose `advance` repeats what it did."""

    def __init__(self, root: str, calls: Iterable[Call]) -> None:
        self._root_path = os.fsencode(root)
        self._root = Folder()
        self._open: dict[int, Node] = {}
        self._offsets: dict[int, int] = {}
        self._syncing: dict[Call, Node | None] = {}
        done = [call for call in calls if call.result >= 0]
        # Names change as a call begins, because other threads may know of it before it ends. Results come last.
        moments = [(call.begin, 0, call) for call in done] + [(call.end, 1, call) for call in done]
        self._moments: Final = deque(sorted(moments, key=lambda moment: moment[:2]))

    def advance(self, line: int) -> None:
        """Repeat what the process did before a line of its record.

        Raises:
          UnknownCallError: if that was more than the model knows.

        """
        while self._moments and self._moments[0][0] < line:
            _, is_end, call = self._moments.popleft()
            step = (_ENDS if is_end else _BEGINS).get(call.name)
            if step is not None:
                step(self, call)
            elif not is_end and call.name not in _ENDS and self._concerns(call):
                raise UnknownCallError(call)

    def leave(self, path: str, fate: Fate) -> None:
        """Make at `path` what a power cut leaves at this moment."""
        decided: dict[Change, bool] = {}

        def is_left(change: Change) -> bool:
            if change not in decided:
                decided[change] = change.is_synced or fate.keeps()
            return decided[change]

        def make(node: Node, path: bytes) -> None:
            if isinstance(node, File):
                with open(path, "wb") as file:
                    file.write(node.left(fate))
                return
            os.mkdir(path)
            for name, child in node.left(is_left).items():
                if not name.endswith(NEVER_LEFT):
                    make(child, b"/".join((path, name)))

        make(self._root, os.fsencode(path))

    # Finding

    def _concerns(self, call: Call) -> bool:
        first, *rest = call.arguments
        return first in self._open or any(isinstance(path, bytes) and self._is_inside(path) for path in (first, *rest))

    def _is_inside(self, path: Argument) -> bool:
        return isinstance(path, bytes) and f"{os.fsdecode(path)}/".startswith(f"{os.fsdecode(self._root_path)}/")

    def _find(self, path: bytes) -> Node | None:
        node: Node | None = self._root
        for name in path[len(self._root_path) :].split(b"/"):
            if name:
                node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def _place(self, path: Argument) -> tuple[Folder, bytes]:
        assert isinstance(path, bytes)
        folder = self._find(os.path.dirname(path))
        assert isinstance(folder, Folder), path
        return folder, os.path.basename(path)

    # The effects of calls

    def _create(self, call: Call) -> None:
        path, flags, *_ = call.arguments[1:]
        if self._is_inside(path) and "O_CREAT" in str(flags):
            folder, name = self._place(path)
            if folder.names.get(name) is None:
                self._name(call, {path: File()})

    def _opened(self, call: Call) -> None:
        path, flags, *_ = call.arguments[1:]
        if not self._is_inside(path):
            return
        assert isinstance(path, bytes)
        node = self._find(path)
        if node is None or "O_APPEND" in str(flags):
            raise UnknownCallError(call)
        self._open[call.result], self._offsets[call.result] = node, 0
        if "O_TRUNC" in str(flags):
            self._truncate(call, node, 0)

    def _close(self, call: Call) -> None:
        self._open.pop(_number(call, 0), None)

    def _write(self, call: Call) -> None:
        descriptor, data, *_ = call.arguments
        assert isinstance(data, bytes)
        if file := self._open.get(_number(call, 0)):
            assert isinstance(file, File)
            assert isinstance(descriptor, int)
            is_at = call.name == "pwrite64"
            offset = _number(call, 3) if is_at else self._offsets[descriptor]
            file.pending.append(Write(call.end, offset, data[: call.result]))
            if not is_at:
                self._offsets[descriptor] += call.result

    def _ftruncate(self, call: Call) -> None:
        if node := self._open.get(_number(call, 0)):
            self._truncate(call, node, _number(call, 1))

    def _truncate(self, call: Call, node: Node, size: int) -> None:
        assert isinstance(node, File)
        node.pending.append(Truncation(call.end, size))

    def _begin_sync(self, call: Call) -> None:
        self._syncing[call] = self._open.get(_number(call, 0))

    def _end_sync(self, call: Call) -> None:
        if node := self._syncing.pop(call):
            node.sync(call.begin)

    def _mkdir(self, call: Call) -> None:
        (path,) = self._paths(call)
        if self._is_inside(path):
            self._name(call, {path: Folder()})

    def _unlink(self, call: Call) -> None:
        (path,) = self._paths(call)
        if self._is_inside(path):
            self._name(call, {path: None})

    def _link(self, call: Call) -> None:
        old, new = self._paths(call)
        if self._is_inside(old) or self._is_inside(new):
            self._name(call, {new: self._find(old)})

    def _rename(self, call: Call) -> None:
        old, new = self._paths(call)
        if self._is_inside(old) or self._is_inside(new):
            self._name(call, {new: self._find(old), old: None})

    def _paths(self, call: Call) -> list[bytes]:
        """Return the paths that a call was given, which have to be whole ones."""
        paths = [argument for argument in call.arguments if isinstance(argument, bytes)]
        if not all(path.startswith(b"/") for path in paths):
            raise UnknownCallError(call)
        return paths

    def _name(self, call: Call, nodes: Mapping[Argument, Node | None]) -> None:
        change = Change()
        namings: dict[Folder, dict[bytes, Node | None]] = {}
        for path, node in nodes.items():
            folder, name = self._place(path)
            namings.setdefault(folder, {})[name] = node
        for folder, names in namings.items():
            folder.name(Naming(call.end, names, change))


def _number(call: Call, place: int) -> int:
    number = call.arguments[place]
    assert isinstance(number, int), call
    return number


_BEGINS: Final = {
    "openat": Disk._create,
    "close": Disk._close,
    "write": Disk._write,
    "pwrite64": Disk._write,
    "ftruncate": Disk._ftruncate,
    "fsync": Disk._begin_sync,
    "fdatasync": Disk._begin_sync,
    "mkdir": Disk._mkdir,
    "mkdirat": Disk._mkdir,
    "unlink": Disk._unlink,
    "unlinkat": Disk._unlink,
    "rmdir": Disk._unlink,
    "link": Disk._link,
    "linkat": Disk._link,
    "rename": Disk._rename,
    "renameat": Disk._rename,
    "renameat2": Disk._rename,
}
_ENDS: Final = {"openat": Disk._opened, "fsync": Disk._end_sync, "fdatasync": Disk._end_sync}

UNKNOWN: Final = (
    *("open", "creat", "truncate", "fallocate", "writev", "pwritev", "pwritev2", "lseek", "symlink", "symlinkat"),
    *("dup", "dup2", "dup3", "sendfile", "copy_file_range", "sync_file_range"),
)
"""Calls that change files, and that the model does not know: they are recorded, so as not to go unnoticed."""

RECORDED: Final = (*_BEGINS, *UNKNOWN)
"""The calls that have to be in a record."""
