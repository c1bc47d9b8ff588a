"""Runs of the tests where a server is missing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from . import conftest, postgres_server
from .servers import SERVERS, ask_for_no_coverage, describe, missing_servers, skip_tests

pytest_plugins = ["pytester"]

TESTS = """
import pytest

def test_that_runs():
    pass

@pytest.mark.postgres
def test_that_needs_a_server():
    raise AssertionError
"""


def test_the_newest_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(postgres_server, "INSTALLED", [f"{tmp_path}/*/bin", f"{tmp_path}/none/*"])
    assert postgres_server.find_programs() is None
    assert missing_servers()["postgres"] == "no PostgreSQL server is installed (apt-get install postgresql)"
    for version in ("9.6", "17", "15"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        (folder / "initdb").touch()
    (tmp_path / "18" / "bin").mkdir(parents=True)  # the client alone
    assert postgres_server.find_programs() == tmp_path / "17" / "bin"
    assert postgres_server.missing() is None
    monkeypatch.setattr(shutil, "which", lambda program: str(tmp_path / "9.6" / "bin" / program))
    assert postgres_server.find_programs() == tmp_path / "9.6" / "bin"


def test_every_server_has_a_marker(request: pytest.FixtureRequest) -> None:
    markers = {line.partition(":")[0] for line in request.config.getini("markers")}
    assert markers >= set(SERVERS)


CONFTEST = """
from tests.servers import ask_for_no_coverage

def pytest_configure(config):
    ask_for_no_coverage(config, {})
"""


@pytest.mark.deep
@pytest.mark.parametrize(("missing", "status"), [({"postgres": "not there"}, 0), ({}, 1)])
def test_where_a_server_is_missing_the_coverage_is_not_asserted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, missing: dict[str, str], status: int
) -> None:
    options = SimpleNamespace(cov_fail_under=100)
    plugins = SimpleNamespace(getplugin={"_cov": SimpleNamespace(options=options)}.get)
    config: Any = SimpleNamespace(pluginmanager=plugins)
    ask_for_no_coverage(config, missing)
    assert options.cov_fail_under == 100 * status
    config.pluginmanager = SimpleNamespace(getplugin=lambda _: None)  # nothing is measured
    ask_for_no_coverage(config, missing)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makeconftest(CONFTEST.replace("{}", repr(missing)))
    pytester.makepyfile("def test_that_runs():\n    pass\n\n\ndef never_run():\n    pass\n")
    assert pytester.runpytest_subprocess("--cov", "--cov-fail-under=100").ret == status


def test_what_is_missing_is_said() -> None:
    assert describe({}) == []
    assert describe({"postgres": "not there"}) == [
        "tests marked postgres are skipped: not there",
        "so the coverage is not asserted",
    ]


@pytest.mark.parametrize(
    ("expression", "is_fast"), [("not deep and not exhaustive", True), ("not exhaustive", False), ("postgres", False)]
)
def test_the_fast_gear_says_nothing_of_servers_because_it_needs_none(expression: str, is_fast: bool) -> None:
    config: Any = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
    assert conftest.pytest_report_header(config) == ([] if is_fast else describe(conftest.MISSING))


@pytest.mark.parametrize(("stats", "status", "is_said"), [({"deselected": [1]}, 5, True), ({"passed": [1]}, 0, False)])
def test_where_all_tests_are_deep_it_is_said_how_to_run_them(
    stats: dict[str, list[object]], status: int, *, is_said: bool
) -> None:
    lines: list[str] = []
    reporter: Any = SimpleNamespace(stats=stats, write_line=lines.append)
    conftest.pytest_terminal_summary(reporter, status)
    assert bool(lines) == is_said


def test_what_the_shell_started_in_the_background_can_be_interrupted() -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        conftest.listen_to_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        conftest.listen_to_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, handler)


def ignore_interrupts() -> None:  # pragma: no cover  (runs in a process of its own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.deep
def test_tests_that_interrupt_pass_where_interrupts_are_ignored(tmp_path: Path) -> None:
    """As under nohup: of a test that interrupts itself, one that interrupts a child, and one whose child does it."""
    tests = [
        "test_threads.py::test_interrupted_while_it_closes_it_waits_all_the_same",
        "test_cli.py::test_sigint_ends_a_process_that_waits_for_its_input",
        "test_cli_reconcile.py::test_sigint_midway_and_again",
        "test_cli_scrub.py::test_an_interruption",
    ]
    folder = Path(__file__).parent
    options = ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}", "-q", "-m", "not exhaustive"]
    command = [sys.executable, "-m", "pytest", *options]
    ended = subprocess.run(
        [*command, *(str(folder / test) for test in tests)],
        cwd=folder.parent,
        preexec_fn=ignore_interrupts,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert f"{len(tests)} passed" in ended.stdout, ended.stdout + ended.stderr


class TestThatInheritsDeepTests:
    DEEP = frozenset({"test_this_one"})

    def test_this_one(self, request: pytest.FixtureRequest) -> None:
        assert request.node.get_closest_marker("deep") is not None

    def test_not_this_one(self, request: pytest.FixtureRequest) -> None:
        assert request.node.get_closest_marker("deep") is None


@pytest.mark.postgres
def test_what_needs_a_server_is_deep(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("deep") is not None


def test_the_tests_that_need_a_missing_server_are_skipped(pytester: pytest.Pytester) -> None:
    class Missing:
        def pytest_configure(self, config: pytest.Config) -> None:
            config.addinivalue_line("markers", "postgres: as here")

        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            skip_tests(items, {"postgres": "not there", "another": "nor that"})

    pytester.makepyfile(TESTS)
    result = pytester.inline_run("-p", "no:cacheprovider", "-rs", plugins=[Missing()])
    passed, skipped, failed = result.listoutcomes()
    assert [report.nodeid.partition("::")[2] for report in passed] == ["test_that_runs"]
    assert [str(report.longrepr).partition("Skipped: ")[2] for report in skipped] == ["not there')"]
    assert failed == []
