"""How far, in how many directions, and along which, training moved each weight matrix.

Definition: for a matrix W with update D = W_tuned - W_base: relative_norm = |D|_F / |W_base|_F; spectral_norm =
    largest singular value s_1 of D; stable_rank = |D|_F^2 / s_1^2, between 1 and the rank, the effective number of
    directions; angle_left / angle_right = mean principal angle between the spans of the top k left (output) or
    right (input) singular vectors of D and of W_base. Vectors (norms, biases) have a relative norm only.
Units: relative_norm and stable_rank have none; spectral_norm that of the weights; angles in degrees, 0 (the update
    lies where the weights are strongest) to 90. `angle_chance_left` and `angle_chance_right`: the mean angle of two
    random subspaces of that side's dimension.
Source: relative norm: arXiv 2601.11061; stable rank: Rudelson and Vershynin 2007; principal angles: Bjorck and
    Golub 1973.
Does not show: what a change does. A large drift may be without effect and a small one decisive; matrices of
    different scale or shape compare through relative_norm at most. There is no interval: weights are not a sample.
Control: the same steps with another seed or with random reward; the drift of a matrix that was frozen is exactly 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.work import Case, Work
from analyses.weights import _names
from analyses.weights._no_sample import without_interval
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model

QUANTITIES = {
    "relative_norm": ("1", "|update| / |base| (Frobenius)"),
    "spectral_norm": ("weight units", "largest singular value of the update"),
    "stable_rank": ("1", "effective number of directions of the update"),
    "angle_left": ("degrees", "mean principal angle to the base's top output directions"),
    "angle_right": ("degrees", "mean principal angle to the base's top input directions"),
    "angle_chance_left": ("degrees", "the left angle between random subspaces"),
    "angle_chance_right": ("degrees", "the right angle between random subspaces"),
}


def _work(case: Case) -> Work:
    """No pass: of every matrix two Gram matrices of its smaller side and their eigenvectors (about 9 d^3 each)."""
    d = case.size.shape.d_model
    return Work(fixed=4 * case.size.weights * d + case.n_layers * 7 * 2 * 9 * d**3, sites=0)


@analysis(work=_work, renamed={"top_k": "rank"})
def weight_drift(base: Model, tuned: Model, *, rank: int = 8, batch_size: int = 8, seed: int = 0) -> Result:
    """Relative norm, spectral norm, stable rank and principal angles of the update of every weight.

    Rows: matrix (parameter name), layer (missing outside blocks), n_rows, n_columns, relative_norm, spectral_norm,
    stable_rank, angle_left, angle_right, angle_chance_left, angle_chance_right. A weight that did not change has drift
    0 and no rank or angle.

    Args:
        batch_size: not used here, weights have no items.
        seed: random subspaces of angle_chance_left and angle_chance_right.
    """

    del batch_size  # weights have no items
    if rank < 1:
        raise InputError(f"rank={rank}: at least 1 direction is needed")
    warnings = reading.pair_warnings(base, tuned)
    ours, theirs = _distinct(base), tuned.weights()
    chance = _Chance(seed)
    named = progress(ours.items(), "weight drift", total=len(ours))
    table = pd.DataFrame([_drift(name, weight, theirs[name], rank, chance) for name, weight in named])
    table["layer"] = table["layer"].astype("Int64")
    return Result.of(table, _arrays(table), warnings=warnings)


def _distinct(model: Model) -> dict[str, Tensor]:
    """Each stored weight once: a tied unembedding is the embedding under a second name."""
    seen: dict[int, str] = {}
    return {n: w for n, w in model.weights().items() if seen.setdefault(w.data_ptr(), n) == n}


def _drift(name: str, before: Tensor, after: Tensor, top_k: int, chance: _Chance) -> dict[str, Any]:
    base = before.detach().double().cpu().numpy()
    update = after.detach().double().cpu().numpy() - base
    if not np.isfinite(update).all():
        raise InputError(f"{name} is not finite in base or tuned")
    shape = base.shape if base.ndim == 2 else (base.size, 1)
    row = {"matrix": name, "layer": _names.layer_of(name), "n_rows": shape[0], "n_columns": shape[1]}
    scale, size = np.linalg.norm(base), np.linalg.norm(update)
    row["relative_norm"] = size / scale if scale > 0 else (0.0 if size == 0 else np.nan)
    row |= dict.fromkeys([q for q in QUANTITIES if q != "relative_norm"], np.nan)
    if base.ndim != 2 or size == 0:
        return row | {"spectral_norm": 0.0 if size == 0 else np.nan}
    return row | _directions(base, update, float(size), top_k, chance)


def _directions(base: np.ndarray, update: np.ndarray, size: float, top_k: int, chance: _Chance) -> dict[str, float]:

    k = max(1, min(top_k, min(base.shape) // 2))
    s, left, right = top_singular(update, k)
    _, base_left, base_right = top_singular(base, k)
    kept = s > 1e-12 * s[0]  # a rank-one update has one direction, whatever k is
    angles = [scipy.linalg.subspace_angles(b, u[:, kept]) for b, u in ((base_left, left), (base_right, right))]
    return {
        "spectral_norm": float(s[0]),
        "stable_rank": float((size / s[0]) ** 2),
        "angle_left": float(np.degrees(angles[0].mean())),
        "angle_right": float(np.degrees(angles[1].mean())),
        "angle_chance_left": chance.mean(base.shape[0], k, int(kept.sum())),
        "angle_chance_right": chance.mean(base.shape[1], k, int(kept.sum())),
    }


def top_singular(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k largest singular values with left [row, k] and right [column, k] vectors.

    From the eigenvectors of the Gram matrix of the smaller side, so an embedding of 152k rows costs d_model^3.
    """
    if matrix.shape[0] > matrix.shape[1]:
        s, right, left = top_singular(matrix.T, k)
        return s, left, right

    side = matrix.shape[0]
    values, left = scipy.linalg.eigh(matrix @ matrix.T, subset_by_index=[side - k, side - 1])
    left = left[:, ::-1]
    right = matrix.T @ left
    s = np.linalg.norm(right, axis=0)
    del values  # their roots have half the digits; the norms of the projections have all
    return s, left, np.divide(right, s, out=np.zeros_like(right), where=s > 0)


