"""Long lists in parts, so that no call holds up all other tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

ItemT = TypeVar("ItemT")

PART_SIZE: Final = 1000
"""Blobs or refs that are dealt with between two checkpoints. A replica takes up to 5 µs for each, so 5 ms for a part; a
transaction of so many 8-byte blobs costs SQLite 3 % more for each than one of 100,000."""

PAGE_LIMIT: Final = 10_000
"""The most refs in a page of a listing, whatever its caller asks for: to check and merge them takes about 5 ms."""


def in_parts(items: list[ItemT]) -> Iterator[list[ItemT]]:
    """Yield `items` in parts of at most `PART_SIZE`, in their order."""
    if len(items) <= PART_SIZE:
        yield items
        return
    for start in range(0, len(items), PART_SIZE):
        yield items[start : start + PART_SIZE]
