"""Recorded exchanges with a PostgreSQL server, played back in tests that have none.

A tape has the connections of one test, in the order in which they were made. A connection is a list of exchanges: what
the client sent until it waited, and what the server answered to that. Both are kept as text: one character is one byte.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeAlias

from .scripted import scripted_server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .scripted import Scripted

Tape: TypeAlias = "list[list[list[str]]]"

FILE: Final = Path(__file__).parent / "recorded" / "postgres.json"
"""The tapes, by the names of their tests."""

RECORD: Final = "TRIO_REPLICA_RECORD"
"""The variable of the environment that has tapes written, and not compared."""

OPTIONS: Final = {"sslmode": "disable", "gssencmode": "disable"}
"""Of connections that can be recorded: what they say is not encrypted."""

WAITS_AFTER: Final = b"SQX"
"""The messages after which a client waits for an answer, or has gone: Sync, Query, Terminate."""

READY: Final = b"Z"
"""The message with which a server ends its answer."""

PICTURES: Final = {byte: 0x2400 + byte for byte in range(32)}
"""Unicode's pictures of the control characters, ␀ and so on: JSON would take six characters for each."""

CHARACTERS: Final = {picture: byte for byte, picture in PICTURES.items()}


def read_tapes(file: Path = FILE) -> dict[str, Tape]:
    """Return what was recorded of all tests."""
    tapes: dict[str, Tape] = json.loads(file.read_text(encoding="utf-8"))
    return tapes


def write_tape(test: str, tape: Tape, file: Path = FILE) -> None:
    """Keep what was recorded of a test."""
    tapes = {**read_tapes(file), test: tape}
    file.write_text(json.dumps(tapes, indent=0, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def requests_of(tape: Tape) -> list[list[str]]:
    """Return what each connection asked, without what names the client's version, or the version of a table."""
    return [[re.sub(r"\d{10}", "#" * 10, asked) for asked, _ in exchanges[1:]] for exchanges in tape]


class Player:
    """Plays a tape back: it answers as the server did, as long as it is asked what the server was asked."""

    def __init__(self, tape: Tape) -> None:
        self._left = [*tape]
        self._lock = threading.Lock()
        self.problems: list[str] = []

    def run(self) -> AbstractContextManager[Scripted]:
        return scripted_server(self._talk)

    def _talk(self, _: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
        with self._lock:
            if not self._left:
                self.problems.append("there are more connections than were recorded")
                return
            exchanges = self._left.pop(0)
        for number, (asked, answered) in enumerate(exchanges):
            found = _text(_request(reader, is_first=number == 0))
            if number and found != asked:  # the first names the client's version, perhaps
                self.problems.append(f"asked {found!r}, where {asked!r} was recorded")
                return
            writer.write(answered.translate(CHARACTERS).encode("latin-1"))
            writer.flush()


class Recorder:
    """Stands between clients and a server, and writes down what they say to each other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self.tape: Tape = []

    def run(self) -> AbstractContextManager[Scripted]:
        return scripted_server(self._talk)

    def _talk(self, _: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
        exchanges: list[list[str]] = []
        with self._lock:
            self.tape.append(exchanges)
        with socket.create_connection(("127.0.0.1", self._port)) as server, server.makefile("rb") as answers:
            while asked := _request(reader, is_first=not exchanges):
                server.sendall(asked)
                answered, has_ended = _answer(answers)
                exchanges.append([_text(asked), _text(answered)])
                writer.write(answered)
                writer.flush()
                if has_ended:
                    break


def _request(reader: IO[bytes], *, is_first: bool) -> bytes:
    """Read what a client says until it waits for an answer; nothing, if it has gone."""
    if is_first:
        length = reader.read(4)
        return length + reader.read(int.from_bytes(length, "big") - 4)
    said = b""
    while message := _message(reader):
        said += message
        if message[:1] in WAITS_AFTER:
            break
    return said


def _answer(reader: IO[bytes]) -> tuple[bytes, bool]:
    """Read what a server says until it waits for the next request, or has gone; return also whether it has."""
    said = b""
    while message := _message(reader):
        said += message
        if message[:1] == READY:
            return said, False
    return said, True


def _message(reader: IO[bytes]) -> bytes:
    head = reader.read(5)
    return head + reader.read(int.from_bytes(head[1:], "big") - 4) if len(head) == 5 else b""


def _text(said: bytes) -> str:
    return said.decode("latin-1").translate(PICTURES)
