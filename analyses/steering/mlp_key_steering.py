"""Turning chosen MLP neurons up and down: what their keys do to an answer, against placebos of equal size.

Definition: MLP(x) = sum_i k_i w_i with keys k = mlp_post and w_i the rows of W_down. Steering neurons N of a layer
    scales k_i by alpha for i in N at every position: out(alpha) = out(1) + (alpha - 1) sum_{N} k_i w_i. N is chosen
    by `key_overlap` s_i = |k_i| (1 + bonus |Top10(N(w_i) W_U) & tokens(y)| / |tokens(y)|), by the signed
    `direct_effect` of k_i w_i on the logits of y with the final norm's scale frozen, or by `gradient` x activation;
    on one half of the target items and measured on the rest, or for each item by itself. Metric: mean
    teacher-forced log-probability of the answer's tokens. Slopes: no-intercept, on alpha - 1, for lowering, raising
    and both; specificity: slope on the target groups minus slope on another group, matched_specificity the same among
    items of equal unaltered metric. `selective` asks for all conditions in `analyses.core.selective.claims`.
Units: metric in nats per token (<= 0); slopes in nats per token per unit of alpha (positive: more key, more answer).
Source: arXiv 2601.11061 (alpha 1 added; neurons chosen on held-out items instead of the first question; keys read
    where answer tokens are predicted, not only at the last prompt token). Keys and values: arXiv 2012.14913.
Does not show: that the neurons store the answer; only that the answer hangs on them in this direction. A saturated
    answer cannot be raised. Neurons chosen for each item know its answer (`selection=item`): read those against
    their placebos only.
Control: random neurons, neurons of equal |k|, random directions of equal norm at each position; other groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.reading.grading import grader
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.steering._dose_response import dose_response
from analyses.steering._selective import claims
from probe.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame as Table
    from plotly.graph_objects import Figure

    from analyses.steering._arms import Placebos, Run
    from analyses.steering._neurons import Selection
    from probe import Model, Prompts, TokenBatch
    from probe.replay import Clean

Cells: TypeAlias = dict[str, Any]
"""Cells of a row by column."""


@analysis
def mlp_key_steering(
    model: Model,
    prompts: Prompts,
    neurons: Table | None = None,
    anchor_adapter: Annotated[Result, "anchor_adapter"] | None = None,
    *,
    layers: tuple[str, ...] = ("all",),
    alphas: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0),
    targets: tuple[str, ...] = (),
    score: Literal["key_overlap", "direct_effect", "gradient"] = "key_overlap",
    selection: Literal["split", "item"] = "split",
    read_at: Literal["answer", "last_prompt"] = "answer",
    top_n: int = 10,
    bonus: float = 10.0,
    selection_share: float = 0.5,
    placebos: tuple[str, ...] = ("random_neurons", "matched_neurons", "random_direction"),
    draws: int = 20,
    role: Literal["anchor", "adapter"] = "anchor",
    max_new_tokens: int = 0,
    steer_at: Literal["all", "generated"] = "all",
    grade: str = "exact",
    pattern: str | None = None,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["concat", "offsets"] = "concat",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    r"""Answer log-probability of every item while chosen neurons of a layer are scaled, and under every placebo.

    Rows: layer, arm (the treatment is named by its score), draw, alpha, item, group, answer_kind, metric (nats per
    token); with max_new_tokens also correct (0 or 1) and text of the greedy response, for the first draw of each arm.

    Args:
        neurons: CSV or Parquet with columns layer, neuron: steer these (found elsewhere) instead of choosing.
        layers: layer numbers, or all, or from-verdict (the window an anchor_adapter result found).
        alphas: factors of the keys; 1 (nothing changed) is always added.
        targets: neurons are chosen for their answers. Empty: all groups.
        score: how neurons are ranked; also the name of the treatment arm.
        selection: choose on a held-out split of the target items, or for each item on itself.
        read_at: where keys are read: at the positions that predict answer tokens, or at the last prompt token.
        top_n: per layer; 0 for all of the layer: nothing is chosen, so all items are measured.
        bonus: lambda of key_overlap (0 ranks by |k|).
        selection_share: share of the target items to choose on.
        placebos: any of random_neurons, matched_neurons, random_direction.
        draws: of each placebo; below 19 no rank among them can reach p = .05.
        role: which window from-verdict takes.
        max_new_tokens: greedy, per arm and alpha; 0 for none.
        steer_at: where responses are steered: prompt and generated tokens, or generated ones only.
        seed: split, the placebos and the bootstrap.
    """
    from analyses.steering._arms import completions, key_arms, responses, target_groups
    from analyses.steering._plain_gate import prove_keys

    if max_new_tokens and selection == "item":
        raise InputError("max_new_tokens with selection='item' is not possible: one generation has one set of neurons")
    doses = _doses(alphas)
    wanted, warnings = _layers(model, layers, anchor_adapter, role)
    groups = target_groups(prompts, targets)
    is_split = neurons is None and selection == "split"
    chooses, measures = _split(prompts, targets, selection_share, seed, top_n) if is_split else (prompts, prompts)
    tokenized: Cells = {"batch_size": batch_size, "template": template, "boundary": boundary}
    pick: Cells = {"score": score, "bonus": bonus, "read_at": read_at, "is_own": selection == "item"}
    chosen = _chosen(model, model.batches(chooses, **tokenized), wanted, top_n, pick, neurons)
    against = {n: _placebos(chosen, n, placebos, draws, seed, warnings) for n in wanted}
    if selection == "item" and neurons is None:
        warnings.append("selection=item: each item's neurons were chosen with the answer they are measured on")
    treatment = score if neurons is None else "given"

    def runs(clean: Clean) -> Iterator[Run]:
        for layer in wanted:
            yield from key_arms(clean, layer, doses, treatment, chosen.mask(layer, clean.batch), against[layer])

    measured = model.batches(measures, **tokenized)
    prove_keys(model, measured[0], {n: chosen.mask(n, measured[0]) for n in (wanted[0], wanted[-1])})
    table = responses(model, measured, runs, what="MLP key steering")
    if max_new_tokens:
        arms = {n: (treatment, chosen, against[n]) for n in wanted}
        how: Cells = {"max_new_tokens": max_new_tokens, "steer_at": steer_at}
        how |= {"template": template, "batch_size": batch_size}
        answered = completions(model, measures, arms, doses, grader(grade, pattern), **how)
        table = table.merge(answered, how="left")
    table = table.sort_values(["layer", "arm", "draw", "alpha", "group", "item", "answer_kind"], kind="stable")
    return _result(table, chosen, treatment, groups, seed, warnings)


def _doses(alphas: Sequence[float]) -> list[float]:
    bad = [a for a in alphas if not math.isfinite(a)]
    if bad or not alphas:
        raise InputError(f"alphas={list(alphas)}: {bad or 'none'}; expected finite numbers (1 changes nothing)")
    return sorted({*map(float, alphas), 1.0})


def _layers(model: Model, layers: Sequence[str], verdict: Result | None, role: str) -> tuple[list[int], list[str]]:
    """Layers to steer, and what to know about them."""

    if tuple(layers) == ("from-verdict",):
        return _found(model, verdict, role)
    if tuple(layers) == ("all",):
        return list(range(model.shape.n_layers)), []
    wrong = [x for x in layers if not str(x).lstrip("-").isdigit()]
    if wrong or not layers:
        raise InputError(f"layers={list(layers)}: {wrong or 'none'}; expected layer numbers, all or from-verdict")
    return probe.weights.check_layers(model, sorted({int(x) for x in layers})), []


def _found(model: Model, verdict: Result | None, role: str) -> tuple[list[int], list[str]]:
    if verdict is None:
        raise InputError(
            "layers=from-verdict needs an anchor_adapter result: give --anchor-adapter KEY, or name layers"
        )
    depth = verdict.data.sizes.get("layer", model.shape.n_layers)
    if depth != model.shape.n_layers:
        raise InputError(
            f"the verdict is about a model of {depth} layers, this one has {model.shape.n_layers}; name layers"
        )
    rows = verdict.table[verdict.table["role"] == role]
    if rows.empty or rows["first_layer"].isna().all():
        raise InputError(f"the verdict is: {verdict.verdict} There is no {role} to steer; name layers to steer anyway")
    row = rows.iloc[0]
    note = (
        [] if row["verdict"] == role else [f"the verdict on the {role} is {row['verdict']}: its best window is steered"]
    )
    return list(range(int(row["first_layer"]), int(row["last_layer"]) + 1)), note


def _split(prompts: Prompts, targets: Sequence[str], share: float, seed: int, top_n: int) -> tuple[Prompts, Prompts]:
    """Items to choose neurons on and items to measure; of a whole layer nothing is chosen, so all are measured."""
    from analyses.steering._arms import halves, target_groups

    if not top_n:
        return prompts.where(group=target_groups(prompts, targets)), prompts
    return halves(prompts, targets, share, seed)


def _chosen(
    model: Model,
    batches: Sequence[TokenBatch],
    layers: Sequence[int],
    top_n: int,
    pick: Cells,
    neurons: pd.DataFrame | None,
) -> Selection:

    from analyses.steering._arms import as_mask
    from analyses.steering._neurons import choose

    if neurons is None:
        return choose(model, batches, layers, top_n, **pick)
    missing = sorted({"layer", "neuron"} - set(neurons.columns))
    if missing:
        raise InputError(f"neurons has no column {missing}; it has {list(neurons.columns)}")
    without = sorted(set(layers) - set(neurons["layer"]))
    if without:
        raise InputError(
            f"neurons names none in layers {without}; name the layers it has: {sorted(set(neurons['layer']))}"
        )
    d_mlp = model.shape.d_mlp
    given = {n: as_mask(neurons.loc[neurons["layer"] == n, "neuron"].astype(int).tolist(), d_mlp) for n in layers}
    return replace(choose(model, batches, layers, 1, bonus=0.0), fixed=given, score={}, own={})


def _placebos(
    chosen: Selection, layer: int, names: Sequence[str], draws: int, seed: int, warnings: list[str]
) -> Placebos:
    """A layer's placebos; one for which too few other neurons are left is left out, which `warnings` then says."""
    from analyses.steering._arms import PLACEBOS, Placebos, drawn_neurons

    unknown = [name for name in names if name not in PLACEBOS]
    if unknown or (names and draws < 1):
        raise InputError(
            f"placebos={list(names)}, draws={draws}; expected some of {', '.join(PLACEBOS)}, 1 draw or more"
        )
    mask = chosen.fixed[layer]
    kinds = [name for name in names if name != "random_direction"]
    if kinds and 2 * int(mask.sum()) > len(mask):
        warnings.append(f"layer {layer}: {int(mask.sum())} of {len(mask)} neurons steered, too few left for {kinds}")
        kinds = []
    drawn = {kind: drawn_neurons(kind, chosen, layer, draws, seed) for kind in kinds}
    return Placebos(drawn, draws if "random_direction" in names else 0, seed)


