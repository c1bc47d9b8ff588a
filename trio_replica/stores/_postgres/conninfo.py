"""libpq's connection strings, parsed without showing a password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

DEFAULTS: Final = {
    "connect_timeout": "10",  # seconds, for each address
    "keepalives_idle": "10",  # seconds of silence before the first probe of the server's machine
    "keepalives_interval": "5",  # seconds between probes
    "keepalives_count": "3",  # unanswered probes after which the connection is lost
    "tcp_user_timeout": "25000",  # milliseconds without an acknowledgement of sent data, as long as all probes take
    "fallback_application_name": "trio_replica",
}
"""The defaults of parameters that the conninfo and the environment leave out. With its own, libpq would wait
forever."""


def parse(conninfo: str) -> tuple[str, str]:
    """Return the whole conninfo to connect with, and the name of the database (its URL without user and password).

    Raises:
      TypeError: if it is not a `str`.
      ValueError: if libpq can't parse it, or parses it in another way than meant. The message shows no password.

    """
    if not isinstance(conninfo, str):
        raise TypeError(f"a conninfo is a str, not {type(conninfo).__name__}")
    given = _parameters(conninfo)
    defaults = Conninfo.get_defaults()
    known = {option.keyword.decode(): option.val.decode(errors="replace") for option in defaults if option.val}
    known.update(given)
    host, port = known.get("host") or known.get("hostaddr", ""), known.get("port", "")
    database = known.get("dbname") or known.get("user", "")
    if not re.fullmatch(r"[0-9,]*", port) or ("://" in conninfo and "@" in host + database):
        raise ValueError(
            "the conninfo has no proper host and port: in a URL, a password's @, / and : are %40, %2F, %3A"
        )
    missing = {key: value for key, value in DEFAULTS.items() if key not in known}
    # Some databases have the encoding SQL_ASCII, with which psycopg would return all texts as bytes.
    conninfo = make_conninfo(conninfo, **missing, client_encoding="utf8")
    return conninfo, _url(host.split(","), port.split(","), database, given.get("service"))


def _parameters(conninfo: str) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    except (psycopg.Error, UnicodeError) as error:
        reason = re.sub(r'".*"', '"…"', str(error).strip(), flags=re.DOTALL)
    # Raised out here, because the other error may have part of a password.
    raise ValueError(f"the conninfo of a PostgreSQL database can't be parsed: {reason}")


def _url(hosts: list[str], ports: list[str], database: str, service: str | None) -> str:
    if service is not None:  # the service has the rest
        return f"postgresql:///?service={quote(service)}"
    if len(ports) == 1:
        ports *= len(hosts)
    addresses = [
        (f"[{host}]" if ":" in host else quote(host, safe="")) + (port and f":{port}")
        for host, port in zip(hosts, ports, strict=False)  # libpq refuses different lengths when it connects
    ]
    return f"postgresql://{','.join(addresses)}/{quote(database)}"
