"""The database of an outbox, with a disk and a thread that are simulated. All else of it is the package's own."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast, final
from unittest import mock

import outcome
import trio

from trio_replica._async import outbox as _outbox
from trio_replica._async import outbox_file as _sqlite_outbox
from trio_replica._async.outbox_format import check_format
from trio_replica._async.storage import Changes
from trio_replica._calls.threads import Call

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from trio_replica._calls.start import Cancel, Done
    from trio_replica._calls.threads import Handler

    from .trace import Trace

RequestT = TypeVar("RequestT")

BATCH_CALLS = 4
"""The most calls in one batch: few, because there is little traffic."""


@final
@dataclass
class DatabaseFile:
    """The file of a database. A commit survives a power cut once it is synced, and only with all commits before it."""

    synced: bytes | None = None
    unsynced: list[bytes] = field(default_factory=list)
    """Its content after each commit since."""
    is_synced_by_commits: bool = True
    """Whether the last commit came from a connection that has told SQLite to sync."""

    @property
    def content(self) -> bytes | None:
        return self.unsynced[-1] if self.unsynced else self.synced

    def commit(self, content: bytes, *, to_sync: bool) -> None:
        self.unsynced.append(content)
        self.is_synced_by_commits = to_sync

    def end_commit(self) -> None:
        """Have what was committed on the disk, if a commit does that."""
        if self.is_synced_by_commits:
            self.synced = self.content
            self.unsynced.clear()

    def left(self, draw: random.Random, *, power_cut: bool) -> DatabaseFile:
        """Return what a crash leaves: a kill all commits, a power cut the first of those that were not synced."""
        count = draw.randint(0, len(self.unsynced)) if power_cut else len(self.unsynced)
        return DatabaseFile([self.synced, *self.unsynced][count])


@final
@dataclass
class OutboxWeather:
    """How the disk of the outbox works during one session."""

    draw: random.Random
    trace: Trace
    pace: float = 0.0
    error_rate: float = 0.0
    uncommitted_limit: int = _outbox.UNCOMMITTED_LIMIT
    """Acknowledgements that may wait for a commit."""

    async def pause(self) -> None:
        await trio.sleep(self.draw.choice((0.0, self.pace, self.pace * self.draw.random())))

    def fails(self) -> bool:
        return self.draw.random() < self.error_rate


class Connection(sqlite3.Connection):
    """A connection to a database in memory, which a commit writes to a file."""

    file: DatabaseFile
    weather: OutboxWeather

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT":
            return self._commit()
        if sql.startswith("SELECT seq") and self.weather.fails():
            self._fail("outbox read fails")
        return super().execute(sql, parameters)

    def _commit(self) -> sqlite3.Cursor:
        fails = self.weather.fails()
        if fails and self.weather.draw.random() < 0.5:
            self._fail("outbox commit fails")
        cursor = super().execute("COMMIT")
        ((synchronous,),) = super().execute("PRAGMA synchronous").fetchall()
        self.file.commit(self.serialize(), to_sync=synchronous >= 2)  # FULL
        if fails:
            self._fail("outbox commit fails and stays")
        return cursor

    def _fail(self, kind: str) -> None:
        self.weather.trace.note(kind)
        raise sqlite3.OperationalError("disk I/O error")


@final
class Opened:
    """A stand-in for the only connection to the file, which nobody else removes or replaces here."""

    file = None

    def __init__(self, connection: Connection) -> None:
        self.sql = connection
        self.close = connection.close

    def check(self) -> None:
        """Find the files where they are."""

    note_written = check


@final
class SimulatedThread:
    """The thread of the database: it does all that waits as one batch, and Trio is told once that is on the disk."""

    def __init__(self, handle: Handler[Any], simulated: SimulatedOutbox) -> None:
        self._handle = handle
        self._simulated = simulated
        self._waiting: OrderedDict[Call[Any], None] = OrderedDict()
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._ended = trio.Event()

    def start(self, request: Any, done: Done, *, size: int = 0, abandon_on_cancel: bool = False) -> Cancel:
        """Do what `StoreThreads.start` does."""
        if self._is_closed:
            raise trio.ClosedResourceError
        call: Call[Any] = Call(request, size, cast("Any", self), done, abandon_on_cancel)
        self._waiting[call] = None
        self._changed.unpark_all()
        if isinstance(request, Changes):
            self._simulated.asked(request)
        return call._cancel

    async def run(self) -> None:
        """Serve, until it is closed."""
        weather = self._simulated.weather
        while self._waiting or not self._is_closed:
            if not self._waiting:
                await self._changed.park()
                continue
            await weather.pause()
            batch = [self._waiting.popitem(last=False)[0] for _ in range(min(BATCH_CALLS, len(self._waiting)))]
            self._handle(batch)
            await weather.pause()
            self._simulated.file.end_commit()
            self._deliver(batch)
        self._ended.set()

    async def close(self) -> None:
        """Take no more, let what waits go, and wait for the end."""
        self._is_closed = True
        withdrawn, self._waiting = list(self._waiting), OrderedDict()
        for call in withdrawn:
            call.outcome = outcome.Error(trio.ClosedResourceError())
        self._deliver(withdrawn)
        self._changed.unpark_all()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    def _withdraw(self, call: Call[Any]) -> bool:
        if is_waiting := call in self._waiting:
            del self._waiting[call]
        return is_waiting

    def _deliver(self, batch: Sequence[Call[Any]]) -> None:
        for call in batch:
            assert call.outcome is not None
            if isinstance(call.request, Changes) and isinstance(call.outcome, outcome.Value):
                self._simulated.told(call.request)
            if call._done is not None:
                call._done(call.outcome)


@final
class SimulatedOutbox:
    """A stand-in for the disk and the thread of an outbox in one session.

    `asked` and `told` are called with changes when they are asked for, and when it is said that they are durable.
    """

    def __init__(
        self,
        file: DatabaseFile,
        weather: OutboxWeather,
        asked: Callable[[Changes], None],
        told: Callable[[Changes], None],
    ) -> None:
        self.weather = weather
        self.asked = asked
        self.told = told
        self.file = file

    @contextmanager
    def installed(self) -> Generator[None, None, None]:
        """Let `trio_replica.open` have it for the block."""
        with (
            mock.patch.object(_sqlite_outbox, "connect", self._connect),
            mock.patch.object(_sqlite_outbox, "open_store_threads", self._open_threads),
            mock.patch.object(_outbox, "UNCOMMITTED_LIMIT", self.weather.uncommitted_limit),
        ):
            yield

    def _connect(self, path: str, _: None) -> Opened:
        connection = sqlite3.connect(":memory:", isolation_level=None, factory=Connection)
        connection.file, connection.weather = self.file, self.weather
        if self.file.content is not None:
            connection.deserialize(self.file.content)
        check_format(path, connection)
        connection.execute("PRAGMA synchronous = FULL")
        return Opened(connection)

    @asynccontextmanager
    async def _open_threads(
        self, _: str, serve: Callable[[], AbstractContextManager[Handler[RequestT]]]
    ) -> AsyncGenerator[SimulatedThread, None]:
        await trio.lowlevel.checkpoint()
        with serve() as handle:
            thread = SimulatedThread(handle, self)
            trio.lowlevel.spawn_system_task(thread.run)
            try:
                yield thread
            finally:
                await thread.close()  # noqa: ASYNC102  (it is shielded)
