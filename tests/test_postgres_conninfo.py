"""Tests that need no PostgreSQL server: of conninfos, of errors, and of a missing psycopg."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from trio_replica import Blob, open_postgres
from trio_replica.stores._postgres import statements as _postgres_sql
from trio_replica.stores._postgres.conninfo import DEFAULTS, parse
from trio_replica.stores._postgres.errors import NOT_MADE, named

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have none of libpq's variables, and a user of a known name."""
    for variable in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGPASSWORD", "PGSERVICE", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PGUSER", "someone")


async def open_and_close(conninfo: str, **options: Any) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_postgres(conninfo, **options))


# Names


@pytest.mark.parametrize(
    ("conninfo", "name"),
    [
        ("postgresql://user:secret@db.example/blobs", "postgresql://db.example:5432/blobs"),
        ("postgres://db.example:5433/blobs?password=secret&user=x", "postgresql://db.example:5433/blobs"),
        ("host=db.example dbname=blobs user=x password='top secret'", "postgresql://db.example:5432/blobs"),
        ("postgresql://user:se%40cr%2Fet@db.example/blobs", "postgresql://db.example:5432/blobs"),
        ("postgresql://user@db.example", "postgresql://db.example:5432/user"),
        ("postgresql://", "postgresql://:5432/someone"),
        ("", "postgresql://:5432/someone"),
        ("host=/run/postgresql dbname=blobs", "postgresql://%2Frun%2Fpostgresql:5432/blobs"),
        ("host=@abstract dbname=blobs", "postgresql://%40abstract:5432/blobs"),
        ("hostaddr=10.0.0.1 dbname='my blobs'", "postgresql://10.0.0.1:5432/my%20blobs"),
        ("postgresql://[::1]/blobs", "postgresql://[::1]:5432/blobs"),
        ("postgresql://one,two/blobs", "postgresql://one,two/blobs"),
        ("postgresql://one:1,two:2/blobs", "postgresql://one:1,two:2/blobs"),
        ("service=main password=secret", "postgresql:///?service=main"),
    ],
)
def test_the_name_of_a_database_has_its_place_and_no_secret(conninfo: str, name: str) -> None:
    assert parse(conninfo)[1] == name
    given = conninfo_to_dict(conninfo)
    assert {**conninfo_to_dict(parse(conninfo)[0]), **given} == {**DEFAULTS, "client_encoding": "utf8", **given}


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    monkeypatch.setenv("PGPORT", "5433")
    monkeypatch.setenv("PGDATABASE", "blobs")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    conninfo, name = parse("keepalives_idle=7")
    assert name == "postgresql://db.example:5433/blobs"
    assert "connect_timeout" not in conninfo
    assert "secret" not in conninfo
    assert conninfo_to_dict(conninfo)["keepalives_idle"] == "7"


@pytest.mark.parametrize(
    "conninfo",
    [
        "password=top secret",
        "host=db.example secret",
        "password='top secret",
        "secret=1",
        "postgresql://user:sec%zret@db.example/blobs",
        "postgresql://user@[::secret/blobs",
        "postgresql://user:x\nsecret%zz@db.example/blobs",
        "postgresql://user@db.example/blobs?x%0Asecret=1",
        "postgresql://user@db.example/blobs?secret=1",
        "postgresql://user:pass@secret@db.example/blobs",
        "postgresql://user:pass/secret@db.example/blobs",
        "postgresql://user:12/secret@db.example/blobs",
        "host=db.example port=secret",
        "postgresql://user:secret\ud800@db.example/blobs",
    ],
)
async def test_a_bad_conninfo_is_refused_without_being_shown(conninfo: str) -> None:
    with pytest.raises(ValueError, match=r"^the conninfo [^\n]+$") as info:
        await open_and_close(conninfo)
    assert "secret" not in str(info.value)
    assert info.value.__context__ is None


def test_a_password_of_the_environment_that_is_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PGPASSWORD", os.fsdecode(b"p\xe4ss"))
    _, name = parse("postgresql://user@db.example/blobs")
    assert name == "postgresql://db.example:5432/blobs"


async def test_bad_arguments() -> None:
    bad: Any
    for bad in (None, b"postgresql://", 3):
        with pytest.raises(TypeError, match=r"^a conninfo is a str, not "):
            await open_and_close(bad)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"^answer_timeout is more than 0 seconds, not "):
            await open_and_close("", answer_timeout=timeout)


# Answers from no server, and silence


async def check_line(conninfo: str, name: str, *parts: str) -> None:
    """Check that opening a store fails with one line that has its name and these parts, and no password."""
    with pytest.raises(psycopg.OperationalError) as info:
        await open_and_close(conninfo)
    line = str(info.value)
    assert [part for part in (f": {name}: ", *parts) if part not in line] == []
    assert "\n" not in line
    assert "\t" not in line
    assert "secret" not in repr(info.value)
    assert info.value.pgconn is None
    for again in (copy.copy(info.value), pickle.loads(pickle.dumps(info.value))):
        assert type(again) is type(info.value)
        assert again.args == info.value.args


