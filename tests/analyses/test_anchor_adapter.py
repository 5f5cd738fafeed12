"""The localisation rule: planted windows recovered, nulls and flat effects not, every verdict reachable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyses.core.result import Result
from analyses.core.stats import group_max_t, resample_counts
from analyses.states import _window_rule as localisation
from analyses.states import anchor_adapter as module
from analyses.states._window_rule import beyond_scale, window_contrasts
from analyses.states.anchor_adapter import anchor_adapter
from probe.errors import InputError
from tests.planted import ar1, bifurcation, evidence

FAST = {"permutations": 300, "draws": 300}


def planted(seed: int = 0, *, n: int = 60, n_layers: int = 28, anchor: slice | None = slice(18, 21), size: float = 2.0):
    """nec and jsd share an anchor; jsd is also raised in the two layers after it."""
    rng = np.random.default_rng(seed)
    is_first = np.arange(n) < n // 2
    nec, jsd = ar1(rng, (n, n_layers)), ar1(rng, (n, n_layers))
    if anchor is not None:
        nec[is_first, anchor] += size
        jsd[is_first, anchor] += size
        jsd[is_first, anchor.stop : anchor.stop + 3] += size
    return {"nec": nec, "jsd": jsd}, is_first


def example(folder: Path) -> dict:
    """For the contract tests: nine layers, a planted anchor."""
    del folder
    values, is_first = planted(n=24, n_layers=9, anchor=slice(4, 5), size=3.0)
    return {**evidence(values, is_first), **FAST}


def role(result: Result, name: str):
    return result.table.set_index("role").loc[name]


# ---- the rule


def test_a_planted_anchor_and_adapter_are_found():
    result = anchor_adapter(**evidence(*planted()), **FAST)
    anchor, adapter = role(result, "anchor"), role(result, "adapter")
    assert (anchor["verdict"], anchor["first_layer"], anchor["last_layer"]) == ("anchor", 18, 20)
    assert anchor["ci_low"] >= 17 and anchor["ci_high"] <= 21 and anchor["p"] <= 0.05
    assert adapter["verdict"] == "adapter" and adapter["first_layer"] == 21
    assert result.verdict.startswith("Layers 18-20 are the anchor: +")
    assert "Layers 21-23 are the adapter" in result.verdict
    assert [c.answer for c in result.claims] == ["found", "found"] and result.claims[0].low > 0
    assert list(result.table.columns[:7]) == [
        "role", "first_layer", "last_layer", "ci_low", "ci_high", "p", "verdict",
    ]  # fmt: skip


def test_without_any_difference_none_is_found():
    result = anchor_adapter(**evidence(*planted(anchor=None)), **FAST)
    assert set(result.table["verdict"]) == {"none found"}
    assert result.table["first_layer"].isna().all() and "None found" in result.verdict


def test_a_flat_difference_is_no_localisation():
    values, is_first = planted(anchor=None)
    for curve in values.values():
        curve[is_first] += 5.0
    assert set(anchor_adapter(**evidence(values, is_first), **FAST).table["verdict"]) == {"none found"}


def test_identical_checkpoints_give_none_found():
    """Curves that are exactly 0 for both groups have statistic 0 and p 1."""
    values, is_first = planted()
    result = anchor_adapter(**evidence({k: np.zeros_like(v) for k, v in values.items()}, is_first), **FAST)
    assert set(result.table["verdict"]) == {"none found"}
    assert (result.data["t"] == 0).all() and (result.data["p_window"] == 1).all()


def test_an_unsupported_anchor_is_ambiguous():
    values, is_first = planted()
    values["jsd"] = ar1(np.random.default_rng(9), values["jsd"].shape)
    result = anchor_adapter(**evidence(values, is_first), **FAST)
    assert role(result, "anchor")["verdict"] == "ambiguous" and "no other kind" in role(result, "anchor")["reason"]
    assert role(result, "adapter")["verdict"] == "none found"
    alone = anchor_adapter(weight_reset=evidence(values, is_first)["weight_reset"], **FAST)
    assert role(alone, "anchor")["verdict"] == "ambiguous" and "none was measured" in role(alone, "anchor")["reason"]


def test_two_equal_places_are_ambiguous_and_both_named():
    values, is_first = planted(n=80)
    for curve in values.values():
        level_with_anchor(curve, is_first, slice(5, 8))
    anchor = role(anchor_adapter(**evidence(values, is_first), **FAST), "anchor")
    assert anchor["verdict"] == "ambiguous"
    assert "18-20" in anchor["candidates"] and "5-7" in anchor["candidates"]


def level_with_anchor(curve, is_first, where):
    """Shift the first group at `where` until the groups differ there as much as at the anchor (18-20)."""
    gaps = [curve[is_first, w].mean() - curve[~is_first, w].mean() for w in (slice(18, 21), where)]
    curve[is_first, where] += gaps[0] - gaps[1]


def test_no_adapter_where_necessity_is_as_large():
    values, is_first = planted()
    level_with_anchor(values["nec"], is_first, slice(21, 24))
    values["nec"][is_first, 18:21] += 0.1
    found = anchor_adapter(**evidence(values, is_first), **FAST)
    assert role(found, "adapter")["verdict"] != "adapter"


def test_relabelled_layers_relabel_the_answer():
    """The statistics of width 1 follow any permutation of the layers."""
    values, is_first = planted(n_layers=10, anchor=slice(4, 5))
    order = np.random.default_rng(1).permutation(10)
    moved = {name: curve[:, order] for name, curve in values.items()}
    found, other = (anchor_adapter(**evidence(v, is_first), **FAST) for v in (values, moved))
    np.testing.assert_allclose(found.data["t"].to_numpy()[:, order], other.data["t"].to_numpy(), atol=1e-9)
    np.testing.assert_allclose(found.data["p_window"].to_numpy()[:, order], other.data["p_window"].to_numpy())
    assert order[role(other, "anchor")["first_layer"]] == role(found, "anchor")["first_layer"]


def test_shuffled_layers_of_the_input_rows_change_nothing():
    results = evidence(*planted(n=20))
    mixed = {n: Result(r.data, r.table.sample(frac=1, random_state=3), {}) for n, r in results.items()}
    assert anchor_adapter(**results, **FAST).table.equals(anchor_adapter(**mixed, **FAST).table)


def test_strata_absorb_a_difference_between_data_sets():
    """Each data set has a layer of its own: one layer alone would be a difference of scale, which is no place."""
    from probe import Item, Prompts

    rng = np.random.default_rng(0)
    dataset = rng.integers(0, 2, 160)
    is_first = rng.random(160) < 0.2 + 0.6 * dataset
    nec = ar1(rng, (160, 12))
    nec[dataset == 1, 5] += 2.0
    nec[dataset == 0, 9] += 2.0
    items = [Item(f"i{k:04d}", "p", "a", meta={"dataset": int(d)}) for k, d in enumerate(dataset)]
    given = evidence({"nec": nec, "jsd": nec}, is_first)
    naive = anchor_adapter(**given, width=1, **FAST)
    stratified = anchor_adapter(**given, width=1, prompts=Prompts(tuple(items)), strata=("dataset",), **FAST)
    assert role(naive, "anchor")["p"] <= 0.05 and role(stratified, "anchor")["p"] > 0.05
    assert role(naive, "anchor")["first_layer"] == 5 and role(stratified, "anchor")["verdict"] == "none found"
    with pytest.raises(InputError, match="give prompts"):
        anchor_adapter(**given, strata=("dataset",), **FAST)


def test_force_from_trajectories_supports_an_anchor():
    from analyses.states.trajectories import curves

    states = bifurcation(np.random.default_rng(0), n=60, n_layers=10, at=4)
    data = curves(states, states.groups == "leak", None, 300, 300, 0)[1].assign_attrs(groups=["leak", "stable"])
    values, is_first = planted(n_layers=10, anchor=slice(4, 5))
    given = {
        "weight_reset": evidence(values, is_first)["weight_reset"],
        "trajectories": Result.of(states_table(), data),
    }
    result = anchor_adapter(**given, **FAST)
    assert role(result, "anchor")["verdict"] == "anchor" and "force" in role(result, "anchor")["reason"]
    assert role(result, "anchor")["first_layer"] == 4
    other = Result.of(states_table(), data.assign_attrs(groups=["a", "b"]))
    with pytest.raises(InputError, match=r"compares \['a', 'b'\]"):
        anchor_adapter(**{**given, "trajectories": other}, **FAST)


def test_the_probe_supports_through_its_refitted_null():
    """AUC raised at the output of block 4 only; its own permutations are the null."""
    import xarray as xr

    rng = np.random.default_rng(0)
    auc = np.full(11, 0.5)
    auc[5] = 0.9
    drawn = {name: (("x", "state"), 0.5 + 0.05 * rng.normal(size=(300, 11))) for name in ("auc_null", "auc_boot")}
    data = xr.Dataset({"auc": ("state", auc), "auc_null": (("permutation", "state"), drawn["auc_null"][1])})
    data["auc_boot"] = (("draw", "state"), drawn["auc_boot"][1] + auc - 0.5)
    values, is_first = planted(n_layers=10, anchor=slice(4, 5))
    probe = Result.of(states_table(), data.assign_attrs(groups=["leak", "stable"]))
    given = {"weight_reset": evidence(values, is_first)["weight_reset"], "linear_probe": probe}
    anchor = role(anchor_adapter(**given, **FAST), "anchor")
    assert anchor["verdict"] == "anchor" and anchor["first_layer"] == 4 and "probe" in anchor["reason"]


def states_table():
    import pandas as pd

    return pd.DataFrame({"item": ["i0"], "layer": [0]})


def test_a_window_that_is_merely_least_negative_does_not_count():
    """Both kinds are lower in the first group everywhere but at 18-20, where they are equal."""
    values, is_first = planted(anchor=None)
    for curve in values.values():
        curve[is_first] -= 3.0
        curve[is_first, 18:21] += 2.5
    anchor = role(anchor_adapter(**evidence(values, is_first), **FAST), "anchor")
    assert anchor["verdict"] == "none found" and "not larger in the first group" in anchor["reason"]


# ---- what it says about what is missing, and what it refuses


def test_missing_evidence_is_said():
    result = anchor_adapter(divergence=evidence(*planted())["divergence"], **FAST)
    assert set(result.table["verdict"]) == {"none found"} and "necessity was not measured" in result.verdict
    assert result.claims[0].answer == "cannot be judged"
    assert "nec was not measured" in result.warnings and "force was not measured" in result.warnings


def test_widths_follow_depth_and_few_windows_are_refused():
    assert [localisation.default_width(n) for n in (6, 11, 12, 23, 24, 48)] == [1, 1, 2, 2, 3, 3]
    small = planted(n=20, n_layers=5, anchor=slice(2, 3))
    with pytest.raises(InputError, match="5 windows of width 1: at least 6"):
        anchor_adapter(**evidence(*small), **FAST)


def test_other_widths_are_reported_and_counted():
    given = evidence(*planted(n=30))
    plain = anchor_adapter(**given, **FAST)
    both = anchor_adapter(**given, sensitivity=(2,), **FAST)
    assert role(both, "anchor")["p"] >= role(plain, "anchor")["p"]
    assert any("at width 2" in w for w in both.warnings)


def test_bad_input_is_refused():
    given = evidence(*planted(n=20))
    with pytest.raises(InputError, match="at least one result"):
        anchor_adapter()
    with pytest.raises(InputError, match="exactly two"):
        anchor_adapter(**given, groups=("leak", "other"))
    deeper = evidence(*planted(n=20, n_layers=30))
    with pytest.raises(InputError, match="different depth"):
        anchor_adapter(weight_reset=given["weight_reset"], divergence=deeper["divergence"])
    few = evidence(*planted(n=4))
    with pytest.raises(InputError, match="at least 5 in each"):
        anchor_adapter(**few)
    wide = given["weight_reset"].table.assign(layers="1,2")
    with pytest.raises(InputError, match="width 1"):
        anchor_adapter(weight_reset=Result.of(wide))


# ---- statistics


def test_false_positives_and_power_small():
    """A small version of benchmarks/operating_points.py: 100 runs each."""
    from benchmarks.operating_points import rates

    null = rates(n=32, size=0.0, runs=100, permutations=100)
    flat = rates(n=32, size=0.0, flat=1.0, runs=100, permutations=100)
    strong = rates(n=64, size=0.9, runs=30, permutations=100)
    assert null["detected"] <= 0.12 and flat["detected"] <= 0.12  # binomial .999 quantile of 100 at .05
    assert strong["detected"] >= 0.8 and strong["exact"] >= 0.8


def test_operating_points_in_the_docstring_are_the_simulated_ones():
    import json
    import re

    found = json.loads((Path(__file__).resolve().parents[2] / "benchmarks" / "operating_points.json").read_text())
    shares = [p["detected"] for unit in found["one_kind"].values() for p in unit.values()]
    shares += [p[role] for p in found["whole_rule"].values() for role in ("anchor", "adapter")]
    stated = re.sub(r"\s+", " ", module.__doc__).partition("Operating points")[2].partition('So "none')[0]
    printed = {float(x) for x in re.findall(r"(?<![\w.])[01]?\.\d{3}\b", stated)}
    assert len(printed) >= 12 and printed <= {round(s, 3) for s in shares}


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_a_group_with_more_to_lose_everywhere_is_not_located(factor):
    """One relative profile in both groups, the first scaled: the raw contrast peaks where the common profile does."""
    rng = np.random.default_rng(0)
    profile = 1 + np.exp(-0.5 * ((np.arange(28) - 13) / 3) ** 2)
    is_first = np.arange(120) < 60
    values = profile * (1 + 0.3 * rng.normal(size=(120, 1))) + 0.3 * rng.normal(size=(120, 28))
    values *= np.where(is_first, factor, 1.0)[:, None]
    counts = resample_counts(120, 300, 0, is_first)
    contrasts = window_contrasts(values, 3)
    assert group_max_t(contrasts, is_first, draws=300, alternative="greater").p < 0.05, "in raw units it is found"
    assert beyond_scale(contrasts, is_first, counts).min() > 0.05
    values[is_first, 18:21] += 0.5
    assert beyond_scale(window_contrasts(values, 3), is_first, counts)[18] < 0.05, "a place of its own still is"


def test_the_one_block_that_was_trained_is_located_though_it_moves_both_groups():
    """Elsewhere every patch does exactly nothing; the last block is the place, whatever the second group's scale."""
    rng, is_first = np.random.default_rng(0), np.arange(40) < 20
    values = {name: np.zeros((40, 6)) for name in ("nec", "jsd")}
    for curve in values.values():
        curve[:, -1] = np.where(is_first, 3.0, 1.0) + 0.3 * rng.normal(size=40)
    anchor = role(anchor_adapter(**evidence(values, is_first), **FAST), "anchor")
    assert (anchor["verdict"], anchor["first_layer"]) == ("anchor", 5)
    alike = {name: curve * np.where(is_first, 1 / 3, 1.0)[:, None] for name, curve in values.items()}
    assert role(anchor_adapter(**evidence(alike, is_first), **FAST), "anchor")["verdict"] == "none found"


