"""Is a behaviour's direction, found in base, used by base, by tuned, or by both: reused, or made use of by training.

Definition: every item has a prompt after which the behaviour comes, a twin without it (the column `corrupt`), and an
    answer, the behaviour's own words. In base, d = mean over half of the items of h(prompt) - h(twin), resid_post of
    one layer at the last prompt token. On the other half (both halves in turn) d is added to the twins from the last
    prompt token on, in either checkpoint: effect = M(twin with d) - M(twin), M the mean log-probability of the
    answer's tokens. Arms: direction; style = the twins' states less their mean, with random signs by item, stretched
    to d's length: what sets these prompts apart among themselves; random = vectors of d's length; these two both ways.
    beyond = effect - mean effect of the style and random arms, per item. A checkpoint acts on d if both are above 0.
Units: nats per token.
Source: arXiv 2507.12638 (backtracking: base's direction works in tuned alone), 2510.07364.
Does not show: that the model uses the direction by itself (see probe-gated steering), or that the words are the
    behaviour. A direction of the prompts' topic raises the words too if twins differ in topic: match them.
Control: style and random arms of equal length; the same checkpoint twice; twins of another behaviour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import clusters_of, estimate, mean_of_items, widened
from analyses.core.work import Case, Work, passes, replays, together
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts

    Key: TypeAlias = tuple[str, str]

CHECKPOINTS = ("base", "tuned")
TWIN = "corrupt"
FEWEST = 8  # items
LEAST = 0.1  # nats: an effect worth a word
WHAT = "the direction raises the behaviour's words beyond style and chance"


def _work(case: Case) -> Work:
    """Prompts and twins under base; in both checkpoints the twins as they are and, replayed, under every arm."""
    layers = case.options["layers"] or range(case.n_layers)
    arms = 1 + 2 * int(case.options["draws"])
    plain = passes(case, "answer", times=len(layers))
    return together(passes(case, "none", times=2, models=1), plain, replays(case, layers, 2 * arms, rows=case.answer))


@analysis(work=_work)
def behaviour_direction(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    layers: tuple[int, ...] = (),
    strength: float = 1.0,
    draws: int = 3,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Effect of base's difference-of-means direction in both checkpoints, beside directions of style and of chance.

    Rows: item, group, answer_kind, checkpoint, layer, arm (direction, style or random), metric (of the plain twin),
    effect, beyond (of the arm direction; missing elsewhere).

    Args:
        layers: their output is steered.
        strength: times the vector.
        draws: style and random vectors, each.
        seed: halves and the null vectors.
    """
    twins = _twins(prompts)
    chosen = list(layers) or list(range(base.shape.n_layers))
    bad = [layer for layer in chosen if not 0 <= layer < base.shape.n_layers]
    if bad or draws < 1 or len(prompts.items) < 4:
        given = f"layers={chosen}, draws={draws}, {len(prompts.items)} items"
        raise InputError(f"{given}; expected layers 0 to {base.shape.n_layers - 1}, 1 draw and 4 items or more")
    warnings = reading.pair_warnings(base, tuned)
    plan: dict[str, object] = {"batch_size": batch_size, "template": template}
    ours, plain = (_last(base, p, chosen, plan) for p in (prompts, twins))
    apart = {key: {at: state[at] - plain[key][at] for at in chosen} for key, state in ours.items()}
    half = _halves(prompts, seed)
    models = dict(zip(CHECKPOINTS, (base, tuned), strict=True))
    rows: list[dict[str, object]] = []
    for layer in progress(chosen, "directions", total=len(chosen)):
        for side in (True, False):
            own = [key for key in sorted(apart) if half[key[0]] == side]
            differences, among = (torch.stack([of[key][layer] for key in own]) for of in (apart, plain))
            arms = _arms(differences, among, draws, seed * 1000 + 2 * layer + side)
            held = replace(twins, items=tuple(i for i in twins.items if half[i.id] != side))
            rows += [
                {"checkpoint": name, "layer": layer, **row}
                for name, model in models.items()
                for row in _effects(model, held, layer, arms, strength, plan)
            ]
    table = _beyond(pd.DataFrame(rows))
    data = _aggregate(table, seed)
    return Result.of(table, data, claims=_claims(table, len(chosen)), warnings=warnings)


