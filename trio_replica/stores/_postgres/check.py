"""The check of a PostgreSQL store: whether the index of its table shows all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..._blob import Ref
from ..._deletable import Integrity

if TYPE_CHECKING:
    import psycopg

HIDDEN: Final = 10_000
"""Hidden refs that are returned: about 1 MB."""

# A sample, also one of all rows, is read from the table whatever the planner may prefer. Each row is looked up in the
# index, because scans of the table are to be avoided.
_HIDDEN: Final = """
WITH hidden AS MATERIALIZED (
    SELECT ref FROM blobs AS row TABLESAMPLE SYSTEM (100)
    WHERE NOT EXISTS (SELECT FROM blobs AS shown WHERE shown.ref = row.ref)
)
SELECT (SELECT count(*) FROM hidden),
       ARRAY(SELECT ref FROM hidden WHERE octet_length(ref) = 32 ORDER BY ref LIMIT %s)
"""


def check_integrity(name: str, connection: psycopg.Connection, *, hidden: int = HIDDEN) -> Integrity:
    """Return the refs of the rows that are in the table and not in its index, at most `hidden` of them."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL enable_seqscan = off")
        ((count, refs),) = connection.execute(_HIDDEN, (hidden,), binary=True).fetchall()
    line = f"{name}: the index of the table blobs does not show {count} of its rows: REINDEX TABLE blobs"
    return Integrity((line,) if count else (), tuple(Ref(ref) for ref in refs), count)
