"""``python -m tests.simulation --seeds 0:2000``: run seeds, and show what has failed, or what has happened."""

from __future__ import annotations

import argparse
import sys
import time

from .mutants import MUTANTS
from .running import run_in_processes


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says, and return the exit status: 1 if a seed has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(2000), metavar="A:B", help="from A, and below B; or one")
    parser.add_argument("--jobs", type=int, help="processes; as many as processors if it is not given")
    parser.add_argument("--bug", choices=MUTANTS, metavar="NAME", help="plant a bug of tests/simulation/mutants.py")
    options = parser.parse_args(arguments)
    bug = f" --bug {options.bug}" if options.bug else ""
    began = time.perf_counter()
    results = run_in_processes(options.seeds, options.bug, options.jobs)
    seconds = time.perf_counter() - began
    for failure in results.failures:
        print("\n".join(failure.events))
        print(f"seed {failure.seed}: {failure.error}")
        print(f"to see it again: python -m tests.simulation --seeds {failure.seed}{bug}")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(results.tally.items())))
    print(f"{results.seeds} seeds in {seconds:.1f} s, {len(results.failures)} failed; {results.digest()}")
    return 1 if results.failures else 0


def _seeds(text: str) -> range:
    first, colon, end = text.partition(":")
    seeds = range(int(first), int(end) if colon else int(first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"there is no seed from {first} and below {end}")
    return seeds


if __name__ == "__main__":  # pragma: no cover  (runs in a process of its own)
    sys.exit(main())
