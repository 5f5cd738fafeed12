"""nnsight backend: the same sites in the same plain module tree, visited inside a trace.

Values inside the attention function are reached through nnsight's view of its source, so they exist
only under the eager kernel; with another one (`attn_implementation`) they are no sites of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from probe.backends import Tokens, Visit
from probe.backends.hf import HuggingFaceBackend
from probe.backends.places import INSIDE_ATTENTION, Place, adapter_of
from probe.checkpoints.loading import sharing_copy
from probe.errors import ProbeError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class NnsightBackend(HuggingFaceBackend):
    """A Hugging Face model wrapped by nnsight; the wrapped tree shares the plain one's parameters."""

    name = "nnsight"

    def __init__(self, hf_model: Any) -> None:
        from nnsight import NNsight

        super().__init__(hf_model)
        # Placed over several devices, a module carries hooks that a copy would not follow.
        placed = hasattr(hf_model, "hf_device_map")
        self._tree: Any = NNsight(hf_model if placed else sharing_copy(hf_model))
        self._base: Any = self._tree.get(hf_model.base_model_prefix)
        self._rank = ranks(hf_model, self._places)
        self._attention = attention_path(hf_model)

    def sites(self) -> frozenset[Site]:
        """Every site of the family; those inside attention only under the eager kernel."""
        eager = self.config._attn_implementation == "eager"
        inside = [Site(k, n) for k in INSIDE_ATTENTION for n in range(self.config.num_hidden_layers) if eager]
        return frozenset({*self._places, *inside, Site("logits")})

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Final hidden state after the final norm; each visit runs once, in the order of the pass."""
        import nnsight

        inputs = _inputs(tokens)
        if not visits:
            return self.plain.base_model(**inputs).last_hidden_state
        softmaxes: dict[int | None, Any] = {}
        steps = [self._step(site, visits[site], softmaxes) for site in sorted(visits, key=self._order)]
        raised: list[BaseException] = []
        base = self._base
        # nnsight reports an error of the block in a form of its own; the visit's own error is the one to raise.
        try:
            with base.trace(**inputs):
                for step in steps:
                    step(raised)
                out = nnsight.save(base.output)
        except Exception:
            if raised:
                raise raised[0] from None
            raise
        return out.last_hidden_state

    def _order(self, site: Site) -> tuple[int, int]:
        """Where a site comes in the pass: nnsight hands values out in that order only."""
        if site.layer is None:
            return (-1, 0) if site.kind == "embed" else (10**9, 0)
        return (site.layer, self._rank[site.kind])

    def _step(
        self, site: Site, visit: Visit, softmaxes: dict[int | None, Any]
    ) -> Callable[[list[BaseException]], None]:
        if site.kind in INSIDE_ATTENTION:
            attention = self._tree.get(self._attention.format(site.layer))
            # Looking at the source instruments the forward: too late once that forward runs.
            _ = attention.source
            return lambda raised: _inside(attention, site, _guarded(visit, raised), softmaxes)
        place = self._places[site]
        envoy = self._tree.get(place.path)
        return lambda raised: _at(envoy, place, _guarded(visit, raised))


def attention_path(hf_model: Any) -> str:
    """Path of the attention module of block `{}`."""
    blocks = adapter_of(hf_model).component_mapping["blocks"]
    return f"{blocks.name}.{{}}.{blocks.submodules['attn'].name}"


def _inputs(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_ids": tokens.ids,
        "attention_mask": tokens.mask.long(),
        "position_ids": tokens.position_ids,
        "past_key_values": tokens.cache,
        "use_cache": tokens.cache is not None,
    }


def _guarded(visit: Visit, raised: list[BaseException]) -> Visit:
    def guarded(x: Tensor) -> Tensor | None:
        try:
            return visit(x)
        except BaseException as error:
            raised.append(error)
            raise

    return guarded


def _at(envoy: Any, place: Place, visit: Visit) -> None:
    value = envoy.input if place.side == "in" else envoy.output
    x = value[0] if isinstance(value, tuple) else value
    new = visit(place.view(x))
    if new is None:
        return
    changed = place.write(new, x)
    if place.side == "in":
        envoy.input = changed
    else:
        envoy.output = (changed, *value[1:]) if isinstance(value, tuple) else changed


def _inside(attention: Any, site: Site, visit: Visit, softmaxes: dict[int | None, Any]) -> None:
    """Scores are what the softmax takes (masked, scaled, capped), the pattern what it gives."""
    if site.layer not in softmaxes:  # a call can be looked into once per pass, for both kinds
        softmaxes[site.layer] = attention.source.attention_interface_1.source.nn_functional_softmax_0
    softmax = softmaxes[site.layer]
    if site.kind == "attn_scores":
        new = visit(softmax.input)
        if new is not None:
            softmax.input = new
    else:
        new = visit(softmax.output)
        if new is not None:
            softmax.output = new


def ranks(hf_model: Any, places: Mapping[Site, Place]) -> dict[str, int]:
    """Order in which the kinds of a block are passed, seen in one short pass."""
    seen: list[str] = []
    handles: list[Any] = []
    for site, place in places.items():
        if site.layer != 0:
            continue
        module: nn.Module = hf_model.get_submodule(place.path)
        note = _note(seen, site.kind)
        if place.side == "in":
            handles.append(module.register_forward_pre_hook(note))
        else:
            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long, device=hf_model.device)
            hf_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    at = seen.index("z")  # attention happens just before its heads are mixed
    ordered = [*seen[:at], "attn_scores", "pattern", *seen[at:]]
    missing = {s.kind for s in places if s.layer == 0} - set(ordered)
    if missing or len(set(ordered)) != len(ordered):
        raise ProbeError(f"{type(hf_model).__name__}: sites not passed exactly once in a pass: {missing or ordered}")
    return {kind: n for n, kind in enumerate(ordered)}


def _note(seen: list[str], kind: str) -> Callable[..., None]:
    return lambda *_: seen.append(kind)
