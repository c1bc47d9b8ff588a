"""Removing secrets from text that is shown."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
"""The replacement for a secret."""

LIMIT: Final = 1_000_000
"""The number of characters of values within values that are searched. Everything after them is hidden. The search takes
less than a second. Without the bound, a text of nothing but opening brackets would take minutes."""

_PARTS: Final = re.compile(
    "pass(wor|w)d|pass(phrase|code)|secret|token|credential|signature|authorization|cookie"
    "|(api|access|account|client|customer|encryption|master|private|sas|server|shared|signing|storage)key"
)
"""Words of which one makes a name that of a secret, whatever stands between the words of the name."""

_LAST_WORDS: Final = frozenset({"auth", "jwt", "pass", "pw", "pwd", "sas", "sig"})
"""Words that make a name that of a secret if they are its last or only word."""

_PUBLIC: Final = ("requireauth", "skipsignature")
"""Options of libpq and of obstore that only sound like secrets."""

_CODE = r"%(?:25)*"  # the beginning of a character that was percent-encoded, once or several times
_ENCODED_PERCENT: Final = re.compile("%(?:25)+")
_PLAIN: Final = (re.compile(r"://"), re.compile(r":"), re.compile(r"@"))
_ENCODED: Final = (
    re.compile(rf"{_CODE}3A(?:/|{_CODE}2F){{2}}|:(?:{_CODE}2F){{2}}", re.IGNORECASE),
    re.compile(rf":|{_CODE}3A", re.IGNORECASE),
    re.compile(rf"@|{_CODE}40"),
)
"""The texts before the authority of a URL, before the password in it, and after the password."""

_NO_PORT: Final = re.compile(r"://[^\s/@:\[]*:(?=\S)(?![0-9]{1,5}(?!\w))")
"""The text before a password, and not before a port."""
_BARE: Final = re.compile(r"\A(\W*(?!(?:dir|sqlite|mailto):)\w[\w.+-]*:(?!//))(\S+)(?=@)")
"""The text before an address with no scheme, or with half of one. A path may have an at sign."""

# Either a name, encoded or not, with the text between it and its value, if it has one. Or an encoded character that is
# not part of a name, so that its digits do not count as the beginning of a name.
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
"""A secret that has been hidden before, and any text that was put around it since."""

_ELEMENT: Final = re.compile(r"(<([\w.:-]+)(?:\s[^<>]*)?>)([^<]+)")
"""The text of an XML element, and its name."""


def redacted(text: str) -> str:
    """Return `text` with ``***`` instead of anything that may be a secret.

    Secrets are recognised by their form, anywhere in a text and also percent-encoded. They are the passwords of URLs,
    and values with names like those of secrets: options of a URL, parameters of a conninfo, headers, and fields of
    JSON, XML or a `repr`. A value ends at a space unless it is in quotes. A name of one word before a colon and a
    space counts as prose (``password: wrong``), so the text after it is shown. A secret in any other form is not
    recognised and stays. In doubtful cases too much is hidden. Redacting a text again changes nothing.
    """
    while (shown := _without_passwords(_without_values(_without_elements(text)))) != text:
        text = shown  # each round leaves fewer characters that are not stars
    return text


def names_secret(name: str) -> bool:
    """Return whether the value of an option, or of anything else with this name, is secret."""
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
    """Return `text` without the passwords of its URLs, from the first colon of an authority to the last @."""

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
    """Return a line without a password that contains spaces, although it should not."""
    end = line.rfind("@")
    for word in re.finditer(r"\S+", line[: max(0, end)]):
        begin = _NO_PORT.search(word[0]) if "@" not in word[0] and word.end() < end else None
        if begin is not None:
            place = word.start() + begin.end()
            return line[:place] + _hidden(line[place:end]) + line[end:]
    return line


def _without_values(text: str) -> str:
    """Return `text` without the values that have names like those of secrets."""
    spans: list[tuple[int, int]] = []
    seen = 0
    for named in _NAME.finditer(text):  # also within values, because one that began by chance may end within a secret
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
    """Return the beginning and the end of the secret value after a name. Both are the same if there is none."""
    none = named.end(), named.end()
    if named["equals"] is None:
        return none
    name = named["name"]
    is_option = text[max(0, named.start() - 1) : named.start()] in {"?", "&"}
    if not (names_secret(name) or (is_option and name.lower() == "key")):
        return none
    value = _value_pattern(named, is_option=is_option).match(text, named.end())
    assert value is not None  # each pattern also matches an empty text
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
