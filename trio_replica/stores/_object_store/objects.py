"""The objects of an object store. All methods block, and run in the store's threads, several at once."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import obstore
import outcome
from obstore.exceptions import AlreadyExistsError

from ..._errors import BlobNotFoundError
from ..._store import PutResult
from .errors import says_missing

if TYPE_CHECKING:
    from ..._blob import Blob, Ref
    from .client import ObjectClient

CREATIONS: Final = 5
"""Times that a put is tried again if its blob was both there and not, because another program keeps deleting it."""

logger: Final = logging.getLogger("trio_replica")


@final
class Objects:
    """The objects under one prefix of a bucket."""

    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        self._access = client.place.access

    # Writing

    def put(self, blob: Blob) -> PutResult:
        for _ in range(CREATIONS):
            ended = outcome.capture(self._write, blob, "create")
            if isinstance(ended, outcome.Value):
                return PutResult(blob.ref, added=True)
            if not isinstance(ended.error, AlreadyExistsError):
                raise self._client.failure(ended.error)
            # The blob is there, or it was put by an earlier try of the client itself, or another writer is writing it
            # and may yet fail.
            size = self._size(blob.ref)
            if size == len(blob):
                return PutResult(blob.ref, added=False)
            if size is not None:  # another program put it
                logger.warning(
                    "replaced %s of %s: it had %d bytes, not %d", blob.ref, self._client.name, size, len(blob)
                )
                self.replace(blob)
                return PutResult(blob.ref, added=True)
        raise self._client.error(f"{blob.ref!s:.12} can't be created and can't be found: try again later")

    def replace(self, blob: Blob) -> None:
        """Write `blob` atomically, whatever is there."""
        ended = outcome.capture(self._write, blob, "overwrite")
        if isinstance(ended, outcome.Error):
            raise self._client.failure(ended.error)

    def _write(self, blob: Blob, mode: Any) -> None:
        # This is one request, because an upload in several parts can't depend on whether the object exists.
        obstore.put(self._client.client, _name(blob.ref), blob.data, mode=mode, use_multipart=False)

    def set_aside(self, ref: Ref) -> str | None:
        """Copy a blob's object to another name, which no listing shows.

        Return the name, or None if there is no object.
        """
        name = time.strftime(f"damaged:{ref}-%Y%m%dT%H%M%SZ", time.gmtime())
        ended = outcome.capture(obstore.copy, self._client.client, _name(ref), name)
        if isinstance(ended, outcome.Value):
            return f"{name} of {self._client.name}"
        if isinstance(ended.error, FileNotFoundError) and self._size(ref) is None:
            return None
        raise self._client.failure(ended.error)

    def delete(self, ref: Ref) -> bool:
        if self._size(ref) is None:
            return False
        ended = outcome.capture(obstore.delete, self._client.client, _name(ref))
        if isinstance(ended, outcome.Value):
            return True
        if isinstance(ended.error, FileNotFoundError) and self._size(ref) is None:  # another delete was first
            return False
        raise self._client.failure(ended.error)

    # Reading

    def get(self, ref: Ref) -> bytes:
        ended = outcome.capture(self._client.read, _name(ref), partial(self._access.check_size, self._client.name))
        if isinstance(ended, outcome.Value):
            return ended.value
        if says_missing(ended.error):
            raise BlobNotFoundError(ref)
        raise self._client.failure(ended.error)

    def contains(self, ref: Ref) -> bool:
        return self._size(ref) is not None

    def _size(self, ref: Ref) -> int | None:
        """Return the number of bytes of a blob's object, or None if there is none."""
        ended = outcome.capture(obstore.head, self._client.client, _name(ref))
        if isinstance(ended, outcome.Value):
            return ended.value["size"]
        if isinstance(ended.error, FileNotFoundError):
            return self._told_size(ref)
        raise self._client.failure(ended.error)

    def _told_size(self, ref: Ref) -> int | None:
        """Return the same as `_size`, from a GET. Its answer says whether the object or the bucket is missing."""
        ended = outcome.capture(obstore.get, self._client.client, _name(ref))
        if isinstance(ended, outcome.Value):
            return ended.value.meta["size"]  # the body is not read
        if says_missing(ended.error):
            return None
        raise self._client.failure(ended.error)


def _name(ref: Ref) -> str:
    return f"b:{ref}"
