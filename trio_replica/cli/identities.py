"""The identities of the stores of a command, compared with each other and with those that its outbox knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._async.known_stores import cannot_be_created, mismatch
from .._async.outbox_by_hand import looked_at_outbox
from .._errors import ReplicaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._async.storage import NotedStore
    from .stores import Stores


def known_stores(stores: Stores) -> Mapping[str, NotedStore]:
    """Return the stores that the outbox of a command knows. There are none without an outbox. Blocks.

    Raises:
      ReplicaError: if the outbox is in use or can't be used.

    """
    path = stores.options.get("outbox")
    if path is None or not os.path.lexists(path):
        return {}
    with looked_at_outbox(path) as outbox:
        return outbox.noted()


def kept_stores(stores: Stores) -> Mapping[str, str]:
    """Return the remedy for each store of a command that may not be created if it is missing. Blocks.

    These are the stores that its outbox knows. All are, if it can't be looked at: a replica that uses it has created
    them.
    """
    try:
        return cannot_be_created(known_stores(stores))
    except ReplicaError:
        return dict.fromkeys(stores.all(), "")


def identity_problems(identities: Mapping[str, str | None], known: Mapping[str, NotedStore]) -> dict[str, str]:
    """Return the problem with the identity of each store that has one, by the name of the store.

    Args:
      identities: the identities of the stores of a command, by their names.
      known: the stores that its outbox knows.

    """
    problems = {}
    for name, identity in identities.items():
        same = [other for other, one in identities.items() if one is not None and one == identity and other != name]
        if same:
            problems[name] = (
                f"it is one store with {', '.join(same)}, with the identity {identity}: name two stores, or give a "
                "copy an identity of its own: trio-replica identify --new URL"
            )
        elif problem := mismatch(known, name, identity):
            problems[name] = problem
    return problems
