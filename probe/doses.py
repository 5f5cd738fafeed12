"""Doses: what can be turned up and down while a model writes, with placebos of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from probe.errors import InputError
from probe.interventions import Edit, scale
from probe.sites import Site

if TYPE_CHECKING:
    from probe.interventions import Positions


class Dose(Protocol):
    """An intervention with a strength. `none` is the strength that changes nothing."""

    @property
    def name(self) -> str: ...

    @property
    def site(self) -> Site: ...

    @property
    def none(self) -> float: ...

    def edits(self, strength: float, positions: Positions = "all") -> list[Edit]:
        """The edits at a strength."""
        ...

    def placebos(self, seed: int = 0) -> Mapping[str, Dose]:
        """Name -> another intervention of the same size at the same site, chosen for nothing."""
        ...


@dataclass(frozen=True)
class Neurons:
    """MLP neurons of a layer whose keys (`mlp_post`) are multiplied by the strength: 0 off, 1 unchanged, 2 doubled.

    What follows hangs on these keys; that is no proof that the neurons store it.
    """

    layer: int
    neurons: tuple[int, ...]
    width: int
    label: str = "neurons"

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple(self.neurons))
        outside = [n for n in self.neurons if not 0 <= n < self.width]
        if not self.neurons or outside or len(set(self.neurons)) < len(self.neurons):
            raise InputError(f"neurons {outside or self.neurons}: expected different numbers in 0..{self.width - 1}")

    @property
    def name(self) -> str:
        """What they are called in tables."""
        return self.label

    @property
    def site(self) -> Site:
        """Where the keys are."""
        return Site("mlp_post", self.layer)

    @property
    def none(self) -> float:
        """Strength at which nothing is changed."""
        return 1.0

    def edits(self, strength: float, positions: Positions = "all") -> list[Edit]:
        """The edit that multiplies the keys."""
        return [scale(self.site, strength, self.neurons, positions)]

    def placebos(self, seed: int = 0) -> dict[str, Neurons]:
        """As many other neurons of the layer, at random; none where the layer has no others left."""
        rest = sorted(set(range(self.width)) - set(self.neurons))
        if len(rest) < len(self.neurons):
            return {}
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed)).tolist()
        drawn = tuple(rest[k] for k in order[: len(self.neurons)])
        return {"random": Neurons(self.layer, drawn, self.width, "random neurons")}


def strengths_of(given: Sequence[float], none: float) -> list[float]:
    """The strengths asked for, the one that changes nothing included, in rising order.

    Raises:
        InputError: none, or one that is not finite.
    """
    values = [float(s) for s in given]
    if not values or not all(s - s == 0 for s in values):
        raise InputError(f"strengths={list(given)}; expected finite numbers, as [-4, 0, 4]")
    return sorted({*values, none})
