"""Text of stores and servers, made fit for messages and logs: one line, without control characters."""

from __future__ import annotations

from typing import Final

SHOWN_LIMIT: Final = 2000
"""Characters of a text that are shown: a screenful. A server may send as many as it likes."""


def printable(text: str) -> str:
    """Return `text` with escapes for characters that can't be printed; the name of a file may have any.

    Those are control characters, which could forge a line of a log or drive a terminal, and the invisible ones that
    change the direction of text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, limit: int = SHOWN_LIMIT) -> str:
    """Return `text` as one line that can be printed, of at most `limit` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
