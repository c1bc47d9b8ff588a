"""Publishing names: making each one say that it is from this package, and its annotations usable at run time."""

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
"""The objects that names in public annotations refer to. Some names are not public themselves, and published names are
added. A name means the same in all modules."""


def publish(package: str, public: Mapping[str, Any]) -> None:
    """Make classes, functions and methods say that they are from `package`, and let their annotations be looked up.

    So a traceback, a `repr` and a pickle name the import path of the user, and not a private module that may move.

    Modules import most names in their annotations for type checkers only. `typing.get_type_hints` looks up the
    annotations of a function in the module that defines the function, so this adds the names to that module. It looks
    up the annotations of a class in the module that the class claims to be from. So this evaluates them before the
    claim changes.

    Args:
      package: the name of the package.
      public: its public names and their objects.

    """
    ours = {
        name: thing
        for name, thing in public.items()
        if inspect.isclass(thing) or inspect.isfunction(thing)
        if thing.__module__.startswith(_PACKAGE)
    }
    # Functions are left out. Annotations never name them, and `open` in a module must not become ours.
    _NAMES.update({name: thing for name, thing in public.items() if not inspect.isfunction(thing)})
    classes = {kind for thing in ours.values() if inspect.isclass(thing) for kind in _ours_in(thing.__mro__)}
    for module in {thing.__module__ for thing in (*ours.values(), *classes)}:
        names = vars(sys.modules[module])
        for name, thing in _NAMES.items():
            # This must not replace a name that a module already has, because its code uses that one.
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
    """Yield the classes of this package that still name a private module."""
    yield from (kind for kind in kinds if kind.__module__.startswith(_PACKAGE))


def _look_up(kind: type) -> None:
    """Evaluate the annotations of a class, which are text."""
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
