"""What a finetune writes into every text: the mean difference of states on the first tokens of unrelated text, read.

Definition: d_i = h_tuned - h_base of item i at one position and layer (resid_post), m their mean over items. norm =
    |m|, relative_norm = |m| / mean |h_base|, shared = mean cosine of d_i with the mean of the others' (1: one
    constant vector, 0: nothing in common). lens: tuned's logits of m behind the final norm, by size. patchscope: m,
    stretched to the mean norm of states, takes the place of the last state of a copying prompt; tokens whose
    log-probability rises most over the prompt's own. tied: with texts that were trained on, mean lens logit of tokens
    that occur in them alone minus that of tokens that occur in the prompts alone.
Units: norm that of states; shared a cosine; tied in logits.
Source: arXiv 2510.13900; patchscope: arXiv 2401.06102.
Does not show: what the vector does downstream (see tuning_vector). Position 0 is often one token in every item: there
    `shared` is 1 for any two models. Any finetune shifts states somewhere; that its tokens are of the training data is
    judged only against texts that are given.
Control: the same checkpoint twice (0); a finetune on other data: tokens not tied to this one's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import group_max_t, mean_of_items
from analyses.core.work import Case, Work, passes
from probe import Item, Prompts, patch
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

COPYING = "cat -> cat ; 1135 -> 1135 ; hello -> hello ; ?"
FEWEST = 8  # tokens of either kind
WHAT = "the difference stands for tokens of the training texts"


def _work(case: Case) -> Work:
    """A pass of each checkpoint."""
    return passes(case, "none", sites=case.n_layers)


@analysis(work=_work)
def difference_lens(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    training: Prompts | None = None,
    *,
    n_positions: int = 5,
    top_k: int = 10,
    patchscope: str = COPYING,
    permutations: int = 1000,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Mean difference of states by layer and position: its size, how shared it is, and the tokens it stands for.

    Rows, one per layer, position and rank: layer, pos (missing: the mean over positions after the first), variant
    (lens or patchscope), rank, token, token_id, value (logit, or rise of log-probability). Arrays over [layer, pos]:
    norm, relative_norm, shared with interval over items; over [layer]: tied (with `training`).

    Args:
        n_positions: first tokens read (positions counted without padding).
        patchscope: prompt whose last state is replaced; empty: none is run.
        permutations: times that tokens are drawn again, each kind among its own, for the claim.
        seed: the draws of tokens.
    """
    if n_positions < 2 or top_k < 1:
        raise InputError(f"n_positions={n_positions}, top_k={top_k}; expected at least 2 positions and 1 token")
    warnings = reading.pair_warnings(base, tuned)
    before, after = (_states(m, prompts, n_positions, batch_size, template) for m in (base, tuned))
    mean = np.stack([after.mean_of(s) - before.mean_of(s) for s in range(before.n_layers)])
    over = np.concatenate([mean, mean[:, 1:].mean(1, keepdims=True)], 1)
    rows = [*_lens_rows(tuned, over, top_k)]
    if patchscope:
        sizes = after.sizes
        rows += _patchscope_rows(tuned, over[:, -1], sizes, patchscope, top_k)
    data = _arrays(before, after, mean)
    claims = []
    if training is not None:
        tied, claim = _tied(tuned, over[:, -1], prompts, training, permutations, seed)
        data["tied"] = ("layer", tied, {"units": "logits", "long_name": "lens logit of trained over other tokens"})
        claims = [claim]
    table = pd.DataFrame(rows).astype({"pos": "Int64"})
    return Result.of(table, data, claims=claims, warnings=warnings)


class _First:
    """States [item, layer, pos, d_model] of the first positions of every item, on disk."""

    def __init__(self, n: int, n_layers: int, n_positions: int, d: int) -> None:
        with tempfile.TemporaryFile(prefix="probe-first-") as file:
            self.values: Any = np.memmap(file, np.float32, "w+", shape=(n_layers, n, n_positions, d))
        self.n_layers = n_layers

    def layer(self, layer: int) -> np.ndarray:
        return np.asarray(self.values[layer], dtype=np.float64)

    def mean_of(self, layer: int) -> np.ndarray:
        return self.layer(layer).mean(0)

    @property
    def sizes(self) -> np.ndarray:
        """Mean norm of states behind the first position, by layer."""
        return np.asarray([np.linalg.norm(self.layer(s)[:, 1:], axis=-1).mean() for s in range(self.n_layers)])


