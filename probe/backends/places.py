"""Places: where each site sits in a plain Hugging Face module tree.

Which module is which is read off names (`probe.families`); what a block does with them is observed in one short
pass: which outputs add up to what the block adds to the residual stream, whether a norm follows a part, which module
reads the stream between attention and MLP, how heads lie. What a block lacks is left out, with the reason why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from probe import families
from probe.backends.blocks import Block, equal
from probe.backends.observed import Call, Observed, kept_in, observe
from probe.backends.parts import FINDERS
from probe.backends.place import Map, Place
from probe.errors import InputError
from probe.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def places(hf_model: PreTrainedModel) -> Map:
    """The map of a model.

    Raises:
        InputError: a model without a list of blocks, a final norm or an embedding of its own.
    """
    seen = observe(hf_model)
    norm = _final_norm(seen)
    ends = {Site("embed"): _embedding(hf_model, seen)}
    if norm.times == 1:
        ends[Site("ln_final")] = Place(norm.path, "out")
    found = Map(ends, {}, {}, {}, {}, seen.blocks, seen.trunk, norm.path)
    number = families.n_layers(families.text_config(hf_model.config)) or 0
    for layer in range(number):
        block = Block(hf_model, seen, layer)
        block.stream()
        for find in FINDERS:
            find(block)
        block.put(found)
    for site, place in found.places.items():
        call = seen.calls[place.path]
        found.order[site] = call.entered if place.side == "in" else call.left
        if call.is_rewritten(place.side):
            found.places[site] = replace(place, is_rewritten=True)
    return found


def _embedding(hf_model: PreTrainedModel, seen: Observed) -> Place:
    """The embedding, times what the family multiplies it by on its way into the stream."""
    module = hf_model.get_input_embeddings()
    path = next(path for path, m in hf_model.named_modules() if m is module)
    factor = families.embedding_multiplier(families.text_config(hf_model.config))
    first, made = seen.calls.get(f"{seen.blocks}.0"), seen.calls.get(path)
    if first is None or made is None or not seen.is_real or first.values["in"].shape != made.values["out"].shape:
        return Place(path, "out", factor=factor)
    scaled = equal(made.values["out"] * factor, first.values["in"])
    return Place(path, "out", factor=factor if scaled else 1.0)


def _final_norm(seen: Observed) -> Call:
    outside = [c for p, c in seen.calls.items() if not p.startswith(seen.blocks) and c.first is not None]
    made = [c for c in outside if kept_in(c.last) == kept_in(seen.last) and kept_in(c.first) != kept_in(c.last)]
    made = [c for c in made if c.first is not None and c.first.ndim == 3]
    if not made:
        raise InputError("the final hidden state of this model is not what a norm gives: it has no lens to read with")
    return max(made, key=lambda c: c.entered)
