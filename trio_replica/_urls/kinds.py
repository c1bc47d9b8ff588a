"""The types of values that an option may have in a file or in the query of a URL."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

Kinds = tuple[type, ...]
"""Types of values. The query of a URL is read as the first."""

_KINDS: Final[dict[Any, Kinds]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    Iterable: (list,),
    Collection: (list,),
    list: (list,),
}


def kinds_of(hint: Any) -> Kinds:
    """Return the types of the values that a file may have for an option whose annotation is `hint`.

    There are none for a type that TOML has no values for. Leaving the option out means ``None``.
    """
    if get_origin(hint) in {Union, UnionType}:
        return tuple(dict.fromkeys(kind for part in get_args(hint) for kind in kinds_of(part)))
    return _KINDS.get(get_origin(hint) or hint, ())
