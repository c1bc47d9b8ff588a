"""The options in the query of a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator


def split_query(url: str) -> tuple[str, str]:
    """Split a URL, or the part after its scheme, at the question mark that begins its options.

    This is the first question mark that is not part of a password.
    """
    host = url.find("//") + 2
    slash = url.find("/", host)
    at = url.rfind("@", 0, slash if slash >= 0 else len(url))
    before, after = url[: at + 1], url[at + 1 :]
    address, _, query = after.partition("?")
    return before + address, query


def options_in(query: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a query with their values."""
    for part in filter(None, query.split("&")):
        option, _, value = part.partition("=")
        yield unquote(option), unquote(value)
