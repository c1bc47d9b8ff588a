"""The errors: what they say, and that nothing of them is lost on the way."""

from __future__ import annotations

import copy
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica
from trio_replica import (
    BlobNotFoundError,
    BlobTooLargeError,
    CorruptBlobError,
    PoisonedError,
    Ref,
    ReplicaError,
    StoreError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from trio_replica._errors import describe_failures, split_failure

if TYPE_CHECKING:
    from collections.abc import Callable

HELLO = Ref.of(b"hello")  # 2cf24dba5fb0…
OTHER = Ref.of(b"other")  # d9298a10d1b0…


class NeedsTwoError(Exception):
    """An error that pickles, but that its constructor, called with `args`, does not make again."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


class UnshowableError(Exception):
    """An error whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def each_way() -> list[Any]:
    """Return the ways in which an error is copied, each with a name."""
    pickled = [
        pytest.param(
            lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)), id=f"pickle {protocol}"
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ]
    return [*pickled, pytest.param(copy.copy, id="copy"), pytest.param(copy.deepcopy, id="deepcopy")]


def pickled(error: ReplicaError) -> Any:
    return pickle.loads(pickle.dumps(error))


def attributes(error: BaseException) -> dict[str, Any]:
    """Return the attributes that have to survive. Exceptions stand by their repr, because they have no equality."""
    return {name: repr(value) if name == "failures" else value for name, value in vars(error).items()}


def cancelled() -> trio.Cancelled:
    """Return a `Cancelled`, which only Trio can make."""
    caught: list[trio.Cancelled] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                caught.append(error)
                raise

    trio.run(main)
    return caught[0]


# Classes


def test_what_they_say_of_a_failure_has_no_secrets() -> None:
    failure = OSError("can't reach postgresql://me:hunter2@host/db")
    group = ExceptionGroup("token=hunter2", [failure])
    shown = "can't reach postgresql://me:***@host/db"
    assert str(StoreError("put", None, {"far": failure})) == f"put failed: far: OSError: {shown}"
    assert str(PoisonedError({"far": failure})) == f"the replica is poisoned: far: OSError: {shown}"
    assert "hunter2" not in str(StoreError("put", None, {"far": group}))
    assert f"[OSError: {shown}]" in str(StoreError("put", None, {"far": group}))


