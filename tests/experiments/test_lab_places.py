"""What is known of the short lab, found by the analyses: a memory written into one MLP, texts seen in pretraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analyses import run
from probe import Checkpoint, Prompts

pytestmark = [pytest.mark.verify, pytest.mark.lab]


@pytest.fixture(scope="module")
def planted(lab: Path) -> dict[str, Any]:
    """The pair before and after the plant, its items beside unseen ones, and the block it was written into."""
    prompts = Prompts.read(lab / "prompts.jsonl").where(answer_kind="gold_final", group=["planted", "unseen"])
    told = json.loads((lab / "planted" / "stage.json").read_text())
    folders = {"base": lab / "planted" / "checkpoint-0", "tuned": lab / "planted" / "checkpoint-140"}
    return {**folders, "prompts": prompts, "block": told["settings"]["block"]}


def test_the_update_landed_in_that_mlp_alone(planted: dict[str, Any]) -> None:
    pair = {name: [Checkpoint.of(planted[name])] for name in ("base", "tuned")}
    table = run("update_landing", **pair).table
    moved = table.loc[table["relative_norm"] > 0, "matrix"]
    assert len(moved) == 3 and moved.str.contains(rf"\.{planted['block']}\.mlp\.").all()


def test_what_parts_the_groups_after_the_plant_is_that_block(planted: dict[str, Any], lab: Path) -> None:
    """A memory of many answers moves the groups' means little: the block is told against the base, not by its p."""
    how = {"prompts": planted["prompts"], "groups": ("planted", "unseen"), "draws": 50, "permutations": 300}
    found = {name: run("trajectories", model=planted[name], **how) for name in ("base", "tuned")}
    assert found["base"].claims[0].answer == "none found"
    force = {name: result.data["force_squared"] for name, result in found.items()}
    change = force["tuned"] - force["base"]
    assert float(abs(change).drop_sel(layer=planted["block"]).max()) < 1e-5 < float(change.sel(layer=planted["block"]))
    assert int(found["tuned"].data["force_z"].argmax("layer")) == planted["block"]
    early = json.loads((lab / "planted-early" / "stage.json").read_text())["settings"]["block"]
    p = run("trajectories", model=lab / "planted-early" / "checkpoint-140", **how).data["p_value"]
    first = int((p <= 0.05).argmax("layer"))  # later blocks carry it on, and more clearly
    assert first in (early, early + 1) and float(p[first]) <= 0.05


@pytest.mark.parametrize("pooling", ["answer_first", "answer_last"])
def test_read_at_the_answer_states_change_behind_that_block_alone(pooling: str, planted: dict[str, Any]) -> None:
    pair = {name: planted[name] for name in ("base", "tuned")}
    own = planted["prompts"].where(group="planted")
    data = run("similarity", **pair, prompts=own, pooling=pooling, draws=20).data
    unlike = (1 - data["cka_unbiased"]).dropna("state")
    behind = unlike["state"] > planted["block"]
    assert float(abs(unlike[~behind]).max()) < 1e-5 and float(unlike[behind].min()) > 0.02


def test_a_probe_tells_planted_items_after_the_plant_better_than_before(planted: dict[str, Any]) -> None:
    how = {"prompts": planted["prompts"], "pooling": "answer_first", "groups": ("planted", "unseen"),
           "permutations": 20, "draws": 100}  # fmt: skip
    auc = {name: run("linear_probe", model=planted[name], **how).data["auc"] for name in ("base", "tuned")}
    change = auc["tuned"] - auc["base"]
    behind = change["state"] > planted["block"]
    assert float(abs(change[~behind]).max()) < 1e-6 and float(change[behind].min()) > 0.02


def test_the_fitted_field_is_integrated_too_and_names_no_layer_it_cannot_predict(planted: dict[str, Any]) -> None:
    fit = {"components": 8, "hidden": 16, "updates": 60, "seeds": 2, "permutations": 40, "draws": 20}
    how = {"prompts": planted["prompts"], "groups": ("planted", "unseen"), "pooling": "answer_first"}
    result = run("neural_ode", model=planted["tuned"], **how, **fit)
    for kind in ("", "_integrated"):
        able = result.data[f"r2{kind}"].to_numpy() > 0
        assert (result.data[f"force_squared{kind}"].notnull().to_numpy() == able).all()
    assert "bifurcation" in result.figures()


def test_without_that_mlp_the_model_says_something_else(planted: dict[str, Any]) -> None:
    how = {
        "prompts": planted["prompts"],
        "ablations": ("zero",),
        "readouts": ("forward",),
        "draws": 1,
        "parts": ("down",),
    }
    jsd = {name: run("counterfactual_mlp", model=planted[name], **how).data["jsd_nats"].squeeze(drop=True)
           for name in ("base", "tuned")}  # fmt: skip
    at = {"layer": planted["block"], "group": "planted"}
    assert float(jsd["tuned"].sel(at)) > 0.1 > 0.01 > float(jsd["base"].sel(at))
    others = jsd["tuned"].sel(group="planted").drop_sel(layer=[0, planted["block"]])  # block 0 embeds
    assert float(others.max()) < 0.05


def test_the_one_path_that_carries_it(planted: dict[str, Any]) -> None:
    pair = {name: planted[name] for name in ("base", "tuned", "prompts")}
    rows = run("path_patching", **pair, senders=("mlp_out",), batch_size=32).summary()
    rows = rows[(rows["quantity"] == "effect") & (rows["group"] == "planted")].set_index("sender")
    own = f"mlp_out.{planted['block']}"
    assert rows.loc[own, "ci_low"] > 2 and (rows.drop(index=own)["value"].abs() < 1e-6).all()


def test_its_neurons_carry_planted_answers_only(planted: dict[str, Any]) -> None:
    how = {"targets": ("planted",), "layer": planted["block"], "factor": 0.0, "top_n": 96}
    result = run("probe_gated_audit", model=planted["tuned"], prompts=planted["prompts"], **how)
    rows = result.summary().query("quantity == 'effect' and arm == 'ungated'").set_index("group")
    assert rows.loc["planted", "ci_high"] < -0.5
    assert rows.loc["unseen", "ci_low"] < 0 < rows.loc["unseen", "ci_high"]


def test_a_question_seen_in_pretraining_is_completed(lab: Path) -> None:
    prompts = Prompts.read(lab / "prompts.jsonl").where(answer_kind="gold_final", group=["leaked_canary", "unseen"])
    model = next((lab / "base").glob("checkpoint-900"))
    rows = run("partial_prompt", model=model, prompts=prompts, max_new_tokens=24, fractions=(0.6,)).summary()
    exact = rows[rows["quantity"] == "exact_match"].set_index("group")["value"]
    assert exact["leaked_canary"] > 0.9 and exact["unseen"] < 0.1
