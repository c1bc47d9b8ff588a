"""The names and types of the options of a store, and their values in the query of its URL."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, get_type_hints
from urllib.parse import unquote

from .._checks import did_you_mean
from .._errors import describe_failure
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
    the types for options of any other name, or is None if the function takes no others.
    """
    known, others = dict(RETRY_OPTIONS), None
    for parameter in inspect.signature(scheme.open).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and (kinds := _kinds(scheme, parameter)):
            known[parameter.name] = kinds
        elif parameter.kind is parameter.VAR_KEYWORD:
            others = _kinds(scheme, parameter) or None
    return known, others


def check_options(scheme: StoreScheme) -> None:
    """Check that the function of another package's scheme declares its options as `StoreScheme` says.

    Raises:
      TypeError: if a parameter other than the path or URL is positional, or an option has no annotation, or one that
        can't be looked up.
      ValueError: if the function has no signature.

    """
    parameters = list(inspect.signature(scheme.open).parameters.values())
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    addresses = 1 if scheme.form else 0
    if len(positional) < addresses and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        raise TypeError(f"the function that opens them has no parameter for the {scheme.form}")
    for one in positional[addresses:]:
        raise TypeError(f"their option {one.name} is a positional parameter: make it keyword-only, after a *")
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and one.annotation is one.empty:
            raise TypeError(f"their option {one.name} has no annotation, such as {one.name}: int")
        if one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD):
            try:
                _hint(scheme, one)
            except Exception as error:  # an annotation may be anything
                reason = f"{describe_failure(error)}; import what it names also at run time"
                raise TypeError(f"the annotation of their option {one.name} can't be looked up: {reason}") from None


def take_options(scheme: StoreScheme, url: str) -> tuple[str, dict[str, Any]]:
    """Take the options out of a URL. Return the URL with the options that the store reads itself, and the others.

    Raises:
      ValueError: if an option is given twice or without a value, has a bad value, or is unknown. The message shows no
        value, because it may be a secret.

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
    """Return the end of a message with the option nearest to an unknown one. It is empty if none is near."""
    return next((hint for name in given if name not in known and (hint := did_you_mean(name, known))), "")


def _kinds(scheme: StoreScheme, parameter: inspect.Parameter) -> Kinds:
    """Return the types of the values of a parameter."""
    return kinds_of(_hint(scheme, parameter))


def _hint(scheme: StoreScheme, parameter: inspect.Parameter) -> Any:
    """Return the annotation of a parameter. It may be text that can't be looked up, which raises anything."""
    names = getattr(inspect.unwrap(scheme.open), "__globals__", {})
    return get_type_hints(SimpleNamespace(__annotations__={"it": parameter.annotation}), names)["it"]


def _value(option: str, text: str, kinds: Kinds) -> Any:
    kind = kinds[0]
    try:
        return _YES_OR_NO[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"{option} is {_SHAPES[kind]}") from None  # the value may be a secret
