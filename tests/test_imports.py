"""Rules for every module: its imports, its length, and its entry in the documentation."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from .layers import PAGE, PLACES, parsed, sources, with_table

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "trio_replica"

KNOW_STORES = {"_urls.opening", "_urls.store_url", "", "cli.stores"}
"""The modules that know concrete stores. All others would do with the stores of anybody."""

EVERYWHERE = {"trio", "outcome", *sys.stdlib_module_names}
COMMAND_LINE = {"click", "rich"}
POSTGRES = {"psycopg"}
CLOUD = {"botocore", "httpcore", "obstore"}
ADVICE = {"numpy"}


LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
"""Lines, those of a docstring not counted: it is read elsewhere."""


class Import(NamedTuple):
    """One imported module: one of the package, by its name within it, or another, by its full name."""

    module: str
    ours: bool
    place: str
    """Where the statement stands: at the ``top`` of the module, in a ``function``, or for ``type checking`` only."""


def imports(name: str, source: str) -> list[Import]:
    return list(_imports(name, parsed(source), "top"))


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
        or (top_level in CLOUD and name.startswith("stores._object_store."))
        or (top_level in ADVICE and name.startswith("_advice."))
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
        ("stores.retrying", "def f():\n    import tenacity", "imports tenacity (function)"),
        ("testing._contract", "import pytest", "imports pytest (top)"),
        ("_store", "def f():\n    import pytest", "imports pytest (function)"),
        ("_store", "from typing_extensions import Self", "imports typing_extensions (top)"),
    ],
)
def test_what_is_not_allowed_is_found(name: str, source: str, complaint: str) -> None:
    assert complaints(name, source) == [complaint]


def test_the_table_in_the_documentation_is_that_of_the_modules() -> None:
    assert PAGE.read_text() == with_table(PAGE.read_text()), "python -m tests.layers writes it again"


def test_every_module_says_what_it_is() -> None:
    for name, source in sources().items():
        said = ast.get_docstring(parsed(source)) or ""
        assert said.partition("\n")[0].endswith("."), name


def package_of(module: str) -> str:
    """Return the package at the top that a module is in; empty for one that is in none."""
    package, dot, _ = module.partition(".")
    return package if dot else ""


def package_imports(modules: dict[str, str]) -> set[tuple[str, str]]:
    """Return which package imports which other."""
    pairs = {
        (package_of(name), package_of(found.module))
        for name, source in modules.items()
        for found in imports(name, source)
        if found.ours
    }
    return {(one, other) for one, other in pairs if one and other and one != other}


def test_no_package_imports_another_in_both_directions() -> None:
    pairs = package_imports(sources())
    assert ("_urls", "stores") in pairs
    assert {(one, other) for one, other in pairs if (other, one) in pairs} == set()


def test_packages_that_import_each_other_are_found() -> None:
    modules = {
        "_sync.union": "from .._async import queue",
        "_async.queue": "if TYPE_CHECKING:\n    from .._sync import union",
    }
    assert package_imports(modules) == {("_sync", "_async"), ("_async", "_sync")}


def too_long(name: str, source: str) -> list[str]:
    """Return the module, and those of its functions, that are too long to be read in one sitting."""
    found = [name] if source.count("\n") > LONGEST_MODULE else []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            docstring = (node.body[0].end_lineno or 0) - node.body[0].lineno + 1 if has_docstring else 0
            if (node.end_lineno or 0) - node.lineno + 1 - docstring > LONGEST_FUNCTION:
                found.append(f"{name}.{node.name}")
    return found


def test_every_module_and_function_can_be_read_in_one_sitting() -> None:
    assert {one for name, source in sources().items() for one in too_long(name, source)} == set()


def test_what_is_too_long_is_found() -> None:
    body = "    x = 1\n"
    assert too_long("a", "x = 1\n" * 400) == []
    assert too_long("a", "x = 1\n" * 401) == ["a"]
    assert too_long("a", "def f():\n" + body * 59) == []
    assert too_long("a", "class A:\n    async def f():\n" + f"    {body}" * 60) == ["a.f"]
    assert too_long("a", 'def f():\n    """Do.\n\n    So.\n    """\n' + body * 59) == []
