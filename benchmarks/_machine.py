"""The facts of the machine and the versions, which say what a figure is worth."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib import metadata
from statistics import median
from tempfile import NamedTemporaryFile
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES: Final = (
    "trio-replica",
    "trio",
    "outcome",
    "obstore",
    "psycopg",
    "boto3",
    "disk-objectstore",
    "diskcache",
    "hashfs",
    "lmdb",
)

VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
"""File systems in memory, on which an fsync does nothing."""


def facts(folder: Path) -> dict[str, Any]:
    """Return what figures of stores in `folder` depend on."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory in GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file system": file_system(folder),
        "fsync in ms": round(fsync_seconds(folder) * 1000, 3),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{name: _version(name) for name in PACKAGES},
    }


def file_system(folder: Path) -> str:
    """Return the type of the file system that `folder` is on."""
    found = ("", "unknown")
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, place, kind, *_ = line.split()
            inside = f"{folder.resolve()}/".startswith(f"{place.rstrip('/')}/")
            if inside and len(place) >= len(found[0]):
                found = (place, kind)
    return found[1]


def fsync_seconds(folder: Path, times: int = 50) -> float:
    """Return the median seconds of an fsync after 4 KiB were appended to a file in `folder`."""
    seconds = []
    with NamedTemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            file.write(os.urandom(4096))
            began = perf_counter()
            os.fsync(file.fileno())
            seconds.append(perf_counter() - began)
    return median(seconds)


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
