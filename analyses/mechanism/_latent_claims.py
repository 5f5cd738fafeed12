"""Which features training made, and what they are worth. Never imports torch.

Latents were picked on the items that the dictionary was trained on, and are judged on the others, each with an interval
as wide as for all that were picked (Bonferroni).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.stats import clusters_of, mean_of_items, widened

FEWEST = 8  # items at which a latent is on
MOST_PRESENT = 0.3  # of a latent that base may hold if it is to be called new
HALF = 0.25  # distance of the relative norm from .5: one direction less than half as long as the other
LEAST = 0.1  # of the gain: what the new features must be worth
SHOWN = 3  # latents named
WHAT = "tuned has a feature that base lacks"
WORTH = "the gain rests on features that base lacks"


def claims(table: pd.DataFrame, data: xr.Dataset, new: list[int]) -> list[Claim]:
    """The latents that base lacks (at most `SHOWN`), and whether the gain rests on them.

    Args:
        table: rows of the analysis.
        data: its arrays; presence by latent over held-out items.
        new: the latents picked, largest first.
    """
    held = table[(~table["fitted"].astype(bool)) & (table["arm"] == "new")]
    n = held["item"].nunique()
    if n < FEWEST:
        return [Claim("new", UNJUDGED, WHAT, why=f"{n} held-out items are too few", needs=f"at least {FEWEST}", n=n)]
    found = _new(data, new, n)
    if not any(c.is_found for c in found):
        return found
    return [*found, _worth(held, table)]


def _new(data: xr.Dataset, new: list[int], n: int) -> list[Claim]:
    said: Fields = {
        "is_change": False, "family": f"{len(new)} latents picked on other items", "control": "base's states",
        "estimand": "share of the latent that base's states hold", "caveat": "another seed's latents differ",
    }  # fmt: skip
    found: list[Claim] = []
    for j in new:
        cell = data.sel(latent=j)
        count = int(cell["presence_n"])
        bounds = (float(cell[f"presence{part}"]) for part in ("", "_ci_low", "_ci_high"))
        value, low, high = widened(*bounds, n=count, looks=len(new))
        if count >= FEWEST and low > -MOST_PRESENT and high < MOST_PRESENT:
            parts: Fields = {"effect": value, "low": low, "high": high, "n": count, "place": f"latent {j}"}
            found.append(Claim("new", FOUND, f"{WHAT} (latent {j}), base's share", **parts, **said))
    return found[:SHOWN] or [Claim("new", NONE, "a feature that tuned has and base lacks", n=n)]


def _worth(held: pd.DataFrame, table: pd.DataFrame) -> Claim:
    """Whether the answer loses more without the new latents than without as many shared ones, and part of the gain."""
    rows = table[~table["fitted"].astype(bool)]
    wide = rows[rows["arm"].isin(["new", "shared", "random"])].pivot_table(index="item", columns="arm", values="lost")
    means = held.groupby("item")[["metric", "metric_base"]].mean()
    gain = mean_of_items((means["metric"] - means["metric_base"]).to_numpy(float), clusters=clusters_of(means.index))
    n = len(means)
    if not float(gain.ci_low) > 0:
        why = "tuned is not better than base at these answers"
        return Claim("worth", UNJUDGED, WORTH, why=why, needs="answers that training made likelier", n=n)
    others = [name for name in ("shared", "random") if name in wide]
    beyond = (wide["new"] - wide[others].max(axis=1)).to_numpy(float)
    told = mean_of_items(beyond, clusters=clusters_of(wide.index))
    whole = float(np.nanmean(wide["new"]))
    value, low, high = (float(x) for x in (told.value, told.ci_low, told.ci_high))
    said: Fields = {
        "effect": value, "low": low, "high": high, "n": n, "unit": "nats/token", "share": value / float(gain.value),
        "estimand": "what the answer loses without them, beyond shared latents and random directions",
        "control": "as many shared latents and random directions of equal size, the worse for each item",
        "assumptions": (f"gain {float(gain.value):.2g} nats, lost {whole:.2g} nats",),
    }  # fmt: skip
    if low > 0 and whole >= LEAST * float(gain.value):
        return Claim("worth", FOUND, "part of the gain rests on features that base lacks", **said)
    return Claim("worth", NONE, f"that {WORTH}", **said)
