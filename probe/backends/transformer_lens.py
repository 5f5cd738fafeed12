"""TransformerLens backend: raw weights (nothing folded or centred), one hook per site visited.

Two roads through the same weights. Sites that are a side of a module are visited in the plain Hugging
Face model, at the places TransformerLens's adapter names; that costs what transformers costs. Sites
inside the attention function need TransformerBridge, which computes attention in the open; it is built
when such a site is first visited, around a copy of the module tree that shares the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from probe.backends import Tokens, Visit
from probe.backends.hf import HuggingFaceBackend
from probe.backends.places import INSIDE_ATTENTION, Place, residual_kinds
from probe.checkpoints.loading import sharing_copy
from probe.errors import ProbeError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class TransformerLensBackend(HuggingFaceBackend):
    """A plain Hugging Face model, and TransformerBridge beside it where attention is looked into."""

    name = "transformer_lens"

    def __init__(self, hf_model: Any) -> None:
        super().__init__(hf_model)
        self._bridge: Any = None

    @property
    def bridge(self) -> Any:
        """The TransformerBridge, built at first use."""
        if self._bridge is None:
            from transformer_lens.model_bridge.sources import build_bridge_from_module

            # A copy, because the bridge rewrites the tree it is given. No tokenizer goes in: the bridge
            # would set its BOS, pad and padding side, for the caller too.
            tree = sharing_copy(self.plain)
            name, family = type(self.plain).__name__, self.config.model_type
            self._bridge = build_bridge_from_module(tree, name, hf_config=self.config, model_name=family)
        return self._bridge

    def sites(self) -> frozenset[Site]:
        """Every site of the family, `logits` included (which the model makes itself)."""
        inside = {Site(k, n) for k in INSIDE_ATTENTION for n in range(self.config.num_hidden_layers)}
        return frozenset({*self._places, *inside, Site("logits")})

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Final hidden state after the final norm; each visit runs once, in the order of the pass."""
        if any(site.kind in INSIDE_ATTENTION for site in visits):
            ports = _ports(self.bridge)
            attached = {ports[site]: visit for site, visit in visits.items()}
            tree = self.bridge.original_model
        else:
            attached = {
                Port(self.plain.get_submodule(self._places[site].path), self._places[site]): visit
                for site, visit in visits.items()
            }
            tree = self.plain
        with _hooked(attached):
            out = tree.base_model(
                input_ids=tokens.ids,
                attention_mask=tokens.mask.long(),
                position_ids=tokens.position_ids,
                past_key_values=tokens.cache,
                use_cache=tokens.cache is not None,
            )
        return out.last_hidden_state

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights of the same shapes in place, the bridge's clones of fused q, k, v included."""
        super().load_weights(weights)
        for block in self._bridge.blocks if self._bridge is not None else ():
            _split_again(block.attn)


def _split_again(attention: Any) -> None:
    """Renew the q, k, v that the bridge cloned out of a fused matrix; stale ones give no error."""
    split: Callable[[Any], Any] | None = getattr(attention, "split_qkv_matrix", None)
    if split is None:
        return
    fresh = split(attention.original_component)
    for name, linear in zip(("q", "k", "v"), fresh, strict=True):
        old = getattr(attention, name).original_component
        old.weight.data = linear.weight.data
        if linear.bias is not None:
            old.bias.data = linear.bias.data


@dataclass(frozen=True, eq=False)
class Port:
    """A module to hook and how the site's tensor lies there."""

    module: nn.Module
    place: Place


@contextmanager
def _hooked(visits: Mapping[Port, Visit]) -> Generator[None]:
    handles = [_attach(port, visit) for port, visit in visits.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(port: Port, visit: Visit) -> Any:
    def through(x: Tensor) -> Tensor:
        new = visit(port.place.view(x))
        return x if new is None else port.place.write(new, x)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (through(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": through(kwargs["hidden_states"])}

    def after(_module: nn.Module, _args: Any, out: Any) -> Any:
        return (through(out[0]), *out[1:]) if isinstance(out, tuple) else through(out)

    if port.place.side == "in":
        return port.module.register_forward_pre_hook(before, with_kwargs=True)
    return port.module.register_forward_hook(after)


def _ports(bridge: Any) -> dict[Site, Port]:
    """The bridge's hook points: identity modules whose output is the site's tensor."""
    ends = {"embed": bridge.embed.hook_out, "ln_final": bridge.ln_final.hook_out}
    ports = {Site(kind): Port(point, Place("", "out")) for kind, point in ends.items()}
    for layer, block in enumerate(bridge.blocks):
        ports.update({Site(kind, layer): port for kind, port in _block_ports(block).items()})
    return ports


def _block_ports(block: Any) -> dict[str, Port]:
    attention, mlp = block.attn, block.mlp
    n_heads = attention.config.n_heads
    n_kv = getattr(attention.config, "n_key_value_heads", None) or n_heads
    ports = {
        "z": Port(attention.o.hook_in, Place("", "out", "split", n_heads)),
        "attn_scores": Port(attention.hook_attn_scores, Place("", "out")),
        "pattern": Port(attention.hook_pattern, Place("", "out")),
        "q": _qkv_port(attention, "q", n_heads),
        "k": _qkv_port(attention, "k", n_kv),
        "v": _qkv_port(attention, "v", n_kv),
    }
    for kind, (component, side) in residual_kinds(block).items():
        point = _resolve(block, f"{component}.hook_{side}" if component else f"hook_{side}")
        ports[kind] = Port(point, Place("", "out", "in_place" if kind == "resid_mid" else "plain"))
    for kind, alias in {"mlp_pre": "hook_pre", "mlp_up": "hook_pre_linear", "mlp_post": "hook_post"}.items():
        if alias in mlp.hook_aliases:
            ports[kind] = Port(_resolve(mlp, mlp.hook_aliases[alias]), Place("", "out"))
    return ports


def _qkv_port(attention: Any, kind: str, heads: int) -> Port:
    """q, k after any q/k norm and before rotation; v as projected."""
    if f"{kind}_norm" not in attention.submodules:
        return Port(getattr(attention, kind).hook_out, Place("", "out", "split", heads))
    phase = attention._qk_norm_phase
    layouts = {"pre_reshape": "split", "post_reshape": "heads_first"}
    if phase not in layouts:
        raise ProbeError(f"q/k norm phase {phase!r} of {type(attention).__name__} is not known to this toolkit")
    return Port(getattr(attention, f"hook_{kind}_normed"), Place("", "out", layouts[phase], heads))  # pyright: ignore[reportArgumentType]


def _resolve(component: Any, path: str) -> nn.Module:
    for name in path.split("."):
        component = getattr(component, name)
    return component
