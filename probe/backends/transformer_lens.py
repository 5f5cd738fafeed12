"""TransformerBridge backend: raw weights (nothing folded or centred), one hook per site visited."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from probe.backends import Tokens, Visit
from probe.backends.huggingface import sharing_copy
from probe.errors import ProbeError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Layout = Literal["plain", "split", "heads_first", "in_place"]

_BLOCK_KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Port:
    """Where a site is seen: a hook point (an identity module) and how its tensor is laid out.

    `split`: heads are joined in the last dimension. `heads_first`: [item, head, pos, d_head].
    `in_place`: the model goes on with the same tensor on two paths, so an edit must be written into it.
    """

    module: nn.Module
    layout: Layout = "plain"
    n_heads: int = 0


class TransformerLensBackend:
    """A Hugging Face model whose modules TransformerBridge has wrapped with hook points."""

    name = "transformer_lens"

    def __init__(self, hf_model: Any) -> None:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        # Kept before wrapping, which renames every parameter and adds cloned ones.
        self._parameters: dict[str, nn.Parameter] = dict(hf_model.named_parameters(remove_duplicate=False))
        self._unembed: nn.Module = hf_model.get_output_embeddings()
        self._bias: Tensor | None = getattr(self._unembed, "bias", None)  # the bridge adds one of zeros
        self.plain: Any = sharing_copy(hf_model)  # for replay, which calls the model's own modules
        self.config: Any = hf_model.config
        # No tokenizer goes in: the bridge would set its BOS, pad and padding side, here and for the caller.
        self.bridge: Any = build_bridge_from_module(
            hf_model, type(hf_model).__name__, hf_config=hf_model.config, model_name=hf_model.config.model_type
        )
        self._base: nn.Module = hf_model.base_model
        self._norm: nn.Module = self.bridge.ln_final.original_component
        self._ports = _ports(self.bridge, self.config)

    def sites(self) -> frozenset[Site]:
        """Every site of the family, `logits` included (which the model makes itself)."""
        return frozenset({*self._ports, Site("logits")})

    def module_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name (no post-norm in between)."""
        aliases = self.bridge.blocks[0].hook_aliases
        kinds = ["resid_post", *(k for k in ("attn", "mlp") if aliases.get(f"hook_{k}_out") == f"{k}.hook_out")]
        names = {k if k == "resid_post" else f"{k}_out" for k in kinds}
        return frozenset(site for site in self._ports if site.kind in names)

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Final hidden state after the final norm; each visit runs once, in the order of the pass."""
        with self._hooked(visits):
            out = self._base(
                input_ids=tokens.ids,
                attention_mask=tokens.mask.long(),
                position_ids=tokens.position_ids,
                past_key_values=tokens.cache,
                use_cache=tokens.cache is not None,
            )
        return out.last_hidden_state

    @contextmanager
    def _hooked(self, visits: Mapping[Site, Visit]) -> Generator[None]:
        handles = [_attach(self._ports[site], visit) for site, visit in visits.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def new_cache(self) -> Any:
        """An empty key-value cache (sliding layers keep what they need)."""
        from transformers import DynamicCache

        return DynamicCache(config=self.config)

    def head(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of normed hidden states, the family's soft cap included."""
        logits = self._unembed(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def final_norm(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final norm, its statistics recomputed from `resid`."""
        return self._norm(resid)

    def unembed_weights(self) -> tuple[Tensor, Tensor | None]:
        """W_U [d_model, vocab] as a view, and the bias if there is one."""
        weight: Tensor = self._unembed.weight  # pyright: ignore[reportAssignmentType]
        return weight.detach().T, None if self._bias is None else self._bias.detach()

    def weights(self) -> dict[str, Tensor]:
        """The parameters under their Hugging Face names (views)."""
        return dict(self._parameters)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights of the same shapes in place, the split copies of fused QKV included."""
        for name, parameter in self._parameters.items():
            parameter.data = weights[name].data
        for block in self.bridge.blocks:
            _split_again(block.attn)


def _split_again(attention: Any) -> None:
    """Renew the q, k, v that the bridge cloned out of a fused matrix; stale ones give no error."""
    split = getattr(attention, "split_qkv_matrix", None)
    if split is None:
        return
    fresh = split(attention.original_component)
    for name, linear in zip(("q", "k", "v"), fresh, strict=True):
        old = getattr(attention, name).original_component
        old.weight.data = linear.weight.data
        if linear.bias is not None:
            old.bias.data = linear.bias.data


def _attach(port: Port, visit: Visit) -> Any:
    def hook(_module: nn.Module, _args: Any, x: Tensor) -> Tensor | None:
        seen = _to_site(x, port)
        new = visit(seen)
        if new is None:
            return None
        if port.layout == "in_place":
            x.copy_(new)
            return None
        return _from_site(new, x, port)

    return port.module.register_forward_hook(hook)


def _to_site(x: Tensor, port: Port) -> Tensor:
    if port.layout == "split" and x.ndim == 3:
        return x.unflatten(-1, (port.n_heads, -1))
    return x.transpose(1, 2) if port.layout == "heads_first" else x


def _from_site(new: Tensor, x: Tensor, port: Port) -> Tensor:
    if port.layout == "split" and x.ndim == 3:
        return new.flatten(-2)
    return new.transpose(1, 2) if port.layout == "heads_first" else new


def _ports(bridge: Any, config: Any) -> dict[Site, Port]:
    ports = {Site("embed"): Port(bridge.embed.hook_out), Site("ln_final"): Port(bridge.ln_final.hook_out)}
    for layer, block in enumerate(bridge.blocks):
        for kind, port in _block_ports(block, config):
            ports[Site(kind, layer)] = port
    return ports


def _block_ports(block: Any, config: Any) -> Iterator[tuple[str, Port]]:
    """The ports of a block, by the bridge's own aliases (an adapter knows its family's layout)."""
    for kind in _BLOCK_KINDS:
        path = block.hook_aliases.get(f"hook_{kind}")
        if path is not None:
            yield kind, Port(_resolve(block, path), "in_place" if kind == "resid_mid" else "plain")
    n_heads = config.num_attention_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n_heads
    for kind, heads in (("q", n_heads), ("k", n_kv), ("v", n_kv)):
        yield kind, _qkv_port(block.attn, kind, heads)
    yield "z", Port(block.attn.o.hook_in, "split", n_heads)
    yield "attn_scores", Port(block.attn.hook_attn_scores)
    yield "pattern", Port(block.attn.hook_pattern)
    gated = "hook_pre_linear" in block.mlp.hook_aliases
    names = {"mlp_pre": "hook_pre", "mlp_post": "hook_post"} | ({"mlp_up": "hook_pre_linear"} if gated else {})
    for kind, alias in names.items():
        yield kind, Port(_resolve(block.mlp, block.mlp.hook_aliases[alias]))


def _qkv_port(attention: Any, kind: str, heads: int) -> Port:
    """q, k after any q/k norm and before rotation; v as projected."""
    if f"{kind}_norm" not in attention.submodules:
        return Port(getattr(attention, kind).hook_out, "split", heads)
    hook = getattr(attention, f"hook_{kind}_normed")
    phase = attention._qk_norm_phase
    if phase == "pre_reshape":
        return Port(hook, "split", heads)
    if phase == "post_reshape":
        return Port(hook, "heads_first", heads)
    raise ProbeError(f"q/k norm phase {phase!r} of {type(attention).__name__} is not known to this toolkit")


def _resolve(component: Any, path: str) -> nn.Module:
    for name in path.split("."):
        component = getattr(component, name)
    return component
