"""A study of the lab by workers of a Ray cluster: it claims what it claims in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analyses import Store
from tests.conftest import ROOT

pytest.importorskip("ray", reason="workers are Ray's")

NUMBERS = ["effect", "low", "high", "p", "n"]


@pytest.mark.verify
@pytest.mark.lab
def test_on_the_lab_the_command_says_the_same(lab: Path, tmp_path: Path) -> None:
    """`probe study --engine ray --workers 2` over ten checkpoints of a run that was really trained."""
    words = [sys.executable, "-m", "apps.command.cli", "study", lab / "sft-high", "--prompts", lab / "sft_test.jsonl"]
    words += ["--questions", "ship,where", "--grade", "exact", "--pattern", r"^(?:think .*; )?ans (\d+)$"]
    words += ["--max-new-tokens", "44", "--batch-size", "64", "--json"]
    told: dict[str, list[dict[str, Any]]] = {}
    for name, engine in {"alone": [], "workers": ["--engine", "ray", "--workers", "2"]}.items():
        place = ["--results", tmp_path / name, "--report", tmp_path / f"{name}.html"]
        command = list(map(str, [*words, *place, *engine]))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        told[name] = json.loads(done.stdout.splitlines()[-1])
    alone, workers = told["alone"], told["workers"]
    assert alone and [(c["analysis"], c["answer"]) for c in workers] == [(c["analysis"], c["answer"]) for c in alone]
    for one, other in zip(workers, alone, strict=True):
        assert [one[n] for n in NUMBERS] == pytest.approx([other[n] for n in NUMBERS], abs=1e-3, nan_ok=True)
    keys = [sorted(Store(tmp_path / name).addresses()) for name in ("alone", "workers")]
    assert keys[0] == keys[1]
