"""One line for each error of an object store's client, with the meaning of the error and the remedy.

The client has one class for most errors, and only the text says what happened (obstore 0.12).
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final

from ..._printable import one_line
from ..._redact import redacted

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT_LIMIT: Final = 200
"""Characters that are shown of a message of a server or the client."""

NO_GOOD_SERVER: Final = "correct the endpoint, or repair the server"
"""The remedy for a server whose answers are invalid or contradict each other."""

MISSING_CODES: Final = frozenset({"NoSuchKey", "BlobNotFound"})
"""The codes of S3 and Google, and of Azure, for a missing object in an existing bucket."""

_NO_BUCKET = "there is no such bucket: create it, or correct the URL"
_BAD_CREDENTIALS = "the server does not accept the credentials: correct them"
NO_CREDENTIALS = "there are no credentials: give them as options or in the environment, or skip_signature=true for none"
_FORBIDDEN = "the server forbids this with these credentials: permit them to list, get, put and delete in the bucket"
_WRONG_PLACE = "the bucket is elsewhere: correct the region or the endpoint"
_TOO_LARGE = "the server takes no blob of this size in one request"
_NOT_ABLE = "the server can't do this; a store has to put an object only if there is none (If-None-Match)"
NO_OBJECT_STORE = "the server is not an object store: correct the endpoint"
_ODD_NAME = (
    "under its prefix is an object of another program with a name that the client can't list (an empty part, a dot for "
    "one, or a control character): move it away"
)
_REFUSED = "correct the endpoint, the region or the credentials"
_TROUBLE = "the server is in trouble: try again later"

_CODES: Final = {
    "NoSuchBucket": _NO_BUCKET,
    "ContainerNotFound": _NO_BUCKET,
    "InvalidAccessKeyId": _BAD_CREDENTIALS,
    "SignatureDoesNotMatch": _BAD_CREDENTIALS,
    "InvalidToken": _BAD_CREDENTIALS,
    "ExpiredToken": _BAD_CREDENTIALS,
    "AuthenticationFailed": _BAD_CREDENTIALS,
    "AuthenticationRequired": _BAD_CREDENTIALS,
    "AuthorizationFailure": _BAD_CREDENTIALS,
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ: set them",
    "AuthorizationHeaderMalformed": _WRONG_PLACE,
    "PermanentRedirect": _WRONG_PLACE,
    "TemporaryRedirect": _WRONG_PLACE,
    "EntityTooLarge": _TOO_LARGE,
    "RequestBodyTooLarge": _TOO_LARGE,
    "NotImplemented": _NOT_ABLE,
}

_STATUSES: Final = (
    (r"401", _BAD_CREDENTIALS),
    (r"403", _FORBIDDEN),
    (r"30\d", _WRONG_PLACE),
    (r"404", NO_OBJECT_STORE),
    (r"413", _TOO_LARGE),
    (r"501", _NOT_ABLE),
    (r"408|429|5\d\d", _TROUBLE),
)

UNKNOWN_SERVER: Final = "the name of its server is not known: correct the endpoint, or the name service"
NOT_LISTENING: Final = "its server refuses the connection: start it, or correct the endpoint"
NO_TLS: Final = "its server speaks no TLS: correct the endpoint, or make it http:// and add allow_http=true"
BAD_CERTIFICATE: Final = "the certificate of its server is not trusted: correct the endpoint or the certificate"
NOT_IN_TIME: Final = (
    "its server did not answer in time: try again later, or raise request_timeout, which limits the size of blobs"
)
HUNG_UP: Final = (
    "its server closed the connection without an answer: try again later; if it speaks TLS, correct the endpoint"
)
_BEFORE_ANY_ANSWER: Final = (
    ("dns error", UNKNOWN_SERVER),
    ("ConnectionRefused", NOT_LISTENING),
    ("InvalidContentType", NO_TLS),
    ("InvalidCertificate", BAD_CERTIFICATE),
    ("BadScheme", "its endpoint is http://: make it https://, or add allow_http=true"),
    ("TimedOut|kind: Timeout", NOT_IN_TIME),
    ("InvalidUri", "its endpoint is no URL: correct it"),
    ("IncompleteMessage|ConnectionReset|BrokenPipe|UnexpectedEof|IncompleteBody", HUNG_UP),
    (r"contained empty path segment|Error parsing Path|non-unicode", _ODD_NAME),
    ("Content-Length Header missing", f"it does not say how many bytes it sends: {NO_GOOD_SERVER}"),
    (r"hyper::Error\(\s*Parse|Unable to extract metadata|Got invalid .* response", NO_OBJECT_STORE),
)

_LOOKS_FOR_CREDENTIALS: Final = re.compile(
    r"/latest/api/token|/latest/meta-data|/computeMetadata/|/metadata/identity/|Missing(SecretAccessKey|AccessKeyId|Token)"
)
"""The last place where clients look for credentials, on a machine of their cloud, and their message for half a pair."""

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]+)</Message>")
_REQUEST: Final = re.compile(
    r"Error performing (?:\w+ request: )?|(?:GET|HEAD|PUT|POST|DELETE) \S+ in \S+ .*?- | ?\w+://[^\s,]+"
)


def says_missing(error: BaseException) -> bool:
    """Return whether the server is sure that the object is missing, and not, for example, its bucket."""
    code = _CODE.search(str(error))
    return isinstance(error, FileNotFoundError) and code is not None and code[1] in MISSING_CODES


def explain(error: BaseException, without_secrets: Callable[[str], str] = str) -> str:
    """Return the meaning of an error of the client, and the remedy.

    Quoted text goes through `without_secrets` before it is shortened, because a shortened secret is not recognised.
    """
    text, _, debug = str(error).partition("\n\nDebug source:")
    if _LOOKS_FOR_CREDENTIALS.search(text + debug):
        return NO_CREDENTIALS
    if status := _STATUS.search(text):
        return explain_answer(status[1], text, without_secrets)
    for pattern, line in _BEFORE_ANY_ANSWER:
        if re.search(pattern, text + debug):
            return line
    return _shortened(without_secrets(_REQUEST.sub("", text))) or type(error).__name__


def explain_answer(status: str, text: str, without_secrets: Callable[[str], str] = str) -> str:
    """Return the meaning of the status of an answer and of the error in its text: see `explain`."""
    code = _CODE.search(text)
    if code is not None and code[1] in _CODES:
        return f"{_CODES[code[1]]} ({code[1]})"
    said = f"{status} {code[1]}" if code is not None else status
    for pattern, line in _STATUSES:
        if re.fullmatch(pattern, status):
            return f"{line} ({said})"
    message = _MESSAGE.search(text)
    quoted = _shortened(without_secrets(html.unescape(message[1]))) if message else _REFUSED
    return f"the server answered {said}: {quoted}"


def _shortened(text: str) -> str:
    return one_line(redacted(text), TEXT_LIMIT)
