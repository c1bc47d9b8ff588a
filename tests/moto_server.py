"""A stand-in for S3, moto in server mode, in a process of its own, which answers one request at a time."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from .s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Generator

PROGRAM: Final = """
import sys
import threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def answer(environ, start_response):
    with lock:  # of puts on condition that come together, moto would let several in
        return moto(environ, start_response)

server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""


@contextmanager
def moto_server() -> Generator[S3Server, None, None]:
    """Run a server for the block, on loopback and a free port."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()
