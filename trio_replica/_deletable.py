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
    """The findings of a store about itself: see `DeletableStore.check_integrity`."""

    problems: tuple[str, ...] = ()
    """The problems of the store as a whole, in words. If there are many lines, these are the first. Empty if there are
    none."""
    hidden: tuple[Ref, ...] = ()
    """Refs of blobs that the store has but that neither a get nor a listing finds, up to 10,000."""
    hidden_count: int = 0
    """The number of all hidden blobs."""
    blocked: tuple[Ref, ...] = ()
    """Refs of up to 10,000 blobs that can't be stored, because something that is not a blob has their place."""
    blocked_count: int = 0
    """The number of all blocked blobs."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.hidden_count and not self.blocked_count


class DeletableStore(Store):
    """A store that can also delete a blob, and be repaired."""

    @abstractmethod
    async def delete(self, ref: Ref) -> bool:
        """Remove the blob that `ref` names, and return whether it was there.

        Returning means that the blob is gone, as durably as the store's puts are. Being cancelled means that it may or
        may not be gone.

        Raises:
          TypeError: if `ref` is not a `Ref`.
          Exception: if the store fails. The blob may or may not be there.

        """

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever the store has under its ref, so that a corrupt one is repaired.

        Returning means that the store has the blob, as durably as after a put. Being cancelled means that the store
        may have the new blob, the old bytes, or nothing. A store overrides this where it can write atomically, so that
        one of the two is always there. This default deletes, then puts, so the blob is missing in between.

        Raises:
          TypeError: if `blob` is neither a `Blob` nor bytes-like. Then nothing is deleted.
          Exception: if the store fails. The blob may be missing then.

        """
        blob = await to_blob(blob)
        await self.delete(blob.ref)
        await self.put(blob)

    async def renew_identity(self) -> str | None:
        """Give the store a new identity, because it is a copy of another store, and return it.

        Returning means that it is as durable as a put. The mark of the last session is removed with the former
        identity. No other program should have the store open. Being cancelled means that the identity may or may not
        have changed. This default does nothing and returns None, because the store keeps no identity.

        Raises:
          StoreReadOnlyError: if the store was opened with ``read_only=True``.
          Exception: any other error of the store.

        """
        await trio.lowlevel.checkpoint()
        return None

    async def get_stored(self, ref: Ref) -> bytes:
        """Return the blob as it is on the medium, past caches as far as the store can.

        A scrub reads blobs in this way. This default calls `get`, and raises the same errors. Being cancelled changes
        nothing.
        """
        return await self.get(ref)

    async def set_aside(self, ref: Ref) -> str | None:
        """Keep a copy of the bytes under `ref`, whatever they are, where no listing shows it.

        Returns the place of the copy, in words. Returning means that the copy is as durable as a put, and the blob
        itself is as it was. None means that there is no copy, because there is no such blob, or because the store has
        no place for copies, like this default. Being cancelled means that a copy may have been made.

        Raises:
          TypeError: if `ref` is not a `Ref`.
          Exception: if the store fails. A copy may have been made.

        """
        check_ref(ref)
        await trio.lowlevel.checkpoint()
        return None

    async def check_integrity(self) -> Integrity:
        """Look for problems of the store as a whole that no get shows. This default looks for nothing.

        Returning means that the check is complete. It changes nothing, and neither does being cancelled. It may take
        as long as reading the whole store.

        Raises:
          Exception: if the store can't be checked.

        """
        await trio.lowlevel.checkpoint()
        return Integrity()

    async def repair_integrity(self) -> None:
        """Rebuild what the store derives from its blobs, such as an index. This default has nothing to do.

        Returning means that the repair is as durable as a put. No blob is lost. Other writes may have to wait in the
        meantime. Being cancelled means that the repair may or may not have been done.

        Raises:
          Exception: if the store fails, or if the repair would lose a blob. Then nothing has changed.

        """
        await trio.lowlevel.checkpoint()
