"""The question asked of the lab's two fine-tuning runs: stages, and side effects at matched accuracy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import Result, Store, run, sweep
from experiments.lab import recipe as recipes
from experiments.lab.training import sft_problems
from experiments.lab.world import benchmark, rationale
from probe import Item, Prompts

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNS = ("sft-high", "sft-low")
GRADED = {"grade": "exact", "pattern": r"^(?:think .*; )?ans (\d+)$", "max_new_tokens": 44, "batch_size": 64}
POOL = ("valid_0", "valid_1", "valid_2", "valid_3")
IRRELEVANT = ("Bob has 3 pens .", "Kim has 7 toys .", "Eve has 2 caps .")
SAMPLES = 8


def problems(folder: Path, n: int | None = None) -> Prompts:
    """The run's test problems, grouped by number of steps: the shorter ones are what it was trained on."""
    read = Prompts.read(folder / "sft_test.jsonl")
    items = tuple(replace(i, group=f"k{i.meta['k']}") for i in read.items)
    prompts = Prompts(items, read.source)
    return prompts if n is None else prompts.subset(n)


def with_pool(prompts: Prompts, seed: int) -> Prompts:
    """Each problem with four more valid rationales, in other styles of the same generator."""
    import random

    items: list[Item] = []
    for item in prompts.items:
        rng = random.Random(f"over_memorization/{seed}/{item.id}")
        values, ops = tuple(item.meta["values"]), tuple(item.meta["ops"])
        items.append(item)
        items += [replace(item, answer=rationale(values, ops, rng), answer_kind=kind) for kind in POOL]
    return Prompts(tuple(items), prompts.source)


def train_and_test(folder: Path, seed: int, variant: str) -> Prompts:
    """Texts the run was trained on (`member`) and as many it was not (`nonmember`), equally long problems."""
    recipe = recipes.short(seed) if variant == "short" else recipes.full(seed)
    train, test = sft_problems(recipe, benchmark(recipe.world, seed))
    test = [p for p in test if p.k == recipe.finetuning.train_k]
    pairs = [("member", f"train-{i}", p) for i, p in enumerate(train)]
    pairs += [("nonmember", f"test-{i}", p) for i, p in enumerate(test)]
    return Prompts(tuple(Item(name, p.prompt, p.rationale, group) for group, name, p in pairs), str(folder))


def stages(folder: Path, name: str, seed: int, store: Store, *, n: int | None = None) -> tuple[Result, Result]:
    """(stage result, evaluate sweep) of one run on unseen problems of the training's length."""
    prompts = problems(folder, n)
    inside = prompts.where(group=prompts.groups[0])
    shared = {"checkpoints": folder / name, "store": store}
    scores = sweep("perplexity", prompts=with_pool(inside, seed), batch_size=64, **shared)
    marks = sweep("evaluate", prompts=inside, **shared, **GRADED)
    kinds = {"answer_kind": "gold_rationale", "training_kind": "gold_rationale", "rationales": POOL}
    given = {"perplexity": scores, "evaluate": marks, "store": store}
    return run("over_memorization", **given, **kinds, unparsed="wrong"), marks


def of_seed(folder: Path, seed: int, store: Store, *, variant: str = "full", n: int | None = None) -> dict[str, Any]:
    """Everything the README's table says about one seed, as numbers with intervals."""
    found: dict[str, Any] = {}
    of: dict[str, Result] = {}
    for name in RUNS:
        of[name], _ = stages(folder, name, seed, store, n=n)
        found[name] = staged(of[name])
        everything = problems(folder, n)
        marks = sweep("evaluate", checkpoints=folder / name, prompts=everything, store=store, **GRADED)
        gap = run("ood", evaluate=marks, inside=everything.groups[:1], unparsed="wrong", store=store)
        found[name]["ood"] = outside(gap)
        found[name]["from_truth"] = against_truth(folder / name, everything, seed, store)
    chosen = matched_checkpoints(of)
    found["side_effects"] = {
        label: side_effects(folder, name, step, seed, store, variant, n) | {"run": name, "step": step}
        for label, (name, step) in chosen.items()
    }
    return found


def staged(result: Result) -> dict[str, Any]:
    """The stage result as the README tells it."""
    return {
        "verdict": result.verdict,
        "tolerance": round(float(result.table["delta"].iloc[0]), 4),
        "stages": dict(zip(map(str, result.table["step"]), result.table["stage"], strict=True)),
        **{q: quantity(result, q) for q in ("onset", "ppl_rise", "area", "lag", "recommended", "onset_share")},
        "style_reading": result.data.attrs.get("style_reading"),
        "log_ppl": ends(result, "log_ppl"),
        "accuracy": ends(result, "accuracy"),
    }


