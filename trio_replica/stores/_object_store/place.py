"""The place of an object store, which is its bucket, its prefix, and the server that has these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from ..._query import options_in, split_query

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

CLIENT_OPTIONS: Final = (
    "endpoint",
    "region",
    "allow_http",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "skip_signature",
    "account_name",
    "account_key",
    "sas_key",
    "service_account",
)
"""The documented options of the client. It has others."""

_SERVERS: Final = ("endpoint", "endpoint_url", "base_url", "account_name")
"""The ends of the names of options that say which server a bucket is on."""


def bucket_place(url: str, options: Mapping[str, Any]) -> Hashable:
    """Return the place of a bucket, which does not depend on credentials."""
    address, query = split_query(url)
    scheme, _, path = address.partition("://")
    bucket, _, prefix = path.partition("/")
    servers = sorted(
        str(value).rstrip("/").lower()
        for option, value in {**options, **dict(options_in(query))}.items()
        if option.lower().endswith(_SERVERS)
    )
    return scheme, bucket, unquote(prefix).strip("/"), *servers
