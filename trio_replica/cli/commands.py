"""The command line: ``trio-replica``, or ``python -m trio_replica``."""

from __future__ import annotations

import logging
import re
import signal
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import trio

from .._blob import REF_SIZE, Ref
from .._errors import BlobNotFoundError, PoisonedError, describe_failures
from .._redact import redacted
from .._store import PAGE_SIZE
from .check import check_stores
from .files import write_file, write_new_file
from .init import EXAMPLE
from .outbox import entry_lines, flush_outbox, forget_entries, left_entries, pending_summary
from .output import CommandError, Display, OutputError, describe, printable, say, write_output
from .put import put_files
from .reconcile import Reconciling
from .scrub import scrub_stores
from .status import SHOWN, Holdings, survey
from .stores import CONFIG_FILE, absence, chosen_stores, store_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence

    from .._replica import ReplicaStore
    from .stores import Stores

ResultT = TypeVar("ResultT")

FAILED: Final = 1
INTERRUPTED: Final = 130
"""The exit status that a shell gives for a process that SIGINT ended: 128 and the number of the signal."""

_NAMED: Final = 5  # refs that a message names of many
_DIGITS: Final = 12  # that it gives of each
_SILENCE: Final = logging.NullHandler()  # the commands say themselves what the library logs


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED


