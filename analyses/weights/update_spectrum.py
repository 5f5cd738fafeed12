"""What an update is made of: its effective rank, what an orthogonalising optimiser amplifies, what seeds agree on.

Definition: D = W_tuned - W_base, s its singular values. erank = exp(entropy of s / sum s), between 1 and the smaller
    side; erank_chance = that of a Gaussian matrix of the same shape in the limit of large sides (Marchenko-Pastur);
    stable_rank = |D|_F^2 / s_1^2; erank_base and erank_tuned of the weights themselves. Newton-Schulz: s / |D|_F put
    `promotions` times through 1.875 s - 1.25 s^3 + .375 s^5 and `suppressions` times through 2.5 s^3 - 1.5 s^5:
    erank_promoted after the first alone, erank_kept after both, kept = directions that begin above the cut-off (the
    rest end at 0). Of several runs at one step (seeds, batches) D is their mean; signal^2 = mean of <D_i, D_j> over
    pairs, noise^2 = mean |D_i|^2 - signal^2, snr = signal^2 / noise^2 (unbiased for both; 0 on average, and negative
    half the time, where runs share nothing), agreement = mean cosine of pairs. By head: rows of q, k, v, columns of o.
Units: ranks count directions; snr and agreement have none. No interval of one matrix: weights are not a sample of
    items. Claims take matrices as units.
Source: arXiv 2605.19282 (spectra, maps, signal to noise; its estimate |mean|^2 / mean |D - mean|^2 counts noise / runs
    as signal, which is taken off here); effective rank: Roy and Vetterli 2007.
Does not show: what a direction does. A low rank is no proof of little learned, and what agrees between seeds may be
    what the data have in common.
Control: the rank of a random update; the same steps with a random reward; agreement of unrelated runs is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.work import Case, Work
from analyses.weights import _names, _newton_schulz, _spectra, _spectrum_claims
from analyses.weights._attention_heads import head_parts
from analyses.weights._no_sample import without_interval
from analyses.weights._stored_runs import base_of, by_step, finite_pair
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Checkpoint

    Checkpoints = list[Checkpoint]
else:
    from analyses.core.analysis import Checkpoints

RANKS = ("erank", "erank_chance", "stable_rank", "erank_promoted", "erank_kept", "kept", "erank_base", "erank_tuned")
QUANTITIES = {
    **dict.fromkeys(RANKS, "directions"),
    "relative_norm": "1",
    "snr": "1",
    "agreement": "cosine",
}

LEGACY = "legacy_snr"
DRAWN = {
    "erank": (("erank", "erank_chance"), "Effective rank of the update", "directions"),
    "maps": (("erank", "erank_promoted", "erank_kept"), "Effective rank after Newton-Schulz maps", "directions"),
    "agreement": (("agreement",), "Agreement of runs (mean cosine of their updates)", "cosine"),
}


def _work(case: Case) -> Work:
    """Singular values of the weights' change; no item is read."""
    return Work(sites=0, fixed=20 * case.size.weights * case.size.shape.d_model)


