"""A store that can delete a blob, and be repaired."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ._blob import Ref, to_blob
from ._listing import check_ref
from ._store import Store

if TYPE_CHECKING:
    from ._blob import Blob, BytesLike


BLOCKED_LIMIT: Final = 10_000
"""The most refs that `Integrity.blocked` has."""


@dataclass(frozen=True, slots=True)
class Integrity:
    """What a store has found out about itself: see `DeletableStore.check_integrity`."""

    problems: tuple[str, ...] = ()
    """What is wrong with it as a whole, in words: the first lines, if there are many. Empty if nothing is."""
    hidden: tuple[Ref, ...] = ()
    """Refs of blobs that it has and that neither a get nor a listing finds: up to 10,000 of them."""
    hidden_count: int = 0
    """How many there are."""
    blocked: tuple[Ref, ...] = ()
    """Refs of blobs that can't be stored, because something that is no blob has their place: up to 10,000 of them."""
    blocked_count: int = 0
    """How many there are."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.hidden_count and not self.blocked_count


class DeletableStore(Store):
    """A store that can also delete a blob, and be repaired."""

    @abstractmethod
    async def delete(self, ref: Ref) -> bool:
        """Remove the blob that `ref` names, and return whether it was there.

        Returning means that it is gone, as durably as the store's puts are. Being cancelled means that it may or may
        not be.

        Raises:
          TypeError: if `ref` is no `Ref`.
          Exception: whatever the store fails with; the blob may or may not be there.

        """

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever the store has under its ref: a corrupt one is repaired.

        Returning means that the store has it, as durably as after a put. Atomic where the store can; this default
        deletes, then puts, so between the two, and if it is cancelled or fails there, the blob is missing.

        Raises:
          TypeError: if `blob` is neither a `Blob` nor bytes-like; then nothing is deleted.
          Exception: whatever the store fails with.

        """
        blob = await to_blob(blob)
        await self.delete(blob.ref)
        await self.put(blob)

    async def get_stored(self, ref: Ref) -> bytes:
        """Return the blob as it is on the medium, past caches as far as the store can.

        A scrub reads so. This default is `get`, and it raises what that raises. Being cancelled changes nothing.
        """
        return await self.get(ref)

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep a copy of the bytes under `ref`, whatever they are, where no listing shows it.

        Returns where that is, in words. Then the copy is as durable as a put; the blob itself is as it was. None says
        that nothing is kept: there is no such blob, or the store, as this default, has no place for such copies. Being
        cancelled means that a copy may have been made.

        Raises:
          TypeError: if `ref` is no `Ref`.
          Exception: whatever the store fails with.

        """
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        return None

    async def check_integrity(self) -> Integrity:
        """Look for what is wrong with the store as a whole and shows in no get; this default looks for nothing.

        It changes nothing, and neither does being cancelled. It may take as long as reading the whole store.

        Raises:
          Exception: whatever keeps the store from telling.

        """
        await trio.lowlevel.checkpoint()
        return Integrity()

    async def repair_integrity(self) -> None:
        """Make again what the store derives from its blobs, such as an index; this default has nothing to do.

        Returning means that this is as durable as a put. No blob is lost. Other writes may have to wait in the
        meantime. Being cancelled means that it may or may not have been done.

        Raises:
          Exception: whatever the store fails with, or why it would lose something; then nothing has changed.

        """
        await trio.lowlevel.checkpoint()
