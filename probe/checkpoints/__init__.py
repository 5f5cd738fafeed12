"""Saved weights: series as they lie on disk, files, Hub, loading."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.checkpoints.search import Series, discover
    from probe.checkpoints.series import Checkpoint

__all__ = ["Checkpoint", "Series", "discover"]
_HOME = {"Checkpoint": "series", "Series": "search", "discover": "search"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
