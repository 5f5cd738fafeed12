"""Which parts of a tuned checkpoint cause its behaviour: its activations put into the base run, and back.

Definition: the target checkpoint is run on the same ids as the source, with the source's value at one site (and all
    chosen positions) in place of its own; everything after it is recomputed. effect = M(patched) - M(target);
    recovery = effect / (M(source) - M(target)), sums over items in aggregates, undefined (NaN) where the two
    unpatched checkpoints are within 1e-3. Direction tuned_to_base asks what suffices, base_to_tuned what is needed.
    The contrast is the mean effect in one group of items minus the other's; its p is the maximum t over all sites
    and layers under permuted labels.
Units: M is the mean teacher-forced log-probability of the answer's tokens, nats per token; recovery is a share
    (0 = target unchanged, 1 = the source's metric reached; it can be negative or above 1).
Source: arXiv 2601.11061 (its released code patches attn_out or mlp_out over the prompt, without the unpatched
    base); activation patching as in arXiv 2202.05262.
Does not show: where a change is stored. A late site carries what earlier ones computed, so recovery grows with
    depth by itself; patched activations of another model are off the target's distribution; redundant parts show
    no necessity. A flat-high recovery is also what a base that was already right gives: read the unpatched metrics.
Control: the unpatched baselines of every item; a second group of items; the opposite direction; a pair that
    differs only by a training run on unrelated data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.progress import progress
from analyses.core.reading.grading import grader as graded_by
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, replayed
from analyses.patching import _own_weights
from analyses.patching._group_contrast import contrast
from analyses.patching._place_claims import METRICS, POSITIONS, PlaceQuestion, claims
from probe.errors import InputError
from probe.items import OUTCOMES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.reading.patch_gates import Gate
    from probe import Edit, Model, Prompts, Site, TokenBatch
    from probe.replay import Clean, Metric

DIRECTIONS = ("tuned_to_base", "base_to_tuned")
HELD_BYTES = 2**30  # source activations held at once
ROW_BYTES = 27  # of the table, measured
BETWEEN_BLOCKS = ("embed", "resid_pre", "resid_post")


def _work(case: Case) -> Work:
    """Two unpatched runs and every site's values, then each patched run from its site on (`probe.replay`)."""
    ways = 2 if case.options["direction"] == "both" else 1
    layers = case.options["layers"] or range(case.n_layers)
    runs = [replayed(case, kind, layer) for kind in case.options["sites"] for layer in layers]
    if any(kind == "z" for kind in case.options["sites"]):
        runs = runs * (len(case.options["heads"]) or case.size.shape.n_heads)
    if case.options["metric"] == "accuracy":
        new = len(runs) * ways * int(case.options["max_new_tokens"])
        return Work(block_rows=len(runs) * ways * case.prompt * case.n_layers, generated=new, rows=len(runs) * ways,
                    row_bytes=ROW_BYTES, sites=2 * case.n_layers)  # fmt: skip
    # A site inside a block is read by running the block once more, in both checkpoints, for each direction. The
    # first batch also runs the proofs: three patched runs and one patched with its own values, in full.
    again = 2 * ways * any(kind not in BETWEEN_BLOCKS for kind in case.options["sites"])
    first = min(1.0, case.batch / case.n_items) if case.n_items else 0.0
    patched = ways * (sum(rows for rows, _ in runs) * (1 + first * 3 / len(runs)))
    read = ways * sum(heads for _, heads in runs) + (2 + ways * (1 + 2 * first)) * case.answer
    return Work(
        block_rows=(2 + again + 4 * ways * first) * case.full_pass + patched,
        unembedded=read + 4 * ways * first * case.padded,
        projected=2 * case.full_pass,
        rows=len(runs) * ways,
        row_bytes=ROW_BYTES,
        sites=2 * (case.n_layers + 1) + 4,
    )


