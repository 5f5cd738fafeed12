"""The only place that knows the files of a result.

Names are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analyses.core.store.files import (
        Stack,
        Stored,
        StoreError,
        is_here,
        place,
        readable,
    )
    from analyses.core.store.store import (
        SCHEMA,
        Store,
    )

__all__ = [
    "SCHEMA",
    "Stack",
    "Store",
    "StoreError",
    "Stored",
    "is_here",
    "place",
    "readable",
]
_HOME = {
    "SCHEMA": "store",
    "Stack": "files",
    "Store": "store",
    "StoreError": "files",
    "Stored": "files",
    "is_here": "files",
    "place": "files",
    "readable": "files",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
