"""A bucket that speaks S3 as far as a store needs it, and lies as a test tells it to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote_from_bytes, unquote_to_bytes
from xml.sax.saxutils import escape

from .scripted import Answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, TypeAlias

    from .scripted import Request, Scripted

    Talk: TypeAlias = Callable[[Scripted, IO[bytes]], None]

BUCKET: Final = "blobs"
MISSING: Final = Answer.of_error(404, "NoSuchKey")


class Query:
    """A request for a listing."""

    def __init__(self, request: Request) -> None:
        given = parse_qs(request.path.partition("?")[2], encoding="utf-8", errors="surrogateescape")
        self.options = {name: values[0] for name, values in given.items()}
        self.prefix = self._bytes("prefix")
        token = self._bytes("continuation-token")
        self.start = self._bytes("start-after")
        self.after = bytes.fromhex(token.decode()[1:]) if token.startswith(b"#") else token or self.start
        self.at_most = int(self.options.get("max-keys", "1000"))
        self.is_encoded = self.options.get("encoding-type") == "url"

    def _bytes(self, name: str) -> bytes:
        return self.options.get(name, "").encode("utf-8", "surrogateescape")


class FakeBucket:
    """The objects of one bucket. `answer` is what `answering` takes."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.lie: Callable[[Query], Answer | Talk] | None = None
        """The answer to each request for a listing, from now on."""
        self.encodes = True
        """Whether it supports ``encoding-type``."""
        self.has_plain_tokens = False
        """Whether a token is the last key as it stands, as Ceph's is."""

    def answer(self, request: Request) -> Answer | Talk:
        """Answer as S3 does, unless it is to lie."""
        path = request.path.partition("?")[0]
        key = unquote_to_bytes(path).removeprefix(f"/{BUCKET}".encode()).removeprefix(b"/")
        if not key:
            query = Query(request)
            return self.listing(query) if self.lie is None else self.lie(query)
        match request.method:
            case "PUT" if key in self.objects and "if-none-match" in request.headers:
                return Answer.of_error(412, "PreconditionFailed")
            case "PUT":
                self.objects[key] = request.body
                return Answer(200)
            case "DELETE":
                self.objects.pop(key, None)
                return Answer(204)
        return Answer(200, self.objects[key]) if key in self.objects else MISSING

    def listing(self, query: Query) -> Answer:
        """Answer a request for a listing truly."""
        keys = self.keys(query)
        page = keys[: query.at_most]
        return self.page(page, token=self.token(page[-1]) if len(keys) > len(page) else None, asked=query)

    def token(self, key: bytes) -> bytes:
        """Return what is to be sent for the keys after this one."""
        return _in_xml(key) if self.has_plain_tokens else b"#" + key.hex().encode()

    def keys(self, query: Query) -> list[bytes]:
        """Return all keys that a listing from there on has."""
        return [key for key in sorted(self.objects) if key.startswith(query.prefix) and key > query.after]

    def page(
        self,
        keys: list[bytes],
        *,
        token: bytes | None = None,
        is_truncated: bool | None = None,
        asked: Query | None = None,
    ) -> Answer:
        """Return a page of a listing, in the form of S3. It says what was `asked`, if that is given."""
        shown = [quote_from_bytes(key, safe="/").encode() if self.encodes else _in_xml(key) for key in keys]
        found = b"".join(
            b"<Contents><Key>%s</Key><LastModified>2015-10-21T07:28:00.000Z</LastModified>"
            b"<ETag>&quot;etag&quot;</ETag><Size>4</Size></Contents>" % key
            for key in shown
        )
        more = token is not None if is_truncated is None else is_truncated
        ends = b"<IsTruncated>%s</IsTruncated>" % (b"true" if more else b"false")
        if token is not None:
            ends += b"<NextContinuationToken>%s</NextContinuationToken>" % token
        if asked is not None:
            ends += b"<Prefix>%s</Prefix>" % _in_xml(asked.prefix)
            ends += b"<StartAfter>%s</StartAfter>" % _in_xml(asked.start)
        if self.encodes:
            ends += b"<EncodingType>url</EncodingType>"
        space = b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        return Answer(200, space + b"<Name>blobs</Name>" + ends + found + b"</ListBucketResult>")


def _in_xml(key: bytes) -> bytes:
    """Return a key as careless servers write it: characters that XML does not allow stay."""
    return escape(key.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