def _result(
    table: pd.DataFrame, chosen: Selection, treatment: str, groups: Sequence[str], seed: int, warnings: list[str]
) -> Result:
    parts = [dose_response(table, treatment=treatment, targets=groups, seed=seed), _neurons(chosen)]
    if "correct" in table:
        by = ["layer", "arm", "alpha", "group", "answer_kind"]
        named: Cells = {"units": "fraction", "long_name": "share of responses that are right"}
        parts.append(estimate(table, "correct", by, seed=seed, name="accuracy", **named))
    data = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="override")
    kinds = sorted(table["answer_kind"].unique())
    return Result.of(table, data, claims=claims(data, treatment, groups, kinds), warnings=warnings)


def _neurons(chosen: Selection) -> xr.Dataset:
    """Mean score of every neuron on the items chosen on, and which were steered (unless each item has its own)."""
    layers = sorted(chosen.fixed)
    coords = {"layer": layers, "neuron": np.arange(len(chosen.fixed[layers[0]]))}
    data = xr.Dataset(coords=coords)
    if chosen.score:
        score = np.stack([chosen.score[n].numpy() for n in layers])
        data["selection_score"] = (("layer", "neuron"), score, {"long_name": "mean selection score"})
    if not chosen.own:
        data["is_chosen"] = (("layer", "neuron"), np.stack([chosen.fixed[n].numpy() for n in layers]))
    return data


