"""Swept perplexity tables as grids [item, step] per kind of answer and mask, with one resample of items for all.

Kinds of answers are never pooled; groups may be. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.core.stats import divide, resample_counts
from analyses.memory._curves import DRAWS
from probe.errors import InputError

LEAKED, UNSEEN, EVERYTHING = "leaked", "unseen", "all"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Grid:
    """One kind of answer: per mask summed NLL and token counts [item, step]; the draws' weights [draw, item]."""

    items: pd.Index
    group: Array
    step: Array
    nll: dict[str, Array]
    tokens: dict[str, Array]
    counts: Array

    def log_ppl(self, mask: str, members: Array, aggregate: str) -> Array:
        """ln PPL [1 + draw, step] of some items; row 0 is what was observed."""
        nll, tokens = self.nll[mask][members], self.tokens[mask][members]
        measured = ~(np.isnan(nll) | np.isnan(tokens))
        top = np.where(measured, nll if aggregate == "micro" else divide(nll, tokens), 0.0)
        bottom = np.where(measured, tokens if aggregate == "micro" else 1.0, 0.0)
        weights = self.counts[:, members]
        return divide(weights @ top, weights @ bottom)

    def contribution(self, mask: str, members: Array) -> Array:
        """Change of the mask's summed NLL since the first step, per answer token [1 + draw, step]."""
        nll, tokens = np.nan_to_num(self.nll[mask][members]), np.nan_to_num(self.tokens["answer"][members])
        weights = self.counts[:, members]
        total = divide(weights @ nll, weights @ tokens)
        return total - total[:, :1]


def grids(table: pd.DataFrame, prompt_mask: str, seed: int) -> dict[str, Grid]:
    """The table as grids, one per kind of answer: kinds are never pooled.

    Raises:
        InputError: a table of one checkpoint, one without prompt or answer rows, an item in two groups.
    """
    if "step" not in table.columns or table["step"].nunique() < 2:
        raise InputError("the paradox needs a sweep of perplexity over at least 2 checkpoints; this is one checkpoint")
    missing = {prompt_mask, "answer"} - set(table["mask"])
    if missing:
        raise InputError(f"the perplexity result has no rows of mask {sorted(missing)}")
    found: dict[str, Grid] = {}
    for kind, rows in table.groupby("answer_kind", sort=True):
        steps = np.sort(rows["step"].unique())
        groups = rows.drop_duplicates(["item", "group"]).set_index("item")["group"].sort_index()
        twice = groups.index[groups.index.duplicated()].tolist()
        if twice:
            raise InputError(f"item(s) {twice[:5]} stand in two groups (contradictory labels): correct the prompt file")
        nll, tokens = {}, {}
        for mask, of in rows.groupby("mask"):
            wide = of.pivot_table(index="item", columns="step", values=["nll_nats", "n_tokens"], aggfunc="sum")
            wide = wide.reindex(groups.index)
            nll[str(mask)], tokens[str(mask)] = (
                pd.DataFrame(wide[c]).reindex(columns=steps).to_numpy(float) for c in ("nll_nats", "n_tokens")
            )
        if "answer:first" in nll:
            nll["answer:rest"] = nll["answer"] - np.nan_to_num(nll["answer:first"])
            tokens["answer:rest"] = tokens["answer"] - np.nan_to_num(tokens["answer:first"])
        counts = resample_counts(len(groups), DRAWS, seed, groups.to_numpy())
        counts = np.concatenate([np.ones((1, len(groups))), counts])
        found[str(kind)] = Grid(groups.index, groups.to_numpy(), steps, nll, tokens, counts)
    return found


def cells(of: dict[str, Grid], leaked: tuple[str, ...], unseen: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Cells of the group axis: every group, all of them, and the leaked and the unseen ones pooled."""
    names = sorted({str(g) for grid in of.values() for g in grid.group})
    unknown = sorted((set(leaked) | set(unseen)) - set(names))
    if unknown:
        raise InputError(f"no groups {unknown} in the perplexity result; it has {names}")
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    if len(names) > 1:
        found[EVERYTHING] = tuple(names)
    found |= {LEAKED: leaked or leaked_of(names), UNSEEN: unseen or unseen_of(names)}
    return {name: groups for name, groups in found.items() if groups}


def leaked_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Groups that the model may have seen, by their names."""
    return tuple(g for g in groups if g.startswith("leak"))


def seen_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Groups that the model may have seen in any training, facts planted on purpose included, by their names."""
    return tuple(g for g in groups if g.startswith(("leak", "planted", "member")))


def unseen_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Groups that the model has not seen, by their names."""
    return tuple(g for g in groups if g in ("unseen", "stable", "nonmember"))


def is_in(grid: Grid, groups: tuple[str, ...]) -> Array:
    return np.isin(grid.group.astype(str), groups)
