"""Why entropy moves in reinforcement learning.

The group and one of its analyses share a name: `analyses.entropy(rollouts)` calls the analysis.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Group(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("analyses.core.running.functions").function_of("entropy")(*args, **kwargs)


sys.modules[__name__].__class__ = _Group
