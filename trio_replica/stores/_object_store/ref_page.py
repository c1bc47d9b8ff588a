"""One page of a listing: finding the blobs among the keys that a server shows, and the proof of the listing's end.

There is no I/O in this module.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, final

from ..._blob import Ref
from .place import IDENTITY

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST: Final = "b"
"""The beginning of the names of all blobs and of the identity."""

_BLOB: Final = re.compile(rb"b:([0-9a-f]{64})")


@final
class RefPage:
    """The refs that one `list_page` has found so far.

    Keys are compared as bytes, which is the order of object stores. Keys of other objects are passed over. Blobs and
    the identity have to come in order, because otherwise a listing could end before it has shown all blobs.
    """

    def __init__(self, prefix: bytes, after: Ref, limit: int) -> None:
        self._prefix = prefix
        self._identity = prefix + IDENTITY.encode()
        self._after = after
        self._limit = limit
        self._last: Ref | None = None  # of all blobs that were shown, even those before `after`
        self.refs: list[Ref] = []
        self.has_shown_identity = False
        """Whether the listing has ended, and has proved it."""
        self.is_past_blobs = False
        """Whether a key was shown that comes after all blobs, so that no more can come."""

    @property
    def is_full(self) -> bool:
        """Whether no more refs are wanted."""
        return len(self.refs) >= self._limit

    @property
    def is_done(self) -> bool:
        """Whether no more keys have to be asked for."""
        return self.is_full or self.is_past_blobs

    def take(self, keys: Iterable[bytes]) -> bool:
        """Take the keys of an answer into account, and return whether the blobs among them are in their order.

        A server may begin before `after`, and may ignore the prefix.
        """
        for key in keys:
            if (ref := self._ref(key)) is not None:
                if self.is_past_blobs or (self._last is not None and ref <= self._last):
                    return False
                self._last = ref
                if ref > self._after and not self.is_full:
                    self.refs.append(ref)
            elif key >= self._identity:
                self.is_past_blobs = True
                self.has_shown_identity |= key == self._identity
        return True

    def _ref(self, key: bytes) -> Ref | None:
        if not key.startswith(self._prefix):
            return None
        match = _BLOB.fullmatch(key, len(self._prefix))
        return Ref.from_hex(match[1].decode()) if match else None
