"""How alike the hidden states of two checkpoints are, layer by layer, up to rotation.

Definition: X, Y [item, d_model] are the pooled states of the same items in base and tuned, centred over items.
    cka = |Y'X|_F^2 / (|X'X|_F |Y'Y|_F) (linear CKA); cka_unbiased the same from unbiased HSIC, which is near 0 for
    independent states of few items, where cka is not. With X and Y scaled to unit norm, change = |Y - X|^2 and
    procrustes = min over orthogonal R of |Y - X R|^2 = 2 - 2 |X'Y|_*; rotation_share = 1 - procrustes / change, the
    part of the change that a rotation undoes. Two checkpoints are alike where cka_unbiased is above 0 at every state
    that varies (of which the least one is told). Per item: cosine of its two states and |y - x| / |x|.
Units: cka in [0, 1] (cka_unbiased can be slightly negative); procrustes and change in [0, 2]; shares have none.
Source: CKA: arXiv 1905.00414; unbiased HSIC: Song et al. 2012, arXiv 2010.15327; Procrustes: Schonemann 1966.
    Intervals are of cka_unbiased and change alone: the others depend on the number of items, so that an interval
    from fewer or doubled items leaves the truth out (.27, .78 and .00 covered of .95 at n = 200, d = 16).
Does not show: what the difference does. CKA is dominated by the directions of largest variance; with few items and
    many dimensions (n < d) a rotation can explain almost anything, so read rotation_share against n and d.
Control: the same checkpoint twice (cka 1, change 0); other items; a checkpoint of another seed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading.where_read import Pooling, pooled_sites
from analyses.core.result import Result
from analyses.core.stats import clusters_of, estimate, subsample_interval, subsamples
from analyses.core.work import Case, Work
from analyses.states import _part_claims
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

FEWEST = 8  # items
NAMES = {
    "cka": ("1", "linear CKA"),
    "cka_unbiased": ("1", "linear CKA, unbiased HSIC"),
    "change": ("1", "squared distance of normalised states"),
    "procrustes": ("1", "squared distance after the best rotation"),
    "rotation_share": ("1", "part of the change that a rotation undoes"),
}
WITH_INTERVAL = ("cka_unbiased", "change")  # the others depend on the number of items


def _work(case: Case) -> Work:
    """Both checkpoints' passes; pooled states wait on disk in any case."""
    states = case.n_layers + 1
    passes = 2 * case.full_pass
    return Work(block_rows=passes, rows=states, row_bytes=17, sites=states, spilled=2 * states)


