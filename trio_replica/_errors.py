"""The errors, and the functions that split an exception of a store into its failure and a cancellation."""

from __future__ import annotations

import math
import pickle
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from ._printable import SHOWN_LIMIT, one_line
from ._redact import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._blob import Ref


REDACTED_LIMIT: Final = 100_000
"""Characters of a text that are searched for secrets before the first are shown. The search takes milliseconds."""


class ReplicaError(Exception):
    """The base of all errors of this library.

    Every error survives `pickle` and `copy` with its attributes. If it contains an exception that can't be pickled,
    that becomes a `ReplicaError` with its `repr`.
    """

    def _arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the constructor."""
        return self.args

    def __copy__(self) -> ReplicaError:
        return _rebuild(type(self), self._arguments(), _notes(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # The last part updates the object's `__dict__`. The constructor makes the rest of it.
        arguments = tuple(picklable(argument) for argument in self._arguments())
        return type(self), arguments, {"__notes__": notes} if (notes := _notes(self)) else None


class BlobNotFoundError(ReplicaError, LookupError):
    """The store, or every sync store of a replica, is sure that it has no such blob."""

    def __init__(self, ref: Ref) -> None:
        super().__init__(f"blob {ref} not found")
        self.ref = ref
        """The ref that was requested."""

    def _arguments(self) -> tuple[Any, ...]:
        return (self.ref,)


class CorruptBlobError(ReplicaError):
    """A store has the wrong bytes under a ref, or returned the wrong ref for the bytes that were put."""

    def __init__(self, ref: Ref, actual: Ref) -> None:
        super().__init__(f"blob {ref!s:.12} is corrupt: its bytes are those of {actual!s:.12}")
        self.ref = ref
        """The ref that was requested or put."""
        self.actual = actual
        """The ref of the bytes that the store has, or the ref that the store returned."""

    def _arguments(self) -> tuple[Any, ...]:
        return self.ref, self.actual


class StoreError(ReplicaError):
    """One or more stores failed, and an operation with them.

    The cause is the failure of the store, or an `ExceptionGroup` if several stores failed.
    """

    def __init__(self, operation: str, ref: Ref | None, failures: Mapping[str, BaseException]) -> None:
        blob = "" if ref is None else f" of {ref!s:.12}"
        super().__init__(f"{operation}{blob} failed: {describe_failures(failures)}")
        self.operation = operation
        """The method that was called: ``"put"``, ``"get_many"``, …"""
        self.ref = ref
        """The ref of the blob, or None for operations on many."""
        self.failures: Mapping[str, BaseException] = MappingProxyType(dict(failures))
        """The failure of each store that failed, by the store's name."""
        self.__cause__: BaseException | None = _combined(list(failures.values()))

    def _arguments(self) -> tuple[Any, ...]:
        return self.operation, self.ref, dict(self.failures)


_CREATE: Final = "create it: open it with create=True and without read_only"


class StoreNotFoundError(ReplicaError, LookupError):
    """A store that was to be opened does not exist, and ``create=False`` or ``read_only=True`` forbids creating it.

    Often its disk is not mounted.
    """

    def __init__(self, store: str, remedy: str = "") -> None:
        super().__init__(f"{store}: there is no store here; mount its disk or correct its name, or {remedy or _CREATE}")
        self.store = store
        """The place where it was expected: its path, or its URL without secrets."""
        self.remedy = remedy
        """What to do if it is to be created, or an empty text where the general advice applies."""

    def _arguments(self) -> tuple[Any, ...]:
        return self.store, self.remedy


class StoreIdentityError(ReplicaError):
    """A store is not the one that was opened, or that an outbox knows by this name."""

    def __init__(self, store: str, expected: str | None, found: str | None, remedy: str = "") -> None:
        was, now = [identity or "none" for identity in (expected, found)]
        super().__init__(
            f"{store}: this is another store than before: its identity was {was} and is {now}; "
            f"{remedy or 'bring back the one that was here, or correct the path or the URL'}"
        )
        self.store = store
        """Its path, its URL without secrets, or its name in the replica."""
        self.expected = expected
        """The identity that it had, or None if it had no identity."""
        self.found = found
        """The identity that was found, or None if there is no identity."""
        self.remedy = remedy
        """What to do about it, or an empty text where the general advice applies."""

    def _arguments(self) -> tuple[Any, ...]:
        return self.store, self.expected, self.found, self.remedy


class StoreReadOnlyError(ReplicaError):
    """A write to a store that was opened with ``read_only=True``. Nothing was written."""

    def __init__(self, store: str) -> None:
        super().__init__(f"{store}: the store was opened with read_only=True; open it without read_only to write to it")
        self.store = store
        """Its path, or its URL without secrets."""

    def _arguments(self) -> tuple[Any, ...]:
        return (self.store,)


class BlobTooLargeError(ReplicaError):
    """A blob is larger than a store takes into memory: see ``max_memory`` of the function that opened it."""

    def __init__(self, store: str, size: int, limit: int) -> None:
        super().__init__(
            f"{store}: a blob has {size} bytes, but max_memory is {limit}; open the store with a higher max_memory"
        )
        self.store = store
        """Its path, or its URL without secrets."""
        self.size = size
        """The size of the blob in bytes, or the bytes seen so far if the store did not tell the size."""
        self.limit = limit
        """The most bytes that the store takes into memory for one blob."""

    def _arguments(self) -> tuple[Any, ...]:
        return self.store, self.size, self.limit


