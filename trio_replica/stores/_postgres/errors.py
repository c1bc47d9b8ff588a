"""One line for each error of PostgreSQL, with the problem, the store and the remedy."""

from __future__ import annotations

import copy
import re
from typing import Final

import psycopg
from psycopg import errors

from ..._printable import one_line

_ADDRESS: Final = re.compile(
    r"(- host: .*?, hostaddr: \S+: )?(connection (failed|is bad): |consuming input failed: )*"
    r'(connection to server .*?"(, port \d+)? failed: )?'
    r"((FATAL|ERROR):\s+)?"
)
"""The text before the reason in a line of libpq, and of psycopg when it has tried several addresses."""

_ASIDES: Final = ("\t", "DETAIL: ", "HINT: ", "Multiple connection attempts failed")
"""The beginnings of lines that are not reasons."""

LONGEST: Final = 1000
"""Characters of a server's text in an error."""

_NAMED: Final = "_trio_replica_named"
"""The attribute that marks an error whose text is one line. The text itself can't show it, as a server may forge it."""

_LOST: Final = "the next call connects again; a write under way may or may not have been done: repeat it"
NOT_MADE: Final = "start the server, or check the host and the port"
"""The remedy for a connection that was not made.

psycopg 3.3 asks libpq for the outcome of a connection before there is one. Unless the refusal comes at once, as on
loopback, libpq then says that the server closed the connection unexpectedly.
"""

_REMEDIES: Final[list[tuple[str | type[psycopg.Error], str]]] = [
    # Errors are told apart by class. Each error of a statement has its own, except for some about permissions.
    ("row-level security", "ALTER ROLE … BYPASSRLS, or ALTER TABLE blobs DISABLE ROW LEVEL SECURITY"),
    ("table store_identity", "GRANT SELECT ON store_identity TO the user"),
    (errors.InsufficientPrivilege, "GRANT the user SELECT, INSERT, UPDATE and DELETE on the table, or have it created"),
    (errors.UndefinedTable, "it was dropped, or is not in the search_path: create it, or open the store again"),
    (
        errors.ReadOnlySqlTransaction,
        "name the primary server; of several hosts, target_session_attrs=read-write finds it",
    ),
    (errors.InvalidSchemaName, "check the search_path, and that the schema in it is there"),
    (errors.DiskFull, "make room on the server's disk"),
    (errors.QueryCanceled, "pg_stat_activity tells what holds a lock; answer_timeout is how long to wait"),
    (errors.LockNotAvailable, "pg_stat_activity tells what holds the lock"),
    (psycopg.errors.ConnectionTimeout, "check the host and the port; connect_timeout is how many seconds to wait"),
    # Remedies by words. Errors of connecting have no class, and an old or translated server may use other words.
    (
        "(password|authentication) failed|no password",
        "check the user, and the password, in the conninfo, PGPASSWORD or ~/.pgpass",
    ),
    ('role ".*" does not exist', "check the user"),
    ('database ".*" does not exist', "check its name, or create it: createdb"),
    ("no encryption|SSL off", "check pg_hba.conf; if the server takes TLS only: sslmode=require"),
    ("pg_hba.conf", "let this user in from here, in the server's pg_hba.conf"),
    ("does not support SSL", "it has no TLS: turn on ssl there, or do without: sslmode=prefer"),
    ("certificate", "sslrootcert names the file of the authority that signed the server's certificate"),
    ("invalid response to SSL|expected authentication", "that is not a PostgreSQL server: check the host and the port"),
    ("refused|No such file", NOT_MADE),
    ("resolve host", "check the host"),
    ("starting up|shutting down|recovery mode|not (yet )?accepting", "try again when it is up"),
    ("too many clients|connection slots|too many connections", "raise max_connections of the server"),
]

_LOSING: Final = "closed the connection|terminating connection|connection is (lost|closed)|reset by peer|no answer"


def named(error: BaseException, name: str, *, lost: str = _LOST) -> BaseException:
    """Return `error`. An error of psycopg becomes a line with the store's name and a remedy.

    It keeps its class and its `diag`, and drops its connection, which knows the password. The line has no
    control characters and is not much longer than `LONGEST`, whatever the server says.
    """
    if not isinstance(error, psycopg.Error) or hasattr(error, _NAMED):
        return error
    text = one_line(error.diag.message_primary or "; ".join(_reasons(str(error))), LONGEST) or type(error).__name__
    named = copy.copy(error)
    named.args = (": ".join(filter(None, [text, name, _remedy(error, text, lost)])),)
    setattr(named, _NAMED, True)
    return named.with_traceback(error.__traceback__)


def _reasons(text: str) -> list[str]:
    """Return the reasons in a text of libpq, each once, without addresses and hints."""
    lines = [line for line in text.splitlines() if not line.startswith(_ASIDES)]
    return list(dict.fromkeys(filter(None, (_ADDRESS.sub("", line, count=1) for line in lines))))


def _remedy(error: psycopg.Error, text: str, lost: str) -> str:
    for sign, remedy in (*_REMEDIES, (_LOSING, lost)):
        if isinstance(error, sign) if isinstance(sign, type) else re.search(sign, text):
            return remedy
    return ""
