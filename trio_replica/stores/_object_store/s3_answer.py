"""The parsing of an answer to a listing of S3, which has to be valid XML whatever keys other programs use."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import ParseError, XMLParser

from .keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

_ROOT: Final = "ListBucketResult"
_PIECE: Final = 64 * 1024

# Other programs may give their objects keys that no XML document can have. Servers put them into one all the same.
_REFERENCE: Final = re.compile(r"&#(?:x([0-9A-Fa-f]{1,8})|([0-9]{1,9}));")
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ODD: Final = "\ufffd"
"""A placeholder for a character that XML does not allow. No blob has it in its name, but the prefix may."""


def read_listing(body: bytes, prefix: bytes, after: bytes) -> Keys | None:
    """Return the keys in an answer to ListObjectsV2.

    None means that the answer is not a listing. It may be an error, a page of a proxy, or cut off. It may also be the
    answer to another request, from a cache. Some servers repeat the prefix and key of the request, which shows this.
    """
    root = _parse(body)
    if root is None or _name(root) != _ROOT:
        return None
    texts = {_name(element): element.text or "" for element in root if len(element) == 0}
    if not (_is_as_asked(texts.get("Prefix"), prefix) and _is_as_asked(texts.get("StartAfter"), after)):
        return None
    is_encoded = texts.get("EncodingType") == "url"
    found = [
        part.text or "" for element in root if _name(element) == "Contents" for part in element if _name(part) == "Key"
    ]
    # XML changes some keys and tokens. Going on after a changed one could skip blobs, so these are left out.
    keys = [
        unquote_to_bytes(key.replace("+", " ")) if is_encoded else key.encode() for key in found if not _is_odd(key)
    ]
    token = texts.get("NextContinuationToken") or None
    may_go_on = texts.get("IsTruncated", "").strip() == "true" or token is not None
    return Keys(keys, may_go_on, None if token is None or _is_odd(token) else token)


def _is_as_asked(text: str | None, asked: bytes) -> bool:
    """Return whether a text in an answer, in any form, repeats this part of the request."""
    return (
        not text
        or _is_odd(text)
        or asked in {text.encode(), unquote_to_bytes(text), unquote_to_bytes(text.replace("+", " "))}
    )


def _is_odd(text: str) -> bool:
    """Return whether XML may have changed a text, because a line feed may have been another line ending."""
    return _ODD in text or "\n" in text


def _parse(body: bytes) -> Element | None:
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    if "<!DOCTYPE" in text:  # no listing has one, and its entities could be made to fill the memory
        return None
    parser = XMLParser()  # noqa: S314  (there are no entities)
    try:
        for piece in _pieces(text):
            parser.feed(_NOT_XML.sub(_ODD, _REFERENCE.sub(_allowed, piece)))
        root: Element = parser.close()
    except ParseError:
        return None
    return root


def _pieces(text: str) -> Iterator[str]:
    """Yield a document in pieces that end with a tag, and so divide no reference.

    Parsing a piece holds the interpreter, and the event loop waits until it is done.
    """
    begin = 0
    while begin < len(text):
        end = text.rfind(">", begin, begin + _PIECE) + 1 or begin + _PIECE
        yield text[begin:end]
        begin = end


def _allowed(reference: re.Match[str]) -> str:
    number = int(reference[1], 16) if reference[1] else int(reference[2])
    return reference[0] if number <= sys.maxunicode and not _NOT_XML.match(chr(number)) else _ODD


def _name(element: Element) -> str:
    """Return the name of an element without its namespace, which not all servers give."""
    return element.tag.rpartition("}")[2]
