"""The lines of the keys in a TOML document, which `tomllib` does not report."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Key: TypeAlias = tuple[str, ...]
"""The key of a table, the key of a table in it, and so on."""

_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
"""The text that may stand between lines, and between the elements of an array."""

_HEADER: Final = re.compile(r"\[\[?")
_HEADER_END: Final = re.compile(r"\]\]?")
_EQUALS: Final = re.compile(r"=[ \t]*")
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*'""")
"""One part of a dotted key."""

_SCALAR: Final = re.compile(
    r"""
    "{3} (?:\\.|[^\\])*? "{3,5}
    | '{3} .*? '{3,5}
    | " (?:\\.|[^"\\])* "
    | ' [^']* '
    | [^,\]}#\n]+  # a number, a date, true or false
    """,
    re.DOTALL | re.VERBOSE,
)


def key_lines(text: str) -> Mapping[Key, int]:
    r"""Return the line, counted from 1, on which each key of a document of TOML 1.0 is first given.

    The line of a table is that of its header, or of the first key in it. Keys within arrays are left out.

    Args:
      text: a document that `tomllib` has parsed, because this checks nothing. Its lines end with ``\n``.

    """
    return _Scanner(text).lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._text = text
        self._starts = [match.end() for match in re.finditer(r"\A|\n", text)]
        self._place = 0
        table: Key = ()
        self._pass(_GAP)
        while self._place < len(text):
            if self._is_next("["):
                self._pass(_HEADER)
                table = self._pass_key(())
                self._pass(_HEADER_END)
            else:
                self._pass_pair(table)
            self._pass(_GAP)

    def _is_next(self, character: str) -> bool:
        return self._text.startswith(character, self._place)

    def _pass(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._place)
        assert match is not None
        self._place = match.end()
        return match[0]

    def _pass_pair(self, table: Key | None) -> None:
        """Pass a key and its value in `table`. None means that they are in an array."""
        key = self._pass_key(table)
        self._pass(_EQUALS)
        self._pass_value(key if table is not None else None)

    def _pass_key(self, table: Key | None) -> Key:
        """Pass a dotted key, note its line, and return it after the key of its table."""
        key = table or ()
        while True:
            self._pass(_BLANK)
            line = bisect(self._starts, self._place)
            part = self._pass(_PART)
            key = (*key, tomllib.loads(f"x = {part}")["x"] if part[0] in "\"'" else part)
            if table is not None:
                self.lines.setdefault(key, line)
            self._pass(_BLANK)
            if not self._is_next("."):
                return key
            self._place += 1

    def _pass_value(self, key: Key | None) -> None:
        if self._is_next("["):
            self._pass_members("]", lambda: self._pass_value(None))
        elif self._is_next("{"):
            self._pass_members("}", lambda: self._pass_pair(key))
        else:
            self._pass(_SCALAR)

    def _pass_members(self, end: str, pass_member: Callable[[], None]) -> None:
        self._place += 1
        self._pass(_GAP)
        while not self._is_next(end):
            pass_member()
            self._pass(_GAP)
            if self._is_next(","):
                self._place += 1
                self._pass(_GAP)
        self._place += 1
