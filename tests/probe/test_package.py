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


@pytest.mark.verify
def test_the_first_trace_of_a_fresh_process_takes_five_seconds_of_cpu(tmp_path) -> None:
    from tests import tiny

    folder = tiny.save(tmp_path / "model")
    code = (
        "import sys, time; from probe import Model; Model.load(sys.argv[1]).run('the fox', read='resid_post.1'); "
        "sys.exit(time.process_time() > 5)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], timeout=120, check=False).returncode == 0
