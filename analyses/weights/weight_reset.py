"""Which weights carry what tuning changed: base weights put back, kept only, randomised or blended.

Definition: theta(S, parts) has base weights in the places S (layer x part) and tuned weights elsewhere. For a
    window K of consecutive layers: `reset` = theta(K); `keep_only` = theta(complement of K within the declared
    parts, everywhere), so parts outside the declared ones stay tuned; `randomise` = Gaussian noise in K with the
    Frobenius norm of each matrix; `interpolate` = (1 - alpha) base + alpha tuned in K (1 = tuned as it is). The
    metric is the mean teacher-forced log-probability of the answer's tokens; effect = changed - tuned;
    share_of_gap = (changed - base) / (tuned - base), sums over items, undefined (NaN) where tuned and base agree.
    With generated tokens, `correct` is whether the greedy response, under the same template, is right.
Units: nats per token; a share has none; p is the max-t p over all windows of a variant and group (sign flips).
Source: arXiv 2601.11061 (whose code changes MLP matrices only: here the parts are declared; its windows were
    picked by eye: here every window of one width is tried).
Does not show: where something is stored. A reset breaks what later layers expect, and redundant layers can be
    reset one by one without effect; that keep_only of one window suffices is the stronger claim.
Control: `randomise` (damage by any change of that size), and items the tuning should not have touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.reading.grading import grader
from analyses.core.result import Result
from analyses.core.stats import estimate, mean_max_t
from analyses.core.work import Case, Work, generation, passes, together
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch
    from probe.weights import Place

Columns: TypeAlias = dict[str, Any]
"""Cells of a row by column."""

VARIANTS = ("reset", "keep_only", "randomise", "interpolate")
BY = ["variant", "window", "group", "answer_kind"]
SMALLEST_GAP = 1e-4  # nats per token between base and tuned below which a share of it is noise


@dataclass(frozen=True)
class Condition:
    """One set of weights: what is done to which layers, and the columns that name it."""

    variant: str
    layers: tuple[int, ...] = ()
    draw: int = 0
    alpha: float = 0.0
    values: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"], compare=False)

    def columns(self) -> Columns:
        """`window` is the first layer; references (base, tuned) have none."""
        window = min(self.layers) if self.layers else pd.NA
        named = {"variant": self.variant, "window": window, "layers": ",".join(map(str, self.layers))}
        return {**named, "draw": self.draw, "alpha": self.alpha}


def _work(case: Case) -> Work:
    """A pass under every condition of every window, and of both checkpoints as they are."""
    options = case.options
    each = {"randomise": int(options["draws"]), "interpolate": len(options["shares"])}
    windows = 1 if options["layers"] else case.n_layers - int(options["width"]) + 1
    conditions = 2 + windows * sum(each.get(name, 1) for name in options["variants"])
    written = generation(case, conditions / case.models) if options["max_new_tokens"] else Work()
    return together(passes(case, "answer", times=conditions, models=1), written)


@analysis(work=_work)
def weight_reset(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    variants: tuple[str, ...] = VARIANTS,
    parts: tuple[str, ...] = ("all",),
    width: int = 1,
    layers: tuple[int, ...] = (),
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    draws: int = 10,
    max_new_tokens: int = 0,
    grade: str = "exact",
    pattern: str | None = None,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    r"""Answer log-probability of the tuned model with some of its weights reset, kept only, randomised or blended.

    Rows: item, group, answer_kind, variant (`base` and `tuned` are the references), window (first layer), layers,
    draw, alpha (share of tuned weights in the window), metric (nats per token); with max_new_tokens also text and
    correct (0 or 1) of the greedy response.

    Args:
        variants: any of reset, keep_only, randomise, interpolate.
        parts: embed, attn.q/k/v/o, mlp.gate/up/down, norms, unembed, or all, mlp, attn.
        width: every window of this width is tried.
        layers: those named are changed together, in place of the windows.
        shares: of tuned weights, for interpolate (1 = tuned as it is).
        draws: of noise, for randomise.
        max_new_tokens: greedy, under every set of weights; 0 for none.
        seed: noise and the bootstrap over items.
    """

    warnings = reading.pair_warnings(base, tuned)
    probe.weights.check_same_parameters(base, tuned)
    sets = _layer_sets(tuned.shape.n_layers, width, layers)
    plans = list(_plans(tuned, variants, parts, sets, shares, draws))
    batches = tuned.batches(prompts, batch_size=batch_size, template=template, boundary=boundary)
    grades, generated = grader(grade, pattern), {"max_new_tokens": max_new_tokens, "template": template}

    def scored(model: Model, condition: Condition) -> pd.DataFrame:
        with probe.weights.replaced(
            model, condition.values
        ):  # the model's own weights are back afterwards, whatever happens
            rows = _forced(model, batches)
            if max_new_tokens:
                rows = rows.merge(reading.responses_graded(model, prompts, grades, batch_size=batch_size, **generated))
        return _named(rows, condition)

    tables = [scored(base, Condition("base")), scored(tuned, Condition("tuned", alpha=1.0))]
    for plan in progress(plans, "weight reset", total=len(plans)):
        tables.append(scored(tuned, _condition(base, tuned, plan, seed)))
    table = pd.concat(tables, ignore_index=True)
    table = table.sort_values(["variant", "window", "draw", "alpha", "item", "answer_kind"], kind="stable")
    return Result.of(table, _aggregate(table, seed), warnings=warnings)


def _layer_sets(n_layers: int, width: int, layers: Sequence[int]) -> list[tuple[int, ...]]:
    if layers:
        bad = sorted({layer for layer in layers if not 0 <= layer < n_layers})
        if bad:
            raise InputError(f"layers {bad} do not exist: this model has {n_layers} (0 to {n_layers - 1})")
        return [tuple(sorted(set(layers)))]
    if not 1 <= width <= n_layers:
        raise InputError(f"width={width}; expected 1 to {n_layers}, the number of layers")
    return [tuple(range(first, first + width)) for first in range(n_layers - width + 1)]


def _plans(
    tuned: Model,
    variants: Sequence[str],
    parts: Sequence[str],
    sets: Sequence[tuple[int, ...]],
    shares: Sequence[float],
    draws: int,
) -> Iterator[tuple[Condition, list[Place]]]:
    """Conditions with the places they change, values still to be made (one condition's are held at a time)."""

    unknown = [v for v in variants if v not in VARIANTS]
    if unknown or not variants:
        raise InputError(f"variants={list(variants)}; expected some of {', '.join(VARIANTS)}")
    if draws < 1 or not shares:
        raise InputError(f"draws={draws}, shares={list(shares)}; expected at least one of each")
    everywhere = probe.weights.select(tuned, parts)
    for layers in sets:
        inside = [place for place in everywhere if place.layer in layers]
        if not inside:
            raise InputError(f"parts={list(parts)} are not in any layer, so there is nothing to change in {layers}")
        for variant in variants:
            places = [p for p in everywhere if p not in inside] if variant == "keep_only" else inside
            steps = [(0, share) for share in shares] if variant == "interpolate" else [(0, 0.0)]
            steps = [(draw, 0.0) for draw in range(draws)] if variant == "randomise" else steps
            for draw, alpha in steps:
                yield Condition(variant, layers, draw, 1.0 if variant == "keep_only" else alpha), places


def _condition(base: Model, tuned: Model, plan: tuple[Condition, list[Place]], seed: int) -> Condition:

    condition, places = plan
    change = {
        "randomise": lambda: probe.weights.gaussian(seed, condition.draw),
        "interpolate": lambda: probe.weights.mixed_with(base, condition.alpha),
    }.get(condition.variant, lambda: probe.weights.taken_from(base))()
    return replace(condition, values=probe.weights.revised(tuned, places, change))


def _forced(model: Model, batches: Sequence[TokenBatch]) -> pd.DataFrame:
    """The metric of every item."""

    rows: list[dict[str, object]] = []
    for batch in batches:
        for item, value in zip(batch.items, reading.answer_logprob(model, batch), strict=True):
            rows.append({"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "metric": value})
    return pd.DataFrame(rows)


def _named(table: pd.DataFrame, condition: Condition) -> pd.DataFrame:
    """The rows with the columns that name the condition."""
    for position, (name, value) in enumerate(condition.columns().items(), start=3):
        table.insert(position, name, value)
    return table.astype({"window": "Int64"})


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Effects and shares of the gap with intervals over items; p over all windows by the largest statistic."""

    rows = _against_references(table)
    plain = rows[rows["variant"] != "interpolate"]
    blended = rows[rows["variant"] == "interpolate"]
    parts: list[xr.Dataset] = [_levels(table, seed)]
    for part, by, name in ((plain, BY, ""), (blended, ["window", "alpha", "group", "answer_kind"], "interpolated_")):
        if part.empty:
            continue
        part = part.astype({"window": int})
        label: Columns = {
            "units": "nats/token",
            "long_name": "change of the answer's log-probability against tuned",
        }
        parts.append(estimate(part, "effect", by, seed=seed, name=f"{name}effect", **label))
        share: Columns = {"units": "1", "long_name": "share of the gap between base and tuned that is left"}
        parts.append(estimate(part, "over_base", by, per="gap", seed=seed, name=f"{name}share_of_gap", **share))
    if not plain.empty:
        parts.append(_corrected(plain, seed))
    if "correct" in table:
        parts.append(_accuracy(table, seed))
    return xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="override")


def _against_references(table: pd.DataFrame) -> pd.DataFrame:
    """Every changed row beside the references of its item; the gap is NaN where base and tuned agree."""
    keys = ["item", "answer_kind"]
    named = [
        table.loc[table["variant"] == v, [*keys, "metric"]].rename(columns={"metric": v}) for v in ("base", "tuned")
    ]
    rows = table[~table["variant"].isin(["base", "tuned"])].merge(named[0], on=keys).merge(named[1], on=keys)
    difference = rows["tuned"] - rows["base"]
    mean_gap = difference.groupby([rows["group"], rows["answer_kind"]]).transform("mean")
    gap = difference.mask(mean_gap.abs() < SMALLEST_GAP)
    return rows.assign(effect=rows["metric"] - rows["tuned"], over_base=rows["metric"] - rows["base"], gap=gap)


def _levels(table: pd.DataFrame, seed: int) -> xr.Dataset:

    rows = table[table["variant"].isin(["base", "tuned"])]
    label: Columns = {"units": "nats/token", "long_name": "log-probability of the answer"}
    return estimate(rows, "metric", ["variant", "group", "answer_kind"], seed=seed, **label)


def _accuracy(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Share of right responses: of the references, and of every window (blends left out)."""

    label: Columns = {"units": "fraction", "long_name": "share of responses that are right"}
    references = table[table["variant"].isin(["base", "tuned"])]
    changed = table[~table["variant"].isin(["base", "tuned", "interpolate"])].astype({"window": int})
    parts = [estimate(references, "correct", ["variant", *BY[2:]], seed=seed, name="reference_accuracy", **label)]
    if not changed.empty:
        parts.append(estimate(changed, "correct", BY, seed=seed, name="accuracy", **label))
    return xr.merge(parts, join="outer", compat="no_conflicts")


def _corrected(rows: pd.DataFrame, seed: int) -> xr.Dataset:
    """Max-t p of each window's effect within a variant and group; not measured below six items."""
    found: list[xr.DataArray] = []
    for (variant, group, kind), part in rows.groupby(["variant", "group", "answer_kind"], sort=True):
        grid = part.astype({"window": int}).pivot_table(index="item", columns="window", values="effect", aggfunc="mean")
        p = np.full(grid.shape[1], np.nan)
        if len(grid) >= 6:
            p = mean_max_t(grid.to_numpy(), seed=seed).p_cell
        at = {"variant": [variant], "window": grid.columns.to_numpy(int), "group": [group], "answer_kind": [kind]}
        found.append(xr.DataArray(p[None, :, None, None], at, list(at), "p_max_t"))
    return xr.merge(found, join="outer", compat="no_conflicts")


def figures(result: Result) -> dict[str, Figure]:
    """Effect of every window by variant, and the path from base to tuned."""
    rows = result.summary()
    drawn: Columns = {}
    effects = rows[rows["quantity"] == "effect"]
    if len(effects):
        drawn["effect"] = _by_kind(curve, effects, "window", "variant", "Effect of changed weights by window")
    blended = rows[rows["quantity"] == "interpolated_effect"]
    if len(blended):
        drawn["interpolation"] = _by_kind(curve, blended, "alpha", "window", "From base (0) to tuned (1), by window")
    return drawn


def _by_kind(curve: Any, rows: pd.DataFrame, x: str, color: str, title: str) -> Any:
    panels = rows.assign(items=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    dash = "step" if "step" in rows else None
    return curve(
        panels, x=x, color=color, dash=dash, facet="items", title=f"{title}, 95 % interval over items", reference=0
    )
