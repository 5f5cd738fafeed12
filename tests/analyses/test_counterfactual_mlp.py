"""Counterfactual MLP: every ablation against the formula, ablation to itself is 0, draws are seeded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from analyses.weights import counterfactual_mlp as module
from analyses.weights.counterfactual_mlp import counterfactual_mlp
from probe import Model, Prompts
from probe.errors import InputError
from tests import tiny

QUICK = ("seq_mean_act", "norm_matched_random", "resample")


def example(folder: Path) -> dict:
    """For the contract tests: one random draw."""
    from tests.tiny import twelve_items

    return {
        "model": str(tiny.save(folder / "m")),
        "prompts": twelve_items(),
        "draws": 1,
        "readouts": ("direct", "forward"),
        "ablations": QUICK,
    }


def one(model, prompts, part, ablation, readout="direct", **options):
    """The value of the first item at layer 1."""
    table = counterfactual_mlp(
        model, prompts.limit(1), parts=(part,), ablations=(ablation,), readouts=(readout,), **options
    ).table
    return table[table["layer"] == 1]["jsd_nats"].to_numpy()


def parts_of(model, prompts):
    """Gate, up (before their product) and the down matrix of block 1 for the first item, all positions."""
    (batch,) = model.batches(prompts.limit(1), batch_size=1)
    trace = model.run(batch, read=["mlp_pre.1", "mlp_up.1", "mlp_out.1"])
    down = model.weights()["model.layers.1.mlp.down_proj.weight"].detach().double()
    return [trace[s][0].double() for s in ("mlp_pre.1", "mlp_up.1")], down, int(batch.last_prompt[0])


def expected(model, gate, up, gate_cf, up_cf, down, down_cf, at):
    head = model.unembed_weights()[0].detach().double()
    outputs = [
        (torch.nn.functional.silu(g[at]) * u[at]) @ d.T for g, u, d in ((gate, up, down), (gate_cf, up_cf, down_cf))
    ]
    p, q = (torch.softmax(o @ head, -1).numpy() for o in outputs)
    return jensenshannon(p, q) ** 2


def test_sequence_mean_and_zero_by_the_formula(base, prompts):
    (gate, up), down, at = parts_of(base, prompts)
    mean = [x.mean(0, keepdim=True).expand_as(x) for x in (gate, up)]
    for part, ablation, changed in (
        ("gate", "seq_mean_act", (mean[0], up)),
        ("up", "seq_mean_act", (gate, mean[1])),
        ("gate", "zero", (0 * gate, up)),
        ("up", "zero", (gate, 0 * up)),
    ):
        want = expected(base, gate, up, *changed, down, down, at)
        assert one(base, prompts, part, ablation) == pytest.approx(want, abs=1e-6)


def test_weight_mean_of_up_makes_all_units_equal(base, prompts):
    """u_i = (mean entry) x (sum of the input) for every unit i."""
    (gate, up), down, at = parts_of(base, prompts)
    weight = base.weights()["model.layers.1.mlp.up_proj.weight"].detach().double()
    inputs = torch.linalg.lstsq(weight, up.T).solution.T  # the MLP's input, recovered from up = x W'
    np.testing.assert_allclose(inputs @ weight.T, up, atol=1e-5)
    flat = (weight.mean() * inputs.sum(-1, keepdim=True)).expand_as(up)
    want = expected(base, gate, up, gate, flat, down, down, at)
    assert one(base, prompts, "up", "weight_mean") == pytest.approx(want, abs=1e-5)


def test_random_down_has_the_norm_of_down_and_is_seeded(base, prompts):
    name = "model.layers.1.mlp.down_proj.weight"
    before = base.weights()[name].detach().clone()
    condition = module.Ablated(1, "down", "norm_matched_random", 0)
    with module._weights(base, condition, 3):
        inside = base.weights()[name].detach().clone()
    assert inside.norm() == pytest.approx(float(before.norm()), rel=1e-5) and not torch.equal(inside, before)
    assert torch.equal(base.weights()[name], before)
    runs = [one(base, prompts, "down", "norm_matched_random", draws=3, seed=s) for s in (0, 0, 1)]
    assert len(runs[0]) == 3 and len(set(runs[0])) == 3
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).all()


def test_a_single_token_is_its_own_mean(base):
    prompts = Prompts.of([{"id": "a", "prompt": "x", "answer": "y"}])
    (batch,) = base.batches(prompts, batch_size=1)
    assert int(batch.mask.sum()) == 2
    table = counterfactual_mlp(base, prompts, ablations=("resample", "seq_mean_act"), draws=1).table
    assert (table["jsd_nats"] >= 0).all()
    clean = module._sequence_mean(
        torch.ones(1, 1, 3), batch.__class__(batch.ids[:, :1], batch.mask[:, :1], batch.span[:, :1], batch.items)
    )
    assert torch.equal(clean, torch.ones(1, 1, 3))


def test_unchanged_weights_and_equal_activations_give_exactly_zero(tmp_path, prompts):
    """A down matrix that is constant is its own mean; an up branch that is 0 stays 0 under every ablation of it."""
    model = Model.load(tiny.save(tmp_path / "m"), check=False)
    with torch.no_grad():
        model.weights()["model.layers.1.mlp.up_proj.weight"].zero_()
        model.weights()["model.layers.1.mlp.down_proj.weight"].fill_(0.25)
    table = counterfactual_mlp(model, prompts, draws=1).table.query("layer == 1")
    assert (table[table["part"] == "up"]["jsd_nats"] == 0).all()
    assert (table[(table["part"] == "down") & (table["ablation"] == "weight_mean")]["jsd_nats"] == 0).all()


def test_forward_readout_is_the_models_output_under_the_edit(base, prompts):
    from probe import zero

    (batch,) = base.batches(prompts.limit(1), batch_size=1)
    p, q = (
        torch.softmax(base.run(batch, edits=e, logits="last").logits[0].double(), -1).numpy()
        for e in ([], [zero("mlp_up.1")])
    )
    assert one(base, prompts, "up", "zero", "forward") == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-6)


def test_resampling_moves_tokens_within_their_item(base, prompts):
    (batch,) = base.batches(prompts.limit(3), batch_size=3)
    x = torch.arange(batch.ids.numel() * 2.0).reshape(*batch.ids.shape, 2)
    out = module._permuted(x, batch, module.Ablated(0, "up", "resample", 0), 0)
    for row in range(3):
        own, new = x[row][batch.mask[row]], out[row][batch.mask[row]]
        assert sorted(own[:, 0].tolist()) == sorted(new[:, 0].tolist()) and (own != new).all()


def test_a_planted_important_gate_is_the_largest(tmp_path, prompts):
    model = Model.load(tiny.save(tmp_path / "m"), check=False)
    with torch.no_grad():
        for layer in (0, 2):
            model.weights()[f"model.layers.{layer}.mlp.down_proj.weight"].mul_(1e-3)
        model.weights()["model.layers.1.mlp.down_proj.weight"].mul_(5.0)
    data = counterfactual_mlp(model, prompts, parts=("gate",), ablations=("zero",), readouts=("forward",)).data
    assert int(data["jsd_nats"].mean(["group", "answer_kind", "part", "ablation", "readout"]).argmax("layer")) == 1


def test_bad_input_is_refused(base, prompts, tmp_path):
    with pytest.raises(InputError, match="parts="):
        counterfactual_mlp(base, prompts, parts=("side",))
    with pytest.raises(InputError, match="ablations="):
        counterfactual_mlp(base, prompts, ablations=("mean",))
    ungated = Model.load(tiny.save(tmp_path / "gpt2", "gpt2"), check=False)
    with pytest.raises(InputError, match="has no gate"):
        counterfactual_mlp(ungated, prompts)
