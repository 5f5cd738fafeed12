"""Fixtures of floor 2a."""

from __future__ import annotations

import pytest

import analyses.core.analysis as registry
from tests.core.toy import CALLS, TOYS


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Registry with the toys alone; returns the log of calls."""
    monkeypatch.setattr(registry, "names", lambda: sorted(TOYS))
    monkeypatch.setattr(registry, "get", TOYS.__getitem__)
    monkeypatch.setattr("analyses.core.run.get", TOYS.__getitem__)
    CALLS.clear()
    return CALLS
