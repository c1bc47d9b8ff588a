"""``python -m benchmarks queue``: the scenarios, or one real store."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource
from rich.console import Console

from trio_replica.cli.recommend import advice_text, promise_options

from .. import _machine
from .._options import Positive, folder_option, only_option, quick_option
from .._progress import progress
from .measure.own_blobs import StoreFailedError
from .measure.real_store import Measurement, Plan, measure_url
from .model.scenarios import scenarios
from .model.sweep import FULL, NORMAL, QUICK, sweep, tasks
from .model.theory import theory
from .report import charts, page, real_tables
from .report.summary import agreement
from .report.tables import as_json, tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


FOR_SCENARIOS: Final = ("full", "quick", "only", "plot", "output")
FOR_STORE: Final = ("rate", "seconds", "keep", "callers", "memory", "wait_share")
"""The options of ``queue`` that are only for the one or the other."""

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""


@click.command("queue")
@click.option("--full", is_flag=True, help="Draw more, for smoother curves: up to 3 minutes.")
@quick_option
@only_option
@click.option("--plot", is_flag=True, help="Draw the charts as PNG files, too.")
@folder_option("--output", "Where the HTML, JSON and PNG files go")
@click.option("--store", metavar="URL", help="Measure this store instead, and recommend for it. Needs --rate.")
@click.option("--rate", type=Positive(), help="Puts a second, for --store.")
@click.option("--seconds", type=Positive(), default=20.0, show_default=True, help="How long to measure --store.")
@click.option("--keep", is_flag=True, help="Leave in --store what was put there.")
@promise_options
def measure_queue(**options: Any) -> None:
    """Show what the queue's size changes: who waits, for how long, and what a kill loses.

    Without --store, for scenarios: by a recursion, by formulas, and by the real code in virtual time. With --store, for
    that store in real time.
    """
    given = click.get_current_context().get_parameter_source
    other = FOR_STORE if options["store"] is None else FOR_SCENARIOS
    refused = [f"--{name.replace('_', '-')}" for name in other if given(name) is ParameterSource.COMMANDLINE]
    if refused:
        what = "for --store" if options["store"] is None else "for the scenarios, not for --store"
        raise click.UsageError(f"{', '.join(refused)}: {what}")
    for_scenarios = {name: options.pop(name) for name in FOR_SCENARIOS}
    if options["store"] is None:
        _sweep(**for_scenarios, blob_size=options["blob_size"])
        return
    if options["rate"] is None:
        raise click.UsageError("--store needs --rate: the puts a second that it shall be used with")
    _measure_store(**options)


def _sweep(*, full: bool, quick: bool, only: str, plot: bool, output: Path, blob_size: int) -> None:
    if full and quick:
        raise click.UsageError("--full and --quick exclude each other")
    wanted = [scenario for scenario in scenarios() if only in scenario.name]
    if not wanted:
        raise click.UsageError(f"no scenario has {only!r} in its name")
    extent = FULL if full else QUICK if quick else NORMAL
    console = Console(width=None if sys.stdout.isatty() else 140)
    todo = tasks(wanted, extent)
    with progress(console) as told:
        done = itertools.count(1)
        curves, complete = sweep(todo, lambda: told(f"scenarios: {next(done)} of {len(todo)} runs"))
    for table in tables(curves):
        console.print(table)
    console.print(agreement(curves))
    machine = _machine.facts(output)
    written = {
        output / "queue.json": as_json(machine, extent, curves, complete=complete),
        output / "queue.html": page.render(
            curves, theory, machine=machine, extent=extent, blob_size=blob_size, complete=complete
        ),
    }
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    for path in (*written, *(charts.draw_all(curves, theory, output) if plot else ())):
        click.echo(f"written: {path}")
    if not complete:
        click.echo("interrupted, or a process was killed: what was measured until then is shown", err=True)
        raise SystemExit(INTERRUPTED)


def _measure_store(*, store: str, rate: float, seconds: float, keep: bool, blob_size: int, **promise: Any) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        measurement = Measurement(store, Plan(rate, blob_size, seconds))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    failure: BaseException | None = None
    with progress(console) as told:
        try:
            measure_url(store, measurement, told=told, keep=keep)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        except (StoreFailedError, KeyboardInterrupt) as error:
            failure = error
    for table in real_tables.tables(measurement):
        console.print(table)
    console.print(_remains(measurement, keep=keep), highlight=False)
    if isinstance(failure, StoreFailedError):
        raise click.ClickException(str(failure))
    try:
        if measurement.puts is not None:
            workload = measurement.workload()
            times = "the times of the runs" if measurement.runs else f"{len(measurement.puts.seconds)} puts and no run"
            console.print(f"Recommended from {times}: {_figures(workload)}.", highlight=False)
            console.print(advice_text(**workload, **promise), highlight=False)
    except click.ClickException as refusal:
        if failure is None:
            raise
        refusal.show()
    if failure is not None:
        click.echo("interrupted: what was measured until then is shown", err=True)
        raise SystemExit(INTERRUPTED)


def _figures(workload: Mapping[str, Any]) -> str:
    """Return what the advice is calculated from."""
    lists = {name: value if isinstance(value, tuple) else (value,) for name, value in workload.items()}
    return ", ".join(f"{name} {' and '.join(f'{one:.4g}' for one in values)}" for name, values in lists.items())


def _remains(measurement: Measurement, *, keep: bool) -> str:
    """Say what became of the blobs that were put."""
    if measurement.put == 0:
        return "No blob was put."
    if keep:
        return f"{measurement.put} blobs were put, and kept."
    said = f"{measurement.put} blobs were put, or may have been, and {measurement.deleted} of them deleted."
    if measurement.left:
        said += f" {len(measurement.left)} may be left: {', '.join(str(ref) for ref in measurement.left[:10])}"
        said += " …" * (len(measurement.left) > 10)
    if measurement.deletion_failure is not None:
        said += f" Deleting failed: {measurement.deletion_failure!r}"
    return said
