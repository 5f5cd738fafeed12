"""Tuning as a vector: a planted bias is recovered with share 1, a rotation is not, nothing is nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.states.tuning_vector import tuning_vector
from probe import Edit, InputError, Model, add
from tests import tiny


def example(folder: Path) -> dict[str, Any]:
    made = tiny.series(folder, steps=(0, 10))
    pair = {"base": str(made / "checkpoint-0"), "tuned": str(made / "checkpoint-10")}
    return {**pair, "prompts": tiny.twelve_items().limit(4), "layers": (1,), "updates": 1}


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    words = tiny.word_tokenizer()
    first = tiny.model(vocab_size=len(words))
    return tuple(Model.wrap(copy.deepcopy(first), words, check=False) for _ in range(2))  # type: ignore[return-value]


def test_a_planted_bias_is_one_vector(pair: Any) -> None:
    base, tuned = pair
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    with tuned.edited(add("mlp_out.1", vector)):
        result = tuning_vector(base, tuned, tiny.twelve_items(), layers=(0, 1), updates=5, batch_size=12)
    share = result.data["share"]
    assert float(share.sel(layer=1, arm="fitted")) == pytest.approx(1, abs=1e-4)
    assert float(share.sel(layer=1, arm="mean_difference")) == pytest.approx(1, abs=1e-4)
    assert float(share.sel(layer=1, arm="random")) < 0.3
    (said,) = result.claims
    assert said.is_found and said.place == "layer 1" and said.low > 0.5


def test_a_rotation_is_not(pair: Any) -> None:
    base, tuned = pair
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1))).Q
    with tuned.edited(Edit("resid_post.1", lambda x: x @ turn)):
        result = tuning_vector(base, tuned, tiny.twelve_items(), layers=(1,), updates=15, batch_size=12)
    assert float(result.data["share"].sel(layer=1, arm="fitted")) < 0.6
    assert result.claims[0].answer == "none found"


def test_the_same_checkpoint_twice_and_bad_input(pair: Any) -> None:
    base, _ = pair
    same = tuning_vector(base, base, tiny.twelve_items(), layers=(1,))
    assert "identical" in same.warnings[0] and np.isnan(same.data["share"]).all() and (same.table["kl_nats"] == 0).all()
    assert same.claims[0].answer == "none found"
    with pytest.raises(InputError, match=r"layers=\[9\]"):
        tuning_vector(base, base, tiny.twelve_items(), layers=(9,))
    with pytest.raises(InputError, match="at least 4"):
        tuning_vector(base, base, tiny.twelve_items().limit(3))