class PoisonedError(ReplicaError, trio.BrokenResourceError):
    """An async store failed, so the replica accepts nothing any more.

    Its message and attributes describe the moment when it was raised. Its cause is the exception of `store`.
    """

    def __init__(
        self, failures: Mapping[str, BaseException], unreplicated: Mapping[str, tuple[Ref, ...]] | None = None
    ) -> None:
        unreplicated = {name: refs for name, refs in (unreplicated or {}).items() if refs}
        lacks = "".join(f"; {name} lacks {len(refs)} accepted" for name, refs in unreplicated.items())
        super().__init__(f"the replica is poisoned: {describe_failures(failures)}{lacks}")
        self.failures: Mapping[str, BaseException] = MappingProxyType(dict(failures))
        """The exception of each failed async store by its name, in the order in which they failed."""
        self.store: str = next(iter(failures))
        """The name of the async store that failed first."""
        self.unreplicated: Mapping[str, tuple[Ref, ...]] = MappingProxyType(unreplicated)
        """The unconfirmed refs of each async store that has any, by its name; each ref once, in queue order.

        See `ReplicaStore.unreplicated`, which also explains the effect of an outbox.
        """
        self.__cause__: BaseException | None = failures[self.store]
        self.add_note(
            "Nothing was lost: the sync stores have every accepted blob. Once the async store works again, open the "
            "replica again. With an outbox it then delivers what the store lacks; without one, reconcile the stores."
        )

    def _arguments(self) -> tuple[Any, ...]:
        return dict(self.failures), dict(self.unreplicated)


class MissingCredentialsError(ValueError):
    """Neither the URL of a store, which is otherwise correct, nor the environment has credentials.

    Users see it as a `ValueError`. The command line uses it to distinguish missing credentials from a bad URL.
    """


def closed_error() -> trio.ClosedResourceError:
    """Return the error that every operation of a closed replica raises."""
    return trio.ClosedResourceError("the replica is closed: its block has ended")


def describe_failures(failures: Mapping[str, BaseException]) -> str:
    """Return the failed stores with their errors as part of one line of a log."""
    return "; ".join(f"{name}: {describe_failure(failure)}" for name, failure in failures.items())


def describe_failure(failure: BaseException) -> str:
    """Return the type and message of a failure in one line, without secrets."""
    text = _shown(str, failure)
    if isinstance(failure, BaseExceptionGroup):
        text += f" [{'; '.join(describe_failure(part) for part in failure.exceptions)}]"
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def split_failure(raised: BaseException) -> tuple[BaseException | None, trio.Cancelled | None]:
    """Split an exception that a store raised into the store's failure and a cancellation to be raised again.

    Call it in the task that called the store. If that task is not cancelled, a `trio.Cancelled` belongs to some other
    task, and the store has kept it and passed it on. So it is a failure as well.

    Raises:
      KeyboardInterrupt, SystemExit: if the exception is one or contains one. It is raised bare.

    """
    if leave := exit_request_in(raised):
        try:
            raise leave
        finally:
            del leave, raised  # its traceback refers to this frame
    cancelled = _find(raised, (trio.Cancelled,))
    if cancelled is None or trio.current_effective_deadline() != -math.inf:
        return failure_of_started(raised), None
    assert isinstance(cancelled, trio.Cancelled)
    failure = raised.split(trio.Cancelled)[1] if isinstance(raised, BaseExceptionGroup) else None
    return failure, cancelled


def exit_request_in(raised: BaseException) -> BaseException | None:
    """Return the `KeyboardInterrupt` or `SystemExit` in an exception of a store, if there is one."""
    return _find(raised, (KeyboardInterrupt, SystemExit))


def failure_of_started(raised: BaseException) -> BaseException:
    """Return the failure of a call that no cancellation reaches. A `trio.Cancelled` that it raised is a stray one."""
    if _find(raised, (trio.Cancelled,)) is None:
        return raised
    stray = ReplicaError("the store raised a Cancelled that was not meant for its caller")
    stray.__cause__ = raised
    return stray


def _find(raised: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """Return the first exception of `kinds` in `raised`, which may be a group."""
    if not isinstance(raised, BaseExceptionGroup):
        return raised if isinstance(raised, kinds) else None
    return next((found for part in raised.exceptions if (found := _find(part, kinds)) is not None), None)


def _combined(failures: list[BaseException]) -> BaseException:
    return failures[0] if len(failures) == 1 else BaseExceptionGroup("several stores failed", failures)


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _rebuild(kind: type[ReplicaError], arguments: tuple[Any, ...], notes: list[str]) -> ReplicaError:
    error = kind(*arguments)
    if notes:
        error.__notes__ = notes
    return error


def picklable(argument: Any) -> Any:
    """Return a value as it goes into a pickle. An exception that can't be pickled becomes a `ReplicaError`."""
    if isinstance(argument, dict):
        return {name: picklable(value) for name, value in argument.items()}
    if isinstance(argument, BaseException):
        try:
            pickle.loads(pickle.dumps(argument))  # noqa: S301  (bytes made on this line)
        except Exception:  # whatever its __reduce__ or constructor raises
            return _rebuild(ReplicaError, (_shown(repr, argument),), _notes(argument))
    return argument


def shown(thing: object) -> str:
    """Return the `repr` of a store's answer for one line of a message: short, and without secrets."""
    return _shown(repr, thing, 80)


def _shown(show: Callable[[object], str], thing: object, limit: int = SHOWN_LIMIT) -> str:
    try:
        return one_line(redacted(show(thing)[:REDACTED_LIMIT]), limit)
    except Exception as exc:  # a __str__ or __repr__ may fail
        return f"<{show.__name__} raised {type(exc).__name__}>"
