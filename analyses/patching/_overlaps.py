"""How far two checkpoints' circuits overlap, beside how far one checkpoint's do on other items. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import scipy
import xarray as xr

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    Scores = Float[np.ndarray, "item sender receiver"]

SPLITS = 20
ADD_UP = (0.5, 2.0)
VARIANTS = ("base_tuned", "base_tuned_other_items", "base_other_items")


def circuit_of(mean: Float[np.ndarray, "sender receiver"], size: int) -> Bool[np.ndarray, "sender receiver"]:
    """The edges of largest mean score, either sign; the first ones of equals."""
    flat = np.nan_to_num(np.abs(mean), nan=-1.0).ravel()
    kept = np.zeros(flat.shape, bool)
    kept[np.argsort(-flat, kind="stable")[: min(size, int((flat >= 0).sum()))]] = True
    return kept.reshape(mean.shape)


def added(scores: Scores, worth: float) -> float:
    """What the estimates of the embedding's edges add up to, as a share of M(clean) - M(corrupt); NaN of no effect.

    All that tells the two prompts apart passes these edges, so exact integrals give 1.
    """
    return float(np.nansum(scores[:, 0], axis=-1).mean()) / worth if abs(worth) > 1e-3 else np.nan


def short(shares: Mapping[str, float]) -> list[str]:
    """A warning for every checkpoint whose estimates do not add up: the largest edges may be the wrong ones."""
    return [
        f"{name}: the edges' estimates add up to {share:.2f} of what the clean prompts are worth (1 if exact), so the "
        "largest may be the wrong ones: integrate over more steps"
        for name, share in shares.items()
        if not np.isnan(share) and not ADD_UP[0] < share < ADD_UP[1]
    ]


def jaccard(a: Bool[np.ndarray, ...], b: Bool[np.ndarray, ...]) -> float:
    """Shared members over all members; 1 of equal sets."""
    return float((a & b).sum() / (a | b).sum())


def arrays(
    scores: Mapping[str, Scores], exists: Bool[np.ndarray, "sender receiver"], size: int, seed: int
) -> xr.Dataset:
    """`jaccard` over variant, and `rank_correlation`.

    base_tuned: of the same items; base_tuned_other_items: base on one half of the items and tuned on the other, mean
    over random halves; base_other_items: base on both halves, which is what noise alone leaves of an overlap.
    """
    base, tuned = (scores[name] for name in ("base", "tuned"))
    found = {"base_tuned": [jaccard(circuit_of(base.mean(0), size), circuit_of(tuned.mean(0), size))]}
    rng = np.random.default_rng(seed)
    for _ in range(SPLITS if len(base) > 1 else 0):
        order = rng.permutation(len(base))
        one, other = order[: len(base) // 2], order[len(base) // 2 :]
        first = circuit_of(base[one].mean(0), size)
        for variant, scored in (("base_tuned_other_items", tuned), ("base_other_items", base)):
            found.setdefault(variant, []).append(jaccard(first, circuit_of(scored[other].mean(0), size)))
    values = [float(np.mean(found[v])) if v in found else np.nan for v in VARIANTS]
    data = xr.Dataset(coords={"variant": np.asarray(VARIANTS, object)})
    data["jaccard"] = ("variant", values, {"units": "1", "long_name": "overlap of circuits"})
    pair = base.mean(0)[exists], tuned.mean(0)[exists]
    told = {"units": "1", "long_name": "rank correlation of all edges"}
    is_told = all(np.ptp(side) > 0 for side in pair)
    data["rank_correlation"] = ((), float(scipy.stats.spearmanr(*pair).statistic) if is_told else np.nan, told)
    return data
