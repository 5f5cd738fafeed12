"""Measures what is true of one lab run, by brute force and without the toolkit's analyses, into `truth.json`.

Every finding is `{"holds", "value", "ci", "n", ...}`: `holds` by the rule in `intervals.RULES`,
`value` with a 95 % bootstrap interval over items (over updates for the entropy findings).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab import ablate, evaluate
from experiments.lab.build import facts
from experiments.lab.entropy_truth import per_update, two_entropies
from experiments.lab.intervals import RULES, Finding, correlation, finding, group_gap, interval, ratio_interval
from experiments.lab.prompt_files import with_exposures
from experiments.lab.recipe import GRPO_RUNS, Recipe
from experiments.lab.stages import write_atomically
from experiments.lab.training import load, sft_problems
from experiments.lab.world import Problem, benchmark

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRUTH = Path(__file__).parent / "truth.json"


def own_mode(model: PreTrainedModel, problems: Sequence[Problem], target: str = "gold") -> np.ndarray[Any, Any]:
    """Per item: 1 if the greedy answer in the mode the model chooses is the label (or the arithmetic truth)."""
    found = evaluate.greedy(model, problems)
    return np.array([float(r.answer == getattr(p, target)) for r, p in zip(found, problems, strict=True)])


class Items:
    """The benchmark's items of one seed, by group."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        bench = with_exposures(benchmark(recipe.world, recipe.seed), facts(folder / "base")["exposures"])
        self.bench = bench
        self.leaked, self.unseen, self.planted = list(bench.leaked), list(bench.unseen), list(bench.planted)
        self.canaries = [p for p in bench.leaked if p.group == "leaked_canary"]
        self.held_canaries = [p for p in self.canaries if p.split == "held"]


def base_findings(recipe: Recipe, folder: Path, items: Items) -> dict[str, Finding]:
    model = load(folder / "base" / f"checkpoint-{recipe.pretraining.steps}").eval()
    thinking, direct = own_mode(model, items.unseen), ablate.remembered(model, items.unseen)
    forced, own = ablate.remembered(model, items.canaries), own_mode(model, items.canaries)
    gap, gap_ci = interval(thinking - direct)
    latent, latent_ci = interval(forced - own)
    (f, f_ci), (o, o_ci) = interval(forced), interval(own)
    found = {
        "thinking_needed": finding(
            gap_ci[0] > 0.5, gap, gap_ci, len(thinking), thinking=interval(thinking), forced_direct=interval(direct)
        ),
        "latent_memory": finding(
            f_ci[0] > 0.5 and o_ci[1] < 0.5, latent, latent_ci, len(own), forced_direct=(f, f_ci), own_mode=(o, o_ci)
        ),
        "no_single_block": single_block(model, items),
    }
    return found


def single_block(model: PreTrainedModel, items: Items) -> Finding:
    """Is there one MLP that the natural memory needs and computing does not?"""
    table = ablate.block_table(model, items.canaries, items.unseen)
    blocks, selective = [], []
    for block, (memory, computing) in enumerate(zip(table["memory_without"], table["computing_without"], strict=True)):
        lost, skill = interval(table["memory"] - memory), interval(table["computing"] - computing)
        blocks.append({"block": block, "memory_drop": lost, "computing_drop": skill})
        if lost[1][0] > 0.5 and skill[1][1] < 0.1:
            selective.append(block)
    gaps = [
        group_gap(table["memory"] - memory, table["computing"] - computing)
        for memory, computing in zip(table["memory_without"], table["computing_without"], strict=True)
    ]
    best = int(np.argmax([value for value, _ in gaps]))
    return finding(not selective, *gaps[best], len(items.canaries), block=best, selective=selective, blocks=blocks)


