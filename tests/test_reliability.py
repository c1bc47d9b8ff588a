"""The promises of docs/reliability.md are held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parent / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:\w+/)*\w+\.py)::(\w+)`", DOCUMENT)))


def test_every_promise_names_its_tests() -> None:
    rows = [line for line in DOCUMENT.partition("## Not promised")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [row for row in rows if "::test_" not in row] == []


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)
