"""Where an update lands: which entries of the weights, which directions and whether two runs choose the same.

Definition: D = W_tuned - W_base of each stored weight of N entries. changed = share of entries that differ after both
    were rounded to `precision`. principal = share of |D|^2 (Frobenius) in the principal subspace, the union of the
    spans of the first k left (U) and right (V) singular vectors of W_base: (|U^T D|^2 + |D V|^2 - |U^T D V|^2) / |D|^2;
    of a random D it is k (m + n - k) / (m n) on average (principal_chance, with the interval of one Gaussian D).
    largest = share of |D|^2 in the entries of largest |W_base| (`fraction` of them, ties all taken), by chance their
    share of the entries. spectral_drift = |s(W_tuned) - s(W_base)| / |s(W_base)| over all singular values s, at most
    relative_norm = |D| / |W_base|. rotation_left, rotation_right = mean principal angle between the first k singular
    vectors of W_base and W_tuned. With a second run from the same base: both = entries changed in both, against
    expected (changed x other_changed / N) and expected_by_size (the same among weights as large
    and as near to a rounding: within each power of two of |W_base| and eighth of the way to the next boundary).
Units: shares; angles in degrees. No interval of one matrix: weights are not a sample of items. Claims take matrices
    as units.
Source: arXiv 2505.11711 (share changed, overlap of runs), 2511.08567 (subspace, largest weights, spectral drift). The
    latter's mask of principal entries is replaced by the subspace itself, whose chance is known in closed form.
Does not show: what a change does. Rounding itself makes an update sparse (small changes of large weights vanish) and
    puts it on large weights (steps grow with |W|): read `changed` against changed_even, and `both` against
    expected_by_size. One stored in bfloat16 shows its rounded D only, so changed_even is unknown there.
Control: changed_even = share that an even Gaussian update of the same size would change; chance of every quantity; a
    second seed; the same checkpoint twice changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.work import Case, Work
from analyses.weights import _landing_claims, _names, _spectra
from analyses.weights._no_sample import without_interval
from analyses.weights._stored_runs import StoredRun, base_of, finite_pair, one_run
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Checkpoint

    Checkpoints = list[Checkpoint]
else:
    from analyses.core.analysis import Checkpoints

QUANTITIES = {
    "changed": "share of entries changed after rounding",
    "changed_even": "share an even update of that size would change",
    "principal": "share of the update in the base's principal subspace",
    "principal_chance": "that of a random update",
    "largest": "share of the update in the largest weights",
    "largest_chance": "their share of the entries",
    "relative_norm": "|update| / |base|",
    "spectral_drift": "drift of the singular values",
    "rotation_left": "rotation of the first output directions",
    "rotation_right": "rotation of the first input directions",
}
DEGREES = ("rotation_left", "rotation_right")


def _work(case: Case) -> Work:
    """Singular values of the weights' change; no item is read."""
    return Work(sites=0, fixed=20 * case.size.weights * case.size.shape.d_model)


@analysis(renamed={"top_k": "rank"}, work=_work)
def update_landing(
    base: Checkpoints,
    tuned: Checkpoints,
    other: Checkpoints | None = None,
    *,
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    rank: int = 8,
    fraction: float = 0.1,
    seed: int = 0,
) -> Result:
    """Entries changed after rounding, energy in principal subspace and largest weights, overlap of two runs' masks.

    Rows, one per step and weight: step, matrix, layer, n_entries, changed, changed_even, relative_norm, principal,
    principal_chance, principal_low, principal_high, core and core_chance (both sides at once: k^2 / (m n)), largest,
    largest_chance, spectral_drift, rotation_left, rotation_right; with `other`: other_changed, both, expected, spread
    (of `both` under chance), expected_by_size. Vectors have no subspace. Read one matrix at a time.

    Args:
        precision: what weights are rounded to before entries are compared.
        rank: the principal one.
        fraction: share of the entries that count as the largest weights.
        seed: even update.
    """
    from analyses.core.reading.comparable import IDENTICAL

    if rank < 1 or not 0 < fraction < 1:
        raise InputError(f"rank={rank}, fraction={fraction}; expected at least 1 direction and a share in (0, 1)")
    stored = base_of(base)
    run, second = one_run(stored, tuned), one_run(stored, other) if other is not None else None
    if second is not None and len(run.steps) + len(second.steps) > 2 and second.steps != run.steps:
        raise InputError(f"tuned has steps {run.steps} and other {second.steps}: masks are compared at the same steps")
    how = (precision, rank, fraction, seed)
    table = pd.DataFrame(_rows(stored, run, second, how))
    if all(s is None for s in run.steps):
        table = table.drop(columns="step")
    table["layer"] = table["layer"].astype("Int64")
    warnings = [IDENTICAL] if (table["relative_norm"].fillna(1) == 0).all() else []
    claims = _landing_claims.claims(_last(table), precision, seed)
    return Result.of(table, _arrays(table), claims=claims, warnings=warnings)


