"""One thread's connection to a PostgreSQL server, with bounded waits."""

from __future__ import annotations

import math
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import outcome
import psycopg
from psycopg import capabilities, errors
from psycopg.pq import TransactionStatus

from .errors import NOT_MADE, named

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.abc import PQGen

    from .table import Table

ResultT = TypeVar("ResultT")

CANCEL_AFTER: Final = 0.1
"""Seconds that a request runs at least before it is cancelled because nobody wants its result any more. Cancelling
takes a connection of its own, so it is better to let most requests that lose a race end."""


@final
@dataclass(frozen=True)
class Patience:
    """The times for which a connection waits for its server."""

    answer: float
    """Seconds that the server may be silent during a request."""
    cancel: float = 5.0
    """Seconds for the server to accept a request to cancel a statement, and then to end the statement. After that, the
    connection is closed."""
    clock: Callable[[], float] = time.monotonic


def _always() -> bool:
    return True


@final
class Connection(psycopg.Connection[Any]):
    """A connection that does not wait forever, nor for results that nobody wants."""

    table: Table
    """The table of the store, as it was last checked: see `KnownStore`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience: Patience = Patience(math.inf)
        self._is_wanted = _always
        self._began = 0.0

    def begin(self, is_wanted: Callable[[], bool]) -> None:
        """Begin a request. Its result is wanted as long as ``is_wanted()`` returns True."""
        self._is_wanted = is_wanted
        self._began = self.patience.clock()

    def wait(self, gen: PQGen[ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """Wait for the server as psycopg does, which regularly wakes without an event."""
        return super().wait(self._watched(gen), *args, **kwargs)

    def _watched(self, gen: PQGen[ResultT]) -> Generator[Any, Any, ResultT]:
        """Run `gen`. Cancel the statement once the server is silent for too long, or nobody wants the result.

        A cancelled statement fails even if it comes to its end, because its COMMIT may not have waited for a standby.
        """
        clock = self.patience.clock
        heard = clock()
        is_cancelled = False
        event: Any = None
        while True:
            try:
                expected = gen.send(event)
            except StopIteration as ended:
                if is_cancelled:
                    raise errors.QueryCanceled("the statement was cancelled as it ended") from None
                result: ResultT = ended.value
                return result
            event = yield expected
            now = clock()
            if event:
                heard = now
            if is_cancelled:
                if now - heard > self.patience.cancel:
                    self._let_go(f"no answer for {self.patience.cancel:g} seconds, after the statement was cancelled")
            elif now - heard > self.patience.answer or (now - self._began > CANCEL_AFTER and not self._is_wanted()):
                is_cancelled = True
                self._cancel()
                heard = clock()

    def _cancel(self) -> None:
        # This returns when the server has signalled the process of this connection. A later statement can't be hit,
        # because it is not sent before. If the end of the request is unknown, it could be, so the connection is not
        # used any more.
        if not capabilities.has_cancel_safe():  # libpq before 17 would wait forever and hold the interpreter
            self._let_go("no answer, and this libpq can't cancel a statement in a limited time")
        try:
            self.cancel_safe(timeout=self.patience.cancel)
        except psycopg.Error:
            self._let_go("no answer, and the statement could not be cancelled")

    def _let_go(self, reason: str) -> None:
        self.close()
        raise psycopg.OperationalError(reason)

    def is_alive(self) -> bool:
        """Return whether the server has kept the connection while it was idle."""
        try:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            while poll.poll(0):  # a last message, or the end, which raises
                self.pgconn.consume_input()
        except psycopg.Error:
            return False
        return True


@final
class Session:
    """A connection that is made again when it is lost. All its methods block the one thread that uses it.

    ``prepare(connection)`` is called with each new connection, before any other use of it.
    """

    def __init__(self, conninfo: str, name: str, *, prepare: Callable[[Connection], None], patience: Patience) -> None:
        self._conninfo = conninfo
        self._name = name
        self._prepare = prepare
        self._patience = patience
        self._connection: Connection | None = None

    def connect(self) -> None:
        """Connect and have the new connection prepared, unless there is a live connection.

        Raises:
          psycopg.Error: if connecting fails. It has the store's name and a remedy.
          Exception: any other error of preparing it.

        """
        if self._connection is not None and self._connection.is_alive():
            return
        self.close()
        try:
            self._connection = Connection.connect(self._conninfo, autocommit=True)
            self._connection.patience = self._patience
            self._prepare(self._connection)
        except Exception as error:
            self.close()
            raise named(error, self._name, lost=NOT_MADE) from None

    def captured(
        self, request: Callable[[Connection], ResultT], is_wanted: Callable[[], bool] = _always
    ) -> outcome.Value[ResultT] | outcome.Error:
        """Return the outcome of ``request(connection)``, but raise its error if the connection is lost."""
        connection = self._connection
        assert connection is not None
        connection.begin(is_wanted)
        ended = outcome.capture(request, connection)
        connection.begin(_always)  # otherwise it would keep the calls of the request alive
        if isinstance(ended, outcome.Error):
            ended = outcome.Error(named(ended.error, self._name))
            if connection.info.transaction_status != TransactionStatus.IDLE:
                self.close()
                ended.unwrap()
        return ended

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
