"""What runs inside a trainer.

Names are imported when first used: a trainer's libraries are not needed to read what it left.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.training.callback import ProbeCallback

__all__ = ["ProbeCallback"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.callback"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
