"""Sites: named places in a transformer, and the one table that gives their dimensions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from probe.errors import InputError

_RESIDUAL = ("item", "pos", "d_model")
_HEADS = ("item", "pos", "head", "d_head")
_KV_HEADS = ("item", "pos", "kv_head", "d_head")
_ATTENTION = ("item", "head", "pos", "key_pos")
_NEURONS = ("item", "pos", "neuron")

KINDS: dict[str, tuple[str, ...]] = {
    "embed": _RESIDUAL,
    "resid_pre": _RESIDUAL,
    "resid_mid": _RESIDUAL,
    "resid_post": _RESIDUAL,
    "attn_out": _RESIDUAL,
    "mixer_out": _RESIDUAL,
    "mlp_out": _RESIDUAL,
    "q": _HEADS,
    "k": _KV_HEADS,
    "v": _KV_HEADS,
    "attn_scores": _ATTENTION,
    "pattern": _ATTENTION,
    "z": _HEADS,
    "mlp_pre": _NEURONS,
    "mlp_up": _NEURONS,
    "mlp_post": _NEURONS,
    "router_logits": ("item", "pos", "expert"),
    "experts": ("item", "pos", "choice"),
    "ln_final": _RESIDUAL,
    "logits": ("item", "pos", "vocab"),
}
"""Kind of site -> its named dimensions, in the order of the tensor read there."""

READ_ONLY = ("router_logits", "experts")
"""Kinds that can be read and not edited: the choice of experts is made inside the router that gives them."""

INSIDE_ATTENTION = ("attn_scores", "pattern")
"""Kinds that no module takes or gives: they exist inside the attention function."""

GLOBAL_KINDS = ("embed", "ln_final", "logits")
"""Kinds that exist once per model, not once per block."""

_TL_BLOCK = {
    "hook_resid_pre": "resid_pre",
    "hook_in": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "ln2.hook_in": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_z": "z",
    "attn.hook_attn_scores": "attn_scores",
    "attn.hook_pattern": "pattern",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_pre_linear": "mlp_up",
    "mlp.hook_post": "mlp_post",
}
_TL_GLOBAL = {"hook_embed": "embed", "embed.hook_out": "embed", "ln_final.hook_out": "ln_final"}
_TL_GLOBAL["unembed.hook_out"] = "logits"
TRANSFORMER_LENS = {f"blocks.0.{name}": kind for name, kind in _TL_BLOCK.items()} | _TL_GLOBAL
"""Names of TransformerLens -> kind, those of a block for block 0."""

# A module's own output is the residual contribution only where no post-norm follows it, so these
# spellings are checked against the family by the model (`Model.site`), not accepted blindly.
_MODULE = {
    "": "resid_post",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "mlp": "mlp_out",
    "mlp.down_proj": "mlp_out",
}
_MODULE_PATH = re.compile(r"(?:model\.layers|transformer\.h|gpt_neox\.layers)\.(\d+)(?:\.(.+))?")
_MODULE_TL = re.compile(r"blocks\.(\d+)\.(attn|mlp)\.hook_out")


@total_ordering
@dataclass(frozen=True)
class Site:
    """A named place: kind, block (from 0) and, where the kind has heads, one head (from 0)."""

    kind: str
    layer: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown site kind {self.kind!r}; kinds are: {', '.join(KINDS)}")
        if (self.layer is None) != (self.kind in GLOBAL_KINDS):
            need = "takes no layer" if self.kind in GLOBAL_KINDS else "needs a layer"
            raise InputError(f"site {self.kind!r} {need}; given layer={self.layer}")
        if self.head is not None and self._head_dim is None:
            raise InputError(f"site {self.kind!r} has no heads; given head={self.head}")
        if (self.layer or 0) < 0 or (self.head or 0) < 0:
            raise InputError(f"layers and heads count from 0; given {self}")

    @property
    def _head_dim(self) -> int | None:
        names = KINDS[self.kind]
        return next((i for i, name in enumerate(names) if name in ("head", "kv_head")), None)

    @property
    def head_dim(self) -> int:
        """Axis of the head in the full tensor; an error for kinds without heads."""
        if self._head_dim is None:
            raise InputError(f"site {self} has no head dimension")
        return self._head_dim

    @property
    def dims(self) -> tuple[str, ...]:
        """Named dimensions of the tensor read here (the head axis is gone when a head is chosen)."""
        names = KINDS[self.kind]
        return tuple(n for i, n in enumerate(names) if self.head is None or i != self._head_dim)

    @property
    def whole(self) -> Site:
        """The same place with all heads."""
        return self if self.head is None else Site(self.kind, self.layer)

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """The site a text names.

        Accepts `resid_post.5`, `z.5.3`, `logits`; TransformerLens spellings
        (`blocks.5.hook_resid_pre`); `L5H3` (the output of a head before W_O, `z.5.3`); module
        paths of a checkpoint (`model.layers.5.mlp`: what that block's MLP adds to the residual).

        >>> Site.parse("blocks.5.hook_resid_post"), Site.parse("L5H3").head
        (Site(kind='resid_post', layer=5, head=None), 3)
        """
        if isinstance(text, Site):
            return text
        found = _parse_own(text) or _parse_head(text) or _parse_tl(text) or _parse_module(text)
        if found is None:
            raise InputError(
                f"cannot read {text!r} as a site; write e.g. resid_post.5, z.5.3, L5H3, "
                f"blocks.5.hook_resid_pre or model.layers.5.mlp; kinds are: {', '.join(KINDS)}"
            )
        return found

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.kind, self.layer, self.head) if part is not None)

    def __lt__(self, other: Site) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, int]:
        layer = {"embed": -1, "ln_final": 10**6, "logits": 10**6}.get(self.kind, self.layer or 0)
        return (layer, tuple(KINDS).index(self.kind), -1 if self.head is None else self.head)


def is_module_spelling(text: str) -> bool:
    """True if the text names a module's own output, which a post-norm may still change."""
    match = _MODULE_PATH.fullmatch(text)
    return bool(_MODULE_TL.fullmatch(text) or (match and match.group(2)))


def _parse_own(text: str) -> Site | None:
    kind, *numbers = text.split(".")
    if kind not in KINDS or len(numbers) > 2 or not all(n.isdigit() for n in numbers):
        return None
    return Site(kind, *(int(n) for n in numbers))


def _parse_head(text: str) -> Site | None:
    match = re.fullmatch(r"L(\d+)H(\d+)", text)
    return Site("z", int(match.group(1)), int(match.group(2))) if match else None


def _parse_tl(text: str) -> Site | None:
    if text in _TL_GLOBAL:
        return Site(_TL_GLOBAL[text])
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", text)
    if match and match.group(2) in _TL_BLOCK:
        return Site(_TL_BLOCK[match.group(2)], int(match.group(1)))
    match = _MODULE_TL.fullmatch(text)
    return Site(f"{match.group(2)}_out", int(match.group(1))) if match else None


def _parse_module(text: str) -> Site | None:
    match = _MODULE_PATH.fullmatch(text)
    if match is None or (match.group(2) or "") not in _MODULE:
        return None
    return Site(_MODULE[match.group(2) or ""], int(match.group(1)))