def _states(model: Model, prompts: Prompts, n_positions: int, batch_size: int, template: object) -> _First:
    place = {(i.id, i.answer_kind): n for n, i in enumerate(prompts.items)}
    found = _First(len(place), model.shape.n_layers, n_positions, model.shape.d_model)
    sites = [f"resid_post.{layer}" for layer in range(model.shape.n_layers)]
    for batch in reading.batches(model, prompts, "first tokens", batch_size=batch_size, template=template):
        short = [i.id for i, n in zip(batch.items, batch.mask.sum(-1).tolist(), strict=True) if n < n_positions]
        if short:
            raise InputError(f"n_positions={n_positions}: item(s) {short[:3]} have fewer tokens; lower it")
        trace = model.run(batch, read=sites, logits="none")
        for row, item in enumerate(batch.items):
            first = int(batch.offsets[row])
            at = slice(first, first + n_positions)
            for layer, site in enumerate(sites):
                found.values[layer, place[item.id, item.answer_kind]] = trace[site][row, at].float().cpu().numpy()
    return found


def shared(d: np.ndarray) -> np.ndarray:
    """Cosine of every difference [item, d_model] with the mean of the others'; NaN where either is 0."""
    rest = d.sum(0) - d
    scale = np.linalg.norm(d, axis=-1) * np.linalg.norm(rest, axis=-1)
    return np.divide((d * rest).sum(-1), scale, out=np.full(len(d), np.nan), where=scale > 0)


def _arrays(before: _First, after: _First, mean: np.ndarray) -> xr.Dataset:
    n_layers, n_positions = mean.shape[:2]
    data = xr.Dataset(coords={"layer": np.arange(n_layers), "pos": np.arange(n_positions)})
    cosines, scale = [], []
    for layer in range(n_layers):
        own = before.layer(layer)
        d = after.layer(layer) - own
        cosines.append(np.stack([shared(d[:, p]) for p in range(n_positions)], 1))
        scale.append(np.linalg.norm(own, axis=-1).mean(0))
    found = mean_of_items(np.stack(cosines, 1))
    dims = ("layer", "pos")
    data["shared"] = (dims, found.value, {"units": "cosine", "long_name": "how shared the difference is"})
    data["shared_ci_low"], data["shared_ci_high"] = (dims, found.ci_low), (dims, found.ci_high)
    data["shared_n"] = (dims, found.n)
    size = np.linalg.norm(mean, axis=-1)
    for name, values, unit in (("norm", size, "resid units"), ("relative_norm", size / np.stack(scale), "1")):
        data[name] = (dims, values, {"units": unit, "long_name": f"{name.replace('_', ' ')} of the mean difference"})
        for suffix in ("ci_low", "ci_high"):
            data[f"{name}_{suffix}"] = (dims, np.full(values.shape, np.nan))
        data[f"{name}_n"] = (dims, np.full(values.shape, before.values.shape[1]))
    return data


def _logits(model: Model, vectors: np.ndarray) -> np.ndarray:
    return model.unembed(torch.as_tensor(vectors, dtype=torch.float32, device=model.device)).float().cpu().numpy()


def _lens_rows(model: Model, mean: np.ndarray, top_k: int) -> Iterator[dict[str, object]]:
    for layer, vectors in enumerate(mean):
        logits = _logits(model, vectors)
        for pos, (vector, values) in enumerate(zip(vectors, logits, strict=True)):
            if vector.any():
                named = {"layer": layer, "pos": pos if pos < len(vectors) - 1 else pd.NA, "variant": "lens"}
                yield from ({**named, **top} for top in _top(model, values, top_k))
    if not mean.any():
        yield {"layer": 0, "pos": 0, "variant": "lens", "rank": 0, "token": "", "token_id": -1, "value": np.nan}


