"""The only place that knows the files of a result.

Names are imported when first used.
"""

from typing import TYPE_CHECKING

from probe.lazily import face

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

__getattr__, __dir__ = face(__name__, _HOME)
