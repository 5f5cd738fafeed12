"""What a sweep past this machine would take: checkpoints of a large model over many GPUs, by the cost model.

Nothing here was run: the rates are assumptions, stated in `Fleet` and printed beside every number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.core.analysis import checked_options
from analyses.core.cost.estimates import Cost, cost
from analyses.core.work import Case, Size
from probe.shape import ModelShape

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis

SHAPE_70B = ModelShape(80, 64, 8, 8192, 128, 28_672, 152_064, 32_768, "70B")
N_CHECKPOINTS, N_ITEMS, PROMPT, ANSWER = 100, 10_000, 192, 64
GPUS = (8, 16, 32, 64, 128, 256, 512)
HOUR = 3600.0


@dataclass(frozen=True)
class Fleet:
    """Assumed machines.

    Attributes:
        gpus: how many.
        flops: bfloat16 operations per second of one GPU in use (40 % of 989 TFLOP/s).
        gpu_bytes: its memory, a tenth left free.
        memory: bytes per second it reads of that memory.
        storage: bytes per second of the shared file store, all readers together.
        link: bytes per second into one node of eight GPUs.
    """

    gpus: int
    flops: float = 400e12
    gpu_bytes: float = 72e9
    memory: float = 2e12
    storage: float = 50e9
    link: float = 5e9

    def group_size(self, one: Cost) -> int:
        """GPUs that hold one run's models between them (a device map puts blocks one after the other)."""
        return math.ceil(one.peak_bytes() / self.gpu_bytes)


@dataclass(frozen=True)
class Schedule:
    """A sweep over a fleet.

    Attributes:
        groups: sets of GPUs that each hold the models; within a group one GPU computes at a time.
        read_bytes: weights read from storage by all groups.
        compute_hours: matrix products.
        read_hours: reading weights, not overlapped.
        generate_hours: weights read from GPU memory for every token generated.
        store_bytes: of the result; None where rows are not counted.
    """

    groups: int
    read_bytes: float
    compute_hours: float
    read_hours: float
    generate_hours: float
    store_bytes: float | None

    @property
    def hours(self) -> float:
        """All of it, one after the other."""
        return self.compute_hours + self.read_hours + self.generate_hours

    @property
    def bound(self) -> str:
        """What takes most of the time."""
        parts = {"compute": self.compute_hours, "reading weights": self.read_hours, "generation": self.generate_hours}
        return max(parts, key=lambda k: parts[k])


def large(of: Analysis) -> Case:
    """10,000 items of 192 + 64 tokens on a 70B model with a vocabulary of 152k, default options."""
    models = sum(i.kind == "Model" for i in of.inputs)
    size, options = Size.of(SHAPE_70B), checked_options(of, {})
    return Case(size, models, PROMPT, ANSWER, PROMPT + ANSWER, N_ITEMS, options)


def schedule(of: Analysis, fleet: Fleet, n_checkpoints: int = N_CHECKPOINTS) -> Schedule | None:
    """A sweep of `of` over a series; None where the models do not fit into the fleet."""
    one = cost(of, large(of), "bfloat16")
    size = fleet.group_size(one)
    groups = fleet.gpus // size
    if not groups:
        return None
    # Items are split only once every checkpoint has a group of its own; each of its groups reads its weights.
    shares = max(1, groups // n_checkpoints)
    busy = min(groups, n_checkpoints * shares)
    rounds = math.ceil(n_checkpoints * shares / busy)  # in the last round some groups wait
    # A group keeps the base of its pairs: it reads one checkpoint more than it has pairs.
    read = one.weight_bytes * (n_checkpoints * shares + (one.models - 1) * busy)
    rate = min(fleet.storage, fleet.link * max(1.0, fleet.gpus / 8))
    return Schedule(
        groups,
        read,
        rounds * one.flops / shares / fleet.flops / HOUR,
        read / rate / HOUR,
        rounds * one.streamed_bytes / shares / fleet.memory / HOUR,
        None if one.store_bytes is None else one.store_bytes * n_checkpoints,
    )


def rows(of: Analysis) -> list[tuple[str, ...]]:
    """One row a number of GPUs: groups, hours of each part, weights read, result, and what dominates."""
    found: list[tuple[str, ...]] = []
    for gpus in GPUS:
        plan = schedule(of, Fleet(gpus))
        if plan is None:
            found.append((str(gpus), "0", *[""] * 6, "does not fit"))
            continue
        stored = "not counted" if plan.store_bytes is None else f"{plan.store_bytes / 1e9:,.1f} GB"
        parts = (plan.compute_hours, plan.read_hours, plan.generate_hours, plan.hours)
        hours = (f"{value:,.2f}" for value in parts)
        found.append((str(gpus), str(plan.groups), *hours, f"{plan.read_bytes / 1e12:,.0f} TB", stored, plan.bound))
    return found
