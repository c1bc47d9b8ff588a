"""Reads that ask the fallback when no sync store has a good answer, and that offer the blobs they find for repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from .._errors import BlobNotFoundError, StoreError
from .readers import Found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._blob import Ref
    from .readers import Lack, Readers
    from .repairs import Repairs


@final
class ReadRepair:
    """The reads of a replica that has a fallback or repairs reads.

    Args:
      sync_stores: the stores that are asked first.
      fallback: the stores that are asked when no sync store has given the blob, if there are any.
      repairs: the repairs of the sync stores, if blobs are to be written back to sync stores that lack them.

    """

    def __init__(self, sync_stores: Readers, fallback: Readers | None, repairs: Sequence[Repairs]) -> None:
        self._readers = [sync_stores] if fallback is None else [sync_stores, fallback]
        self._repairs = {each.member: each for each in repairs}

    async def get(self, ref: Ref) -> bytes:
        """Return the first good answer. Being cancelled changes nothing."""
        lacks: list[Lack] = []
        failures: dict[str, BaseException] = {}
        try:
            for readers in self._readers:
                try:
                    data = await readers.get(ref, lacks)
                except BlobNotFoundError:
                    pass
                except StoreError as error:
                    failures.update(error.failures)
                else:
                    self._repair(lacks, {ref: data})
                    return data
            if failures:
                raise StoreError("get", ref, failures)
            raise BlobNotFoundError(ref)
        finally:
            del failures  # see `Operation.run`

    async def get_many(self, wanted: list[Ref]) -> dict[Ref, bytes]:
        """Return the first good answer for each ref. Refs that every store lacks are absent."""
        lacks: list[Lack] = []
        found = Found()
        try:
            for readers in self._readers:
                if lacking := [ref for ref in wanted if ref not in found.blobs]:
                    found.include(await readers.find_many(lacking, lacks))
            self._repair(lacks, found.blobs)
            return found.in_order(wanted)  # noqa: ASYNC910  (the sync stores are asked in any case)
        finally:
            del found  # see `Operation.run`

    async def contains(self, ref: Ref) -> bool:
        """Return whether any store says that it has the blob."""
        failures: dict[str, BaseException] = {}
        try:
            for readers in self._readers:
                try:
                    if await readers.contains(ref):
                        return True
                except StoreError as error:
                    failures.update(error.failures)
            if failures:
                raise StoreError("contains", ref, failures)
            return False  # noqa: ASYNC910  (likewise)
        finally:
            del failures  # see `Operation.run`

    def _repair(self, lacks: list[Lack], found: Mapping[Ref, bytes]) -> None:
        """Have the blobs written back to the sync stores among the stores that lack them."""
        for lack in lacks:
            repairs = self._repairs.get(lack.member)
            if repairs is not None and lack.ref in found:
                repairs.offer(lack, found[lack.ref])
