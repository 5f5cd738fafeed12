"""How much each part of an MLP (gate, up, down) contributes to what the MLP says, inside one model.

Definition: O = W_down (act(g) * u) with g = x W_gate, u = x W_up is one block's MLP output; O_cf the same with one part
    ablated in that block only. Value: JSD between the readouts of O and O_cf. Ablations: `weight_mean` (the matrix
    becomes the constant of its mean entry), `norm_matched_random` (Gaussian with the matrix's Frobenius norm),
    `seq_mean_act` (g before its activation, u, or the input of W_down becomes its mean over the item's tokens),
    `zero` (that activation becomes 0), `resample` (each token gets that activation of another token of its item).
    Readouts: `direct` = softmax(O W_U), `direct_norm` = softmax(N(O) W_U) with the final norm recomputed, `forward` =
    the model's output when it runs on with O_cf.
Units: nats in [0, ln 2].
Source: arXiv 2601.11061, whose text has weight_mean with direct_norm, and whose code has seq_mean_act and one unseeded
    norm_matched_random draw with direct, as a distance, on three questions. Draws here are seeded, ten by default.
    `resample` within the item, not across items, keeps an item's value independent of the others.
Does not show: what training changed: nothing here compares checkpoints (see divergence and weight_drift). `direct`
    readouts treat one block's output as if it were the whole residual stream: scale-free and not additive.
Control: the same part in other blocks; other groups of items; a block whose part is ablated to itself gives 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Edit, Model, Prompts, TokenBatch

PARTS = {"gate": "mlp_pre", "up": "mlp_up", "down": "mlp_post"}  # the activation that an ablation of the part changes
ABLATIONS = ("weight_mean", "norm_matched_random", "seq_mean_act", "zero", "resample")
READOUTS = ("direct", "direct_norm", "forward")
RANDOM = ("norm_matched_random", "resample")
BY = ["layer", "part", "ablation", "readout", "group", "answer_kind"]


@dataclass(frozen=True)
class Ablated:
    """One part of one block ablated in one way."""

    layer: int
    part: str
    ablation: str
    draw: int


def _work(case: Case) -> Work:
    """A clean pass, and one under every ablation of every part of every block; both sides of a readout unembedded."""
    options = case.options
    draws = sum(int(options["draws"]) if name in RANDOM else 1 for name in options["ablations"])
    conditions = case.n_layers * len(options["parts"]) * draws
    read = case.tokens if options["positions"] == "all" else 1
    once = passes(case, "none", times=1 + conditions)
    return replace(once, unembedded=2 * conditions * len(options["readouts"]) * read)


@analysis(work=_work)
def counterfactual_mlp(
    model: Model,
    prompts: Prompts,
    *,
    parts: tuple[str, ...] = ("gate", "up", "down"),
    ablations: tuple[str, ...] = ABLATIONS,
    readouts: tuple[str, ...] = READOUTS,
    positions: Literal["last_prompt", "all"] = "last_prompt",
    draws: int = 10,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """JSD (nats) between what each MLP says with and without one of its parts, per layer, part and ablation.

    Rows: item, group, answer_kind, layer, part, ablation, readout, draw, jsd_nats (mean over the positions read).

    Args:
        parts: any of gate, up, down.
        ablations: any of weight_mean, norm_matched_random, seq_mean_act, zero, resample.
        readouts: any of direct, direct_norm, forward.
        positions: the last of the prompt, or all.
        draws: seeded draws of each random ablation.
        seed: random ablations and the bootstrap over items.
    """

    _check(model, parts, ablations, readouts, draws)
    planned = model.batches(prompts, batch_size=batch_size, template=template, boundary=boundary)
    clean = [_Clean(model, batch, positions) for batch in planned]
    conditions = list(_conditions(model.shape.n_layers, parts, ablations, draws))
    rows: list[pd.DataFrame] = []
    for condition in progress(conditions, "counterfactual MLP", total=len(conditions)):
        with _weights(model, condition, seed):
            rows += [c.compared(model, condition, readouts, seed) for c in clean]
    table = pd.concat(rows, ignore_index=True)
    table = table.sort_values(["item", "answer_kind", "layer", "part", "ablation", "readout", "draw"], kind="stable")
    label: dict[str, Any] = {"units": "nats", "long_name": "JSD with and without the part"}
    return Result.of(table, estimate(table, "jsd_nats", BY, seed=seed, **label))


def _check(
    model: Model, parts: tuple[str, ...], ablations: tuple[str, ...], readouts: tuple[str, ...], draws: int
) -> None:
    for name, given, known in (
        ("parts", parts, tuple(PARTS)),
        ("ablations", ablations, ABLATIONS),
        ("readouts", readouts, READOUTS),
    ):
        if not given or set(given) - set(known):
            raise InputError(f"{name}={list(given)}: expected some of {', '.join(known)}")
    if draws < 1:
        raise InputError(f"draws={draws}: at least 1 is needed")
    missing = [part for part in parts if not model.sites(PARTS[part])]
    if missing:
        raise InputError(f"parts {missing} do not exist in this {model.shape.family} model (its MLP has no gate)")


def _conditions(n_layers: int, parts: tuple[str, ...], ablations: tuple[str, ...], draws: int) -> Iterator[Ablated]:
    for layer in range(n_layers):
        for part in parts:
            for ablation in ablations:
                for draw in range(draws if ablation in RANDOM else 1):
                    yield Ablated(layer, part, ablation, draw)


def _weights(model: Model, condition: Ablated, seed: int) -> AbstractContextManager[Any]:
    """Within the block, the ablated matrix in place of the part's own; activations are ablated by edits instead."""

    changes: dict[str, Callable[[], Any]] = {
        "weight_mean": lambda: lambda slot, own: own if slot.kind == "bias" else own.mean().expand_as(own).clone(),
        "norm_matched_random": lambda: probe.weights.gaussian(seed, condition.draw),
    }
    if condition.ablation not in changes:
        return nullcontext()
    places = probe.weights.select(model, (f"mlp.{condition.part}",), [condition.layer])
    return probe.weights.replaced(model, probe.weights.revised(model, places, changes[condition.ablation]()))


