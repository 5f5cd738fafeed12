"""Correlation of predictions with a measured change over updates, resampling the items behind each update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats import resample_counts
from analyses.entropy import _serial as serial


def correlations(
    table: pd.DataFrame, signals: Sequence[str], counted: Callable[[str], str], seed: int, draws: int = 1000
) -> xr.Dataset:
    """Pearson's r of each signal with the measured change over updates, resampling items within rollout batches,
    and with the interval over updates that depend on what went before (`_serial`)."""
    drawn = resampled_means(table, signals, counted, seed, draws)
    value = np.array([[_r(drawn[s][d], drawn["measured_nats"][d]) for d in range(draws + 1)] for s in signals])
    n = table["step"].nunique()
    low, high = np.nanquantile(_finite(value[:, 1:]), [0.025, 0.975], axis=1)
    r = value[:, 0]
    measured = drawn["measured_nats"][0]
    over = np.array([serial.correlation(drawn[s][0], measured) for s in signals]).reshape(-1, 3)
    parts = {"correlation": (r, low, high), "correlation_over_updates": (r, over[:, 1], over[:, 2])}
    data = xr.Dataset(coords={"signal": list(signals)})
    for name, columns in parts.items():
        for suffix, column in zip(("", "_ci_low", "_ci_high"), columns, strict=True):
            data[name + suffix] = ("signal", np.where(np.isnan(r), np.nan, column))
        data[f"{name}_n"] = ("signal", np.where(np.isnan(r), 0, n))
        data[name].attrs.update(units="1", long_name="correlation with the measured change over updates")
    agree = [float(np.mean(np.sign(drawn[s][0]) == np.sign(drawn["measured_nats"][0]))) for s in signals]
    data["same_sign"] = ("signal", np.where(np.isnan(r), np.nan, agree))
    return data


def resampled_means(
    table: pd.DataFrame, signals: Sequence[str], counted: Callable[[str], str], seed: int, draws: int
) -> dict[str, np.ndarray]:
    """Mean over tokens of each update, [draw, update]; row 0 is the data themselves."""

    out: dict[str, list[np.ndarray]] = {s: [] for s in ("measured_nats", *signals)}
    for at, batch in table.groupby("rollout_step", sort=True):
        items = sorted(batch["item"].unique())
        counts = np.vstack([np.ones(len(items)), resample_counts(len(items), draws, seed + int(str(at)))])
        for _, update in batch.groupby("step", sort=True):
            rows = update.set_index("item").reindex(items)
            for name in out:
                known = rows[name].notna()  # an item without the number has no weight in it either
                weight = counts * rows[counted(name)].where(known, 0.0).to_numpy()
                total = weight @ rows[name].fillna(0.0).to_numpy()
                some = weight.sum(1) > 0
                out[name].append(np.divide(total, weight.sum(1), out=np.full(draws + 1, np.nan), where=some))
    return {name: np.stack(columns, axis=1) for name, columns in out.items()}


def _r(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; NaN where fewer than three updates or one of the two does not vary."""
    if len(a) < 3 or np.isnan(a).any() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _finite(values: np.ndarray) -> np.ndarray:
    """Rows without any number become 0, which the caller hides: nanquantile warns about them."""
    return np.where(np.isnan(values).all(1, keepdims=True), 0.0, values)
