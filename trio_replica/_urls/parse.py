"""Taking the URL of a store apart."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from .._checks import at_home, check_seconds, check_size
from .._redact import redacted
from . import registry
from .store_options import RETRY_OPTIONS, take_options
from .store_url import StoreUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._scheme import StoreScheme


def parse_url(url: str, options: Mapping[str, Any] | None = None, *, folder: str = "") -> StoreUrl:
    """Take the URL of a store apart.

    Args:
      url: the URL.
      options: keyword arguments of the function that opens the store, and those of `RETRY_OPTIONS`. Options in the URL
        take precedence.
      folder: the folder that a path is relative to. Empty for the current folder.

    Raises:
      TypeError: if `url` is not a `str`.
      ValueError: if `open_store` could not open the URL. Not all of its options are checked here.
      ImportError: if another package provides such stores and can't be used.

    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a store is a str, not {type(url).__name__}")
    name, colon, rest = url.partition(":")
    kind = registry.find_scheme(name) if colon else None
    if kind is None:
        raise ValueError(_unknown(url))
    given = dict(options or {})
    if kind.is_remote:
        _check_address(f"{name}:{kind.form}", rest)
        rest, said = take_options(kind, rest)
        given |= said
    else:
        _check_path(name, kind, rest)
        rest = os.path.join(folder, rest) if folder and kind.has_path and not rest.startswith("//") else rest
    retry = {option: given.pop(option) for option in RETRY_OPTIONS if option in given}
    return StoreUrl(name, rest, kind, given, _budget(retry, default=kind.is_remote))


def _unknown(url: str) -> str:
    name, colon, rest = url.partition(":")
    shown = f"{name}:…" if colon and "@" in rest else redacted(url)  # it may be a password before an address
    if similar := registry.nearest_form(name):
        return f"unknown store {shown!r}; did you mean {similar}?"
    known = ", ".join(registry.forms())
    return "; ".join([f"unknown store {shown!r}: a store's URL is one of {known}", *registry.damage()])


def _check_path(scheme: str, kind: StoreScheme, path: str) -> None:
    form = f"{scheme}:{kind.form}"
    if bool(path) != kind.has_path or "\0" in path:
        raise ValueError(f"the URL of such a store is {form}, not {redacted(f'{scheme}:{path}')!r}")
    other, separator, _ = path.partition("://")
    if separator and (inner := registry.find_scheme(other)) is not None and inner.is_remote:
        raise ValueError(f"the URL of such a store is {form}: for a store of {other}:// leave out {scheme}:")
    if path.startswith("//") and not path.startswith("///"):
        shown = redacted(f"{scheme}:{path}")
        raise ValueError(f"the URL of such a store is {form} and can't name a host as {shown!r} does")
    if home := at_home(path):
        raise ValueError(
            f"{redacted(f'{scheme}:{path}')} is in a folder called ~, because ~ is not replaced here: "
            f"write {redacted(f'{scheme}:{home}')}, or {redacted(f'{scheme}:./{path}')} if that is meant"
        )


def _check_address(form: str, rest: str) -> None:
    """Check the address of a remote store. The errors do not show it, because a bad one may contain a secret."""
    if not rest.startswith("//"):
        raise ValueError(f"the URL of such a store is {form}")
    if re.search(r"[\s\x00-\x1f\x7f]", rest):
        raise ValueError(f"the URL of such a store is {form}; a space in it is %20")


def _budget(said: Mapping[str, Any], *, default: bool) -> dict[str, Any] | None:
    """Return the keyword arguments of `RetryingStore`, or None if nothing is to be retried."""
    budget = {option.removeprefix("retry_"): value for option, value in said.items() if option != "retry"}
    if said.get("retry", default):
        if "attempts" in budget:
            check_size("retry_attempts", budget["attempts"])
        if "seconds" in budget:
            check_seconds("retry_seconds", budget["seconds"])
        return budget
    if budget:
        raise ValueError("retry_attempts and retry_seconds are for a store with retry=true")
    return None
