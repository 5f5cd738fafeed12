"""Paths from a component's output to another's input, from two unedited runs and without a forward pass per path.

With every other component frozen, what a receiver reads is linear in what senders write to the residual stream:
r_in = r_in(orig) + sum over upstream senders of (u_s(new) - u_s(orig)). Only what the receiver then does, and what
follows it, is recomputed (by replay). arXiv 2304.05969; new may be another prompt or another checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from probe import patch
from probe.backends.in_process import logits_of
from probe.errors import InputError, ProbeError
from probe.replay import attention, clean_metric, replay
from probe.replay.decoder import nothing
from probe.replay.ports import changed
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from probe import Edit
    from probe.replay import Clean, Metric

PARTS: tuple[str, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Receiver:
    """What reads a path: `final` (the last residual state), `mlp` (its input), or q, k, v (the input of a head).

    `head` counts key/value heads for a k or v of a whole group, query heads otherwise; `group` tells which.
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    group: bool = False

    def __str__(self) -> str:
        return ".".join(str(p) for p in (self.kind, self.layer, self.head) if p is not None)


class Paths:
    """All paths between two unedited runs on the same positions: receivers live in `orig`, writes come from `new`."""

    def __init__(self, orig: Clean, new: Clean, where: Bool[Tensor, "item pos"], *, freeze_mlps: bool = True) -> None:
        self.orig, self.new = orig, new
        self.where = where[..., None]
        self.freeze_mlps = freeze_mlps
        self.n_layers = orig.n_layers
        self.parallel = not orig.model.sites("resid_mid")
        self._deltas: dict[Site, Tensor] = {}

    def write(self, sender: Site) -> Float[Tensor, "item pos d_model"]:
        """u(new) - u(orig): how much more the sender adds to the residual stream where it is set to `new`."""
        if sender not in self._deltas:
            with torch.no_grad():
                delta = self._head(sender) if sender.kind == "z" else self._difference(sender)
            self._deltas[sender] = delta * self.where.to(delta.device)
        return self._deltas[sender]

    def _difference(self, sender: Site) -> Tensor:
        if sender.kind == "embed":
            return _minus(self.new.inputs[0], self.orig.inputs[0])
        return _minus(self.new.value(sender), self.orig.value(sender))

    def _head(self, sender: Site) -> Tensor:
        """One head's write; behind a post-norm, the change of what attention adds with this head's z alone new."""
        layer, head = int(sender.layer or 0), int(sender.head or 0)
        if post_norm(self.orig):
            if self.new.model is not self.orig.model:
                raise InputError(
                    "this family norms what attention adds, so one head's write is not separable between two "
                    "checkpoints; use the sender attn_out, or two prompts in one checkpoint"
                )
            return self._normed_head(layer, head)
        writes = [c.value(sender) @ out_matrix(c, layer)[head] for c in (self.new, self.orig)]
        return _minus(*writes)

    def _normed_head(self, layer: int, head: int) -> Tensor:
        z, new = self.orig.value(Site("z", layer)).clone(), self.new.value(Site("z", layer))
        z[:, :, head] = torch.where(self.where.to(z.device), new[:, :, head].to(z.device), z[:, :, head])
        seen = self._through(layer, self.orig.inputs[layer], {"z": z}, "attn_out")
        return seen - self.orig.value(Site("attn_out", layer))

    def _through(self, layer: int, x: Tensor, put: dict[str, Tensor], read: str) -> Tensor:
        """A block without its attention: `put` at some sites, one site read (`resid_post` is what comes out)."""
        clean, seen = self.orig, {}
        here = clean.ports(layer)
        changes: dict[str, Any] = {kind: (lambda _x, v=value: v) for kind, value in put.items()}
        if read != "resid_post":
            first = changes.get(read)
            changes[read] = lambda v: seen.update(value=v if first is None else first(v))
        with torch.no_grad(), changed(here, changes, len(x)):
            out = clean.decoder.block(layer, x, clean.calls[layer], nothing)
        return seen["value"] if seen else out

    def reaches(self, sender: Site, receiver: Receiver) -> bool:
        """Whether the sender comes before the receiver's input."""
        return reaches(sender, receiver, self.parallel)

    def arriving(self, sender: Site, receiver: Receiver) -> Float[Tensor, "item pos d_model"]:
        """How much the receiver's input changes: the write itself, or also through MLPs if they are not frozen."""
        delta = self.write(sender)
        if self.freeze_mlps:
            return delta
        first = 0 if sender.kind == "embed" else int(sender.layer or 0) + (sender.kind == "mlp_out")
        last = self.n_layers if receiver.layer is None else receiver.layer
        for layer in range(first, last):
            # A head writes after its own block's residual input; an embedding or an earlier block before it.
            delta = self._past_mlp(layer, delta)
        return delta

    def _past_mlp(self, layer: int, delta: Tensor) -> Tensor:
        """The change after one block whose attention is frozen and whose MLP is not."""
        if self.parallel:
            raise InputError("freeze_mlps=False is not defined here for blocks whose MLP runs beside attention")
        value = _plus(self.orig.value(Site("attn_out", layer)), delta)
        out = self._through(layer, self.orig.inputs[layer], {"attn_out": value}, "resid_post")
        return _minus(out, self.orig.inputs[layer + 1])

    def edit(self, sender: Site, receiver: Receiver) -> Edit:
        """The patch of `orig` that sets the receiver's input to what reaches it from the sender."""

        delta = self.arriving(sender, receiver)
        if receiver.kind == "final":
            site = Site("resid_post", self.n_layers - 1)
            return patch(site, _plus(self.orig.inputs[-1], delta))
        layer = int(receiver.layer or 0)
        if receiver.kind == "mlp":
            return patch(Site("mlp_out", layer), self.mlp(layer, delta))
        z = self.z(layer, delta, receiver.kind)
        if not receiver.group:
            return patch(Site("z", layer, receiver.head), z[:, :, int(receiver.head or 0)])
        size = self.orig.decoder.n_heads // self.orig.decoder.n_kv
        own = slice(int(receiver.head or 0) * size, (int(receiver.head or 0) + 1) * size)
        value = self.orig.value(Site("z", layer)).clone()
        value[:, :, own] = z[:, :, own]
        return patch(Site("z", layer), value)

    def mlp(self, layer: int, delta: Float[Tensor, "item pos d_model"]) -> Float[Tensor, "item pos d_model"]:
        """What an MLP adds where its input is changed by `delta`."""
        if self.parallel:
            return self._through(layer, _plus(self.orig.inputs[layer], delta), {}, "mlp_out")
        value = _plus(self.orig.value(Site("attn_out", layer)), delta)
        return self._through(layer, self.orig.inputs[layer], {"attn_out": value}, "mlp_out")

    def z(self, layer: int, delta: Float[Tensor, "item pos d_model"], part: str) -> Float[Tensor, "item pos head d"]:
        """Every head's output with its q, k or v (one of them) read from a residual stream changed by `delta`."""
        clean, own = self.orig, PARTS.index(part)
        with torch.no_grad():
            read = clean.decoder.projections(layer, _plus(clean.inputs[layer], delta), clean.calls[layer])
            q, k, v = (read[n] if n == own else clean.qkv[layer][n] for n in range(3))
            scale, softcap = clean.scaling(layer)
            attended = attention.attend(q, k, v, clean.bias(layer), scale, softcap).transpose(1, 2)
            return clean.decoder.z_of(layer, clean.inputs[layer], clean.calls[layer], attended)


