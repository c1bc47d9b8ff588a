"""Where the blobs of simulated stores are, and what a crash leaves of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from trio_replica import Ref


class Media(Protocol):
    """The disk or bucket in which a store keeps its blobs."""

    def read(self, ref: Ref) -> bytes | None:
        """Return what is under a ref; None if nothing is."""

    def refs(self) -> list[Ref]:
        """Return the refs that are there, in ascending order."""

    def lacking(self, refs: Mapping[Ref, object]) -> set[Ref]:
        """Return which of some refs are not there."""

    def possible(self, ref: Ref) -> set[bytes | None]:
        """Return all that may be under a ref after a power cut; None stands for nothing."""

    def rot(self, ref: Ref) -> None:
        """Flip a bit of what is under a ref, in all places where it is kept."""

    def clear(self) -> None:
        """Lose everything."""

    def left(self, draw: random.Random, *, power_cut: bool) -> Media:
        """Return what a crash at this moment leaves, as a copy."""


@dataclass(eq=False)
class File:
    """A file: the first `synced` bytes of it survive a power cut."""

    data: bytes
    synced: int = 0

    def sync(self) -> None:
        self.synced = len(self.data)


@dataclass
class Folder:
    """A folder with a file for each blob. Files and names become durable by being synced, each for itself."""

    names: dict[Ref, File] = field(default_factory=dict)
    synced_names: dict[Ref, File] = field(default_factory=dict)

    def read(self, ref: Ref) -> bytes | None:
        file = self.names.get(ref)
        return None if file is None else file.data

    def refs(self) -> list[Ref]:
        return sorted(self.names)

    def lacking(self, refs: Mapping[Ref, object]) -> set[Ref]:
        return refs.keys() - self.names.keys()

    def possible(self, ref: Ref) -> set[bytes | None]:
        files = {self.names.get(ref), self.synced_names.get(ref)}
        return {data for file in files for data in ([None] if file is None else [file.data, file.data[: file.synced]])}

    def rot(self, ref: Ref) -> None:
        self.names[ref].data = flipped(self.names[ref].data)

    def clear(self) -> None:
        self.names.clear()
        self.synced_names.clear()

    def sync_names(self, names: dict[Ref, File]) -> None:
        """Keep names that were there when the folder began to be synced."""
        self.synced_names.update(names)

    def left(self, draw: random.Random, *, power_cut: bool) -> Folder:
        """Return what a crash leaves: a kill all that was written, a power cut any part of what was not synced."""
        copies: dict[File, File] = {}

        def copied(file: File) -> File:
            if file not in copies:
                length = max(file.synced, draw.choice([0, len(file.data) // 2, len(file.data)]))
                data = file.data[:length] if power_cut else file.data
                copies[file] = File(data, len(data) if power_cut else file.synced)
            return copies[file]

        if not power_cut:
            return Folder(
                {ref: copied(file) for ref, file in self.names.items()},
                {ref: copied(file) for ref, file in self.synced_names.items()},
            )
        kept = {}
        for ref, file in self.names.items():
            before = self.synced_names.get(ref)
            if before is file or draw.random() < 0.5:
                kept[ref] = copied(file)
            elif before is not None:
                kept[ref] = copied(before)
        return Folder(kept, dict(kept))


@final
@dataclass
class Bucket:
    """A server somewhere else, which no crash here touches. It never says that it has what it may lose."""

    blobs: dict[Ref, bytes] = field(default_factory=dict)
    under_way: dict[object, tuple[Ref, bytes]] = field(default_factory=dict)
    """Blobs that have been sent and have not arrived."""
    late: list[tuple[Ref, bytes]] = field(default_factory=list)
    """Those whose sender has gone: they arrive whenever they do."""

    def read(self, ref: Ref) -> bytes | None:
        return self.blobs.get(ref)

    def refs(self) -> list[Ref]:
        return sorted(self.blobs)

    def lacking(self, refs: Mapping[Ref, object]) -> set[Ref]:
        return refs.keys() - self.blobs.keys()

    def possible(self, ref: Ref) -> set[bytes | None]:
        return {self.blobs.get(ref)}

    def rot(self, ref: Ref) -> None:
        self.blobs[ref] = flipped(self.blobs[ref])

    def clear(self) -> None:
        self.blobs.clear()

    def arrive(self) -> list[Ref]:
        """Let the blobs arrive that are late, and return their refs."""
        refs = [ref for ref, _ in self.late]
        for ref, data in self.late:
            self.blobs.setdefault(ref, data)
        self.late.clear()
        return refs

    def left(self, draw: random.Random, *, power_cut: bool) -> Bucket:
        """Return what a crash of its clients leaves: what they have sent may arrive later."""
        late = [sent for sent in self.under_way.values() if draw.random() < 0.5]
        return Bucket(dict(self.blobs), {}, [*self.late, *late])


def flipped(data: bytes) -> bytes:
    """Return other bytes."""
    return bytes([data[0] ^ 0x80]) + data[1:]
