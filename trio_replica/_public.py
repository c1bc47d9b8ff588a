"""Public names: each says that it is from this package, and its annotations can be looked up at run time."""

from __future__ import annotations

import collections.abc
import inspect
import os
import sys
import typing
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

import outcome

from ._checks import Stores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_PACKAGE: Final = f"{__package__}."

_NAMES: Final[dict[str, Any]] = {
    **{name: getattr(collections.abc, name) for name in collections.abc.__all__},
    "AbstractAsyncContextManager": AbstractAsyncContextManager,
    "Any": Any,
    "Stores": Stores,
    "Unpack": typing.Unpack,
    "os": os,
    "outcome": outcome,
}
"""What the names in public annotations stand for: those that are not public themselves, and those that have been
published. One name means one thing in all modules."""


def publish(package: str, public: Mapping[str, Any]) -> None:
    """Make classes, functions and methods say that they are from `package`, and let their annotations be looked up.

    So a traceback, a `repr` and a pickle name what the user has imported, and no private module that may move.

    Modules import most of what their annotations use for type checkers only. `typing.get_type_hints` looks the
    annotations of a function up in the module where the function stands, so that is given those names here. The
    annotations of a class it looks up in the module that the class says it is from, so they are looked up here, while
    that is still the right one.

    Args:
      package: the name of the package.
      public: its public names, with what they stand for.

    """
    ours = {
        name: thing
        for name, thing in public.items()
        if inspect.isclass(thing) or inspect.isfunction(thing)
        if thing.__module__.startswith(_PACKAGE)
    }
    # No functions: annotations name none, and `open` of a module is not to become ours.
    _NAMES.update({name: thing for name, thing in public.items() if not inspect.isfunction(thing)})
    classes = {kind for thing in ours.values() if inspect.isclass(thing) for kind in _ours_in(thing.__mro__)}
    for module in {thing.__module__ for thing in (*ours.values(), *classes)}:
        names = vars(sys.modules[module])
        for name, thing in _NAMES.items():
            # Not an assignment: a module may have a name of its own that is spelt the same, and its code uses that.
            names.setdefault(name, thing)
    for kind in classes:
        _look_up(kind)
    for kind in classes:
        for method in _methods(kind):
            method.__module__ = package
    for name, thing in ours.items():
        thing.__module__ = package
        assert thing.__qualname__ == name, name


def _ours_in(kinds: Iterable[type]) -> Iterator[type]:
    """Yield the classes of this package that do not say yet that they are from it."""
    yield from (kind for kind in kinds if kind.__module__.startswith(_PACKAGE))


def _look_up(kind: type) -> None:
    """Replace the annotations of a class, which are text, by what they say."""
    if own := inspect.get_annotations(kind):
        said = typing.get_type_hints(kind, include_extras=True)
        kind.__annotations__ = {name: said[name] for name in own}


def _methods(kind: type) -> Iterator[Any]:
    """Yield the functions in the body of a class of ours."""
    for attribute in vars(kind).values():
        parts = [getattr(attribute, part, None) for part in ("fget", "__func__", "func")]
        for function in (attribute, *parts):
            if inspect.isfunction(function) and function.__module__.startswith(_PACKAGE):
                yield function
