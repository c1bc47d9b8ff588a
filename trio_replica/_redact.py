"""Removing secrets from text that is shown."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
"""The text that is shown instead of a secret."""

LIMIT: Final = 1_000_000
"""Characters of values within values that are looked at; after them, all is hidden. That takes less than a second;
without it, a text of nothing but openings would take minutes."""

_PARTS: Final = re.compile(
    "pass(wor|w)d|pass(phrase|code)|secret|token|credential|signature|authorization|cookie"
    "|(api|access|account|client|customer|encryption|master|private|sas|server|shared|signing|storage)key"
)
"""A name is that of a secret if one of these is in it, whatever stands between its words."""

_LAST_WORDS: Final = frozenset({"auth", "jwt", "pass", "pw", "pwd", "sas", "sig"})
"""Words that make a name that of a secret if they are the last one of it, or the only one."""

_PUBLIC: Final = ("requireauth", "skipsignature")
"""Options of libpq and of obstore that only sound like secrets."""

_CODE = r"%(?:25)*"  # what begins a character that was percent-encoded, once or several times
_ENCODED_PERCENT: Final = re.compile("%(?:25)+")
_PLAIN: Final = (re.compile(r"://"), re.compile(r":"), re.compile(r"@"))
_ENCODED: Final = (
    re.compile(rf"{_CODE}3A(?:/|{_CODE}2F){{2}}|:(?:{_CODE}2F){{2}}", re.IGNORECASE),
    re.compile(rf":|{_CODE}3A", re.IGNORECASE),
    re.compile(rf"@|{_CODE}40"),
)
"""What stands before the authority of a URL, before the password in it, and after the password."""

_NO_PORT: Final = re.compile(r"://[^\s/@:\[]*:(?=\S)(?![0-9]{1,5}(?!\w))")
"""What stands before a password, and not before a port."""
_BARE: Final = re.compile(r"\A(\W*(?!(?:dir|sqlite|mailto):)\w[\w.+-]*:(?!//))(\S+)(?=@)")
"""What stands before an address without a scheme, or with half of one. A path may have an at sign."""

# A name, encoded or not, and what stands between it and its value, if it has one. Or an encoded character that is part
# of no name, so that its digits are not taken for the beginning of one.
_NAME: Final = re.compile(
    rf"""
    (?P<name> (?: [\w.-] | {_CODE}(?:2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9A]) )+ )
    (?:
      (?P<end> (?: \] | \\*['"] | {_CODE}(?:22|27|5D) )* )
      (?P<equals> \s* (?: :?=+>? | (?P<colon>:) ) \s* | %(?P<level>(?:25)*)(?:3D|3A) )
    )?
    | {_CODE}[0-9A-F]{{2}}
    """,
    re.IGNORECASE | re.VERBOSE,
)

_OPTION: Final = re.compile(r"[^\s&]*")
_LINE: Final = re.compile(r"[^\r\n]*")
_QUOTES = r"(?P<{0}>\\*['\"]){1}(?:(?<!\\)(?P={0})|\Z)"
_VALUE: Final = re.compile(
    rf"""
    # In quotes, which are shown, also of a text in quotes. Without its end, all is part of it.
    {_QUOTES.format("quote", "(?P<quoted>.*?)")}
    # In brackets, as a list, or as Rust's Some("…").
    | (?:[A-Za-z]\w*\(|[\[{{(])+ (?:{_QUOTES.format("inner", ".*?")}|[^\])}}])* \S*
    # A value of a conninfo, in which a backslash may keep a space.
    | (?P<word>(?:\\.|\S)*)
    """,
    re.DOTALL | re.VERBOSE,
)

_ALREADY: Final = re.compile(r"\*+['\")\]}>,;:.]*")
"""What has been hidden before, and what somebody has put around it since."""

_ELEMENT: Final = re.compile(r"(<([\w.:-]+)(?:\s[^<>]*)?>)([^<]+)")
"""The text of an XML element, and its name."""


def redacted(text: str) -> str:
    """Return `text` with ``***`` for what may be a secret in it.

    Those are the passwords of URLs, and the values of what is named like a secret: options of a URL, parameters of a
    conninfo, headers, fields of JSON, XML or what `repr` shows; anywhere in a text, and also percent-encoded. A value
    ends at a space, if it is not in quotes. A name of one word before a colon and a space is taken for prose,
    ``password: wrong``, and what follows is shown. Of a text that has no such form nothing is known:
    what is secret in it stays. In doubt too much is hidden. To redact a text again changes nothing.
    """
    while (shown := _without_passwords(_without_values(_without_elements(text)))) != text:
        text = shown  # each time, it has fewer characters that are no stars
    return text


def names_secret(name: str) -> bool:
    """Whether a value of this name, of an option say, is secret."""
    while (decoded := unquote(_ENCODED_PERCENT.sub("%", name))) != name:
        name = decoded
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    joined = "".join(words).lower()
    if joined.endswith(_PUBLIC):
        return False
    last = words[-1].lower() if words else ""
    return _PARTS.search(joined) is not None or last in _LAST_WORDS or (last == "key" and len(words) > 1)


def _hidden(value: str) -> str:
    return value if not value or _ALREADY.fullmatch(value) else HIDDEN


def _without_passwords(text: str) -> str:
    """Return `text` without the passwords of its URLs: all from the first colon of an authority to the last @."""

    def without(match: re.Match[str]) -> str:
        word = _BARE.sub(lambda bare: bare[1] + _hidden(bare[2]), match[0])
        for scheme, colon, at in (_PLAIN, _ENCODED):
            begin = scheme.search(word)
            before = begin and colon.search(word, begin.end())
            ends = [end.start() for end in at.finditer(word, before.end())] if before else []
            if before and ends:
                password = word[before.end() : ends[-1]]
                word = word[: before.end()] + _hidden(password) + word[ends[-1] :]
        return word

    lines = (_without_spaced_password(line) for line in text.split("\n"))
    return "\n".join(re.sub(r"\S+", without, line) for line in lines)


def _without_spaced_password(line: str) -> str:
    """Return a line without a password that should have no spaces, and has."""
    end = line.rfind("@")
    for word in re.finditer(r"\S+", line[: max(0, end)]):
        begin = _NO_PORT.search(word[0]) if "@" not in word[0] and word.end() < end else None
        if begin is not None:
            place = word.start() + begin.end()
            return line[:place] + _hidden(line[place:end]) + line[end:]
    return line


def _without_values(text: str) -> str:
    """Return `text` without the values of what is named like a secret."""
    spans: list[tuple[int, int]] = []
    seen = 0
    for named in _NAME.finditer(text):  # also within values: one that began by chance may end within a secret
        start, end = _value(text, named)
        seen += end - start
        if seen > LIMIT:
            end = len(text)
        if spans and start <= spans[-1][1]:
            start, end = spans[-1][0], max(end, spans.pop()[1])
        if start < end:
            spans.append((start, end))
        if end == len(text):
            break
    shown: list[str] = []
    shown_to = 0
    for start, end in spans:
        shown += text[shown_to:start], _hidden(text[start:end])
        shown_to = end
    return "".join((*shown, text[shown_to:]))


def _value(text: str, named: re.Match[str]) -> tuple[int, int]:
    """Return where the secret value of what `named` has found begins and ends; if there is none, both are one."""
    none = named.end(), named.end()
    if named["equals"] is None:
        return none
    name = named["name"]
    is_option = text[max(0, named.start() - 1) : named.start()] in {"?", "&"}
    if not (names_secret(name) or (is_option and name.lower() == "key")):
        return none
    value = _value_pattern(named, is_option=is_option).match(text, named.end())
    assert value is not None  # each matches nothing as well
    kind = value.lastgroup
    is_prose = named["colon"] and named["equals"][-1].isspace() and not named["end"] and not re.search("[_-]", name)
    if kind == "word" and is_prose:
        return none  # "InvalidPassword: the password is wrong"
    return value.span("quoted" if kind == "quoted" else 0)


def _value_pattern(named: re.Match[str], *, is_option: bool) -> re.Pattern[str]:
    if named["level"] is not None:
        return re.compile(rf"(?:(?!%{named['level']}26)[^\s&])*")
    if is_option:
        return _OPTION
    is_header = named["colon"] and not named["end"] and named["name"].lower().endswith(("authorization", "cookie"))
    return _LINE if is_header else _VALUE


def _without_elements(text: str) -> str:
    """Return `text` without the content of XML elements that are named like a secret."""
    return _ELEMENT.sub(lambda match: match[1] + _hidden(match[3]) if names_secret(match[2]) else match[0], text)
