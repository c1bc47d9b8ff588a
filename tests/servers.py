"""The real servers and programs that some tests need, and what becomes of a run of the tests where one is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from . import ceph_server, mounts, postgres_server
from .powercut import recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

SERVERS: Final[Mapping[str, Callable[[], str | None]]] = {
    "ceph": ceph_server.missing,
    "mounts": mounts.missing,
    "postgres": postgres_server.missing,
    "strace": recording.missing,
}
"""Functions that return why there can be no server, or None if there can, by the marker of the tests that need it."""


def missing_servers() -> dict[str, str]:
    """Return why there can be no such server, by the marker of the tests that need it."""
    return {marker: reason for marker, missing in SERVERS.items() if (reason := missing()) is not None}


def skip_tests(items: Iterable[pytest.Item], missing: Mapping[str, str]) -> None:
    """Skip the tests that need a server that is missing."""
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def mark_deep(items: Iterable[pytest.Item]) -> None:
    """Mark the tests as deep that need a server, and those that a class inherits and names in its set ``DEEP``."""
    for item in items:
        named: AbstractSet[str] = getattr(getattr(item, "cls", None), "DEEP", frozenset())
        if item.name in named or any(item.get_closest_marker(marker) is not None for marker in SERVERS):
            item.add_marker(pytest.mark.deep)


def ask_for_no_coverage(config: pytest.Config, missing: Mapping[str, str]) -> None:
    """Have the coverage measured, but not asserted, where a server is missing: some code only its tests reach."""
    coverage: Any = config.pluginmanager.getplugin("_cov")  # pytest-cov, which has options of its own by now
    if missing and coverage is not None:
        coverage.options.cov_fail_under = 0


def describe(missing: Mapping[str, str]) -> list[str]:
    """Return lines that say what is skipped, and why, and what that means."""
    lines = [f"tests marked {marker} are skipped: {reason}" for marker, reason in missing.items()]
    return [*lines, "so the coverage is not asserted"] if lines else []
