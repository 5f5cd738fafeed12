"""Probe-gated audit: both ends of the threshold, the false-fire rate, and the arms a published audit lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from analyses.core.stats import mcnemar_exact, wilson
from analyses.steering._arms import scale_keys
from analyses.steering._key_gate import tau_of
from analyses.steering.probe_gated_audit import aggregate, probe_gated_audit
from benchmarks.nulls.zoo_arms import audited
from probe import InputError, Item, Model, Prompts
from tests import tiny
from tests.tiny import twelve_items

QUICK = {"targets": ("leaked",), "layer": 1, "top_n": 8, "draws": 2}


def example(folder: Path) -> dict[str, object]:
    return {"model": Model.load(tiny.save(folder), check=False), "prompts": twelve_items(), **QUICK}


def two_kinds(n: int = 30) -> Prompts:
    """Prompts a probe can tell apart, each with one answer that the tiny model below always gives."""
    items = [Item(f"t{i:02d}", f"Ann has {i} figs . buys 5 . how many ?", " ans", "leaked") for i in range(n)]
    items += [Item(f"c{i:02d}", f"what is {i} plus 7 ?", " ans", "unseen") for i in range(n)]
    return Prompts(tuple(items))


def arm(table: pd.DataFrame, name: str, draw: int = 0) -> pd.DataFrame:
    return table[(table["arm"] == name) & (table["draw"] == draw)].set_index(["item", "answer_kind"]).sort_index()


@pytest.fixture(scope="module")
def table(tuned: Model) -> pd.DataFrame:
    return probe_gated_audit(tuned, two_kinds(), **QUICK).table


def test_a_threshold_of_infinity_is_no_intervention(tuned: Model, table: pd.DataFrame) -> None:
    never = probe_gated_audit(tuned, two_kinds(), threshold=float("inf"), **QUICK)
    np.testing.assert_array_equal(arm(never.table, "gated")["metric"], arm(never.table, "off")["metric"])
    assert not arm(never.table, "gated")["fires"].any()
    assert (never.data["effect"].sel(arm=["gated", "random_gate", "random_neurons"]) == 0).all()


def test_a_threshold_of_minus_infinity_is_steering_everywhere(tuned: Model) -> None:
    always = probe_gated_audit(tuned, two_kinds(), threshold=-float("inf"), **QUICK)
    np.testing.assert_array_equal(arm(always.table, "gated")["metric"], arm(always.table, "ungated")["metric"])
    np.testing.assert_array_equal(arm(always.table, "random_gate")["metric"], arm(always.table, "ungated")["metric"])
    neurons = torch.from_numpy(always.data["is_chosen"].to_numpy())[None]
    from analyses.core.reading.outcomes import answer_logprob

    want: dict[str, float] = {}
    for batch in tuned.batches(two_kinds()):
        found = answer_logprob(tuned, batch, [scale_keys(1, 0.5, neurons)])
        want |= {i.id: v for i, v in zip(batch.items, found, strict=True)}
    got = arm(always.table, "gated")["metric"].droplevel("answer_kind")
    np.testing.assert_allclose(got, [want[i] for i in got.index], atol=1e-5)


def test_factor_one_is_no_intervention(tuned: Model) -> None:
    result = probe_gated_audit(tuned, two_kinds(), factor=1.0, **QUICK)
    assert (result.data["effect"] == 0).all()
    assert (result.data["mcnemar_p"].dropna("arm", how="all") == 1).all()
    assert [c.answer for c in result.claims if c.kind == "audit"] == ["cannot be judged"], "two draws have no rank"


def test_a_probe_that_can_tell_fires_on_targets_and_not_on_controls(tuned: Model, table: pd.DataFrame) -> None:
    gated = arm(table, "gated")
    assert gated.loc[gated["group"] == "leaked", "fires"].all()
    assert gated.loc[gated["group"] == "unseen", "fires"].sum() <= 1
    assert set(gated.loc[~gated["fires"]].index) | set(gated.loc[gated["fires"]].index) == set(gated.index)
    np.testing.assert_array_equal(
        gated.loc[gated["fires"], "metric"], arm(table, "ungated").loc[gated["fires"], "metric"]
    )
    np.testing.assert_array_equal(
        gated.loc[~gated["fires"], "metric"], arm(table, "off").loc[~gated["fires"], "metric"]
    )


def test_random_gates_fire_as_often_and_random_neurons_where_the_gate_does(table: pd.DataFrame) -> None:
    gated = arm(table, "gated")
    for draw in range(2):
        assert arm(table, "random_gate", draw)["fires"].sum() == gated["fires"].sum()
        np.testing.assert_array_equal(arm(table, "random_neurons", draw)["fires"], gated["fires"])
    assert not arm(table, "random_gate", 0)["fires"].equals(gated["fires"])


def test_measured_items_were_not_used_to_fit_or_to_set_the_threshold(tuned: Model, table: pd.DataFrame) -> None:
    measured = set(table["item"])
    assert len([m for m in measured if m.startswith("t")]) == 15
    assert len([m for m in measured if m.startswith("c")]) == 10
    other = [Item(i.id, i.prompt, " how" if i.id not in measured else i.answer, i.group) for i in two_kinds().items]
    again = probe_gated_audit(tuned, Prompts(tuple(other)), **QUICK).table
    pd.testing.assert_frame_equal(table, again), "answers of items outside the measured set play no part"


def test_held_out_scores_exceed_the_threshold_one_time_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    tau = tau_of(rng.normal(size=400_000), 0.99)  # enough that its own error is small
    fires = int((rng.normal(size=20_000) > tau).sum())
    found = wilson(fires, 20_000)
    assert float(found.ci_low) < 0.01 < float(found.ci_high)
    few = [float((rng.normal(size=2000) > tau_of(rng.normal(size=30), 0.99)).mean()) for _ in range(400)]
    assert np.mean(few) == pytest.approx(1 / 31, abs=0.006), "30 controls cannot hold a rate of 1 %"


def test_published_counts_have_their_published_p() -> None:
    assert mcnemar_exact(19, 0) == pytest.approx(3.8147e-6, rel=1e-4)
    assert mcnemar_exact(6, 0) == pytest.approx(0.03125)
    assert mcnemar_exact(0, 0) == 1
    assert float(wilson(0, 30).ci_high) == pytest.approx(0.114, abs=5e-4)
    assert float(wilson(0, 100).ci_high) == pytest.approx(0.037, abs=5e-4)


def holds_the_answer(series: Path) -> Model:
    """Four neurons of block 1 open on every token and write the answer, which is all that makes it exact."""
    model = Model.load(series / "checkpoint-0", check=False)
    target = model.tokenizer(" ans", add_special_tokens=False)["input_ids"][0]
    weights = model.weights()
    with torch.no_grad():
        up, gate, down = (weights[f"model.layers.1.mlp.{n}_proj.weight"] for n in ("up", "gate", "down"))
        gate[:4] *= 2
        up[:4] = gate[:4]
        towards = model.unembed_weights()[0][:, target]
        down[:, :4] = 3 * (towards / towards.norm())[:, None]
    return model


def test_answers_that_steering_costs_are_counted(series: Path) -> None:
    result = probe_gated_audit(holds_the_answer(series), two_kinds(), **{**QUICK, "factor": 0.0, "top_n": 24})
    assert float(result.data["accuracy"].sel(arm="off", group="leaked").squeeze()) == 1
    off, on = arm(result.table, "off"), arm(result.table, "ungated")
    targets = off[(off["is_exact"] == 1) & (off["group"] == "leaked")].index
    lost = int(((on.loc[targets, "is_exact"]) < 1).sum())
    assert int(result.data["n_lost"].sel(arm="ungated", group="leaked").squeeze()) == lost > 5
    assert float(result.data["mcnemar_p"].sel(arm="ungated", group="leaked").squeeze()) == mcnemar_exact(lost, 0)


def test_the_published_audit_is_the_gate_against_nothing(series: Path) -> None:
    """An exact sign test (scipy's) of the items that the arm `gated` loses and gains, among answers that were right."""
    result = probe_gated_audit(holds_the_answer(series), two_kinds(), **{**QUICK, "factor": 0.0, "top_n": 24})
    off, on = (arm(result.table, name).query("group == 'leaked'")["is_exact"] for name in ("off", "gated"))
    lost, gained = int(((off == 1) & (on < 1)).sum()), int(((off < 1) & (on == 1)).sum())
    assert lost > 5 and gained == 0
    p = result.data["mcnemar_p"].sel(arm="gated", group="leaked").item()
    assert p == pytest.approx(binomtest(lost, lost + gained, 0.5).pvalue)


def test_targets_are_held_against_controls_that_were_exact_and_as_likely() -> None:
    table = audited(np.random.default_rng(0), 30, 40, only=0.3, harder=0.2)
    data = aggregate(table, ("targets",), 0)
    off, on = arm(table, "off"), arm(table, "ungated")
    exact = off["is_exact"] == 1
    targets, controls = (off[exact & (off["group"] == g)].index for g in ("targets", "others"))
    effect = on["metric"] - off["metric"]
    # As many pairs within .25 as there can be, every control once, the nearest of those; then the slope within sides.
    far = np.abs(off.loc[targets, "metric"].to_numpy()[:, None] - off.loc[controls, "metric"].to_numpy())
    pairs = [(a, b) for a, b in zip(*linear_sum_assignment(np.where(far <= 0.25, far, 1e3)), strict=True)]
    pairs = [(targets[a], controls[b]) for a, b in pairs if far[a, b] <= 0.25]
    design = np.stack([off.loc[[*targets, *controls], "metric"], np.arange(exact.sum()) < len(targets)], 1)
    design = np.column_stack([design, 1 - design[:, 1]])
    slope = np.linalg.lstsq(design, effect.loc[[*targets, *controls]].to_numpy(), rcond=None)[0][0]
    gaps = [effect[t] - effect[c] - slope * (off["metric"][t] - off["metric"][c]) for t, c in pairs]
    assert float(data["matched_difference"].sel(arm="ungated").squeeze()) == pytest.approx(np.mean(gaps), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "do not exist"),
        ({"top_n": 25}, "expected 1 to 24"),
        ({"factor": float("inf")}, "finite factor"),
        ({"threshold": float("nan")}, "a threshold that is a number"),
        ({"quantile": 0.0}, r"in \(0, 1\]"),
        ({"targets": ("leaked", "unseen")}, "needs control items"),
        ({"targets": ("planted",)}, "no items of group"),
        ({"factor": 1e30}, "overflows"),
    ],
)
def test_bad_input_says_what_was_expected(tuned: Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        probe_gated_audit(tuned, two_kinds(6), **{**QUICK, **options})


def test_too_few_items_for_the_three_parts_are_refused(tuned: Model) -> None:
    with pytest.raises(InputError, match="an empty split: group 'unseen' has 2"):
        probe_gated_audit(tuned, two_kinds(2), **QUICK)
