"""The cost of a replica over the bare stores that it is made of, and over code written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import by_hand, workloads
from .promised import BATCH, drains, promised
from .rounds import Comparison, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .rounds import Run

CALLERS_OF_DISKS: Final = 64
SIZE_OF_DISKS: Final = "4 KiB"


def comparisons(
    stores: Sequence[str], callers: Sequence[int], sizes: Sequence[str], *, quick: bool
) -> Iterator[Comparison]:
    """Return the comparisons: first those with a figure that the library promises, then all the rest."""
    yield from promised(1_000 if quick else 100_000)
    for store in stores:
        for size in sizes:
            for number in callers:
                # Where there is a disk, one line of each kind: all of them would take an hour, and a hundred GB.
                if store == "memory" or number == CALLERS_OF_DISKS or size == SIZE_OF_DISKS:
                    yield _puts(store, number, size)
                    yield _gets(store, number, size)
            yield _batches("put_many", workloads.puts_of_many, store, size)
            yield _batches("get_many", workloads.gets_of_many, store, size)
            yield drains(store, size)


def _described(callers: int, size: str) -> str:
    return f"{size}, {callers} callers" if callers > 1 else f"{size}, 1 caller"


def _puts(store: str, callers: int, size: str) -> Comparison:
    opener, length = workloads.OPENERS[store], workloads.SIZES[size]
    variants = [
        Variant("bare store", workloads.puts(opener, callers, length)),
        Variant("replica of 1", workloads.puts(workloads.replicated(opener, 1), callers, length)),
        Variant("replica of 2", workloads.puts(workloads.replicated(opener, 2), callers, length)),
        Variant(
            "replica of 2 and 1 async, to the end of the block",
            workloads.puts_until_drained(opener, callers, length),
        ),
    ]
    if store == "sqlite":
        variants.append(Variant("2 databases by hand", by_hand.puts_into_sqlite(2, callers, length)))
    return Comparison(f"put, {store}", _described(callers, size), "blobs/s", variants)


def _gets(store: str, callers: int, size: str) -> Comparison:
    opener, length = workloads.OPENERS[store], workloads.SIZES[size]
    variants = [
        Variant("bare store", workloads.gets(opener, callers, length)),
        Variant("replica of 1", workloads.gets(workloads.replicated(opener, 1), callers, length)),
        Variant("replica of 2", workloads.gets(workloads.replicated(opener, 2), callers, length)),
        Variant(
            "replica of 2, hedged", workloads.gets(workloads.replicated(opener, 2, hedge_delay=0.05), callers, length)
        ),
    ]
    if store == "sqlite":
        variants.append(Variant("1 database by hand", by_hand.gets_from_sqlite(4, callers, length)))
    return Comparison(f"get, {store}", _described(callers, size), "blobs/s", variants)


def _batches(operation: str, work: Callable[[workloads.Opener, int, int], Run], store: str, size: str) -> Comparison:
    opener, length = workloads.OPENERS[store], workloads.SIZES[size]
    return Comparison(
        f"{operation}, {store}",
        f"{size}, {BATCH} at once",
        "blobs/s",
        [
            Variant("bare store", work(opener, BATCH, length)),
            Variant("replica of 1", work(workloads.replicated(opener, 1), BATCH, length)),
            Variant("replica of 2", work(workloads.replicated(opener, 2), BATCH, length)),
        ],
    )
