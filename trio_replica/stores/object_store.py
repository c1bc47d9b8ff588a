"""A store of one object a blob, in a bucket of S3, Google Cloud Storage, Azure, or what speaks like these."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import outcome
import trio

from .._blob import all_hashed, hashed
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from .._started import StartedCalls, fan_out_started
from .._store import PutResult, StartableStore, check_page_request, check_ref, check_refs
from .._threads import BATCH_BYTES, open_store_threads
from ._object_url import ClientLimits, parse_object_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import Blob, BytesLike, Ref
    from .._fan_out import Ended
    from .._started import Cancel, Done
    from .._threads import Call, Handler, StoreThreads
    from ._objects import Objects

    Request: TypeAlias = Callable[[], Any]

MemberT = TypeVar("MemberT", bound="Hashable")

REQUESTS: Final = 16
"""Requests under way at once: so many that write, and so many that read. Of 4 KiB blobs, to a Ceph gateway on the same
2 cores, one at a time put 490 a second, 4 put 690, 16 put 1250 and 32 put 1400; it is more with servers farther away.
"""

REQUEST_TIMEOUT: Final = 30.0
"""Seconds for one request, the client's own default: 300 MB at 10 MB a second."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for a connection, the client's own default."""

RETRIES: Final = 3
"""Repetitions of a request by the client: these wait 0.7 seconds together, on average."""

RETRY_TIMEOUT: Final = 10.0
"""Seconds after which the client repeats a request no more: enough for `RETRIES`."""

ALONE: Final = BATCH_BYTES
"""The size that makes each call a batch of its own: of two in a batch, one would wait for what the other asked for."""


def open_object_store(
    url: str,
    *,
    requests: int = REQUESTS,
    request_timeout: float = REQUEST_TIMEOUT,
    connect_timeout: float = CONNECT_TIMEOUT,
    retries: int = RETRIES,
    retry_timeout: float = RETRY_TIMEOUT,
    **config: str | bool,
) -> AbstractAsyncContextManager[ObjectStore]:
    """Open a store of one object a blob, ``PREFIX/b:<64 hex>`` in a bucket, for the block.

    The bucket has to exist; entering the block checks that it does, and that the credentials open it, with one GET.
    Several processes may use one prefix at once. Whatever else is under it is left alone.

    A put is one request, which creates the object if there is none, so the server decides who added it. It takes a
    server that can do that, as S3 (since 2024), Google Cloud Storage, Azure, Ceph and MinIO can; that lists names in
    their order, which S3's directory buckets don't; and credentials that permit listing, for without them S3 does not
    say that a blob is missing. A blob is whole in one request: S3 and Azure take up to about 5 GB.

    The block's end waits for the requests under way, even if it is cancelled: for one that hangs `request_timeout`, and
    if it is a repetition, `retry_timeout` more.

    Args:
      url: ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` or ``az://CONTAINER/PREFIX``, the prefix percent-encoded; and
        ``?OPTION=VALUE&…``, with all that can be given here, which counts more.
      requests: how many requests may be under way at once, in as many threads; and as many again that only read.
      request_timeout: seconds in which a server has to have answered a request, its body and that of the answer
        included. It sets the largest blob that the line can carry.
      connect_timeout: seconds in which there has to be a connection.
      retries: how often the client repeats a request that failed, but for a put that timed out.
      retry_timeout: seconds from the beginning of a request in which it begins repetitions; at most `request_timeout`,
        so that a request that hangs is not repeated.
      config: the client's own options, among them ``endpoint`` (its URL), ``region``, ``allow_http`` (whether the
        endpoint may be ``http://``), ``access_key_id``, ``secret_access_key``, ``session_token``, ``skip_signature``;
        for Azure ``account_name``, ``account_key``, ``sas_key``; for Google ``service_account``, the path of a key
        file. What is not given, the client takes from the environment (``AWS_ACCESS_KEY_ID`` and so on, not the
        files of a command line), or from the cloud's machine that it runs on.

    Raises:
      ModuleNotFoundError: at once, if obstore is not installed.
      TypeError, ValueError: at once, if the URL or an option is bad.
      RuntimeError: at once, in a process that was forked from one that has used object stores.
      ReplicaError: on entering the block, with what to do about it, if the server can't be reached, has no such bucket,
        refuses the credentials, or is no object store.

    """
    limits = ClientLimits(requests, request_timeout, connect_timeout, retries, retry_timeout)
    place = parse_object_url(url, limits, config)
    try:
        from ._objects import Objects  # noqa: PLC0415  (it needs what may not be installed)
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise ModuleNotFoundError(
            "an object store takes more: pip install 'trio-replica[cloud]'", name="obstore"
        ) from None
    return open_objects(place.name, Objects(place), place.limits.requests)


@asynccontextmanager
async def open_objects(name: str, objects: Objects, requests: int) -> AsyncGenerator[ObjectStore, None]:
    """Open the store that has these objects, with so many threads that write, and as many that read."""
    async with (
        open_store_threads(f"writers of {name}", _serve, threads=requests) as writers,
        open_store_threads(f"readers of {name}", _serve, threads=requests) as readers,
    ):
        try:
            await readers.run(objects.check, abandon_on_cancel=True)
            yield ObjectStore(name, objects, writers, readers)
        finally:
            objects.close()


@final
class ObjectStore(DeletableStore, StartableStore):
    """A store of one object a blob: see `open_object_store`, which makes it.

    What it fails with is a `ReplicaError` of one line, which names the store and says what to do.
    """

    def __init__(
        self, name: str, objects: Objects, writers: StoreThreads[Request], readers: StoreThreads[Request]
    ) -> None:
        self._name = name
        self._objects = objects
        self._writers = writers
        self._readers = readers

    def __repr__(self) -> str:
        return f"<ObjectStore {self._name!r}>"

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        Of racing puts of one blob, one is ``added``; none may be, if the server stored it and then failed to say so. An
        object of another size under the blob's name, which another program has put there, is replaced and logged.
        """
        return self._writers.start(partial(self._objects.put, blob), done, size=ALONE)

    async def put_many(self, blobs: Iterable[Blob | BytesLike]) -> list[PutResult]:
        """Store many blobs, as many at once as there may be requests: see `Store.put_many`."""
        blobs = await all_hashed(blobs)
        results = await _answers(list(dict.fromkeys(blobs)), self.start_put)
        added = {blob.ref: result.added for blob, result in results.items()}
        return [PutResult(blob.ref, added.pop(blob.ref, False)) for blob in blobs]

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`. It is not found only if the server says that of the object."""
        return self._readers.start(partial(self._objects.get, ref), done, size=ALONE, abandon_on_cancel=True)

    async def get_many(self, refs: Iterable[Ref]) -> dict[Ref, bytes]:
        """Return those of many blobs that are there, as many at once as there may be requests: see `Store.get_many`."""
        return await _answers(check_refs(refs), self.start_get)

    async def contains(self, ref: Ref) -> bool:
        """Return whether a blob is there: see `Store.contains`."""
        there: bool = await self._read(partial(self._objects.contains, check_ref(ref)))
        return there

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        """Return the next refs: see `Store.list_page`."""
        check_page_request(after, limit)
        page: list[Ref] = await self._read(partial(self._objects.list_page, after, limit))
        return page

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`. Of racing deletes of one blob, several may return True."""
        deleted: bool = await self._writers.run(partial(self._objects.delete, check_ref(ref)), size=ALONE)
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob whatever is there, atomically: see `DeletableStore.replace`."""
        blob = await hashed(blob)
        await self._writers.run(partial(self._objects.replace, blob), size=ALONE)

    async def set_aside(self, ref: Ref) -> str | None:
        """Have the server copy an object to ``damaged:<64 hex>-<time>``: see `DeletableStore.set_aside`."""
        name: str | None = await self._writers.run(partial(self._objects.set_aside, check_ref(ref)), size=ALONE)
        return name

    async def _read(self, request: Request) -> Any:
        return await self._readers.run(request, size=ALONE, abandon_on_cancel=True)


@contextmanager
def _serve() -> Generator[Handler[Request], None, None]:
    yield _handle


def _handle(batch: Sequence[Call[Request]]) -> None:
    for call in batch:
        call.outcome = outcome.capture(call.request)


async def _answers(members: Sequence[MemberT], start: Callable[[MemberT, Done], Cancel]) -> dict[MemberT, Any]:
    """Start a call for each of `members`, and return what they return; those of blobs that are not found are absent.

    Being cancelled, or the first failure, which is raised as it is, cancels the calls that wait.
    """
    answers: dict[MemberT, Any] = {}
    failures: list[BaseException] = []

    def settle(member: MemberT, ended: Ended[Any]) -> bool:
        if isinstance(ended, outcome.Value):
            answers[member] = ended.value
        elif not isinstance(ended.error, BlobNotFoundError):
            failures.append(ended.error)
        return bool(failures)

    await trio.lowlevel.checkpoint()
    await fan_out_started(StartedCalls(members, start, needs_all=True), settle)
    if failures:
        try:
            raise failures[0]
        finally:
            del failures
    return answers