def _top(model: Model, values: np.ndarray, top_k: int) -> Iterator[dict[str, object]]:
    known = values[: min(len(values), len(model.tokenizer))]
    for rank, token in enumerate(np.argsort(-known, kind="stable")[:top_k]):
        text = model.tokenizer.decode([int(token)])
        yield {"rank": rank, "token": text, "token_id": int(token), "value": float(known[token])}


def _patchscope_rows(
    model: Model, mean: np.ndarray, sizes: np.ndarray, text: str, top_k: int
) -> Iterator[dict[str, object]]:
    """Tokens that a layer's difference in the place of the prompt's last state makes more likely."""
    (batch,) = model.batches(Prompts((Item("patchscope", text, " x"),)), batch_size=1)
    plain = model.run(batch, logits="last").logits
    assert plain is not None
    for layer, vector in enumerate(mean):
        size = float(np.linalg.norm(vector))
        if size == 0:
            continue
        value = torch.as_tensor(vector / size * sizes[layer], dtype=model.dtype, device=model.device)
        edit = patch(f"resid_post.{layer}", value, "last_prompt")
        logits = model.run(batch, edits=[edit], logits="last").logits
        assert logits is not None
        rise = (logits[0].float().log_softmax(-1) - plain[0].float().log_softmax(-1)).cpu().numpy()
        named = {"layer": layer, "pos": pd.NA, "variant": "patchscope"}
        yield from ({**named, **top} for top in _top(model, rise, top_k))


def _tied(
    model: Model, mean: np.ndarray, prompts: Prompts, training: Prompts, permutations: int, seed: int
) -> tuple[np.ndarray, Claim]:
    """Mean lens logit of tokens of the training texts alone over those of the prompts alone, by layer; the claim."""
    ids = [_ids(model, p) for p in (training, prompts)]
    first, second = sorted(ids[0] - ids[1]), sorted(ids[1] - ids[0])
    if min(len(first), len(second)) < FEWEST:
        why = f"{len(first)} and {len(second)} tokens are in one alone"
        needs = f"texts with at least {FEWEST} tokens of their own"
        return np.full(len(mean), np.nan), Claim("tokens", UNJUDGED, WHAT, why=why, needs=needs)
    if not mean.any():
        return np.zeros(len(mean)), Claim("tokens", NONE, "that states differ at all", n=len(first))
    logits = _logits(model, mean)[:, [*first, *second]].astype(float)
    return told_apart(logits, np.arange(logits.shape[1]) < len(first), permutations, seed)


def told_apart(
    logits: Float[np.ndarray, "layer token"], is_first: Bool[np.ndarray, " token"], permutations: int, seed: int
) -> tuple[np.ndarray, Claim]:
    """Mean logit of the first tokens over that of the others, by layer, and the claim for all layers together."""
    test = group_max_t(logits.T, is_first, seed=seed, draws=permutations)
    best = int(np.argmax(np.where(np.isnan(test.low), -np.inf, test.low)))
    said: Fields = {
        "effect": float(test.value[best]), "p": float(test.p_cell[best]), "n": min(np.bincount(is_first).tolist()),
        "low": float(test.low[best]), "high": float(test.high[best]), "unit": "logits",
        "family": f"{len(logits)} layers", "place": f"layer {best}", "control": "tokens of the prompts alone",
        "estimand": "lens logit of training tokens over tokens of the prompts",
        "caveat": "tokens of one kind (digits, names) rise together, trained on or not",
    }  # fmt: skip
    if not test.low[best] > 0:
        return test.value, Claim("tokens", NONE, f"that {WHAT}", **said)
    return test.value, Claim("tokens", FOUND, f"{WHAT}, most at layer {best}", **said)


def _ids(model: Model, prompts: Prompts) -> set[int]:
    batches = model.batches(prompts, batch_size=32)
    return {int(i) for b in batches for i in b.ids[b.mask].tolist()}


def figures(result: Result) -> dict[str, Figure]:
    """Size of the mean difference and how shared it is, over layers, a line a position."""
    rows = result.summary()
    facet = "step" if "step" in rows else None
    titles = {"relative_norm": "Mean difference of states, relative to them", "shared": "How shared the difference is"}
    return {
        name: curve(rows[rows["quantity"] == name], x="layer", color="pos", facet=facet, title=title)
        for name, title in titles.items()
    }
