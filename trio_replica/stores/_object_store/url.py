"""The place of an object store and the limits of its client, from the options in its URL."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ..._redact import HIDDEN, redacted
from .._access import Access

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENDPOINTS: Final = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}
"""The name of the option ``endpoint`` in the client of each scheme."""

MAX_SECONDS: Final = 24 * 60 * 60
"""The longest time in seconds: a day, which is as good as forever."""

SHORTEST_SECRET: Final = 6
"""The least length of an option's value that is removed from messages. ``false`` is not a secret."""

PUBLIC: Final = frozenset({"endpoint", "base_url", "region", "account_name", "allow_http"})
"""The options whose values may be shown. All others may be secrets."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_YES_OR_NO: Final = {"true": True, "1": True, "false": False, "0": False}


@final
@dataclass(frozen=True, slots=True)
class ClientLimits:
    """The limits of a client: see `open_object_store`."""

    requests: int
    request_timeout: float
    connect_timeout: float
    retries: int
    retry_timeout: float

    def __post_init__(self) -> None:
        for name, least in (("requests", 1), ("retries", 0)):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"{name} is an int, not {type(count).__name__}")
            if count < least:
                raise ValueError(f"{name} is at least {least}, not {count}")
        for name in ("request_timeout", "connect_timeout", "retry_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise TypeError(f"{name} is a number of seconds, not {type(seconds).__name__}")
            if math.isnan(seconds) or seconds < 0 or (seconds == 0 and name != "retry_timeout"):
                raise ValueError(f"{name} is a positive number of seconds, not {seconds}")


@final
@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """A bucket and a prefix in it, with the options that the client needs to reach it."""

    name: str
    """The store's name in messages, which is its URL without options, and its endpoint."""
    scheme: str
    bucket: str
    prefix: str
    """The prefix without slashes around it. Empty for the whole bucket."""
    allow_http: bool
    config: Mapping[str, str] = field(repr=False)
    """The client's other options. Some are secrets."""
    limits: ClientLimits
    access: Access = field(default_factory=Access)

    def without_secrets(self, text: str) -> str:
        """Return `text` without the values of options that may be secrets."""
        values = [value for option, value in self.config.items() if option not in PUBLIC]
        values += [part for value in values for _, part in parse_qsl(value)]  # an Azure SAS is a query
        values += [quote(value, safe="") for value in values]
        for secret in sorted(values, key=len, reverse=True):  # one secret may be a part of another
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, HIDDEN)
        return text


def parse_object_url(
    url: str, limits: ClientLimits, config: Mapping[str, str | bool], access: Access | None = None
) -> ObjectPlace:
    """Return the place that `url` names. Options in the URL take precedence over the other arguments.

    Raises:
      TypeError: if `url` is not a `str`, or an option has a value of the wrong type.
      ValueError: if it is not the URL of an object store, or an option is bad. The message shows no secrets.

    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a store is a str, not {type(url).__name__}")
    address, _, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    if scheme not in ENDPOINTS:
        raise ValueError(f"the URL of an object store begins with one of {', '.join(f'{s}://' for s in ENDPOINTS)}")
    bucket, _, path = rest.partition("/")
    if _BUCKET.fullmatch(bucket) is None:  # not shown, because it may be USER:PASSWORD@BUCKET
        raise ValueError(f"the URL of such a store is {scheme}://BUCKET/PREFIX, with nothing but a bucket's name first")
    prefix = unquote(path).strip("/")
    name = redacted(f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else ""))  # it may have options without their "?"
    if _CONTROL.search(prefix) or any(part in {"", ".", ".."} for part in prefix.split("/") if prefix):
        raise ValueError(f"no prefix has an empty part, a dot for one, or control characters: {name!r}")
    options = _texts(config) | dict(_options(query, name))
    if "timeout" in options:  # the client's own option, which would take precedence
        raise ValueError(f"there is no option timeout, but request_timeout, connect_timeout and retry_timeout: {name}")
    limits = _limits(limits, options, name)
    access = _access(access or Access(), options, name)
    allow_http = _yes_or_no("allow_http", options.pop("allow_http", "false"), name)
    endpoint = options.pop("endpoint", None)
    if endpoint is not None:
        _check_endpoint(endpoint, allow_http=allow_http, name=name)
        options[ENDPOINTS[scheme]] = endpoint
        name += f" at {endpoint}"
    return ObjectPlace(name, scheme, bucket, prefix, allow_http, options, limits, access)


def _texts(config: Mapping[str, str | bool]) -> dict[str, str]:
    texts = {}
    for option, value in config.items():
        if not isinstance(value, str | bool):
            raise TypeError(f"the option {option!r} of an object store is a str, not {type(value).__name__}")
        texts[option] = value if isinstance(value, str) else str(value).lower()
    return texts


def _options(query: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a URL. A plus sign stays a plus sign, because secrets contain them."""
    seen = set()
    for part in filter(None, query.split("&")):
        option, equals, value = part.partition("=")
        if not equals or option in seen:
            raise ValueError(f"the options of a store's URL are ?OPTION=VALUE&…, each once: {name}")
        seen.add(option)
        yield unquote(option), unquote(value)


def _limits(limits: ClientLimits, options: dict[str, str], name: str) -> ClientLimits:
    """Return `limits` with the values in `options`, and remove these from `options`."""
    kinds: dict[str, type[int | float]] = {
        "requests": int,
        "request_timeout": float,
        "connect_timeout": float,
        "retries": int,
        "retry_timeout": float,
    }
    numbers: dict[str, Any] = {}
    for option, kind in kinds.items():
        text = options.pop(option, None)
        if text is not None:
            try:
                numbers[option] = kind(text)
            except ValueError:
                raise ValueError(f"{option} is a number: {name}") from None  # the value may be a secret
    try:
        return replace(limits, **numbers)
    except ValueError as error:
        raise ValueError(f"{error}: {name}") from None


def _access(access: Access, options: dict[str, str], name: str) -> Access:
    """Return `access` with the values that `options` override, and remove these from `options`."""
    given: dict[str, Any] = {
        option: _yes_or_no(option, options.pop(option), name) for option in ("create", "read_only") if option in options
    }
    try:
        if "max_memory" in options:
            given["max_memory"] = int(options.pop("max_memory"))
        return replace(access, **given)
    except ValueError:
        raise ValueError(f"max_memory is a number of bytes, at least 1: {name}") from None


def _yes_or_no(option: str, text: str, name: str) -> bool:
    if text not in _YES_OR_NO:
        raise ValueError(f"{option} is true or false: {name}")
    return _YES_OR_NO[text]


def _check_endpoint(endpoint: str, *, allow_http: bool, name: str) -> None:
    try:
        parts = urlsplit(endpoint)
        good = bool(parts.hostname) and parts.port != 0 and parts.scheme in {"http", "https"}
    except ValueError:  # a bad port
        good = False
    if not good or re.search(r"[@?#\s]", endpoint):  # not shown, because it may contain a secret
        raise ValueError(f"an endpoint is http://HOST:PORT or https://HOST:PORT, without secrets in it: {name}")
    if parts.scheme == "http" and not allow_http:
        raise ValueError(f"an endpoint with http:// needs allow_http=true, because it is not encrypted: {name}")
