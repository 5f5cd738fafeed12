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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, generation, passes, replays, scaled, together
from analyses.steering._dose_response import dose_response
from analyses.steering._selective import claims
from probe.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame as Table
    from plotly.graph_objects import Figure

    from analyses.steering._neurons import Selection
    from probe import Model, Prompts

Cells: TypeAlias = dict[str, Any]
"""Cells of a row by column."""


def _work(case: Case) -> Work:
    """Half of the items choose neurons; the others are replayed under every dose of every arm of every layer."""
    options, named = case.options, case.options["layers"]
    layers = range(case.n_layers) if named in (("all",), ("from-verdict",)) else [int(n) for n in named]
    doses = len({*options["alphas"], 1.0})
    runs = (1 + len(options["placebos"]) * int(options["draws"])) * doses
    sized = len(layers) * doses if "random_direction" in options["placebos"] else 0
    asked = together(passes(case, "answer"), passes(case, "none", times=sized), replays(case, layers, runs))
    written = generation(case, len(layers) * len(options["alphas"]) * (1 + len(options["placebos"])))
    chosen = together(passes(case, "answer"), asked) if options["selection"] == "split" else asked
    return scaled(together(chosen, written), 0.5)


@analysis(work=_work)
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
    selection: Literal["split", "item", "first"] = "split",
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
        selection: choose on a held-out split of the target items, for each item on itself, or, as published, on the
            first target item for all (which is measured too).
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
    from analyses.steering._arms import target_groups
    from analyses.steering._choosing import OWN, Choosing, given, layers_of
    from analyses.steering._steered_keys import Steering, placebos_of

    is_own, doses = selection == "item", _doses(alphas)
    if max_new_tokens and is_own:
        raise InputError("max_new_tokens with selection='item' is not possible: one generation has one set of neurons")
    wanted, warnings = layers_of(model, layers, anchor_adapter, role)
    groups = target_groups(prompts, targets)
    tokenized: Cells = {"batch_size": batch_size, "template": template, "boundary": boundary}
    if neurons is None:
        choosing = Choosing(
            wanted, targets, score, bonus, read_at, top_n, is_own, selection_share, seed, selection == "first"
        )
        chosen, measures = choosing.chosen(model, prompts, tokenized)
    else:
        chosen, measures = given(model, model.batches(prompts, **tokenized), wanted, neurons), prompts
    against = {n: placebos_of(chosen, n, placebos, draws, seed, warnings) for n in wanted}
    warnings += [OWN] if is_own and neurons is None else []
    steering = Steering(score if neurons is None else "given", chosen, doses, against)
    table = steering.measured(model, measures, tokenized)
    if max_new_tokens:
        how: Cells = {"max_new_tokens": max_new_tokens, "steer_at": steer_at}
        how |= {"template": template, "batch_size": batch_size}
        table = table.merge(steering.answered(model, measures, grade, pattern, **how), how="left")
    table = table.sort_values(["layer", "arm", "draw", "alpha", "group", "item", "answer_kind"], kind="stable")
    return _result(table, chosen, steering.treatment, groups, seed, warnings)


def _doses(alphas: Sequence[float]) -> list[float]:
    bad = [a for a in alphas if not math.isfinite(a)]
    if bad or not alphas:
        raise InputError(f"alphas={list(alphas)}: {bad or 'none'}; expected finite numbers (1 changes nothing)")
    return sorted({*map(float, alphas), 1.0})


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