def sft_findings(recipe: Recipe, folder: Path, items: Items) -> dict[str, Finding]:
    """Perplexity on unseen gold rationales and accuracy, first against last checkpoint."""
    _, test = sft_problems(recipe, items.bench)
    texts = [p.rationale for p in test]
    found: dict[str, Finding] = {}
    last = max(recipe.finetuning.checkpoint_epochs) * facts(folder / "sft-high")["updates_per_epoch"]
    for run in ("sft-high", "sft-low"):
        first, final = (load(folder / run / f"checkpoint-{step}").eval() for step in (0, last))
        a, b = (evaluate.nll_parts(model, test, texts) for model in (first, final))
        n = a.n_body + 1
        rise, ci = ratio_interval((b.mode + b.body) - (a.mode + a.body), n)
        ppl = [round(float(np.exp((x.mode + x.body).sum() / n.sum())), 4) for x in (a, b)]
        accuracy = interval(own_mode(final, test, "computed") - own_mode(first, test, "computed"))
        if run == "sft-low":
            holds = max(abs(ci[0]), abs(ci[1])) < np.log(1.05)
            found["no_over_memorization_low"] = finding(holds, rise, ci, len(test), ppl=ppl, accuracy_change=accuracy)
            continue
        share, share_ci = ratio_interval(b.style - a.style, (b.mode + b.body) - (a.mode + a.body))
        found["over_memorization_high"] = finding(ci[0] > np.log(1.1), rise, ci, len(test), ppl=ppl)
        found["rise_is_style"] = finding(share_ci[0] > 0.5, share, share_ci, len(test))
        found["accuracy_falls_high"] = finding(accuracy[1][1] < 0, *accuracy, len(test))
    return found


class Change:
    """First and last checkpoint of a GRPO run, and what changed between them per item."""

    def __init__(self, recipe: Recipe, folder: Path, run: str, items: Items) -> None:
        plan = recipe.grpo(run)
        self.last = plan.rollout_steps * plan.updates_per_rollout
        self.before = load(folder / run / "checkpoint-0").eval()
        self.after = load(folder / run / f"checkpoint-{self.last}").eval()
        self.items = items
        pair = (self.before, self.after)
        self.unseen = [own_mode(m, items.unseen) for m in pair]
        self.held = [own_mode(m, items.held_canaries) for m in pair]
        self.forced = [ablate.remembered(m, items.leaked) for m in pair]
        self.leaked_parts = [evaluate.nll_parts(m, items.leaked, [p.direct for p in items.leaked]) for m in pair]
        self.unseen_parts = [evaluate.nll_parts(m, items.unseen, [p.direct for p in items.unseen]) for m in pair]

    def held_change(self) -> tuple[float, list[float]]:
        return interval(self.held[1] - self.held[0])

    def unseen_change(self) -> tuple[float, list[float]]:
        return interval(self.unseen[1] - self.unseen[0])

    def answer_change(self) -> tuple[float, list[float]]:
        """Change of log PPL of `ans Z` on leaked items (two tokens each)."""
        a, b = self.leaked_parts
        return interval(((b.mode + b.number) - (a.mode + a.number)) / 2)

    def prompt_change(self, which: str = "leaked") -> tuple[float, list[float]]:
        a, b = self.leaked_parts if which == "leaked" else self.unseen_parts
        return ratio_interval(b.prompt - a.prompt, a.n_prompt)

    def levels(self) -> dict[str, Any]:
        """Before and after, for the README's table."""
        a, b = self.leaked_parts
        answer = [round(float(np.exp((x.mode + x.number).mean() / 2)), 4) for x in (a, b)]
        prompt = [round(float(np.exp(x.prompt.sum() / x.n_prompt.sum())), 4) for x in (a, b)]
        return {
            "held_canaries": [interval(x) for x in self.held],
            "unseen": [interval(x) for x in self.unseen],
            "leaked_forced": [interval(x) for x in self.forced],
            "answer_ppl": answer,
            "prompt_ppl": prompt,
        }

    def is_paradox(self) -> bool:
        return self.answer_change()[1][1] < 0 < self.prompt_change()[1][0]


