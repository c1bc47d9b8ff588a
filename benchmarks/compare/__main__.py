"""``python -m benchmarks.compare``: the comparisons alone, as `pairs` runs them."""

from .pairs import commands

commands(prog_name="python -m benchmarks.compare")
