"""A rollout log as arrays: responses, tokens without their names, sampling groups, what was not measured and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.errors import InputError
from probe.readers.arrow import lengths, per_token

if TYPE_CHECKING:
    from probe import Rollouts

KEYS = ["rollout_step", "item", "group", "group_uid", "sample"]
"""What names a response: the step of the policy that sampled it, its prompt, groups, its number among the samples."""


def responses(rollouts: Rollouts, columns: Sequence[str], by: str) -> pd.DataFrame:
    """One row per response: its names, n_tokens, `cell` (number of its sampling group), and these columns as numbers.

    `advantage` is one number a response: the mean over its tokens where the log has one per token.

    Raises:
        InputError: a column the log lacks.
    """
    rollouts.require(*columns, by=by)
    plain = [c for c in columns if c != "advantage"]
    rows = rollouts.scalars(plain) if plain else rollouts.index.copy()
    for name in plain:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    if "advantage" in columns:
        rows["advantage"] = rollouts.advantages()["advantage"].to_numpy(float)
    rows = rows.rename(columns={"step": "rollout_step"})
    rows["cell"] = rows.groupby(["rollout_step", "group_uid"], sort=True).ngroup()
    return rows[[*KEYS, "cell", "n_tokens", *columns]]


def tokens(rollouts: Rollouts, columns: Sequence[str], *, masked: bool = True) -> pd.DataFrame:
    """Response tokens without names: `response` (row of `responses`), `pos`, and these columns; masked-in ones only.

    Without names a million tokens are a few arrays; `responses` has the names.
    """
    parts: list[dict[str, np.ndarray]] = []
    first = 0
    for rows, table in rollouts.windows([*columns, "response_token_ids", "response_mask"]):
        counts = lengths(table, "response_token_ids")
        number = np.repeat(np.arange(len(rows)) + first, counts)
        first += len(rows)
        part = {"response": number, "pos": np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)}
        part |= {c: per_token(table, c, counts) for c in columns if c in table.column_names}
        if masked and "response_mask" in table.column_names:
            inside = per_token(table, "response_mask", counts).astype(bool)
            part = {name: values[inside] for name, values in part.items()}
        parts.append(part)
    return pd.DataFrame({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})


def measured(rollouts: Rollouts, *columns: str) -> str:
    """Why these columns per token cannot be used, or "": a column that is null in every row was not measured."""
    gone = [c for c in columns if c not in rollouts.columns]
    empty = [c for c in columns if c not in gone and not _any_value(rollouts, c)]
    if not gone and not empty:
        return ""
    lacks = f"lacks {', '.join(gone)}" if gone else f"has no value in {', '.join(empty)}"
    filled = "fill the log with probe.recompute at the checkpoint that sampled"
    advice = f"record the run with probe.training.recording, or {filled}"
    if "sampling_logp" in (*gone, *empty):
        advice = (
            "only the engine that sampled can say it: let the trainer keep its log-probs (TRL with vLLM, verl's "
            "calculate_log_probs)"
        )
    return f"not measured: {rollouts.source} {lacks}; {advice}"


def _any_value(rollouts: Rollouts, name: str) -> bool:
    batches = rollouts.data.to_batches(columns=[name])
    return any(batch.column(0).null_count < batch.num_rows for batch in batches)


def means_of(values: np.ndarray, response: np.ndarray, n: int) -> np.ndarray:
    """Mean of a token column by response; NaN for a response without any (tokens that are NaN are left out)."""
    seen = ~np.isnan(values)
    total = np.bincount(response[seen], values[seen], n)
    count = np.bincount(response[seen], minlength=n)
    return np.divide(total, count, out=np.full(n, np.nan), where=count > 0)


def by_cell(rows: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Mean of `values` over the responses of each row's sampling group, one number per row; NaN values are left out."""
    cell = rows["cell"].to_numpy()
    return means_of(np.asarray(values, float), cell, int(cell.max(initial=-1)) + 1)[cell]


def successes(rows: pd.DataFrame, above: float, by: str) -> np.ndarray:
    """1 where the reward is above the bound, else 0.

    Raises:
        InputError: responses without a reward.
    """
    reward = rows["reward"].to_numpy(float)
    if np.isnan(reward).any():
        bare = rows.loc[np.isnan(reward), "item"].unique()[:5]
        raise InputError(
            f"{by}: {int(np.isnan(reward).sum())} response(s) have no reward ({', '.join(map(str, bare))})"
        )
    return (reward > above).astype(float)


def standardised(rows: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """(r - mean) / std within each sampling group, population std; 0 in a group without spread."""
    centred = values - by_cell(rows, values)
    spread = np.sqrt(by_cell(rows, centred**2))
    return np.divide(centred, spread, out=np.zeros(len(values)), where=spread > 1e-12)