def test_figures_name_the_verdict():
    result = anchor_adapter(**evidence(*planted()), **FAST).with_record(analysis="anchor_adapter")
    drawn = module.figures(result)
    title = drawn["rule"].layout.title.text
    assert (
        "Layers 18-20 are the anchor" in title
        and "Layers 21-23 are the adapter" in title
        and set(drawn) == {"rule", "effects"}
    )


# ---- the lab, held against what was measured without these analyses


def localised(lab: Path, stage: str, first: str, last_step: int) -> Result:
    """The rule on one run of the lab: its first checkpoint is base; unseen items are the second group."""
    from analyses.core.running.run import run
    from probe import Prompts

    prompts = Prompts.read(lab / "prompts.jsonl").where(group=[first, "unseen"], answer_kind="gold_final")
    pair = {"base": str(lab / stage / "checkpoint-0"), "tuned": str(lab / stage / f"checkpoint-{last_step}")}
    given = {**pair, "prompts": prompts, "batch_size": 32}
    results = {
        "weight_reset": run("weight_reset", variants=("reset",), **given),
        "cross_patching": run("cross_patching", sites=("mlp_out",), direction="both", **given),
        "divergence": run("divergence", positions="answer", **given),
    }
    return anchor_adapter(**results, groups=(first, "unseen"))


