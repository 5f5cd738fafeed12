"""A module that is loaded when one of its names is asked for, as `probe.lazily` has them."""

from __future__ import annotations

import importlib
from types import ModuleType


class Later(ModuleType):
    """The module of this name, imported when it is first used."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(self.__name__), name)