def test_all_are_replica_errors() -> None:
    errors = [
        value for value in vars(trio_replica).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(errors) == 11
    assert all(issubclass(error, ReplicaError) for error in errors)


def test_not_found_is_a_lookup_error_and_no_other_is() -> None:
    assert issubclass(BlobNotFoundError, LookupError)
    assert issubclass(StoreNotFoundError, LookupError)
    assert not issubclass(CorruptBlobError, LookupError)
    assert not issubclass(StoreError, LookupError)


def test_poisoned_is_a_broken_resource_and_no_other_is() -> None:
    assert issubclass(PoisonedError, trio.BrokenResourceError)
    assert not issubclass(StoreError, trio.BrokenResourceError)


# Messages


def test_not_found_names_the_ref() -> None:
    error = BlobNotFoundError(HELLO)
    assert error.ref == HELLO
    assert str(error) == f"blob {HELLO} not found"


def test_too_large_names_the_store_and_both_sizes() -> None:
    error = BlobTooLargeError("/disk/store", 12, 10)
    assert (error.store, error.size, error.limit) == ("/disk/store", 12, 10)
    text = "/disk/store: a blob has 12 bytes, but max_memory is 10; open the store with a higher max_memory"
    assert str(error) == text


def test_another_store_names_both_identities() -> None:
    error = StoreIdentityError("/disk/store", "a" * 32, None)
    assert (error.store, error.expected, error.found) == ("/disk/store", "a" * 32, None)
    assert error.remedy == ""
    text = f"/disk/store: this is another store than before: its identity was {'a' * 32} and is none; "
    assert str(error) == f"{text}bring back the one that was here, or correct the path or the URL"
    assert str(StoreIdentityError("/disk/store", "a" * 32, None, "mount it")) == f"{text}mount it"


def test_a_missing_store_and_one_that_is_only_read_are_named() -> None:
    assert str(StoreNotFoundError("/disk/store")).startswith("/disk/store: there is no store here; mount its disk")
    assert StoreNotFoundError("/disk/store").store == "/disk/store"
    assert str(StoreReadOnlyError("/disk/store")).startswith("/disk/store: the store was opened with read_only=True")
    assert StoreReadOnlyError("/disk/store").store == "/disk/store"


def test_corrupt_names_both_refs() -> None:
    error = CorruptBlobError(HELLO, OTHER)
    assert (error.ref, error.actual) == (HELLO, OTHER)
    assert str(error) == "blob 2cf24dba5fb0 is corrupt: its bytes are those of d9298a10d1b0"


@pytest.mark.parametrize(
    ("failures", "text"),
    [
        ({"a": OSError("no disk")}, "a: OSError: no disk"),
        (
            {"a": OSError(28, "No space left on device", "/data/x")},
            "a: OSError: [Errno 28] No space left on device: '/data/x'",
        ),
        ({"a": OSError("no disk"), "b": ValueError(1)}, "a: OSError: no disk; b: ValueError: 1"),
        ({"a": TimeoutError()}, "a: TimeoutError"),
        ({"a": OSError("two\n  lines,\r\n\tand a third\n")}, "a: OSError: two lines, and a third"),
        ({"a": OSError("\n")}, "a: OSError"),
        (
            {
                "a": ExceptionGroup("uploads", [OSError("no\nroute"), ExceptionGroup("more", [ValueError()])]),
                "b": KeyError("k"),
            },
            (
                "a: ExceptionGroup: uploads (2 sub-exceptions) [OSError: no route; "
                "ExceptionGroup: more (1 sub-exception) [ValueError]]; b: KeyError: 'k'"
            ),
        ),
        ({"a": BaseExceptionGroup("", [GeneratorExit()])}, "a: BaseExceptionGroup: (1 sub-exception) [GeneratorExit]"),
        (
            {"a": StoreError("put", HELLO, {"b": OSError("no disk")})},
            "a: StoreError: put of 2cf24dba5fb0 failed: b: OSError: no disk",
        ),
        ({"a": UnshowableError()}, "a: UnshowableError: <str raised RuntimeError>"),
    ],
)
def test_failures_take_one_line(failures: dict[str, BaseException], text: str) -> None:
    assert describe_failures(failures) == text
    assert str(StoreError("get", OTHER, failures)) == f"get of d9298a10d1b0 failed: {text}"
    assert str(StoreError("put_many", None, failures)) == f"put_many failed: {text}"
    assert str(PoisonedError(failures)) == f"the replica is poisoned: {text}"


def test_store_error_of_one_failure() -> None:
    failure = OSError("no disk")
    error = StoreError("put", HELLO, {"a": failure})
    assert (error.operation, error.ref, dict(error.failures)) == ("put", HELLO, {"a": failure})
    assert error.__cause__ is failure


def test_store_error_of_several_failures() -> None:
    failures = {"a": OSError("no disk"), "b": ValueError()}
    error = StoreError("list_page", None, failures)
    assert error.ref is None
    assert isinstance(error.__cause__, ExceptionGroup)
    assert error.__cause__.message == "several stores failed"
    assert error.__cause__.exceptions == tuple(failures.values())


def test_store_error_of_what_is_no_exception() -> None:
    error = StoreError("get", HELLO, {"a": GeneratorExit(), "b": ValueError()})
    assert type(error.__cause__) is BaseExceptionGroup


def test_poisoned_error() -> None:
    failures = {"b": OSError("no route"), "a": ValueError()}
    error = PoisonedError(failures, {"a": (HELLO, OTHER), "b": (OTHER,), "c": ()})
    assert dict(error.failures) == failures
    assert error.store == "b"
    assert error.__cause__ is failures["b"]
    assert dict(error.unreplicated) == {"a": (HELLO, OTHER), "b": (OTHER,)}
    assert str(error).endswith("ValueError; a lacks 2 accepted; b lacks 1 accepted")
    (note,) = error.__notes__
    assert "open the replica again. With an outbox it then delivers" in note


def test_what_an_error_says_does_not_change() -> None:
    failures: dict[str, BaseException] = {"a": OSError()}
    unreplicated = {"a": (HELLO,)}
    of_store, of_replica = StoreError("put", HELLO, failures), PoisonedError(failures, unreplicated)
    failures["b"] = ValueError()
    unreplicated["b"] = (OTHER,)
    for error in (of_store, of_replica):
        assert list(error.failures) == ["a"]
        with pytest.raises(TypeError):
            error.failures["c"] = ValueError()  # type: ignore[index]
    assert of_replica.unreplicated == {"a": (HELLO,)}


# Pickles and copies

ERRORS = [
    ReplicaError(),
    ReplicaError("one", 2, (HELLO,)),
    BlobNotFoundError(HELLO),
    CorruptBlobError(HELLO, OTHER),
    StoreError("put", HELLO, {"a": OSError(28, "No space left on device", "/data")}),
    StoreError("list_page", None, {"a": OSError("x"), "b": CorruptBlobError(HELLO, OTHER)}),
    PoisonedError({"b": OSError("x"), "a": BlobNotFoundError(HELLO)}, {"a": (HELLO, OTHER)}),
    PoisonedError({"b": StoreError("put_many", None, {"c": ValueError(1)})}),
]


@pytest.mark.parametrize("through", each_way())
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives(error: ReplicaError, through: Callable[[ReplicaError], Any]) -> None:
    again = through(error)
    assert again is not error
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert attributes(again) == attributes(error)
    assert repr(again.__cause__) == repr(error.__cause__)


@pytest.mark.parametrize("through", each_way())
@pytest.mark.parametrize(
    "error", [BlobNotFoundError(HELLO), PoisonedError({"a": OSError()})], ids=["none before", "one before"]
)
def test_notes_survive(error: ReplicaError, through: Callable[[ReplicaError], Any]) -> None:
    error = copy.copy(error)
    error.add_note("seen on Monday")
    again = through(error)
    assert again.__notes__ == error.__notes__
    again.add_note("and on Tuesday")
    assert error.__notes__[-1] == "seen on Monday"


@pytest.mark.parametrize("through", each_way())
def test_notes_and_causes_of_a_failure_survive(through: Callable[[ReplicaError], Any]) -> None:
    failure = PoisonedError({"far": OSError("x")}, {"far": (HELLO,)})
    failure.add_note("seen on Monday")
    again = through(StoreError("put", HELLO, {"a": failure}))
    assert again.failures["a"].__notes__ == failure.__notes__
    assert again.__cause__ is again.failures["a"]
    assert repr(again.__cause__.__cause__) == "OSError('x')"


@pytest.mark.parametrize("through", each_way())
def test_poisoned_error_has_its_note_once(through: Callable[[ReplicaError], Any]) -> None:
    assert len(through(through(PoisonedError({"a": OSError()}))).__notes__) == 1


UNPICKLABLE: dict[str, BaseException] = {
    "a lambda in its arguments": ValueError(lambda: None),
    "a constructor that wants more": NeedsTwoError(503, "slow down"),
    "in a group": ExceptionGroup("uploads", [OSError("x"), NeedsTwoError(503, "slow down")]),
    "deep in a group": ExceptionGroup("uploads", [ExceptionGroup("more", [ValueError(lambda: None)])]),
}


@pytest.mark.parametrize("through", [way for way in each_way() if way.id != "copy"])
@pytest.mark.parametrize("failure", UNPICKLABLE.values(), ids=UNPICKLABLE.keys())
def test_a_failure_that_cannot_be_pickled_becomes_its_repr(
    failure: BaseException, through: Callable[[ReplicaError], Any]
) -> None:
    for error in (
        StoreError("put", HELLO, {"bad": failure, "good": OSError(5, "x")}),
        PoisonedError({"bad": failure, "good": OSError(5, "x")}),
    ):
        again = through(error)
        assert type(again) is type(error)
        assert type(again.failures["bad"]) is ReplicaError
        assert str(again.failures["bad"]) == repr(failure)
        assert repr(again.failures["good"]) == repr(OSError(5, "x"))
        assert type(again.__cause__) is type(error.__cause__) or again.__cause__ is again.failures["bad"]


def test_what_cannot_be_pickled_within_a_failure_becomes_its_repr() -> None:
    failure = UNPICKLABLE["a lambda in its arguments"]
    again = pickled(StoreError("put", HELLO, {"a": PoisonedError({"b": failure}, {"b": (OTHER,)})}))
    assert type(again.failures["a"]) is PoisonedError
    assert again.failures["a"].unreplicated == {"b": (OTHER,)}
    assert str(again.failures["a"].failures["b"]) == repr(failure)


def test_a_failure_without_a_repr_can_be_pickled() -> None:
    error = UnshowableError(lambda: None)
    assert str(pickled(StoreError("put", HELLO, {"a": error})).failures["a"]) == "<repr raised RuntimeError>"


def test_a_failure_that_cannot_be_pickled_keeps_its_notes() -> None:
    failure = NeedsTwoError(503, "slow down")
    failure.add_note("seen on Monday")
    assert pickled(StoreError("put", HELLO, {"a": failure})).failures["a"].__notes__ == ["seen on Monday"]


def test_copy_keeps_the_very_failures() -> None:
    failure = UNPICKLABLE["a lambda in its arguments"]
    assert copy.copy(StoreError("put", HELLO, {"a": failure})).failures["a"] is failure


# Failures, cancellations and exits


def test_a_bare_failure() -> None:
    failure = OSError()
    assert split_failure(failure) == (failure, None)


def test_a_group_is_a_failure_as_it_is() -> None:
    group = ExceptionGroup("uploads", [OSError(), ExceptionGroup("more", [ValueError()])])
    failure, cancellation = split_failure(group)
    assert repr(failure) == repr(group)
    assert cancellation is None


def test_what_is_no_exception_is_a_failure() -> None:
    failure = GeneratorExit()
    assert split_failure(failure) == (failure, None)


def split_in_task(raised: BaseException, *, is_cancelled: bool) -> tuple[BaseException | None, trio.Cancelled | None]:
    async def main() -> tuple[BaseException | None, trio.Cancelled | None]:
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(deadline=-math.inf if is_cancelled else 60):  # noqa: ASYNC100  (only looked at)
            split = split_failure(raised)
        return split

    return trio.run(main, clock=trio.testing.MockClock())


def test_a_bare_cancellation() -> None:
    cancellation = cancelled()
    assert split_in_task(cancellation, is_cancelled=True) == (None, cancellation)


def test_a_cancellation_in_groups() -> None:
    cancellation = cancelled()
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [cancellation, cancelled()])])
    assert split_in_task(group, is_cancelled=True) == (None, cancellation)


def test_a_cancellation_of_another_task_is_a_failure() -> None:
    for raised in (cancelled(), BaseExceptionGroup("", [cancelled(), OSError()])):
        failure, cancellation = split_in_task(raised, is_cancelled=False)
        assert type(failure) is ReplicaError
        assert str(failure) == "the store raised a Cancelled that was not meant for its caller"
        assert failure.__cause__ is raised
        assert cancellation is None


def test_a_failure_and_a_cancellation() -> None:
    cancellation, failure = cancelled(), OSError()
    group = BaseExceptionGroup("all", [failure, BaseExceptionGroup("deep", [cancellation, ValueError()])])
    rest, found = split_in_task(group, is_cancelled=True)
    assert found is cancellation
    assert repr(rest) == "ExceptionGroup('all', [OSError(), ExceptionGroup('deep', [ValueError()])])"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_exit_is_carried_out_bare(kind: type[BaseException], wrapped: bool) -> None:
    leave = kind()
    deep = BaseExceptionGroup("all", [OSError(), cancelled(), BaseExceptionGroup("deep", [ValueError(), leave])])
    with pytest.raises(kind) as caught:
        split_failure(deep if wrapped else leave)
    assert caught.value is leave
