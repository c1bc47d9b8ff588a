"""The options of a store: their names and types, and the values that the query of its URL gives them."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, get_type_hints
from urllib.parse import unquote

from .._checks import did_you_mean
from .._query import split_query
from .kinds import kinds_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .._scheme import StoreScheme
    from .kinds import Kinds

RETRY_OPTIONS: Final[Mapping[str, Kinds]] = {"retry": (bool,), "retry_attempts": (int,), "retry_seconds": (float, int)}
"""The options that every store has, and the types of their values."""

_YES_OR_NO: Final = {"true": True, "1": True, "false": False, "0": False}
_SHAPES: Final = {bool: "true or false", int: "a whole number", float: "a number"}


def option_kinds(scheme: StoreScheme) -> tuple[dict[str, Kinds], Kinds | None]:
    """Return the options of the stores of a scheme, each with the types of its values.

    They are the keyword-only parameters of the function that opens the store, and `RETRY_OPTIONS`. The second value has
    the types for options of any other name; it is None if the function takes no others.
    """
    known, others = dict(RETRY_OPTIONS), None
    for parameter in inspect.signature(scheme.open).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and (kinds := _kinds(scheme, parameter)):
            known[parameter.name] = kinds
        elif parameter.kind is parameter.VAR_KEYWORD:
            others = _kinds(scheme, parameter)
    return known, others


def take_options(scheme: StoreScheme, url: str) -> tuple[str, dict[str, Any]]:
    """Take the options out of a URL. Returns the URL with those that the store reads itself, and the others.

    Raises:
      ValueError: if one is given twice or without a value, or has a bad value, or is unknown. No value is shown,
        because it may be a secret.

    """
    address, query = split_query(url)
    known = {name: kinds for name, kinds in option_kinds(scheme)[0].items() if kinds[0] is not list}
    left, taken = [], {}
    for part in filter(None, query.split("&")):
        option, equals, value = part.partition("=")
        name = unquote(option)
        if name not in known:
            left.append(part)
        elif not equals or name in taken:
            raise ValueError(f"{name} is given once, as {name}=VALUE")
        else:
            taken[name] = _value(name, unquote(value), known[name])
    if left and scheme.query is None:
        hint = misspelt_hint([unquote(part.partition("=")[0]) for part in left], known)
        hint = hint or f"; known are {', '.join(known)}"
        raise ValueError(f"the URL has an unknown option{hint}")
    return address + ("?" + "&".join(left) if left else ""), taken


def misspelt_hint(given: Collection[str], known: Collection[str]) -> str:
    """Return the end of a message that names the option nearest to an unknown one; empty if none is near."""
    return next((hint for name in given if name not in known and (hint := did_you_mean(name, known))), "")


def _kinds(scheme: StoreScheme, parameter: inspect.Parameter) -> Kinds:
    """Return the types of the values of a parameter; none if its annotation can't be looked up."""
    names = getattr(inspect.unwrap(scheme.open), "__globals__", {})
    try:
        hints = get_type_hints(SimpleNamespace(__annotations__={"it": parameter.annotation}), names)
    except Exception:  # another package's annotation may be anything
        return ()
    return kinds_of(hints["it"])


def _value(option: str, text: str, kinds: Kinds) -> Any:
    kind = kinds[0]
    try:
        return _YES_OR_NO[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"{option} is {_SHAPES[kind]}") from None  # what is there instead may be a secret
