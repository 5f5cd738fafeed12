"""What is computed together: lanes, the steps that edit them, and the wave of runs they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from probe.interventions import Edit
    from probe.replay.budget import Budget
    from probe.replay.clean import CleanPass
    from probe.replay.metric import Metric
    from probe.sites import Site


@dataclass
class Lane:
    """One item of one run: the rows `positions` and the residual state `x` [row d_model] they have now."""

    run: int
    item: int
    positions: tuple[int, ...]
    x: Tensor

    @property
    def lo(self) -> int:
        """First row."""
        return self.positions[0]


@dataclass(frozen=True)
class Step:
    """One edit of one run as replay needs it: where it enters, and which rows of which items it touches.

    `layer`: the block it is inside of, or before whose input it acts (n_layers: after the last block).
    """

    run: int
    edit: Edit
    site: Site
    layer: int
    order: int
    mask: Bool[Tensor, "item pos"]
    items: dict[int, tuple[int, ...]]


@dataclass
class Wave:
    """Runs that are computed together."""

    clean: CleanPass
    metric: Metric
    budget: Budget
    steps: list[Step]
    stop: list[int]
    lanes: dict[tuple[int, int], Lane] = field(default_factory=dict[tuple[int, int], Lane])

    def __post_init__(self) -> None:
        self.steps_of: dict[int, list[Step]] = {}
        self._lanes_of: dict[int, list[Lane]] = {}
        for step in self.steps:
            self.steps_of.setdefault(step.run, []).append(step)

    def is_alone(self, run: int) -> bool:
        """Whether a run has one edit."""
        return len(self.steps_of[run]) == 1

    def first(self, run: int, item: int) -> int:
        """First position any edit of this run touches in this item."""
        return min(s.items[item][0] for s in self.steps_of[run] if item in s.items)

    def run_lanes(self, run: int) -> list[Lane]:
        """The lanes of one run that are open."""
        return self._lanes_of.get(run, [])

    def open(self, run: int, item: int, layer: int, positions: Sequence[int], new: Tensor, *, alone: bool) -> Lane:
        """Start a lane: the clean rows before block `layer` with `new` at `positions`."""
        lo = positions[0] if alone else min(positions[0], self.first(run, item))
        x = self.clean.inputs[layer][item, lo : self.stop[item]].clone()
        x[torch.tensor(positions, device=x.device) - lo] = new.to(x.device)
        lane = Lane(run, item, tuple(range(lo, self.stop[item])), x)
        self.lanes[run, item] = lane
        self._lanes_of.setdefault(run, []).append(lane)
        return lane


def apply(step: Step, full: Tensor) -> Tensor:
    """The edit's function on a whole site's tensor; only the head the site names, if it names one."""
    part = full if step.site.head is None else full.select(step.site.head_dim, step.site.head)
    new = step.edit.function(part)
    if new.shape != part.shape:
        raise InputError(
            f"edit at {step.site}: the function gave {tuple(new.shape)}; expected {tuple(part.shape)} "
            f"{list(step.site.dims)}"
        )
    if step.site.head is None:
        return new
    return full.select_scatter(new.to(full.dtype), step.site.head_dim, step.site.head)