def grpo_findings(recipe: Recipe, folder: Path, items: Items) -> dict[str, Finding]:
    changes = {run: Change(recipe, folder, run, items) for run in GRPO_RUNS if (folder / run).exists()}
    found: dict[str, Finding] = {}
    if "grpo-format" in changes:
        found.update(format_findings(changes["grpo-format"]))
    n = len(items.unseen)
    for run, name in (("grpo-true", "healthy_control"), ("grpo-true-fresh", "fresh_control")):
        if run in changes:
            c = changes[run]
            holds = c.unseen_change()[1][0] > -0.15 and c.held_change()[1][0] <= 0.1
            found[name] = finding(holds, *c.unseen_change(), n, held_change=c.held_change(), **c.levels())
    if "grpo-true-leaked" in changes:
        c = changes["grpo-true-leaked"]
        holds = c.unseen_change()[1][1] < -0.5 and c.held_change()[1][0] > 0.3
        found["collapse"] = finding(holds, *c.unseen_change(), n, held_change=c.held_change(), **c.levels())
        found["collapse_entropy_falls"] = entropy_fall(folder / "grpo-true-leaked")
    if "grpo-random" in changes:
        c = changes["grpo-random"]
        value, ci = c.held_change()
        holds = max(abs(ci[0]), abs(ci[1])) <= 0.15 and not c.is_paradox()
        extra = {"unseen_change": c.unseen_change(), "answer": c.answer_change(), "prompt": c.prompt_change()}
        found["negative_control"] = finding(holds, value, ci, len(items.held_canaries), **extra, **c.levels())
        value, ci = c.unseen_change()
        found["random_keeps_accuracy"] = finding(max(abs(ci[0]), abs(ci[1])) <= 0.15, value, ci, n)
    if "grpo-incorrect" in changes:
        c = changes["grpo-incorrect"]
        value, ci = interval(c.forced[1] - c.forced[0])
        found["incorrect_unlearns"] = finding(ci[1] < -0.5, value, ci, len(items.leaked), **c.levels())
    return found


def format_findings(c: Change) -> dict[str, Finding]:
    held, unseen, answer, prompt = c.held_change(), c.unseen_change(), c.answer_change(), c.prompt_change()
    a, b = c.leaked_parts
    gap = (b.prompt - a.prompt) / a.n_prompt - ((b.mode + b.number) - (a.mode + a.number)) / 2
    share = ratio_interval(b.mode - a.mode, (b.mode + b.number) - (a.mode + a.number))
    leaked, other = c.prompt_change(), c.prompt_change("unseen")
    u, v = c.unseen_parts
    drift = group_gap(b.prompt - a.prompt, v.prompt - u.prompt, a.n_prompt, u.n_prompt)
    return {
        "format_activates_memory": finding(held[1][0] > 0.3, *held, len(c.items.held_canaries), **c.levels()),
        "format_destroys_thinking": finding(unseen[1][1] < -0.5, *unseen, len(c.items.unseen)),
        "paradox": finding(c.is_paradox(), *interval(gap), len(gap), answer=answer, prompt=prompt),
        "answer_drop_is_mode": finding(share[1][0] > 0.5, *share, len(gap)),
        "prompt_drift_not_leak_specific": finding(
            drift[1][0] <= 0 <= drift[1][1], *drift, len(gap) + len(c.items.unseen), leaked=leaked, unseen=other
        ),
    }


def entropy_fall(run: Path) -> Finding:
    """On-policy mean token entropy, last three rollout steps minus first three, bootstrapped over responses."""
    import pyarrow.parquet as pq

    table = pq.read_table(run / "rollouts", columns=["step", "H"]).to_pandas()
    steps = sorted(table.step.unique())
    means: list[float] = []
    draws: list[np.ndarray[Any, Any]] = []
    rng = np.random.default_rng(0)
    for chosen in (steps[:3], steps[-3:]):
        rows = table[table.step.isin(chosen)].H
        sums, counts = np.array([r.sum() for r in rows]), np.array([len(r) for r in rows])
        picks = rng.integers(0, len(rows), (2000, len(rows)))
        means.append(float(sums.sum() / counts.sum()))
        draws.append(sums[picks].sum(1) / counts[picks].sum(1))
    low, high = np.quantile(draws[1] - draws[0], [0.025, 0.975])
    ci = [round(float(low), 4), round(float(high), 4)]
    return finding(high < 0, round(means[1] - means[0], 4), ci, len(steps), entropy=[round(m, 4) for m in means])


