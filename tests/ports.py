"""Ports of servers that are started more than once, which nobody else gets in the meantime."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Final

FIRST: Final = 20_000
LAST: Final = 32_000
"""Below the ports that Linux hands out by itself, which are those from 32768 on."""


def free_port() -> int:
    """Return a port of loopback that is free, and that is given to nobody who does not ask for it."""
    while True:
        port = random.SystemRandom().randint(FIRST, LAST)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