def matched_checkpoints(staged: Mapping[str, Result]) -> dict[str, tuple[str, int]]:
    """A good-fit and an over-memorized checkpoint of the fast run at the nearest accuracy, and the slow run's last.

    The over-memorized one is the latest; the good-fit one the one of nearest accuracy. Without an over-memorized
    checkpoint there is nothing to compare.
    """
    fast, slow = staged["sft-high"].table, staged["sft-low"].table
    late = fast[fast["stage"] == "over-memorized"]
    good = fast[fast["stage"] == "good fit"]
    if late.empty or good.empty:
        return {}
    memorized = late.iloc[-1]
    normal = good.iloc[int(np.argmin(np.abs(good["accuracy"] - memorized["accuracy"])))]
    return {
        "normal": ("sft-high", int(normal["step"])),
        "over-memorized": ("sft-high", int(memorized["step"])),
        "slow run": ("sft-low", int(slow["step"].iloc[-1])),
    }


def side_effects(
    folder: Path, name: str, step: int, seed: int, store: Store, variant: str, n: int | None
) -> dict[str, Any]:
    """Diversity, calibration, robustness and leakage of one checkpoint, on problems of the training's length."""
    model, prompts = folder / name / f"checkpoint-{step}", problems(folder, n)
    inside = prompts.groups[0]
    prompts = prompts.where(group=inside)
    shared = {"model": model, "prompts": prompts, "store": store}
    answered = run("evaluate", samples=SAMPLES, temperature=1.0, **shared, **GRADED)
    varied = run("diversity", evaluate=answered, store=store)
    sure = run("calibration", **shared, **GRADED)
    steady = run(
        "robustness", perturbations=("irrelevant", "numbers"), irrelevant=IRRELEVANT, largest=40, **shared, **GRADED
    )
    texts = train_and_test(folder, seed, variant)
    seen = run("memorization", model=model, prompts=texts, span="answer", batch_size=64, store=store)
    return {
        "accuracy": quantity(answered, "accuracy_strict", group=inside),
        **{q: quantity(varied, q, group=inside) for q in ("distinct_2", "self_bleu", "modes", "pass_slope")},
        **{q: quantity(sure, q, group=inside) for q in ("ece", "brier", "entropy_nats")},
        **{f"drop_{v}": quantity(steady, "drop", group=inside, variant=v) for v in ("irrelevant", "numbers")},
        "auroc_min_k_plus": quantity(seen, "auroc", signal="min_k_plus"),
        "shift_auroc": float(seen.data["shift_auroc"].squeeze()),
    }


def quantity(result: Result, name: str, **at: Any) -> list[float | None] | None:
    """[value, ci_low, ci_high] of one cell; None where it was not measured."""
    if name not in result.data:
        return None
    cell = result.data.sel({k: v for k, v in at.items() if k in result.data[name].dims})
    numbers = [float(cell[name + s].squeeze()) for s in ("", "_ci_low", "_ci_high")]
    return None if np.isnan(numbers[0]) else [None if np.isnan(x) else round(x, 4) for x in numbers]


def ends(result: Result, name: str) -> list[float]:
    """First and last value of a curve."""
    return [round(float(result.data[name].isel(step=i)), 4) for i in (0, -1)]


def outside(result: Result) -> dict[str, Any]:
    """Change at the last step, inside (as many steps as in training), outside and the gap."""
    last = int(result.data["step"][-1])
    return {q: quantity(result, q, step=last) for q in ("inside_change", "outside_change", "ood_gap")}


def against_truth(checkpoints: Path, prompts: Prompts, seed: int, store: Store) -> float | None:
    """Difference from the lab's own scripts' change of ln PPL over all test problems, in nats; None: not measured."""
    of = {"sft-high": "over_memorization_high", "sft-low": "no_over_memorization_low"}[checkpoints.name]
    measured = truth(seed).get(of)
    if measured is None:
        return None
    scores = sweep("perplexity", checkpoints=checkpoints, prompts=prompts, batch_size=64, store=store).table
    sums = scores[scores["mask"] == "answer"].groupby("step")[["nll_nats", "n_tokens"]].sum()
    curve = sums["nll_nats"] / sums["n_tokens"]
    return round(abs(float(curve.iloc[-1] - curve.iloc[0]) - float(measured["value"])), 4)


def truth(seed: int) -> dict[str, Any]:
    """What the lab's own scripts measured for this seed; {} where they have not run."""
    path = Path(__file__).parent.parent / "lab" / "truth.json"
    return json.loads(path.read_text())["seeds"].get(str(seed), {}).get("findings", {})
