"""Reading a record of system calls, and making one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .powercut.recording import COMMAND, missing, record
from .powercut.trace import Call, parse

if TYPE_CHECKING:
    from pathlib import Path

RECORD = r"""
7  openat(AT_FDCWD, "\x2f\x61", O_RDWR|O_CREAT, 0644) = 3
7  pwrite64(3, "\x68\x69", 2, 0x10 <unfinished ...>
8  fsync(3)                          = -1 EIO (Input/output error)
7  <... pwrite64 resumed>)           = 2
8  write(1,  <unfinished ...>
7  close(3)                          = 0
8  <... write resumed>"", 0)         = 0
9  exit_group(0)                     = ?
9  +++ exited with 0 +++
8  --- SIGCHLD {si_signo=SIGCHLD} ---
7  fsync(3 <unfinished ...>
"""[1:]


def test_calls_that_others_interrupt_are_put_together() -> None:
    assert parse(RECORD.splitlines()) == [
        Call(0, 0, "openat", ("AT_FDCWD", b"/a", "O_RDWR|O_CREAT", 644), 3),
        Call(1, 3, "pwrite64", (3, b"hi", 2, 16), 2),
        Call(2, 2, "fsync", (3,), -1),
        Call(4, 6, "write", (1, b"", 0), 0),
        Call(5, 5, "close", (3,), 0),
        Call(7, 7, "exit_group", (0,), -1),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("strace: what is this", "line 1 is not understood: strace: what is this"),
        (r'7 write(3, "\x61"..., 2) = 2', r'cut short, or is not in hexadecimal digits: "\\x61"...'),
        ('7 write(3, "hello", 5) = 5', 'cut short, or is not in hexadecimal digits: "hello"'),
    ],
)
def test_what_is_not_understood_is_said(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse([line])


@pytest.mark.strace
def test_a_program_is_recorded(tmp_path: Path) -> None:
    program = (
        "import os; file = open('x', 'wb', 0); file.write(bytes(range(256))); os.fsync(file); os.write(1, b'told')"
    )
    calls = record([sys.executable, "-c", program], tmp_path)
    (opened,) = (call for call in calls if call.name == "openat" and call.arguments[1] == b"x")
    assert [call.name for call in calls if call.begin > opened.end and call.arguments[0] == opened.result][:2] == [
        "write",
        "fsync",
    ]
    assert [call.arguments for call in calls if call.name == "write"] == [
        (opened.result, bytes(range(256)), 256),
        (1, b"told", 4),
    ]
    with pytest.raises(subprocess.CalledProcessError):
        record(["false"], tmp_path)


def test_why_nothing_can_be_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert missing() == "strace is not installed (apt-get install strace)"
    monkeypatch.undo()
    strace = tmp_path / COMMAND[0]
    strace.write_text("#!/bin/sh\necho 'ptrace: Operation not permitted' >&2\nexit 1\n")
    strace.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert missing() == "strace may not trace: ptrace: Operation not permitted"
    strace.write_text("#!/bin/sh\n")
    assert missing() is None
