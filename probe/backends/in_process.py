"""What both backends share: a plain Hugging Face model, its places, its head and its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from probe import families
from probe.backends.hooks import Port
from probe.backends.observed import accepted
from probe.backends.place import Map
from probe.backends.places import places
from probe.backends.protocol import Rows, Tokens, Visit
from probe.backends.roomy import roomy
from probe.backends.softmax import Door
from probe.checkpoints.loading import offloaded
from probe.checkpoints.quantised import held_otherwise
from probe.errors import InputError
from probe.sites import INSIDE_ATTENTION, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel


class HuggingFaceBackend:
    """A plain Hugging Face model and where its sites are; a backend adds how a pass is visited (`forward`)."""

    is_remote = False

    def __init__(self, hf_model: Any) -> None:
        self.plain: Any = hf_model
        self.config: Any = families.text_config(hf_model.config)
        self._parameters: dict[str, nn.Parameter] = dict(hf_model.named_parameters(remove_duplicate=False))
        with torch.no_grad(), eager(hf_model):  # the kernel in which the softmax can be seen
            self.map: Map = places(hf_model)
        self._places = self.map.places
        self.trunk: Any = hf_model.get_submodule(self.map.trunk)
        self._norm: nn.Module = hf_model.get_submodule(self.map.norm)
        self._unembed: nn.Module = hf_model.get_output_embeddings()
        self.owed: Callable[[], object] | None = None

    def port(self, site: Site) -> Port:
        """The plain model's module at which a site is visited."""
        place = self._places[site]
        return Port(self.plain.get_submodule(place.path), place)

    def looks_inside(self, visits: Mapping[Site, Visit]) -> bool:
        """Whether attention is looked into; what is `owed` before it first is (its proofs) is done here."""
        inside = any(site.kind in INSIDE_ATTENTION for site in visits)
        if inside and self.owed is not None:
            owed, self.owed = self.owed, None
            try:
                owed()
            except BaseException:
                self.owed = owed  # what failed once fails at every look
                raise
        return inside

    def module_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name (no post-norm in between)."""
        return self.map.own_outputs()

    def why_absent(self, site: Site) -> str | None:
        """Why the model has no such site, where more can be said than that it has none."""
        if site.kind in INSIDE_ATTENTION and site.layer in self.map.attention:
            return f"block {site.layer}: its attention calls no softmax of its own over keys"
        return self.map.absent.get(site)

    def inputs(self, tokens: Tokens) -> dict[str, Any]:
        """A pass's arguments, those the family takes."""
        given = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.mask.long(),
            "position_ids": tokens.position_ids,
            "past_key_values": tokens.cache,
            "use_cache": tokens.cache is not None,
        }
        return accepted(self.trunk, given)

    def eager(self) -> Any:
        """Within the block attention runs in its eager kernel."""
        return eager(self.plain)

    def doors(self, visits: Mapping[Site, Visit]) -> dict[nn.Module, tuple[Door, dict[str, Visit]]]:
        """Visits inside attention by the module whose softmax they see."""
        found: dict[nn.Module, tuple[Door, dict[str, Visit]]] = {}
        for site, visit in visits.items():
            door = self.map.doors[int(site.layer or 0)]
            found.setdefault(self.plain.get_submodule(door.path), (door, {}))[1][site.kind] = visit
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.plain.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs are put."""
        return self.plain.get_input_embeddings().weight.device

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Each backend's own."""
        raise NotImplementedError

    def run(self, tokens: Tokens, visits: Mapping[Site, Visit], rows: Rows) -> Tensor | None:
        """Logits [item pos vocab], [item vocab] at `rows`, or None (the unembedding is not computed)."""
        hidden = self.forward(tokens, visits)
        if rows is None:
            return None
        return self.head(hidden if isinstance(rows, str) else hidden[torch.arange(len(hidden)), rows.to(hidden.device)])

    def new_cache(self) -> Any:
        """An empty key-value cache that grows in place (sliding layers keep what they need)."""
        if "past_key_values" not in accepted(self.trunk, {"past_key_values": None}):
            raise InputError(
                f"generation: a {self.config.model_type} model carries its state from token to token in a form of its "
                "own (no past_key_values), which is not known here; readings of given texts work"
            )
        cache = roomy(self.config)
        try:
            cache.get_seq_length()
        except ValueError as error:
            raise InputError(
                f"generation: no block of this {self.config.model_type} model attends, and transformers counts the "
                f"tokens of a cache by its attention ({error}); readings of given texts work"
            ) from error
        return cache

    def head(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of normed hidden states, the family's factor and soft cap included."""
        return logits_of(unembedded(self._unembed, hidden), self.config)

    def final_norm(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final norm, its statistics recomputed from `resid`."""
        return self._norm(resid)

    def kept_head(self) -> Callable[[Tensor], Tensor]:
        """Residual states to logits by copies of the final norm and the unembedding."""
        norm, unembed = copy.deepcopy((self._norm, self._unembed))
        config, dtype = self.config, self.dtype

        def kept(resid: Tensor) -> Tensor:
            with torch.no_grad():
                return logits_of(unembedded(unembed, norm(resid.to(dtype))), config)

        return kept

    def unembed_weights(self) -> tuple[Tensor, Tensor | None]:
        """W_U [d_model, vocab] as a view (a copy where the family scales its logits), and the bias if there is one."""
        bias: Tensor | None = getattr(self._unembed, "bias", None)
        weight: Tensor = self._unembed.weight  # pyright: ignore[reportAssignmentType]
        scale = families.logit_scale(self.config)
        if scale != 1.0:
            return weight.detach().T * scale, None if bias is None else bias.detach() * scale
        return weight.detach().T, None if bias is None else bias.detach()

    def weights(self) -> dict[str, Tensor]:
        """The parameters under their Hugging Face names (views).

        Raises:
            InputError: some are offloaded (there is nothing to view, and what is written there would be lost), or
                packed by quantisation, or lie beside those of an adapter.
        """
        away = offloaded(self.plain)
        if away:
            raise InputError(
                f"{len(away)} parameters are offloaded (e.g. {away[0]}): weights cannot be read or changed, nor "
                "checkpoints swapped; use a device map without cpu and disk beside an accelerator, or `--hold one`"
            )
        if why := held_otherwise(self.plain):
            raise InputError(
                f"the weights of this model are {why}; its logits and states may be read, its weights not. Give the "
                "checkpoint in bfloat16 or float32, with adapters merged"
            )
        return dict(self._parameters)

    def parameters(self) -> Mapping[str, Tensor]:
        """What is held in memory, packed or not: for telling models apart, not for reading weights."""
        return dict(self._parameters)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights of the same shapes in place (no copy: the parameters take over the memory)."""
        for name, parameter in self._parameters.items():
            parameter.data = weights[name].data


def unembedded(unembed: nn.Module, hidden: Tensor) -> Tensor:
    """The unembedding's output; some families (Mamba) keep states in float32 beside weights of fewer bits."""
    weight: Tensor | None = getattr(unembed, "weight", None)
    if weight is not None and weight.is_floating_point() and weight.element_size() > 1:  # else it is packed
        hidden = hidden.to(weight.dtype)
    return unembed(hidden)


def logits_of(raw: Tensor, config: object) -> Tensor:
    """What the family makes of its unembedding's output: a factor, a soft cap, or nothing."""
    scale, cap = families.logit_scale(config), families.logit_cap(config)
    if scale != 1.0:
        raw = raw * scale
    return raw if cap is None else torch.tanh(raw / cap) * cap


@contextmanager
def eager(hf_model: PreTrainedModel) -> Generator[None]:
    """Within the block attention runs in its eager kernel, whatever the model was loaded with."""
    configs = {id(c): c for c in (getattr(m, "config", None) for m in hf_model.modules()) if c is not None}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
