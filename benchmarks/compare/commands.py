"""``python -m benchmarks overhead``, ``stores`` and ``peers``: the README tells what they measure."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from .. import _machine
from .._options import folder_option, only_option, quick_option
from .._progress import progress
from . import memory, overhead, peers, report, servers, stores, workloads
from .rounds import Folders, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from .._options import CommandT
    from .rounds import Comparison, Measured

ROUNDS: Final = 7
SECONDS: Final = 0.5
QUICK_ROUNDS: Final = 2
QUICK_SECONDS: Final = 0.02


def _common_options(command: CommandT) -> CommandT:
    for option in (
        click.option("--plot", is_flag=True, help="Draw the ratios, as PNG files, too."),
        only_option,
        quick_option,
        folder_option("--output", "Where the JSON and PNG files go"),
        folder_option("--folder", "Where the stores are, on the disk to be measured"),
        click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=SECONDS, show_default=True),
        click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True),
    ):
        command = option(command)
    return command


def _sizes_option(default: Iterable[str]) -> Callable[[CommandT], CommandT]:
    return click.option(
        "--size",
        "sizes",
        type=click.Choice(list(workloads.SIZES)),
        multiple=True,
        default=tuple(default),
        show_default=True,
        help="Bytes of a blob. May be repeated.",
    )


def _callers_option(default: Iterable[int]) -> Callable[[CommandT], CommandT]:
    return click.option(
        "--callers",
        type=click.IntRange(min=1),
        multiple=True,
        default=tuple(default),
        show_default=True,
        help="Tasks that call at once. May be repeated.",
    )


@click.command("overhead")
@click.option(
    "--store",
    "kinds",
    type=click.Choice(list(workloads.OPENERS)),
    multiple=True,
    default=("memory", "sqlite"),
    show_default=True,
    help="What the replicas are made of. May be repeated.",
)
@_callers_option(workloads.CALLERS)
@_sizes_option(workloads.SIZES)
@_common_options
def measure_overhead(kinds: tuple[str, ...], callers: tuple[int, ...], sizes: tuple[str, ...], **options: Any) -> None:
    """Compare replicas with the bare stores that they are made of, and with code written by hand."""
    if options["quick"]:
        callers, sizes = callers[:1], sizes[:1]
    _run("overhead", overhead.comparisons(kinds, callers, sizes, quick=options["quick"]), **options)
    if not options["only"] or options["only"] in memory.TITLE:
        Console().print(memory.report(quick=options["quick"]))


@click.command("stores")
@_callers_option([1, 64])
@_sizes_option(["4 KiB", "1 MiB"])
@_common_options
def measure_stores(callers: tuple[int, ...], sizes: tuple[str, ...], **options: Any) -> None:
    """Compare the stores with each other, and with plain files and databases."""
    if options["quick"]:
        callers, sizes = callers[:1], sizes[:1]
    for name, reason in servers.missing().items():
        click.echo(f"what needs {name} is left out: {reason}")
    _run("stores", stores.comparisons(callers, sizes), **options)


@click.command("peers")
@_sizes_option(["4 KiB", "64 KiB"])
@_common_options
def measure_peers(sizes: tuple[str, ...], **options: Any) -> None:
    """Compare the stores with other libraries that keep blobs on a disk."""
    if options["quick"]:
        sizes = sizes[:1]
    for package in peers.missing():
        click.echo(f"{package} is not installed (pip install '.[bench]'), and left out")
    _run("peers", peers.comparisons(sizes), **options)


def _run(
    name: str,
    comparisons: Iterable[Comparison],
    *,
    rounds: int,
    seconds: float,
    folder: Path,
    output: Path,
    quick: bool,
    only: str,
    plot: bool,
) -> None:
    if quick:
        rounds, seconds = QUICK_ROUNDS, QUICK_SECONDS
    if plot and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install '.[bench]'")
    console = Console(width=None if sys.stdout.isatty() else 110)
    machine = _machine.facts(folder)
    console.print("; ".join(f"{fact} {value}" for fact, value in machine.items() if value is not None))
    if machine["file system"] in _machine.VOLATILE:
        console.print(f"{folder} is on {machine['file system']}: durable puts cost nothing there, and mean nothing")
    measured: list[Measured] = []
    arguments = {"rounds": rounds, "seconds": seconds}
    with Folders(folder) as folders:
        for comparison in comparisons:
            if only not in f"{comparison.group}: {comparison.work}":
                continue
            with progress(console) as told:
                measured.append(measure(comparison, rounds, seconds, folders, told))
            console.print(report.table(measured[-1]))
            (output / f"{name}.json").write_text(report.as_json(machine, arguments, measured), encoding="utf-8")
    if not measured and only not in memory.TITLE:
        raise click.UsageError(f"nothing that is measured has {only!r} in its title")
    if plot:
        for path in report.plot(measured, output, name):
            click.echo(f"drawn: {path}")
