"""Weights by the names of the field: what a part is made of, and other values in its place for a while."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.model import Model, ModelShape

PARTS = ("embed", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down", "norms", "unembed")
"""Kinds of weights, biases included. `embed` holds learned positions too; `norms` those of a block (q/k norms
included) and, as a place without a layer, the final norm."""

GROUPS: dict[str, tuple[str, ...]] = {
    "all": PARTS,
    "mlp": ("mlp.gate", "mlp.up", "mlp.down"),
    "attn": ("attn.q", "attn.k", "attn.v", "attn.o"),
}
"""Short names for several parts; of these only what the family has is taken."""

_MODULES = {
    "mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down",
    "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down",
    "mlp.dense_h_to_4h": "mlp.up", "mlp.dense_4h_to_h": "mlp.down",
    "self_attn.q_proj": "attn.q", "self_attn.k_proj": "attn.k", "self_attn.v_proj": "attn.v",
    "self_attn.o_proj": "attn.o", "attn.c_proj": "attn.o", "attention.dense": "attn.o",
    "embed_tokens": "embed", "wte": "embed", "wpe": "embed", "embed_in": "embed",
    "lm_head": "unembed", "embed_out": "unembed",
}  # fmt: skip
_NORM = re.compile(r"(?:^|\.|_)(?:\w*norm|ln_\d|ln_f)$")
_BLOCK = re.compile(r"^(?:model\.layers|transformer\.h|gpt_neox\.layers)\.(\d+)\.(.+)$")

Change = Callable[["Slot", "Tensor"], "Tensor"]
"""Gets a slot and its present values; returns values of the same shape."""


class Place(NamedTuple):
    """A part of one block, or of the model as a whole (layer None)."""

    part: str
    layer: int | None

    def __str__(self) -> str:
        return self.part if self.layer is None else f"{self.part}.{self.layer}"


@dataclass(frozen=True)
class Slot:
    """One parameter, or the slice of a fused one (`index` along `dim`) that belongs to a place."""

    name: str
    dim: int = 0
    index: tuple[int, ...] | None = None
    kind: str = ""

    def read(self, values: Tensor) -> Tensor:
        """This slot's part of the parameter's values."""
        return values if self.index is None else values.index_select(self.dim, self._at(values))

    def write(self, values: Tensor, new: Tensor) -> Tensor:
        """The parameter's values with this slot's part replaced."""
        return new if self.index is None else values.index_copy(self.dim, self._at(values), new)

    def _at(self, values: Tensor) -> Tensor:
        return torch.tensor(self.index, device=values.device)


def places(model: Model) -> dict[Place, tuple[Slot, ...]]:
    """Every parameter of the model under the place it belongs to; together they are all of its weights.

    Raises:
        InputError: a parameter whose part is not known (its name; the family is not supported here).
    """
    found: dict[Place, list[Slot]] = {}
    for name, values in model.weights().items():
        for place, slot in _placed(name, values, model.shape):
            found.setdefault(place, []).append(slot)
    order = {part: number for number, part in enumerate(PARTS)}
    ordered = sorted(found, key=lambda p: (-1 if p.layer is None else p.layer, order[p.part]))
    return {place: tuple(found[place]) for place in ordered}


def _placed(name: str, values: Tensor, shape: ModelShape) -> list[tuple[Place, Slot]]:
    bare, _, kind = name.rpartition(".")
    block = _BLOCK.match(bare)
    layer, module = (int(block.group(1)), block.group(2)) if block else (None, bare.rpartition(".")[2])
    if module == "attn.c_attn":
        size = shape.n_heads * shape.d_head
        split = [list(range(i * size, (i + 1) * size)) for i in range(3)]
        return _fused(name, layer, values.ndim - 1, split, kind)
    if module == "attention.query_key_value":  # [head, (q k v), d_head] along the rows
        d = shape.d_head
        split = [[h * 3 * d + i * d + j for h in range(shape.n_heads) for j in range(d)] for i in range(3)]
        return _fused(name, layer, 0, split, kind)
    part = _MODULES.get(module) or ("norms" if _NORM.search(module) else None)
    if part is None:
        raise InputError(f"parameter {name!r} of family {shape.family!r} belongs to no known part ({', '.join(PARTS)})")
    return [(Place(part, layer), Slot(name, kind=kind))]


def _fused(name: str, layer: int | None, dim: int, split: list[list[int]], kind: str) -> list[tuple[Place, Slot]]:
    named = zip(("attn.q", "attn.k", "attn.v"), split, strict=True)
    return [(Place(part, layer), Slot(name, dim, tuple(index), kind)) for part, index in named]


def select(model: Model, parts: Sequence[str], layers: Iterable[int] | None = None) -> list[Place]:
    """The places of the named parts (`PARTS`, or groups `all`, `mlp`, `attn`) in the given layers.

    Without `layers`: everywhere, parts without a layer (embed, unembed, final norm) included.

    Raises:
        InputError: an unknown part, one this family lacks, a layer out of range, `embed` or `unembed` alone
            where they are tied.
    """
    have = places(model)
    present = {place.part for place in have}
    unknown = [p for p in parts if p not in GROUPS and p not in present]
    if unknown or not parts:
        raise InputError(
            f"parts={list(parts)}: {unknown or 'none'} not in this {model.shape.family} model; it has "
            f"{', '.join(p for p in PARTS if p in present)} (groups: {', '.join(GROUPS)})"
        )
    wanted = {part for name in parts for part in GROUPS.get(name, (name,))}
    if layers is not None:
        layers = check_layers(model, layers)
    chosen = [p for p in have if p.part in wanted and (layers is None or p.layer in layers)]
    _refuse_half_a_tie(model, chosen)
    return chosen


def check_layers(model: Model, layers: Iterable[int]) -> list[int]:
    """The layers, each of which must exist."""
    found = list(layers)
    bad = [layer for layer in found if not 0 <= layer < model.shape.n_layers]
    if bad:
        count = model.shape.n_layers
        raise InputError(f"layers {bad} do not exist: this model has {count} (0 to {count - 1})")
    return found


def is_tied(model: Model) -> bool:
    """True if embedding and unembedding are one matrix."""
    owners = [n for n, v in model.weights().items() if v.data_ptr() == _unembedding(model)]
    return len(owners) > 1


def _unembedding(model: Model) -> int:
    return model.unembed_weights()[0].data_ptr()


def _refuse_half_a_tie(model: Model, chosen: Sequence[Place]) -> None:
    named = {p.part for p in chosen} & {"embed", "unembed"}
    if len(named) == 1 and is_tied(model):
        raise InputError(
            f"{named.pop()!r} alone: embedding and unembedding of this {model.shape.family} model are one (tied) "
            "matrix, so changing one changes the other; name both parts, or neither"
        )


def revised(model: Model, chosen: Iterable[Place], change: Change) -> dict[str, Tensor]:
    """New values, by parameter name, of the chosen places; the model itself stays as it is.

    Parameters that `change` returns unchanged are still listed; tied names get one and the same tensor.
    """
    own, have = model.weights(), places(model)
    new: dict[str, Tensor] = {}
    done: dict[int, Tensor] = {}
    for place in chosen:
        for slot in have[place]:
            pointer = own[slot.name].data_ptr()
            if slot.index is None and pointer in done:
                new[slot.name] = done[pointer]
                continue
            before = new.get(slot.name, own[slot.name].detach())
            new[slot.name] = slot.write(before, change(slot, slot.read(own[slot.name].detach())))
            done[pointer] = new[slot.name]
    return new


def taken_from(other: Model) -> Change:
    """A change to the other model's values (shared memory, not copied, where a parameter is taken whole)."""
    values = other.weights()
    return lambda slot, own: slot.read(values[slot.name].detach()).to(own)


