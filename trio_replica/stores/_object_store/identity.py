"""The identity of an object store and its mark, which are two small objects that sort after its blobs.

The methods block, and run in the store's threads.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, final

import obstore
import outcome
from obstore.exceptions import AlreadyExistsError

from ..._identity import is_identity, new_identity
from .errors import NO_GOOD_SERVER, says_missing
from .place import IDENTITY

if TYPE_CHECKING:
    from typing import Any

    from .client import ObjectClient

MARK: Final = "b~mark"
"""The object that has the mark of the last session."""

_DIGITS: Final = 32
_BYTES: Final = _DIGITS + len("\n")

_NEITHER: Final = (
    "is not an identity, which is 32 lowercase hex digits: if another program has written it, move it away; "
    "else the server is not an object store: correct the endpoint"
)


@final
class IdentityObjects:
    """The identity of one store, and its mark."""

    def __init__(self, client: ObjectClient) -> None:
        self._client = client

    def read(self) -> str | None:
        """Return the identity, or None if there is no identity.

        Raises:
          ReplicaError: if the server does not answer, or the object holds something else.

        """
        return self._read(IDENTITY)

    def create(self) -> str:
        """Give the store an identity and return it. If another program was faster, return the one that it gave.

        Raises:
          ReplicaError: if it can't be created, or is not there afterwards.

        """
        ended = outcome.capture(self._write, IDENTITY, new_identity(), "create")
        if isinstance(ended, outcome.Error) and not isinstance(ended.error, AlreadyExistsError):
            raise self._client.failure(ended.error)
        # The identity is read even after a successful put, because without create-if-absent several puts may succeed.
        found = self.read()
        if found is None:
            raise self._client.error(f"{IDENTITY} was stored, but is not there: {NO_GOOD_SERVER}")
        return found

    def renew(self) -> str:
        """Give the store a new identity, remove the mark, and return the identity.

        Raises:
          ReplicaError: if the server refuses, or does not keep the identity.

        """
        identity = new_identity()
        for step in (
            partial(self._write, IDENTITY, identity, "overwrite"),
            partial(obstore.delete, self._client.client, MARK),
        ):
            ended = outcome.capture(step)
            if isinstance(ended, outcome.Error) and not says_missing(ended.error):
                raise self._client.failure(ended.error)
        if self.read() != identity:
            raise self._client.error(f"{IDENTITY} was stored, but is not there: {NO_GOOD_SERVER}")
        return identity

    def read_mark(self) -> str | None:
        """Return the mark, or None if there is no mark.

        Raises:
          ReplicaError: if the server does not answer, or the object holds something else.

        """
        return self._read(MARK)

    def write_mark(self, mark: str) -> None:
        """Replace the mark.

        Raises:
          ReplicaError: if it can't be written, or the object holds something else, which is left as it is.

        """
        self.read_mark()
        ended = outcome.capture(self._write, MARK, mark, "overwrite")
        if isinstance(ended, outcome.Error):
            raise self._client.failure(ended.error)

    def _read(self, name: str) -> str | None:
        ended = outcome.capture(self._client.read, name, partial(self._check_size, name))
        if isinstance(ended, outcome.Error):
            if says_missing(ended.error):
                return None
            raise self._client.failure(ended.error)
        text = ended.value.decode("ascii", "replace").removesuffix("\n")
        if not is_identity(text):
            raise self._client.error(f"{name} {_NEITHER}")
        return text

    def _check_size(self, name: str, size: int) -> None:
        if not _DIGITS <= size <= _BYTES:
            raise self._client.error(f"{name} {_NEITHER}")

    def _write(self, name: str, text: str, mode: Any) -> None:
        obstore.put(self._client.client, name, text.encode(), mode=mode, use_multipart=False)
