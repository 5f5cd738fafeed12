"""The instrument: checkpoints in, activations and generations out.

Importing this package does not import torch: every name is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.lazily import face

if TYPE_CHECKING:
    from probe import generation as generation
    from probe import recompute as recompute
    from probe import replay as replay
    from probe import served as served
    from probe import shared as shared
    from probe import turns as turns
    from probe import weights as weights
    from probe.checkpoints.search import discover
    from probe.checkpoints.series import Checkpoint
    from probe.comparison import compare
    from probe.directions import Direction
    from probe.doses import Neurons
    from probe.errors import InputError, ProbeError
    from probe.interventions import Edit, add, look, mean, patch, project_out, scale, zero
    from probe.model import Model
    from probe.prompts import Chat, Item, Prompts, TokenBatch
    from probe.readers.runlog import RunLog
    from probe.rollouts import Rollouts
    from probe.sites import Site
    from probe.trace import Trace

_HOME = {
    "Checkpoint": "checkpoints",
    "discover": "checkpoints",
    "InputError": "errors",
    "ProbeError": "errors",
    "Edit": "interventions",
    "add": "interventions",
    "look": "interventions",
    "mean": "interventions",
    "patch": "interventions",
    "project_out": "interventions",
    "scale": "interventions",
    "zero": "interventions",
    "Model": "model",
    "Trace": "trace",
    "Direction": "directions",
    "Neurons": "doses",
    "compare": "comparison",
    "Chat": "prompts",
    "Item": "prompts",
    "Prompts": "prompts",
    "TokenBatch": "prompts",
    "Rollouts": "rollouts",
    "RunLog": "readers.runlog",
    "Site": "sites",
}

__all__ = [
    "Chat",
    "Checkpoint",
    "Direction",
    "Edit",
    "InputError",
    "Item",
    "Model",
    "Neurons",
    "ProbeError",
    "Prompts",
    "Rollouts",
    "RunLog",
    "Site",
    "TokenBatch",
    "Trace",
    "add",
    "compare",
    "discover",
    "look",
    "mean",
    "patch",
    "project_out",
    "scale",
    "zero",
]


# Modules by their own names, as `probe.replay`.
_ROOMS = ("generation", "recompute", "replay", "served", "shared", "turns", "weights")

__getattr__, __dir__ = face(__name__, _HOME, _ROOMS)
