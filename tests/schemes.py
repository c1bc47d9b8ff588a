"""Stores of a test's own behind the URLs of a scheme."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trio_replica._urls import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def open_with_function(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], *names: str) -> None:
    """Let a function open the stores of some schemes."""
    find = registry.find_scheme
    changed = {name: replace(scheme, open=function) for name in names if (scheme := find(name))}
    monkeypatch.setattr(registry, "find_scheme", lambda name: changed.get(name) or find(name))
