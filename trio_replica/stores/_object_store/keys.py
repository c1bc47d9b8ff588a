"""The keys of objects, as one answer of a server lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Keys(NamedTuple):
    """The keys of one answer."""

    keys: Sequence[bytes]
    """The whole keys, prefix included, in the order in which the server lists them."""
    may_go_on: bool
    """Whether the server says that there are more, or does not say that there are none."""
    token: str | None = None
    """The token to send for the next keys. With None the last of these keys is sent."""


class KeySource(Protocol):
    """Something that lists the keys of a bucket, in answers of a bounded size, each within a bounded time."""

    async def ask(self, after: bytes, token: str | None, at_most: int) -> Keys:
        """Return the first `at_most` keys after `after` or, given a `token`, after the answer that had it.

        Being cancelled changes nothing.

        Raises:
          ReplicaError: if the server does not answer with a listing.

        """
