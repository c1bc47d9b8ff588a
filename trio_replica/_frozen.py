"""The read-only mapping in statistics and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

from ._errors import picklable

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@final
class FrozenDict(dict[KeyT, ValueT]):
    """A `dict` that refuses changes.

    `types.MappingProxyType` would do, but `pickle`, `copy.deepcopy` and `dataclasses.asdict` cannot take it.
    """

    __slots__ = ()

    __module__ = __package__  # so that a pickle names no private module

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this mapping is read-only: copy it with dict(…)")

    if not TYPE_CHECKING:  # pragma: no branch  (type checkers want the signatures that a dict has)
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickling a dict sets its items one by one, which this class refuses.
        return type(self), ({key: picklable(value) for key, value in self.items()},)
