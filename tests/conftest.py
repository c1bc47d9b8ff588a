"""The fixtures that more than one file of tests uses."""

from __future__ import annotations

from typing import cast

import pytest

from .started import started_sync_stores


@pytest.fixture(params=["awaited", "started"])
def sync_calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with its sync stores as they are, and with each as one whose calls can be started without a task."""
    if request.param == "started":
        monkeypatch.setattr("trio_replica._replica.SyncStores", started_sync_stores)
    return cast("str", request.param)
