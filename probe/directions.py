"""Directions: what separates two sets of texts at one site, as a vector that is added, removed, kept and moved."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from probe.errors import InputError
from probe.interventions import Edit, add, project_out
from probe.lazily import sklearn
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.interventions import Positions

Method = Literal["mean difference", "pca", "logistic"]


@dataclass(frozen=True, repr=False, eq=False)
class Direction:
    """A vector [d] at a site, and how it was found.

    One unit of strength adds the vector as it is. Fitted ones are as long as the mean difference of the texts along
    them, so that strength 1 moves a state as far as the texts differ.

    Attributes:
        vector: float32 on the CPU.
        site: where it was read and is added.
        record: model, method, texts, separation and what was done since (`save` keeps it).
    """

    vector: Float[Tensor, " d"]
    site: Site
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "vector", self.vector.detach().float().cpu())
        if self.vector.ndim != 1 or not bool(self.vector.isfinite().all()) or not self.norm > 0:
            raise InputError(
                f"direction at {self.site}: given shape {tuple(self.vector.shape)}, norm {self.norm}; expected a "
                "finite vector [d] that is not 0"
            )

    @property
    def norm(self) -> float:
        """Euclidean norm, in units of the activations at its site."""
        return float(self.vector.norm())

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return str(self.record.get("name", "direction"))

    none = 0.0
    """Strength at which nothing is changed."""

    def edits(self, strength: float, positions: Positions = "all") -> list[Edit]:
        """The edit that adds `strength` times the vector."""
        return [add(self.site, self.vector * strength, positions)]

    def removed(self, positions: Positions = "all") -> Edit:
        """The edit that takes out of every state its part along the vector."""
        return project_out(self.site, self.vector, positions)

    def placebos(self, seed: int = 0) -> dict[str, Direction]:
        """Vectors of the same norm and site that were fitted to nothing: one at random, one at random orthogonal."""
        return {"random": self.random(seed), "orthogonal": self.random(seed, orthogonal=True)}

    def random(self, seed: int = 0, *, orthogonal: bool = False) -> Direction:
        """A random vector of the same norm (uniform on the sphere), orthogonal to this one if asked.

        Raises:
            InputError: no orthogonal one exists in one dimension.
        """
        kind = "orthogonal" if orthogonal else "random"
        digest = hashlib.sha256(f"{seed}|{kind}|{self.site}".encode()).digest()
        drawn = torch.randn(
            len(self.vector), generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        )
        if orthogonal:
            drawn = drawn - (drawn @ self.vector) / self.norm**2 * self.vector
        return self._made(drawn / drawn.norm() * self.norm, name=kind, of=dict(self.record), seed=seed)

    def __mul__(self, factor: float) -> Direction:
        return self._made(self.vector * factor, times=factor)

    __rmul__ = __mul__

    def __neg__(self) -> Direction:
        return self * -1.0

    def __add__(self, other: Direction) -> Direction:
        return self._made(self.vector + self._same_site(other).vector, plus=dict(other.record))

    def __sub__(self, other: Direction) -> Direction:
        return self + -other

    def without(self, other: Direction) -> Direction:
        """What is left of it when its part along `other` is taken out."""
        unit = self._same_site(other).vector / other.norm
        return self._made(self.vector - (self.vector @ unit) * unit, without=dict(other.record))

    def cosine(self, other: Direction) -> float:
        """Cosine of the angle to another direction, in [-1, 1]; near 0 says little in few dimensions."""
        return float(torch.nn.functional.cosine_similarity(self.vector, self._same_site(other).vector, dim=0))

    def _same_site(self, other: Direction) -> Direction:
        if (other.site, other.vector.shape) != (self.site, self.vector.shape):
            raise InputError(
                f"directions at {self.site} [{len(self.vector)}] and {other.site} [{len(other.vector)}]; expected the "
                "same site of one architecture"
            )
        return other

    def _made(self, vector: Tensor, **how: object) -> Direction:
        if not float(vector.norm()) > 1e-6 * self.norm:
            raise InputError(f"what is left of the direction at {self.site} is 0: it lay wholly along the other")
        return replace(self, vector=vector, record={**self.record, **how, "norm": float(vector.norm())})

    def save(self, path: str | Path) -> Path:
        """Write vector and record as one safetensors file."""
        from safetensors.torch import save_file

        kept = {"site": str(self.site), "record": json.dumps(dict(self.record))}
        save_file({"direction": self.vector.contiguous()}, Path(path), metadata=kept)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """A saved direction.

        Raises:
            InputError: no such file, or one that holds no direction.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"no direction at {path}; expected a .safetensors file made by Direction.save")
        try:
            with safe_open(Path(path), "pt") as file:
                kept = file.metadata() or {}
                vector = file.get_tensor("direction")
            return cls(vector, Site.parse(kept["site"]), json.loads(kept["record"]))
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"{path} holds no direction ({error}); expected a file made by Direction.save") from error

    def __repr__(self) -> str:
        told = self.record.get("ordered")
        fitted = f", {self.record.get('method')} of {self.record.get('n')} pairs" if "method" in self.record else ""
        share = f", {told:.0%} of held-out pairs in order" if isinstance(told, float) and not math.isnan(told) else ""
        return f"Direction({self.name} at {self.site}, norm {self.norm:.3g}{fitted}{share})"


