"""The choice of failures that may pass, so that the operation is worth repeating."""

from __future__ import annotations

from typing import Final

import trio

from ..._errors import (
    BlobNotFoundError,
    BlobTooLargeError,
    CorruptBlobError,
    PoisonedError,
    StoreError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
)

_NEVER: Final = (
    BlobNotFoundError,  # an answer, not a failure
    BlobTooLargeError,
    StoreReadOnlyError,
    StoreIdentityError,  # another store stays another one
    StoreNotFoundError,
    CorruptBlobError,  # the bytes will be the same the next time
    PoisonedError,  # a replica that is poisoned stays so
    trio.ClosedResourceError,  # as does a store that is closed
    TypeError,  # bad input
    ValueError,
    RuntimeError,  # a store that is used in the wrong place
    AssertionError,
)

_NEVER_OF_DATABASES: Final = frozenset({"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"})
"""Names of error classes of every database module (PEP 249) that mean a fault in the request itself."""


def may_pass(error: BaseException) -> bool:
    """Return whether repeating the operation may succeed after this failure."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(may_pass, error.exceptions))
    if isinstance(error, StoreError):  # a replica raises it, and any of its stores may recover
        return any(map(may_pass, error.failures.values()))
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, Exception) and not isinstance(error, _NEVER) and not kinds & _NEVER_OF_DATABASES
