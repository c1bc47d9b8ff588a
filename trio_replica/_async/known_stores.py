"""The stores that an outbox knows by their names and identities, and the check that each name is still that store's."""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING

from .._errors import ReplicaError, StoreIdentityError
from .._log import log
from .storage import SessionStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .storage import NotedStore, OutboxState, OutboxStorage


async def begin_session(
    storage: OutboxStorage, sync_names: Iterable[str], async_names: Iterable[str], identities: Mapping[str, str | None]
) -> OutboxState:
    """Begin a session of an outbox with its stores, and check that none has been exchanged since the last session.

    Args:
      storage: the outbox.
      sync_names: the sync stores that it is to note. Stores without names of their own are left out, because their
        numbers say nothing about the next session.
      async_names: the async stores.
      identities: the identity of each store, or None if the store keeps no identity.

    Raises:
      ReplicaError: if a store is not the same as before, or the outbox fails. Nothing is noted then.

    """
    roles = {**dict.fromkeys(sync_names, "sync"), **dict.fromkeys(async_names, "async")}
    stores = [SessionStore(name, role, identities[name]) for name, role in roles.items()]
    for name, _, found in stores:
        if problem := mismatch(storage.noted, name, found):
            known = storage.noted[name].identity if name in storage.noted else None
            raise ReplicaError(f"{name}: {problem}") from StoreIdentityError(name, known, found)
    state = await storage.begin(stores)
    for name, _, identity in stores:
        if name in storage.noted and storage.noted[name].identity != identity:
            log(logging.INFO, f"the outbox notes the identity of {name}, which it did not know: {identity}")
    return state


def cannot_be_created(noted: Mapping[str, NotedStore]) -> dict[str, str]:
    """Return the remedy for each store that may not be created if it is missing, because its disk may not be mounted.

    These are the stores whose identities the outbox has noted.
    """
    return {
        name: f"if it is lost, take a new one: trio-replica outbox accept {shlex.quote(name)}"
        for name, one in noted.items()
        if one.identity is not None
    }


def mismatch(noted: Mapping[str, NotedStore], name: str, found: str | None) -> str:
    """Return why a store is not the one that an outbox has noted under its name, with the remedy. Empty if it is.

    Args:
      noted: the stores that the outbox has noted.
      name: the name that the store has now.
      found: its identity.

    """
    known = noted[name].identity if name in noted else None
    accept = f"trio-replica outbox accept {shlex.quote(name)}"
    if known == found:
        return ""
    owner = next((other for other, one in noted.items() if one.identity and one.identity == found), None)
    if owner is not None:
        was = f", while {name}'s was {known}" if known else ""
        return (
            f"its identity {found} is the one that the outbox knows as {owner}{was}: give the stores their former "
            f"names, or take this one as {name}: {accept}"
        )
    if known is not None:
        return (
            f"the outbox knows another store by this name: its identity was {known} and is {found or 'none'}: open the "
            f"one that it knows, or take this one: {accept}"
        )
    return ""


def proves_absence(
    noted: Mapping[str, NotedStore], sync_names: Iterable[str], identities: Mapping[str, str | None]
) -> bool:
    """Return whether a blob that every sync store of a session lacks was in none of them when they were last open.

    Args:
      noted: the stores that the outbox had noted before the session.
      sync_names: the sync stores of the session that have names.
      identities: the identities of the stores of the session.

    """
    # A store that was accepted as another's successor, or has not always been a sync store, may never have been given
    # the blob. Neither may one that had no identity before, because it may be another one. An outbox that knows no sync
    # store has never noted any, so these are believed.
    known = {name for name, one in noted.items() if one.role == "sync"}
    return not known or any(
        name in known and not noted[name].is_incomplete and noted[name].identity == identities[name]
        for name in sync_names
    )
