"""The work of the threads of a PostgreSQL store, which is transactions of puts, and reads."""

from __future__ import annotations

import math
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import outcome
import psycopg
from psycopg import errors

from ..._blob import Blob, Ref
from ..._errors import BlobNotFoundError, ReplicaError
from ..._identity import new_identity
from ..._store import PutResult
from .._access import Access
from . import check, writes
from . import statements as sql
from .conninfo import parse
from .known import KnownStore
from .session import Session
from .table import create_damaged_table
from .writes import Inserted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from ..._calls.threads import Call, Handler
    from ..._deletable import Integrity
    from .._reads import Read
    from .session import Connection, Patience

    Write: TypeAlias = Blob | list[Blob] | Callable[[Connection], Any]
    """A request to the writers: a put, a put of many, or a function of a connection."""

    What: TypeAlias = Ref | Callable[[Connection], Any]
    """The content of a `Read` for the readers: a get, or a function of a connection."""

SIZE_LIMIT: Final = 1019 * 1024 * 1024
"""Bytes of the largest blob. The server allocates less than 1 GiB at once (MaxAllocSize), also for the compressed blob,
which may be 1/255 larger with LZ4 (LZ4_compressBound)."""

TOOK_TIME: Final = (errors.QueryCanceled, errors.LockNotAvailable)
"""Errors of statements that have waited long. Their neighbours would wait as long, one after another."""

ResultT = TypeVar("ResultT")


