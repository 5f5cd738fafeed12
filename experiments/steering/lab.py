"""A memory whose block is known, and memories whose place is not: turned down, turned up, against placebos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from analyses import Result, Store, run
from probe import Prompts

KIND = "gold_final"
DOSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
NATURAL = ("leaked_true", "leaked_canary")
LAST = {"base": 1800, "planted": 140}


def of_seed(folder: Path, store: Store, *, draws: int = 20, limit: int | None = None) -> dict[str, Any]:
    """Every experiment on one seed's lab, by name; each number with its interval."""
    prompts = Prompts.read(folder / "prompts.jsonl").where(answer_kind=KIND)
    prompts = prompts if limit is None else prompts.subset(limit)
    models = {name: checkpoint(folder, name) for name in ("base", "planted")}
    block = int(json.loads((folder / "planted" / "stage.json").read_text())["settings"]["block"])
    common: dict[str, Any] = {"prompts": prompts, "batch_size": 64, "store": store}
    steer: dict[str, Any] = {**common, "alphas": DOSES, "draws": draws}
    planted: dict[str, Any] = {**steer, "model": models["planted"], "targets": ("planted",)}
    at_block = {"layers": (str(block),)}
    whole = run("mlp_key_steering", **planted, top_n=0)
    natural = run("mlp_key_steering", **{**steer, "prompts": unplanted(prompts)}, model=models["base"],
                  targets=NATURAL, top_n=0)  # fmt: skip
    few = {
        "ten chosen on other items": run("mlp_key_steering", **planted, **at_block, top_n=10),
        "ten chosen for each item": run("mlp_key_steering", **planted, **at_block, top_n=10, selection="item"),
    }
    told = run("mlp_key_steering", **{**planted, "alphas": (0.0, 0.5, 1.0, 2.0), "placebos": ()}, **at_block, top_n=0,
               max_new_tokens=8, pattern=r"^ans (\S+)")  # fmt: skip
    reset = run("weight_reset", base=models["base"], tuned=models["planted"], parts=("mlp",), draws=5,
                variants=("reset", "keep_only", "randomise"), **common)  # fmt: skip
    audit = run("probe_gated_audit", model=models["planted"], targets=("planted",), layer=block, draws=draws, **common)
    return {
        "block": block,
        "whole layers": {
            "verdict": whole.verdict,
            "layers": by_layer(whole, ("planted",)),
            "block": doses(whole, block),
        },
        "natural": {"verdict": natural.verdict, "layers": by_layer(natural, NATURAL)},
        "few neurons": {name: {"verdict": r.verdict, **at_layer(r, block, ("planted",))} for name, r in few.items()},
        "responses": {g: accuracy(told, block, g) for g in ("planted", *NATURAL, "unseen")},
        "reset": {g: windows(reset, g) for g in ("planted", *NATURAL, "unseen")},
        "audit": {"verdict": audit.verdict, "matched_difference": matched(audit)},
        "keys": {"whole layers": whole.key, "natural": natural.key, "reset": reset.key, "audit": audit.key},
    }


def checkpoint(folder: Path, stage: str) -> str:
    """The last checkpoint of a stage."""
    found = sorted((folder / stage).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return str(found[-1])


def unplanted(prompts: Prompts) -> Prompts:
    """The items that exist before planting."""
    return prompts.where(group=(*NATURAL, "unseen"))


def by_layer(result: Result, targets: tuple[str, ...]) -> dict[str, Any]:
    """Slopes when lowered, on targets and on the rest, and how many placebo draws reach them."""
    return {str(int(n)): at_layer(result, int(n), targets) for n in result.data["layer"].values}


def at_layer(result: Result, layer: int, targets: tuple[str, ...]) -> dict[str, Any]:
    """One layer's slopes below and above, by group, with the largest placebo p on the targets."""
    data = result.data.sel(layer=layer, answer_kind=KIND)
    arm = str(result.table.loc[result.table["arm"].isin(["key_overlap", "given"]), "arm"].iloc[0])
    p = data["placebo_p"].sel(group=list(targets))
    return {
        side: {
            "slope": {
                g: interval(data.sel(arm=arm, variant=side, group=g), "slope") for g in data["group"].values.tolist()
            },
            "placebo_p": round(float(p.sel(variant=side).max()), 4),
        }
        for side in ("below", "above")
    }


def doses(result: Result, layer: int) -> dict[str, dict[str, Any]]:
    """Effect of each dose at one layer, by group, treatment and the mean placebo beside it."""
    data = result.data.sel(layer=layer, answer_kind=KIND)
    return {
        group: {
            f"{alpha:g}": {
                arm: interval(data.sel(group=group, alpha=alpha, arm=arm), "effect")
                for arm in data["arm"].values.tolist()
            }
            for alpha in data["alpha"].values.tolist()
            if alpha != 1
        }
        for group in data["group"].values.tolist()
    }


def accuracy(result: Result, layer: int, group: str) -> dict[str, Any]:
    """Share of items whose own response gives the label, at each dose."""
    data = result.data.sel(layer=layer, answer_kind=KIND, group=group, arm="key_overlap")
    return {f"{a:g}": interval(data.sel(alpha=a), "accuracy") for a in data["alpha"].values.tolist()}


def windows(result: Result, group: str) -> dict[str, Any]:
    """Effect of every variant and window on one group."""
    data = result.data.sel(group=group, answer_kind=KIND)
    return {
        variant: {str(int(w)): interval(data.sel(variant=variant, window=w), "effect") for w in data["window"].values}
        for variant in ("reset", "keep_only", "randomise")
    }


def matched(result: Result) -> list[float] | None:
    """What steering does to exact targets minus what it does to exact controls, if there are both."""
    if "matched_difference" not in result.data:
        return None
    return interval(result.data.sel(arm="ungated", answer_kind=KIND), "matched_difference")


def interval(cell: Any, name: str) -> list[float] | None:
    """[value, ci_low, ci_high], rounded; None where it was not measured."""
    values = [float(cell[name + s]) for s in ("", "_ci_low", "_ci_high")]
    return None if np.isnan(values[0]) else [round(v, 4) for v in values]


def held(found: dict[str, Any]) -> dict[str, bool]:
    """Which predictions of the README came true on one seed."""
    block = str(found["block"])
    lowered = {
        n: f"owering layer {n} changes" in str(found["whole layers"]["verdict"])
        for n in found["whole layers"]["layers"]
    }
    at_half = found["whole layers"]["block"]
    raised = found["whole layers"]["block"]["planted"]
    untouched = [at_half[g]["0.5"]["key_overlap"] for g in NATURAL]
    return {
        "planted block selective when lowered": lowered[block],
        "no other block selective": not any(v for n, v in lowered.items() if n != block),
        "half dose lowers planted": at_half["planted"]["0.5"]["key_overlap"][2] < 0,
        "half dose leaves natural within .1": all(abs(v[0]) < 0.1 for v in untouched),
        "raising gains at most .1": all(raised[a]["key_overlap"][0] < 0.1 for a in ("1.5", "2", "3")),
        "natural memory: none selective": "spares the others" not in str(found["natural"]["verdict"]),
        "ten chosen on other items: none": "spares the others"
        not in str(found["few neurons"]["ten chosen on other items"]["verdict"]),
    }