def _twins(prompts: Prompts) -> Prompts:
    missing = [i.id for i in prompts.items if not str(i.meta.get(TWIN, "")).strip()]
    if missing:
        raise InputError(
            f"{len(missing)} item(s) have no column {TWIN!r} ({', '.join(missing[:5])}): a prompt of the same style "
            "after which the behaviour does not come; add one to the prompt file"
        )
    return replace(prompts, items=tuple(replace(i, prompt=str(i.meta[TWIN])) for i in prompts.items))


def _halves(prompts: Prompts, seed: int) -> dict[str, bool]:
    ids = np.random.default_rng(seed).permutation(sorted({i.id for i in prompts.items}))
    return {str(name): n % 2 == 0 for n, name in enumerate(ids)}


def _last(model: Model, prompts: Prompts, layers: list[int], plan: dict[str, object]) -> dict[Key, dict[int, Tensor]]:
    sites, found = [f"resid_post.{layer}" for layer in layers], dict["Key", "dict[int, Tensor]"]()
    for batch in reading.batches(model, prompts, "states", **plan):
        trace = model.run(batch, read=sites, logits="none")
        at = batch.last_prompt.tolist()
        for row, item in enumerate(batch.items):
            states = {layer: trace[site][row, at[row]].float() for layer, site in zip(layers, sites, strict=True)}
            found[item.id, item.answer_kind] = states
    return found


def _arms(apart: Tensor, twins: Tensor, draws: int, seed: int) -> list[tuple[str, Tensor]]:
    """The mean difference; as long vectors of how the twins differ among themselves, and of nothing, each both ways.

    The differences with random signs would hold their mean, plus or minus, where all are alike.
    """
    rng, mean = torch.Generator().manual_seed(seed), apart.mean(0)
    found = [("direction", mean)]
    for _ in range(draws):
        signs = (torch.randint(0, 2, (len(apart), 1), generator=rng) * 2 - 1).to(apart)
        noise = torch.randn(len(mean), generator=rng).to(mean)
        for name, vector in (("style", ((twins - twins.mean(0)) * signs).mean(0)), ("random", noise)):
            size = vector.norm()
            long = vector / size * mean.norm() if float(size) > 0 else vector
            found += [(name, long), (name, -long)]
    return found


def _effects(
    model: Model, twins: Prompts, layer: int, arms: list[tuple[str, Tensor]], strength: float, plan: dict[str, object]
) -> Iterator[dict[str, object]]:
    """Every item under every arm; several vectors of an arm are averaged."""
    for batch in reading.batches(model, twins, "effects", **plan):
        clean = probe.replay.Clean(model, batch)
        metric = probe.replay.answer_logprob(batch)
        edits = [probe.add(f"resid_post.{layer}", strength * vector, "from_last_prompt") for _, vector in arms]
        before = probe.replay.clean_metric(clean, metric).numpy().astype(float)
        after = probe.replay.replay(clean, edits, metric).numpy().astype(float) - before
        for name in dict.fromkeys(name for name, _ in arms):
            mean = after[[n for n, (arm, _) in enumerate(arms) if arm == name]].mean(0)
            for row, item in enumerate(batch.items):
                named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "arm": name}
                yield {**named, "metric": float(before[row]), "effect": float(mean[row])}


