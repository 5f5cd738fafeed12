"""Where in responses entropy changed: by position and by class of token, and the place that changed most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.claim import Claim, Fields
from analyses.core.stats import clusters_of, estimate, mean_max_t

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_POS = 64  # positions shown; later ones are in the token rows
NAMED = 3  # tokens named at a place, those sampled most often


def per_place(tokens: pd.DataFrame, quantities: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Sums of token columns per item and position (below `LAST_POS`) and per item and class, with `n` tokens."""
    names = list(quantities)
    near = tokens[tokens["pos"] < LAST_POS]
    return {
        by: part.assign(n=1.0).groupby(["item", by], sort=True, observed=True)[[*names, "n"]].sum().reset_index()
        for by, part in (("pos", near), ("token_class", tokens))
    }


def by_place(sums: dict[str, pd.DataFrame], quantities: tuple[str, ...], seed: int, units: str = "nats") -> xr.Dataset:
    """Mean per token of each quantity at every position and class, with intervals over items."""
    return xr.merge(
        [
            estimate(rows, q, [by], per="n", seed=seed, units=units, name=f"{q.removesuffix('_nats')}_by_{by}_nats")
            for by, rows in sums.items()
            for q in quantities
        ]
    )


def change_claims(
    tokens: pd.DataFrame, quantity: str, text_of: Callable[[int], str], sampled: str = "token"
) -> list[Claim]:
    """The position whose tokens made up most of the change of mean entropy, with the tokens sampled there.

    Args:
        tokens: rows with item, pos, the change, and the sampled token's id.
        quantity: the column of the change.
        text_of: the text of a token id.
        sampled: the column of ids.

    A position's part is its tokens' summed change over all tokens of the log; parts add up to the whole.
    """
    near = tokens[tokens["pos"] < LAST_POS]
    what = "entropy changed at one position more than elsewhere"
    items, positions = sorted(tokens["item"].unique()), sorted(near["pos"].unique().tolist())
    if len(items) < 6:
        why, needs = f"{len(items)} items in the log", "responses of six items or more"
        return [Claim("place", "cannot be judged", what, why=why, needs=needs, n=len(items))]
    tops = near.pivot_table(index="item", columns="pos", values=quantity, aggfunc="sum")
    tops = tops.reindex(index=items, columns=positions).fillna(0.0).to_numpy()  # no token of a place: exactly 0 of it
    parts = tops / tokens.groupby("item").size().mean()  # whose mean over items is sum over tokens
    found = mean_max_t(parts, clusters=clusters_of(items), draws=1000)
    best = int(np.argmax(np.where(np.isnan(found.t), 0.0, np.abs(found.t))))
    low, high = float(found.low[best]), float(found.high[best])
    said: Fields = {
        "estimand": "part of the change of mean entropy per token that this position's tokens make up",
        "effect": float(found.value[best]), "low": min(low, float(found.value[best])),
        "high": max(high, float(found.value[best])), "unit": "nats", "n": len(items), "p": float(found.p_cell[best]),
        "family": f"{len(positions)} positions", "place": f"position {positions[best]}",
        "control": "no change at all (0)",
    }  # fmt: skip
    if low <= 0 <= high:
        return [Claim("place", "none found", what, **said)]
    ids = near.loc[near["pos"] == positions[best], sampled].value_counts().index[:NAMED].tolist()
    named = ", ".join(f"'{text_of(int(i)).strip() or text_of(int(i))!s}'" for i in ids)
    moved = "falls" if said["effect"] < 0 else "rises"
    return [
        Claim("place", "found", f"entropy {moved} most at position {positions[best]}, where {named} is sampled", **said)
    ]
