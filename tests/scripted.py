"""A server that says what a test tells it, on loopback: faults that no real server can be asked for."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from .held import PATIENCE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator

DATE: Final = "Wed, 21 Oct 2015 07:28:00 GMT"


class Request(NamedTuple):
    """A client's request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    """By their names in lower case."""


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: str | bytes = ""
    """The answer to a HEAD has no body: this only gives its length."""
    headers: str = ""
    """More header lines, each with its end."""

    @classmethod
    def of_error(cls, status: int, code: str, message: str = "") -> Answer:
        """Return an error as S3 puts it."""
        return cls(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>")


class Scripted:
    """The server: where it is, and what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.was_asked = threading.Event()
        self.ended = threading.Event()
        """Set when the block has ended. A server that does not answer waits for this."""

    @property
    def asked(self) -> list[str]:
        """The method and the path of each request."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def endpoint(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}"


@contextmanager
def scripted_server(
    talk: Callable[[Scripted, IO[bytes], IO[bytes]], None], context: ssl.SSLContext | None = None
) -> Generator[Scripted, None, None]:
    """Run a server for the block that does ``talk(server, reader, writer)`` with each connection, in a thread."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # of a client that has gone, or that does not speak TLS
                connection = self.request if context is None else context.wrap_socket(self.request, server_side=True)
                with connection, connection.makefile("rb") as reader, connection.makefile("wb") as writer:
                    talk(scripted, reader, writer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False
        request_queue_size = 128  # a connection that finds the queue full is made a second later
        block_on_close = True

    scripted = Scripted()
    with Server(("127.0.0.1", 0), Handler) as server:
        scripted.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield scripted
        finally:
            scripted.ended.set()
            server.shutdown()
            thread.join()


def say_nothing(server: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
    """Take a request, and never answer."""
    server.requests.append(_read_request(reader))
    never_answer(server, writer)


def never_answer(server: Scripted, writer: IO[bytes]) -> None:
    """Keep the client waiting."""
    server.was_asked.set()
    assert server.ended.wait(PATIENCE)


def answering(
    answer: Callable[[Request], Answer | Callable[[Scripted, IO[bytes]], None]],
) -> Callable[[Scripted, IO[bytes], IO[bytes]], None]:
    """Speak HTTP, one request a connection, and answer each as `answer` says, or have it write to the connection."""

    def talk(server: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
        request = _read_request(reader)
        server.requests.append(request)
        answered = answer(request)
        if not isinstance(answered, Answer):
            answered(server, writer)
            return
        status, body, headers = answered
        data = body if isinstance(body, bytes) else body.encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(data)}\r\n{headers}"
            f'Connection: close\r\nETag: "etag"\r\nLast-Modified: {DATE}\r\n\r\n'
        )
        writer.write(head.encode() + (b"" if request.method == "HEAD" else data))

    return talk


def _read_request(reader: IO[bytes]) -> Request:
    method, path, _ = reader.readline().decode().split(" ", 2)
    headers: dict[str, str] = {}
    while line := reader.readline().decode().strip():
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return Request(method, path, reader.read(int(headers.get("content-length", 0))), headers)
