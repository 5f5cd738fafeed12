"""One unedited forward pass of a batch, kept so that edited runs need recompute only what an edit reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from probe import finite
from probe.errors import InputError
from probe.replay import attention
from probe.replay.decoder import Decoder, moved, nothing, rows_of
from probe.replay.ports import Port, changed, ports
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.handle import Handle
    from probe.tokens import TokenBatch

_ATTENTION = ("attn_scores", "pattern")


class CleanPass:
    """The unedited run of one batch: residual stream, keys and values of every block; other sites on demand.

    Attributes:
        why_whole: why edited runs of this model are whole forward passes; empty where only rows after an edit are
            computed.
    """

    def __init__(self, model: Handle, batch: TokenBatch) -> None:
        if model.open_edits:
            raise InputError("replay inside model.edited(...): leave that block, or give the edits to every run")
        self.model = model
        plain = getattr(model.backend, "plain", None)
        if plain is None:
            raise InputError(f"replay calls the model's own modules, which backend {model.backend_name} has not here")
        model.site(Site("resid_pre", 0))  # one residual stream: what follows is said of it
        self.decoder = Decoder(plain, model.backend.map)
        self.batch = batch.to(self.decoder.device)
        with torch.no_grad():
            self.inputs, self.calls, last = self.decoder.enter(self.batch.ids, self.batch.mask, self.batch.position_ids)
            self.inputs.append(last)
            self._refuse_non_finite(model)
        self.why_whole = self._why_whole()
        self._qkv = [] if self.why_whole else self._projections()
        self._settle()
        self._frozen = [
            attention.Frozen(k, v, _mask(call)) for (_, k, v), call in zip(self._qkv, self.calls, strict=False)
        ]
        self._values: dict[tuple[str, int], Tensor] = {}
        self._scaling: dict[int, tuple[float, float | None]] = {}

    def _why_whole(self) -> str:
        """Why rows cannot be run by themselves: not asked here (`probe.replay.proved.Clean` asks)."""
        return ""

    def _projections(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        with torch.no_grad():
            blocks = enumerate(zip(self.inputs, self.calls, strict=False))
            return [self.decoder.projections(n, x, call) for n, (x, call) in blocks]

    @property
    def qkv(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """q, k, v [item head pos d_head] of every block as attention gets them.

        Raises:
            InputError: a model whose blocks cannot be run on chosen rows.
        """
        self._need_rows()
        return self._qkv

    @property
    def frozen(self) -> list[attention.Frozen]:
        """Keys, values and mask of every block."""
        self._need_rows()
        return self._frozen

    def _need_rows(self) -> None:
        if self.why_whole:
            raise InputError(
                f"this {self.model.shape.family} model: {self.why_whole}, so a block cannot be run on part of its "
                "positions with given keys and values; patching whole sites works (cross_patching, and paths into "
                "the final state)"
            )

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.decoder.n_layers

    def _settle(self) -> None:
        """What enters a block is kept where the block computes: over several devices it comes from another."""
        if not self._qkv:
            return
        places = [k.device for _, k, _ in self._qkv]
        self.inputs = [x.to(place) for x, place in zip(self.inputs, [*places, self.decoder.device], strict=True)]
        self.calls = [moved(call, place) for call, place in zip(self.calls, places, strict=True)]

    def ports(self, layer: int) -> dict[str, Port]:
        """Where the sites inside a block are."""
        return ports(self.decoder.hf, self.decoder.map, layer)

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
                embedded = self.decoder.hf.get_input_embeddings()(self.batch.ids)
                return self.decoder.map.places[site].view(embedded)
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
            parts = [k for k in ("attn_out", "mixer_out") if k in self.ports(layer)]
            return sum((self._kept(k, layer) for k in parts), self.inputs[layer])
        return self._kept(site.kind, layer)

    def _kept(self, kind: str, layer: int) -> Tensor:
        """A site inside a block: the block is run once more, and all of its sites of that sort are kept."""
        if (kind, layer) not in self._values:
            if self.why_whole:
                sites = [s for s in self.model.sites() if s.layer == layer]
                read = self.model.run(self.batch, sites, logits="none").activations
                found = {site.kind: value for site, value in read.items()}
            else:
                with torch.no_grad():
                    found = self._scores(layer) if kind in _ATTENTION else self._inside(layer)
            self._values.update({(k, layer): v for k, v in found.items()})
        return self._values[kind, layer]

    def _inside(self, layer: int) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(kind: str) -> Any:
            return lambda x: seen.__setitem__(kind, x.clone())

        here = self.ports(layer)
        with changed(here, {k: keep(k) for k in here}, len(self.batch)):
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
            self._scaling[layer] = (scale, softcap)
            return nothing(q, k, v, scale, softcap)

        zeros = torch.zeros(1, dtype=torch.long, device=self.inputs[layer].device)
        with torch.no_grad():
            call = rows_of(self.calls[layer], zeros, zeros)
            self.decoder.block(layer, self.inputs[layer][zeros, zeros][None], call, note)
        return self._scaling[layer]

    def _refuse_non_finite(self, model: Handle) -> None:
        """What a patch is made of, and the logits it is read by."""
        sites = [*(Site("resid_pre", n) for n in range(self.n_layers)), Site("resid_post", self.n_layers - 1)]
        finite.require(dict(zip(sites, self.inputs, strict=True)), self.batch, model)


def _mask(call: dict[str, Any]) -> Tensor | None:
    mask = call.get("attention_mask")
    if mask is not None and mask.ndim != 4:
        raise InputError(f"attention mask of shape {tuple(mask.shape)}; replay knows masks [item 1 pos key_pos]")
    return mask
