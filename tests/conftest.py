"""The fixtures that more than one file of tests uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from .servers import ask_for_no_coverage, describe, missing_servers, skip_tests

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

MISSING: Final = missing_servers()

# NumPy's threads, which it starts when it is imported, wait for each other longer than its small matrices take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Assert the coverage only where all tests can run."""
    if config.option.no_cov:  # pragma: no cover  (for then it is not measured)
        config.pluginmanager.unregister(name="_cov")  # which would fail at every test that is marked no_cover
    else:
        ask_for_no_coverage(config, MISSING)


def pytest_report_header() -> list[str]:
    """Say what is skipped, and why."""
    return describe(MISSING)


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Skip the tests that need a server that is missing."""
    skip_tests(items, MISSING)
