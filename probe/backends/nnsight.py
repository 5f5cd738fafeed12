"""nnsight backend: the same sites in the same plain module tree, visited inside a trace.

Values inside the attention function are reached through nnsight's view of its source, so they exist
only under the eager kernel; with another one (`attn_implementation`) they are no sites of the model.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from probe.backends.in_process import HuggingFaceBackend
from probe.backends.place import Place
from probe.backends.protocol import Tokens, Visit
from probe.backends.softmax import Door, opened
from probe.checkpoints.loading import sharing_copy
from probe.errors import ProbeError
from probe.sites import INSIDE_ATTENTION, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel


_EAGER = "eager_attention_forward"
"""The function of a modeling file that nnsight's view of an attention's source can be followed into."""


def tracing(hf_model: PreTrainedModel) -> Any:
    """nnsight's own model over the same weights: `with tracing(hf).trace(**inputs): ...`."""
    from nnsight import NNsight

    return NNsight(sharing_copy(hf_model))


class NnsightBackend(HuggingFaceBackend):
    """A Hugging Face model wrapped by nnsight; the wrapped tree shares the plain one's parameters."""

    name = "nnsight"

    def __init__(self, hf_model: PreTrainedModel) -> None:
        from nnsight import NNsight

        super().__init__(hf_model)
        # Placed over several devices, a module carries hooks that a copy would not follow.
        placed = hasattr(hf_model, "hf_device_map")
        self._tree: Any = NNsight(hf_model if placed else sharing_copy(hf_model))
        self._readable: dict[type, bool] = {}
        self._base: Any = self._tree.get(self.map.trunk)

    def sites(self) -> frozenset[Site]:
        """Every site of the model; those inside attention only under the eager kernel."""
        eager = self.config._attn_implementation == "eager"
        inside = [Site(k, n) for k in INSIDE_ATTENTION for n in self.map.doors if eager]
        return frozenset({*self._places, *inside, Site("logits")})

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Final hidden state after the final norm; each visit runs once, in the order of the pass."""
        import nnsight

        inputs = self.inputs(tokens)
        self.looks_inside(visits)
        if not visits:
            return self.trunk(**inputs).last_hidden_state
        closed = {s: v for s, v in visits.items() if s.kind in INSIDE_ATTENTION and not self._shows_softmax(s.layer)}
        softmaxes: dict[int | None, Any] = {}
        raised: list[BaseException] = []
        steps = [
            self._step(site, _guarded(visits[site], raised), softmaxes, len(tokens.ids))
            for site in sorted(visits, key=self._order)
            if site not in closed
        ]
        base = self._base
        # nnsight reports an error of the block in a form of its own; the visit's own error is the one to raise.
        try:
            with opened(self.doors({s: _guarded(v, raised) for s, v in closed.items()})), base.trace(**inputs):
                for step in steps:
                    step()
                out = nnsight.save(base.output)
        except Exception as error:
            if raised:
                raise raised[0] from None
            if type(error).__module__.partition(".")[0] != "nnsight":
                raise
            named = ", ".join(map(str, sorted(visits, key=self._order)))
            raise ProbeError(
                f"nnsight cannot visit {named} of this {self.config.model_type} model in one pass ({error}); load it "
                "with backend='transformer_lens'"
            ) from error
        return out.last_hidden_state

    def doors(self, visits: Mapping[Site, Visit]) -> dict[nn.Module, tuple[Door, dict[str, Visit]]]:
        """Visits inside attention by the module, in nnsight's tree, whose softmax they see."""
        found: dict[nn.Module, tuple[Door, dict[str, Visit]]] = {}
        for site, visit in visits.items():
            door = self.map.doors[int(site.layer or 0)]
            module = self._tree.get(door.path)._module
            found.setdefault(module, (door, {}))[1][site.kind] = visit
        return found

    def _shows_softmax(self, layer: int | None) -> bool:
        """Whether nnsight's view of the source reaches the softmax: a function of the module's file calls it once."""
        door = self.map.doors[int(layer or 0)]
        kind = type(self.plain.get_submodule(door.path))
        if kind not in self._readable:
            self._readable[kind] = not door.has_sink and door.caller == _EAGER and _has_plain_softmax(kind)
        return self._readable[kind]

    def _order(self, site: Site) -> tuple[int, int]:
        """When a site is passed: nnsight hands values out in that order only."""
        if site.kind in INSIDE_ATTENTION:  # just before the attention module is done
            behind = (Site(kind, site.layer) for kind in ("z", "attn_out", "resid_mid", "resid_post"))
            at = next((self.map.order[s] for s in behind if s in self.map.order), 0)
            return (at - 1, 1 + INSIDE_ATTENTION.index(site.kind))
        return (self.map.order[site], 0)

    def _step(self, site: Site, visit: Visit, softmaxes: dict[int | None, Any], n_items: int) -> Callable[[], None]:
        if site.kind in INSIDE_ATTENTION:
            attention = self._tree.get(self.map.doors[int(site.layer or 0)].path)
            # Looking at the source instruments the forward: too late once that forward runs.
            _ = attention.source
            return lambda: _inside(attention, site, visit, softmaxes)
        place = self._places[site]
        envoy = self._tree.get(place.path)
        return lambda: _at(envoy, place, visit, n_items)


def _has_plain_softmax(attention: type) -> bool:
    function = getattr(sys.modules[attention.__module__], _EAGER, None)
    if function is None or "attention_interface(" not in inspect.getsource(attention):
        return False
    return inspect.getsource(function).count("nn.functional.softmax(") == 1


def _guarded(visit: Visit, raised: list[BaseException]) -> Visit:
    def guarded(x: Tensor) -> Tensor | None:
        try:
            return visit(x)
        except BaseException as error:
            raised.append(error)
            raise

    return guarded


def _at(envoy: Any, place: Place, visit: Visit, n_items: int) -> None:
    if place.side == "in":
        x = envoy.inputs[0][place.index] if place.index else envoy.input
        new = visit(place.view(x, n_items))
        if new is not None:
            envoy.input = place.write(new, x)
        return
    value = envoy.output
    x = value[place.index] if isinstance(value, tuple) else value
    new = visit(place.view(x, n_items))
    if new is None:
        return
    changed = place.write(new, x)
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
