"""The public interface: every name says where it is imported from, and its annotations can be looked up at run time."""

from __future__ import annotations

import copy
import inspect
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

import trio_replica
import trio_replica.testing
from trio_replica import (
    Blob,
    BlobNotFoundError,
    BlobTooLargeError,
    BytesLike,
    ConfigError,
    CorruptBlobError,
    NoQueueSizeError,
    PoisonedError,
    PutResult,
    Ref,
    ReplicaError,
    ReplicaStatistics,
    ReplicaStore,
    Store,
    StoreError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

REF = Ref.of(b"hello")

OPENED = {"ReplicaStore", "DirectoryStore", "SqliteStore", "ObjectStore", "PostgresStore"}
"""The classes that functions make: their constructors are not public."""


ALIASES = {"BytesLike"}
"""Types of other modules, which have another name there."""


def classes_and_functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the public classes, functions and methods of a module, with their names; also inherited methods."""
    for name in module.__all__:
        thing = None if name in ALIASES else getattr(module, name)
        if inspect.isclass(thing):
            yield name, thing
            for attribute, value in inspect.getmembers_static(thing):
                function = function_of(value)
                if function and is_ours(function) and is_public(name, attribute):
                    yield f"{name}.{attribute}", function
        elif inspect.isfunction(thing):
            yield name, thing


def function_of(value: Any) -> Any:
    """Return the function that an attribute of a class is made of; None if it is of none."""
    parts = (value, getattr(value, "__func__", None), getattr(value, "fget", None))
    return next((part for part in parts if inspect.isfunction(part)), None)


def is_ours(function: Any) -> bool:
    """Return whether the code of a function is this package's, whatever its `__module__` says."""
    return code_of(function).partition(".")[0] == "trio_replica"


def code_of(function: Any) -> str:
    """Return the name of the module that the code of a function is in."""
    return str(inspect.unwrap(function).__globals__["__name__"])


def is_public(kind: str, attribute: str) -> bool:
    return not attribute.startswith("_") or (attribute in {"__init__", "__new__"} and kind not in OPENED)


PUBLIC = [
    pytest.param(module.__name__, name, thing, id=f"{module.__name__}.{name}")
    for module in (trio_replica, trio_replica.testing)
    for name, thing in classes_and_functions(module)
    if module is trio_replica or name.partition(".")[0] not in trio_replica.__all__
]


def test_the_walk_finds_what_there_is() -> None:
    names = {parameter.values[1] for parameter in PUBLIC}
    assert {"Ref", "Ref.of", "Ref.__new__", "Blob.ref", "open", "ReplicaStore.put", "StoreContract"} <= names
    assert {"MemoryStore.contains", "RetryingDeletableStore.get_many", "PoisonedError.__init__"} <= names
    assert {"StoreContract.open_store", "StoreContract.test_delete"} <= names
    assert len(PUBLIC) > 300


@pytest.mark.parametrize(("package", "name", "thing"), PUBLIC)
def test_it_says_where_it_is_imported_from(package: str, name: str, thing: Any) -> None:
    if "." in name and not name.startswith(tuple(trio_replica.testing.__all__)):
        assert thing.__module__ == "trio_replica"
    elif "." in name:  # some are inherited from a class of trio_replica
        assert thing.__module__ == ("trio_replica.testing" if ".testing." in code_of(thing) else "trio_replica")
    if "." not in name:
        assert (thing.__module__, thing.__qualname__, thing.__name__) == (package, name, name)


@pytest.mark.parametrize(("package", "name", "thing"), PUBLIC)
def test_its_annotations_can_be_looked_up(package: str, name: str, thing: Any) -> None:
    hints = get_type_hints(thing)
    assert not any(isinstance(hint, str) for hint in hints.values())


def test_what_annotations_say() -> None:
    assert get_type_hints(Store.put) == {"blob": Blob | BytesLike, "return": PutResult}
    assert get_type_hints(PutResult) == {"ref": Ref, "added": bool}
    sync = get_type_hints(ReplicaStatistics)["sync_stores"]
    assert sync == Mapping[str, trio_replica.SyncStoreStatistics]
    hints = get_type_hints(trio_replica.open)
    assert hints["return"] == AbstractAsyncContextManager[ReplicaStore]
    assert hints["sync_stores"] == Iterable[Store] | Mapping[str, Store]


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_what_is_bytes_like(data: object) -> None:
    assert isinstance(data, BytesLike)
    assert not isinstance("x", BytesLike)


ERRORS: list[ReplicaError] = [
    ReplicaError("x"),
    BlobNotFoundError(REF),
    CorruptBlobError(REF, REF),
    StoreError("put", REF, {"a": OSError("x"), "b": ReplicaError("y")}),
    PoisonedError({"a": OSError("x")}, {"a": (REF,)}),
    ConfigError("a.toml", 5, "x"),
    NoQueueSizeError("x", "y"),
    StoreNotFoundError("/disk"),
    StoreIdentityError("/disk", "a" * 32, None),
    StoreIdentityError("/disk", "a" * 32, "b" * 32, "mount it"),
    StoreReadOnlyError("/disk"),
    BlobTooLargeError("/disk", 2, 1),
]


def test_every_error_is_here() -> None:
    kinds = [thing for name in trio_replica.__all__ if isinstance(thing := getattr(trio_replica, name), type)]
    assert {type(error) for error in ERRORS} == {kind for kind in kinds if issubclass(kind, ReplicaError)}


@pytest.mark.parametrize(
    "thing", [*ERRORS, REF, Blob(b"x"), PutResult(REF, added=True)], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_names_what_is_public(thing: object, protocol: int) -> None:
    if isinstance(thing, ReplicaError):
        thing = copy.copy(thing)
        thing.add_note("seen on Monday")
    data = pickle.dumps(thing, protocol)
    named = {str(part) for _, part, _ in pickletools.genops(data) if str(part).startswith("trio_replica")}
    assert named
    assert {name.split()[0] for name in named} == {"trio_replica"}
    again: Any = pickle.loads(data)
    assert type(again) is type(thing)
    if isinstance(thing, ReplicaError):
        assert (str(again), vars(again)["__notes__"]) == (str(thing), vars(thing)["__notes__"])


def test_a_traceback_names_what_is_public() -> None:
    code = "import trio_replica; raise trio_replica.ReplicaError('x')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert ended.stderr.endswith("\ntrio_replica.ReplicaError: x\n")


def test_what_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, trio_replica; print(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    modules = set(ended.stdout.split())
    assert "trio_replica" in modules
    assert not modules & {"click", "rich", "obstore", "psycopg", "numpy", "tenacity", "importlib.metadata", "pytest"}
    assert not {name for name in modules if name.startswith("trio_replica.") and "cli" in name}
