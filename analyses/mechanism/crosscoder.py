"""Which features two checkpoints share and which training made: a dictionary trained on both their states.

Definition: x_base and x_tuned are resid_post of one layer at the same token (each text's first left out). A latent's
    activation f = ReLU(W_base x_base + W_tuned x_tuned + b); a state is rebuilt as the sum of f times the latents'
    directions. Most latents write one direction into both checkpoints, an eighth into base alone, an eighth into tuned
    alone; over a minibatch `active` latents a token stay on. Half of the items train it and pick latents, others judge
    them. presence = sum f (x_other - m_other).d / sum f (x_own - m_own).d, d a latent's direction, own the checkpoint
    it writes more into, m the mean where it is off: 1 where the other checkpoint's state holds the feature as well, 0
    where it lacks it, a half where it holds half as much. relative_norm = ((|d_tuned| - |d_base|) / max + 1) / 2. lost
    = what the answer's log-probability in tuned loses if what the picked latents write is taken from its state.
Units: lost: nats per token. presence, relative_norm, explained (of the squared states, what is lost without a latent)
    and unexplained have none.
Source: arXiv 2504.02922 (BatchTopK, latent scaling: presence is its ratio, taken of whole states, so that a feature
    split over a latent of base and one of tuned is not called new), 2602.11729 (latents of one checkpoint alone).
Does not show: that a latent is one thing, or that base could not do it elsewhere, by another direction. Latents of
    another seed differ. A new feature may change no answer: see lost.
Control: as many shared latents, random directions of equal size; the same checkpoint twice; another seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest, scatter
from analyses.core.result import Result
from analyses.core.stats import Estimate, clusters_of, estimate, ratio_of_sums
from analyses.core.work import Case, Work
from analyses.mechanism._latent_claims import FEWEST, HALF, MOST_PRESENT, claims
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.mechanism._latents import Latents
    from analyses.mechanism._states import Tokens
    from probe import Model, Prompts

ARMS = ("new", "shared", "random")
NEW, SHARED, GONE, CHANGED, OFF = "new", "shared", "gone", "changed", "off"
MOST_NEW = 10  # latents that are picked and judged
X, Y = "relative norm (1: tuned alone)", "presence elsewhere"
TOKENS_OF_A_LATENT = 10  # fewer in the data for each latent are too few to say much


def _work(case: Case) -> Work:
    """States of both, the training's multiplications, and three edited runs from the layer on."""
    shape, options = case.size.shape, case.options
    latents = int(options["latents"]) or 4 * shape.d_model
    return Work(
        block_rows=2 * 2 * case.full_pass + (3 + MOST_NEW) * case.full_pass / 2,
        unembedded=(2 + 3 + MOST_NEW) * case.answer,
        rows=int(options["shown"]) + 3,
        row_bytes=60,
        sites=2,
        fixed=int(options["updates"]) * 256.0 * 2 * shape.d_model * latents * 6,
    )


