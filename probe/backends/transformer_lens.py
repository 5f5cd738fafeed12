"""TransformerLens backend: raw weights (nothing folded or centred), one hook per site visited.

Two roads through the same weights. Sites that are a side of a module are visited in the plain Hugging Face model;
that costs what transformers costs. Sites inside the attention function are visited in TransformerBridge, which
computes attention in the open; it is built when such a site is first visited, around a copy of the module tree that
shares the parameters. Where TransformerLens has no adapter for a family, or its bridge does not give the model's own
states, the softmax of the model's own eager attention is visited instead (`opened_by` says which).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from probe.backends.hooks import Port, attached
from probe.backends.in_process import HuggingFaceBackend
from probe.backends.place import Place
from probe.backends.protocol import Tokens, Visit
from probe.backends.softmax import opened
from probe.checkpoints.loading import sharing_copy
from probe.errors import ProbeError
from probe.sites import INSIDE_ATTENTION, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# What TransformerLens raises at a family it does not know, in building a bridge and in running it.
_NO_BRIDGE = (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError, NotImplementedError,
              ImportError, AssertionError, ProbeError)  # fmt: skip


class TransformerLensBackend(HuggingFaceBackend):
    """A plain Hugging Face model, and TransformerBridge beside it where attention is looked into."""

    name = "transformer_lens"

    def __init__(self, hf_model: object) -> None:
        super().__init__(hf_model)
        self._bridge: Any = None
        self._ports: dict[Site, Port] | None = None

    @property
    def bridge(self) -> Any:
        """The TransformerBridge, built at first use; None where there is none for this model."""
        if self._ports is None:
            try:
                with torch.inference_mode(False):  # what it clones may have to carry a gradient later
                    self._bridge, self._ports = self._built()
            except _NO_BRIDGE:
                self._bridge, self._ports = None, {}
        return self._bridge

    @property
    def opened_by(self) -> Literal["bridge", "softmax"]:
        """How sites inside attention are reached."""
        return "softmax" if self.bridge is None else "bridge"

    def _built(self) -> tuple[Any, dict[Site, Port]]:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        # A copy, because the bridge rewrites the tree it is given. No tokenizer goes in: the bridge
        # would set its BOS, pad and padding side, for the caller too.
        tree = sharing_copy(self.plain)
        name, family = type(self.plain).__name__, self.config.model_type
        bridge = build_bridge_from_module(tree, name, hf_config=tree.config, model_name=family)
        _keep_dtype(bridge, self.dtype)
        ports = _ports(bridge)
        ids = (torch.arange(7, device=self.device)[None] * 5 + 2) % int(self.config.vocab_size)
        tokens = Tokens(ids, torch.ones_like(ids).bool(), torch.arange(7, device=self.device)[None])
        with torch.no_grad():
            want, seen = self._noted(tokens, {Site(kind, n) for kind in INSIDE_ATTENTION for n in self.map.doors})
            got: dict[Site, list[Tensor]] = {site: [] for site in ports}
            with attached({port: got[site].append for site, port in ports.items()}):
                last = bridge.original_model.get_submodule(self.map.trunk)(**self.inputs(tokens)).last_hidden_state
        if not self._equal(last, want):
            raise ProbeError("the bridge gives other states than the model")
        # Only what the bridge shows, and lets be changed, as the model itself does is visited there.
        ports = {s: p for s, p in ports.items() if len(got[s]) == 1 and self._equal(got[s][0], seen.get(s))}
        kinds = self._changeable(bridge, ports, tokens)
        return bridge, {s: p for s, p in ports.items() if s.kind in kinds}

    def _changeable(self, bridge: Any, ports: Mapping[Site, Port], tokens: Tokens) -> set[str]:
        """Kinds at which an edit does in the bridge what it does in the model: one copy of a text edited at each."""
        first = {site.kind: site for site in sorted(ports, reverse=True)}
        n = len(first)
        copies = Tokens(tokens.ids.expand(n, -1), tokens.mask.expand(n, -1), tokens.position_ids.expand(n, -1))
        visits = {site: _shifted_row(row) for row, site in enumerate(first.values())}
        trunk = bridge.original_model.get_submodule(self.map.trunk)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an edit is dropped is what is looked for
            want = self._plainly(copies, visits)
            with attached({ports[site]: visit for site, visit in visits.items()}, n):
                got = trunk(**self.inputs(copies)).last_hidden_state
        return {kind for row, kind in enumerate(first) if self._equal(got[row], want[row])}

    def _noted(self, tokens: Tokens, inside: set[Site]) -> tuple[Tensor, dict[Site, Tensor]]:
        """The plain model's last states and its value at every site."""
        seen: dict[Site, Tensor] = {}
        visits: dict[Site, Visit] = {s: (lambda x, s=s: seen.update({s: x.clone()})) for s in {*self._places, *inside}}
        return self._plainly(tokens, visits), seen

    def _equal(self, one: Tensor, two: Tensor | None) -> bool:
        if two is None or one.shape != two.shape:
            return False
        bound = 1e-4 if self.dtype in (torch.float32, torch.float64) else 0.05
        masked = torch.finfo(two.dtype).min / 256 if two.is_floating_point() else None
        if masked is not None:  # what is masked is "very small" in more than one way
            one, two = one.clamp(min=masked), two.clamp(min=masked)
        return bool((one - two).abs().max() <= bound * two[two > masked].abs().max() if masked else (one == two).all())

    def sites(self) -> frozenset[Site]:
        """Every site of the model, `logits` included (which the model makes itself)."""
        inside = {Site(k, n) for k in INSIDE_ATTENTION for n in self.map.doors}
        return frozenset({*self._places, *inside, Site("logits")})

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Final hidden state after the final norm; each visit runs once, in the order of the pass."""
        # The model's own pass goes on beside what only looks at it: its states are bitwise those of any other pass.
        inside = self.looks_inside(visits) and not _only_looks(visits)
        ports = self._bridged(visits) if inside else None
        if ports is None:
            return self._plainly(tokens, visits)
        with attached({ports[site]: visit for site, visit in visits.items()}):
            return self._bridge.original_model.get_submodule(self.map.trunk)(**self.inputs(tokens)).last_hidden_state

    def _plainly(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """The plain model's pass, sites inside attention visited at its softmax."""
        inside = {site: visit for site, visit in visits.items() if site.kind in INSIDE_ATTENTION}
        outside = {self.port(site): visit for site, visit in visits.items() if site not in inside}
        with ExitStack() as stack:
            if inside:
                stack.enter_context(self.eager())
                stack.enter_context(opened(self.doors(inside)))
            stack.enter_context(attached(outside, len(tokens.ids)))
            return self.trunk(**self.inputs(tokens)).last_hidden_state

    def _bridged(self, visits: Mapping[Site, Visit]) -> dict[Site, Port] | None:
        """The bridge's hook points, if there is a bridge and it has one for each of these sites."""
        if self.bridge is None or self._ports is None:
            return None
        return self._ports if all(site in self._ports for site in visits) else None

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights of the same shapes in place, the bridge's clones of fused q, k, v included."""
        super().load_weights(weights)
        for block in self._bridge.blocks if self._bridge is not None else ():
            _split_again(block.attn)


def _only_looks(visits: Mapping[Site, Visit]) -> bool:
    """Whether nothing is changed or kept inside attention, only shown to an edit that looks."""
    return all(getattr(visit, "looks", False) for site, visit in visits.items() if site.kind in INSIDE_ATTENTION)


def _shifted_row(row: int) -> Visit:
    def shifted(x: Tensor) -> Tensor:
        out = x.clone()
        out[row] = out[row] * 0.7
        return out

    return shifted


def _keep_dtype(bridge: Any, dtype: torch.dtype) -> None:
    """Rotated queries and keys in the model's own type.

    OLMo's rotary factors are float32; its own code rounds after rotating, the bridge's goes on in float32 and then
    meets values in half precision.
    """
    for block in bridge.blocks:
        for name in ("hook_rot_q", "hook_rot_k"):
            point = getattr(getattr(block, "attn", None), name, None)
            if point is not None:
                point.register_forward_hook(lambda _module, _args, out: out.to(dtype))


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
    for kind in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
        alias = block.hook_aliases.get(f"hook_{kind}")
        if alias is None:
            continue
        point = _resolve(block, alias)
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
