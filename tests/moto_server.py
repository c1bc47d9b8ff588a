"""A stand-in for S3: moto's server, in a thread of the tests' own process. It answers one request at a time."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable


@contextmanager
def moto_server() -> Generator[S3Server, None, None]:
    """Run a server for the block, on loopback and a free port."""
    # Only a test that needs the server waits for this import, which takes about a second.
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    class QuietHandler(MotoRequestHandler):
        def log(self, *_: object) -> None:
            """Keep each request out of the log, where tests look for what the package says."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:  # of conditional puts that come together, moto would let several in
            answered: Iterable[bytes] = moto(environ, start_response)
            return answered

    # Its own server looks for the service that is meant, which takes longer than an answer.
    moto, lock = create_backend_app("s3"), threading.Lock()
    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield S3Server(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
