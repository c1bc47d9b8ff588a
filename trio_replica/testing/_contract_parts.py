"""The base class and the blobs that the tests of stores share."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .._blob import Ref

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .._store import Store

ABSENT: Final = Ref.of(b"a blob that no test puts")


class ContractPart(ABC):
    """The base of classes with tests that every store passes."""

    is_persistent = False
    """Whether a second ``open_store()`` in one test opens the same store, with the blobs that it had."""

    @abstractmethod
    def open_store(self) -> AbstractAsyncContextManager[Store]:
        """Open the store for a block. It is empty when a test opens it for the first time."""


def some_blobs(count: int, seed: int = 0) -> list[bytes]:
    """Return different blobs of different sizes, up to some kilobytes."""
    source = random.Random(seed)  # noqa: S311
    sizes = (0, 10, 1000, 5000)
    return [b"%d %d " % (seed, number) + source.randbytes(source.choice(sizes)) for number in range(count)]


def skip(reason: str) -> NoReturn:
    """Skip the test that is running."""
    import pytest  # noqa: PLC0415  (only running the tests needs it)

    pytest.skip(reason)


async def assert_raises(kind: type[Exception], method: Any, *arguments: Any) -> Exception:
    """Check that ``await method(*arguments)`` raises an exception of `kind`, and return it."""
    try:
        await method(*arguments)
    except kind as error:
        return error  # noqa: ASYNC910  (an error about arguments needs no checkpoint)
    raise AssertionError(f"{method.__name__}{arguments!r} did not raise {kind.__name__}")


def assert_refuses(method: Any, *arguments: Any) -> None:
    """Check that ``method(*arguments)`` raises a `TypeError` at once."""
    try:
        method(*arguments)
    except TypeError:
        return
    raise AssertionError(f"{method.__name__}{arguments!r} did not raise TypeError")