@contextmanager
def answering(answer: bytes | None) -> Generator[int, None, None]:
    """Answer whoever connects with these bytes and the end, or with nothing, and yield the port."""

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            connections.append(connection)
            if not connection.recv(1000):
                return
            if answer is not None:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()
            for connection in connections:
                connection.close()


@pytest.mark.parametrize(
    ("answer", "more", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "", "received invalid response to SSL negotiation: H"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "?sslmode=disable", "expected authentication request from server, but received S"),
    ],
)
async def test_a_server_that_answers_garbage(answer: bytes, more: str, reason: str) -> None:
    with answering(answer) as port:
        await check_line(
            f"postgresql://user:secret@127.0.0.1:{port}/blobs{more}",
            f"postgresql://127.0.0.1:{port}/blobs",
            reason,
            "that is not a PostgreSQL server: check the host and the port",
        )


async def test_a_server_that_hangs_up() -> None:
    with answering(b"") as port:
        await check_line(
            f"postgresql://user:secret@127.0.0.1:{port}/blobs",
            f"postgresql://127.0.0.1:{port}/blobs",
            "server closed the connection unexpectedly: ",
            "start the server, or check the host and the port",
        )


@pytest.mark.deep
async def test_a_server_that_says_nothing() -> None:
    with answering(None) as port:
        await check_line(
            f"postgresql://user:secret@127.0.0.1:{port}/blobs?connect_timeout=2",  # libpq's least
            f"postgresql://127.0.0.1:{port}/blobs",
            "connection timeout expired",
            "connect_timeout is how many seconds to wait",
        )


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    await check_line(
        f"postgresql://user:secret@127.0.0.1:{port}/blobs",
        f"postgresql://127.0.0.1:{port}/blobs",
        "start the server, or check the host and the port",
    )


async def test_no_such_socket(tmp_path: Path) -> None:
    await check_line(
        f"host={tmp_path} port=5432 dbname=blobs password=secret",
        f"postgresql://{str(tmp_path).replace('/', '%2F')}:5432/blobs",
        "No such file or directory: ",
        "start the server, or check the host and the port",
    )


# Errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (psycopg.OperationalError("surprise"), "surprise: NAME"),
        (psycopg.OperationalError("two\nlines"), "two; lines: NAME"),
        (
            psycopg.errors.DiskFull("could not extend file"),
            "could not extend file: NAME: make room on the server's disk",
        ),
        (psycopg.InterfaceError(), "InterfaceError: NAME"),
        (
            psycopg.OperationalError(
                'connection failed: connection to server at "::1", port 5432 failed: Connection refused\n'
                "\tIs the server running on that host and accepting TCP/IP connections?\n"
                "Multiple connection attempts failed. All failures were:\n"
                "- host: 'localhost', port: None, hostaddr: '127.0.0.1': connection failed: connection to server at "
                '"127.0.0.1", port 5432 failed: FATAL:  role "x" does not exist\n'
                "- host: 'localhost', port: None, hostaddr: '::1': connection failed: connection to server at "
                '"::1", port 5432 failed: Connection refused\n'
                "\tIs the server running on that host and accepting TCP/IP connections?"
            ),
            'Connection refused; role "x" does not exist: NAME: check the user',
        ),
    ],
)
def test_an_error_becomes_one_line(error: psycopg.Error, line: str) -> None:
    told = named(error, "NAME")
    assert type(told) is type(error)
    assert str(told) == line
    assert named(told, "NAME") is told


@pytest.mark.parametrize("reason", ["Connection refused", "server closed the connection unexpectedly"])
def test_a_refused_connection_has_one_remedy_whatever_libpq_calls_it(reason: str) -> None:
    """A refusal that comes after a while, as from another host, is reported in the second way."""
    line = f'connection failed: connection to server at "127.0.0.1", port 5432 failed: {reason}\n\tAn aside.'
    told = named(psycopg.OperationalError(line), "NAME", lost=NOT_MADE)
    assert str(told) == f"{reason}: NAME: start the server, or check the host and the port"


def test_another_error_stays_as_it_is() -> None:
    error = OSError("two\nlines")
    assert named(error, "NAME") is error


# Statements


def test_no_insert_of_many_is_large() -> None:
    blobs = [Blob(b"%100d" % i) for i in range(25)]
    large = Blob(bytes(5000))
    parts = _postgres_sql.parts_of([*blobs, large, *blobs[:3]], len, 10 * 164)
    sizes = [[len(blob) for blob in part] for part in parts]
    assert sizes == [[100] * 10, [100] * 10, [100] * 5, [5000], [100] * 3]


# Without psycopg


async def test_psycopg_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith("trio_replica.stores._postgres.database")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trio-replica\[postgres\]'$") as info:
        await open_and_close("postgresql://")
    assert info.value.name == "psycopg"


async def test_libpq_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith(("trio_replica.stores._postgres", "psycopg"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("PSYCOPG_IMPL", "nothing")
    with pytest.raises(ImportError, match=r"pip install 'trio-replica\[postgres\]'$") as info:
        await open_and_close("postgresql://")
    assert type(info.value) is ImportError


def test_the_library_does_not_import_psycopg() -> None:
    program = "import sys, trio_replica; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
