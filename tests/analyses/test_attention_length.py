"""Attention entropy by length: uniform ln n and slope 1, one key 0, the scale's derivative, the model's own maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from analyses import get
from analyses.attention.attention_length import binned, measures
from probe import Prompts
from probe.errors import InputError


def causal(logits: torch.Tensor) -> torch.Tensor:
    """Attention [head, pos, key_pos] of these logits under the causal mask."""
    mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    return logits.masked_fill(~mask, -torch.inf).softmax(-1)


def test_uniform_attention_grows_as_ln_n_and_one_key_does_not() -> None:
    found = measures(causal(torch.zeros(2, 40, 40)), 16)
    np.testing.assert_allclose(found["entropy_nats"], np.log(found["keys"]), rtol=1e-5)
    np.testing.assert_allclose(found["scaled_nats"], found["entropy_nats"], rtol=1e-5)
    assert found["sensitivity"].abs().max() < 1e-9
    rows = binned(found)
    assert rows["pos"].tolist() == [2, 4, 8, 16, 32] and rows["n_queries"].sum() == 39
    assert rows["growth"][0] == pytest.approx(1) and rows["growth_scaled"][0] == pytest.approx(1)
    one = binned(measures(torch.eye(20)[None], 8))
    assert one["growth"][0] == pytest.approx(0) and one["entropy_nats"].max() == 0


def test_the_scale_sharpens_and_its_derivative_is_minus_the_variance() -> None:
    logits = torch.randn(3, 30, 30)
    found = measures(causal(logits), 8)
    long = found["keys"] > 8
    assert (found["scaled_nats"][long] < found["entropy_nats"][long]).all()
    np.testing.assert_allclose(found["scaled_nats"][~long], found["entropy_nats"][~long], rtol=1e-5)
    entropy = lambda s: torch.special.entr(causal(logits.double() * s)).sum(-1).mean(0)[1:].numpy()  # noqa: E731
    slope = (entropy(1 + 1e-4) - entropy(1 - 1e-4)) / 2e-4
    np.testing.assert_allclose(-found["sensitivity"], slope, atol=1e-5)
    at = int(np.flatnonzero(found["keys"] == 30)[0])
    want = torch.special.entr(causal(logits * float(np.log(30) / np.log(8)))).sum(-1).mean(0)[-1]
    assert found["scaled_nats"][at] == pytest.approx(float(want), rel=1e-4)


def test_on_a_model_it_is_the_entropy_of_transformers_own_attention(models: dict[str, Any], prompts: Prompts) -> None:
    model, item = models["model"], prompts.items[1]
    table = get("attention_length")(model, Prompts((item,)), trained=4).table
    (batch,) = model.batches(Prompts((item,)), batch_size=1)
    pattern = model.run(batch, read=["pattern.1"])["pattern.1"][0]
    entropy = torch.special.entr(pattern).sum(-1).mean(0)
    row = table.query("layer == 1 and pos == 4").iloc[0]
    assert row["entropy_nats"] == pytest.approx(float(entropy[3:7].mean()), rel=1e-4) and row["n_queries"] == 4
    with pytest.raises(InputError, match="trained"):
        get("attention_length")(model, prompts, trained=1)