def _edits(batch: TokenBatch, condition: Ablated, seed: int) -> list[probe.Edit]:
    """The edit that ablates an activation, none where a matrix is ablated."""

    change: dict[str, Callable[[Tensor], Tensor]] = {
        "zero": lambda x: x.new_zeros(x.shape),
        "seq_mean_act": lambda x: _sequence_mean(x, batch),
        "resample": lambda x: _permuted(x, batch, condition, seed),
    }
    if condition.ablation not in change:
        return []
    return [probe.Edit(probe.Site(PARTS[condition.part], condition.layer), change[condition.ablation])]


def _sequence_mean(x: Tensor, batch: TokenBatch) -> Tensor:
    """Each real token gets the mean over its item's real tokens."""
    kept = batch.mask.to(x.device).unsqueeze(-1)
    mean = torch.where(kept, x, 0.0).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    return mean.expand_as(x)


def _permuted(x: Tensor, batch: TokenBatch, condition: Ablated, seed: int) -> Tensor:
    """Each token gets the activation of another token of its item: a random cycle, seeded by item, part and draw."""
    out = x.clone()
    for row, item in enumerate(batch.items):
        places = batch.mask[row].nonzero().flatten().tolist()
        name = f"{seed}/{condition.draw}/{condition.layer}/{condition.part}/{item.id}/{item.answer_kind}"
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
        order = rng.permutation(places).tolist()
        out[row, order] = x[row, order[1:] + order[:1]]
    return out


class _Clean:
    """One batch with its unablated MLP outputs and final states at the positions read."""

    def __init__(self, model: Model, batch: TokenBatch, positions: str) -> None:
        self.batch = batch
        if positions == "all":
            self.item, self.column = batch.mask.nonzero(as_tuple=True)
        else:
            self.item, self.column = torch.arange(len(batch.items)), batch.last_prompt
        n_layers = model.shape.n_layers
        sites = [f"mlp_out.{layer}" for layer in range(n_layers)]
        found = self._read(model, [*sites, f"resid_post.{n_layers - 1}"], [])
        self.mlp, self.final = found[:-1], found[-1]

    def _read(self, model: Model, sites: list[str], edits: list[Edit]) -> list[Tensor]:
        trace = model.run(self.batch, read=sites, edits=edits, logits="none")
        return [trace[s][self.item.to(trace[s].device), self.column.to(trace[s].device)] for s in sites]

    def compared(self, model: Model, condition: Ablated, readouts: tuple[str, ...], seed: int) -> pd.DataFrame:
        """Rows of this batch under one condition."""
        sites = [f"mlp_out.{condition.layer}", f"resid_post.{model.shape.n_layers - 1}"]
        output, final = self._read(model, sites, _edits(self.batch, condition, seed))
        pairs = {
            "direct": (self.mlp[condition.layer], output, _bare_head(model)),
            "direct_norm": (self.mlp[condition.layer], output, model.unembed),
            "forward": (self.final, final, model.unembed),
        }
        items = self.batch.items
        counts = np.bincount(self.item.cpu().numpy(), minlength=len(items))
        parts: list[pd.DataFrame] = []
        for readout in readouts:
            sums = np.bincount(self.item.cpu().numpy(), _jsd(*pairs[readout]), minlength=len(items))
            columns = {
                "item": [i.id for i in items],
                "group": [i.group for i in items],
                "answer_kind": [i.answer_kind for i in items],
                "layer": condition.layer,
                "part": condition.part,
                "ablation": condition.ablation,
                "readout": readout,
                "draw": condition.draw,
                "jsd_nats": sums / counts,
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def _bare_head(model: Model) -> Callable[[Tensor], Tensor]:
    """The unembedding alone: no final norm, no soft cap."""
    weight, bias = model.unembed_weights()

    def head(rows: Tensor) -> Tensor:
        logits = rows.to(weight.device) @ weight.detach()
        return (logits if bias is None else logits + bias.detach()).to(rows.device)

    return head


def _jsd(first: Tensor, second: Tensor, head: Callable[[Tensor], Tensor]) -> np.ndarray:
    """JSD of the two readouts per row, a chunk of logits at a time."""

    found = np.empty(len(first))
    for rows in reading.row_chunks(len(first)):
        found[rows] = reading.divergences(head(first[rows]).float(), head(second[rows]).float()).jsd_nats.cpu().numpy()
    return found


def figures(result: Result) -> dict[str, Figure]:
    """JSD over layers: one figure a readout, one panel an ablation, one line a part."""

    rows = result.summary()
    extra = [d for d in ("group", "answer_kind", "step") if d in rows]
    drawn: dict[str, Any] = {}
    for readout, part in rows.groupby("readout", sort=True):
        title = f"Counterfactual MLP, readout {readout}: 95 % interval over items"
        drawn[str(readout)] = curve(part, x="layer", color="part", facet=["ablation", *extra], title=title)
    return drawn
