"""Logging of events in the background."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

logger: Final = logging.getLogger("trio_replica")


def log(level: int, message: str, failure: BaseException | None = None) -> None:
    """Log a line. An exception from a filter or a handler must neither end a task nor replace another exception."""
    with suppress(Exception):
        logger.log(level, "%s", message, exc_info=failure)
