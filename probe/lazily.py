"""Libraries that are slow to load, loaded when they are first used: `from probe.lazily import torch` at a file's head.

Listing analyses, opening results and `--help` need none of them, and a file still says at its head what it needs.
Names of their parts are reached through them (`torch.nn.Module`, `sklearn.linear_model.LogisticRegression`).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["huggingface_hub", "sklearn", "torch"]


class _Later(ModuleType):
    """A module that is imported when one of its names is asked for."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import huggingface_hub
    import sklearn
    import torch
else:
    huggingface_hub, sklearn, torch = map(_Later, __all__)
