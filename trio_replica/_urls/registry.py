"""The registry of URL schemes, which are this package's own and those of other packages' entry points."""

from __future__ import annotations

import importlib
import logging
import re
from functools import cache
from typing import TYPE_CHECKING, Final

from .._checks import nearest
from .._errors import describe_failure
from .._log import log
from .._scheme import StoreScheme
from .store_options import check_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.metadata import Distribution, EntryPoint

GROUP: Final = "trio_replica.stores"
"""The group of entry points. The name of one is a scheme, and its object is a `StoreScheme`."""

OURS: Final[Mapping[str, str]] = {
    "memory": "trio_replica.stores.memory:SCHEME",
    "dir": "trio_replica.stores.directory:SCHEME",
    "sqlite": "trio_replica.stores.sqlite:SCHEME",
    "s3": "trio_replica.stores.object_store:SCHEME",
    "gs": "trio_replica.stores.object_store:SCHEME",
    "az": "trio_replica.stores.object_store:AZURE_SCHEME",
    "postgresql": "trio_replica.stores.postgres:SCHEME",
    "postgres": "trio_replica.stores.postgres:SCHEME",
}
"""The objects of this package's schemes, written as in an entry point."""

_REFERENCE: Final = re.compile(r"[\w.]+\s*:\s*[\w.]+\s*(\[.*\])?|[\w.]+")
"""The form of a reference to an object in an entry point."""


@cache
def find_scheme(name: str) -> StoreScheme | None:
    """Return a scheme, importing it at its first use, or None if there is no such scheme.

    No other package can replace a scheme of this package. A scheme that several other packages claim is an error.

    Raises:
      ValueError: if several packages claim it.
      ImportError: if the package that provides it can't be used. The message has the name of the package.

    """
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        scheme: StoreScheme = getattr(importlib.import_module(module), attribute)
        return scheme
    match claims().get(name, []):
        case []:
            return None
        case [entry]:
            return _loaded(entry)
        case entries:
            raise ValueError(_claimed_twice(name, sorted(set(map(_package, entries)))))


def forms() -> list[str]:
    """Return the forms of the URLs of all stores.

    For other packages these are only the schemes, so none is imported.
    """
    ours = [f"{name}:{scheme.form}" for name in OURS if (scheme := find_scheme(name))]
    return [*ours, *(f"{name}:…" for name in claims())]


def nearest_form(name: str) -> str | None:
    """Return the form of the URLs whose scheme is nearest to a misspelt one, or None if none is near."""
    by_scheme = {form.partition(":")[0]: form for form in forms()}
    similar = nearest(name.strip().lower(), by_scheme)
    return similar and by_scheme[similar]


@cache
def claims() -> Mapping[str, list[EntryPoint]]:
    """Return the entry points of other packages by their schemes. The first call searches the installed packages."""
    from importlib.metadata import entry_points  # noqa: PLC0415  (it takes 10 ms, and most programs do not need it)

    found: dict[str, list[EntryPoint]] = {}
    try:
        entries = list(entry_points(group=GROUP))
    except Exception:  # one damaged package, even one without stores, would hide all others
        entries = [entry for part in _parts() if not isinstance(part, str) for entry in part]
    for entry in entries:
        if entry.name in OURS:
            log(
                logging.WARNING,
                f"the scheme {entry.name} is trio_replica's own: that of the package {_package(entry)} is not used",
            )
        else:
            found.setdefault(entry.name, []).append(entry)
    return found


@cache
def damage() -> list[str]:
    """Return why the entry points of some packages can't be read. Their schemes are unknown."""
    return [part for part in _parts() if isinstance(part, str)]


def _parts() -> Iterator[list[EntryPoint] | str]:
    """Yield the entry points of each package. If they can't be read and may be those of stores, yield the reason."""
    from importlib.metadata import distributions  # noqa: PLC0415  (as above)

    seen: set[str] = set()
    for distribution in distributions():
        text = ""
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if GROUP not in text:
                continue
            part: list[EntryPoint] | str = list(distribution.entry_points.select(group=GROUP))
        except Exception as error:  # the files of a package may be anything
            problem = describe_failure(error) if GROUP not in text else "entry_points.txt is malformed"
            part = f"the entry points of {_shown(distribution)} can't be read: {problem}"
        name = _name(distribution)
        if not name or name not in seen:  # the first one of a name on the path hides the others
            seen.add(name)
            yield part


def _shown(distribution: Distribution) -> str:
    name = _name(distribution)
    return f"the package {name}" if name else f"a package without METADATA in {distribution.locate_file('')}"


def _name(distribution: Distribution | None) -> str:
    """Return the name of a package. It is empty if the package has none."""
    try:
        return (distribution and distribution.metadata["Name"]) or ""
    except Exception:  # METADATA may be anything, and newer versions of Python raise if it is missing
        return ""


def _package(entry: EntryPoint) -> str:
    return _name(entry.dist) or entry.value.partition(":")[0].strip()


def _claimed_twice(scheme: str, packages: list[str]) -> str:
    if len(packages) == 1:
        return f"the package {packages[0]} has several entry points for stores called {scheme}"
    *others, last = packages
    which = "both" if len(packages) == 2 else "all"  # noqa: PLR2004  (a pair)
    listed = f"{', '.join(others)} and {last}"
    return f"the packages {listed} {which} have stores called {scheme}: uninstall all but one of them"


def _loaded(entry: EntryPoint) -> StoreScheme:
    where = f"the stores called {entry.name} of the package {_package(entry)} can't be used"
    if not _REFERENCE.fullmatch(entry.value):
        raise ImportError(f"{where}: the entry point is MODULE:NAME, not {entry.value!r}")
    try:
        scheme = entry.load()
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise ImportError(f"{where}: {describe_failure(error)}", name=entry.module) from error
    if not isinstance(scheme, StoreScheme):
        problem = f"{entry.value} is of type {type(scheme).__name__}, not a StoreScheme"
        raise ImportError(f"{where}: {problem}", name=entry.module)  # noqa: TRY004  (of the package)
    try:
        check_options(scheme)
    except (TypeError, ValueError) as error:
        raise ImportError(f"{where}: {error}", name=entry.module) from None
    return scheme
