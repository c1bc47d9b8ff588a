"""Which module may import which: each only from those in the layers above it, and almost nothing from elsewhere."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import trio_replica

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "trio_replica"

LAYERS = [
    ["_query", "_redact", "_urls.kinds", "_urls.toml_lines"],
    ["_blob"],
    ["_errors", "_log"],
    ["_calls"],
    ["_calls.attempt", "_calls.hedges", "_calls.start"],
    ["_calls.fan_out", "_calls.operation"],
    ["_calls.operations"],
    ["_life"],
    ["_store"],
    ["_checks", "_deletable"],
    ["_options", "_public", "_scheme"],
    ["_sync", "_async", "_upkeep", "_urls"],
    ["_sync.union"],
    ["_statistics", "_upkeep.scrub_report"],
    ["_calls.threads"],
    ["_async.storage"],
    ["_async.outbox_file"],
    ["stores"],  # the package itself, which is empty
    ["stores._directory", "stores._object_store", "stores._postgres", "stores._sqlite"],
    ["stores._files"],
    ["stores._object_store.errors", "stores._object_store.place", "stores._object_store.url"],
    ["stores._object_store.objects"],
    ["stores._reads", "stores._started"],
    [
        "stores._directory.blob_files",
        "stores._postgres.statements",
        "stores._sqlite.check",
        "stores._sqlite.statements",
    ],
    ["stores._postgres.conninfo", "stores._postgres.errors", "stores._postgres.place", "stores._postgres.table"],
    ["stores._postgres.session"],
    ["stores._postgres.database", "stores._sqlite.database"],
    ["stores.directory", "stores.memory", "stores.object_store", "stores.postgres", "stores.sqlite"],
    ["stores.retrying"],
    ["_async.backlog", "_async.queue"],
    ["_sync.member"],
    ["_sync.readers"],
    ["_sync.repairs", "_sync.sync_stores"],
    ["_sync.fallback"],
    ["_async.outbox"],
    ["_async.relay"],
    ["_async.delivery"],
    ["_replica", "_upkeep.reconcile"],
    ["_open"],
    ["_upkeep.scrub"],
    ["_urls.registry", "_urls.store_options"],
    ["_urls.store_url"],
    ["_urls.parse", "_urls.places"],
    ["_urls.opening"],
    ["config"],
    [""],  # the public interface
    ["testing._contract_parts", "testing._simulated"],
    ["testing._contract_deletable"],
    ["testing._contract"],
    ["testing"],
    ["cli.output", "cli.refs", "cli.running"],
    ["cli.files"],
    ["cli.stores"],
    ["cli.check", "cli.get", "cli.init", "cli.ls", "cli.outbox", "cli.put", "cli.reconcile", "cli.scrub"],
    ["cli.status"],
    ["cli.commands"],
    ["cli"],
    ["__main__"],
]
"""All modules, by their names within the package. One imports only from the layers above its own."""

PLACES = {name: place for place, layer in enumerate(LAYERS) for name in layer}

KNOW_STORES = {"_urls.opening", "_urls.store_url", "", "cli.stores"}
"""The modules that know concrete stores. All others would do with the stores of anybody."""

EVERYWHERE = {"trio", "outcome", *sys.stdlib_module_names}
COMMAND_LINE = {"click", "rich"}
POSTGRES = {"psycopg"}
CLOUD = {"obstore"}
RETRY = {"tenacity"}


class Import(NamedTuple):
    """What one statement imports: a module of the package, by its name within it, or another, by its full name."""

    module: str
    ours: bool
    place: str
    """Where the statement stands: at the ``top`` of the module, in a ``function``, or for ``type checking`` only."""


def sources() -> dict[str, str]:
    """Return the source of each module of the package, by its name within it."""
    root = Path(trio_replica.__file__).parent
    return {
        ".".join(path.relative_to(root).with_suffix("").parts)
        .removesuffix("__init__")
        .removesuffix("."): path.read_text()
        for path in sorted(root.rglob("*.py"))
    }


def imports(name: str, source: str) -> list[Import]:
    return list(_imports(name, ast.parse(source), "top"))


def _imports(name: str, node: ast.AST, place: str) -> Iterator[Import]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        place = "function"
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        place = "type checking"
    elif isinstance(node, ast.Import):
        yield from (_resolved(alias.name, place) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = _origin(name, node)
        for alias in node.names:
            inner = _resolved(f"{origin}.{alias.name}", place)
            yield inner if inner.ours and inner.module in PLACES else _resolved(origin, place)
    for child in ast.iter_child_nodes(node):
        yield from _imports(name, child, place)


def _origin(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(place.startswith(f"{name}.") for place in PLACES) or not name
    parts = [PACKAGE, *filter(None, name.split(".")), *(["__init__"] if is_package else [])]
    return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])


def _resolved(module: str, place: str) -> Import:
    first, _, rest = module.partition(".")
    return Import(rest, True, place) if first == PACKAGE else Import(module, False, place)


def complaints(name: str, source: str) -> list[str]:
    """Return what is wrong with the imports of a module."""
    return [complaint for found in imports(name, source) if (complaint := _complaint(name, found))]


def _complaint(name: str, found: Import) -> str | None:
    if found.ours:
        if found.module not in PLACES:
            return f"imports {found.module}, which has no place"
        if PLACES[found.module] >= PLACES[name]:
            return f"imports {found.module}, which is not above it"
        if found.module.startswith("stores") and not name.startswith("stores.") and name not in KNOW_STORES:
            return f"imports {found.module}, but is to know no concrete store"
        return None
    top_level = found.module.partition(".")[0]
    is_command_line = name == "__main__" or name.startswith("cli.")
    if (
        top_level in EVERYWHERE
        or (top_level in COMMAND_LINE and is_command_line)
        or (top_level in CLOUD and name == "stores._object_store.objects")
        or (top_level in RETRY and name == "stores.retrying" and found.place != "top")
        or (top_level in POSTGRES and name.startswith("stores._postgres"))
        or (top_level == "pytest" and name.startswith("testing") and found.place == "function")
        or (top_level == "typing_extensions" and found.place == "type checking")  # every type checker has it
    ):
        return None
    return f"imports {found.module} ({found.place})"


def test_every_module_has_a_place() -> None:
    assert sources().keys() == PLACES.keys()


@pytest.mark.parametrize("name", [pytest.param(name, id=name or PACKAGE) for name in sources()])
def test_a_module_imports_only_from_those_above_it(name: str) -> None:
    assert complaints(name, sources()[name]) == []


def test_the_imports_of_a_module_are_found() -> None:
    source = """
