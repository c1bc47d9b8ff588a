"""The objects of an object store. All methods block, and run in the store's threads, several at once."""

from __future__ import annotations

import logging
import os
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import obstore
import outcome
import trio
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, S3Store

from ..._blob import Ref
from ..._errors import BlobNotFoundError, MissingCredentialsError, ReplicaError
from ..._store import PutResult
from .errors import NO_CREDENTIALS, explain, says_missing
from .url import MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore.store import ClientConfig, RetryConfig

    from ..._blob import Blob
    from .url import ObjectPlace

Client: TypeAlias = AzureStore | GCSStore | S3Store

CREATIONS: Final = 5
"""Times that a put is tried again if its blob was both there and not, because another program keeps deleting it."""

OBJECTS_AT_ONCE: Final = 10
"""Names that the client returns at once, for which it may need as many requests. More do not make a listing faster."""

IDLE_SECONDS: Final = 10.0
"""Seconds after which the client closes an idle connection. Without this, 16 or more stay open even after the store."""

_NAME: Final = re.compile(r"b:([0-9a-f]{64})")
_LAST: Final = "b:" + "f" * 64

_imported_in: Final = os.getpid()

logger: Final = logging.getLogger("trio_replica")


@final
class Objects:
    """The objects under one prefix of a bucket."""

    def __init__(self, place: ObjectPlace, *, idle_seconds: float = IDLE_SECONDS) -> None:
        if os.getpid() != _imported_in:  # the client would wait forever for its own threads, which are gone
            raise RuntimeError("object stores don't work in a forked process: start one, as by spawn")
        self._place = place
        self._is_closing = False
        made = outcome.capture(_client, place, idle_seconds)
        if isinstance(made, outcome.Error):
            problem = explain(made.error, place.without_secrets)
            kind = MissingCredentialsError if problem == NO_CREDENTIALS else ValueError
            raise kind(self._line(problem))  # the problem is with an option, whatever the client raised
        self._client = made.value

    def check(self) -> None:
        """Check that the bucket exists and the credentials open it, by requesting an object that nobody can have put.

        Raises:
          ReplicaError: if the check fails.

        """
        if self._told_size(Ref.ZERO) is not None:
            raise ReplicaError(self._line("it has an object of a ref that no blob has, so it is no object store"))

    def close(self) -> None:
        """Stop listings under way from requesting more."""
        self._is_closing = True

    # Writing

    def put(self, blob: Blob) -> PutResult:
        for _ in range(CREATIONS):
            ended = outcome.capture(self._write, blob, "create")
            if isinstance(ended, outcome.Value):
                return PutResult(blob.ref, added=True)
            if not isinstance(ended.error, AlreadyExistsError):
                raise self._failure(ended.error)
            # The blob is there, or it was put by an earlier try of the client itself, or another writer is writing it
            # and may yet fail.
            size = self._size(blob.ref)
            if size == len(blob):
                return PutResult(blob.ref, added=False)
            if size is not None:  # another program put it
                logger.warning(
                    "replaced %s of %s: it had %d bytes, not %d", blob.ref, self._place.name, size, len(blob)
                )
                self.replace(blob)
                return PutResult(blob.ref, added=True)
        raise ReplicaError(self._line(f"{blob.ref!s:.12} can't be created and can't be found: try again later"))

    def replace(self, blob: Blob) -> None:
        """Write `blob` atomically, whatever is there."""
        ended = outcome.capture(self._write, blob, "overwrite")
        if isinstance(ended, outcome.Error):
            raise self._failure(ended.error)

    def _write(self, blob: Blob, mode: Any) -> None:
        # This is one request, because an upload in several parts can't depend on whether the object exists.
        obstore.put(self._client, _name(blob.ref), blob.data, mode=mode, use_multipart=False)

    def set_aside(self, ref: Ref) -> str | None:
        """Copy a blob's object to another name, which no listing shows.

        Return the name, or None if there is no object.
        """
        name = time.strftime(f"damaged:{ref}-%Y%m%dT%H%M%SZ", time.gmtime())
        ended = outcome.capture(obstore.copy, self._client, _name(ref), name)
        if isinstance(ended, outcome.Value):
            return f"{name} of {self._place.name}"
        if isinstance(ended.error, FileNotFoundError) and self._size(ref) is None:
            return None
        raise self._failure(ended.error)

    def delete(self, ref: Ref) -> bool:
        if self._size(ref) is None:
            return False
        ended = outcome.capture(obstore.delete, self._client, _name(ref))
        if isinstance(ended, outcome.Value):
            return True
        if isinstance(ended.error, FileNotFoundError) and self._size(ref) is None:  # another delete was first
            return False
        raise self._failure(ended.error)

    # Reading

    def get(self, ref: Ref) -> bytes:
        ended = outcome.capture(self._read, ref)
        if isinstance(ended, outcome.Value):
            return ended.value
        if says_missing(ended.error):
            raise BlobNotFoundError(ref)
        raise self._failure(ended.error)

    def _read(self, ref: Ref) -> bytes:
        return bytes(obstore.get(self._client, _name(ref)).bytes())

    def contains(self, ref: Ref) -> bool:
        return self._size(ref) is not None

    def _size(self, ref: Ref) -> int | None:
        """Return the number of bytes of a blob's object, or None if there is none."""
        ended = outcome.capture(obstore.head, self._client, _name(ref))
        if isinstance(ended, outcome.Value):
            return ended.value["size"]
        if isinstance(ended.error, FileNotFoundError):
            return self._told_size(ref)
        raise self._failure(ended.error)

    def _told_size(self, ref: Ref) -> int | None:
        """Return the same as `_size`, from a GET. Its answer says whether the object or the bucket is missing."""
        ended = outcome.capture(obstore.get, self._client, _name(ref))
        if isinstance(ended, outcome.Value):
            return ended.value.meta["size"]  # the body is not read
        if says_missing(ended.error):
            return None
        raise self._failure(ended.error)

    def list_page(self, after: Ref, limit: int) -> list[Ref]:
        page: list[Ref] = []
        last: Ref | None = None
        for path in self._paths(after, min(limit, OBJECTS_AT_ONCE)):
            if path > _LAST or len(page) == limit:
                break
            if match := _NAME.fullmatch(path):
                ref = Ref.from_hex(match[1])
                if last is not None and ref <= last:
                    raise ReplicaError(self._line("it does not list in the order of the names, as a store needs it"))
                last = ref
                if ref > after:  # some servers begin again for each page
                    page.append(ref)
        if not page:
            self.check()  # the client takes any other answer for an empty listing
        return page

    def _paths(self, after: Ref, at_once: int) -> Iterator[str]:
        """Yield all paths below the prefix that come after the path of `after`."""
        listing = obstore.list(self._client, offset=_name(after), chunk_size=at_once)
        while True:
            ended = outcome.capture(next, listing, None)
            if isinstance(ended, outcome.Error):
                raise self._failure(ended.error)
            if ended.value is None:
                return
            yield from (found["path"] for found in ended.value)
            if self._is_closing:  # a listing takes long if many objects are not blobs
                raise trio.ClosedResourceError(f"{self._place.name} is closed")

    # Errors

    def _failure(self, error: BaseException) -> ReplicaError:
        """Return the error to raise for an error of the client.

        It does not refer to that one, whose text may have secrets.
        """
        return ReplicaError(self._line(explain(error, self._place.without_secrets)))

    def _line(self, text: str) -> str:
        return f"{self._place.name}: {self._place.without_secrets(text)}"


def _name(ref: Ref) -> str:
    return f"b:{ref}"


def _client(place: ObjectPlace, idle_seconds: float) -> Client:
    limits, config = place.limits, dict(place.config)
    client_options: ClientConfig = {
        "allow_http": place.allow_http,
        "timeout": _seconds(limits.request_timeout),
        "connect_timeout": _seconds(limits.connect_timeout),
        "pool_idle_timeout": _seconds(idle_seconds),
    }
    retry_config: RetryConfig = {
        "max_retries": limits.retries,
        "retry_timeout": _seconds(min(limits.retry_timeout, limits.request_timeout)),  # a hung request is not repeated
    }
    kind: Callable[..., Client] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[place.scheme]
    if place.scheme == "s3":
        config.setdefault("disable_bulk_delete", "true")  # some servers have no DeleteObjects
    return kind(
        place.bucket,
        prefix=place.prefix or None,
        client_options=client_options,
        retry_config=retry_config,
        **config,
    )


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, MAX_SECONDS))
