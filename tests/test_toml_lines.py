"""The lines of the keys of TOML documents: as many as `tomllib` finds keys, each where it was written."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_replica._urls.toml_lines import Key, key_lines


def lines_of(text: str) -> dict[str, int]:
    tomllib.loads(text)
    return {".".join(key): line for key, line in key_lines(text).items()}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", {}),
        ("\n# only\n", {}),
        ("a = 1", {"a": 1}),
        ("\n\na = 1 # b = 2\nb = 2", {"a": 3, "b": 4}),
        ("[t]\na = 1\n[u]\na = 2", {"t": 1, "t.a": 2, "u": 3, "u.a": 4}),
        ("  [ t . u ]  # x\n  a.b = 1", {"t": 1, "t.u": 1, "t.u.a": 2, "t.u.a.b": 2}),
        ("[t.u]\n[t]\na = 1", {"t": 1, "t.u": 1, "t.a": 3}),
        ("a . b = 1\na.c = 2", {"a": 1, "a.b": 1, "a.c": 2}),
        ('"a b" = 1\n\'c"\' = 2\n"\\u0041\\"" = 3\n"" = 4', {"a b": 1, 'c"': 2, 'A"': 3, "": 4}),
        ("a = { b = 1, c.d = '}' , e = {} }\nf = 1", {"a": 1, "a.b": 1, "a.c": 1, "a.c.d": 1, "a.e": 1, "f": 2}),
        ('a = """\nb = 1\n[c]\n\\"""" \nd = 1', {"a": 1, "d": 5}),
        ("a = '''\nb = 1\n'' [c]\n''''\nd = 1", {"a": 1, "d": 5}),
        (
            'a = """"""\nb = ""\nc = \'\'\nd = \'\'\'\'\'\'\ne = """"x""""\nf=1',
            {k: i for i, k in enumerate("abcdef", 1)},
        ),
        ("a = [\n  1, # b = 1\n  '''\n''', {c = 1, d = [{e = 2}]}, [],\n]\nf = 1", {"a": 1, "f": 6}),
        ("[[a]]\nb = 1\n[[a]]\nb = 2\nc = 3", {"a": 1, "a.b": 2, "a.c": 5}),
        (
            "a = 1979-05-27 07:32:00Z # x\nb = -inf\nc = 0xff\nd = 1e5\ne = [1979-05-27,1]",
            {k: i for i, k in enumerate("abcde", 1)},
        ),
        (
            "a = '#'\nb = \"\\\"#\"\nc = ['#', \"]\"]\nd = {x='#'}\ne=1",
            {"a": 1, "b": 2, "c": 3, "d": 4, "d.x": 4, "e": 5},
        ),
    ],
)
def test_lines(text: str, lines: dict[str, int]) -> None:
    assert lines_of(text) == lines


# Documents that are written and found again

KEY = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5),
)
SCALAR = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(
        [
            "true",
            "1.5",
            "nan",
            "1979-05-27 07:32:00",
            '""',
            "''",
            "'''\n'''",
            '"""\n"\n[x]\ny = 1"""',
            '"\\""',
            "'#'",
            '"]}"',
        ]
    ),
)
ARRAY = st.recursive(
    SCALAR,
    lambda element: st.lists(element, max_size=3).map(lambda elements: "[\n" + ", # x = [\n".join(elements) + "]"),
    max_leaves=5,
)
SPACE = st.sampled_from(["", " ", "\t "])
GAP = st.sampled_from(["", "\n", "\n# [x]\n\n", "  # y = 1\n"])


def quoted(key: str) -> str:
    return (
        key
        if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key)
        else json.dumps(key, ensure_ascii=len(key) == 1 and key <= "\uffff")
    )


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Key, int]]:
    """Return a document and the line of each key."""
    text = ""
    lines: dict[Key, int] = {}

    def write(piece: str) -> None:
        nonlocal text
        text += piece

    def write_pairs(table: Key, *, inline: bool, depth: int) -> None:
        keys = draw(st.lists(KEY, unique=True, max_size=3))
        for place, key in enumerate(keys):
            if inline and place:
                write(draw(SPACE) + "," + draw(SPACE))
            line = text.count("\n") + 1
            lines[*table, key] = line
            write(draw(SPACE) + quoted(key) + draw(SPACE))
            inner: Key = (*table, key)
            if draw(st.booleans()):
                part = draw(KEY)
                inner = (*inner, part)
                lines[inner] = line
                write("." + draw(SPACE) + quoted(part) + draw(SPACE))
            write("=" + draw(SPACE))
            if depth and draw(st.booleans()):
                write("{")
                write_pairs(inner, inline=True, depth=depth - 1)
                write(draw(SPACE) + "}")
            else:
                write(draw(ARRAY))
            if not inline:
                write(draw(SPACE) + "\n" + draw(GAP))

    write(draw(GAP).lstrip(" "))
    write_pairs((), inline=False, depth=2)
    for key in draw(st.lists(KEY.filter(lambda key: (key,) not in lines), unique=True, max_size=3)):
        lines[key,] = text.count("\n") + 1
        write(f"{draw(SPACE)}[{draw(SPACE)}{quoted(key)}{draw(SPACE)}]{draw(SPACE)}\n{draw(GAP)}")
        write_pairs((key,), inline=False, depth=2)
    return text, lines


def keys_in(table: dict[str, Any], above: Key = ()) -> set[Key]:
    found: set[Key] = set()
    for key, value in table.items():
        found.add((*above, key))
        if isinstance(value, dict):
            found |= keys_in(value, (*above, key))
    return found


@given(documents())
def test_every_key_is_found_where_it_was_written(document: tuple[str, dict[Key, int]]) -> None:
    text, lines = document
    assert keys_in(tomllib.loads(text)) == lines.keys()
    assert key_lines(text) == lines
