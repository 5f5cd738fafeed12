"""The package as a whole: light to import, complete in its exports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import probe

LIGHT = (
    "probe, probe.checkpoints.series, probe.errors, probe.checkpoints.files, probe.interventions, probe.prompts, "
    "probe.sites, probe.tokens"
)


def test_names_and_places_come_without_torch() -> None:
    code = f"import {LIGHT}, sys; sys.exit(bool({{'torch', 'transformers', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_every_export_is_there() -> None:
    for name in probe.__all__:
        assert getattr(probe, name) is not None
    assert set(probe.__all__) <= set(dir(probe))
    with pytest.raises(AttributeError, match="nothing"):
        _ = probe.nothing
