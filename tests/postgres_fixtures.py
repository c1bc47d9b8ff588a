"""The fixtures that the tests of PostgreSQL stores use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from .postgres_server import PostgresAddress, PostgresServer, find_programs, postgres_server
from .postgres_tape import OPTIONS, RECORD, Player, Recorder, read_tapes, requests_of, write_tape

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def running() -> Iterator[PostgresServer]:
    programs = find_programs()
    assert programs is not None
    with postgres_server(programs) as server:
        yield server


def empty(running: PostgresServer) -> PostgresServer:
    """Leave nothing in the server."""
    running.query(
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
        "DROP ROLE IF EXISTS guest",
        "DROP DATABASE IF EXISTS another",
        "CREATE ROLE guest LOGIN PASSWORD 'secret'",
        "GRANT USAGE ON SCHEMA public TO guest",
    )
    return running


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.postgres)])
def server(running: PostgresServer) -> PostgresServer:
    """The server, and nothing in it."""
    return empty(running)


@pytest.fixture(params=["played back", pytest.param("real", marks=pytest.mark.postgres)])
def either(request: pytest.FixtureRequest) -> Iterator[PostgresAddress]:
    """The recorded answers of a server to a test that always asks it the same, or the server itself.

    After a change of what a store asks, ``TRIO_REPLICA_RECORD=1 python -m pytest -m postgres tests/test_postgres.py``
    writes down the server's answers.
    """
    test = request.node.name.replace(f"{request.param}-", "").replace(f"[{request.param}]", "")
    if request.param == "played back":
        player = Player(read_tapes()[test])
        with player.run() as scripted:
            yield PostgresAddress(scripted.port, **OPTIONS)
        assert player.problems == []
        return
    recorder = Recorder(empty(request.getfixturevalue("running")).port)
    with recorder.run() as scripted:
        yield PostgresAddress(scripted.port, **OPTIONS)
    if RECORD in os.environ:  # pragma: no cover  (a check only reads)
        write_tape(test, recorder.tape)
    assert requests_of(recorder.tape) == requests_of(read_tapes()[test])
