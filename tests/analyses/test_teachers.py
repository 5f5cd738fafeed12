"""Several teachers: the generalised JSD and its bound, equal teachers 0, one of two that agree, two planted ones."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import run
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.teaching.teachers import _claim, measures
from probe import Model
from probe.errors import InputError
from tests import tiny


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(10, 20))
    return {"model": Model.load(tiny.save(folder / "student")), "checkpoints": series, "prompts": tiny.twelve_items()}


def logits(*p: float) -> torch.Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def test_disagreement_is_the_generalised_jsd_and_bounded_by_the_weights() -> None:
    far = torch.stack([logits(1 - 2e-9, 1e-9, 1e-9), logits(1e-9, 1 - 2e-9, 1e-9)])
    assert measures(far[0], far, "equal")["disagreement_nats"][0] == pytest.approx(math.log(2), abs=1e-6)
    others = torch.randn(3, 5, 7, dtype=torch.float64)
    t = others.softmax(-1)
    w = t.amax(-1) / t.amax(-1).sum(0)
    m = (w[..., None] * t).sum(0)
    entropy = lambda p: torch.special.entr(p).sum(-1)  # noqa: E731
    found = measures(others[0], others, "confidence")
    want = entropy(m) - (w * entropy(t)).sum(0)
    np.testing.assert_allclose(found["disagreement_nats"], want, atol=1e-9)
    assert (found["disagreement_nats"] <= entropy(w.movedim(0, -1)).numpy() + 1e-9).all()
    kl = (m * (m.log() - others[0].log_softmax(-1))).sum(-1)
    np.testing.assert_allclose(found["forward_nats"], kl, atol=1e-5)
    assert (found["nearest_nats"] < 1e-6).all(), "the student is the first teacher"


def test_equal_teachers_do_not_disagree_and_a_student_that_is_both_is_at_their_mixture() -> None:
    one = torch.randn(4, 6, dtype=torch.float64)
    found = measures(one, torch.stack([one, one]), "confidence")
    assert max(abs(v).max() for k, v in found.items() if k != "follows") < 1e-6 and (found["follows"] == 1).all()


def test_on_checkpoints_of_a_run(tmp_path: Path) -> None:
    given = example(tmp_path)
    result = run("teachers", **given)
    assert (result.table["disagreement_nats_sum"] > 0).all() and (result.data["jsd_nats"] <= math.log(2)).all()
    one: dict[str, Any] = {**given, "checkpoints": tiny.series(tmp_path / "one", steps=(0,))}
    with pytest.raises(InputError, match="at least 2"):
        run("teachers", **one)
    other: dict[str, Any] = {**given, "model": Model.load(tiny.save(tmp_path / "words", words=True))}
    with pytest.raises(InputError, match="vocabular"):
        run("teachers", **other)


def apart(n: int, seed: int, shift: float) -> pd.DataFrame:
    jsd, own = np.random.default_rng(seed).exponential(0.2, (2, n))
    return pd.DataFrame({"item": range(n), "n_tokens": 1, "disagreement_nats_sum": own + shift, "jsd_nats_sum": jsd})


def test_teachers_that_disagree_are_found_and_others_are_not() -> None:
    assert _claim(apart(30, 0, 0.5), ("g", "given"), 0).answer == FOUND
    said = [_claim(apart(24, s, 0.0), ("g", "given"), 0).answer for s in range(8)]
    assert said.count(FOUND) <= 1 and NONE in said
    assert _claim(apart(4, 0, 0.5), ("g", "given"), 0).answer == UNJUDGED


@pytest.mark.verify
def test_disagreement_drawn_like_the_divergence_over_100_seeds() -> None:
    assert [_claim(apart(24, s, 0.0), ("g", "given"), 0).answer for s in range(100)].count(FOUND) <= 10
