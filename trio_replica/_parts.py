"""Long lists in parts, so that no call holds up all other tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

ItemT = TypeVar("ItemT")

PART_SIZE: Final = 1000
"""Blobs or refs that are handled between two checkpoints. A replica takes up to 5 µs for each, so 5 ms for a part. In a
transaction of this size, an 8-byte blob costs SQLite 3 % more than in a transaction of 100,000 blobs."""

PAGE_LIMIT: Final = 10_000
"""The most refs in a page of a listing, even if its caller asks for more. Checking and merging them takes 5 ms."""


def in_parts(items: list[ItemT]) -> Iterator[list[ItemT]]:
    """Yield `items` in parts of at most `PART_SIZE`, in their order."""
    if len(items) <= PART_SIZE:
        yield items
        return
    for start in range(0, len(items), PART_SIZE):
        yield items[start : start + PART_SIZE]
