"""Checkpoints whose weights are compared as they are stored: one base, later ones, matrix by matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint
    from probe.checkpoints.stored import StoredWeights


class StoredRun:
    """Later checkpoints of one base, with their steps and the names each gives the base's weights.

    `like`: the input they come from, which knows how this run reads pickles.
    """

    def __init__(
        self, base: StoredWeights, checkpoints: Sequence[Checkpoint], like: Sequence[Checkpoint] | None = None
    ) -> None:
        from probe.checkpoints.stored import aligned

        self.steps = [c.step for c in checkpoints]
        self.members = [opened(like or checkpoints, c) for c in checkpoints]
        self.names = [aligned(base, member) for member in self.members]

    def weight(self, number: int, name: str) -> Any:
        """The weight that the base calls `name`, of one member."""
        return self.members[number][self.names[number][name]]


def one_run(base: StoredWeights, checkpoints: Sequence[Checkpoint]) -> StoredRun:
    """Later checkpoints of one run, each at a step of its own.

    Raises:
        InputError: a step twice, or several checkpoints of which one has no step.
    """
    run = StoredRun(base, checkpoints)
    if len(run.steps) > 1 and (None in run.steps or len(set(run.steps)) < len(run.steps)):
        raise InputError(f"checkpoints at steps {run.steps}: several of a run need a step each (STEP=FOLDER)")
    return run


def by_step(base: StoredWeights, checkpoints: Sequence[Checkpoint]) -> dict[int | None, StoredRun]:
    """Checkpoints that share a step, as the runs of one thing (seeds, batches), by step."""
    steps = sorted({c.step for c in checkpoints}, key=lambda s: -1 if s is None else s)
    if len(steps) > 1 and None in steps:
        raise InputError(f"checkpoints at steps {steps}: either all have a step or none (STEP=FOLDER)")
    return {step: StoredRun(base, [c for c in checkpoints if c.step == step], like=checkpoints) for step in steps}


def opened(source: Sequence[Checkpoint], checkpoint: Checkpoint) -> StoredWeights:
    """A checkpoint of an input, read as this run reads pickles."""
    from probe.checkpoints.stored import StoredWeights

    loading = getattr(source, "loading", None)
    return StoredWeights(checkpoint, allow_pickle=bool(getattr(loading, "allow_pickle", False)))


def base_of(checkpoints: Sequence[Checkpoint]) -> StoredWeights:
    """The one base.

    Raises:
        InputError: several checkpoints, or none.
    """
    if len(checkpoints) != 1:
        named = [c.label for c in checkpoints]
        raise InputError(f"base: one checkpoint is what updates are counted from; given {named}")
    return opened(checkpoints, checkpoints[0])


def finite_pair(base: Any, tuned: Any, name: str) -> tuple[Any, Any]:
    """Both weights in float32 and of one shape.

    Raises:
        InputError: other shapes, or a number that is not finite.
    """
    if base.shape != tuned.shape:
        raise InputError(f"{name}: {tuple(base.shape)} in base and {tuple(tuned.shape)} later: not one model")
    pair = base.float(), tuned.float()
    if not all(bool(x.isfinite().all()) for x in pair):
        raise InputError(f"{name} is not finite in base or in a later checkpoint")
    return pair
