"""Simulated stores: a local one, whose writes have to be synced, and a remote one, which may be given a blob late."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from trio_replica import BlobNotFoundError, DeletableStore, PutResult
from trio_replica._blob import to_blob, to_blobs

from .disks import Bucket, File, Folder, flipped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_replica import Blob, Ref
    from trio_replica._blob import BytesLike

    from .disks import Media
    from .weather import Weather


class DrawnStore(DeletableStore):
    """A store over some media, in some weather."""

    def __init__(self, media: Media, weather: Weather) -> None:
        self.media = media
        self.weather = weather
        self.puts_under_way = 0

    @property
    def interruptible(self) -> bool:
        """Whether its calls can be interrupted: what `StartedDeletableStore` asks for."""
        return not self.weather.is_shielded

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        (result,) = await self._put("put", [await to_blob(blob)])
        return result

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        return await self._put("put_many", await to_blobs(blobs))

    async def replace(self, blob: Blob | BytesLike) -> None:
        await self._put("replace", [await to_blob(blob)])

    async def get(self, ref: Ref) -> bytes:
        async def read() -> bytes:
            data = self.media.read(ref)
            await trio.lowlevel.checkpoint()
            if data is None:
                raise BlobNotFoundError(ref)
            return flipped(data) if self.weather.garbles("get") else data

        return await self.weather.serve("get", read)

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        async def read() -> list[Ref]:
            page = [ref for ref in self.media.refs() if ref > after]
            await trio.lowlevel.checkpoint()
            return page[: min(limit, self.weather.draw.randint(1, self.weather.page_size))]

        return await self.weather.serve("list_page", read)

    async def delete(self, ref: Ref) -> bool:
        raise NotImplementedError  # pragma: no cover  (nothing here deletes)

    async def _put(self, operation: str, blobs: Sequence[Blob]) -> list[PutResult]:
        self.puts_under_way += 1
        try:
            write = partial(self._write, blobs, replace=operation == "replace")
            added = await self.weather.serve(operation, write)
        finally:
            self.puts_under_way -= 1
        return [PutResult(blob.ref, blob.ref in added) for blob in blobs]

    @abstractmethod
    async def _write(self, blobs: Sequence[Blob], *, replace: bool) -> set[Ref]:
        """Write blobs, and return the refs of those that were not there."""


@final
class LocalStore(DrawnStore):
    """A store in a folder: a file is written and synced, then gets its name, which is synced."""

    media: Folder

    async def _write(self, blobs: Sequence[Blob], *, replace: bool) -> set[Ref]:
        names = self.media.names
        files = {blob.ref: File(blob.data) for blob in blobs if replace or blob.ref not in names}
        await self.weather.pause()
        for file in files.values():
            file.sync()
        await self.weather.pause()
        added = {ref for ref in files if ref not in names}
        names.update({ref: file for ref, file in files.items() if replace or ref in added})
        visible = dict(names)
        await self.weather.pause()
        self.media.sync_names(visible)  # also of what was there: another put may not have come so far
        return added


@final
class RemoteStore(DrawnStore):
    """A store on a server: what has been sent arrives, also when nobody waits for it any more."""

    media: Bucket

    async def _write(self, blobs: Sequence[Blob], *, replace: bool) -> set[Ref]:
        added = set()
        for blob in blobs:
            await self._send(blob.ref, blob.data)
            if blob.ref not in self.media.blobs:
                added.add(blob.ref)
            if replace or blob.ref in added:
                self.media.blobs[blob.ref] = blob.data
        return added

    async def _send(self, ref: Ref, data: bytes) -> None:
        sending = object()
        self.media.under_way[sending] = ref, data
        try:
            await self.weather.pause()
        except trio.Cancelled:
            if self.weather.draw.random() < 0.5:
                self.media.late.append((ref, data))
            raise
        finally:
            del self.media.under_way[sending]
