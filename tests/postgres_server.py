"""A PostgreSQL server of our own: on loopback, in a folder of its own, as a user without rights."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from .child import NOBODY
from .ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator

INSTALLED: Final = ["/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/*/bin"]
"""Where packages put the server's programs: they are in few people's PATH."""

HBA: Final = """
host    all postgres  127.0.0.1/32 trust
hostssl all tls_only  127.0.0.1/32 trust
host    all guest     127.0.0.1/32 scram-sha-256
"""
"""Access: the superuser without a password, a guest with one, and a third user never, because there is no TLS."""

READY: Final = ("ready to accept connections", "ready to accept read-only connections")

SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "lc_messages": "C",
}


def find_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL server that is installed, or None."""
    in_path = shutil.which("initdb")
    folders = [
        folder for pattern in INSTALLED for folder in Path("/").glob(pattern[1:]) if (folder / "initdb").exists()
    ]
    folders.sort(key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))])
    return Path(in_path).resolve().parent if in_path else folders[-1] if folders else None


def missing() -> str | None:
    """Return why there can be no server, or None."""
    return None if find_programs() else "no PostgreSQL server is installed (apt-get install postgresql)"


class PostgresAddress:
    """Where a server is, or what answers as one."""

    def __init__(self, port: int, **options: str) -> None:
        self.port = port
        self._options = options

    @property
    def name(self) -> str:
        """The URL of the superuser's database, without the user."""
        return f"postgresql://127.0.0.1:{self.port}/postgres"

    def conninfo(self, user: str = "postgres", password: str | None = None, **more: str) -> str:
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1",
            port=str(self.port),
            dbname=more.pop("dbname", "postgres"),
            user=user,
            password=password,
            **self._options,
            **more,
        )

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as another program would."""
        return psycopg.connect(self.conninfo(), autocommit=True)

    def query(self, *statements: str) -> list[Any]:
        """Execute statements as another program would, and return the rows of the last."""
        rows: list[Any] = []
        with self.connect() as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows


class PostgresServer(PostgresAddress):
    """A server that can be killed and started again. Its methods block for a second or less."""

    def __init__(self, programs: Path, folder: Path) -> None:
        super().__init__(free_port())
        self._programs = programs
        self._data = folder / "data"
        self._process: subprocess.Popen[str] | None = None
        self._drain = threading.Thread()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def create(self) -> None:
        self._run(
            "initdb",
            "--pgdata",
            self._data,
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        )
        (self._data / "pg_hba.conf").write_text(HBA)

    def start(self, **settings: str) -> None:
        """Start the server, and return when it takes connections."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in {**SETTINGS, **settings}.items():
            command += ["-c", f"{name}={value}"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            **_as_nobody(),
        )
        assert self._process.stderr is not None
        log = []
        for line in self._process.stderr:
            log.append(line)
            if line.rstrip().endswith(READY):
                break
        # All its processes have this pipe: it ends with the last of them.
        self._drain = threading.Thread(target=self._process.stderr.read)
        self._drain.start()
        if not log[-1].rstrip().endswith(READY):
            self._wait()
            raise RuntimeError(f"the server did not start: {''.join(log)}")

    def kill(self) -> None:
        """Kill all processes of the server, as a power cut would, and return when they are gone."""
        assert self._process is not None
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        self._process.kill()
        for child in children:
            with suppress(ProcessLookupError):  # it has seen that its parent is gone
                os.kill(int(child), signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """Stop the server, and return when it has ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # which means: do not wait for those who are connected
        self._wait()

    def restart(self, **settings: str) -> None:
        self.stop()
        self.start(**settings)

    @contextmanager
    def restarted(self, **settings: str) -> Generator[None, None, None]:
        """Have other settings for a block."""
        self.restart(**settings)
        try:
            yield
        finally:
            self.restart()

    @contextmanager
    def as_standby(self) -> Generator[None, None, None]:
        """Have a standby, which waits for a primary that never speaks to it, for a block."""
        signal_file = self._data / "standby.signal"
        signal_file.touch()
        with self.restarted():
            try:
                yield
            finally:
                signal_file.unlink()

    def damage(self, relation: str) -> None:
        """Overwrite the beginning of each page of a table's file."""
        ((path,),) = self.query("CHECKPOINT", f"SELECT pg_relation_filepath('{relation}')")
        self.stop()
        with (self._data / path).open("r+b") as file:
            for page in range(0, os.fstat(file.fileno()).st_size, 8192):
                file.seek(page)
                file.write(b"\xff" * 100)
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._programs / program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, **_as_nobody()
        )

    def _wait(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        self._process.wait()
        self._drain.join()
        self._process.stderr.close()
        self._process = None


@contextmanager
def postgres_server(programs: Path) -> Generator[PostgresServer, None, None]:
    """Run a server for a block, and leave nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="trio-replica-postgres-"))
    try:
        owner = NOBODY if os.geteuid() == 0 else -1  # -1 leaves it as it is
        os.chown(folder, owner, owner)
        server = PostgresServer(programs, folder)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _as_nobody() -> dict[str, Any]:
    """Return options that give a process a user without rights, because PostgreSQL refuses to be run by root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
