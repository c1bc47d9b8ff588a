"""The registry of URL schemes: this package's own, and those of other packages' entry points."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import TYPE_CHECKING, Final

from .._checks import nearest
from .._errors import describe_failure
from .._log import log
from .._scheme import StoreScheme

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

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
"""The places of this package's schemes, written as in an entry point."""


@cache
def find_scheme(name: str) -> StoreScheme | None:
    """Return a scheme, which is imported at its first use; None if there is no such scheme.

    No other package can replace a scheme of this package. One that several other packages claim is refused.

    Raises:
      ValueError: if several packages claim it.
      ImportError: if the package that has it can't be used, with the name of the package.

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
            packages = " and ".join(sorted(map(_package, entries)))
            raise ValueError(f"the packages {packages} both have stores called {name}: uninstall all but one of them")


def forms() -> list[str]:
    """Return the forms of the URLs of all stores; for those of other packages only the schemes, to import none."""
    ours = [f"{name}:{scheme.form}" for name in OURS if (scheme := find_scheme(name))]
    return [*ours, *(f"{name}:…" for name in claims())]


def nearest_form(name: str) -> str | None:
    """Return the form of the URLs whose scheme is nearest to a misspelt one; None if none is near."""
    by_scheme = {form.partition(":")[0]: form for form in forms()}
    similar = nearest(name.strip().lower(), by_scheme)
    return similar and by_scheme[similar]


@cache
def claims() -> Mapping[str, list[EntryPoint]]:
    """Return the entry points of other packages, by their schemes. The first call looks through what is installed."""
    from importlib.metadata import entry_points  # noqa: PLC0415  (it takes 10 ms, which most programs do not need)

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in OURS:
            log(
                logging.WARNING,
                f"the scheme {entry.name} is trio_replica's own: that of the package {_package(entry)} is not used",
            )
        else:
            found.setdefault(entry.name, []).append(entry)
    return found


def _package(entry: EntryPoint) -> str:
    return entry.module if entry.dist is None else entry.dist.name


def _loaded(entry: EntryPoint) -> StoreScheme:
    where = f"the stores called {entry.name} of the package {_package(entry)} can't be used"
    try:
        scheme = entry.load()
    except Exception as error:  # a module may raise anything
        raise ImportError(f"{where}: {describe_failure(error)}", name=entry.module) from error
    if not isinstance(scheme, StoreScheme):
        problem = f"{entry.value} is of type {type(scheme).__name__}, not a StoreScheme"
        raise ImportError(f"{where}: {problem}", name=entry.module)  # noqa: TRY004  (of the package)
    return scheme
