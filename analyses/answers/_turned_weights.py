"""Weights of one checkpoint said in the basis of another's residual stream, tensor by tensor.

Rows h of the stream of `theirs` lie as h = h_own R. A matrix W that reads it behind a norm with gains g becomes
W diag(g) R' diag(1 / g_own), one that writes it R W, rows of the embedding E R'; gains of the norms are then `own`'s,
and what does not touch the stream stays. With theirs = own and any R the function of the model is the same: that holds
for blocks that are pure RMSNorm readers and plain writers, and is proven on every model before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

import probe
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe import Model

    Rotation = Float[np.ndarray, "d_model d_model"]
    Weights = Callable[[str], Tensor]

READS = ("attn.q", "attn.k", "attn.v", "mlp.gate", "mlp.up", "unembed")
WRITES = ("embed", "attn.o", "mlp.down")


@dataclass(frozen=True)
class Side:
    """How a parameter touches the residual stream; `norm`: the gains behind which it reads."""

    kind: Literal["reads", "writes", "gain", "apart"]
    norm: str = ""


def sides(model: Model) -> dict[str, Side]:
    """The side of every parameter.

    Raises:
        InputError: a part that neither plainly reads nor plainly writes the stream, or other norms than one before
            attention, one before the MLP and a final one, without biases.
    """
    gains = _gains(model)
    found: dict[str, Side] = {}
    for place, slots in probe.weights.places(model).items():
        behind = gains.get((place.layer, place.part.partition(".")[0]), "")
        for slot in slots:
            found[slot.name] = _side(model, place.part, slot.name, slot.kind, behind, list(gains.values()))
    return found


def _side(model: Model, part: str, name: str, kind: str, norm: str, gains: list[str]) -> Side:
    if name in gains:
        return Side("gain")
    if part == "norms" and model.weights()[name].numel() != model.shape.d_model:
        return Side("apart")  # of queries and keys, within a head
    if part in READS:
        return Side("reads" if kind == "weight" else "apart", norm)
    if part in WRITES:
        return Side("writes")
    raise InputError(
        f"{name} ({part}): whether a turn of the residual stream passes it is not known, so a rotated merge of this "
        f"{model.shape.family} model is not defined here; `merge` interpolates it without rotation"
    )


def _gains(model: Model) -> dict[tuple[int | None, str], str]:
    """Names of the gains before attention and MLP of each block, and before the head."""
    wide = model.shape.d_model
    found: dict[tuple[int | None, str], str] = {}
    for place, slots in probe.weights.places(model).items():
        if place.part != "norms":
            continue
        names = [s.name for s in slots if model.weights()[s.name].numel() == wide and "q_" not in s.name]
        parts = ("unembed",) if place.layer is None else ("attn", "mlp")
        if len(names) != len(parts) or any(n.endswith("bias") for n in names):
            raise InputError(
                f"{place}: {len(names)} norms as wide as the stream, expected {len(parts)} without bias: a turn of the "
                f"stream does not pass the norms of this {model.shape.family} model; `merge` needs none"
            )
        found |= {(place.layer, part): name for part, name in zip(parts, names, strict=True)}
    return found


def turned(name: str, theirs: Weights, own: Weights, side: Side, rotation: Tensor) -> Tensor:
    """A weight of `theirs` in the basis of `own`'s stream, in float64."""
    if side.kind == "gain":
        return own(name).double()
    value = theirs(name).double()
    if side.kind == "reads":
        behind = value * theirs(side.norm).double()
        return behind @ rotation.T / _safe(own(side.norm).double(), side.norm)
    return _written(name, value, rotation) if side.kind == "writes" else value


def update_turned(name: str, theirs: Weights, own: Weights, side: Side, rotation: Tensor) -> Tensor:
    """`own` plus the turned difference to `theirs`: the published form, which takes both to lie in one basis."""
    mine = own(name).double()
    update = theirs(name).double() - mine
    if side.kind == "reads":
        return mine + update @ rotation.T
    return mine + (_written(name, update, rotation) if side.kind == "writes" else update)


def _written(name: str, value: Tensor, rotation: Tensor) -> Tensor:
    """What writes the stream, turned: rows of an embedding, else outputs of a matrix or a bias."""
    return value @ rotation.T if _is_embedding(value, rotation, name) else rotation @ value


def _is_embedding(value: Tensor, rotation: Tensor, name: str) -> bool:
    return value.ndim == 2 and "embed" in name and value.shape[1] == rotation.shape[0]


def _safe(gains: Tensor, name: str) -> Tensor:
    if bool((gains.abs() < 1e-6).any()):
        raise InputError(f"{name}: a gain of 0 hides a coordinate of the stream, so no weight can be said in its basis")
    return gains


def rotation_between(
    own: Float[np.ndarray, "token state d_model"], theirs: Float[np.ndarray, "token state d_model"], k: int
) -> tuple[Rotation, np.ndarray, np.ndarray, float]:
    """The best rotation of the stream from `own` to `theirs`, one for all states, within k principal components.

    Each state is centred and divided by its root mean square, which grows with depth.

    Returns:
        The rotation (1 outside the components), it within the components, their basis, and the share of `theirs` that
        rotated `own` explains there.
    """
    a, b = (_levelled(x) for x in (own, theirs))
    d = a.shape[1]
    basis = np.linalg.eigh(a.T @ a + b.T @ b)[1][:, ::-1][:, : min(k, d)]
    if np.array_equal(a, b):
        return np.eye(d), np.eye(basis.shape[1]), basis, 1.0
    x, y = a @ basis, b @ basis
    inner = orthogonal_procrustes(x, y)[0]
    return widened(inner, basis), inner, basis, 1 - float(((x @ inner - y) ** 2).sum() / (y**2).sum())


def _levelled(x: np.ndarray) -> np.ndarray:
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    scale = np.sqrt((centred**2).mean((0, 2), keepdims=True))
    return (centred / np.where(scale > 0, scale, 1)).reshape(-1, x.shape[2])


def widened(inner: np.ndarray, basis: np.ndarray) -> Rotation:
    """A rotation within a basis as one of the whole space, which it leaves alone elsewhere."""
    return np.eye(len(basis)) + basis @ (inner - np.eye(basis.shape[1])) @ basis.T


def random_turn(inner: np.ndarray, seed: int) -> np.ndarray:
    """A rotation by the same angles about random planes: what the angles alone do."""
    if len(inner) < 2:
        return inner
    drawn = ortho_group.rvs(len(inner), random_state=seed)
    return drawn @ inner @ drawn.T


def angle_of(rotation: np.ndarray) -> float:
    """Angles of the planes of a rotation, in quadrature, in radians."""
    return float(np.sqrt((np.angle(np.linalg.eigvals(rotation)) ** 2).sum() / 2))


def angle_of_chance(k: int) -> float:
    """The angle of two unrelated bases of k dimensions: eigenvalues of a random rotation lie evenly on the circle."""
    return float(np.sqrt(k * np.pi**2 / 6))


def untied(plain: Any) -> Any:
    """The model with a head of its own, where it was tied to the embedding: turned, they are no longer one matrix."""
    head, embedding = plain.get_output_embeddings(), plain.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        plain.config.tie_word_embeddings = False
    return plain