Fit = Callable[["Tensor", "Tensor"], "Tensor"]


def fitted(more: Float[Tensor, "pair d"], less: Float[Tensor, "pair d"], method: Method) -> Float[Tensor, " d"]:
    """The vector that leads from `less` to `more`; as long as the mean difference along it.

    `mean difference`: mean of more - less (arXiv 2312.06681). `pca`: first right singular vector of the differences,
    not centred (arXiv 2310.01405). `logistic`: weights of a logistic regression (C = 1) of the side on the states.

    Args:
        more: states of the side that is led to.
        less: states of the other side, pair by pair.
        method: how it is fitted.

    Raises:
        InputError: an unknown method, or sides that do not differ.
    """
    if method not in _FITS:
        raise InputError(f"method={method!r}; expected one of {', '.join(map(repr, get_args(Method)))}")
    difference = (more - less).mean(0)
    if not bool((more != less).any()):
        raise InputError("the texts of every pair give the same state: there is no direction between them")
    axis = _FITS[method](more, less)
    unit = axis / axis.norm()
    along = difference @ unit
    if not float(along.abs()) > 0:
        raise InputError(f"method={method!r}: on average the sides do not differ along what was found")
    return unit * along  # a negative product turns the axis: more is always ahead


def _pca(more: Tensor, less: Tensor) -> Tensor:
    return torch.linalg.svd((more - less).double(), full_matrices=False).Vh[0].float()


def _logistic(more: Tensor, less: Tensor) -> Tensor:
    states = torch.cat([more, less]).double().numpy()
    sides = [1] * len(more) + [0] * len(less)
    return torch.from_numpy(sklearn.linear_model.LogisticRegression(max_iter=2000).fit(states, sides).coef_[0]).float()


_FITS: dict[str, Fit] = {
    "mean difference": lambda more, less: (more - less).mean(0),
    "pca": _pca,
    "logistic": _logistic,
}


def ordered(more: Float[Tensor, "pair d"], less: Float[Tensor, "pair d"], method: Method) -> float:
    """Share of pairs whose `more` lies ahead of its `less` along the direction of all other pairs; NaN of one pair.

    Half is chance. It is of these texts: pairs that share a template are easy to tell apart.

    Args:
        more: states of the side that is led to.
        less: states of the other side, pair by pair.
        method: how it is fitted.
    """
    if len(more) < 2:
        return math.nan
    ahead: list[bool] = []
    for n in range(len(more)):
        rest = [k for k in range(len(more)) if k != n]
        try:
            along = fitted(more[rest], less[rest], method)
        except InputError:  # the others do not differ: nothing puts this pair in order
            ahead.append(False)
            continue
        ahead.append(float((more[n] - less[n]) @ along) > 0)
    return sum(ahead) / len(ahead)


def check_pairs(pairs: Sequence[tuple[object, object]]) -> None:
    """Raise unless these are pairs (more, less)."""
    example = "model.direction([('I love it', 'I hate it'), ...], layer=2)"
    if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs:
        raise InputError(f"pairs: {str(pairs)[:60]!r}; expected a list of (more, less), as {example}")
    for n, pair in enumerate(pairs):
        if isinstance(pair, str | Mapping) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"pairs[{n}]: {str(pair)[:60]!r}; expected (more, less), as {example}")