def mixed_with(other: Model, share: float) -> Change:
    """A change to (1 - share) x other + share x own: bitwise the other at 0 and the own at 1."""
    values = other.weights()
    return lambda slot, own: (1 - share) * slot.read(values[slot.name].detach()).to(own) + share * own


def gaussian(seed: int, draw: int = 0) -> Change:
    """A change to Gaussian noise with the norm (Frobenius) of each matrix or vector, the same for the same seed.

    Every slot has a random stream of its own, so a draw does not depend on what else is chosen.
    """

    def change(slot: Slot, own: Tensor) -> Tensor:
        text = f"{seed}/{draw}/{slot.name}/{slot.index and slot.index[0]}"
        stream = torch.Generator().manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:15], 16))
        noise = torch.randn(own.shape, generator=stream, dtype=torch.float32).to(own.device)
        size = (own.float().square().sum() / noise.square().sum()).sqrt()
        return (noise * size).to(own.dtype)

    return change


def check_same_parameters(base: Model, tuned: Model) -> None:
    """Raise unless both models have the same parameters of the same shapes."""
    one, two = base.weights(), tuned.weights()
    other = sorted(n for n in one.keys() | two.keys() if n not in one or n not in two or one[n].shape != two[n].shape)
    if other:
        raise InputError(
            f"the two checkpoints differ in architecture ({base.shape} and {tuned.shape}), e.g. in {other[:3]}; "
            "weights can be exchanged only between checkpoints of one model"
        )


@contextmanager
def replaced(model: Model, values: Mapping[str, Tensor]) -> Generator[Model, None, None]:
    """Within the block the model has these values; afterwards its own, bit for bit, whatever happened in it.

    Parameters are re-pointed, not copied, so entering and leaving costs nothing and an exception or Ctrl-C
    leaves the model as it was. The tensors given are used as they are: do not write into them.

    Raises:
        InputError: a name or shape that is not the model's, or two values for one tied matrix.
    """
    own = model.weights()
    before = {name: parameter.data for name, parameter in own.items()}
    _check_values(own, values)
    try:
        model.backend.load_weights({**before, **values})
        yield model
    finally:
        model.backend.load_weights(before)


def _check_values(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        if name not in own:
            raise InputError(f"no parameter {name!r} in this model; its names are those of its checkpoint")
        if value.shape != own[name].shape or value.dtype != own[name].dtype:
            raise InputError(
                f"{name}: given {value.dtype}{tuple(value.shape)}, expected {own[name].dtype}{tuple(own[name].shape)}"
            )
    given: dict[int, set[int]] = {}
    for name, parameter in own.items():
        new = values.get(name)
        given.setdefault(parameter.data_ptr(), set()).add(-1 if new is None else new.data_ptr())
    for pointer in (p for p, tensors in given.items() if len(tensors) > 1):
        names = [n for n, v in own.items() if v.data_ptr() == pointer]
        raise InputError(f"{' and '.join(names)} are one (tied) matrix; give both the same tensor, or neither")


def down_rows(model: Model, layer: int) -> Float[Tensor, "neuron d_model"]:
    """w_i of every neuron of a block: what one unit of its key writes (a view of W_down, before any post-norm)."""
    check_layers(model, [layer])
    (slot,) = (s for s in places(model)[Place("mlp.down", layer)] if s.kind == "weight")
    weight = model.weights()[slot.name].detach()
    is_conv1d = slot.name.startswith("transformer.h.")  # GPT-2 stores [in, out]
    return weight if is_conv1d else weight.T
