"""What is known of a PostgreSQL store since it was opened, and checked on each of its connections."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, final

from psycopg import errors

from ..._errors import ReplicaError, StoreIdentityError, StoreNotFoundError
from ..._log import log
from . import identity
from .settings import set_up
from .table import check_table, create_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._access import Access
    from .session import Connection
    from .table import Table


@final
class KnownStore:
    """One store, wherever the connections to its database lead. Its methods block, and run in the store's threads.

    The first connection finds or makes it. Each later one has to lead to the same: a host name, a pooler or a failover
    may have moved it to another server, or the database may have been replaced by a copy of another.
    """

    def __init__(self, name: str, access: Access, *, durable: bool, make_identity: Callable[[], str]) -> None:
        self.name: str = name
        """The URL of its database, without user and password."""
        self._access = access
        self._durable = durable
        self._make_identity = make_identity
        self._opening = threading.Lock()
        """Held until the store is known, so that the other threads find it."""
        self._schema: str | None = None
        """The schema of its tables; None until it is known."""
        self._identity: str | None = None
        """Its identity; None also if it has none, and none could be made."""

    def prepare(self, connection: Connection) -> None:
        """Set up a new connection, and check that it leads to this store; the first one finds or makes it.

        Raises:
          psycopg.Error: if the server refuses.
          StoreNotFoundError: if there is no store, and none is to be made.
          StoreIdentityError: if it is another one than the first connection found.
          ReplicaError: if its tables can't be believed.

        """
        with self._opening:
            if self._schema is None:
                schema = self._set_up(connection)
                self._find(connection)
                self._schema = schema
                return
        self._set_up(connection)
        if self._identity is not None:
            self._check_identity(self._read_identity(connection))
        self.check_table(connection)

    def check_table(self, connection: Connection) -> None:
        """Check the table again, which may have been altered or made again.

        Raises:
          psycopg.Error: if it is not there.
          ReplicaError: if it can't be believed any more.

        """
        table = self._table(connection)
        if table is None:
            raise errors.UndefinedTable('relation "blobs" does not exist')
        connection.table = table

    def read_identity(self, connection: Connection) -> str | None:
        """Return the identity.

        Raises:
          StoreIdentityError: if it is another than when the store was opened, or is gone.

        """
        found = self._read_identity(connection)
        if self._identity is not None:
            self._check_identity(found)
        return found

    def read_mark(self, connection: Connection) -> str | None:
        """Return the mark of the last session."""
        return None if self._identity is None else identity.read_mark(connection, self.name)

    def keep_mark(self, mark: str, connection: Connection) -> None:
        """Keep the mark of a session; not of a store without an identity."""
        if self._identity is not None:
            identity.keep_mark(mark, connection, self.name)

    def renew_identity(self, connection: Connection) -> str | None:
        """Give the store a new identity; not one without any."""
        if self._identity is None:
            return None
        self.read_identity(connection)
        new = self._make_identity()
        identity.renew(new, connection)
        if self._read_identity(connection) != new:
            raise ReplicaError(f"the table store_identity does not keep what is written to it: {self.name}")
        self._identity = new
        return new

    def _set_up(self, connection: Connection) -> str:
        return set_up(connection, self.name, self._schema, durable=self._durable, read_only=self._access.read_only)

    def _find(self, connection: Connection) -> None:
        """Find the store, or make it, and its identity."""
        found = self._table(connection)
        if found is None:
            if not self._access.may_create:
                raise StoreNotFoundError(self.name)
            if self._read_identity(connection) is not None:
                raise ReplicaError(
                    f"the table blobs of the store is gone, and its identity is there: {self.name}: restore the "
                    "table, or drop the table store_identity to have a new store made"
                )
            create_table(connection)
        self.check_table(connection)
        self._identity = self._read_identity(connection)
        if self._identity is None and not self._access.read_only:
            self._give_identity(connection)

    def _give_identity(self, connection: Connection) -> None:
        try:
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
            raise ReplicaError(f"the table store_identity does not keep what is written to it: {self.name}")

    def _read_identity(self, connection: Connection) -> str | None:
        return identity.read_identity(connection, self.name)

    def _check_identity(self, found: str | None) -> None:
        if found != self._identity:
            raise StoreIdentityError(self.name, self._identity, found)

    def _table(self, connection: Connection) -> Table | None:
        return check_table(connection, self.name, durable=self._durable, read_only=self._access.read_only)
