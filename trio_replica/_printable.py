"""Conversion of text from stores and servers for messages and logs: one line, without control characters."""

from __future__ import annotations

from typing import Final

SHOWN_LIMIT: Final = 2000
"""Characters of a text to show, which is a screenful. A server may send any number."""


def printable(text: str) -> str:
    """Return `text` with escapes for unprintable characters, which the name of a file, for example, may have.

    These are control characters, which could forge a line of a log or drive a terminal, and the invisible characters
    that change the direction of text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, limit: int = SHOWN_LIMIT) -> str:
    """Return `text` as one line that can be printed, of at most `limit` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