def _rows(stored: Any, run: StoredRun, second: StoredRun | None, how: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    for name in progress(sorted(stored), "update landing", total=len(stored)):
        if name not in run.names[0]:
            continue  # a head tied to the embedding on the other side
        before = stored[name].float()
        sub = _subspace(before, how[1])
        for number, step in enumerate(run.steps):
            pair = finite_pair(before, run.weight(number, name), name)
            row = {"step": step, "matrix": name, "layer": _names.layer_of(name), "n_entries": before.numel()}
            row |= _entries(name, *pair, how) | _directions(*pair, sub)
            if second is not None:
                row |= overlap(*pair, finite_pair(before, second.weight(number, name), name)[1], how[0])
            yield row


def rounded(x: Tensor, precision: str) -> Tensor:
    """The nearest numbers of that precision, in float32."""
    return x.to(getattr(torch, precision)).float()


def changed_mask(base: Tensor, tuned: Tensor, precision: str) -> Tensor:
    """True where the rounded weights differ.

    Args:
        base: weights before.
        tuned: weights after, of the same shape.
        precision: what both are rounded to, as bfloat16.
    """
    return rounded(base, precision) != rounded(tuned, precision)


def _entries(name: str, base: Tensor, tuned: Tensor, how: tuple[Any, ...]) -> dict[str, float]:
    precision, _, fraction, seed = how
    update = tuned - base
    size, scale = float(update.double().norm()), float(base.double().norm())
    at, chance = largest_mask(base, fraction)
    return {
        "changed": float(changed_mask(base, tuned, precision).double().mean()),
        "changed_even": _even(name, base, tuned, size, precision, seed),
        "relative_norm": size / scale if scale > 0 else (0.0 if size == 0 else np.nan),
        "largest": float(update[at].double().square().sum()) / size**2 if size > 0 else np.nan,
        "largest_chance": chance,
    }


def largest_mask(base: Tensor, fraction: float) -> tuple[Tensor, float]:
    """The entries at least as large as the one at that share from the top, and the share they are, ties included."""
    sizes = base.abs()
    rank = max(base.numel() - max(round(fraction * base.numel()), 1), 0)
    edge = torch.from_numpy(np.partition(sizes.flatten().numpy(), rank)[rank : rank + 1])
    at = sizes >= edge
    return at, float(at.double().mean())


def _even(name: str, base: Tensor, tuned: Tensor, size: float, precision: str, seed: int) -> float:
    """Share that Gaussian noise of the update's size changes; NaN where what is stored was rounded already."""
    if size == 0 or bool((rounded(tuned, precision) == tuned).all()):
        return 0.0 if size == 0 else float("nan")
    stream = torch.Generator().manual_seed(int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:15], 16))
    noise = torch.randn(base.shape, generator=stream) * (size / base.numel() ** 0.5)
    return float(changed_mask(base, base + noise, precision).double().mean())


