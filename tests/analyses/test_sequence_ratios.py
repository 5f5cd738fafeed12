"""Ratios of whole responses: enumerated toys, the weights that are right, identical checkpoints, an oracle."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import run
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.entropy import sequence_ratios as module
from analyses.entropy.sequence_ratios import of_prompt
from probe import Model, Rollouts
from probe.errors import InputError
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    log = Rollouts.of(logs.rows(vocab=200))
    return {"base": series / "checkpoint-0", "tuned": series / "checkpoint-20", "rollouts": log, "least_ess": 1.0}


def test_the_entropy_of_the_ratio_by_enumeration() -> None:
    """64 outcomes, pi* proportional to pi_ref^1.5: q is pi_ref^.5; weights of pi* alone give another number."""
    rng = np.random.default_rng(0)
    ref = rng.dirichlet(np.ones(64))
    star = ref**1.5 / (ref**1.5).sum()
    q = np.sqrt(ref) / np.sqrt(ref).sum()
    found = of_prompt(np.log(star), np.log(ref), ref)
    assert found["entropy_nats"] == pytest.approx(-(q * np.log(q)).sum(), abs=1e-9)
    wrong = np.log((star / ref).sum()) - (star * np.log(star / ref)).sum()
    assert abs(found["entropy_nats"] - wrong) > 0.1
    assert found["displacement_nats"] == pytest.approx(-(ref * np.log(ref / star)).sum())


def test_samples_approach_it() -> None:
    rng = np.random.default_rng(1)
    ref = rng.dirichlet(10 * np.ones(16))
    star = ref**1.5 / (ref**1.5).sum()
    q = star / ref / (star / ref).sum()
    drawn = rng.choice(16, 20_000, p=ref)
    found = of_prompt(np.log(star)[drawn], np.log(ref)[drawn])
    assert found["entropy_nats"] == pytest.approx(-(q * np.log(q)).sum(), abs=0.02)
    assert 1000 < found["ess"] <= 20_000


def test_effective_samples() -> None:
    assert of_prompt(np.full(8, -3.0), np.full(8, -3.0))["ess"] == pytest.approx(8)
    one = of_prompt(np.array([0.0, -400.0]), np.array([0.0, 0.0]))
    assert one["ess"] == pytest.approx(1) and np.isfinite(one["entropy_nats"])


def test_identical_checkpoints_have_ratio_one_and_few_samples_no_entropy(tmp_path: Path) -> None:
    model = Model.load(tiny.save(tmp_path / "m"))
    result = run("sequence_ratios", base=model, tuned=model, rollouts=Rollouts.of(logs.rows(vocab=200)))
    assert (result.table["displacement_nats"] == 0).all() and result.table["entropy_nats"].isna().all()
    assert any("effective samples" in w for w in result.warnings)
    assert {c.kind: c.answer for c in result.claims} == {"displacement": UNJUDGED, "ratio": UNJUDGED}, "three prompts"
    with pytest.raises(InputError, match="least_ess"):
        run("sequence_ratios", base=model, tuned=model, rollouts=Rollouts.of(logs.rows()), least_ess=0.0)


def displaced(n: int, seed: int, size: float) -> pd.DataFrame:
    """Mean ln r of 8 responses of each prompt; responses of base have mean ln r = -KL."""
    draws = np.random.default_rng(seed).normal(-(size**2) / 2, size, (n, 8))
    return pd.DataFrame({"item": range(n), "displacement_nats": draws.mean(1), "entropy_nats": 1.0})


def test_an_update_that_moves_responses_is_found_and_the_same_checkpoint_is_not() -> None:
    assert module._moved(displaced(16, 0, 1.0), 0).answer == FOUND
    assert module._moved(displaced(16, 0, 0.0), 0).answer == NONE
    assert module._moved(displaced(3, 0, 1.0), 0).answer == UNJUDGED
    assert not list(module._learnt(displaced(9, 0, 1.0), 10.0))
