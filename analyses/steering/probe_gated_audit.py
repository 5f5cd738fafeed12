"""Steering only where a probe fires: does turning neurons down on suspected items hurt them, and nothing else?

Definition: a linear probe (ridge on labels +-1, standardised keys) separates target from control items by the keys
    k = mlp_post of one layer at the last prompt token; s(x) is its score. tau = the given quantile of s on control
    items it was not fitted on. Where s(x) > tau, the `top_n` neurons that carry most of the probe's difference
    between the groups (coefficient x difference of mean keys) are scaled by factor; elsewhere nothing is done. All
    measured items were used neither to fit nor to set tau. `is_exact`: every token of the given answer is the top
    prediction when forced, that is, greedy decoding gives exactly this answer. Arms: `off`, `gated`, `ungated` (fires
    everywhere), `random_gate` (a random probe direction of equal norm that fires on as many measured items),
    `random_neurons` (the true gate, other neurons).
Units: metric in nats per token; is_exact, fires 0 or 1; p is McNemar's exact p of items lost and gained against off.
Source: arXiv 2601.11061 v2, which has no control arm: a set chosen for being solved can only lose. Here the loss is
    held against random gates and neurons, and `matched_difference` is what steering without a gate does to target
    items that were exact minus what it does to controls that were exact and as likely (within .25 nats per token, and
    less what the log-probability left over does by itself, by its slope within either side).
Does not show: that items on which the probe fires are memorised; it was fitted on the labels it was given.
Control: the two random arms, control items (false-fire rate), matched items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core.analysis import analysis
from analyses.core.figures import forest
from analyses.core.result import Result
from analyses.core.stats import estimate, mcnemar_exact, paired_difference, wilson
from analyses.core.work import Case, Work, passes, replays, scaled, together
from analyses.steering import _audit_claims
from analyses.steering._dose_response import matched_pairs
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from analyses.steering._arms import EditedRun
    from analyses.steering._key_gate import KeyGate
    from probe import Model, Prompts, TokenBatch
    from probe.replay import Clean

Cells: TypeAlias = dict[str, Any]
"""Cells of a row by column."""

KEYS = ["item", "group", "answer_kind"]


def _work(case: Case) -> Work:
    """Keys of all items; those that are measured replayed with the chosen and with other neurons, for two metrics."""
    layer = case.n_layers // 2 if case.options["layer"] is None else int(case.options["layer"])
    asked = together(passes(case, "answer", times=2), replays(case, [layer], 2 * (1 + int(case.options["draws"]))))
    return together(passes(case, "none"), scaled(asked, 0.5))


@analysis(work=_work, renamed={"alpha": "factor"})
def probe_gated_audit(
    model: Model,
    prompts: Prompts,
    *,
    targets: tuple[str, ...] = (),
    layer: int | None = None,
    factor: float = 0.5,
    top_n: int = 50,
    quantile: float = 0.99,
    threshold: float | None = None,
    draws: int = 20,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Answer log-probability and exactness per item with and without probe-gated steering, and in control arms.

    Rows: arm, draw, item, group, answer_kind, score, fires, metric, is_exact.

    Args:
        targets: the probe is fitted to tell them from the others; by default the first group by name.
        layer: its keys are probed and scaled.
        factor: of the chosen keys where the probe fires (1: nothing is done).
        top_n: at most half of the layer.
        quantile: of control scores above which the probe fires.
        threshold: tau itself instead of a quantile (inf: never fires; -inf: always).
        draws: of random gates and of random neurons.
        seed: split, the random arms and the bootstrap.
    """
    from analyses.steering._arms import target_groups
    from analyses.steering._key_gate import fitted, keys_at, labelled, parts, ranked, threshold_of
    from analyses.steering._plain_gate import prove_keys

    groups = target_groups(prompts, targets or prompts.groups[:1])
    at = model.shape.n_layers // 2 if layer is None else layer
    _check(model, at, factor, top_n, quantile, threshold, draws)
    if set(prompts.groups) <= set(groups):
        raise InputError(f"all groups {list(prompts.groups)} are targets; the threshold needs control items")
    tokenized: Cells = {"batch_size": batch_size, "template": template, "boundary": boundary}
    keys = keys_at(model, model.batches(prompts, **tokenized), at)
    part = parts(prompts, groups, seed)
    fit = labelled(keys, part, prompts, groups)
    gate = fitted(*fit)
    tau, warnings = threshold_of(gate, keys, part, quantile, threshold)
    neurons = ranked(gate, *fit, top_n)
    measures = replace(prompts, items=tuple(i for i in prompts.items if part[i.id] == "measure"))
    batches = model.batches(measures, **tokenized)
    prove_keys(model, batches[0], {at: neurons[None]})
    runs = _measured(model, batches, at, factor, neurons, draws, seed)
    table = _arms(runs, gate, keys, tau, draws, seed)
    data = aggregate(table, groups, seed).assign_attrs(threshold=tau, layer=at, targets=", ".join(groups))
    data["is_chosen"] = ("neuron", neurons.numpy())
    return Result.of(table, data, claims=_audit_claims.claims(data, groups, draws), warnings=warnings)