def _subspace(base: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    if base.ndim != 2 or min(base.shape) < 2 or not bool(base.isfinite().all()):
        return None
    return _spectra.singular(base, max(1, min(top_k, min(base.shape) // 2)))


def _directions(base: Tensor, tuned: Tensor, sub: tuple[Tensor, Tensor, Tensor] | None) -> dict[str, float]:
    found = dict.fromkeys(("principal", "principal_chance", "principal_low", "principal_high", "core", "core_chance",
                           "spectral_drift", *DEGREES), np.nan)  # fmt: skip
    update = tuned - base
    if sub is None or not bool(update.any()):
        return found | ({"spectral_drift": 0.0} if sub is not None else {})
    s, left, right = sub
    k, (m, n) = left.shape[1], base.shape
    after, left_after, right_after = _spectra.singular(tuned, k)
    low, high = chance_interval(subspace_size(m, n, k), base.numel())
    return {
        **energy(update, left, right),
        "principal_chance": subspace_size(m, n, k) / base.numel(),
        "principal_low": low,
        "principal_high": high,
        "core_chance": k * k / base.numel(),
        "spectral_drift": float((after - s).norm() / s.norm()) if s.norm() > 0 else np.nan,
        "rotation_left": float(_spectra.principal_angles(left, left_after).mean()),
        "rotation_right": float(_spectra.principal_angles(right, right_after).mean()),
    }


def energy(update: Tensor, left: Tensor, right: Tensor) -> dict[str, float]:
    """Share of |update|^2 in the union of both subspaces (principal), and in both at once (core).

    Args:
        update: change of a matrix [row column].
        left: orthonormal directions of its rows [row k].
        right: orthonormal directions of its columns [column k].
    """
    d = update.double()
    rows, columns = left.T @ d, d @ right
    core, total = float((rows @ right).square().sum()), float(d.square().sum())
    either = float(rows.square().sum() + columns.square().sum()) - core
    return {"principal": either / total, "core": core / total}


def subspace_size(m: int, n: int, k: int) -> int:
    """Dimension of the space of m x n matrices whose rows or columns lie in k given directions: k (m + n - k).

    >>> subspace_size(4, 3, 3), subspace_size(4, 3, 1)  # all of the 12 entries; one direction on either side
    (12, 6)

    Args:
        m: rows.
        n: columns.
        k: directions on either side.
    """
    return k * (m + n - k)


def chance_interval(dimension: int, entries: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the share of a Gaussian vector's energy in a subspace: Beta(dimension / 2, rest / 2).

    Args:
        dimension: of the subspace.
        entries: of the whole space.
        level: share of draws inside.
    """
    if dimension >= entries:
        return 1.0, 1.0
    low, high = scipy.stats.beta.interval(level, dimension / 2, (entries - dimension) / 2)
    return float(low), float(high)


def overlap(base: Tensor, tuned: Tensor, other: Tensor, precision: str) -> dict[str, float]:
    """Entries changed in both runs, as shares of all, with what chance gives and its spread.

    By chance: two sets of these sizes drawn from all entries, hypergeometric; `expected_by_size` draws them within
    each power of two of |base| and each eighth of the way to the next rounding: small weights keep their changes,
    large ones swallow them, and of equal ones those near a boundary change first, in whatever run.

    Args:
        base: weights before.
        tuned: weights after, of the same shape.
        other: the second run's weights after.
        precision: what both are rounded to, as bfloat16.
    """
    a, b = (changed_mask(base, x, precision).flatten() for x in (tuned, other))
    n, both = a.numel(), int((a & b).sum())
    bins = _strata(base.flatten().double(), precision)
    counts, ours, theirs = (torch.bincount(bins, weights=w.double()) for w in (torch.ones_like(a), a, b))
    by_size = float((ours * theirs / counts.clamp(min=1)).sum())
    na, nb = int(a.sum()), int(b.sum())
    spread = np.sqrt(na * nb / n * (n - na) / n * (n - nb) / max(n - 1, 1))
    return {"other_changed": nb / n, "both": both / n, "expected": na / n * nb / n, "spread": float(spread) / n,
            "expected_by_size": by_size / n}  # fmt: skip


def _strata(base: Tensor, precision: str) -> Tensor:
    """Number of the power of two of every |weight| and of the eighth of the way from a rounding's boundary, from 0."""
    dtype: torch.dtype = getattr(torch, precision)
    size = torch.frexp(base).exponent.long()
    step = torch.ldexp(torch.full_like(base, torch.finfo(dtype).eps / 2), size)
    away = 1 - 2 * (base - base.to(dtype).double()).abs() / step
    return 8 * (size - int(size.min())) + (8 * away).long().clamp(0, 7)


def _last(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["step"] == table["step"].max()] if "step" in table else table


def _arrays(table: pd.DataFrame) -> xr.Dataset:
    """Each quantity by weight (and step); no interval, since weights are not a sample of items (n = 1)."""
    dims = ["step", "matrix"] if "step" in table else ["matrix"]
    columns = [q for q in (*QUANTITIES, "both", "expected", "expected_by_size") if q in table]
    data = table.set_index(dims)[columns].astype(float).to_xarray()
    for name in columns:
        unit = "degrees" if name in DEGREES else "1"
        data[name].attrs = {"units": unit, "long_name": QUANTITIES.get(name, name)}
    return without_interval(data)


def figures(result: Result) -> dict[str, Figure]:
    """Each quantity over layers beside its chance, one panel a kind of weight; with steps, one line a step."""
    rows = result.summary()
    rows = rows.assign(kind=rows["matrix"].map(_names.kind_of), layer=rows["matrix"].map(_names.layer_of))
    rows = rows.dropna(subset=["layer"]).astype({"layer": int})
    shown = {
        "changed": ("changed", "changed_even"),
        "principal": ("principal", "principal_chance"),
        "largest": ("largest", "largest_chance"),
        "spectral_drift": ("spectral_drift", "relative_norm"),
        "overlap": ("both", "expected", "expected_by_size"),
    }
    dash = "step" if "step" in rows else None
    return {
        name: curve(part, x="layer", color="quantity", dash=dash, facet="kind", title=title, unit="1", y_title="share")
        for name, of in shown.items()
        if len(part := rows[rows["quantity"].isin(of)])
        for title in [QUANTITIES.get(name, "entries changed in both runs").capitalize()]
    }
