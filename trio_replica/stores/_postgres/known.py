"""The facts about a PostgreSQL store that are found on opening it and checked on each new connection."""

from __future__ import annotations

import copy
import logging
import threading
from typing import TYPE_CHECKING, final

from psycopg import errors

from ..._errors import ReplicaError, StoreIdentityError, StoreNotFoundError
from ..._log import log
from . import identity
from .settings import durable_commits, set_up
from .table import check_table, create_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._access import Access
    from .session import Connection
    from .table import Table


@final
class KnownStore:
    """One store, wherever the connections to its database lead. Its methods block, and run in the store's threads.

    The first connection finds or creates the store. Each later one is checked, because a host name, a pooler or
    a failover may lead to another server, or a copy of another database may have replaced this one.
    """

    def __init__(self, name: str, access: Access, *, durable: bool, make_identity: Callable[[], str]) -> None:
        self.name: str = name
        """The URL of its database, without user and password."""
        self._access = access
        self._durable = durable
        self._make_identity = make_identity
        self._opening = threading.Lock()
        """Held until the store is known, so that the other threads find it."""
        self._failure: Exception | None = None
        """The error of the first connection, without its traceback, which has the connection."""
        self._schema: str | None = None
        """The schema of its tables; None until it is known."""
        self._identity: str | None = None
        """Its identity; None until it is known, and if the store has no identity and none could be created."""

    def prepare(self, connection: Connection) -> None:
        """Set up a new connection, and check that it leads to this store. The first one finds or creates the store.

        If the first one fails, those that have waited for it fail like it. Each would take as long, one after another.

        Raises:
          psycopg.Error: if the server refuses.
          StoreNotFoundError: if there is no store, and none may be created.
          StoreIdentityError: if the store is not the one that the first connection found.
          ReplicaError: if its tables can't be believed.

        """
        with self._opening:
            if self._failure is not None:
                raise copy.copy(self._failure)
            if self._schema is None:
                self._open(connection)
                return
        self._set_up(connection)
        if self._identity is not None:
            self._check_identity(self._read_identity(connection))
        self.check_table(connection)

    def _open(self, connection: Connection) -> None:
        try:
            schema = self._set_up(connection)
            self._find(connection)
        except Exception as error:
            self._failure = copy.copy(error)
            raise
        self._schema = schema

    def check_table(self, connection: Connection) -> None:
        """Check the table again, because it may have been altered or replaced.

        Raises:
          psycopg.Error: if it is not there.
          ReplicaError: if it can no longer be trusted.

        """
        table = self._table(connection)
        if table is None:
            raise errors.UndefinedTable('relation "blobs" does not exist')
        connection.table = table

    def read_identity(self, connection: Connection) -> str | None:
        """Return the identity.

        Raises:
          StoreIdentityError: if it has changed since the store was opened, or is gone.

        """
        found = self._read_identity(connection)
        if self._identity is not None:
            self._check_identity(found)
        return found

    def read_mark(self, connection: Connection) -> str | None:
        """Return the mark of the last session."""
        return None if self._identity is None else identity.read_mark(connection, self.name)

    def keep_mark(self, mark: str, connection: Connection) -> None:
        """Keep the mark of a session, if the store has an identity."""
        if self._identity is not None:
            with durable_commits(connection, durable=self._durable):
                identity.keep_mark(mark, connection, self.name)

    def renew_identity(self, connection: Connection) -> str | None:
        """Give the store a new identity, if it has one."""
        if self._identity is None:
            return None
        self.read_identity(connection)
        new = self._make_identity()
        with durable_commits(connection, durable=self._durable):
            identity.renew(new, connection)
        if self._read_identity(connection) != new:
            raise ReplicaError(
                f"the table store_identity does not keep the rows written to it: {self.name}: look at its triggers"
            )
        self._identity = new
        return new

    def _set_up(self, connection: Connection) -> str:
        return set_up(connection, self.name, self._schema, durable=self._durable, read_only=self._access.read_only)

    def _find(self, connection: Connection) -> None:
        """Find or create the store and its identity."""
        found = self._table(connection)
        if found is None:
            if not self._access.may_create:
                raise StoreNotFoundError(self.name)
            if self._read_identity(connection) is not None:
                raise ReplicaError(
                    f"the table blobs of the store is gone, but its identity is there: {self.name}: restore the "
                    "table, or drop the table store_identity to create a new store"
                )
            create_table(connection)
        self.check_table(connection)
        self._identity = self._read_identity(connection)
        if self._identity is None and not self._access.read_only:
            self._give_identity(connection)

    def _give_identity(self, connection: Connection) -> None:
        try:
            with durable_commits(connection, durable=self._durable):
                identity.make_identity(connection, self._make_identity())
        except errors.InsufficientPrivilege:
            log(
                logging.WARNING,
                f"{self.name}: the store has no identity, and this user may not make one, so it is known by its name "
                "only: open it once as a user who may create tables",
            )
            return
        self._identity = self._read_identity(connection)
        if self._identity is None:
            raise ReplicaError(
                f"the table store_identity does not keep the rows written to it: {self.name}: look at its triggers"
            )

    def _read_identity(self, connection: Connection) -> str | None:
        return identity.read_identity(connection, self.name)

    def _check_identity(self, found: str | None) -> None:
        if found != self._identity:
            raise StoreIdentityError(self.name, self._identity, found)

    def _table(self, connection: Connection) -> Table | None:
        return check_table(connection, self.name, durable=self._durable, read_only=self._access.read_only)
