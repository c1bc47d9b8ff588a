"""A store with one object for each blob, in a bucket of S3, Google Cloud Storage, Azure or a compatible server."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import outcome
import trio

from .._blob import Ref, hashed
from .._calls.all_ended import all_ended
from .._calls.start import start_in_task
from .._calls.threads import ALONE, open_store_threads
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError, StoreIdentityError, StoreNotFoundError
from .._identity import check_mark
from .._listing import check_ref
from .._scheme import StoreScheme
from ._access import MAX_MEMORY, Access
from ._object_store.place import CLIENT_OPTIONS, IDENTITY, bucket_place
from ._object_store.url import ClientLimits, parse_object_url
from ._started import StartedStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._blob import Blob, BytesLike
    from .._calls.start import Cancel, Done
    from .._calls.threads import Call, Handler, StoreThreads
    from ._object_store.listing import Listing
    from ._object_store.parts import ObjectParts

    Request: TypeAlias = Callable[[], Any]

REQUESTS: Final = 16
"""Requests that write at once, and as many that read. With blobs of 4 KiB and a Ceph gateway on the same 2 cores, one
at a time put 490 a second, 4 put 690, 16 put 1250 and 32 put 1400. The gain is larger with servers farther away.
"""

REQUEST_TIMEOUT: Final = 30.0
"""Seconds for one request, which is the client's own default and enough for 300 MB at 10 MB a second."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for a connection, which is the client's own default."""

RETRIES: Final = 3
"""Repetitions of a request by the client. Together these wait 0.7 seconds on average."""

RETRY_TIMEOUT: Final = 10.0
"""Seconds after which the client no longer repeats a request. They are enough for `RETRIES`."""

_EXTRA: Final = frozenset({"botocore", "httpcore", "obstore"})

logger: Final = logging.getLogger("trio_replica")


def open_object_store(
    url: str,
    *,
    create: bool = True,
    read_only: bool = False,
    max_memory: int = MAX_MEMORY,
    requests: int = REQUESTS,
    request_timeout: float = REQUEST_TIMEOUT,
    connect_timeout: float = CONNECT_TIMEOUT,
    retries: int = RETRIES,
    retry_timeout: float = RETRY_TIMEOUT,
    **config: str | bool,
) -> AbstractAsyncContextManager[ObjectStore]:
    """Open a store with one object for each blob, ``PREFIX/b:<64 hex>`` in a bucket, for the block.

    The bucket has to exist. With one GET of the store's identity, the object ``PREFIX/b~``, entering the block checks
    that it does and that the credentials open it. A prefix without an identity gets one. Several processes may use one
    prefix at once. All other objects under it are left alone.

    A put is one request, which creates the object if there is none, so the server decides which put added it. The
    server has to support that, like S3 (since 2024), Google Cloud Storage, Azure, Ceph and MinIO. It has to list names
    in order, which S3's directory buckets don't do. The credentials have to permit listing, because S3 does not say
    that a blob is missing otherwise. A blob is sent whole in one request. S3 and Azure accept up to about 5 GB.

    A listing has ended only when it has shown the identity, which sorts after all blobs. An answer that is not a
    listing, or is out of order, is an error, and no listing goes on forever. The client follows redirects. It makes all
    requests except those for a listing in ``s3://``: see SECURITY.md.

    The end of the block waits for the requests under way, even if it is cancelled. A request that hangs takes
    `request_timeout`, and a repetition takes up to `retry_timeout` more. A listing in ``s3://`` ends at once.

    Args:
      url: ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` or ``az://CONTAINER/PREFIX``, with a percent-encoded prefix.
        It may end with ``?OPTION=VALUE&…`` for the other arguments, and these values take precedence.
      create: whether a prefix with neither an identity nor a blob becomes a store. False makes that an error, so that
        a misspelt prefix does not become a new store.
      read_only: whether the block writes nothing, not even an identity. Permissions to list and to get are then enough.
        If there is no identity, a listing ends when the server says so, and a warning is logged.
      max_memory: bytes of the largest blob that a get or a put holds in memory, whatever the server says.
      requests: how many requests that write, and how many that read, may be under way at once. Each has a thread.
      request_timeout: seconds for a whole request, including its body and that of the answer. It limits the size of a
        blob on a slow connection.
      connect_timeout: seconds for making a connection.
      retries: how often the client repeats a failed request, except for a put that timed out.
      retry_timeout: seconds from the beginning of a request in which the client may begin repetitions. At most
        `request_timeout` is used, so that a request that hangs is not repeated.
      config: the client's own options. Among them are ``endpoint`` (its URL), ``region``, ``allow_http`` (whether the
        endpoint may be ``http://``), ``access_key_id``, ``secret_access_key``, ``session_token`` and
        ``skip_signature``. Azure has ``account_name``, ``account_key`` and ``sas_key``. Google has
        ``service_account``, the path of a key file. The client takes missing options from the environment
        (``AWS_ACCESS_KEY_ID`` and so on, but not the configuration files of the cloud's command line), or from the
        cloud's machine that it runs on.

    Raises:
      ModuleNotFoundError: at once, if obstore, or botocore and httpcore for ``s3://``, are not installed.
      TypeError, ValueError: at once, if the URL or an option is bad.
      RuntimeError: at once, in a process that was forked from one that has used object stores.
      StoreNotFoundError: on entering the block, if there is no store, and `create` or `read_only` forbids making one.
      ReplicaError: on entering the block, if the server can't be reached, has no such bucket, refuses the credentials,
        or is not an object store. The message has the remedy.

    """
    access = Access(create=create, read_only=read_only, max_memory=max_memory)
    limits = ClientLimits(requests, request_timeout, connect_timeout, retries, retry_timeout)
    place = parse_object_url(url, limits, config, access)
    try:
        from ._object_store.parts import ObjectParts  # noqa: PLC0415  (it needs what may not be installed)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise ModuleNotFoundError(
            f"object stores need {error.name}: pip install 'trio-replica[cloud]'", name=error.name
        ) from None
    return open_objects(ObjectParts(place))


@asynccontextmanager
async def open_objects(parts: ObjectParts) -> AsyncGenerator[ObjectStore, None]:
    """Open the store with these parts: find its identity, or give it one."""
    name, requests = parts.place.name, parts.place.limits.requests
    async with (
        open_store_threads(f"writers of {name}", _serve, threads=requests) as writers,
        open_store_threads(f"readers of {name}", _serve, threads=requests) as readers,
        open_store_threads(f"lister of {name}", _serve) as lister,
        parts.open_listing(readers, lister) as listing,
    ):
        try:
            store = ObjectStore(parts, listing, writers, readers)
            await store._find_identity()
            yield store
        finally:
            listing.close()


@final
class ObjectStore(DeletableStore, StartedStore):
    """A store with one object for each blob: see `open_object_store`, which makes it.

    It fails with a `ReplicaError` of one line, which names the store and says what to do.
    """

    def __init__(
        self, parts: ObjectParts, listing: Listing, writers: StoreThreads[Request], readers: StoreThreads[Request]
    ) -> None:
        self._name = parts.place.name
        self._access = parts.place.access
        self._client = parts.client
        self._objects = parts.objects
        self._identity_objects = parts.identity
        self._listing = listing
        self._writers = writers
        self._readers = readers
        self._identity: str | None = None  # once known, it never changes

    def __repr__(self) -> str:
        return f"<ObjectStore {self._name!r}>"

    @property
    def is_read_only(self) -> bool:
        """Whether it was opened with ``read_only=True``."""
        return self._access.read_only

    async def identity(self) -> str | None:
        """Return the content of the object ``b~``: see `Store.identity`."""
        found: str | None = await self._read(self._identity_objects.read)
        if self._identity is not None and found != self._identity:
            raise StoreIdentityError(self._name, self._identity, found)
        self._identity = found  # another program may give a read-only store its identity
        return found

    async def session_mark(self) -> str | None:
        """Return the content of the object ``b~mark``: see `Store.session_mark`."""
        mark: str | None = await self._read(self._identity_objects.read_mark)
        return mark

    async def set_session_mark(self, mark: str) -> None:
        """Write the object ``b~mark``: see `Store.set_session_mark`."""
        self._access.check_writable(self._name)
        await self._writers.run(partial(self._identity_objects.write_mark, check_mark(mark)), size=ALONE)

    async def renew_identity(self) -> str:
        """Overwrite the object ``b~``, and remove ``b~mark``: see `DeletableStore.renew_identity`."""
        self._access.check_writable(self._name)
        await self.identity()
        self._identity = await self._writers.run(self._identity_objects.renew, size=ALONE)
        return self._identity

    async def _find_identity(self) -> None:
        """Read the identity of the store, or create it.

        Raises:
          StoreNotFoundError: if there is no store, and none may be created.

        """
        if await self.identity() is not None:
            return
        if not self._access.may_create and not await self._listing.list_page(Ref.ZERO, 1, trio.lowlevel.checkpoint):
            raise StoreNotFoundError(self._name)
        if self._access.read_only:
            logger.warning("%s has no identity, so its listings end where the server says, without proof", self._name)
        else:
            self._identity = await self._writers.run(self._identity_objects.create, size=ALONE)

    def start_put(self, blob: Blob, done: Done) -> Cancel:
        """Start a `put`: see `StartableStore.start_put`.

        Of racing puts of one blob, one is ``added``. If the server stored the blob and then failed to say so, none may
        be. An object of another size under the blob's name, which another program has put there, is replaced and
        logged.
        """
        self._access.check_writable(self._name)
        self._access.check_size(self._name, len(blob))
        return self._writers.start(partial(self._objects.put, blob), done, size=ALONE)

    def start_put_many(self, blobs: Sequence[Blob], done: Done) -> Cancel:
        """Start to store many blobs, up to `requests` at once: see `StartableStore`."""
        self._access.check_writable(self._name)
        self._access.check_size(self._name, max(map(len, blobs), default=0))
        return start_in_task(partial(self._put_each, blobs), done)

    def start_get(self, ref: Ref, done: Done) -> Cancel:
        """Start a `get`: see `StartableStore.start_get`.

        A blob is not found only if the server says that of its object.
        """
        return self._start_read(partial(self._objects.get, ref), done)

    def start_get_many(self, refs: Sequence[Ref], done: Done) -> Cancel:
        """Start to get many blobs, up to `requests` at once: see `StartableStore`."""
        return start_in_task(partial(all_ended, refs, self.start_get, absent=BlobNotFoundError), done)

    def start_contains(self, ref: Ref, done: Done) -> Cancel:
        """Start a `contains`: see `StartableStore`."""
        return self._start_read(partial(self._objects.contains, ref), done)

    def start_list_page(self, after: Ref, limit: int, done: Done) -> Cancel:
        """Start a `list_page`: see `StartableStore`."""
        return start_in_task(partial(self._listing.list_page, after, limit, self._check_end), done)

    async def _check_end(self) -> None:
        """Refuse the end of a listing that has not shown the identity, unless the store has no identity."""
        if self._identity is None:  # only if it is read-only
            await trio.lowlevel.checkpoint()
            return
        await self.identity()  # raises if it is gone
        raise self._client.error(
            f"its listing ended before the object {IDENTITY}, which is there, so it may lack blobs: "
            "try again later, or repair the server"
        )

    async def delete(self, ref: Ref) -> bool:
        """Remove a blob: see `DeletableStore.delete`. Of racing deletes of one blob, several may return True."""
        check_ref(ref)
        self._access.check_writable(self._name)
        deleted: bool = await self._writers.run(partial(self._objects.delete, ref), size=ALONE)
        return deleted

    async def replace(self, blob: Blob | BytesLike) -> None:
        """Write a blob atomically, whatever is there: see `DeletableStore.replace`."""
        blob = await hashed(blob)
        self._access.check_writable(self._name)
        self._access.check_size(self._name, len(blob))
        await self._writers.run(partial(self._objects.replace, blob), size=ALONE)

    async def set_aside(self, ref: Ref) -> str | None:
        """Have the server copy an object to ``damaged:<64 hex>-<time>``: see `DeletableStore.set_aside`."""
        check_ref(ref)
        self._access.check_writable(self._name)
        name: str | None = await self._writers.run(partial(self._objects.set_aside, ref), size=ALONE)
        return name

    async def _read(self, request: Request) -> Any:
        return await self._readers.run(request, size=ALONE, abandon_on_cancel=True)

    def _start_read(self, request: Request, done: Done) -> Cancel:
        return self._readers.start(request, done, size=ALONE, abandon_on_cancel=True)


@contextmanager
def _serve() -> Generator[Handler[Request], None, None]:
    yield _handle


def _handle(batch: Sequence[Call[Request]]) -> None:
    for call in batch:
        call.outcome = outcome.capture(call.request)


SCHEME: Final = StoreScheme(open_object_store, "//BUCKET/PREFIX", place=bucket_place, query=CLIENT_OPTIONS)
"""The scheme of ``s3://BUCKET/PREFIX`` and ``gs://BUCKET/PREFIX``."""

AZURE_SCHEME: Final = StoreScheme(open_object_store, "//CONTAINER/PREFIX", place=bucket_place, query=CLIENT_OPTIONS)
"""``az://CONTAINER/PREFIX``."""
