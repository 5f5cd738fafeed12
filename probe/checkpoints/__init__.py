"""Saved weights: series as they lie on disk, files, Hub, loading."""

from typing import TYPE_CHECKING

from probe.lazily import face

if TYPE_CHECKING:
    from probe.checkpoints.search import Series, discover
    from probe.checkpoints.series import Checkpoint
    from probe.checkpoints.stored import StoredWeights

__all__ = ["Checkpoint", "Series", "StoredWeights", "discover"]
_HOME = {"Checkpoint": "series", "Series": "search", "StoredWeights": "stored", "discover": "search"}

__getattr__, __dir__ = face(__name__, _HOME)