def reaches(sender: Site, receiver: Receiver, parallel: bool) -> bool:
    """Whether a sender comes before what a receiver reads; `parallel`: MLPs run beside attention."""
    if receiver.kind == "final":
        return True
    sent = -1 if sender.kind == "embed" else 2 * int(sender.layer or 0) + (sender.kind == "mlp_out")
    middle = receiver.kind == "mlp" and not parallel
    return sent < 2 * int(receiver.layer or 0) + (1 if middle else 0)


def prove_self(
    orig: Clean, where: Bool[Tensor, "item pos"], senders: Sequence[Site], receivers: Sequence[Receiver], metric: Metric
) -> None:
    """Prove on one batch that paths which carry a run's own values leave it as it is.

    Nothing differs, so each receiver is recomputed from what it read anyway; another metric means that it does not
    compute what the model does (a norm or a gate between attention and its output matrix, say).

    Raises:
        ProbeError: with the receiver and how far the metric moved.
    """
    own = Paths(orig, orig, where)
    ends = {r.kind: [r] for r in receivers}
    for receiver in reversed(receivers):
        ends[receiver.kind] = [receiver, ends[receiver.kind][-1]]
    proven = list(dict.fromkeys(r for pair in ends.values() for r in pair))
    pairs = [(r, next((s for s in senders if own.reaches(s, r)), None)) for r in proven]
    edits = [(r, own.edit(s, r)) for r, s in pairs if s is not None]
    if not edits:
        return
    moved = (replay(orig, [edit for _, edit in edits], metric) - clean_metric(orig, metric)).abs()
    allowed = 1e-4 if orig.decoder.dtype == torch.float32 else 0.1
    for (receiver, _), values in zip(edits, moved, strict=True):
        worst = float(values.nan_to_num(0.0).max())  # items without answer rows have no metric
        if not worst <= allowed:
            raise ProbeError(
                f"gate: a run path-patched with itself changes its metric by {worst:.3g} at receiver {receiver}, at "
                f"most {allowed:g} is rounding: this {orig.model.shape.family} model computes something between what "
                "the receiver reads and what it writes that the path leaves out. Other receivers, and cross_patching, "
                "may still be right"
            )


