"""Logging of events in the background."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from ._errors import ReplicaError, describe_failure
from ._printable import printable

logger: Final = logging.getLogger("trio_replica")


def log(level: int, message: str, failure: BaseException | None = None) -> None:
    """Log a line. An exception from a filter or a handler must neither end a task nor replace another exception."""
    # The text of a failure may come from a server, so it is shown in one line. Its traceback stays as it is.
    shown = failure and ReplicaError(describe_failure(failure)).with_traceback(failure.__traceback__)
    with suppress(Exception):
        logger.log(level, "%s", printable(message), exc_info=shown)
