"""A study of the mechanism: asked by name, of prompts with twins; it finds the planted chain."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from analyses.core.running.study.study import study
from analyses.core.store import Store
from probe import Prompts
from tests import planted

NAMES = ("circuit", "circuit_transfer", "behaviour_direction", "crosscoder")


def test_the_mechanism_is_asked_by_name_of_prompts_with_twins(tmp_path: Path) -> None:
    run = planted.chain_series(tmp_path / "run")
    for step in (10, 20):
        shutil.rmtree(run / f"checkpoint-{step}")
    how: dict[str, Any] = {"questions": ["mechanism"], "store": Store(tmp_path / "r"), "options": {"batch_size": 16}}
    found = study(run, prompts=planted.cued(), **how)["run"]
    assert set(NAMES) <= set(found.results) and not found.failed
    assert {c.place for c in found.results["circuit"].claims} == {"embed -> mlp.0", "mlp.0 -> mlp.2", "mlp.2 -> final"}
    bare = Prompts(tuple(type(i)(i.id, i.prompt, i.answer) for i in planted.cued(2).items))
    assert "column `corrupt`" in study(run, prompts=bare, **how)["run"].without["circuit"]
