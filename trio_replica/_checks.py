"""The checks of the arguments of `open`, `reconcile` and `scrub`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from ._redact import redacted
from ._store import Store

Stores: TypeAlias = Iterable[Store] | Mapping[str, Store]

NEAR: Final = 0.65
"""How similar a name has to be to a misspelt one, from 0 to 1. With the 0.6 of `difflib`, "durable" would count as
similar to "url". A name of four letters with two of them exchanged has 0.75."""

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|:memory:\Z")
"""The beginning of a text that may be meant as the URL of a store, or of SQLite's name for a database in memory."""


def named_stores(sync_stores: Stores, async_stores: Stores) -> tuple[dict[str, Store], dict[str, Store]]:
    """Return the sync stores and the async stores by name, in their order. Names that are URLs lose their secrets.

    Raises:
      ValueError: if there is no sync store, a name is empty, or a name or a store is given twice.
      TypeError: if a name is not a `str`, or a store is not a `Store`.

    """
    named_sync = _named(sync_stores, "sync_stores", "sync")
    named_async = _named(async_stores, "async_stores", "async")
    if not named_sync:
        raise ValueError("a replica needs at least one sync store")
    if twice := named_sync.keys() & named_async.keys():
        raise ValueError(f"the name {min(twice)!r} is given twice: to a sync store and to an async store")
    _check_once(named_sync | named_async)
    return named_sync, named_async


def checked_names(option: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return names of stores, without secrets.

    Raises:
      ValueError: if one is empty, or is given twice.
      TypeError: if it is not an iterable of names.

    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{option} is an iterable of names of stores, not {_shown(names)}")
    checked: list[str] = []
    for name in names:
        shown = _shown_name(name)
        if shown in checked:
            raise ValueError(f"{option} has {shown!r} twice")
        checked.append(shown)
    return tuple(checked)


def fallback_stores(names: Iterable[str], async_stores: Mapping[str, Store]) -> dict[str, Store]:
    """Return the async stores that a `fallback` names, in the order of the names.

    Raises:
      ValueError: if a name is not that of an async store.

    """
    for name in names:
        if name not in async_stores:
            known = f"those are {', '.join(map(repr, async_stores))}" if async_stores else "there is none"
            raise ValueError(f"fallback has {name!r}, which is not an async store: {known}")
    return {name: async_stores[name] for name in names}


def named_peers(stores: Stores) -> dict[str, Store]:
    """Return stores of one kind by name, in their order. Names that are URLs lose their secrets.

    Raises:
      ValueError: if there is none, a name is empty, or a name or a store is given twice.
      TypeError: if a name is not a `str`, or a store is not a `Store`.

    """
    named = _named(stores, "stores", "store")
    if not named:
        raise ValueError("there are no stores")
    _check_once(named)
    return named


def check_writable(named: Mapping[str, Store]) -> None:
    """Check that stores can be written to.

    Raises:
      ValueError: if one was opened with ``read_only=True``.

    """
    for name, store in named.items():
        if store.is_read_only:
            raise ValueError(
                f"{name} was opened with read_only=True, and a replica writes to its stores: open it without read_only"
            )


def check_size(name: str, size: int, *, at_least: int = 1) -> int:
    """Return a number of blobs after checking it.

    Raises:
      TypeError: if it is not an `int`.
      ValueError: if it is less than `at_least`.

    """
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name} is an int, not {size!r}")
    if size < at_least:
        raise ValueError(f"{name} is at least {at_least}, not {size}")
    return size


def check_flag(name: str, flag: bool) -> bool:
    """Return a flag after checking it.

    Raises:
      TypeError: if it is not a `bool`.

    """
    if not isinstance(flag, bool):
        raise TypeError(f"{name} is True or False, not {flag!r}")
    return flag


def checked_path(name: str, path: str | os.PathLike[str]) -> str:
    """Return the path of a file as text.

    Raises:
      TypeError: if it is not a path.
      ValueError: if it can't be the path of a file, looks like a URL, or begins with a ``~`` that shells replace.

    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} is the path of a file, not {path!r}")
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ValueError(f"{name} is the path of a file, not {text!r}")
    if isinstance(path, str) and _URL.match(path):
        raise ValueError(
            f"{name} is the path of a file, not {redacted(path)!r}; write './' before the name of such a file"
        )
    if home := at_home(text):
        raise ValueError(f"{name} is {text!r}, but ~ is not replaced here: write {home!r}, or the path of a folder ~")
    return text


def at_home(path: str) -> str:
    """Return the path that a shell makes of one that begins with ``~``, or an empty text if it would not change it."""
    home = os.path.expanduser(path) if path.startswith("~") else path
    return "" if home == path else home


def check_seconds(name: str, seconds: float) -> float:
    """Return a length of time after checking it.

    Raises:
      TypeError: if it is not a number.
      ValueError: if it is negative or NaN.

    """
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"{name} is a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"{name} is 0 or more seconds, not {seconds}")
    return seconds


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message with the known name nearest to a misspelt one. It is empty if no name is near."""
    similar = nearest(name, known)
    return f"; did you mean {similar}?" if similar else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to a misspelt one, or None if no name is near."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, NEAR)), None)


def _check_once(named: Mapping[str, Store]) -> None:
    names: dict[int, str] = {}
    for name, store in named.items():
        if (other := names.setdefault(id(store), name)) != name:
            raise ValueError(f"one store is given twice: as {other!r} and as {name!r}")


def _named(stores: Stores, parameter: str, kind: str) -> dict[str, Store]:
    if isinstance(stores, str) or not isinstance(stores, Iterable):
        shape = f"{parameter} is an iterable of stores or a mapping of names to stores"
        raise TypeError(f"{shape}, not {_shown(stores)}{_hint(stores)}")
    given = stores if isinstance(stores, Mapping) else {f"{kind}-{i}": store for i, store in enumerate(stores)}
    named: dict[str, Store] = {}
    for name, store in given.items():
        shown = _shown_name(name)
        if not isinstance(store, Store):
            raise TypeError(f"{shown} is of type {type(store).__name__}, not a Store{_hint(store)}")
        if shown in named:
            raise ValueError(f"the name {shown!r} is given twice: names must not differ only in their secrets")
        named[shown] = store
    return named


def _shown_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a store is a str, not {_shown(name)}")
    if not name:
        raise ValueError("the name of a store is not empty")
    return redacted(name)


def _hint(given: object) -> str:
    """Return a hint at what the caller may have meant by an argument that is not a store or stores."""
    if isinstance(given, str):
        return f": use open_store({redacted(given)!r})"
    if isinstance(given, Store):
        return ": put it in a list"
    return ": enter it first, with `async with`" if hasattr(given, "__aenter__") else ""


def _shown(given: object) -> str:
    return repr(redacted(given)) if isinstance(given, str) else redacted(repr(given))
