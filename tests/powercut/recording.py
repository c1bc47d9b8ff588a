"""Recording the system calls of a program with strace."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .disk import RECORDED
from .trace import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .trace import Call

LONGEST: Final = 2**24
"""Bytes of a string that are recorded: a longer one is refused by the parser."""

COMMAND: Final = ("strace", "-f", "-xx", f"-s{LONGEST}", "-esignal=none")


def missing() -> str | None:
    """Return why nothing can be recorded here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (apt-get install strace)"
    tried = subprocess.run([*COMMAND, "-o/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace: {tried.stderr.strip()}" if tried.returncode else None


def record(command: Sequence[str], folder: Path) -> list[Call]:
    """Run a command in a folder, and return what it did to files, and what it wrote.

    Raises:
      subprocess.CalledProcessError: if it failed.

    """
    calls = ",".join(f"?{name}" for name in RECORDED)  # not every one is there on every machine
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary, "record")
        traced = [*COMMAND, f"-etrace={calls}", f"-o{output}", *command]
        subprocess.run(traced, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        with output.open(encoding="ascii") as lines:
            return parse(lines)