@final
class Database:
    """One database. Except for `check_size`, its methods block, and run in the store's threads."""

    def __init__(
        self,
        conninfo: str,
        *,
        durable: bool = True,
        access: Access | None = None,
        patience: Patience,
        size_limit: int = SIZE_LIMIT,
        make_identity: Callable[[], str] = new_identity,
    ) -> None:
        conninfo, name = parse(conninfo)
        self.name: str = name
        """Its URL without user and password."""
        self.durable: bool = durable
        """Whether a committed transaction survives a crash of the server."""
        self.access: Access = access or Access()
        """The options that it was opened with."""
        self.store: KnownStore = KnownStore(name, self.access, durable=durable, make_identity=make_identity)
        """The store in this database."""
        self._conninfo = conninfo
        self._patience = patience
        self._size_limit = size_limit

    def check_size(self, blobs: Iterable[Blob]) -> None:
        """Refuse blobs if one is too large for memory or for a row, before they are part of any transaction.

        Raises:
          BlobTooLargeError: if one has more than ``max_memory`` bytes.
          psycopg.DataError: if one is too large for a row.

        """
        size = max(map(len, blobs), default=0)
        self.access.check_size(self.name, size)
        if size > self._size_limit:
            raise psycopg.DataError(
                f"a blob of {size} bytes, where a row holds at most {self._size_limit}: {self.name}"
            )

    def _session(self, patience: Patience) -> Session:
        return Session(self._conninfo, self.name, prepare=self.store.prepare, patience=patience)

    # Writing

    @contextmanager
    def serve_writes(self) -> Generator[Handler[Write], None, None]:
        with closing(self._session(self._patience)) as session:
            session.connect()
            yield partial(self._write, session)

    def _write(self, session: Session, batch: Sequence[Call[Write]]) -> None:
        session.connect()
        self._put(session, [call for call in batch if not callable(call.request)])
        for call in batch:
            if callable(call.request):
                call.outcome = session.captured(call.request)

    def _put(self, session: Session, puts: Sequence[Call[Write]]) -> None:
        """Do `puts` as one transaction. If it fails, do each as one of its own, unless they would only wait again."""
        blobs = [_blobs(call.request) for call in puts]
        together = session.captured(partial(self._insert, [blob for some in blobs for blob in some]))
        if isinstance(together, outcome.Value):
            for call, some in zip(puts, blobs, strict=True):
                _settle(call, some, together.value)
            return
        for call in puts:
            if len(puts) == 1 or isinstance(together.error, TOOK_TIME):
                call.fail(together.error)
            else:
                self._put(session, [call])

    def _insert(self, blobs: list[Blob], connection: Connection) -> Inserted:
        """Insert each of `blobs` that is not there."""
        if not blobs:
            return Inserted()
        inserted = writes.insert(dict.fromkeys(blobs), self.store, connection)
        if not inserted.added:
            self._flush(connection)
        return inserted

    def replace(self, blob: Blob, connection: Connection) -> None:
        writes.replace(blob, self.store, connection)

    def delete(self, ref: Ref, connection: Connection) -> bool:
        deleted = writes.delete(ref, self.store, connection)
        if not deleted:
            self._flush(connection)
        return deleted

    def set_aside(self, ref: Ref, connection: Connection) -> bool:
        """Copy the row of a blob to the table ``damaged_blobs``. Return whether there is a row."""
        create_damaged_table(connection)
        if not sql.set_aside(ref, connection):
            if not sql.is_set_aside(ref, connection):
                if sql.contains(ref, connection):
                    raise ReplicaError(
                        f"the table damaged_blobs does not keep the row of blob {ref!s:.12}: {self.name}: "
                        "look at its triggers"
                    )
                return False
            self._flush(connection)
        return True

    def _flush(self, connection: Connection) -> None:
        if self.durable:
            sql.flush(connection)

    # Reading

    def select(self, refs: list[Ref], connection: Connection) -> dict[Ref, bytes]:
        """Return the blobs that are there."""
        return sql.select(refs, self.name, self.access.max_memory, connection)

    def serve_reads(self) -> AbstractContextManager[Handler[Read[What]]]:
        return self._serve_reads(self._patience)

    def serve_checks(self) -> AbstractContextManager[Handler[Read[What]]]:
        """Serve reads without a time limit, as long as a caller waits for them."""
        return self._serve_reads(replace(self._patience, answer=math.inf))

    @contextmanager
    def _serve_reads(self, patience: Patience) -> Generator[Handler[Read[What]], None, None]:
        with closing(self._session(patience)) as session:
            session.connect()
            yield partial(self._read, session)

    def check_integrity(self, connection: Connection) -> Integrity:
        return check.check_integrity(self.name, connection)

    def _read(self, session: Session, batch: Sequence[Call[Read[What]]]) -> None:
        session.connect()
        self._get(session, [call for call in batch if isinstance(call.request.what, Ref)])
        for call in batch:
            what = call.request.what
            if not isinstance(what, Ref):
                call.outcome = _captured(session, what, [call])

    def _get(self, session: Session, gets: Sequence[Call[Read[What]]]) -> None:
        """Do `gets` as one statement. If it fails, do each as one of its own, unless they would only wait again."""
        refs = [call.request.what for call in gets if isinstance(call.request.what, Ref)]
        together = _captured(session, partial(self.select, list(dict.fromkeys(refs))), gets)
        for call, ref in zip(gets, refs, strict=True):
            if isinstance(together, outcome.Error):
                if len(gets) == 1 or isinstance(together.error, TOOK_TIME):
                    call.fail(together.error)
                else:  # one blob may be damaged
                    self._get(session, [call])
            elif ref in together.value:
                call.outcome = outcome.Value(together.value[ref])
            else:
                call.outcome = outcome.Error(BlobNotFoundError(ref))


def _captured(
    session: Session, request: Callable[[Connection], ResultT], calls: Sequence[Call[Read[What]]]
) -> outcome.Value[ResultT] | outcome.Error:
    """Return the outcome of a request for `calls`, which is cancelled when all of these have been abandoned."""

    def is_wanted() -> bool:
        return not all(call.request.is_abandoned for call in calls)

    if not is_wanted():
        return outcome.Error(ReplicaError("nobody waits for it any more"))
    return session.captured(request, is_wanted)


def _blobs(request: Write) -> list[Blob]:
    assert not callable(request)
    return [request] if isinstance(request, Blob) else request


def _settle(call: Call[Write], blobs: list[Blob], inserted: Inserted) -> None:
    """Give a put its outcome. If a batch has equal blobs, only the first counts as added."""
    for blob in blobs:
        if blob.ref in inserted.failures:
            call.fail(inserted.failures[blob.ref])
            return
    results = [PutResult(blob.ref, _taken(inserted.added, blob.ref)) for blob in blobs]
    call.outcome = outcome.Value(results if isinstance(call.request, list) else results[0])


def _taken(refs: set[Ref], ref: Ref) -> bool:
    """Remove `ref` from `refs`, and return whether it was there."""
    was_there = ref in refs
    refs.discard(ref)
    return was_there
