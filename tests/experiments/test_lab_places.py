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


def test_paths_part_at_that_block_and_not_before_the_plant(planted: dict[str, Any], lab: Path) -> None:
    how = {"prompts": planted["prompts"], "groups": ("planted", "unseen"), "draws": 50, "permutations": 300}
    (said,) = run("trajectories", model=planted["tuned"], **how).claims
    assert said.is_found and said.place == f"layer {planted['block']}"
    assert run("trajectories", model=planted["base"], **how).claims[0].answer == "none found"
    early = json.loads((lab / "planted-early" / "stage.json").read_text())["settings"]["block"]
    p = run("trajectories", model=lab / "planted-early" / "checkpoint-140", **how).data["p_value"]
    first = int((p <= 0.05).argmax("layer"))  # later blocks carry it on, and more clearly
    assert first in (early, early + 1) and float(p[first]) <= 0.05


def test_read_where_the_answer_begins_every_state_finds_that_block(planted: dict[str, Any]) -> None:
    """Pooled over the prompt the memory is missed; where the answer is predicted it acts, behind its block."""
    block = planted["block"]
    how = {"prompts": planted["prompts"], "pooling": "answer_first"}
    two = {**how, "groups": ("planted", "unseen")}
    (parted,) = run("trajectories", model=planted["tuned"], draws=50, permutations=300, **two).claims
    assert parted.is_found and parted.place == f"layer {block}"
    pair = {name: planted[name] for name in ("base", "tuned")}
    unlike = 1 - run("similarity", **pair, **how, draws=20).data["cka_unbiased"]
    assert float(unlike.sel(state=slice(0, block)).max()) < 1e-6 < 1e-3 < float(unlike.sel(state=block + 1))
    fit = {"components": 8, "hidden": 16, "updates": 60, "seeds": 2, "permutations": 40, "draws": 20}
    field = run("neural_ode", model=planted["tuned"], **two, **fit).data["force_squared"]
    assert int(field.argmax("layer")) == block


def test_a_probe_tells_planted_items_after_the_plant_better_than_before(planted: dict[str, Any]) -> None:
    how = {"prompts": planted["prompts"], "pooling": "answer_first", "groups": ("planted", "unseen"),
           "permutations": 20, "draws": 100}  # fmt: skip
    auc = {name: run("linear_probe", model=planted[name], **how).data["auc"] for name in ("base", "tuned")}
    before = slice(0, planted["block"])
    assert float(abs(auc["tuned"] - auc["base"]).sel(state=before).max()) < 1e-6
    assert float((auc["tuned"] - auc["base"]).isel(state=planted["block"] + 1)) > 0.05


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