@analysis(work=_work)
def update_spectrum(
    base: Checkpoints,
    tuned: Checkpoints,
    *,
    promotions: int = 3,
    suppressions: int = 2,
    by_head: bool = True,
    legacy: bool = False,
) -> Result:
    """Effective and stable rank, spectrum after Newton-Schulz maps, signal to noise over runs; by weight and head.

    Rows, one per step, matrix and head (head missing: the whole matrix): step, matrix, layer, part (q, k, v, o of a
    head), head, n_runs, relative_norm, erank, erank_chance, stable_rank, erank_promoted, erank_kept, kept, erank_base,
    erank_tuned, snr, agreement. Checkpoints of one step are runs of one thing. Vectors are left out.

    Args:
        promotions: maps that lift singular values towards 1.
        suppressions: maps after them that send small ones to 0.
        by_head: also each attention head alone.
        legacy: the signal to noise of several runs, as `legacy_snr`.
    """
    from analyses.core.reading.comparable import IDENTICAL

    if promotions < 0 or suppressions < 0:
        raise InputError(f"promotions={promotions}, suppressions={suppressions}; expected counts of maps")
    stored = base_of(base)
    runs = by_step(stored, tuned)
    config = _config(base[0]) if by_head else None
    maps = (promotions, suppressions)
    names = progress(sorted(stored), "update spectrum")
    rows = [row for name in names for row in _rows(name, stored, runs, config, maps)]
    if not legacy:
        rows = [{k: v for k, v in row.items() if k != LEGACY} for row in rows]
    if not rows:
        raise InputError(f"{stored.checkpoint.label}: no weight is a matrix")
    table = pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})
    if list(runs) == [None]:
        table = table.drop(columns="step")
    last = table if "step" not in table else table[table["step"] == table["step"].max()]
    claims = _spectrum_claims.claims(last[last["head"].isna()])
    warnings = [IDENTICAL] if (table["relative_norm"] == 0).all() else []
    return Result.of(table, _arrays(table), claims=claims, warnings=warnings)


def _config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    from probe.families import text_config

    return text_config(AutoConfig.from_pretrained(checkpoint.config_folder, local_files_only=True))


def _rows(name: str, stored: Any, runs: Any, config: Any, maps: tuple[int, int]) -> Iterator[dict[str, Any]]:
    before = stored[name].float()
    if before.ndim != 2 or not all(name in run.names[0] for run in runs.values()):
        return
    parts = list(head_parts(name, tuple(before.shape), config)) if config is not None else []
    for step, run in runs.items():
        after = [finite_pair(before, run.weight(i, name), name)[1] for i in range(len(run.members))]
        named = {"step": step, "matrix": name, "layer": _names.layer_of(name), "part": None, "head": pd.NA}
        yield {**named, **spectrum(before, after, maps)}
        for part in parts:
            values = spectrum(part.of(before), [part.of(w) for w in after], maps)
            yield {**named, "part": part.part, "head": part.head, **values}


def spectrum(before: Tensor, after: Sequence[Tensor], maps: tuple[int, int]) -> dict[str, Any]:
    """All quantities of one matrix, of which there are several runs.

    Args:
        before: the matrix before [row column].
        after: the matrix after, of each run.
        maps: how many promoting and how many suppressing maps.
    """
    updates = [w - before for w in after]
    mean = torch.stack(updates).mean(0)
    scale, size = float(before.double().norm()), float(mean.double().norm())
    found: dict[str, Any] = {"n_runs": len(after)} | dict.fromkeys(QUANTITIES, np.nan)
    found["relative_norm"] = size / scale if scale > 0 else (0.0 if size == 0 else np.nan)
    found["erank_base"], found["erank_tuned"] = (
        _spectra.effective_rank(_spectra.singular_values(w)) for w in (before, before + mean)
    )
    if size == 0:
        return found
    s = _spectra.singular_values(mean)
    unit = s / size
    promoted = _newton_schulz.mapped(unit, maps[0])
    return found | {
        "erank": _spectra.effective_rank(s),
        "erank_chance": chance_rank(*before.shape),
        "stable_rank": float((size / s[0]) ** 2),
        "erank_promoted": _spectra.effective_rank(promoted),
        "erank_kept": _spectra.effective_rank(_newton_schulz.mapped(promoted, 0, maps[1])),
        "kept": float((unit > _newton_schulz.cut_off(maps[0])).sum()),
        **signal_to_noise(updates),
    }


