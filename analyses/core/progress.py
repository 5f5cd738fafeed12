"""A progress bar for work that takes longer than a moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from analyses.core.stopping import heard

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar and ETA on standard error once it takes more than two seconds; Ctrl-C is heard before each."""

    quiet = True if os.environ.get("PROBE_PROGRESS") == "0" else None  # None: only on a terminal
    for item in tqdm(items, desc=what, total=total, delay=2, leave=False, disable=quiet):
        heard()
        yield item