@analysis(work=_work, renamed={"grader": "grade", "contrast": "groups"})
def cross_patching(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    sites: tuple[str, ...] = ("attn_out", "mlp_out"),
    layers: tuple[int, ...] = (),
    heads: tuple[int, ...] = (),
    positions: Literal["all_prompt", "last_prompt", "all"] = "all_prompt",
    at: tuple[int, ...] = (),
    direction: Literal["tuned_to_base", "base_to_tuned", "both"] = "tuned_to_base",
    metric: Literal["answer_logprob", "accuracy"] = "answer_logprob",
    grade: str = "number",
    max_new_tokens: int = 64,
    groups: tuple[str, ...] = (),
    draws: int = 2000,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["concat", "offsets"] = "concat",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Effect and recovery of every site patched from one checkpoint into the other, per item, with contrasts.

    Rows: item, group, answer_kind, site (the kind), layer, head (missing where the site has none), positions,
    direction, metric_base, metric_tuned, metric_patched, effect, recovery, below_floor (rounding, not an effect).

    Args:
        positions: the whole prompt, its last token, or every token (the answer's too).
        direction: which checkpoint is patched into which.
        metric: teacher-forced log-probability of the answer, or accuracy of greedy generation: the prompt is
            patched (phase prefill), decoding is not and goes on from the patched cache.
        draws: bootstrap draws and label permutations.
        batch_size: of passes that are not patched.
        seed: the bootstrap and the permutations.
    """
    from analyses.patching._patched_generation import accuracy_rows

    warnings = reading.pair_warnings(base, tuned)
    places = reading.chosen_sites(base, sites, layers, heads)
    two_groups = reading.contrasted_groups([i.group for i in prompts.items], groups)
    batches = reading.same_ids(base, tuned, prompts, batch_size=batch_size, template=template, boundary=boundary)
    reading.refuse_outside(batches, at)
    ways = DIRECTIONS if direction == "both" else (direction,)
    frames: list[pd.DataFrame] = []
    gates: list[Gate] = []
    for number, batch in enumerate(progress(batches, "cross patching", total=len(batches))):
        if metric == "accuracy" and number:
            break  # the proofs need one batch; what is generated has batches of its own
        pair = _Pair(base, tuned, batch)
        gates += [pair.gate(way, places, positions, at) for way in ways] if number == 0 else []
        frames += [pair.effects(way, places, positions, at) for way in ways] if metric == "answer_logprob" else []
    floor = max(g.floor for g in gates)
    if metric == "accuracy":
        positions = "all_prompt" if positions == "all" else positions  # the answer is generated
        plan: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "template": template}
        frames = accuracy_rows((base, tuned), prompts, places, ways, (positions, at), grade=graded_by(grade), **plan)
        floor = 0.0
    where = "at " + ",".join(map(str, at)) if at else positions
    table = _table(frames, floor).assign(positions=where)
    unit = "nats/token" if metric == "answer_logprob" else "fraction"
    data = _aggregate(table, two_groups, draws, seed, unit)
    data.attrs |= {f"gate_{k}": max(getattr(g, k) for g in gates) for k in ("self_patch", "fast_vs_full", "floor")}
    same = _own_weights.unchanged(base, tuned, places)
    asked = PlaceQuestion(POSITIONS.get(where, where), unit, METRICS[metric], draws, seed, same)
    is_selected = any(i.meta.get("group_from") == OUTCOMES for i in prompts.items)
    return Result.of(table, data, claims=claims(table, two_groups, asked, is_selected), warnings=warnings)


class _Pair:
    """Both checkpoints' unpatched runs of one batch."""

    def __init__(self, base: Model, tuned: Model, batch: TokenBatch) -> None:

        self.batch = batch
        self.metric: Metric = probe.replay.answer_logprob(batch)
        self.clean: dict[str, probe.replay.Clean] = {
            "base": probe.replay.Clean(base, batch),
            "tuned": probe.replay.Clean(tuned, batch),
        }
        self.values = {
            name: probe.replay.clean_metric(c, self.metric).numpy().astype(float) for name, c in self.clean.items()
        }

    def sides(self, way: str) -> tuple[str, str]:
        """(source, target) of a direction."""
        return ("tuned", "base") if way == "tuned_to_base" else ("base", "tuned")

    def edits(self, way: str, sites: Sequence[Site], positions: str, at: Sequence[int]) -> list[Edit]:
        """One patch per site with the source's value there."""

        source, target = (self.clean[name] for name in self.sides(way))
        where: Any = reading.place(target.batch, positions, at)
        return [probe.patch(site, source.value(site).to(target.decoder.device), where) for site in sites]

    def gate(self, way: str, sites: Sequence[Site], positions: str, at: Sequence[int]) -> Gate:
        """The proofs of `analyses.core.reading.patch_gates.gate` on this batch, for a few of the sites."""

        few = [sites[n] for n in sorted({0, len(sites) // 2, len(sites) - 1})]
        return reading.gate(self.clean[self.sides(way)[1]], self.metric, self.edits(way, few, positions, at))

    def effects(self, way: str, sites: Sequence[Site], positions: str, at: Sequence[int]) -> pd.DataFrame:
        """Rows of this batch: every item at every site."""

        source, target = self.sides(way)
        patched: list[np.ndarray] = []
        for group in self._held(self.clean[source], sites):
            edits = self.edits(way, group, positions, at)
            patched.append(probe.replay.replay(self.clean[target], edits, self.metric).numpy().astype(float))
            for name in (source, target):
                for layer in {s.layer for s in group if s.layer is not None}:
                    self.clean[name].forget(layer)
        columns = {
            "item": [i.id for i in self.batch.items],
            "group": [i.group for i in self.batch.items],
            "answer_kind": [i.answer_kind for i in self.batch.items],
            "metric_base": self.values["base"],
            "metric_tuned": self.values["tuned"],
        }
        rows = [
            pd.DataFrame({**columns, "site": s.kind, "layer": s.layer, "head": s.head, "metric_patched": values})
            for s, values in zip(sites, np.concatenate(patched), strict=True)
        ]
        return pd.concat([r.astype({"layer": "Int64", "head": "Int64"}) for r in rows]).assign(direction=way)

    def _held(self, source: Clean, sites: Sequence[Site]) -> Iterator[list[Site]]:
        """Runs of sites whose source values fit in memory together."""
        group: list[Site] = []
        held = 0
        kept: set[Site] = set()
        for site in sites:
            if site.whole not in kept:
                need = source.value(site.whole).nbytes
                if group and held + need > HELD_BYTES:
                    yield group
                    group, held, kept = [], 0, set()
                held, kept = held + need, kept | {site.whole}
            group.append(site)
        yield group


def _table(frames: Sequence[pd.DataFrame], floor: float) -> pd.DataFrame:

    table = pd.concat(frames, ignore_index=True)
    into_base = (table["direction"] == "tuned_to_base").to_numpy()
    base, tuned = table["metric_base"].to_numpy(), table["metric_tuned"].to_numpy()
    target, source = np.where(into_base, base, tuned), np.where(into_base, tuned, base)
    table["effect"] = table["metric_patched"].to_numpy() - target
    table["gap"] = source - target
    table["recovery"] = reading.share(table["effect"].to_numpy(), table["gap"].to_numpy())
    table["below_floor"] = table["effect"].abs() <= floor
    table["positions"] = ""
    names = ["item", "group", "answer_kind", "site", "layer", "head", "positions", "direction"]
    names += ["metric_base", "metric_tuned", "metric_patched", "effect", "gap", "recovery", "below_floor"]
    keys = ["site", "layer", "head", "direction", "item", "answer_kind"]
    return table[names].sort_values(keys, kind="stable", ignore_index=True)


def _aggregate(table: pd.DataFrame, groups: tuple[str, str] | None, draws: int, seed: int, unit: str) -> xr.Dataset:
    """Effect and recovery per site and layer (and head), the contrast of two groups with its interval and p."""
    whole, split = table[table["head"].isna()], table[table["head"].notna()]
    parts = [_curves(whole, [], "", groups, draws, seed, unit)] if len(whole) else []
    parts += [_curves(split, ["head"], "head_", groups, draws, seed, unit)] if len(split) else []
    return xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


def _curves(
    table: pd.DataFrame,
    extra: list[str],
    prefix: str,
    groups: tuple[str, str] | None,
    draws: int,
    seed: int,
    unit: str,
) -> xr.Dataset:
    # A site outside the blocks (embed) is drawn before the first one.
    table = table.assign(layer=table["layer"].fillna(-1)).astype(dict.fromkeys(("layer", *extra), int))
    cell = ["direction", "site", "layer", *extra]
    by = [*cell, "group", "answer_kind"]
    label: dict[str, Any] = {"draws": draws, "seed": seed}
    found = [
        estimate(table, "effect", by, name=f"{prefix}effect", units=unit,
                 long_name="change of the metric by the patch", **label),
        _recovery(table, by, f"{prefix}recovery", label),
    ]  # fmt: skip
    if groups is not None:
        found.append(contrast(table, cell, groups, f"{prefix}contrast", draws, seed, unit))
    return xr.merge(found, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


def _recovery(table: pd.DataFrame, by: list[str], name: str, label: dict[str, Any]) -> xr.Dataset:
    """Ratio of summed effects to summed gaps, NaN where the checkpoints do not differ on these items."""

    found = estimate(table, "effect", by, per="gap", name=name, units="1", long_name="recovery", **label)
    gap = estimate(table, "gap", by, name="gap", units="", draws=2, seed=0)["gap"]
    known = abs(gap) >= reading.SMALLEST_GAP
    for part in ("", "_ci_low", "_ci_high"):
        attrs = found[name + part].attrs
        found[name + part] = (found[name + part].where(known) + 0.0).assign_attrs(attrs)
    return found


def figures(result: Result) -> dict[str, Figure]:
    """Effect, recovery and group contrast over layers; heads as a map."""

    rows = result.summary()
    several = [d for d in ("step", "source_step", "direction", "answer_kind") if d in rows and rows[d].nunique() > 1]
    titles = {
        "effect": "Effect of the patch: mean over items, 95 % interval",
        "recovery": "Recovery: share of the gap between the checkpoints",
        "contrast": "Effect of the patch, first group minus second",
    }
    drawn: dict[str, Any] = {}
    for name, title in titles.items():
        part, heads = rows[rows["quantity"] == name], rows[rows["quantity"] == f"head_{name}"]
        color = None if name == "contrast" else "group"
        if len(part):
            drawn[name] = curve(
                part, x="layer", color=color, dash="site", facet=several or None, title=title, reference=0.0
            )
        if len(heads):
            facet = [*([] if name == "contrast" else ["group"]), "site", *several]
            drawn[f"head_{name}"] = heatmap(heads, x="head", y="layer", facet=facet, title=title)
    if not drawn:
        raise InputError("this result holds no effects to draw")
    return drawn
