"""``python -m benchmarks``: see the README beside this file."""

from __future__ import annotations

import click

from trio_replica.cli.recommend import recommend

from .compare.commands import measure_overhead, measure_peers, measure_stores
from .compare.pairs import measure_pairs
from .queueing.commands import measure_queue


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Measure what the library costs, and how large its queues should be."""


for command in (measure_overhead, measure_stores, measure_peers, measure_pairs, measure_queue, recommend):
    commands.add_command(command)

if __name__ == "__main__":
    commands(prog_name="python -m benchmarks")
