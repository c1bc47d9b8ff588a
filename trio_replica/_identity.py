"""The identity of a store, and the comparison of the identities of several stores."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

import outcome

from ._calls.fan_out import fan_out
from ._errors import ReplicaError, StoreError, describe_failure, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._calls.attempt import Ended
    from ._store import Store

_IDENTITY: Final = re.compile(r"[0-9a-f]{32}")


def new_identity() -> str:
    """Return a random identity: 128 random bits as 32 lowercase hex digits."""
    return secrets.token_hex(16)


def is_identity(text: object) -> bool:
    """Return whether a value has the form of an identity, which is also the form of the mark of a session."""
    return type(text) is str and _IDENTITY.fullmatch(text) is not None


def check_mark(mark: str) -> str:
    """Return `mark`, if it has the form of the mark of a session.

    Raises:
      ValueError: if it has not.

    """
    if not is_identity(mark):
        raise ValueError(f"the mark of a session is 32 lowercase hex digits, not {shown(mark)}")
    return mark


async def read_identities(stores: Mapping[str, Store]) -> dict[str, str | None]:
    """Ask all stores at once for their identities, and return these by name. None means that a store keeps no identity.

    Returning means that no two stores have the same identity. Being cancelled changes nothing.

    Raises:
      ValueError: if two stores have the same identity, because they are then one store.
      StoreError: if a store fails, or answers with something else.

    """
    ended = await _ask(stores)
    failures = {name: how.error for name, how in ended.items() if isinstance(how, outcome.Error)}
    if failures:
        try:
            raise StoreError("identity", None, failures)
        finally:
            del failures, ended
    return _distinct(ended)


async def check_distinct(stores: Mapping[str, Store]) -> dict[str, BaseException]:
    """Check that no two stores have the same identity. Return an error for each store that does not tell its own.

    Such a store might be another one of them by a second name. Being cancelled changes nothing.

    Raises:
      ValueError: if two have the same identity.

    """
    ended = await _ask(stores)
    _distinct(ended)
    return {
        name: ReplicaError(f"it does not tell its identity: {describe_failure(how.error)}")
        for name, how in ended.items()
        if isinstance(how, outcome.Error)
    }


async def _ask(stores: Mapping[str, Store]) -> dict[str, Ended[str | None]]:
    ended: dict[str, Ended[str | None]] = dict.fromkeys(stores, outcome.Value(None))

    def settle(name: str, how: Ended[str | None]) -> bool:
        ended[name] = how
        return False

    await fan_out(list(stores), lambda name: read_identity(stores[name]), settle)
    return ended


async def read_identity(store: Store) -> str | None:
    """Return the identity of one store. Being cancelled changes nothing.

    Raises:
      ReplicaError: if it answers with something else.
      Exception: if the store fails.

    """
    identity = await store.identity()
    if identity is not None and not is_identity(identity):
        raise ReplicaError(f"an identity is 32 lowercase hex digits, not {shown(identity)}")
    return identity


def _distinct(ended: Mapping[str, Ended[str | None]]) -> dict[str, str | None]:
    """Return the identities of the stores that told one. Raises `ValueError` if two are the same."""
    identities = {name: how.value for name, how in ended.items() if isinstance(how, outcome.Value)}
    names: dict[str, str] = {}
    for name, identity in identities.items():
        if identity is not None and (other := names.setdefault(identity, name)) != name:
            raise ValueError(
                f"{other!r} and {name!r} are one store, with the identity {identity}: name two stores, or give a copy "
                "an identity of its own: trio-replica identify --new URL"
            )
    return identities