def signal_to_noise(updates: Sequence[Tensor]) -> dict[str, float]:
    """snr and agreement of several runs' updates; NaN of one run."""
    if len(updates) < 2:
        return {"snr": np.nan, "agreement": np.nan, LEGACY: np.nan}
    flat = [u.double().flatten() for u in updates]
    pairs = list(combinations(range(len(flat)), 2))
    inner = {(i, j): float(flat[i] @ flat[j]) for i, j in [*pairs, *((i, i) for i in range(len(flat)))]}
    signal = float(np.mean([inner[p] for p in pairs]))
    noise = float(np.mean([inner[i, i] for i in range(len(flat))])) - signal
    sizes = {(i, j): (inner[i, i] * inner[j, j]) ** 0.5 for i, j in pairs}
    cosines = [inner[p] / sizes[p] for p in pairs if sizes[p] > 0]
    mean = torch.stack(flat).mean(0)
    spread = float(torch.stack([(u - mean).square().sum() for u in flat]).mean())
    return {
        LEGACY: float(mean.square().sum()) / spread if spread > 0 else np.nan,
        "snr": signal / noise if noise > 0 else float("inf") if signal > 0 else np.nan,
        "agreement": float(np.mean(cosines)) if cosines else np.nan,
    }


def chance_rank(rows: int, columns: int, points: int = 4001) -> float:
    """Effective rank of a Gaussian matrix of this shape: r E[s] exp(-E[s ln s] / E[s]).

    The mean is over the law of Marchenko and Pastur. Its error is about 1 / r, r being the smaller side.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        points: of the numeric mean.
    """
    small, large = sorted((rows, columns))
    ratio = small / large
    low, high = 1 - ratio**0.5, 1 + ratio**0.5  # singular values over the root of the larger side
    angle = (np.arange(points) + 0.5) * np.pi / points
    s2 = (low**2 + high**2) / 2 - (high**2 - low**2) / 2 * np.cos(angle)
    weight = np.sin(angle) ** 2 / s2
    weight /= weight.sum()
    s = np.sqrt(s2)
    mean = float((weight * s).sum())
    return float(small * mean * np.exp(-float((weight * s * np.log(s)).sum()) / mean))


def _measured(table: pd.DataFrame) -> list[str]:
    return [*QUANTITIES, *([LEGACY] if LEGACY in table else [])]


def _arrays(table: pd.DataFrame) -> xr.Dataset:
    """Each quantity by weight (and step), and the effective rank of heads; no interval (n = 1)."""
    step = ["step"] if "step" in table else []
    whole = table[table["head"].isna()].set_index([*step, "matrix"])[_measured(table)].astype(float).to_xarray()
    heads = table.dropna(subset=["head"]).astype({"head": int})
    if len(heads):
        heads = heads.assign(matrix=heads["matrix"] + " " + heads["part"])
        by_head = heads.set_index([*step, "matrix", "head"])[["erank"]].astype(float).to_xarray()
        whole = xr.merge([whole, by_head.rename(erank="erank_head")], join="outer")
    for name in list(whole.data_vars):
        whole[name].attrs = {
            "units": QUANTITIES.get(str(name), "1" if name == LEGACY else "directions"),
            "long_name": str(name),
        }
    return without_interval(whole)


def figures(result: Result) -> dict[str, Figure]:
    """Ranks over layers beside those of a random update, runs' agreement, and the rank of every head."""
    rows = result.summary()
    rows = rows.assign(kind=rows["matrix"].map(_names.kind_of), layer=rows["matrix"].map(_names.layer_of))
    rows = rows.dropna(subset=["layer"]).astype({"layer": int})
    dash = "step" if "step" in rows else None
    drawn: dict[str, Any] = {}
    for name, (quantities, title, unit) in DRAWN.items():
        if len(part := rows[rows["quantity"].isin(quantities)]):
            drawn[name] = curve(part, x="layer", color="quantity", dash=dash, facet="kind", title=title, unit=unit)
    if len(heads := rows[rows["quantity"] == "erank_head"]):
        facet = ["kind", "step"] if "step" in rows else "kind"
        drawn["heads"] = heatmap(heads, x="layer", y="head", facet=facet, title="Effective rank of each head's update")
    return drawn
