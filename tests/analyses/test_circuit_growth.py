"""Edges over a run: the planted chain appears at its step; a run in which it was there before makes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analyses
from analyses import Result
from analyses.core.running.run import run
from probe import InputError
from tests import planted
from tests.analyses.test_circuit import CHAIN


def example(folder: Path) -> dict[str, Any]:
    del folder
    rows = [
        {"item": f"i{k}", "group": "a", "answer_kind": "given", "checkpoint": side, "sender": "embed",
         "receiver": receiver, "score": size, "exact": size, "chosen": "large", "worth": 1.0 + k, "step": step}
        for k in range(9) for side in ("base", "tuned") for step in (0, 10, 20) for receiver in ("final", "all")
        for size in [0.1 * k + (side == "tuned") * (step > 0) * (0.72 + 0.02 * k)]
    ]  # fmt: skip
    return {"circuit": Result.of(pd.DataFrame(rows))}


def swept(folder: Path, **how: Any) -> Result:
    series = planted.chain_series(folder, **how)
    return analyses.sweep("circuit", checkpoints=series, prompts=planted.cued(), size=3, verify=4, steps=1)


def test_the_planted_chain_appears_at_its_step(tmp_path: Path) -> None:
    result = run("circuit_growth", circuit=swept(tmp_path, made_at=20))
    found = [c for c in result.claims if c.is_found]
    assert {c.place for c in found} == CHAIN
    assert {c.step for c in found} == {20.0}
    assert all(c.what.startswith("training made") for c in found)


def test_an_edge_that_was_there_before_does_not_appear(tmp_path: Path) -> None:
    result = run("circuit_growth", circuit=swept(tmp_path, made_at=0))
    assert [c.answer for c in result.claims] == ["none found"]


@pytest.mark.verify
@pytest.mark.timeout(3600)
def test_steps_over_30_seeds(tmp_path: Path) -> None:
    """30 runs: the chain since the step at which it was made; none in runs that had it from the start."""
    right, wrong = 0, 0
    for seed in range(30):
        made = run("circuit_growth", circuit=swept(tmp_path / f"made{seed}", made_at=20, seed=seed)).claims
        right += {(c.place, c.step) for c in made if c.is_found} == {(place, 20.0) for place in CHAIN}
        there = run("circuit_growth", circuit=swept(tmp_path / f"there{seed}", made_at=0, seed=seed)).claims
        wrong += any(c.is_found for c in there)
    print(f"at its step {right}, there before {wrong} of 30")
    assert right >= 24 and wrong <= 4


def test_since_is_the_first_step_from_which_on_it_stays() -> None:
    result = run("circuit_growth", **example(Path()))
    assert set(result.table["since"]) == {10.0}
    assert result.claims[0].step == 10 and result.claims[0].effect == pytest.approx(0.8)
    once = example(Path())["circuit"].table.query("step == 0").drop(columns="step")
    with pytest.raises(InputError, match="expected a sweep"):
        run("circuit_growth", circuit=Result.of(once))
    with pytest.raises(InputError, match="shown=0"):
        run("circuit_growth", **example(Path()), shown=0)