def _check(model: Model, layer: int, factor: float, top_n: int, quantile: float, tau: float | None, draws: int) -> None:

    probe.weights.check_layers(model, [layer])
    if not math.isfinite(factor) or not 0 < quantile <= 1 or draws < 1 or (tau is not None and math.isnan(tau)):
        raise InputError(
            f"factor={factor}, quantile={quantile}, draws={draws}, threshold={tau}; expected a finite factor, a "
            "quantile in (0, 1], at least one draw and a threshold that is a number"
        )
    half = model.shape.d_mlp // 2
    if not 1 <= top_n <= half:
        raise InputError(f"top_n={top_n}; expected 1 to {half}: as many other neurons are the placebo")


def _measured(
    model: Model, batches: Sequence[TokenBatch], layer: int, factor: float, neurons: Tensor, draws: int, seed: int
) -> pd.DataFrame:
    """Every measured item untouched, steered, and with other neurons steered: both metrics."""
    from analyses.steering._arms import EditedRun, random_neurons, responses, scale_keys, stream, top1_share

    masks = [("on", 0, neurons)]
    masks += [("other", d, random_neurons(neurons, stream(seed, "audit neurons", d))) for d in range(draws)]

    def runs(clean: Clean) -> list[EditedRun]:
        device = clean.batch.ids.device
        steered = [
            EditedRun({"run": name, "draw": d, "alpha": factor}, [scale_keys(layer, factor, mask[None].to(device))])
            for name, d, mask in masks
        ]
        return [EditedRun({"run": "off", "draw": 0, "alpha": 1.0}, []), *steered]

    answers = responses(model, batches, runs, what="probe-gated audit", metric=probe.replay.answer_logprob)
    exact = responses(model, batches, runs, what="probe-gated audit (exact)", metric=top1_share)
    exact = exact.assign(is_exact=(exact["metric"] == 1).astype(float)).drop(columns="metric")
    return answers.merge(exact, on=["run", "draw", "alpha", *KEYS])


