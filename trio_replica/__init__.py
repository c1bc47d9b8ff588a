"""Content-addressed blobs, kept in several stores at once, for programs written with Trio.

`open` opens a replica of stores, and `open_urls` opens its stores as well. `reconcile` copies blobs to stores that lack
them. `docs/architecture.md` describes how it works.
"""

from ._blob import Blob, BytesLike, Ref, to_blob
from ._calls.start import Cancel, Done, Unfinished
from ._calls.threads import Call, StoreThreads, open_store_threads
from ._deletable import DeletableStore, Integrity
from ._errors import (
    BlobNotFoundError,
    BlobTooLargeError,
    CorruptBlobError,
    PoisonedError,
    ReplicaError,
    StoreError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from ._frozen import FrozenDict as FrozenDict  # not exported, but pickles name it
from ._open import open  # noqa: A004  (read as replica.open)
from ._options import ReplicaOptions
from ._public import publish
from ._replica import ReplicaStore
from ._scheme import StoreScheme
from ._statistics import AsyncStoreStatistics, ReplicaStatistics, SyncStoreStatistics
from ._store import PutResult, StartableStore, Store
from ._upkeep.contradiction import Contradiction
from ._upkeep.reconcile import reconcile
from ._upkeep.reconcile_report import ReconcileCounts, ReconcileProblem, ReconcileReport
from ._upkeep.scrub import scrub
from ._upkeep.scrub_report import ScrubCounts, ScrubFinding, ScrubReport
from ._urls.opening import open_store, open_urls
from .advice import NoQueueSizeError, QueueAdvice, recommend_queue_size
from .config import ConfigError, open_config
from .stores.directory import DirectoryStore, open_directory
from .stores.memory import MemoryStore
from .stores.object_store import ObjectStore, open_object_store
from .stores.postgres import PostgresStore, open_postgres
from .stores.retrying import RetryingDeletableStore, RetryingStatistics, RetryingStore
from .stores.sqlite import SqliteStore, open_sqlite

__all__ = [
    "AsyncStoreStatistics",
    "Blob",
    "BlobNotFoundError",
    "BlobTooLargeError",
    "BytesLike",
    "Call",
    "Cancel",
    "ConfigError",
    "Contradiction",
    "CorruptBlobError",
    "DeletableStore",
    "DirectoryStore",
    "Done",
    "Integrity",
    "MemoryStore",
    "NoQueueSizeError",
    "ObjectStore",
    "PoisonedError",
    "PostgresStore",
    "PutResult",
    "QueueAdvice",
    "ReconcileCounts",
    "ReconcileProblem",
    "ReconcileReport",
    "Ref",
    "ReplicaError",
    "ReplicaOptions",
    "ReplicaStatistics",
    "ReplicaStore",
    "RetryingDeletableStore",
    "RetryingStatistics",
    "RetryingStore",
    "ScrubCounts",
    "ScrubFinding",
    "ScrubReport",
    "SqliteStore",
    "StartableStore",
    "Store",
    "StoreError",
    "StoreIdentityError",
    "StoreNotFoundError",
    "StoreReadOnlyError",
    "StoreScheme",
    "StoreThreads",
    "SyncStoreStatistics",
    "Unfinished",
    "open",
    "open_config",
    "open_directory",
    "open_object_store",
    "open_postgres",
    "open_sqlite",
    "open_store",
    "open_store_threads",
    "open_urls",
    "recommend_queue_size",
    "reconcile",
    "scrub",
    "to_blob",
]

publish(__name__, {name: globals()[name] for name in __all__})
del publish
