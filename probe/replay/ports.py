"""Where a site sits inside a plain Hugging Face block: which module, which side of it, and how heads are laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from probe.errors import ProbeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from probe.replay.decoder import Decoder

Change: TypeAlias = "Callable[[Tensor], Tensor | None]"
"""Gets the site's tensor [item pos ...] and returns the changed one, or None to leave it."""

Layout = Literal["plain", "split", "heads_first", "fused_by_head", "fused_by_part"]

INSIDE = ("q", "k", "v", "z", "attn_out", "mlp_pre", "mlp_up", "mlp_post", "mlp_out")
"""Kinds seen at a module inside a block (attn_scores and pattern are seen in the attention function)."""


@dataclass(frozen=True)
class Port:
    """A module's input or output, its layout, and which part of a fused q/k/v it is."""

    module: nn.Module
    side: Literal["in", "out"]
    layout: Layout = "plain"
    heads: int = 0
    part: int = 0

    def view(self, x: Tensor) -> Tensor:
        """The site's tensor [item pos ...] inside the module's tensor."""
        if self.layout == "split":
            return x.unflatten(-1, (self.heads, -1))
        if self.layout == "heads_first":
            return x.transpose(1, 2)
        if self.layout == "fused_by_head":  # [... head (q k v) d_head]
            return x.unflatten(-1, (self.heads, 3, -1)).select(-2, self.part)
        if self.layout == "fused_by_part":  # [... (q k v) head d_head]
            return x.unflatten(-1, (3, self.heads, -1)).select(-3, self.part)
        return x

    def write(self, x: Tensor, new: Tensor) -> Tensor:
        """The module's tensor with the site's values replaced."""
        out = x.clone()
        self.view(out).copy_(new)
        return out


def ports(decoder: Decoder, layer: int, norm_layout: Layout | None) -> dict[str, Port]:
    """The ports of one block by kind of site. `norm_layout`: how q/k norms lay out heads (see `sniff`)."""
    block, attention = decoder.layers[layer], decoder.attention(layer)
    mlp: Any = block.mlp
    down = _one(mlp, "down_proj", "dense_4h_to_h", "c_proj")
    found = {
        "z": Port(_one(attention, "o_proj", "dense", "c_proj"), "in", "split", decoder.n_heads),
        "attn_out": Port(attention, "out"),
        "mlp_out": Port(mlp, "out"),
        "mlp_pre": Port(_one(mlp, "gate_proj", "dense_h_to_4h", "c_fc", "up_proj"), "out"),
        "mlp_post": Port(down, "in"),
        **_qkv(decoder, attention, norm_layout),
    }
    if hasattr(mlp, "gate_proj"):
        found["mlp_up"] = Port(mlp.up_proj, "out")
    if hasattr(block, "post_feedforward_layernorm"):  # these norms act on what is added to the residual stream
        found["attn_out"] = Port(block.post_attention_layernorm, "out")
        found["mlp_out"] = Port(block.post_feedforward_layernorm, "out")
    return found


def _qkv(decoder: Decoder, attention: Any, norm_layout: Layout | None) -> dict[str, Port]:
    if hasattr(attention, "query_key_value"):
        fused = attention.query_key_value
        return {k: Port(fused, "out", "fused_by_head", decoder.n_heads, n) for n, k in enumerate("qkv")}
    if hasattr(attention, "c_attn"):
        fused = attention.c_attn
        return {k: Port(fused, "out", "fused_by_part", decoder.n_heads, n) for n, k in enumerate("qkv")}
    heads = {"q": decoder.n_heads, "k": decoder.n_kv, "v": decoder.n_kv}
    found = {k: Port(getattr(attention, f"{k}_proj"), "out", "split", n) for k, n in heads.items()}
    for kind in "qk":
        norm = getattr(attention, f"{kind}_norm", None)
        if norm is not None:
            if norm_layout is None:
                raise ProbeError(f"{type(attention).__name__}: layout of its {kind}_norm is not known")
            found[kind] = Port(norm, "out", norm_layout, heads[kind])
    return found


def sniff(decoder: Decoder, x: Tensor, call: Mapping[str, Any]) -> Layout | None:
    """How the q norm of this family lays out heads, seen on rows `x` [1 row d] whose number is not n_heads."""
    norm = getattr(decoder.attention(0), "q_norm", None)
    if norm is None:
        return None
    seen: list[tuple[int, ...]] = []
    handle = norm.register_forward_hook(lambda _m, _a, out: seen.append(tuple(out.shape)))
    try:
        decoder.projections(0, x, call)
    finally:
        handle.remove()
    (shape,) = seen
    if len(shape) == 3:
        return "split"
    return "heads_first" if shape[1] == decoder.n_heads else "plain"


@contextmanager
def changed(found: Mapping[str, Port], changes: Mapping[str, Change]) -> Iterator[None]:
    """Within the block, each change is applied at its port."""
    with ExitStack() as stack:
        for kind, change in changes.items():
            stack.callback(_attach(found[kind], change).remove)
        yield


def _attach(port: Port, change: Change) -> Any:
    def apply(x: Tensor) -> Tensor | None:
        new = change(port.view(x))
        return None if new is None else port.write(x, new)

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = apply(args[0])
        return None if new is None else (new, *args[1:])

    def after(_module: nn.Module, _args: Any, out: Any) -> Any:
        new = apply(out[0] if isinstance(out, tuple) else out)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    if port.side == "in":
        return port.module.register_forward_pre_hook(before)
    return port.module.register_forward_hook(after)


def _one(owner: Any, *names: str) -> Any:
    for name in names:
        found = getattr(owner, name, None)
        if found is not None:
            return found
    raise ProbeError(f"{type(owner).__name__} has none of {', '.join(names)}: this family is not known to replay")
