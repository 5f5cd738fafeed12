"""Checkpoints whose weights are compared as they are stored: one base, later ones, matrix by matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint
    from probe.checkpoints.stored import Stored


class Run:
    """Later checkpoints of one base, with their steps and the names each gives the base's weights."""

    def __init__(self, base: Stored, checkpoints: Sequence[Checkpoint]) -> None:
        from probe.checkpoints.stored import aligned

        self.steps = [c.step for c in checkpoints]
        if len(checkpoints) > 1 and (None in self.steps or len(set(self.steps)) < len(self.steps)):
            raise InputError(f"checkpoints at steps {self.steps}: several of a run need a step each (STEP=FOLDER)")
        self.members = [opened(checkpoints, c) for c in checkpoints]
        self.names = [aligned(base, member) for member in self.members]

    def weight(self, number: int, name: str) -> Any:
        """The weight that the base calls `name`, of one member."""
        return self.members[number][self.names[number][name]]


def opened(source: Sequence[Checkpoint], checkpoint: Checkpoint) -> Stored:
    """A checkpoint of an input, read as this run reads pickles."""
    from probe.checkpoints.stored import Stored

    loading = getattr(source, "loading", None)
    return Stored(checkpoint, allow_pickle=bool(getattr(loading, "allow_pickle", False)))


def base_of(checkpoints: Sequence[Checkpoint]) -> Stored:
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
