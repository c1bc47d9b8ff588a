"""Reading what strace writes, if its strings are in hexadecimal digits: ``strace -f -xx``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Argument: TypeAlias = int | bytes | str
"""A number, the content of a string, or anything else as it stands there, such as flags."""

_WHOLE: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+|\?)")
_BEGUN: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*) <unfinished \.\.\.>")
_ENDED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<arguments>.*)\) += (?P<result>-?\d+|\?)")
_NO_CALL: Final = re.compile(r"\+\+\+|---")
_NUMBER: Final = re.compile(r"-?\d+|0x[0-9a-f]+")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Call(NamedTuple):
    """A system call that has ended.

    It had its effect some time between the lines on which it began and ended. If they are the same, no other call
    that was recorded began or ended in the meantime.
    """

    begin: int
    end: int
    name: str
    arguments: tuple[Argument, ...]
    result: int
    """-1 if it failed, or never returned."""


def parse(lines: Iterable[str]) -> list[Call]:
    """Return the calls that have ended, in the order of their beginnings.

    Raises:
      ValueError: if a line is not understood, or a string was cut short.

    """
    begun: dict[str, tuple[int, str]] = {}  # by the thread: its call's line and the arguments that are known
    calls = []
    for number, line in enumerate(lines):
        thread, _, text = line.rstrip("\n").partition(" ")
        text = text.lstrip()
        if found := _BEGUN.fullmatch(text):
            begun[thread] = number, found["arguments"]
        elif found := _ENDED.match(text):
            begin, first = begun.pop(thread)
            calls.append(_call(begin, number, found, first + found["arguments"]))
        elif found := _WHOLE.match(text):
            calls.append(_call(number, number, found, found["arguments"]))
        elif not _NO_CALL.match(text):
            raise ValueError(f"line {number + 1} is not understood: {line[:200]}")
    return sorted(calls)


def _call(begin: int, end: int, found: re.Match[str], arguments: str) -> Call:
    result = int(found["result"]) if found["result"] != "?" else -1
    return Call(begin, end, found["name"], tuple(map(_argument, arguments.split(", "))), result)


def _argument(text: str) -> Argument:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return int(text, 0) if text.startswith("0x") else int(text)
    if found := _STRING.fullmatch(text):
        return bytes.fromhex(found[1].replace("\\x", ""))
    if text.startswith('"'):
        raise ValueError(f"a string was cut short, or is not in hexadecimal digits: {text[:100]}")
    return text