def _plus(x: Tensor, delta: Tensor) -> Tensor:
    """The sum, where `x` is: blocks may lie on several devices."""
    return x + delta.to(x.device)


def _minus(new: Tensor, x: Tensor) -> Tensor:
    """The difference, where `x` is."""
    return new.to(x.device) - x


def post_norm(clean: Clean) -> bool:
    """Whether the family norms what a component computes before adding it to the residual stream."""
    found = clean.decoder.map
    return any(not found.places[Site("attn_out", n)].path.startswith(path) for n, path in found.attention.items()
               if Site("attn_out", n) in found.places)  # fmt: skip


def out_matrix(clean: Clean, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O by head, times what the family multiplies attention's output by.

    Raises:
        InputError: what this block's attention adds to the residual stream is not one module's output.
    """
    site = Site("attn_out", layer)
    if site not in clean.decoder.map.places:
        why = clean.decoder.map.absent.get(site, "it is not one module's output")
        raise InputError(
            f"paths from heads: what block {layer}'s attention adds is not known ({why}); give other senders (mlp_out)"
        )
    module: Any = clean.ports(layer)["z"].module
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
    factor = clean.decoder.map.places[site].factor
    return weight.detach().unflatten(0, (clean.decoder.n_heads, -1)) * factor


def direct_logits(
    orig: Clean, new: Clean, rows: Bool[Tensor, "item pos"], tokens: list[int] | None = None
) -> Float[Tensor, "row layer head token"]:
    """Logits at `rows` if one head's direct path to the final residual state carries `new`, for every head at once.

    The final norm is recomputed on each changed state; only the unembedding's columns of `tokens` are read (all
    if None). Exact for families that add attention's output without a norm.

    Raises:
        InputError: a family with a norm behind attention.
    """
    if post_norm(orig):
        raise InputError("direct_logits: this family norms what attention adds; use Paths with the final receiver")
    item, pos = rows.nonzero(as_tuple=True)
    decoder = orig.decoder
    with torch.no_grad():
        deltas = []
        for layer in range(orig.n_layers):
            z = [c.value(Site("z", layer))[item, pos].transpose(0, 1) for c in (new, orig)]
            deltas.append(torch.bmm(z[0], out_matrix(new, layer)) - torch.bmm(z[1], out_matrix(orig, layer)))
        delta = torch.stack(deltas).permute(2, 0, 1, 3)  # [row layer head d_model]
        normed = decoder.norm(orig.inputs[-1][item, pos][:, None, None] + delta)
        weight, bias = decoder.unembed.weight, decoder.unembed.bias
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        return logits_of(torch.nn.functional.linear(normed, weight, bias), decoder.config)
