"""Two versions of the library, paired: each round measures both, one right after the other, in processes of their own.

The benchmarks are those of this version, also for the other one, so that it need not have them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.table import Table

import trio_replica

from .._options import folder_option
from .._progress import progress
from .._spread import Spread
from .commands import measure_overhead, measure_stores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HERE: Final = Path(trio_replica.__file__).parent.parent
BENCHMARKS: Final = Path(__file__).parent.parent.parent

Rates = dict[tuple[str, str], float]
"""The rate of each variant: by the title of its comparison, and its name."""


@click.command("pair", context_settings={"ignore_unknown_options": True})
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", type=click.Choice(["overhead", "stores"]))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@folder_option("--folder", "Where the stores are, on the disk to be measured")
def measure_pairs(other: Path, command: str, options: Sequence[str], rounds: int, folder: Path) -> None:
    """Compare this version with the one in the checkout OTHER, in the rows of COMMAND that OPTIONS select.

    The ratios are those of this version's rates to the other's, round by round. For example:

    python -m benchmarks pair ../before overhead --only "replicas of 2"
    """
    if not (other / "trio_replica").is_dir():
        raise click.UsageError(f"{other} is no checkout of the library: it has no folder trio_replica")
    console = Console(width=None if sys.stdout.isatty() else 110)
    with progress(console) as told:
        arguments = [command, *options, "--folder", str(folder.resolve())]
        here, there = (partial(_measured, checkout, arguments) for checkout in (HERE, other.resolve()))
        found = paired(rounds, here, there, told)
    console.print(table(*found))


def paired(
    rounds: int, here: Callable[[], Rates], there: Callable[[], Rates], told: Callable[[str], None]
) -> tuple[list[Rates], list[Rates]]:
    """Measure both versions in each round, every second round in the opposite order."""
    ours: list[Rates] = []
    theirs: list[Rates] = []
    sides = [("this version", here, ours), ("the other", there, theirs)]
    for number in range(rounds):
        for name, measure, rates in sides if number % 2 == 0 else reversed(sides):
            told(f"round {number + 1} of {rounds}: {name}")
            rates.append(measure())
    return ours, theirs


def table(here: Sequence[Rates], there: Sequence[Rates]) -> Table:
    """Return a table of the ratios of the rates here to those there."""
    shown = Table(title="this version : the other", title_justify="left", min_width=80)
    for name in ("work", "variant", "here", "there", "ratio", "quartiles"):
        shown.add_column(name, justify="left" if name in {"work", "variant"} else "right")
    last = ""
    for work, variant in here[0]:
        ours, theirs = ([rates[work, variant] for rates in side] for side in (here, there))
        ratio = Spread.of([our / their for our, their in zip(ours, theirs, strict=True)])
        medians = [f"{Spread.of(side).median:,.0f}" for side in (ours, theirs)]
        spread = f"{ratio.low:.3g} to {ratio.high:.3g}"
        shown.add_row(work if work != last else "", variant, *medians, f"{ratio.median:.3g}", spread)
        last = work
    return shown


def _measured(checkout: Path, arguments: Sequence[str]) -> Rates:
    """Run one round in a process that imports the library of a checkout, and these benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "trio_replica").symlink_to(checkout / "trio_replica")
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.compare", *arguments, "--rounds", "1", "--output", folder],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(BENCHMARKS)])},
            check=False,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise click.ClickException(f"{checkout}: {' '.join(ended.stderr.split())}")
        return rates_of(json.loads(Path(folder, f"{arguments[0]}.json").read_text(encoding="utf-8")))


def rates_of(found: Mapping[str, Any]) -> Rates:
    """Return the rates in the JSON of one round."""
    return {
        (f"{comparison['group']}: {comparison['work']}", variant["name"]): variant["rates"][0]
        for comparison in found["comparisons"]
        for variant in comparison["variants"]
    }


@click.group()
def commands() -> None:
    """Run one of the comparisons, without the other benchmarks: the other version may lack what those import."""


commands.add_command(measure_overhead)
commands.add_command(measure_stores)
