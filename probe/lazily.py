"""What is slow to load, loaded when it is first used: `from probe.lazily import torch` at a file's head.

Listing analyses, opening results and `--help` need none of them, and a file still says at its head what it needs.
Names of their parts are reached through them (`torch.nn.Module`, `sklearn.linear_model.LogisticRegression`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["duckdb", "h5py", "huggingface_hub", "pandas", "parquet", "pyarrow", "sklearn", "torch", "xarray"]


class _Later(ModuleType):
    """A module that is imported when one of its names is asked for."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import duckdb
    import h5py
    import huggingface_hub
    import pandas
    import pyarrow
    import pyarrow.parquet as parquet
    import sklearn
    import torch
    import xarray
else:
    duckdb, h5py, huggingface_hub, pandas, pyarrow, sklearn, torch, xarray = map(
        _Later, ("duckdb", "h5py", "huggingface_hub", "pandas", "pyarrow", "sklearn", "torch", "xarray")
    )
    parquet = _Later("pyarrow.parquet")


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
