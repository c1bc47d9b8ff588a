"""The command line: ``trio-replica``, or ``python -m trio_replica``."""

from .commands import main

__all__ = ["main"]
