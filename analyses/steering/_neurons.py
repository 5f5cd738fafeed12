"""MLP neurons of a model: what each writes towards the vocabulary, and how much it matters for given answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses.core.progress import progress
from analyses.core.reading.readouts import streamed
from analyses.core.reading.teacher_forced import Scored, scored
from probe.errors import InputError
from probe.finite import by_row
from probe.weights import down_rows

if TYPE_CHECKING:
    from probe import Item, Model, TokenBatch

Score = Literal["key_overlap", "direct_effect", "gradient"]
ReadAt = Literal["answer", "last_prompt"]


def top_tokens(model: Model, layer: int, k: int = 10, neurons: Sequence[int] | None = None) -> Int[Tensor, "neuron k"]:
    """Ids of the k tokens each neuron promotes most: the top of v_i = N(w_i) W_U, best first.

    Streamed over neurons: never neurons x vocabulary. v_i does not change when w_i is scaled (up to the norm's
    epsilon), so these are directions, not sizes. Where a post-norm follows the MLP, w_i is taken before it.
    """
    rows = down_rows(model, layer)
    rows = rows if neurons is None else rows[torch.tensor(list(neurons), device=rows.device)]
    nothing = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    where = by_row(f"what neurons of block {layer} write")
    return streamed(rows, model.unembed, nothing, k=k, where=where).top_ids.to(model.device)


def overlap(top_ids: Int[Tensor, "neuron k"], answer: Int[Tensor, " token"]) -> Float[Tensor, " neuron"]:
    """Share of the answer's distinct tokens among each neuron's top tokens, in [0, 1]."""
    distinct = answer.unique()
    return torch.isin(top_ids, distinct).sum(-1) / len(distinct)


@dataclass(frozen=True)
class FrozenNorm:
    """The final norm as a linear map with the statistics of one set of residual states kept fixed.

    `gain` is its weight (as applied), `is_centring` whether it subtracts the mean (LayerNorm).
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    is_centring: bool

    @classmethod
    def of(cls, model: Model) -> FrozenNorm:
        """Read off the norm's own outputs, so that it holds for every family (Gemma's gain is 1 + weight)."""
        d = model.shape.d_model
        signs = torch.ones(d, device=model.device).double()
        signs[1::2] = -1.0  # mean 0 and mean square 1 (for even d), so the norm leaves it as it is
        bias = model.final_norm(torch.zeros(1, d, device=model.device))[0].double()
        gain = (model.final_norm(signs[None].float())[0].double() - bias) * signs
        flat = model.final_norm(torch.ones(1, d, device=model.device))[0].double() - bias
        return cls(gain, bias, bool(flat.abs().max() < 1e-3 * gain.abs().max()))

    def centred(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Minus its mean where the norm subtracts it."""
        return x - x.mean(-1, keepdim=True) if self.is_centring else x

    def scale(self, model: Model, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """1 / sigma of each residual state: what the norm multiplied it with, besides the gain."""
        plain = self.centred(resid.double()) * self.gain
        normed = model.final_norm(resid).double() - self.bias
        return (normed * plain).sum(-1) / plain.square().sum(-1)


def direct_effects(
    model: Model, layer: int, keys: Float[Tensor, "row neuron"], resid: Float[Tensor, "row d_model"], target: Tensor
) -> Float[Tensor, "row neuron"]:
    """What each neuron's write adds to the logit of the target through the final norm with its scale frozen.

    k_i w_i with the norm's scale and gain, times W_U[:, target]; in logits, signed. The sum over all neurons of
    a block (and its bias) is that block's direct contribution, where no post-norm follows the MLP.
    """
    norm = FrozenNorm.of(model)
    head = model.unembed_weights()[0]
    towards = head[:, target.to(head.device)].T.to(keys.device).double() * norm.gain
    towards = norm.centred(towards) * norm.scale(model, resid)[:, None]
    return (keys.double() * (towards @ down_rows(model, layer).T.to(keys.device).double())).float()


def scores(
    model: Model,
    batch: TokenBatch,
    layers: Sequence[int],
    *,
    score: Score = "key_overlap",
    bonus: float = 10.0,
    read_at: ReadAt = "answer",
    top_ids: Mapping[int, Int[Tensor, "neuron k"]] | None = None,
) -> dict[int, Float[Tensor, "item neuron"]]:
    """How much each neuron of each layer counts for each item's own answer; larger is more.

    Args:
        model: the checkpoint.
        batch: items.
        layers: layers.
        score: `key_overlap`: |k_i| (1 + bonus x overlap of its top tokens with the answer), >= 0; `direct_effect`:
            signed, on the logits of the answer's tokens; `gradient`: k_i times the gradient of the mean answer
            log-probability by k_i, summed over all positions, signed.
        bonus: lambda of `key_overlap`; 0 ranks by |k| alone.
        read_at: average over the positions that predict answer tokens, or the last prompt token alone
            (`gradient` always takes all positions).
        top_ids: of `top_tokens` for each layer, for `key_overlap`.
    """
    batch = batch.to(model.device)
    tokens = scored(batch)
    tokens = tokens.where(tokens.in_span("answer"))
    if score == "gradient":
        return _gradients(model, batch, layers, tokens)
    read = tokens.where(_is_first(tokens)) if read_at == "last_prompt" else tokens
    last = f"resid_post.{model.shape.n_layers - 1}"
    trace = model.run(batch, [*(f"mlp_post.{layer}" for layer in layers), last], logits="none")
    found: dict[int, Tensor] = {}
    for layer in layers:
        keys = read.rows(trace[f"mlp_post.{layer}"])
        if score == "direct_effect":
            found[layer] = _per_item(
                direct_effects(model, layer, keys, read.rows(trace[last]), read.target), read, batch
            )
            continue
        found[layer] = _per_item(keys.abs().float(), read, batch)
        if bonus:
            top = top_tokens(model, layer) if top_ids is None else top_ids[layer]
            shares = [overlap(top, tokens.target[tokens.item == row]) for row in range(len(batch))]
            found[layer] = found[layer] * (1 + bonus * torch.stack(shares))
    return found


def _is_first(tokens: Scored) -> Bool[Tensor, " token"]:
    """The first answer token of each item: read at the last prompt token."""
    before = torch.cat([tokens.item.new_full((1,), -1), tokens.item[:-1]])
    return tokens.item != before


def _per_item(values: Float[Tensor, "token neuron"], tokens: Scored, batch: TokenBatch) -> Float[Tensor, "item neuron"]:
    total = values.new_zeros(len(batch), values.shape[1]).index_add(0, tokens.item, values)
    return total / torch.bincount(tokens.item, minlength=len(batch))[:, None]


def _gradients(
    model: Model, batch: TokenBatch, layers: Sequence[int], tokens: Scored
) -> dict[int, Float[Tensor, "item neuron"]]:
    sites = [f"mlp_post.{layer}" for layer in layers]
    trace = model.run(batch, sites, grad=True)
    assert trace.logits is not None
    logprob = tokens.rows(trace.logits).float().log_softmax(-1).gather(-1, tokens.target[:, None])
    counts = torch.bincount(tokens.item, minlength=len(batch))
    mean = (logprob.squeeze(-1) / counts[tokens.item]).sum()  # items do not interact: each keeps its own gradient
    gradients = torch.autograd.grad(mean, [trace[s] for s in sites])
    real = batch.mask[..., None]
    return {
        layer: (trace[site].detach() * gradient * real).sum(1).float()
        for layer, site, gradient in zip(layers, sites, gradients, strict=True)
    }


@dataclass(frozen=True)
class Selection:
    """Neurons chosen in each layer: the same for all items, or each item's own.

    Attributes:
        fixed: layer -> mask, the same for all items.
        own: layer -> item key -> mask; empty if they are the same.
        size: layer -> mean |k| of every neuron where it was read, for placebos of equal size.
        score: layer -> mean score of every neuron.
    """

    fixed: Mapping[int, Bool[Tensor, " neuron"]]
    size: Mapping[int, Float[Tensor, " neuron"]]
    score: Mapping[int, Float[Tensor, " neuron"]] = field(default_factory=dict[int, Tensor])
    own: Mapping[int, Mapping[tuple[str, str], Bool[Tensor, " neuron"]]] = field(
        default_factory=dict[int, "Mapping[tuple[str, str], Tensor]"]
    )

    def of(self, layer: int, item: Item) -> Bool[Tensor, " neuron"]:
        """The neurons of one item."""
        return self.own[layer][item.key] if self.own else self.fixed[layer]

    def mask(self, layer: int, batch: TokenBatch) -> Bool[Tensor, "item neuron"]:
        """The neurons of every item of a batch (one row where they are the same)."""
        if not self.own:
            return self.fixed[layer][None].to(batch.ids.device)
        return torch.stack([self.own[layer][item.key] for item in batch.items]).to(batch.ids.device)


def choose(
    model: Model,
    batches: Sequence[TokenBatch],
    layers: Sequence[int],
    top_n: int,
    *,
    score: Score = "key_overlap",
    bonus: float = 10.0,
    read_at: ReadAt = "answer",
    is_own: bool = False,
) -> Selection:
    """The `top_n` neurons of each layer by mean score over the items of the batches, or for each item (`is_own`)."""
    d_mlp = model.shape.d_mlp
    if not 0 <= top_n <= d_mlp:
        raise InputError(f"top_n={top_n}; expected 1 to {d_mlp} neurons per layer, or 0 for all of them")
    count = top_n or d_mlp
    needs_tokens = score == "key_overlap" and bonus
    top_ids = {layer: top_tokens(model, layer) for layer in layers} if needs_tokens else None
    sums = {layer: torch.zeros(2, d_mlp, dtype=torch.float64) for layer in layers}
    own: dict[int, dict[tuple[str, str], Tensor]] = {layer: {} for layer in layers}
    for batch in progress(batches, "choosing neurons", total=len(batches)):
        sizes = scores(model, batch, layers, bonus=0.0, read_at=read_at)
        found = scores(model, batch, layers, score=score, bonus=bonus, read_at=read_at, top_ids=top_ids)
        for layer in layers:
            sums[layer] += torch.stack([found[layer].sum(0), sizes[layer].sum(0)]).double().cpu()
            if is_own:
                masks = highest(found[layer].cpu(), count)
                own[layer] |= {item.key: mask for item, mask in zip(batch.items, masks, strict=True)}
    n = sum(len(batch) for batch in batches)
    means = {layer: (total / n).float() for layer, total in sums.items()}
    fixed = {layer: highest(mean[0], count) for layer, mean in means.items()}
    return Selection(
        fixed, {k: m[1] for k, m in means.items()}, {k: m[0] for k, m in means.items()}, own if is_own else {}
    )


def highest(values: Float[Tensor, "*item neuron"], count: int) -> Bool[Tensor, "*item neuron"]:
    """A mask of the `count` largest values of each row."""
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, values.topk(count, dim=-1).indices, True)