def neurons_of(result: Result) -> pd.DataFrame:
    """The neurons a result steered, best first, as a table (layer, neuron, score) that `neurons` takes elsewhere."""
    rows = result.data[["is_chosen", "selection_score"]].to_dataframe().reset_index()
    rows = rows[rows["is_chosen"].astype(bool)].rename(columns={"selection_score": "score"})
    return rows.sort_values(["layer", "score"], ascending=[True, False])[["layer", "neuron", "score"]].reset_index(
        drop=True
    )


def figures(result: Result) -> dict[str, Figure]:
    """Dose-response of treatment and placebos, and the slopes of every layer."""

    rows = result.summary()
    rows = rows.assign(items=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    effect = rows[rows["quantity"] == "effect"]
    dash = "step" if "step" in effect else None
    title = "Keys scaled by alpha, 95 % interval over items"
    facet = [c for c in ("items", "layer") if c in effect]
    drawn = {"dose_response": curve(effect, x="alpha", color="arm", dash=dash, facet=facet, title=title, reference=0)}
    slopes = rows[(rows["quantity"] == "slope") & rows["variant"].isin(["below", "above"])]
    panels = slopes.assign(side=slopes["items"] + ", " + slopes["variant"].map({"below": "lowered", "above": "raised"}))
    dash = "step" if "step" in panels else None
    title = "Slope by layer, 95 % interval over items"
    if "layer" in effect:
        panels_of = ["arm", "items", *(["step"] if "step" in effect else [])]
        drawn["map"] = heatmap(
            effect, x="layer", y="alpha", facet=panels_of, signed=True, title="Effect by layer and alpha"
        )
    if "layer" not in panels:  # one layer was chosen: it has no curve over layers
        return drawn
    drawn["slopes"] = curve(panels, x="layer", color="arm", dash=dash, facet="side", title=title, reference=0)
    return drawn