def _arms(
    runs: pd.DataFrame, gate: KeyGate, keys: dict[str, np.ndarray], tau: float, draws: int, seed: int
) -> pd.DataFrame:
    """Rows of every arm: an item's steered row where the arm fires on it, else its untouched one.

    Items of a batch do not touch one another, so this equals running each arm.
    """
    from analyses.steering._key_gate import random_gate

    names = sorted(runs["item"].unique())
    x = np.stack([keys[name] for name in names])
    score = pd.Series(gate.score(x), names)
    fires = score > tau
    off, on, other = (runs[runs["run"] == name] for name in ("off", "on", "other"))
    nothing = pd.Series(np.nan, names)
    tables = [
        _arm("off", 0, off, on, nothing, fires & False),
        _arm("gated", 0, off, on, score, fires),
        _arm("ungated", 0, off, on, nothing, fires | True),
    ]
    for draw in range(draws):
        tables.append(_arm("random_neurons", draw, off, other[other["draw"] == draw], score, fires))
        drawn = pd.Series(random_gate(gate, seed, draw).score(x), names)
        chosen = drawn.rank(ascending=False, method="first") <= fires.sum()
        tables.append(_arm("random_gate", draw, off, on, drawn, chosen))
    return pd.concat(tables, ignore_index=True).sort_values(["arm", "draw", *KEYS], kind="stable")


def _arm(name: str, draw: int, off: pd.DataFrame, on: pd.DataFrame, score: pd.Series, fires: pd.Series) -> pd.DataFrame:
    taken = pd.concat([off[~off["item"].map(fires).astype(bool)], on[on["item"].map(fires).astype(bool)]])
    named = taken.assign(
        arm=name, draw=draw, score=taken["item"].map(score), fires=taken["item"].map(fires).astype(bool)
    )
    return named[["arm", "draw", *KEYS, "score", "fires", "metric", "is_exact"]]


def aggregate(table: pd.DataFrame, groups: Sequence[str], seed: int) -> xr.Dataset:
    """Effects, exactness, ranks and matched differences of all arms from the rows of an audit."""
    off = table.loc[table["arm"] == "off", [*KEYS, "metric", "is_exact"]]
    rows = table.merge(off, on=KEYS, suffixes=("", "_off")).assign(effect=lambda t: t["metric"] - t["metric_off"])
    by = ["arm", "group", "answer_kind"]
    effect: Cells = {"units": "nats/token", "long_name": "change of the answer's log-probability"}
    exact: Cells = {"units": "fraction", "long_name": "answers that greedy decoding gives exactly"}
    parts = [
        estimate(rows, "effect", by, seed=seed, **effect),
        estimate(rows, "is_exact", by, seed=seed, name="accuracy", **exact),
        _fire_rate(table),
        _mcnemar(rows),
        _placebo_p(rows, groups),
        _matched(rows, groups, seed),
    ]
    return xr.merge([p for p in parts if p is not None], join="outer", compat="no_conflicts", combine_attrs="override")


def _fire_rate(table: pd.DataFrame) -> xr.Dataset:
    """How often the gate fires, with Wilson intervals (0 of 30 is not "never")."""

    ids = table[table["arm"] == "gated"].drop_duplicates("item").groupby("group")["fires"].agg(["sum", "count"])
    found = [wilson(int(r["sum"]), int(r["count"])) for _, r in ids.iterrows()]
    named = {"fire_rate": "value", "fire_rate_ci_low": "ci_low", "fire_rate_ci_high": "ci_high", "fire_rate_n": "n"}
    data = xr.Dataset({k: ("group", [float(getattr(f, v)) for f in found]) for k, v in named.items()})
    data["fire_rate"].attrs.update(units="fraction", long_name="items on which the probe fires")
    return data.assign_coords(group=ids.index.to_numpy(object))


def _mcnemar(rows: pd.DataFrame) -> xr.Dataset:
    """Items lost and gained against off, with the exact p, for the arms without draws."""

    found: list[dict[str, object]] = []
    for cell, part in rows[rows["arm"].isin(["gated", "ungated"])].groupby(["arm", "group", "answer_kind"]):
        lost = int(((part["is_exact_off"] == 1) & (part["is_exact"] < 1)).sum())
        gained = int(((part["is_exact_off"] < 1) & (part["is_exact"] == 1)).sum())
        named = dict(zip(("arm", "group", "answer_kind"), cell, strict=True))
        found.append({**named, "n_lost": lost, "n_gained": gained, "mcnemar_p": mcnemar_exact(lost, gained)})
    return pd.DataFrame(found).set_index(["arm", "group", "answer_kind"]).to_xarray()


