"""MLP key steering: the formula, the placebos and the verdict, on a planted memory and on a model without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from analyses.core.reading.teacher_forced import scored
from analyses.core.result import Result
from analyses.core.running.run import run
from analyses.steering._arms import halves, matched_neurons, random_neurons, scale_keys, stream
from analyses.steering._neurons import FrozenNorm, direct_effects, overlap, scores, top_tokens
from analyses.steering.mlp_key_steering import mlp_key_steering, neurons_of
from probe import InputError, Item, Model, Prompts, Site
from probe.weights import down_rows, replaced
from tests import tiny
from tests.tiny import twelve_items

QUICK = {"layers": ("1",), "alphas": (0.0, 0.5, 2.0), "top_n": 4, "draws": 2}


def example(folder: Path) -> dict[str, object]:
    model = Model.load(tiny.save(folder), check=False)
    return {"model": model, "prompts": twelve_items(), "targets": ("leaked",), **QUICK}


def mask(model: Model, *neurons: int) -> torch.Tensor:
    out = torch.zeros(1, model.shape.d_mlp, dtype=torch.bool)
    out[0, list(neurons)] = True
    return out


def logits(model: Model, prompts: Prompts, *edits: object) -> torch.Tensor:
    """At real tokens: padding is never edited."""
    batch = model.batches(prompts, batch_size=12)[0]
    out = model.run(batch, edits=edits).logits
    assert out is not None
    return out[batch.mask]


# The intervention itself


def test_out_alpha_is_out_one_plus_the_scaled_writes(tuned: Model, prompts: Prompts) -> None:
    (batch,) = tuned.batches(prompts, batch_size=12)
    trace = tuned.run(batch, ["mlp_post.1", "mlp_out.1"], logits="none")
    edited = tuned.run(batch, ["mlp_out.1"], [scale_keys(1, 3.0, mask(tuned, 2, 7))], logits="none")
    written = trace["mlp_post.1"][..., [2, 7]] @ down_rows(tuned, 1)[[2, 7]]
    real = batch.mask
    torch.testing.assert_close(edited["mlp_out.1"][real], (trace["mlp_out.1"] + 2.0 * written)[real], atol=1e-5, rtol=0)


def test_scaling_keys_is_scaling_rows_of_w_down(tuned: Model, prompts: Prompts) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    weight = tuned.weights()[name].detach().clone()
    weight[:, [2, 7]] *= 0.5
    with replaced(tuned, {name: weight}):
        want = logits(tuned, prompts)
    torch.testing.assert_close(logits(tuned, prompts, scale_keys(1, 0.5, mask(tuned, 2, 7))), want, atol=1e-5, rtol=0)


def test_alpha_one_is_nothing_bit_for_bit_and_so_is_leaving(tuned: Model, prompts: Prompts) -> None:
    plain = logits(tuned, prompts)
    assert torch.equal(logits(tuned, prompts, scale_keys(1, 1.0, mask(tuned, *range(48)))), plain)
    with tuned.edited(scale_keys(1, 0.0, mask(tuned, 1))):
        assert not torch.equal(logits(tuned, prompts), plain)
    assert torch.equal(logits(tuned, prompts), plain)


def test_disjoint_sets_add_within_a_layer(tuned: Model, prompts: Prompts) -> None:
    (batch,) = tuned.batches(prompts, batch_size=12)

    def change(*neurons: int) -> torch.Tensor:
        edits = [scale_keys(1, 0.0, mask(tuned, *neurons))]
        return tuned.run(batch, ["mlp_out.1"], edits, logits="none")["mlp_out.1"] - plain

    plain = tuned.run(batch, ["mlp_out.1"], logits="none")["mlp_out.1"]
    torch.testing.assert_close(change(1, 2) + change(5), change(1, 2, 5), atol=1e-5, rtol=0)


# Choosing


def test_without_a_bonus_neurons_are_ranked_by_the_size_of_their_key(tuned: Model) -> None:
    item = Item("q", "what is 3 plus 7 ?", " ans")
    (batch,) = tuned.batches(Prompts((item,)))
    keys = tuned.run(batch, ["mlp_post.1"], logits="none")["mlp_post.1"][0, batch.last_prompt[0]].abs()
    for read_at in ("answer", "last_prompt"):
        found = scores(tuned, batch, [1], bonus=0.0, read_at=read_at)[1][0]
        assert found.argsort().tolist() == keys.argsort().tolist()


def test_a_neuron_that_writes_the_answer_comes_first(series: Path) -> None:
    model = Model.load(series / "checkpoint-0", check=False)
    item = Item("q", "what is 3 plus 7 ?", " ans")
    (batch,) = model.batches(Prompts((item,)))
    target = batch.ids[0, -1]
    with torch.no_grad():
        model.weights()["model.layers.1.mlp.down_proj.weight"][:, 5] = model.unembed_weights()[0][:, target] * 40
    assert top_tokens(model, 1, 10)[5, 0] == target
    assert int(scores(model, batch, [1], bonus=1e6)[1][0].argmax()) == 5
    effect = scores(model, batch, [1], score="direct_effect")[1][0]
    key = model.run(batch, ["mlp_post.1"], logits="none")["mlp_post.1"][0, -2, 5]
    assert int(effect.abs().argmax()) == 5
    assert torch.sign(effect[5]) == torch.sign(key), "a key of the other sign writes against the answer"


def test_overlap_is_a_share_and_v_does_not_depend_on_the_size_of_w(tuned: Model) -> None:
    top = top_tokens(tuned, 0, 10)
    assert top.shape == (tuned.shape.d_mlp, 10)
    shares = overlap(top, torch.tensor([int(top[3, 0]), int(top[3, 1]), 7, 7]))
    assert 0 <= float(shares.min()) <= float(shares.max()) <= 1
    assert float(shares[3]) >= 2 / 3
    name = "model.layers.0.mlp.down_proj.weight"
    with replaced(tuned, {name: tuned.weights()[name].detach() * 7}):
        assert torch.equal(top_tokens(tuned, 0, 10), top)
    assert torch.equal(top_tokens(tuned, 0, 10, neurons=[3, 1]), top[[3, 1]])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_direct_effects_and_the_rest_of_the_stream_sum_to_the_logit(
    tmp_path: Path, family: str, prompts: Prompts
) -> None:
    model = Model.load(
        tiny.save(tmp_path, family, **({"final_logit_softcapping": None} if family == "gemma2" else {})), check=False
    )
    (batch,) = model.batches(prompts.limit(3), batch_size=3)
    tokens = scored(batch)
    trace = model.run(batch, ["mlp_post.1", "resid_post.2"])
    assert trace.logits is not None
    resid, keys = tokens.rows(trace["resid_post.2"]), tokens.rows(trace["mlp_post.1"])
    parts = direct_effects(model, 1, keys, resid, tokens.target).sum(-1)
    rest = resid.double() - keys.double() @ down_rows(model, 1).double()
    norm = FrozenNorm.of(model)
    w_u, bias = model.unembed_weights()
    frozen = (norm.centred(rest) * norm.scale(model, resid)[:, None] * norm.gain + norm.bias) * w_u[:, tokens.target].T
    total = parts + frozen.sum(-1) + (0 if bias is None else bias[tokens.target])
    want = tokens.rows(trace.logits).gather(-1, tokens.target[:, None]).squeeze(-1)
    torch.testing.assert_close(total.float(), want, atol=2e-4, rtol=1e-4)


def test_gradient_times_activation_is_the_slope_at_one(tuned: Model, prompts: Prompts) -> None:
    (batch,) = tuned.batches(prompts.limit(2), batch_size=2)
    found = scores(tuned, batch, [1], score="gradient")[1]
    from analyses.core.reading.outcomes import answer_logprob

    step = 1e-2
    for neuron in (0, 3):
        high, low = (answer_logprob(tuned, batch, [scale_keys(1, 1 + s, mask(tuned, neuron))]) for s in (step, -step))
        np.testing.assert_allclose(found[:, neuron].numpy(), (high - low) / (2 * step), atol=2e-4)


def test_neurons_are_chosen_on_items_that_are_not_measured(tuned: Model, prompts: Prompts) -> None:
    chooses, measures = halves(prompts, ("leaked",), 0.5, 0)
    assert {i.group for i in chooses.items} == {"leaked"}
    assert not {i.id for i in chooses.items} & {i.id for i in measures.items}
    assert len(chooses) == 3 and len(chooses) + len(measures) == 12
    table = mlp_key_steering(tuned, prompts, targets=("leaked",), **QUICK).table
    assert set(table["item"]) == {i.id for i in measures.items}


# Placebos


def test_placebos_are_other_neurons_and_as_many() -> None:
    chosen = torch.zeros(40, dtype=torch.bool)
    chosen[[3, 9, 20]] = True
    size = torch.arange(40.0)
    for draw in range(5):
        other = random_neurons(chosen, stream(0, draw))
        near = matched_neurons(chosen, size, stream(0, draw))
        assert int(other.sum()) == int(near.sum()) == 3
        assert not (other & chosen).any() and not (near & chosen).any()
        gaps = (near.nonzero().flatten()[:, None] - chosen.nonzero().flatten()).abs().amin(1)
        assert int(gaps.max()) <= 3


def test_random_directions_have_the_norm_of_the_treatment_everywhere(tuned: Model, prompts: Prompts) -> None:
    from analyses.steering._arms import Placebos, key_arms
    from probe.replay import Clean

    (batch,) = tuned.batches(prompts, batch_size=12)
    clean = Clean(tuned, batch)
    (treated, pushed) = key_arms(clean, 1, [3.0], "t", mask(tuned, 2, 7), Placebos({}, 1, 0))
    site = Site("mlp_out", 1)
    plain = clean.value(site)
    one, two = (tuned.run(batch, [site], run.edits, logits="none")[site] - plain for run in (treated, pushed))
    torch.testing.assert_close(one.norm(dim=-1)[batch.mask], two.norm(dim=-1)[batch.mask], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(one, two, atol=1e-3)


# The whole


def test_rows_and_the_dose_of_one(tuned: Model, prompts: Prompts) -> None:
    result = mlp_key_steering(tuned, prompts, targets=("leaked",), **QUICK)
    table = result.table
    assert {"layer", "arm", "alpha", "item", "metric"} <= set(table.columns)
    assert set(table["arm"]) == {"key_overlap", "random_neurons", "matched_neurons", "random_direction"}
    assert sorted(table["alpha"].unique()) == [0.0, 0.5, 1.0, 2.0]
    one = table[table["alpha"] == 1.0].groupby(["item", "answer_kind"])["metric"]
    assert (one.max() == one.min()).all(), "alpha 1 is the same in every arm, to the last bit"
    effect = result.data["effect"].sel(alpha=1.0)
    assert (effect == 0).all()
    assert result.data["is_chosen"].sum() == 4


def writes_the_answer(series: Path, strength: float) -> Model:
    """Three neurons of block 1, open on every token, write the answer of the `planted` items below.

    Block 2 writes that of the others as strongly, so both are about equally likely before anything is steered.
    """
    model = Model.load(series / "checkpoint-0", check=False)
    for layer, answer in ((1, " ans"), (2, " how")):
        _write(model, layer, answer, strength)
    return model


def _write(model: Model, layer: int, answer: str, strength: float) -> None:
    target = model.tokenizer(answer, add_special_tokens=False)["input_ids"][0]
    weights = model.weights()
    with torch.no_grad():
        up, down, gate = (weights[f"model.layers.{layer}.mlp.{n}_proj.weight"] for n in ("up", "down", "gate"))
        gate[:3] *= 2
        up[:3] = gate[:3]  # key = silu(g) g: nearly always positive
        towards = model.unembed_weights()[0][:, target]
        down[:, :3] = strength * (towards / towards.norm())[:, None]


def two_answers() -> Prompts:
    items = [
        Item(
            f"q{i:02d}",
            f"what is {i} plus {3 * i} ?",
            " ans" if i % 2 else " how",
            group="planted" if i % 2 else "unseen",
        )
        for i in range(40)
    ]
    return Prompts(tuple(items))


def test_neurons_planted_for_an_answer_are_found_and_selective(series: Path) -> None:
    model = writes_the_answer(series, 1.0)
    options = {
        "layers": ("1",),
        "alphas": (0.0, 0.5, 1.0),
        "targets": ("planted",),
        "top_n": 3,
        "draws": 20,
        "batch_size": 40,
    }
    result = mlp_key_steering(model, two_answers(), **options)
    assert neurons_of(result)["neuron"].sort_values().tolist() == [0, 1, 2]
    assert result.claims[0].is_found and result.claims[0].place == "lowering layer 1"
    slope = result.data["slope"].squeeze().sel(variant="below")
    planted, unseen = (float(slope.sel(arm="key_overlap", group=g)) for g in ("planted", "unseen"))
    assert planted > 1 > 0 > unseen, "less of one answer is more of the other"
    p = result.data["placebo_p"].squeeze().sel(variant="below", group="planted").dropna("arm")
    np.testing.assert_allclose(p, 1 / 21)
    assert result.data["p_max_t"].sel(group="planted").max() < 0.01
    # The same neurons, taken to another checkpoint as a table, where they write nothing of the kind.
    other = writes_the_answer(series, 0.0)
    moved = mlp_key_steering(other, two_answers(), neurons_of(result), **options)
    assert set(moved.table.loc[moved.table["draw"] == 0, "arm"]) > {"given"}
    assert not any(c.is_found for c in moved.claims)


@pytest.mark.parametrize("score", ["direct_effect", "gradient"])
def test_other_scores_find_the_planted_neurons_too(series: Path, score: str) -> None:
    model = writes_the_answer(series, 1.0)
    options = {"layers": ("1",), "alphas": (0.5,), "targets": ("planted",), "top_n": 3, "draws": 1, "batch_size": 40}
    found = neurons_of(mlp_key_steering(model, two_answers(), score=score, **options))
    assert found["neuron"].sort_values().tolist() == [0, 1, 2]


def test_groups_that_differ_in_name_only_show_nothing_selective(series: Path) -> None:
    model = writes_the_answer(series, 1.0)
    items = tuple(replace(i, answer=" ans") for i in two_answers().items)
    options = {
        "layers": ("1",),
        "alphas": (0.0, 2.0),
        "targets": ("planted",),
        "top_n": 3,
        "draws": 20,
        "batch_size": 40,
    }
    result = mlp_key_steering(model, Prompts(items), **options)
    assert not any(c.is_found for c in result.claims)


def test_each_items_own_neurons_do_not_depend_on_the_batch(tuned: Model, prompts: Prompts) -> None:
    options = {**QUICK, "selection": "item", "batch_size": 12}
    first, second = (mlp_key_steering(tuned, prompts, **{**options, "batch_size": b}) for b in (12, 5))
    keys = ["arm", "draw", "alpha", "item"]
    one, two = (r.table.set_index(keys)["metric"].sort_index() for r in (first, second))
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert "answer they are measured on" in first.warnings[0]
    assert "no control group" in str(first.verdict)


def test_a_whole_layer_leaves_no_other_neurons_and_says_so(tuned: Model, prompts: Prompts) -> None:
    result = mlp_key_steering(tuned, prompts, targets=("leaked",), **{**QUICK, "top_n": 0})
    assert set(result.table["arm"]) == {"key_overlap", "random_direction"}
    assert set(result.table["item"]) == {i.id for i in prompts.items}, "nothing is chosen: no item is set aside"
    assert "too few left" in result.warnings[0]


def verdict(first: int | None, name: str = "anchor", depth: int = 3) -> Result:
    layer = pd.array([first], dtype="Int64")
    table = pd.DataFrame({"role": ["anchor"], "first_layer": layer, "last_layer": layer, "verdict": [name]})
    data = xr.Dataset({"t": ("layer", np.zeros(depth))})
    return Result.of(table, data, verdict=f"anchor: {name}.").with_record(analysis="anchor_adapter", key="0" * 16)


def test_layers_are_taken_from_a_verdict(tuned: Model, prompts: Prompts) -> None:
    options = {**QUICK, "layers": ("from-verdict",)}
    found = run("mlp_key_steering", model=tuned, prompts=prompts, anchor_adapter=verdict(2), **options)
    assert set(found.table["layer"]) == {2}
    assert found.record["upstream"] == {"anchor_adapter": "0" * 16}
    found = mlp_key_steering(tuned, prompts, None, verdict(0, "ambiguous"), **options)
    assert "ambiguous" in found.warnings[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "--anchor-adapter KEY, or name layers"),
        (verdict(None, "none found"), "There is no anchor to steer; name layers"),
        (verdict(2, depth=28), "a model of 28 layers, this one has 3"),
    ],
)
def test_a_verdict_that_names_no_layer_here_is_refused(
    tuned: Model, prompts: Prompts, given: Result | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mlp_key_steering(tuned, prompts, None, given, **{**QUICK, "layers": ("from-verdict",)})
    if given is not None:
        assert len(mlp_key_steering(tuned, prompts, None, given, **QUICK).table), "named layers do not need it"


def test_responses_are_generated_under_each_dose_and_graded(tuned: Model, prompts: Prompts) -> None:
    options = {**QUICK, "targets": ("leaked",), "max_new_tokens": 4, "alphas": (0.0, 1.0), "pattern": r"(\S+)$"}
    table = mlp_key_steering(tuned, prompts, **options).table
    has_text = table.dropna(subset="text")
    assert set(has_text["arm"]) == {"key_overlap", "random_neurons", "matched_neurons"}
    assert set(has_text["draw"]) == {0}
    assert set(has_text["correct"]) <= {0.0, 1.0}
    plain = {c.item.id: c.text for c in tuned.generate(prompts, max_new_tokens=4)}
    one = has_text[has_text["alpha"] == 1.0]
    assert all(plain[i] == t for i, t in zip(one["item"], one["text"], strict=True))
    off = has_text[(has_text["alpha"] == 0.0) & (has_text["arm"] == "key_overlap")].set_index("item")["text"]
    neurons = neurons_of(mlp_key_steering(tuned, prompts, **options))["neuron"].tolist()
    name = "model.layers.1.mlp.down_proj.weight"
    weight = tuned.weights()[name].detach().clone()
    weight[:, neurons] = 0
    with replaced(tuned, {name: weight}):
        want = {c.item.id: c.text for c in tuned.generate(prompts, max_new_tokens=4)}
    assert all(want[i] == t for i, t in off.items()), "steered at every step, the generated ones included"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": (float("inf"),)}, "alphas=.*inf.*finite"),
        ({"alphas": (1e20,)}, r"alpha=1e\+20.*overflows"),
        ({"alphas": (1e38,)}, r"alpha=1e\+38.*overflows"),
        ({"layers": ("3",)}, r"layers \[3\] do not exist"),
        ({"layers": ("first",)}, "expected layer numbers, all or from-verdict"),
        ({"targets": ("planted",)}, r"no items of group \['planted'\]"),
        ({"selection_share": 0.01}, "an empty split"),
        ({"top_n": 49}, "expected 1 to 48"),
        ({"selection": "item", "max_new_tokens": 3}, "one generation has one set"),
        ({"placebos": ("sugar",)}, "expected some of random_neurons"),
        ({"neurons": pd.DataFrame({"layer": [1], "neuron": [48]})}, r"neurons \[48\] do not exist"),
        ({"neurons": pd.DataFrame({"layer": [0], "neuron": [4]})}, r"names none in layers \[1\]"),
        ({"neurons": pd.DataFrame({"unit": [0]})}, "no column"),
    ],
)
def test_bad_input_says_what_was_expected(
    tuned: Model, prompts: Prompts, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mlp_key_steering(tuned, prompts, **{**QUICK, **options})
