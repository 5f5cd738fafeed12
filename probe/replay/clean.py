"""One unedited forward pass of a batch, kept so that edited runs need recompute only what an edit reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from probe.errors import InputError
from probe.replay import attention
from probe.replay.decoder import Decoder, moved, rows_of
from probe.replay.ports import INSIDE, Port, changed, ports
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.model import Model
    from probe.tokens import TokenBatch

_ATTENTION = ("attn_scores", "pattern")


class Clean:
    """The unedited run of one batch: residual stream, keys and values of every block; other sites on demand."""

    def __init__(self, model: Model, batch: TokenBatch) -> None:
        if model.open_edits:
            raise InputError("replay inside model.edited(...): leave that block, or give the edits to every run")
        self.model = model
        plain = getattr(model.backend, "plain", None)
        if plain is None:
            raise InputError(f"replay calls the model's own modules, which backend {model.backend_name} has not here")
        self.decoder = Decoder(plain)
        self.batch = batch.to(self.decoder.device)
        with torch.no_grad():
            self.inputs, self.calls, last = self.decoder.enter(self.batch.ids, self.batch.mask, self.batch.position_ids)
            self.inputs.append(last)
            self._refuse_non_finite()
            self.qkv = [
                self.decoder.projections(n, x, call)
                for n, (x, call) in enumerate(zip(self.inputs, self.calls, strict=False))
            ]
            self._settle()
        self.frozen = [
            attention.Frozen(k, v, _mask(call)) for (_, k, v), call in zip(self.qkv, self.calls, strict=True)
        ]
        self._values: dict[tuple[str, int], Tensor] = {}
        self._scaling: dict[int, tuple[float, float | None]] = {}

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.decoder.n_layers

    def _settle(self) -> None:
        """What enters a block is kept where the block computes: over several devices it comes from another."""
        places = [k.device for _, k, _ in self.qkv]
        self.inputs = [x.to(place) for x, place in zip(self.inputs, [*places, self.decoder.device], strict=True)]
        self.calls = [moved(call, place) for call, place in zip(self.calls, places, strict=True)]

    def ports(self, layer: int) -> dict[str, Port]:
        """Where the sites inside a block are."""
        return ports(self.decoder.hf, layer)

    def value(self, site: Site) -> Float[Tensor, "item ..."]:
        """The unedited value at a site, in the dims of `site.dims`."""
        whole = self._whole(site.whole)
        return whole if site.head is None else whole.select(site.head_dim, site.head)

    def forget(self, layer: int) -> None:
        """Let go of the values kept for one block."""
        self._values = {k: v for k, v in self._values.items() if k[1] != layer}

    def _whole(self, site: Site) -> Tensor:
        if site.kind == "embed":
            with torch.no_grad():
                return self.decoder.hf.get_input_embeddings()(self.batch.ids)
        if site.kind == "ln_final":
            with torch.no_grad():
                return self.decoder.norm(self.inputs[-1])
        if site.kind == "logits":
            with torch.no_grad():
                return self.decoder.head(self.inputs[-1])
        layer = int(site.layer or 0)
        if site.kind in ("resid_pre", "resid_post"):
            return self.inputs[layer + (site.kind == "resid_post")]
        if site.kind == "resid_mid":
            return self.inputs[layer] + self._kept("attn_out", layer)
        return self._kept(site.kind, layer)

    def _kept(self, kind: str, layer: int) -> Tensor:
        """A site inside a block: the block is run once more, and all of its sites of that sort are kept."""
        if (kind, layer) not in self._values:
            with torch.no_grad():
                found = self._scores(layer) if kind in _ATTENTION else self._inside(layer)
            self._values.update({(k, layer): v for k, v in found.items()})
        return self._values[kind, layer]

    def _inside(self, layer: int) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(kind: str) -> Any:
            return lambda x: seen.__setitem__(kind, x.clone())

        here = self.ports(layer)
        with changed(here, {k: keep(k) for k in INSIDE if k in here}):
            self.decoder.block(layer, self.inputs[layer], self.calls[layer], self._attend(layer))
        return seen

    def _scores(self, layer: int) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def show(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
            seen["attn_scores"] = attention.scores(q, k, self.bias(layer), scale, softcap)
            seen["pattern"] = attention.softmax(seen["attn_scores"], q.dtype)
            return attention.weigh(seen["pattern"], v).transpose(1, 2)

        self.decoder.block(layer, self.inputs[layer], self.calls[layer], show)
        return seen

    def _attend(self, layer: int) -> Any:
        """Attention of the whole batch as it is."""

        def run(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
            return attention.attend(q, k, v, self.bias(layer), scale, softcap).transpose(1, 2)

        return run

    def bias(self, layer: int) -> Tensor:
        """The attention mask of the whole batch in one block [item 1 pos key_pos], additive or boolean."""
        device = self.frozen[layer].k.device
        items = torch.arange(len(self.batch), device=device)
        length = self.batch.ids.shape[1]
        return self.frozen[layer].bias(items, range(length), length, device)

    def scaling(self, layer: int) -> tuple[float, float | None]:
        """The factor of a block's attention scores, and the soft cap on them if there is one."""
        if layer in self._scaling:
            return self._scaling[layer]

        def note(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
            del k, v
            self._scaling[layer] = (scale, softcap)
            return torch.zeros_like(q.transpose(1, 2))

        zeros = torch.zeros(1, dtype=torch.long, device=self.inputs[layer].device)
        with torch.no_grad():
            call = rows_of(self.calls[layer], zeros, zeros)
            self.decoder.block(layer, self.inputs[layer][zeros, zeros][None], call, note)
        return self._scaling[layer]

    def _refuse_non_finite(self) -> None:
        for number, x in enumerate(self.inputs):
            finite = (x.isfinite().all(-1) | ~self.batch.mask.to(x.device)).all(-1)
            if not bool(finite.all()):
                bad = [self.batch.items[i].id for i in (~finite).nonzero().flatten().tolist()]
                site = Site("resid_pre", number) if number < self.n_layers else Site("resid_post", number - 1)
                raise InputError(
                    f"{site} is not finite (NaN or inf) in item(s) {bad[:5]}: no patch of it means anything"
                )


def _mask(call: dict[str, Any]) -> Tensor | None:
    mask = call.get("attention_mask")
    if mask is not None and mask.ndim != 4:
        raise InputError(f"attention mask of shape {tuple(mask.shape)}; replay knows masks [item 1 pos key_pos]")
    return mask