def _beyond(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["checkpoint", "layer", "item", "answer_kind"]
    nulls = table[table["arm"] != "direction"].groupby(keys)["effect"].mean().rename("null")
    table = table.merge(nulls, left_on=keys, right_index=True)
    beyond = (table["effect"] - table["null"]).where(table["arm"] == "direction")
    columns = ["item", "group", "answer_kind", "checkpoint", "layer", "arm", "metric", "effect", "beyond"]
    table = table.assign(beyond=beyond)[columns]
    return table.sort_values([*keys, "arm"], kind="stable", ignore_index=True)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    by = ["checkpoint", "layer", "group", "answer_kind"]
    text = "change of the behaviour's log-probability by the vector"
    own = table[table["arm"] == "direction"]
    parts = [
        estimate(table, "effect", [*by[:2], "arm", *by[2:]], seed=seed, units="nats/token", long_name=text),
        estimate(own, "beyond", by, seed=seed, units="nats/token", long_name=f"{text}, beyond the nulls'"),
    ]
    return xr.merge(parts)


def _claims(table: pd.DataFrame, looks: int) -> list[Claim]:
    """In which checkpoint the direction works, at the layer where it works best in either."""
    own = table[table["arm"] == "direction"]
    n = own["item"].nunique()
    if n < FEWEST:
        return [Claim("direction", UNJUDGED, WHAT, why=f"{n} items are too few", needs=f"at least {FEWEST} items", n=n)]
    grid = own.pivot_table(index="item", columns=["checkpoint", "layer"], values="beyond")
    found = mean_of_items(grid.to_numpy(float), clusters=clusters_of(grid.index))
    plain = own.pivot_table(index="item", columns=["checkpoint", "layer"], values="effect")[grid.columns]
    whole = mean_of_items(plain.to_numpy(float), clusters=clusters_of(plain.index))
    sure, raised = {}, {}
    for k, cell in enumerate(grid.columns):
        for into, told in ((sure, found), (raised, whole)):
            bounds = (float(x[k]) for x in (told.value, told.ci_low, told.ci_high))
            into[cell] = widened(*bounds, n=n, looks=2 * looks)
    checkpoint, layer = max(sure, key=lambda cell: min(sure[cell][0], raised[cell][0]))
    works = {
        name: all(told[name, layer][1] > 0 and told[name, layer][0] >= LEAST for told in (sure, raised))
        for name in CHECKPOINTS
    }
    value, low, high = sure[checkpoint, layer]
    said: Fields = {
        "effect": value, "low": low, "high": high, "n": n, "unit": "nats/token",
        "family": f"{looks} layers, 2 checkpoints",
        "estimand": f"effect in {checkpoint} beyond style and random vectors", "control": "style and random vectors",
        "assumptions": tuple(f"in {name} {sure[name, layer][0]:.2g} nats" for name in CHECKPOINTS),
    }  # fmt: skip
    if not any(works.values()):
        return [Claim("direction", NONE, f"that {WHAT}", **said)]
    gain = grid["tuned", layer] - grid["base", layer]
    change = mean_of_items(gain.to_numpy(float), clusters=clusters_of(grid.index))
    bounds = (float(x) for x in (change.value, change.ci_low, change.ci_high))
    _, above, _ = widened(*bounds, n=n, looks=looks)
    place: Fields = {"place": f"layer {layer}"}
    if works["tuned"] and not works["base"] and above > 0:
        return [Claim("made", FOUND, "only tuned acts on base's direction", **place, **said)]
    if works["base"] and works["tuned"]:
        return [Claim("reused", FOUND, "base and tuned both act on base's direction", **place, **said)]
    name = next(name for name in CHECKPOINTS if works[name])
    return [Claim("acts", FOUND, f"{name} acts on base's direction; the other is not told apart", **place, **said)]


def figures(result: Result) -> dict[str, Figure]:
    """Effect over layers by arm, in both checkpoints; beyond the nulls over steps where there are several."""
    rows = result.summary()
    facet = [d for d in ("checkpoint", "group", "answer_kind", "step") if d in rows and rows[d].nunique() > 1]
    title = "Effect of base's direction on the behaviour's words"
    effects = rows[rows["quantity"] == "effect"]
    drawn = {"effect": curve(effects, x="layer", color="arm", facet=facet or None, title=title, reference=0.0)}
    if "step" in rows:
        beyond = rows[rows["quantity"] == "beyond"]
        facet = [d for d in facet if d != "step"] or None
        drawn["steps"] = curve(beyond, x="step", color="layer", facet=facet, title=f"{title}, beyond nulls")
    return drawn