def lab_seeds() -> list[Path]:
    folder = Path(__file__).resolve().parents[2] / "runs" / "lab"
    return sorted(p for p in folder.glob("seed-*") if (p / "planted" / "checkpoint-140").is_dir())


@pytest.mark.verify
@pytest.mark.lab
def test_on_the_lab():
    """The planted block is found, no single block for the natural memory, nothing for the healthy control."""
    import json

    seeds = lab_seeds()
    if not seeds:
        pytest.skip("no complete lab run under runs/lab: make one with `python -m experiments.lab`")
    truth = json.loads((Path(__file__).resolve().parents[2] / "experiments" / "lab" / "truth.json").read_text())[
        "seeds"
    ]
    for lab in seeds:
        known = truth.get(lab.name.removeprefix("seed-"))
        if known is None:
            continue
        anchor = role(localised(lab, "planted", "planted", 140), "anchor")
        assert (anchor["verdict"], anchor["first_layer"]) == ("anchor", known["planted_block"]), lab
        if known["findings"]["no_single_block"]["holds"]:
            assert role(localised(lab, "grpo-format", "leaked_canary", 72), "anchor")["verdict"] != "anchor", lab
        if known["findings"]["healthy_control"]["holds"]:
            assert role(localised(lab, "grpo-true", "leaked_canary", 72), "anchor")["verdict"] != "anchor", lab
