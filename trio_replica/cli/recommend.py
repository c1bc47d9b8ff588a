"""The command ``recommend``, which says how large `queue_size` and `batch_size` should be.

The benchmarks use it too.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..advice import NoQueueSizeError, recommend_queue_size
from .output import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

UNITS: Final[dict[str, int]] = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}

WIDTH: Final = 100
"""The width of the text in columns."""


class RefusedError(CommandError, click.ClickException):
    """An error for workloads that no queue suits. The command line and the benchmarks show it as one line."""


def _byte_count(context: click.Context, parameter: click.Parameter, text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    number = float(found[1]) * UNITS.get(found[2].upper(), 0) if found else 0.0
    count = round(number) if number < math.inf else 0
    if count == 0:
        refusal = f"{text!r} is not a positive number of bytes, such as 100, 64KiB or 1.5GB"
        raise click.BadParameter(refusal, context, parameter)
    return count


def promise_options(command: CommandT) -> CommandT:
    """Add the options for the requirements on the queue, which are the same for all stores."""
    for option in (
        click.option(
            "--wait-share",
            type=float,
            default=0.01,
            show_default=True,
            help="The share of the puts that may wait, and of the bursts and stalls in which any put may wait.",
        ),
        click.option(
            "--callers",
            type=click.IntRange(min=1),
            default=64,
            show_default=True,
            help="The number of tasks that put. Each may hold one more blob.",
        ),
        click.option(
            "--memory",
            metavar="BYTES",
            callback=_byte_count,
            default="256MiB",
            show_default=True,
            help="The bytes for blobs that are queued, being written, or held by callers.",
        ),
        click.option(
            "--blob-size",
            metavar="BYTES",
            callback=_byte_count,
            default="64KiB",
            show_default=True,
            help="The bytes of a blob.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--rate", type=float, required=True, help="Puts a second.")
@click.option("--service-time", type=float, required=True, help="Seconds that the async store takes for a put.")
@click.option(
    "--service-cv",
    type=float,
    default=1.0,
    show_default=True,
    help="The coefficient of variation of that time: standard deviation divided by mean.",
)
@click.option(
    "--batch-cost",
    type=(float, float),
    metavar="A B",
    help="A put_many of k blobs takes A + B·k seconds. By default it takes as long as its puts.",
)
@click.option("--burst", type=click.IntRange(min=1), help="Blobs in an occasional burst.")
@click.option("--burst-rate", type=float, help="Puts a second in a burst. By default they arrive all at once.")
@click.option("--stall", type=float, default=0.0, show_default=True, help="Seconds for which the store may not answer.")
@click.option(
    "--margin",
    type=float,
    default=1.0,
    show_default=True,
    help="The factor by which the queue is larger because slow calls come together.",
)
@promise_options
def recommend(**workload: Any) -> int:
    """Print how large queue_size and batch_size should be, for given puts and a given async store.

    This assumes that puts arrive independently of each other, as a Poisson process. It also assumes that service times
    are not correlated, so a slow call says nothing about the next one. If slow calls come together, many more puts
    wait. Then measure a few thousand calls and give a margin. Let cv be the standard deviation of their times divided
    by the mean. Let I be the variance of the sums of m calls each, divided by m times the squared mean, with m so large
    that I no longer grows. The margin is (1 + I) / (1 + cv²).
    """
    click.echo(advice_text(**workload))
    return 0


def advice_text(**workload: Any) -> str:
    """Return the advice for the terminal. The arguments are those of `recommend_queue_size`.

    Raises:
      RefusedError: if no queue will do.
      click.UsageError: if an argument is out of its bounds. The message names the option.

    """
    # NumPy starts threads when it is imported. They would wait for each other longer than these small matrices take.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        advice = recommend_queue_size(**workload)
    except NoQueueSizeError as refusal:
        raise RefusedError(str(refusal)) from None
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise click.UsageError(f"--{name.replace('_', '-')} {rest}") from None
    chosen = f"queue_size={advice.queue_size}, batch_size={advice.batch_size}"
    return "\n".join([chosen, *_filled(advice.reason), *_filled(advice.assumptions)])


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