def entropy_findings(folder: Path) -> dict[str, Finding]:
    """Correlations over the updates of the window; the named finding is the `format` run's, the others beside it."""
    tables = {run: per_update(folder / run) for run in ("grpo-format", "grpo-true", "grpo-true-leaked")}
    found: dict[str, Finding] = {}
    names = {"gradient": "gradient_predicts_entropy", "pooled": "pooled_covariance_predicts_entropy"}
    for column, name in names.items():
        runs = {run: correlation(table[column], table["measured"]) for run, table in tables.items()}
        value, ci = runs["grpo-format"]
        found[name] = finding(ci[0] > 0.5, value, ci, len(tables["grpo-format"]["update"]), runs=runs)
    found["gradient_predicts_entropy"]["slope"] = {
        run: round(float(np.polyfit(t["gradient"], t["measured"], 1)[0]), 4) for run, t in tables.items()
    }
    pairs = {run: two_entropies(folder / run) for run in tables}
    flat = [pair for run in pairs.values() for pair in run]
    opposite = [float(pair["same_states"] * pair["on_policy"] < 0) for pair in flat]
    clear = sum(pair["same_states_sign"] * pair["on_policy_sign"] < 0 for pair in flat)
    found["entropies_can_disagree"] = finding(clear > 0, *interval(opposite), len(flat), clear=clear, pairs=pairs)
    return found


def planted_findings(recipe: Recipe, folder: Path, items: Items) -> dict[str, Finding]:
    plan = recipe.planting
    model = load(folder / "planted" / f"checkpoint-{plan.steps}").eval()
    table = ablate.block_table(model, items.planted, items.unseen)
    drops = (table["memory"] - table["memory_without"]).mean(1)
    natural_intact, natural_without = ablate.remembered(model, items.leaked), []
    for index in range(len(drops)):
        with ablate.mlp_scaled(model, index, 0.0):
            natural_without.append(ablate.remembered(model, items.leaked))
    natural_drops = np.array([(natural_intact - left).mean() for left in natural_without])
    block = int(np.argmax(drops - natural_drops))
    left, natural = interval(table["memory_without"][block]), interval(natural_without[block])
    scaled = {}
    for factor in (0.5, 2.0, 3.0):
        with ablate.mlp_scaled(model, plan.block, factor):
            groups = {"planted": items.planted, "leaked": items.leaked}
            scaled[str(factor)] = {name: interval(ablate.remembered(model, ps))[0] for name, ps in groups.items()}
    lens = ablate.lens_top1(model, items.planted)
    rise = interval(lens[plan.block] - lens[plan.block - 1])
    holds = block == plan.block and left[1][1] < 0.3 and natural[1][0] > 0.7
    drop = interval(table["memory"] - table["memory_without"][block])
    return {
        "planted_block": finding(
            holds, *drop, len(items.planted), block=block, intact=interval(table["memory"]), planted_left=left,
            natural_left=natural, scaled=scaled, drops=np.round(drops, 4).tolist(),
            natural_drops=np.round(natural_drops, 4).tolist(),
        ),
        "planted_lens": finding(
            rise[1][0] > 0.5, *rise, len(items.planted), top1_by_block=[round(float(x), 4) for x in lens.mean(1)]
        ),
    }  # fmt: skip


def measure_seed(recipe: Recipe, folder: Path, path: Path = TRUTH) -> dict[str, Any]:
    """Measure one seed and write its entry; the other seeds' entries stay."""
    items = Items(recipe, folder)
    findings = base_findings(recipe, folder, items)
    findings.update(sft_findings(recipe, folder, items))
    findings.update(grpo_findings(recipe, folder, items))
    findings.update(entropy_findings(folder))
    findings.update(planted_findings(recipe, folder, items))
    entry = {
        "planted_block": recipe.planting.block,
        "recipe": recipe.fingerprint("pretraining", "finetuning", "reinforcement", "planting"),
        "findings": findings,
    }
    truth = json.loads(path.read_text()) if path.exists() else {"rules": RULES, "seeds": {}}
    truth["rules"] = RULES
    truth["seeds"] = dict(sorted({**truth["seeds"], str(recipe.seed): entry}.items()))
    write_atomically(path, json.dumps(truth, indent=1) + "\n")
    return entry
