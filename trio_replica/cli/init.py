"""The command that writes an example of a configuration file."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import click

from .._options import OPTIONS
from .._printable import printable
from .files import write_new_file
from .options import CONFIG_FILE, DEFAULTS
from .output import say

if TYPE_CHECKING:
    from .._options import Option

_HEAD: Final = """\
# The stores of trio-replica. `trio-replica check` tries them.
#
# The command line reads this file if it is trio-replica.toml in the current folder, or if --config FILE or the
# variable TRIO_REPLICA_CONFIG names it. A program reads it with trio_replica.open_config(FILE). Paths are relative to
# the folder of this file. Do not put passwords and keys into it if others may read it.

"""

_STORES: Final = """
# Every blob is in each of these stores before its put returns. Gets read them, in this order with a hedge_delay.
[sync]
local = "sqlite:trio-replica.db"

# A second copy, on another disk.
#second = "dir:/mnt/second-disk/blobs"


# These stores get each blob in the background.
[async]
copy = "dir:trio-replica-copy"  # on the same disk, so this is a demonstration and not a backup

# An object store. Its credentials come from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
# A store on another machine retries failed operations for retry_seconds (RetryingStore). retry = false turns it off.
#offsite = { url = "s3://bucket/prefix", region = "eu-central-1", retry_seconds = 300 }

# A database. Its password comes from ~/.pgpass or PGPASSWORD.
#database = "postgresql://user@host/database"

# A store may also be a table. The options are keyword arguments of open_directory, open_sqlite, open_object_store and
# open_postgres.
#[async.minio]
#url = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&allow_http=true"
#requests = 8
#request_timeout = 60.0
"""


def _line(name: str, option: Option) -> str:
    """Return an option of the replica with a comment. The option is commented out unless the commands set it."""
    mark = "" if name in DEFAULTS else "#"
    text = textwrap.fill(f"{option.summary}.", 120, initial_indent="# ", subsequent_indent="# ")
    return f"{text}\n{mark}{name} = {option.example}\n\n"


EXAMPLE: Final = _HEAD + "".join(_line(name, option) for name, option in OPTIONS.items()) + _STORES
"""The example file. It works as it is, and so does each setting that is commented out."""


@click.command()
@click.argument("file", default=CONFIG_FILE, type=click.Path())
def init(file: str) -> int:
    """Write an example of a configuration file, which works as it is, with comments."""
    write_new_file(file, EXAMPLE.encode())
    say(f"wrote {printable(file)}; trio-replica check tries the stores that it names")
    return 0
