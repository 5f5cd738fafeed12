"""What is slow to load, loaded when it is first used: `from probe.lazily import torch` at a file's head.

Listing analyses, opening results and `--help` need none of them, and a file still says at its head what it needs.
Names of their parts are reached through them (`torch.nn.Module`, `sklearn.linear_model.LogisticRegression`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from probe.later import Later

__all__ = ["huggingface_hub", "sklearn", "torch"]


if TYPE_CHECKING:
    import huggingface_hub
    import sklearn
    import torch
else:
    huggingface_hub, sklearn, torch = map(Later, __all__)


def face(
    package: str, homes: Mapping[str, str], rooms: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports its names when they are first asked for (PEP 562).

    Args:
        package: its `__name__`.
        homes: name -> the module of the package it lives in, as `readers.runlog`.
        rooms: modules of the package that are handed on by their own names, and that `dir` leaves out.
    """

    def get(name: str) -> object:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in rooms:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(homes)
