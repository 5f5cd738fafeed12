"""Weights by the names of the field: what a part is made of, and other values in its place for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from probe import families
from probe.errors import InputError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.backends.place import Map
    from probe.handle import Handle
    from probe.model import Model

PARTS = (
    "embed", "attn.q", "attn.k", "attn.v", "attn.kv", "attn.o", "attn.other", "mixer", "mlp.router", "mlp.experts",
    "mlp.shared", "mlp.gate", "mlp.up", "mlp.down", "norms", "other", "unembed",
)  # fmt: skip
"""Kinds of weights, biases included. `embed` holds learned positions too; `norms` those of a block (q/k norms
included) and, as a place without a layer, the final norm. `attn.kv`: compressed keys and values (low-rank attention);
`attn.other`: gates, sinks and the like within attention; `mixer`: linear attention, state spaces, convolutions;
`mlp.experts`: all routed experts of a block, `mlp.shared` the one every token passes, `mlp.router` what chooses."""

GROUPS: dict[str, tuple[str, ...]] = {
    "all": PARTS,
    "mlp": ("mlp.gate", "mlp.up", "mlp.down", "mlp.router", "mlp.experts", "mlp.shared"),
    "attn": ("attn.q", "attn.k", "attn.v", "attn.kv", "attn.o", "attn.other"),
}
"""Short names for several parts; of these only what the family has is taken."""

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


def places(model: Handle) -> dict[Place, tuple[Slot, ...]]:
    """Every parameter of the model under the place it belongs to; together they are all of its weights."""
    found: dict[Place, list[Slot]] = {}
    own = model.weights()
    beside = model.backend.plain.config is not model.backend.config  # it holds more than its text decoder
    for name, values in own.items():
        for place, slot in _placed(name, values, model.backend.config, model.backend.map, beside):
            found.setdefault(place, []).append(slot)
    order = {part: number for number, part in enumerate(PARTS)}
    ordered = sorted(found, key=lambda p: (-1 if p.layer is None else p.layer, order[p.part]))
    return {place: tuple(found[place]) for place in ordered}


def _placed(name: str, values: Tensor, config: object, where: Map, beside: bool) -> list[tuple[Place, Slot]]:
    kind, layer, module = name.rpartition(".")[2], None, name
    if name.startswith(f"{where.blocks}."):
        number, _, module = name.removeprefix(f"{where.blocks}.").partition(".")
        layer = int(number)
    elif beside and not name.startswith(f"{where.trunk}.") and name.split(".")[-2] not in families.UNEMBEDDINGS:
        return [(Place("other", None), Slot(name, kind=kind))]  # an image tower and the like
    # A parameter that is no matrix of a layer of its own (experts in one tensor) is told by its full name.
    module = module.removesuffix(f".{kind}") if kind in ("weight", "bias") else module
    last = module.rpartition(".")[2]
    if last in families.FUSED:
        is_conv = families.is_conv1d(config, name)
        split = families.split_heads(config, last, int(values.shape[-1] if is_conv else values.shape[0]))
        if split is not None:
            return _fused(name, layer, values.ndim - 1 if is_conv else 0, {f"attn.{k}": v for k, v in split.items()})
    if last in families.GATE_UP and families.part_of(module, in_block=layer is not None) == "other":
        half = int(values.shape[0]) // 2
        rows = {"mlp.gate": list(range(half)), "mlp.up": list(range(half, 2 * half))}
        return _fused(name, layer, 0, rows)
    return [(Place(families.part_of(module, in_block=layer is not None), layer), Slot(name, kind=kind))]


def _fused(name: str, layer: int | None, dim: int, split: Mapping[str, list[int]]) -> list[tuple[Place, Slot]]:
    kind = name.rpartition(".")[2]
    return [(Place(part, layer), Slot(name, dim, tuple(index), kind)) for part, index in split.items()]


def select(model: Model, parts: Sequence[str], layers: Iterable[int] | None = None) -> list[Place]:
    """The places of the named parts (`PARTS`, or groups `all`, `mlp`, `attn`) in the given layers.

    Without `layers`: everywhere, parts without a layer (embed, unembed, final norm) included.

    Args:
        model: the checkpoint.
        parts: parts or groups of them, by name.
        layers: blocks from 0, None for everywhere.

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


def check_layers(model: Handle, layers: Iterable[int]) -> list[int]:
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
    own = model.weights()
    heads = (n for n in own if n.split(".")[-2:-1] and n.split(".")[-2] in families.UNEMBEDDINGS)
    name = next((n for n in heads if n.endswith("weight")), None)
    return own[name].data_ptr() if name is not None else 0


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

    Args:
        model: the checkpoint.
        chosen: the places.
        change: (slot, value) -> new value of the same shape.
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
    """w_i of every neuron of a block: what one unit of its key writes (a view of W_down, before any post-norm).

    Raises:
        InputError: a block without one row of neurons (routed experts).
    """
    name = down_name(model, layer)
    weight = model.weights()[name].detach()
    # transformers' Conv1D stores [in, out]
    return weight if families.is_conv1d(model.backend.config, name) else weight.T


def down_name(model: Handle, layer: int) -> str:
    """Name of the down projection's weight, whose rows are a block's neurons.

    Raises:
        InputError: a block without one row of neurons (routed experts).
    """
    check_layers(model, [layer])
    found = [s for s in places(model).get(Place("mlp.down", layer), ()) if s.kind == "weight"]
    if not found:
        raise InputError(
            f"block {layer} of this {model.shape.family} model has no one down projection whose rows are its neurons"
            + (f": {why}" if (why := model.backend.why_absent(Site("mlp_post", layer))) else "")
        )
    return found[0].name
