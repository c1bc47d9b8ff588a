"""SQLite databases as other programs use them, and processes that do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

SCHEMA: Final = "CREATE TABLE blobs (ref BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL)"

_HOLDING: Final = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("ready", flush=True)
sys.stdin.read(1)
connection.close()
"""


def execute(connection: sqlite3.Connection, *statements: str) -> list[Any]:
    """Execute statements, and return the rows of the last."""
    return [connection.execute(statement).fetchall() for statement in statements][-1]


def query(path: Path, *statements: str) -> list[Any]:
    """Execute statements as another program would, and return the rows of the last."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return execute(connection, *statements)


@contextmanager
def held_elsewhere(path: Path, *statements: str) -> Generator[subprocess.Popen[str], None, None]:
    """Have another process execute statements, and keep its connection open for the block. Then it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def query_elsewhere(path: Path, *statements: str) -> None:
    """Execute statements in another process, which then closes the database."""
    subprocess.run([sys.executable, "-c", _HOLDING, str(path), *statements], stdin=subprocess.DEVNULL, check=True)


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that SQLite keeps beside a database."""
    return path.with_name(path.name + suffix)


def log_of(path: Path) -> Path:
    return beside(path, "-wal")


def index_of(path: Path) -> Path:
    return beside(path, "-shm")


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return all files of a folder that are not open here, with their inode numbers and contents.

    To read a database that is open here would drop the locks that this process has on it.
    """
    return {
        name: (os.stat(folder / name).st_ino, (folder / name).read_bytes())
        for name in sorted(os.listdir(folder))
        if (folder / name).is_file()
    }
