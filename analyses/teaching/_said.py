"""Claims of this group: which of several things is above 0 over items, for all together. Never imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim

FEWEST = 8  # items


def largest(wide: pd.DataFrame, kind: str, found: str, none: str, seed: int, **said: Any) -> Claim:
    """Whether the mean over items [item, name] is above 0 for any name; the clearest one is named.

    Args:
        wide: one number an item and name; NaN is not measured.
        kind: of the claim.
        found: clause with `{}` for the name.
        none: clause where none is.
        seed: of the draws.
        said: further fields of the claim.
    """
    wide = wide.dropna(how="all")
    said = {"n": len(wide), **said}
    if len(wide) < FEWEST:
        why, needs = f"{len(wide)} items were measured", f"at least {FEWEST} items that differ"
        return Claim(kind, UNJUDGED, none, why=why, needs=needs, **said)
    said |= {"family": f"{wide.shape[1]} of them"}
    test = stats.mean_max_t(wide.to_numpy(), clusters=stats.clusters_of(wide.index), seed=seed, draws=1000)
    best = int(np.argmax(np.nan_to_num(test.low, nan=-np.inf)))
    said |= {"effect": float(test.value[best]), "low": float(test.low[best]), "high": float(test.high[best])}
    said |= {"p": float(test.p_cell[best]), "place": str(wide.columns[best])}
    is_found = bool(test.low[best] > 0)
    return Claim(kind, FOUND if is_found else NONE, found.format(wide.columns[best]) if is_found else none, **said)
