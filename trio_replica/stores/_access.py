"""The options that the openers of all stores have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from .._checks import check_flag
from .._errors import BlobTooLargeError, StoreReadOnlyError

MAX_MEMORY: Final = 1024**3
"""Bytes of the largest blob that a store takes into memory: 1 GiB, more than a row of SQLite or PostgreSQL can hold."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The options that a store was opened with.

    Raises:
      TypeError: if a flag is not a `bool`, or `max_memory` is not an `int`.
      ValueError: if `max_memory` is less than 1.

    """

    create: bool = True
    """Whether to create a store if none exists."""
    read_only: bool = False
    """Whether nothing is written or created."""
    max_memory: int = MAX_MEMORY
    """Bytes of the largest blob that a get or a put takes into memory."""

    def __post_init__(self) -> None:
        check_flag("create", self.create)
        check_flag("read_only", self.read_only)
        if not isinstance(self.max_memory, int) or isinstance(self.max_memory, bool):
            raise TypeError(f"max_memory is an int, not {self.max_memory!r}")
        if self.max_memory < 1:
            raise ValueError(f"max_memory is at least 1 byte, not {self.max_memory}")

    @property
    def may_create(self) -> bool:
        """Whether a store is created if none exists."""
        return self.create and not self.read_only

    def check_writable(self, store: str) -> None:
        """Refuse a write to a read-only store.

        Raises:
          StoreReadOnlyError: if this store is read-only.

        """
        if self.read_only:
            raise StoreReadOnlyError(store)

    def check_size(self, store: str, size: int) -> None:
        """Refuse a blob that would take too much memory, before it is read.

        Raises:
          BlobTooLargeError: if it has more bytes than `max_memory`.

        """
        if size > self.max_memory:
            raise BlobTooLargeError(store, size, self.max_memory)
