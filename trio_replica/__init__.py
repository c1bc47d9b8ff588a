"""Content-addressed blobs, kept in several stores at once, for programs written with Trio.

`open` opens a replica of stores; `open_urls` opens its stores too. `docs/architecture.md` tells how it works.
"""

from ._blob import Blob, Ref, to_blob
from ._errors import BlobNotFoundError, CorruptBlobError, PoisonedError, ReplicaError, StoreError
from ._replica import ReplicaStore, open  # noqa: A004  (read as replica.open)
from ._started import Cancel, Done
from ._statistics import AsyncStoreStatistics, ReplicaStatistics, SyncStoreStatistics
from ._store import DeletableStore, PutResult, StartableStore, Store
from ._threads import Call, StoreThreads, open_store_threads
from ._url import open_store, open_urls
from .stores.directory import DirectoryStore, open_directory
from .stores.memory import MemoryStore
from .stores.sqlite import SqliteStore, open_sqlite

__all__ = [
    "AsyncStoreStatistics",
    "Blob",
    "BlobNotFoundError",
    "Call",
    "Cancel",
    "CorruptBlobError",
    "DeletableStore",
    "DirectoryStore",
    "Done",
    "MemoryStore",
    "PoisonedError",
    "PutResult",
    "Ref",
    "ReplicaError",
    "ReplicaStatistics",
    "ReplicaStore",
    "SqliteStore",
    "StartableStore",
    "Store",
    "StoreError",
    "StoreThreads",
    "SyncStoreStatistics",
    "open",
    "open_directory",
    "open_sqlite",
    "open_store",
    "open_store_threads",
    "open_urls",
    "to_blob",
]
