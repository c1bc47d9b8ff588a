"""The whole command line, which runs a command and turns an error into one line and an exit status."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import click

from .._redact import redacted
from .check import check
from .get import get
from .identify import identify
from .init import init
from .ls import list_refs
from .options import store_options
from .outbox import show_outbox
from .output import OutputError, describe, say
from .put import put
from .recommend import recommend
from .reconcile import reconcile_stores
from .running import FAILED, INTERRUPTED
from .scrub import scrub_command
from .status import status

if TYPE_CHECKING:
    from collections.abc import Sequence

_SILENCE: Final = logging.NullHandler()  # the commands report themselves what the library logs


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED


@click.group(cls=_Commands)
@store_options
@click.version_option(package_name="trio-replica", prog_name="trio-replica")
def commands() -> None:
    """Keep files in several stores at once, each under the SHA-256 of its content.

    A URL is dir:PATH, sqlite:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX,
    postgresql://USER@HOST/DATABASE or memory:. The options --sync and --async name the stores. Without them, the stores
    come from the file that --config names, or else the file that the variable TRIO_REPLICA_CONFIG names, or else
    trio-replica.toml in the current folder (see init).

    Without any of these, there are two stores in the folder trio-replica-data: a SQLite database, and a directory as
    an async store. They are on one disk, so this is a demonstration and not a backup.
    """


for _command in (
    check,
    get,
    identify,
    init,
    list_refs,
    put,
    recommend,
    reconcile_stores,
    scrub_command,
    show_outbox,
    status,
):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (by default those of the process), and return the exit status."""
    logging.getLogger("trio_replica").addHandler(_SILENCE)
    try:
        exit_status: int = commands.main(arguments, "trio-replica", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # this is the help, which begins with the usage
        return error.exit_code
    except click.UsageError as error:
        click.UsageError(redacted(error.format_message()), error.ctx).show()
        return error.exit_code
    except click.Abort:  # Click's form of a KeyboardInterrupt before a command runs
        say("interrupted")
        return INTERRUPTED
    except Exception as error:  # a store may raise anything
        seen_enough = isinstance(error, OutputError) and isinstance(error.__cause__, BrokenPipeError)
        if not seen_enough:
            say(describe(error))
        return FAILED
    return exit_status
