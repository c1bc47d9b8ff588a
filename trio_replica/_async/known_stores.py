"""The stores that an outbox knows by their names and identities, and the check that each name is still that store's."""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING

from .._errors import ReplicaError, StoreIdentityError
from .._log import log
from .storage import SessionStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    _check_known(storage.noted, stores)
    state = await storage.begin(stores)
    for name, _, identity in stores:
        if name in storage.noted and storage.noted[name].identity != identity:
            log(logging.INFO, f"the outbox notes the identity of {name}, which it did not know: {identity}")
    return state


def _check_known(noted: Mapping[str, NotedStore], stores: Sequence[SessionStore]) -> None:
    """Raise a `ReplicaError` caused by a `StoreIdentityError` if a store is not the one that the outbox has noted."""
    owners: dict[str | None, str] = {one.identity: name for name, one in noted.items() if one.identity}
    for name, _, found in stores:
        known = noted[name].identity if name in noted else None
        accept = f"trio-replica outbox accept {shlex.quote(name)}"
        owner = owners.get(found, name)
        if owner != name:
            was = f", while {name}'s was {known}" if known else ""
            raise ReplicaError(
                f"{name}: its identity {found} is the one that the outbox knows as {owner}{was}: give the stores the "
                f"names that they had, or, if this one is to be {name} from now on: {accept}"
            ) from StoreIdentityError(name, known, found)
        if known is not None and known != found:
            raise ReplicaError(
                f"{name}: the outbox knows another store by this name: its identity was {known} and is "
                f"{found or 'none'}: open the one that it knows, or take this one: {accept}"
            ) from StoreIdentityError(name, known, found)