@analysis(work=_work, takes_turns=True, renamed={"positions": "at"}, reads=pooled_sites)
def similarity(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    pooling: Pooling = "last_prompt",
    at: tuple[int, ...] = (),
    draws: int = 200,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Linear CKA and Procrustes distance between base and tuned at every state, with intervals over items.

    Rows: item, group, state, cosine, relative_change. Arrays over `state`: cka, cka_unbiased, change, procrustes,
    rotation_share; cosine and relative_change also by `group`.

    Args:
        at: the mean over them.
        draws: subsamples of the items for the intervals of cka_unbiased and change.
        seed: subsamples.
    """

    warnings = reading.pair_warnings(base, tuned)
    n_items = len({item.id for item in prompts.items})
    if n_items < 4:
        raise InputError(f"{n_items} items: at least 4 are needed (unbiased HSIC divides by n - 3)")
    plan: dict[str, Any] = {"batch_size": batch_size, "template": template, "pooling": pooling}
    plan["positions"] = at
    before, after = (reading.pooled_states(m, prompts, what="similarity", **plan) for m in (base, tuned))
    kept = subsamples(len(before.items), draws, seed, least=4, clusters=clusters_of(before.ids))  # HSIC needs four
    rows: list[pd.DataFrame] = []
    drawn: list[dict[str, np.ndarray]] = []
    for state in range(before.n_layers + 1):
        x, y = before.layer(state), after.layer(state)
        drawn.append(compared(x, y, kept))
        per_item = {"cosine": _cosine(x, y), "relative_change": _ratio(np.linalg.norm(y - x, axis=1), x)}
        rows.append(pd.DataFrame({"item": before.ids, "group": before.groups, "state": state, **per_item}))
    table = pd.concat(rows, ignore_index=True).sort_values(["item", "state"], kind="stable")
    labels = {"cosine": "cosine of the two states", "relative_change": "|tuned - base| / |base|"}
    parts = [estimate(table, n, ["state", "group"], units="1", long_name=text, seed=seed) for n, text in labels.items()]
    curves = _curves(drawn, kept)
    claims = [_alike(curves, _part_claims.read_at(pooling, at))]
    return Result.of(table, xr.merge([curves, *parts]), claims=claims, warnings=warnings)


def _alike(data: xr.Dataset, at: str) -> Claim:
    """Whether all intervals of cka_unbiased lie above 0; for a claim about every state no correction is needed."""
    what = f"both checkpoints' states {at} are alike"
    n = int(data["cka_n"].max())
    known = data.where(data["cka_unbiased"].notnull(), drop=True)
    if n < FEWEST or not known.sizes["state"]:
        why, needs = f"{n} items have states that vary", f"at least {FEWEST} items that differ"
        return Claim("alike", UNJUDGED, what, why=why, needs=needs, n=n)
    least = int(known["cka_unbiased"].argmin("state"))
    value, low, high = (float(known[f"cka_unbiased{s}"][least]) for s in ("", "_ci_low", "_ci_high"))
    lows = known["cka_unbiased_ci_low"]
    said: Fields = {
        "effect": value, "low": min(low, value), "high": max(high, value), "n": n, "is_change": False,
        "estimand": "the least unbiased CKA of any state", "control": "independent states (0)",
        "place": f"state {int(known['state'][least])}", "family": f"every one of {known.sizes['state']} states",
        "caveat": "directions of largest variance decide",
    }  # fmt: skip
    return Claim("alike", FOUND if bool((lows > 0).all()) else NONE, what, **said)


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0)


def _ratio(size: np.ndarray, x: np.ndarray) -> np.ndarray:
    scale = np.linalg.norm(x, axis=1)
    return np.divide(size, scale, out=np.full(len(x), np.nan), where=scale > 0)


def compared(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Every quantity of all items (entry 0), and of each subsample those that have an interval; else NaN.

    Args:
        x: base's states [item d_model].
        y: tuned's states of the same items.
        kept: items of each subsample [draw item].
    """
    whole = likeness(x, y, NAMES)
    some = [likeness(x[w], y[w], WITH_INTERVAL) for w in kept]
    return {name: np.asarray([value, *(draw.get(name, np.nan) for draw in some)]) for name, value in whole.items()}


def likeness(x: np.ndarray, y: np.ndarray, wanted: Collection[str]) -> dict[str, float]:
    """The quantities wanted of states [item, d_model]: all of `NAMES`, or those `WITH_INTERVAL`.

    Args:
        x: base's states [item d_model].
        y: tuned's states of the same items.
        wanted: names of quantities.
    """
    a, b = x - x.mean(0), y - y.mean(0)
    sizes = float((a**2).sum()), float((b**2).sum())
    if min(sizes) <= 1e-24 * len(x) * max(1.0, float(np.abs(x).max()) ** 2):  # a constant state resembles nothing
        return dict.fromkeys(wanted, np.nan)
    same = np.array_equal(x, y)
    change = 0.0 if same else max(0.0, 2 - 2 * float((a * b).sum()) / np.sqrt(sizes[0] * sizes[1]))
    found = {"change": change, "cka_unbiased": unbiased_cka(x, y)}
    return found if set(found) == set(wanted) else found | _biased(a, b, sizes, change)


def _biased(a: np.ndarray, b: np.ndarray, sizes: tuple[float, float], change: float) -> dict[str, float]:
    """What depends on the number of items: CKA and what a rotation undoes, of centred states."""
    k, m = a @ a.T / sizes[0], b @ b.T / sizes[1]
    same = np.array_equal(a, b)
    procrustes = min(change, max(0.0, 2 - 2 * (1.0 if same else _nuclear(k, m))))
    return {
        "cka": 1.0 if same else float((k * m).sum()) / np.sqrt(float((k * k).sum()) * float((m * m).sum())),
        "procrustes": procrustes,
        "rotation_share": 1 - procrustes / change if change > 0 else np.nan,
    }


def _nuclear(k: np.ndarray, m: np.ndarray) -> float:
    """|X'Y|_* from the Gram matrices: the sum of the singular values of K^(1/2) M^(1/2)."""
    roots: list[np.ndarray] = []
    for gram in (k, m):
        values, vectors = np.linalg.eigh(gram)
        roots.append(vectors * np.sqrt(np.maximum(values, 0.0)))
    return float(np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum())


def unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """CKA from unbiased HSIC; NaN below four items."""
    n = len(x)
    if n < 4:
        return float("nan")
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(m, 0.0)
    cross, own, other = _hsic(k, m, n), _hsic(k, k, n), _hsic(m, m, n)
    return cross / np.sqrt(own * other) if own > 0 and other > 0 else float("nan")


def _hsic(k: np.ndarray, m: np.ndarray, n: int) -> float:
    """Unbiased HSIC of Gram matrices with zero diagonals (Song et al. 2012, eq. 5)."""
    first = float((k * m).sum())
    second = float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    third = 2 * float(k.sum(0) @ m.sum(0)) / (n - 2)
    return (first + second - third) / (n * (n - 3))


def _curves(drawn: list[dict[str, np.ndarray]], kept: np.ndarray) -> xr.Dataset:
    data = xr.Dataset(coords={"state": np.arange(len(drawn))})
    for name, (unit, label) in NAMES.items():
        values = np.stack([state[name] for state in drawn], axis=1)
        bounds = subsample_interval(values, kept) if name in WITH_INTERVAL else np.full((2, len(drawn)), np.nan)
        data[name] = ("state", values[0], {"units": unit, "long_name": label})
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = ("state", bounds[0]), ("state", bounds[1])
        data[f"{name}_n"] = ("state", np.where(np.isnan(values[0]), 0, kept.shape[1]))
    return data


def figures(result: Result) -> dict[str, Figure]:
    """CKA and Procrustes over states; relative change by group."""

    rows = result.summary()
    color = "step" if "step" in rows else None
    drawn: dict[str, Any] = {}
    for name in ("cka", "cka_unbiased", "procrustes", "rotation_share"):
        drawn[name] = curve(rows[rows["quantity"] == name], x="state", color=color, title=NAMES[name][1])
    part = rows[rows["quantity"] == "relative_change"]
    drawn["relative_change"] = curve(part, x="state", color="group", facet=color, title="Relative change of states")
    return drawn
