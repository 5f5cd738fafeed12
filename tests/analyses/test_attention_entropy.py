"""Attention entropy: closed forms of uniform and one-hot heads, sliding windows, planted bands, padding."""

from __future__ import annotations

from math import lgamma, log

import numpy as np
import pytest
import torch

from analyses.states import attention_entropy as module
from analyses.states.attention_entropy import attention_entropy, head_entropy
from probe import Model
from probe.errors import InputError
from tests import tiny


def uniform(n: int, window: int | None = None, heads: int = 1) -> torch.Tensor:
    keep = torch.ones(n, n).tril()
    if window:
        keep = keep.triu(1 - window)
    return (keep / keep.sum(-1, keepdim=True)).expand(1, heads, n, n)


def test_uniform_causal_attention_is_one():
    """Raw: the mean of ln(q + 1) over queries 1..T-1 is ln(T!) / (T - 1)."""
    raw, normalised = head_entropy(uniform(9), torch.ones(1, 9, dtype=bool))
    assert normalised.item() == pytest.approx(1.0, abs=1e-6)
    assert raw.item() == pytest.approx(lgamma(10) / 8, abs=1e-5)


def test_one_hot_attention_is_zero_and_key_order_does_not_matter():
    mask = torch.ones(1, 6, dtype=bool)
    first_key = torch.zeros(1, 1, 6, 6)
    first_key[..., 0] = 1.0
    assert head_entropy(first_key, mask)[1].item() == 0.0
    weights = torch.rand(1, 2, 6, 6).tril() + 1e-3 * torch.ones(6, 6).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    swapped = weights.clone()
    swapped[..., -1, :] = weights[..., -1, :].flip(-1)
    torch.testing.assert_close(head_entropy(swapped, mask)[1], head_entropy(weights, mask)[1])


def test_a_sliding_window_limits_what_can_be_reached():
    """Uniform over a window of 3 is 1, not ln 3 / ln 12."""
    _, normalised = head_entropy(uniform(12, window=3), torch.ones(1, 12, dtype=bool))
    assert normalised.item() == pytest.approx(1.0, abs=1e-6)


def test_one_local_head_does_not_shrink_the_others_reach():
    both = torch.cat([uniform(12, window=2), uniform(12)], dim=1)
    _, normalised = head_entropy(both, torch.ones(1, 12, dtype=bool))
    expected = np.mean([log(2) / log(q + 1) for q in range(1, 12)])
    assert normalised[0, 1].item() == pytest.approx(1.0, abs=1e-6)
    assert normalised[0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_padding_does_not_count():
    left = torch.zeros(1, 1, 8, 8)
    left[..., 3:, 3:] = uniform(5)
    mask = torch.tensor([[False] * 3 + [True] * 5])
    raw, normalised = head_entropy(left, mask)
    assert normalised.item() == pytest.approx(1.0, abs=1e-6) and raw.item() == pytest.approx(lgamma(6) / 4, abs=1e-5)


def test_a_single_token_is_not_measured():
    assert torch.isnan(head_entropy(torch.ones(1, 1, 1, 1), torch.ones(1, 1, dtype=bool))[1]).all()


def test_on_a_model_against_its_own_pattern(base, prompts):
    result = attention_entropy(base, prompts, batch_size=5)
    assert len(result.table) == 12 * base.shape.n_layers * base.shape.n_heads
    (batch,) = base.batches(prompts.limit(1), batch_size=1)
    a = base.run(batch, read=["pattern.1"])["pattern.1"][0, 2].double()
    h = -(a * a.clamp(min=1e-300).log()).sum(-1)[1:] / torch.arange(2, len(a) + 1).double().log()
    row = result.table.query("item == 'q00' and layer == 1 and head == 2")
    assert float(row["attention_entropy"].iloc[0]) == pytest.approx(float(h.mean()), abs=1e-5)
    assert result.table["attention_entropy"].between(0, 1 + 1e-6).all()
    assert set(module.figures(result)) == {"heads", "shares"}


def test_a_planted_uniform_head_is_overloaded(tmp_path, prompts):
    """Query weights of zero make attention uniform: every head of that layer is overloaded, no other layer is."""
    model = Model.load(tiny.save(tmp_path / "m"), check=False)
    with torch.no_grad():
        for name, weight in model.weights().items():
            if name.startswith("model.layers.1.self_attn.q_proj"):
                weight.zero_()
            elif "self_attn.q_proj" in name:
                weight.mul_(30.0)
    shares = attention_entropy(model, prompts).data["overloaded_share"].mean(["group", "answer_kind"])
    assert shares.values.tolist()[1] == 1.0 and max(shares.values[[0, 2]]) < 0.5


def test_bands_are_checked(base, prompts):
    with pytest.raises(InputError, match="expected 0 <="):
        attention_entropy(base, prompts, collapsed_below=0.95)
