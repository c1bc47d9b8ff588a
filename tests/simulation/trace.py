"""A record of the events of a simulation in their order, and the error for a broken promise."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import final

import trio


class Violation(Exception):
    """Something that was promised is not so."""


@final
class Trace:
    """The events of one seed, and a count of each kind."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.tally: Counter[str] = Counter()
        self.is_silent = False
        """Whether what happens is no part of it any more: tasks are dying that a crash has killed."""

    def note(self, kind: str, details: object = "") -> None:
        """Note an event of a kind that the tally counts."""
        if not self.is_silent:
            self.tally[kind] += 1
            self.events.append(f"{trio.current_time():.6g} {kind} {details}")

    def begin(self, heading: object) -> None:
        """Note that a part of it begins, outside of any run."""
        self.is_silent = False
        self.events.append(f"--- {heading}")

    def digest(self) -> str:
        """Return a hash of all of it."""
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()


def require(condition: object, promise: str, *details: object) -> None:
    """Check what was promised.

    Raises:
      Violation: if it is not so.

    """
    if not condition:
        raise Violation(": ".join([promise, *map(str, details)]))
