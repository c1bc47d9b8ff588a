"""Settings of all tests, and the fixtures that more than one file of tests uses."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from .common import without_gc
from .mounts import mounts  # noqa: F401  (a fixture of all tests)
from .postgres_fixtures import either, running, server  # noqa: F401  (fixtures)
from .servers import ask_for_no_coverage, describe, mark_deep, missing_servers, skip_tests

if TYPE_CHECKING:
    from collections.abc import Generator

MISSING: Final = missing_servers()

# NumPy's threads, which it starts when it is imported, wait for each other longer than its small matrices take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


settings.register_profile("fast", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("fast"), max_examples=400)


def runs_fast_gear(config: pytest.Config) -> bool:
    """Return whether the deep tests are deselected."""
    return bool(config.option.markexpr.startswith("not deep"))


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of Hypothesis's examples, and assert the coverage only where all tests can run."""
    settings.load_profile(config.option.hypothesis_profile or ("fast" if runs_fast_gear(config) else "deep"))
    ask_for_no_coverage(config, MISSING)
    listen_to_interrupts()


def listen_to_interrupts() -> None:
    """Have Ctrl-C interrupt this process, although a shell that started it in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is skipped, and why."""
    return [] if runs_fast_gear(config) else describe(MISSING)


@pytest.hookimpl(tryfirst=True)  # before the deep ones are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, and skip those whose server is missing."""
    mark_deep(items)
    skip_tests(items, MISSING)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Say how to run what was asked for, if all of it is deep."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and "deselected" in terminalreporter.stats:
        terminalreporter.write_line("all of these tests are deep: -m 'not exhaustive' runs them, too")


@pytest.fixture
def no_gc() -> Generator[None, None, None]:
    """Let nothing that is in a cycle be freed during a test."""
    with without_gc():
        yield


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an outbox that is in use be refused at once."""
    monkeypatch.setattr("trio_replica._async.outbox_connection.LOCK_SECONDS", 0.0)


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Let tests that collect garbage look only at what they make: all that was imported before takes 0.2 s."""
    gc.collect()
    gc.freeze()
