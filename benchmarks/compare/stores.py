"""The stores beside each other, and beside plain files and databases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from . import by_hand, servers, workloads
from .rounds import Comparison, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def comparisons(callers: Sequence[int], sizes: Sequence[str]) -> Iterator[Comparison]:
    """Return the comparisons: first those with a figure that the library promises, then all the rest."""
    missing = servers.missing()
    yield from _promised()
    if "ceph" not in missing:
        yield promised_of_ceph()
    if "postgres" not in missing:
        yield promised_of_postgres()
    for size in sizes:
        for number in callers:
            yield _puts(number, size)
            yield _gets(number, size)
    if not missing:
        for number in callers:
            yield _on_servers("put", number)
            yield _on_servers("get", number)


def _promised() -> Iterator[Comparison]:
    size = workloads.SIZES["4 KiB"]
    yield Comparison(
        "promised",
        "SQLite put, 4 KiB, 64 callers, durable",
        "blobs/s",
        [
            Variant("one transaction a put", by_hand.puts_into_sqlite(1, 64, size)),
            Variant("SQLite store", workloads.puts(workloads.sqlite, 64, size), at_least=4),
        ],
    )
    yield Comparison(
        "promised",
        "SQLite get, 4 KiB, 64 callers",
        "blobs/s",
        [
            Variant("to_thread, 4 connections", by_hand.gets_from_sqlite(4, 64, size)),
            Variant("SQLite store", workloads.gets(workloads.sqlite, 64, size), at_least=6),
        ],
    )
    yield Comparison(
        "promised",
        "directory put, 4 KiB, durable",
        "blobs/s",
        [
            Variant("plain files, the same fsyncs, 1 caller", by_hand.puts_into_files(size, durable=True)),
            Variant("directory store, 64 callers", workloads.puts(workloads.directory, 64, size), at_least=2.5),
        ],
    )


def promised_of_ceph() -> Comparison:
    """Return the comparison with a promise that takes a Ceph."""
    ceph, size = servers.Ceph(), workloads.SIZES["4 KiB"]
    return Comparison(
        "promised",
        "Ceph's S3 gateway, put, 4 KiB, 16 callers",
        "blobs/s",
        [
            Variant("boto3, 16 threads", by_hand.puts_with_boto3(ceph, 16, size)),
            Variant("object store", workloads.puts(ceph.open_store, 16, size), at_least=2),
        ],
        within=ceph.running,
    )


def promised_of_postgres() -> Comparison:
    """Return the comparison with a promise that takes a PostgreSQL."""
    postgres, size = servers.Postgres(), workloads.SIZES["4 KiB"]
    return Comparison(
        "promised",
        "PostgreSQL put of many, 4 KiB, 1 caller",
        "blobs/s",
        [
            Variant("put", workloads.puts(postgres.open_store, 1, size)),
            Variant("put_many of 1000", workloads.puts_of_many(postgres.open_store, 1000, size), at_least=5),
        ],
        within=postgres.running,
    )


def _on_servers(operation: str, callers: int) -> Comparison:
    """Compare stores on servers, which run on the same processors as the callers, with a database in a file."""
    ceph, postgres = servers.Ceph(), servers.Postgres()
    work, size = {"put": workloads.puts, "get": workloads.gets}[operation], workloads.SIZES["4 KiB"]
    return Comparison(
        f"servers' {operation}",
        f"4 KiB, {callers} callers",
        "blobs/s",
        [
            Variant("sqlite", work(workloads.sqlite, callers, size)),
            Variant("PostgreSQL", work(postgres.open_store, callers, size)),
            Variant("Ceph's S3 gateway", work(ceph.open_store, callers, size)),
        ],
        within=partial(servers.both, ceph, postgres),
    )


def _puts(callers: int, size: str) -> Comparison:
    length = workloads.SIZES[size]
    directory, sqlite = partial(workloads.directory, durable=False), partial(workloads.sqlite, durable=False)
    return Comparison(
        "put",
        f"{size}, {callers} callers",
        "blobs/s",
        [
            Variant("plain files, fsync", by_hand.puts_into_files(length, durable=True), note="durable (1 caller)"),
            Variant("plain files", by_hand.puts_into_files(length, durable=False), note="1 caller"),
            Variant("memory", workloads.puts(workloads.memory, callers, length), note="ends with the process"),
            Variant("directory", workloads.puts(workloads.directory, callers, length), note="durable"),
            Variant("directory, durable=False", workloads.puts(directory, callers, length)),
            Variant("sqlite", workloads.puts(workloads.sqlite, callers, length), note="durable"),
            Variant("sqlite, durable=False", workloads.puts(sqlite, callers, length)),
            Variant("one transaction a put", by_hand.puts_into_sqlite(1, callers, length), note="durable"),
        ],
        notes="what is promised",
    )


def _gets(callers: int, size: str) -> Comparison:
    length = workloads.SIZES[size]
    return Comparison(
        "get",
        f"{size}, {callers} callers",
        "blobs/s",
        [
            Variant("to_thread, 4 connections", by_hand.gets_from_sqlite(4, callers, length)),
            Variant("memory", workloads.gets(workloads.memory, callers, length)),
            Variant("directory", workloads.gets(workloads.directory, callers, length)),
            Variant("sqlite", workloads.gets(workloads.sqlite, callers, length)),
        ],
    )
