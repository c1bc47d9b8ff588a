"""The place of a PostgreSQL database, which is its servers and its name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from ..._query import options_in, split_query

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

PARAMETERS: Final = (
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "service",
    "options",
    "application_name",
    "connect_timeout",
    "target_session_attrs",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
"""The parameters of libpq that a URL is likely to have. libpq has others."""

_PORT: Final = "5432"


def database_place(url: str, _: Mapping[str, Any]) -> Hashable:
    """Return the place of a database. The user does not matter, unless the URL names no database."""
    address, query = split_query(url)
    user, _at, rest = address.partition("//")[2].rpartition("@")
    authority, _slash, name = rest.partition("/")
    options = dict(options_in(query))
    hosts = options.get("hostaddr") or options.get("host") or unquote(authority)
    ports = options.get("port") or _PORT
    servers = [host if re.search(r":\d+$", host) else f"{host}:{ports}" for host in map(_host, hosts.split(","))]
    database = options.get("dbname") or unquote(name) or options.get("user") or unquote(user.partition(":")[0])
    return "postgresql", tuple(servers), database, options.get("service"), options.get("options")


def _host(host: str) -> str:
    return host if host.startswith("/") else host.lower()  # the folder of a socket
