"""The layers of the package: which module may import which, and the table of them in docs/architecture.md.

`python -m tests.layers` writes the table again.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

import trio_replica

LAYERS: Final = [
    ["_parts", "_printable", "_query", "_redact", "_urls.kinds", "_urls.toml_lines"],
    ["_blob"],
    ["_errors"],
    ["_log"],
    ["_frozen", "_sqlite_connection", "_sqlite_files"],
    ["_calls"],
    ["_calls.attempt", "_calls.hedges", "_calls.start"],
    ["_life"],
    ["_calls.fan_out", "_calls.operation"],
    ["_calls.all_ended"],
    ["_listing"],
    ["_store"],
    ["_checks", "_deletable", "_identity"],
    ["_options", "_public", "_scheme"],
    ["_sync", "_async", "_upkeep", "_urls"],
    ["_sync.union"],
    ["_statistics", "_upkeep.contradiction", "_upkeep.listings", "_upkeep.pace"],
    ["_upkeep.reconcile_report", "_upkeep.scrub_report"],
    ["_upkeep.gaps", "_upkeep.scrubbed"],
    ["_upkeep.comparison"],
    ["_calls.threads"],
    ["_async.storage"],
    ["_async.known_stores", "_async.outbox_format"],
    ["_async.outbox_connection"],
    ["_async.outbox_by_hand", "_async.outbox_file"],
    ["stores"],  # the package itself, which is empty
    ["stores._directory", "stores._object_store", "stores._postgres", "stores._retrying", "stores._sqlite"],
    ["stores._access", "stores._files", "stores._retrying.passing"],
    [
        "stores._object_store.errors",
        "stores._object_store.keys",
        "stores._object_store.place",
        "stores._object_store.url",
    ],
    [
        "stores._object_store.client",
        "stores._object_store.ref_page",
        "stores._object_store.s3_account",
        "stores._object_store.s3_answer",
    ],
    [
        "stores._object_store.client_keys",
        "stores._object_store.identity",
        "stores._object_store.listing",
        "stores._object_store.objects",
        "stores._object_store.s3_requests",
    ],
    ["stores._object_store.s3_keys"],
    ["stores._object_store.parts"],
    ["stores._directory.mounts", "stores._directory.names", "stores._directory.stored", "stores._directory.synced"],
    ["stores._reads", "stores._started"],
    ["stores._directory.folders", "stores._directory.leftovers", "stores._directory.marks"],
    ["stores._directory.place"],
    ["stores._directory.reads", "stores._directory.writes"],
    [
        "stores._postgres.check",
        "stores._postgres.statements",
        "stores._sqlite.calls",
        "stores._sqlite.check",
        "stores._sqlite.index",
        "stores._sqlite.statements",
        "stores._sqlite.tables",
    ],
    [
        "stores._postgres.conninfo",
        "stores._postgres.errors",
        "stores._postgres.place",
        "stores._postgres.settings",
        "stores._postgres.table",
        "stores._sqlite.files",
    ],
    ["stores._postgres.identity", "stores._postgres.session", "stores._sqlite.unwritten", "stores._sqlite.writer"],
    ["stores._postgres.known"],
    ["stores._postgres.writes"],
    ["stores._postgres.database", "stores._sqlite.database"],
    ["stores.directory", "stores.memory", "stores.object_store", "stores.postgres", "stores.sqlite"],
    ["stores.retrying"],
    ["_async.backlog", "_async.queue"],
    ["_sync.sync_stores"],
    ["_sync.readers"],
    ["_sync.repairs"],
    ["_sync.fallback"],
    ["_async.outbox"],
    ["_async.relay"],
    ["_async.delivery"],
    ["_replica", "_upkeep.reconcile", "_upkeep.scrub"],
    ["_open"],
    ["_urls.store_options"],
    ["_urls.registry", "_urls.store_url"],
    ["_urls.parse", "_urls.places"],
    ["_urls.opening"],
    ["config"],
    ["_advice"],
    ["_advice.calls"],
    ["_advice.arrivals"],
    ["_advice.levels"],
    ["_advice.disturbances"],
    ["_advice.search"],
    ["_advice.remedies"],
    ["advice"],
    [""],  # the public interface
    ["testing._contract_parts", "testing._lying", "testing._simulated"],
    ["testing._contract_agreement", "testing._contract_deletable", "testing._contract_identity"],
    ["testing._contract"],
    ["testing"],
    ["cli.options", "cli.output", "cli.refs", "cli.running"],
    ["cli.files"],
    ["cli.stores"],
    ["cli.identities"],
    [
        "cli.check",
        "cli.get",
        "cli.identify",
        "cli.init",
        "cli.ls",
        "cli.outbox",
        "cli.put",
        "cli.recommend",
        "cli.scrub",
    ],
    ["cli.reconcile", "cli.status"],
    ["cli.commands"],
    ["cli"],
    ["__main__"],
]
"""All modules, by their names within the package. One imports only from the layers above its own."""

PLACES: Final = {name: place for place, layer in enumerate(LAYERS) for name in layer}

PAGE: Final = Path(__file__).parent.parent / "docs" / "architecture.md"

_BEGIN: Final = "<!-- The table is written by `python -m tests.layers`, from the docstrings. -->\n"
_END: Final = "<!-- end of the table -->\n"


@cache
def parsed(source: str) -> ast.Module:
    """Return the syntax tree of a module, which more than one test looks at."""
    return ast.parse(source)


@cache
def sources() -> dict[str, str]:
    """Return the source of each module of the package, by its name within it."""
    root = Path(trio_replica.__file__).parent
    return {
        ".".join(path.relative_to(root).with_suffix("").parts)
        .removesuffix("__init__")
        .removesuffix("."): path.read_text()
        for path in sorted(root.rglob("*.py"))
    }


def table() -> str:
    """Return the table of the modules, in the order of their layers; of each, the first line of its docstring."""
    source = sources()
    rows = [f"| `{_shown(name)}` | {_idea(source[name])} |\n" for layer in LAYERS for name in layer]
    return "".join(["| module | its one idea |\n", "|---|---|\n", *rows])


def with_table(page: str) -> str:
    """Return a page with the table between its marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin
    assert end
    return f"{before}{begin}{table()}{end}{after}"


def _shown(name: str) -> str:
    is_package = any(other.startswith(f"{name}.") for other in PLACES)
    return f"{name.replace('.', '/')}{'/' if is_package else ''}" or "__init__"


def _idea(source: str) -> str:
    said = ast.get_docstring(parsed(source)) or ""
    return said.partition("\n")[0].removesuffix(".").replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":  # pragma: no cover  (a test compares what this writes)
    PAGE.write_text(with_table(PAGE.read_text()))
