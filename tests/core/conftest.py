"""Fixtures of floor 2a."""

from __future__ import annotations

import pytest

import analyses.core.analysis as registry
import analyses.core.running.shards as runner
from analyses.core.result import Result
from tests.core.toy import CALLS, TOYS


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Registry with the toys alone; returns the log of calls."""
    monkeypatch.setattr(registry, "names", lambda: sorted(TOYS))
    monkeypatch.setattr(registry, "get", TOYS.__getitem__)
    monkeypatch.setattr("analyses.core.running.run.get", TOYS.__getitem__)
    CALLS.clear()
    return CALLS


class Computed(list[str]):
    """Keys of what was computed, in order; whatever comes after the first ``stop_at`` is interrupted."""

    stop_at: int | None = None


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """What the runner computes from here on."""
    found, execute = Computed(), runner.execute

    def counted(call: runner.Call, pool: runner.ModelPool) -> Result:
        if len(found) == found.stop_at:
            raise KeyboardInterrupt
        found.append(call.key)
        return execute(call, pool)

    monkeypatch.setattr(runner, "execute", counted)
    return found