def _checked_prefix(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if re.fullmatch(rf"[0-9a-fA-F]{{1,{2 * REF_SIZE}}}", text) is None:
        raise click.BadParameter(f"{text!r} is not 1 to {2 * REF_SIZE} hexadecimal digits", context, parameter)
    return text.lower()


def _checked_ref(context: click.Context, parameter: click.Parameter, text: str | None) -> Ref | None:
    if text is None:
        return None
    try:
        return Ref.from_hex(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@click.group(cls=_Commands)
@store_options
@click.version_option(package_name="trio-replica", prog_name="trio-replica")
def commands() -> None:
    """Keep files in several stores at once, each under the SHA-256 of its content.

    A URL is dir:PATH, sqlite:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX,
    postgresql://USER@HOST/DATABASE or memory:. The stores are those that --sync and --async name; or else those in
    the file that --config names, or else the variable TRIO_REPLICA_CONFIG; or else those in trio-replica.toml, if it
    is here: see init.

    Without any, they are two in the folder trio-replica-data: a SQLite database and, async, a directory. They are on
    one disk, so that is a demonstration and no backup.
    """


@commands.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Put the regular files in folders, and in the folders in these.")
@store_options
@click.pass_context
def put(context: click.Context, paths: tuple[str, ...], *, recursive: bool) -> int:
    """Put files, and print what sha256sum prints for them. The PATH - is standard input.

    A line is printed once every sync store has the file and every async store is going to be given it.
    """
    return trio.run(partial(_put, chosen_stores(context, to_create=True), paths, recursive=recursive))


@commands.command()
@click.argument("ref", callback=_checked_prefix)
@click.option("-o", "--output", metavar="FILE", default="-", type=click.Path(), help="The file to write it to.")
@store_options
@click.pass_context
def get(context: click.Context, ref: str, output: str) -> int:
    """Write the blob that REF names. The first digits of a ref will do, if no other begins with them."""
    data = _run(_get, chosen_stores(context), ref)
    if output == "-":
        write_output(data)
    else:
        write_file(output, data)
    return 0


@commands.command("ls")
@click.option("--after", metavar="REF", callback=_checked_ref, help="Begin with the first ref after this one.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=sys.maxsize, help="Print at most N refs.")
@store_options
@click.pass_context
def list_refs(context: click.Context, after: Ref | None, limit: int) -> int:
    """Print the refs of all blobs in the sync stores, in order."""
    _run(_list, chosen_stores(context), after or Ref.ZERO, limit)
    return 0


@commands.command()
@click.option("--all", "keep_all", is_flag=True, help=f"Print every ref that a store lacks, not just {SHOWN}.")
@store_options
@click.pass_context
def status(context: click.Context, *, keep_all: bool) -> int:
    """Print how many refs each store holds, and which it lacks of those that the others hold.

    The exit status is 1 if a store can't be read. What one lacks is only printed, and what is wrong with the outbox.
    """
    stores = chosen_stores(context)
    kinds = (("sync", stores.sync), ("async", stores.async_))
    with ExitStack() as stack:
        holdings = [
            stack.enter_context(Holdings(name, url, kind, absence(url), keep_all=keep_all))
            for kind, urls in kinds
            for name, url in urls.items()
        ]
        _run(survey, holdings)
        _write_lines(_status_lines(holdings))
    if "outbox" in stores.options:
        _write_lines(pending_summary(stores.outbox(), stores.async_))
    return FAILED if any(one.problem for one in holdings) else 0


@commands.command("scrub")
@click.option("--repair", is_flag=True, help="Replace what is corrupt by a good copy from another store.")
@click.option("--bytes-per-second", metavar="N", type=click.IntRange(min=1), help="Read at most so much of each store.")
@store_options
@click.pass_context
def scrub_command(context: click.Context, *, repair: bool, bytes_per_second: int | None) -> int:
    """Read every blob of every store, hash it again, and print which are corrupt.

    The exit status is 1 if a blob is corrupt and not repaired, or a store or a blob could not be read.
    """
    stores = chosen_stores(context)
    is_sound = _run(lambda: scrub_stores(stores, Display(), repair=repair, bytes_per_second=bytes_per_second))
    return 0 if is_sound else FAILED


@commands.command()
@store_options
@click.pass_context
def check(context: click.Context) -> int:
    """Open every store, and write, read and delete a test blob in each. The round trip is the time of these three."""
    stores = chosen_stores(context, to_create=True)
    stores.prepare()
    return 0 if _run(check_stores, stores.all()) else FAILED


@commands.command("reconcile")
@click.option("--dry-run", is_flag=True, help="Just count what is missing: copy nothing, and create no store.")
@store_options
@click.pass_context
def reconcile_stores(context: click.Context, *, dry_run: bool) -> int:
    """Copy every blob that a store has and others lack to those. The exit status is 1 if anything is still missing.

    Don't delete from the stores while this runs: the blobs would come back. After an interruption, run it again: it
    goes on with what is still missing.
    """
    stores = chosen_stores(context, to_create=not dry_run)
    if not dry_run:
        stores.prepare()
    return _run(_reconcile, stores, dry_run)


@commands.group("outbox", invoke_without_command=True)
@click.option("--all", "keep_all", is_flag=True, help=f"Print every ref that is pending for a store, not just {SHOWN}.")
@store_options
@click.pass_context
def show_outbox(context: click.Context, *, keep_all: bool) -> int:
    """Print what the outbox has: the refs that are pending for each async store, in the order of their puts."""
    if context.invoked_subcommand is None:
        stores = chosen_stores(context, to_create=True)
        _write_lines(entry_lines(stores.outbox(), stores.async_, None if keep_all else SHOWN))
    return 0


@show_outbox.command()
@store_options
@click.pass_context
def flush(context: click.Context) -> int:
    """Deliver what is pending for the async stores, and wait until they have it.

    The exit status is 1 if anything is pending in the end, also for a name that is none of the replica's async stores.
    """
    stores = chosen_stores(context)
    path = stores.outbox()
    left_entries(path, stores.async_)  # where there is no outbox, this says so; a replica would create one
    _run(_flush, stores)
    left = left_entries(path, stores.async_)
    for line in left:
        say(line)
    return FAILED if left else 0


@show_outbox.command()
@click.argument("name")
@click.argument("ref", required=False, callback=_checked_ref)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
@click.pass_context
def forget(context: click.Context, name: str, ref: Ref | None, *, yes: bool) -> int:
    """Drop what is pending for the async store NAME, or only the blob that REF names. It will not be delivered."""
    path = chosen_stores(context, to_create=True).outbox()
    say(forget_entries(path, name, ref, ask=not yes))
    return 0


@commands.command()
@click.argument("file", default=CONFIG_FILE, type=click.Path())
def init(file: str) -> int:
    """Write an example of a configuration file, which works as it stands, with comments."""
    write_new_file(file, EXAMPLE.encode())
    say(f"wrote {printable(file)}; trio-replica check tries the stores that it names")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments`, None for those of this process, and return the exit status."""
    logging.getLogger("trio_replica").addHandler(_SILENCE)
    try:
        exit_status: int = commands.main(arguments, "trio-replica", standalone_mode=False)
    except click.UsageError as error:
        click.UsageError(redacted(error.format_message()), error.ctx).show()
        return error.exit_code
    except click.Abort:  # Click's KeyboardInterrupt, of the moment before there is a command
        say("interrupted")
        return INTERRUPTED
    except Exception as error:  # a store may raise anything
        seen_enough = isinstance(error, OutputError) and isinstance(error.__cause__, BrokenPipeError)
        if not seen_enough:
            say(describe(error))
        return FAILED
    return exit_status


async def _put(stores: Stores, paths: Iterable[str], *, recursive: bool) -> int:
    store: ReplicaStore | None = None
    all_are_put = False
    with _cancelled_by_sigint() as scope:
        try:
            async with stores.open() as store:
                all_are_put = await put_files(store, paths, stores.own_files(), Display(), recursive=recursive)
        except PoisonedError:
            pass  # told below: only now it is known what each async store has
        except OutputError as error:
            say(describe(error))
    queues = {} if store is None else store.statistics().async_stores
    failures = {name: queue.failure for name, queue in queues.items() if queue.failure is not None}
    lacking = [] if store is None else _lacking(store)
    if failures:
        poisoned = "; ".join((f"the replica is poisoned: {describe_failures(failures)}", *lacking))
        cure = "trio-replica outbox flush" if "outbox" in stores.options else "put the files again"
        say(f"{poisoned}; once that is repaired, {cure}")
    elif scope.cancel_called:
        for line in lacking or ["no async store lacks an accepted blob"]:
            say(f"interrupted: {line}")
    if scope.cancel_called:
        return INTERRUPTED  # noqa: ASYNC910  (the whole of a run)
    return 0 if all_are_put else FAILED  # noqa: ASYNC910  (the whole of a run)


def _lacking(store: ReplicaStore) -> list[str]:
    """Return, for each async store that has not got all, what says so."""
    lines: list[str] = []
    for name, refs in store.unreplicated.items():
        if refs:
            named = ", ".join(str(ref)[:_DIGITS] for ref in refs[:_NAMED])
            lines.append(f"{name} lacks {len(refs)} accepted: {named}{', …' if len(refs) > _NAMED else ''}")
    return lines


async def _flush(stores: Stores) -> None:
    async with stores.open() as store:
        await flush_outbox(store, Display())


async def _get(stores: Stores, prefix: str) -> bytes:
    async with stores.open_what_is_there() as store:
        try:
            return await store.get(await _only_ref(store, prefix))
        except BlobNotFoundError:
            raise CommandError(f"{prefix}: not found") from None


async def _only_ref(store: ReplicaStore, prefix: str) -> Ref:
    """Return the one ref that begins with `prefix`; a whole one as it is, whether there is such a blob or not."""
    first = Ref.from_hex(prefix.ljust(2 * REF_SIZE, "0"))
    if len(prefix) == 2 * REF_SIZE:
        return first  # noqa: ASYNC910  (the get has its own)
    found: list[Ref] = []
    after = _predecessor(first)
    while page := await store.list_page(after, 2):
        found += [ref for ref in page if str(ref).startswith(prefix)]
        after = page[-1]
        if len(found) > 1:
            raise CommandError(f"{prefix}: is ambiguous: {found[0]} and {found[1]} begin so")
        if after not in found:
            break
    if not found:
        raise CommandError(f"{prefix}: not found")
    return found[0]


async def _list(stores: Stores, after: Ref, limit: int) -> None:
    async with stores.open_to_read() as store:
        while limit and (page := await store.list_page(after, min(limit, PAGE_SIZE))):
            lines = "".join(f"{ref}\n" for ref in page).encode()
            await trio.to_thread.run_sync(write_output, lines, abandon_on_cancel=True)
            after = page[-1]
            limit -= len(page)


async def _reconcile(stores: Stores, dry_run: bool) -> int:
    reconciling = Reconciling(stores.with_stand_ins() if dry_run else stores.all(), Display())
    await reconciling.run(dry_run=dry_run)
    lines = "".join(f"{printable(line)}\n" for line in reconciling.table(stores.kinds())).encode()
    await trio.to_thread.run_sync(write_output, lines, abandon_on_cancel=True)
    return 0 if reconciling.succeeded else FAILED


def _status_lines(holdings: Sequence[Holdings]) -> Iterator[str]:
    width = max(len(one.name) for one in holdings)
    yield f"{'STORE':{width}}  {'KIND':5}  {'REFS':>10}  {'LACKS':>10}"
    for one in holdings:
        found = f"{one.refs:>10}  {one.lacks:>10}" if not one.problem else f"failed: {one.problem}"
        yield f"{one.name:{width}}  {one.kind:5}  {found}"
    for one in holdings:
        if one.lacks and not one.problem:
            yield f"{one.name} lacks"
            more = one.lacks
            for ref in one.lacking():
                yield f"  {ref}"
                more -= 1
            if more:
                yield f"  and {more} more, which --all prints"


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        write_output(f"{printable(line)}\n".encode())


def _predecessor(ref: Ref) -> Ref:
    """Return the ref before `ref`; before the first there is none, so that is returned itself."""
    return Ref(max(0, int.from_bytes(ref, "big") - 1).to_bytes(REF_SIZE, "big"))


def _run(call: Callable[..., Awaitable[ResultT]], *arguments: object) -> ResultT:
    """Return what ``await call(*arguments)`` returns, in a run of its own, which SIGINT cancels.

    Raises:
      KeyboardInterrupt: then.

    """

    async def run() -> ResultT:
        with _cancelled_by_sigint():
            return await call(*arguments)
        raise KeyboardInterrupt

    return trio.run(run)


@contextmanager
def _cancelled_by_sigint() -> Generator[trio.CancelScope, None, None]:
    """Let SIGINT cancel the block, where a KeyboardInterrupt could come between any two steps of the program.

    A process that ignores SIGINT, one in the background of a script for example, goes on to ignore it.
    """
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield scope
            return
        former = signal.signal(signal.SIGINT, lambda *_: token.run_sync_soon(scope.cancel))
        try:
            yield scope
        finally:
            signal.signal(signal.SIGINT, former)