class _Chance:
    """Mean principal angle of random subspaces, simulated once per shape."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.known: dict[tuple[int, int, int], float] = {}

    def mean(self, dimension: int, k: int, other: int) -> float:
        """Degrees between spans of k and `other` random vectors of that dimension."""

        shape = (dimension, k, other)
        if shape not in self.known:
            rng = np.random.default_rng([self.seed, *shape])
            pairs = [(rng.normal(size=(dimension, k)), rng.normal(size=(dimension, other))) for _ in range(5)]
            self.known[shape] = float(
                np.degrees(np.mean([scipy.linalg.subspace_angles(a, b).mean() for a, b in pairs]))
            )
        return self.known[shape]


def _arrays(table: pd.DataFrame) -> xr.Dataset:
    """Each quantity by matrix; no interval, since weights are not a sample of items (n = 1)."""
    data = xr.Dataset(coords={"matrix": table["matrix"].to_numpy(object)})
    for name, (unit, label) in QUANTITIES.items():
        data[name] = ("matrix", table[name].to_numpy(float), {"units": unit, "long_name": label})
    return without_interval(data)


def figures(result: Result) -> dict[str, Figure]:
    """Drift over layers, one line a kind of matrix; with steps, one panel a quantity over steps."""

    rows = result.summary()
    rows = rows.assign(kind=rows["matrix"].map(_names.kind_of), layer=rows["matrix"].map(_names.layer_of))
    rows = rows.dropna(subset=["layer"]).astype({"layer": int})
    facet = "step" if "step" in rows else None
    drawn: dict[str, Any] = {}
    for name in ("relative_norm", "stable_rank", "angle_left", "angle_right"):
        part = rows[rows["quantity"] == name]
        drawn[name] = curve(part, x="layer", color="kind", facet=facet, title=QUANTITIES[name][1])
    return drawn
