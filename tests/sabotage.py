"""Mistakes, to be made in a process of its own, that lose blobs only when the power is cut."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import outcome
import trio

import trio_replica as replica
import trio_replica._async.outbox_connection as connection_internals
import trio_replica._async.outbox_file as outbox_internals

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_replica._async.storage import Changes
    from trio_replica._calls.start import Cancel, Done


def sync_no_names() -> None:  # pragma: no cover  (runs in a process of its own)
    _sync_only(lambda mode: not stat.S_ISDIR(mode))


def sync_no_contents() -> None:  # pragma: no cover  (runs in a process of its own)
    _sync_only(stat.S_ISDIR)


def _sync_only(is_synced: Callable[[int], bool]) -> None:  # pragma: no cover  (runs in a process of its own)
    sync = os.fsync

    def fsync(file: Any) -> None:
        if is_synced(os.fstat(file).st_mode):
            sync(file)

    os.fsync = fsync  # type: ignore[assignment]


def sync_the_outbox_when_it_is_written_back() -> None:  # pragma: no cover  (runs in a process of its own)
    _set_synchronous("NORMAL")


def sync_the_outbox_never() -> None:  # pragma: no cover  (runs in a process of its own)
    _set_synchronous("OFF")


def _set_synchronous(level: str) -> None:  # pragma: no cover  (runs in a process of its own)
    class Careless(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(statement.replace("synchronous = FULL", f"synchronous = {level}"), *arguments)

    careless = SimpleNamespace(**vars(sqlite3) | {"connect": partial(sqlite3.connect, factory=Careless)})
    connection_internals.sqlite3 = careless  # type: ignore[attr-defined, assignment]


def acknowledge_before_the_commit() -> None:  # pragma: no cover  (runs in a process of its own)
    start_commit = outbox_internals.SqliteOutbox.start_commit

    def start_a_former_one(self: outbox_internals.SqliteOutbox, changes: Changes, done: Done) -> Cancel:
        trio.lowlevel.current_trio_token().run_sync_soon(done, outcome.Value(None))
        late: deque[Changes] = vars(self).setdefault("late", deque())
        late.append(changes)
        if len(late) > 8:
            start_commit(self, late.popleft(), lambda _: None)
        return lambda: False

    outbox_internals.SqliteOutbox.start_commit = start_a_former_one  # type: ignore[method-assign]


def sync_databases_when_they_are_written_back() -> None:  # pragma: no cover  (runs in a process of its own)
    open_sqlite = replica.open_sqlite
    replica.open_sqlite = lambda path, **_: open_sqlite(path, durable=False)


SABOTAGES: Final = (
    sync_no_names,
    sync_no_contents,
    sync_databases_when_they_are_written_back,
    sync_the_outbox_when_it_is_written_back,
    sync_the_outbox_never,
    acknowledge_before_the_commit,
)