@analysis(work=_work, renamed={"steps": "updates", "k": "active"})
def crosscoder(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    layer: int | None = None,
    latents: int = 0,
    active: int = 0,
    updates: int = 1500,
    rate: float = 3e-3,
    dictionary: str = "",
    folder: str = "",
    shown: int = 20,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Features of both checkpoints and of one alone, what brings them on, and what the new ones are worth to answers.

    Rows: item, group, answer_kind, fitted (of the half the dictionary was trained on), arm (latent, or a set taken from
    tuned's states: new, shared, random), latent (-1: a set), kind (new, gone, shared, changed), on (tokens), top (the
    most it writes at a token), context (the text around that token, it in angle brackets), here, elsewhere (sums whose
    ratio is presence), metric_base, metric (of tuned), lost (missing where nothing was taken out).

    Args:
        layer: its output is read.
        latents: of the dictionary; 0: four a coordinate, fewer where there are fewer than 25 tokens for each.
        active: latents on at a token, on average; 0: an eighth of the coordinates, 4 to 32.
        updates: of minibatches of 256 tokens.
        dictionary: a dictionary trained elsewhere (folder or file as SAELens or dictionary_learning save them) in
            place of training one.
        folder: where states and the training's state are kept, so that a stopped call is taken up again; "": nowhere.
        shown: latents with rows, the new ones, then those that differ most.
        seed: halves, the dictionary and the random directions.
    """
    at = base.shape.n_layers // 2 if layer is None else layer
    _refuse(base, prompts, at, {"latents": latents, "active": active, "updates": updates, "shown": shown})
    warnings = reading.pair_warnings(base, tuned)
    from analyses.mechanism import _dictionary_files, _effects, _latents, _states, _training

    tokens = _states.Tokens(tuple(base.batches(prompts, batch_size=batch_size, template=template)))
    kept = Path(folder) if folder else None
    values = _states.states((base, tuned), tokens, f"resid_post.{at}", kept)
    half = _halves(prompts, seed)
    is_fitted = np.array([half[i.id] for i in tokens.items])
    fitted = torch.from_numpy(is_fitted)[tokens.item]
    if dictionary:
        scale, made = 1.0, _dictionary_files.given(Path(dictionary), base.shape.d_model)
    else:
        scale = base.shape.d_model**0.5 / float(values[fitted].norm(dim=-1).mean())
        counts = _training.sizes(int(fitted.sum()), base.shape.d_model, latents, active)
        warnings += _few(int(fitted.sum()), counts[0])
        trainer = _training.Trainer(values[fitted] * scale, _training.Recipe(*counts, updates, rate, seed))
        made = trainer.run(kept / "training.pt" if kept else None)
    seen = _latents.measured(made, values * scale, tokens, fitted)
    kinds, new = _kinds(seen, is_fitted)
    sets = _sets(seen, kinds, new)
    lost = _effects.lost((base, tuned), tokens, f"resid_post.{at}", values, made, scale, sets, seed)
    table = _rows(seen, kinds, _shown(seen, kinds, new, shown), tokens, tuned, is_fitted, lost, scale)
    data = _aggregate(seen, kinds, table, ~is_fitted, tokens)
    data.attrs |= {"layer": at, "size": made.size}
    return Result.of(table, data, claims=claims(table, data, new), warnings=warnings)


def _refuse(base: Model, prompts: Prompts, layer: int, counts: dict[str, int]) -> None:
    if not 0 <= layer < base.shape.n_layers:
        raise InputError(f"layer={layer}; expected 0 to {base.shape.n_layers - 1}")
    bad = [f"{name}={n}" for name, n in counts.items() if n < (name in ("updates", "shown"))]
    if bad or len({i.id for i in prompts.items}) < 4:
        raise InputError(f"{', '.join(bad) or len(prompts.items)} items; expected counts of 1 or more and 4 items")


def _halves(prompts: Prompts, seed: int) -> dict[str, bool]:
    """Whether an item is of the half that is fitted to: every group halved."""
    rng, groups = np.random.default_rng(seed), {i.id: i.group for i in prompts.items}
    found: dict[str, bool] = {}
    for name in sorted(set(groups.values())):
        own = rng.permutation(sorted(i for i, g in groups.items() if g == name))
        found |= {str(i): n % 2 == 0 for n, i in enumerate(own)}
    return found


def _few(n_tokens: int, size: int) -> list[str]:
    if n_tokens >= TOKENS_OF_A_LATENT * size:
        return []
    return [f"{n_tokens} tokens to train {size} latents on: give more texts, or fewer latents"]


def _kinds(seen: Latents, fitted: np.ndarray) -> tuple[list[str], list[int]]:
    """What every latent is, by the fitted items alone; and the new ones to be judged, the largest first."""
    presence, relative = seen.presence(fitted), seen.relative_norm
    alone = np.abs(relative - 0.5) > HALF
    lacks = np.abs(presence) < MOST_PRESENT
    names = np.where(alone & lacks, np.where(relative > 0.5, NEW, GONE), np.where(alone | lacks, CHANGED, SHARED))
    names = np.where(np.isnan(presence), OFF, names)
    common = (seen.on[fitted] > 0).sum(0) >= FEWEST
    size = seen.here[fitted].sum(0)
    picked = [int(j) for j in np.argsort(-size, kind="stable") if names[j] == NEW and common[j]]
    return [str(n) for n in names], picked[:MOST_NEW]


def _sets(seen: Latents, kinds: list[str], new: list[int]) -> dict[str, list[int]]:
    """Latents taken out together, and each new one alone; the shared ones write about as much as the new ones."""
    size, free = seen.energy[1], [j for j, kind in enumerate(kinds) if kind == SHARED]
    alike: list[int] = []
    for j in new:
        if free:
            alike.append(min(free, key=lambda other: abs(size[other] - size[j])))
            free.remove(alike[-1])
    sets = {"new": new, "shared": alike, "random": new} if new else {}
    return sets | {str(j): [j] for j in new}


def _shown(seen: Latents, kinds: list[str], new: list[int], shown: int) -> list[int]:
    """New latents, then those of which most is missing elsewhere."""
    apart = -np.abs(seen.here - seen.elsewhere).sum(0)
    rest = [int(j) for j in np.argsort(apart, kind="stable") if int(j) not in new and kinds[int(j)] != OFF]
    return [*new, *rest][:shown]


def _rows(
    seen: Latents, kinds: list[str], chosen: list[int], tokens: Tokens, model: Model, fitted: np.ndarray,
    lost: pd.DataFrame, scale: float,
) -> pd.DataFrame:  # fmt: skip
    items = tokens.items
    named = pd.DataFrame({
        "item": [i.id for i in items], "group": [i.group for i in items],
        "answer_kind": [i.answer_kind for i in items], "fitted": fitted,
    })  # fmt: skip
    metrics = {name: lost[name] for name in ("metric_base", "metric")}
    frames = [named.assign(arm=arm, latent=-1, kind=arm, lost=lost.get(arm, np.nan), **metrics) for arm in ARMS]
    for j in chosen:
        own = seen.on[:, j] > 0
        told = [tokens.context(model, int(at)) if at >= 0 else "" for at in np.where(own, seen.where[:, j], -1)]
        values = {"on": seen.on[:, j], "top": seen.top[:, j] / scale, "context": told}
        sums = {"here": seen.here[:, j], "elsewhere": seen.elsewhere[:, j]}
        effect = lost.get(str(j), np.nan)
        frames.append(named.assign(arm="latent", latent=j, kind=kinds[j], **values, **sums, **metrics, lost=effect))
    columns = [*named, "arm", "latent", "kind", "on", "top", "context", "here", "elsewhere", *metrics, "lost"]
    table = pd.concat(frames, ignore_index=True).reindex(columns=columns)
    table["context"] = table["context"].fillna("")
    return table.sort_values(["arm", "latent", "item", "answer_kind"], kind="stable", ignore_index=True)


def _aggregate(seen: Latents, kinds: list[str], table: pd.DataFrame, held: np.ndarray, tokens: Tokens) -> xr.Dataset:
    """Latents by number; what is lost by arm, over held-out items; how much the dictionary leaves unexplained."""
    data = xr.Dataset(coords={"latent": np.arange(len(kinds)), "checkpoint": ["base", "tuned"]})
    for name, text in TOLD.items():
        data[name] = ("latent", np.asarray(getattr(seen, name), float), {"units": "1", "long_name": text})
    data["n_new"] = ((), float(sum(kind == NEW for kind in kinds)), {"long_name": "latents that base lacks"})
    label = {"units": "1", "long_name": "share of the squared states that the dictionary leaves out"}
    data["unexplained"] = ("checkpoint", seen.unexplained.astype(float), label)
    found = _presence(seen, held, [i.id for k, i in enumerate(tokens.items) if held[k]])
    label = {"units": "1", "long_name": "share of the latent that the other checkpoint holds too"}
    parts = {"": found.value, "_ci_low": found.ci_low, "_ci_high": found.ci_high, "_n": found.n}
    for part, values in parts.items():
        data[f"presence{part}"] = ("latent", values, label if not part else {})
    own = table[~table["fitted"].astype(bool)]
    text = "log-probability of the answer that tuned loses"
    by = ["arm", "group", "answer_kind"]
    sets = own[own["arm"] != "latent"]
    parts = [data, estimate(sets, "lost", by, units="nats/token", long_name=text)]
    plain = sets[sets["arm"] == "new"].assign(gain=lambda t: t["metric"] - t["metric_base"])
    text = "gain that training brought"
    parts.append(estimate(plain, "gain", by[1:], units="nats/token", long_name=text))
    return xr.merge(parts, join="outer")


TOLD = {
    "relative_norm": "1: written into tuned alone, 0: into base alone",
    "cosine": "cosine of the directions in base and tuned",
    "explained": "share of the squared states that is lost without the latent",
    "density": "share of tokens at which it is on",
}


def _presence(seen: Latents, held: np.ndarray, ids: list[str]) -> Estimate:
    """Presence over held-out items, with intervals over them; items at which a latent is off do not count."""
    on = (seen.on[held] > 0) & (seen.here[held].sum(0) > 0)
    here, elsewhere = (np.where(on, x[held], np.nan) for x in (seen.here, seen.elsewhere))
    return ratio_of_sums(elsewhere, here, clusters=clusters_of(ids))


def figures(result: Result) -> dict[str, Figure]:
    """Latents by where they are written and whether the other checkpoint has them; what the new ones are worth."""
    rows = result.summary()
    drawn: dict[str, Figure] = {}
    last = rows[rows["step"] == rows["step"].max()] if "step" in rows else rows
    title = "Latents: whose they are, and how much of them the other checkpoint holds"
    wide = last[last["quantity"] == "presence"].set_index("latent")[["value"]].rename(columns={"value": "presence"})
    if len(wide):
        norms = result.data["relative_norm"]  # without an interval, so not in the summary
        norms = norms.isel(step=-1) if "step" in norms.dims else norms
        wide = wide.join(norms.to_series().rename("relative_norm")).reset_index()
        wide = wide[wide["presence"].between(-1, 2)]
        drawn["latents"] = scatter(
            wide, x="relative_norm", y="presence", hover=("latent",), title=title, x_title=X, y_title=Y
        )
    effects = last[last["quantity"] == "lost"]
    facet = [d for d in ("group", "answer_kind") if d in effects and effects[d].nunique() > 1]
    title = "What the answer loses without the features that base lacks"
    drawn["lost"] = forest(effects, label="arm", facet=facet or None, title=title)
    if "step" in rows:
        counts = result.data["n_new"].to_series().rename("value").reset_index().assign(quantity="n_new")
        drawn["steps"] = curve(counts, x="step", title="Latents that base lacks, over steps")
    return drawn
