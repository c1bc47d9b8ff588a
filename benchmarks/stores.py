"""The stores beside each other, and beside plain files and databases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from . import _by_hand, _work
from ._rounds import Comparison, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def comparisons(callers: Sequence[int], sizes: Sequence[str]) -> Iterator[Comparison]:
    """Return the comparisons: first those with a figure that the library promises, then all the rest."""
    yield from _promised()
    for size in sizes:
        for number in callers:
            yield _puts(number, size)
            yield _gets(number, size)


def _promised() -> Iterator[Comparison]:
    size = _work.SIZES["4 KiB"]
    yield Comparison(
        "promised",
        "SQLite put, 4 KiB, 64 callers, durable",
        "blobs/s",
        [
            Variant("one transaction a put", _by_hand.puts_into_sqlite(1, 64, size)),
            Variant("SQLite store", _work.puts(_work.sqlite, 64, size), at_least=4),
        ],
    )
    yield Comparison(
        "promised",
        "SQLite get, 4 KiB, 64 callers",
        "blobs/s",
        [
            Variant("to_thread, 4 connections", _by_hand.gets_from_sqlite(4, 64, size)),
            Variant("SQLite store", _work.gets(_work.sqlite, 64, size), at_least=6),
        ],
    )
    yield Comparison(
        "promised",
        "directory put, 4 KiB, durable",
        "blobs/s",
        [
            Variant("plain files, the same fsyncs, 1 caller", _by_hand.puts_into_files(size, durable=True)),
            Variant("directory store, 64 callers", _work.puts(_work.directory, 64, size), at_least=2.5),
        ],
    )


def _puts(callers: int, size: str) -> Comparison:
    length = _work.SIZES[size]
    directory, sqlite = partial(_work.directory, durable=False), partial(_work.sqlite, durable=False)
    return Comparison(
        "put",
        f"{size}, {callers} callers",
        "blobs/s",
        [
            Variant("plain files, fsync", _by_hand.puts_into_files(length, durable=True), note="durable (1 caller)"),
            Variant("plain files", _by_hand.puts_into_files(length, durable=False), note="1 caller"),
            Variant("memory", _work.puts(_work.memory, callers, length), note="ends with the process"),
            Variant("directory", _work.puts(_work.directory, callers, length), note="durable"),
            Variant("directory, durable=False", _work.puts(directory, callers, length)),
            Variant("sqlite", _work.puts(_work.sqlite, callers, length), note="durable"),
            Variant("sqlite, durable=False", _work.puts(sqlite, callers, length)),
            Variant("one transaction a put", _by_hand.puts_into_sqlite(1, callers, length), note="durable"),
        ],
        notes="what is promised",
    )


def _gets(callers: int, size: str) -> Comparison:
    length = _work.SIZES[size]
    return Comparison(
        "get",
        f"{size}, {callers} callers",
        "blobs/s",
        [
            Variant("to_thread, 4 connections", _by_hand.gets_from_sqlite(4, callers, length)),
            Variant("memory", _work.gets(_work.memory, callers, length)),
            Variant("directory", _work.gets(_work.directory, callers, length)),
            Variant("sqlite", _work.gets(_work.sqlite, callers, length)),
        ],
    )