def _placebo_p(rows: pd.DataFrame, groups: Sequence[str]) -> xr.Dataset:
    """Share of random gates, and of random neurons, that do at least as much to the targets as the audit does."""
    on_targets = rows[rows["group"].isin(groups)]
    mean = on_targets.groupby(["arm", "answer_kind", "draw"])["effect"].mean()
    found: list[dict[str, object]] = []
    for arm in ("random_gate", "random_neurons"):
        for kind in sorted(on_targets["answer_kind"].unique()):
            drawn, own = mean[arm, kind].abs(), abs(mean["gated", kind, 0])
            found.append({"arm": arm, "answer_kind": kind, "placebo_p": (1 + (drawn >= own).sum()) / (1 + len(drawn))})
    return pd.DataFrame(found).set_index(["arm", "answer_kind"]).to_xarray()


def _matched(rows: pd.DataFrame, groups: Sequence[str], seed: int) -> xr.Dataset | None:
    """What steering does to exact targets minus what it does to exact controls near in baseline log-probability.

    Of `ungated` only: a gate that spares the controls would make the difference by itself.
    """

    found: list[dict[str, object]] = []
    for (arm, kind), part in rows[rows["arm"] == "ungated"].groupby(["arm", "answer_kind"]):
        exact = part[part["is_exact_off"] == 1].set_index("item")
        exact = exact.assign(group=np.where(exact["group"].isin(groups), "target", "control"))
        named = exact.set_index(["group", "answer_kind"], append=True)["metric_off"].rename("unaltered")
        pairs = matched_pairs(named, ["target"], "control", str(kind)) if len(exact) else []
        if not pairs:
            continue
        effect = exact["effect"] - _slope_within(exact) * exact["metric_off"]
        mine, theirs = (effect.loc[list(side)].to_numpy() for side in zip(*pairs, strict=True))
        e = paired_difference(mine, theirs, seed=seed)
        parts = {"": e.value, "_ci_low": e.ci_low, "_ci_high": e.ci_high, "_n": e.n}
        found.append(
            {"arm": arm, "answer_kind": kind, **{f"matched_difference{k}": float(v) for k, v in parts.items()}}
        )
    if not found:
        return None
    data = pd.DataFrame(found).set_index(["arm", "answer_kind"]).to_xarray()
    data["matched_difference"].attrs.update(units="nats/token", long_name="effect on targets minus on matched controls")
    return data


def _slope_within(exact: pd.DataFrame) -> float:
    """How the effect goes with the unaltered metric among items of one side (targets, controls); 0 where it cannot.

    Pairs are near, not equal: what a difference of likelihood does by itself is taken off.
    """
    x, y = (exact[c] - exact.groupby("group")[c].transform("mean") for c in ("metric_off", "effect"))
    spread = float((x**2).sum())
    return float((x * y).sum()) / spread if spread > 0 else 0.0


def figures(result: Result) -> dict[str, Figure]:
    """Effect and exactness of every arm by group, and how often the probe fires."""

    rows = result.summary()
    rows = rows.assign(items=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    drawn: Cells = {}
    for name, title in (("effect", "Effect of the audit"), ("accuracy", "Answers given exactly")):
        part = rows[rows["quantity"] == name]
        color = "step" if "step" in part else None
        reference = 0.0 if name == "effect" else None
        options: Cells = {"label": "arm", "color": color, "facet": "items", "reference": reference}
        drawn[name] = forest(part, title=f"{title}, 95 % interval over items", **options)
    fired = rows[rows["quantity"] == "fire_rate"]
    color = "step" if "step" in fired else None
    drawn["fire_rate"] = forest(
        fired, label="group", color=color, title="Items on which the probe fires, Wilson interval"
    )
    return drawn
