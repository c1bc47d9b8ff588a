"""The check of a PostgreSQL store: whether the index of its table shows all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..._blob import Ref
from ..._deletable import Integrity

if TYPE_CHECKING:
    import psycopg

HIDDEN: Final = 10_000
"""Hidden refs that are returned: about 1 MB."""

# A sample is always read from the table, even one of all rows, so the planner can't choose the index. Each row is then
# looked up in the index, because the setting below keeps the planner from scanning the table.
_HIDDEN: Final = """
WITH hidden AS MATERIALIZED (
    SELECT ref FROM blobs AS row TABLESAMPLE SYSTEM (100)
    WHERE NOT EXISTS (SELECT FROM blobs AS shown WHERE shown.ref = row.ref)
)
SELECT (SELECT count(*) FROM hidden),
       ARRAY(SELECT ref FROM hidden WHERE octet_length(ref) = 32 ORDER BY ref LIMIT %s)
"""


def check_integrity(name: str, connection: psycopg.Connection, *, hidden: int = HIDDEN) -> Integrity:
    """Return the refs of at most `hidden` rows that are in the table but not in its index."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL enable_seqscan = off")
        ((count, refs),) = connection.execute(_HIDDEN, (hidden,), binary=True).fetchall()
    line = f"{name}: the index of the table blobs does not show {count} of its rows: REINDEX TABLE blobs"
    return Integrity((line,) if count else (), tuple(Ref(ref) for ref in refs), count)
