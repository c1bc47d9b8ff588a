"""The command that writes an example of a configuration file."""

from __future__ import annotations

from typing import Final

import click

from .files import write_new_file
from .output import printable, say
from .stores import CONFIG_FILE

EXAMPLE: Final = """\
# The stores of trio-replica. `trio-replica check` tries them.
#
# The command line reads this file where it stands in the current folder under the name of trio-replica.toml, or is
# named by --config FILE or by the variable TRIO_REPLICA_CONFIG; a program reads it with trio_replica.open_config(FILE).
# Paths are relative to the folder of this file. It is no place for passwords and keys if others may read it.

# Blobs that wait for one async store before a put waits for room; the library's default is 10.
queue_size = 64

# The most blobs that are written to an async store at once; as many as queue_size if nothing is said.
#batch_size = 16

# Seconds that the async stores are given after an interruption.
#grace = 5

# Seconds after which a get asks the next sync store as well; 0 asks all at once.
#hedge_delay = 0.05

# Whether what is read is checked against its hash.
#verify = true

# A file that keeps what is pending for async stores, so that a crash forgets nothing and a put never waits for them.
#outbox = "trio-replica-outbox.db"

# Stores under [async] that a get asks, too, when no store under [sync] has given the blob.
#fallback = ["copy"]

# Whether a program's get writes what it has found to the stores under [sync] that had missed it or had it corrupt.
#repair_reads = true


# Every blob is in each of these before its put returns. They are read, in this order if there is a hedge_delay.
[sync]
local = "sqlite:trio-replica.db"

# A second copy, on another disk.
#second = "dir:/mnt/second-disk/blobs"


# These are given each blob in the background.
[async]
copy = "dir:trio-replica-copy"  # on the same disk: a demonstration and no backup

# An object store. Its credentials come from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
# A store on another machine repeats what fails for retry_seconds: see RetryingStore; retry = false turns that off.
#offsite = { url = "s3://bucket/prefix", region = "eu-central-1", retry_seconds = 300 }

# A database. Its password comes from ~/.pgpass or PGPASSWORD.
#database = "postgresql://user@host/database"

# A table does as well. The options are keyword arguments of open_directory, open_sqlite, open_object_store and
# open_postgres.
#[async.minio]
#url = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&allow_http=true"
#requests = 8
#request_timeout = 60.0
"""
"""It works as it stands, and so does each setting that is commented out."""


@click.command()
@click.argument("file", default=CONFIG_FILE, type=click.Path())
def init(file: str) -> int:
    """Write an example of a configuration file, which works as it stands, with comments."""
    write_new_file(file, EXAMPLE.encode())
    say(f"wrote {printable(file)}; trio-replica check tries the stores that it names")
    return 0