import os.path, trio.lowlevel as lowlevel
from .. import _blob
from .._errors import ReplicaError, StoreError
from ._files import sync
import trio_replica.cli
from trio_replica import testing, Ref
if TYPE_CHECKING:
    from collections.abc import Iterator
class Store:
    def put(self):
        async def inner():
            import pytest
"""
    assert imports("stores.memory", source) == [
        Import("os.path", False, "top"),
        Import("trio.lowlevel", False, "top"),
        Import("_blob", True, "top"),
        Import("_errors", True, "top"),
        Import("_errors", True, "top"),
        Import("stores._files", True, "top"),
        Import("cli", True, "top"),
        Import("testing", True, "top"),
        Import("", True, "top"),
        Import("collections.abc", False, "type checking"),
        Import("pytest", False, "function"),
    ]
    assert imports("testing", "from ._contract import StoreContract") == [Import("testing._contract", True, "top")]
    assert imports("", "from . import cli") == [Import("cli", True, "top")]


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("_blob", "from ._errors import ReplicaError", "imports _errors, which is not above it"),
        ("_errors", "if TYPE_CHECKING:\n    from ._store import Store", "imports _store, which is not above it"),
        ("_sync.union", "def f():\n    from .._async import queue", "imports _async.queue, which is not above it"),
        ("stores.memory", "from .sqlite import open_sqlite", "imports stores.sqlite, which is not above it"),
        ("_sync.union", "from .union import union", "imports _sync.union, which is not above it"),
        ("_replica", "import trio_replica", "imports , which is not above it"),
        (
            "_replica",
            "from .stores.memory import MemoryStore",
            "imports stores.memory, but is to know no concrete store",
        ),
        ("_async.queue", "from ..stores._files import sync", "imports stores._files, but is to know no concrete store"),
        ("_urls.opening", "from ..config import open_config", "imports config, which is not above it"),
        ("_urls.opening", "from ..configuration import open_config", "imports configuration, which has no place"),
        ("_store", "import numpy.linalg", "imports numpy.linalg (top)"),
        ("_store", "from click import echo", "imports click (top)"),
        ("stores.postgres", "import psycopg", "imports psycopg (top)"),
        ("stores.object_store", "import obstore", "imports obstore (top)"),
        ("stores.retrying", "import tenacity", "imports tenacity (top)"),
        ("testing._contract", "import pytest", "imports pytest (top)"),
        ("_store", "def f():\n    import pytest", "imports pytest (function)"),
        ("_store", "from typing_extensions import Self", "imports typing_extensions (top)"),
    ],
)
def test_what_is_not_allowed_is_found(name: str, source: str, complaint: str) -> None:
    assert complaints(name, source) == [complaint]
