"""The servers that stores on other machines are on: here on this one, started for a comparison and stopped after it."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio_replica as replica
from tests import ceph_server, postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from trio_replica import Store

BUCKET: Final = "benchmark"

MISSING: Final[Mapping[str, Callable[[], str | None]]] = {
    "ceph": ceph_server.missing,
    "postgres": postgres_server.missing,
}
"""Functions that return why a server can't run here, or None if it can, by its name."""


class Ceph:
    """A Ceph of one node that keeps its objects in memory, with its S3 gateway."""

    def __init__(self) -> None:
        self._server: ceph_server.CephServer | None = None
        self._numbers = count()

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Run it for the block."""
        with ceph_server.ceph_server() as self._server:
            self._server.client().create_bucket(Bucket=BUCKET)
            yield

    def open_store(self, _: Path) -> AbstractAsyncContextManager[Store]:
        """Open an object store, with a prefix of its own."""
        assert self._server is not None
        return replica.open_object_store(self._server.url(f"{BUCKET}/{self.new_prefix()}"))

    def boto3_client(self, config: Any) -> Any:
        """Return another client than the store's."""
        assert self._server is not None
        return self._server.client(config=config)

    def new_prefix(self) -> str:
        """Return a prefix that nobody else has."""
        return str(next(self._numbers))


class Postgres:
    """A PostgreSQL server, with its data on the disk that temporary folders are on."""

    def __init__(self) -> None:
        self._server: postgres_server.PostgresServer | None = None

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Run it for the block."""
        programs = postgres_server.find_programs()
        assert programs is not None
        with postgres_server.postgres_server(programs) as self._server:
            yield

    def open_store(self, _: Path) -> AbstractAsyncContextManager[Store]:
        """Open a store in the server's one database: what former runs put is there, other blobs than those to come."""
        assert self._server is not None
        return replica.open_postgres(self._server.conninfo())


@contextmanager
def both(ceph: Ceph, postgres: Postgres) -> Generator[None, None, None]:
    """Run two servers for the block."""
    with ceph.running(), postgres.running():
        yield


def missing() -> dict[str, str]:
    """Return why servers that are measured can't be started, by their names."""
    return {name: reason for name, why in MISSING.items() if (reason := why()) is not None}
