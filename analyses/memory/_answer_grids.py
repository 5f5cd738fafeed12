"""Swept perplexity tables as grids [item, step] per kind of answer and mask, with one resample of items for all.

Kinds of answers are never pooled; groups may be. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.core.reading import roles as roles_of
from analyses.core.reading.roles import roles
from analyses.core.stats.resampling import clusters_of, divide, resample_counts
from analyses.memory._curves import DRAWS
from probe.errors import InputError

SEEN, UNSEEN, EVERYTHING = "seen items", "unseen items", "all"
Array = np.ndarray


@dataclass(frozen=True)
class AnswerGrid:
    """One kind of answer: per mask summed NLL and token counts [item, step]; the draws' weights [draw, item].

    `role` is seen, unseen or None per item, `clusters` a label per item or None.
    """

    items: pd.Index
    group: Array
    role: Array
    clusters: list[str] | None
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

    def change(self, mask: str, members: Array, aggregate: str) -> Array:
        """Change of ln PPL since the first step [1 + draw, step], over the items measured at both."""
        top, bottom, both = self._paired(mask, members)
        if aggregate == "macro":
            top, bottom = divide(top, bottom), np.ones_like(bottom)
        weights = self.counts[:, members]

        def level(at: Array, of: Array) -> Array:
            return divide(weights @ np.where(both, at, 0.0), weights @ np.where(both, of, 0.0))

        return level(top, bottom) - level(top[:, :1], bottom[:, :1])

    def contribution(self, mask: str, members: Array) -> Array:
        """Change of the mask's summed NLL since the first step, per answer token [1 + draw, step]; items as above."""
        nll, _, both = self._paired(mask, members)
        _, tokens, whole = self._paired("answer", members)
        both = both & whole
        weights = self.counts[:, members]

        def level(at: Array, of: Array) -> Array:
            return divide(weights @ np.where(both, at, 0.0), weights @ np.where(both, of, 0.0))

        return level(nll, tokens) - level(nll[:, :1], tokens[:, :1])

    def _paired(self, mask: str, members: Array) -> tuple[Array, Array, Array]:
        """Summed NLL and token counts of some items, and which are measured both then and at the first step."""
        nll, tokens = self.nll[mask][members], self.tokens[mask][members]
        measured = ~(np.isnan(nll) | np.isnan(tokens)) & (tokens > 0)
        return nll, tokens, measured & measured[:, :1]

    def per_item(self, mask: str) -> Array:
        """Mean NLL per token of every item and step [item, step]; NaN where not measured."""
        return divide(self.nll[mask], self.tokens[mask])


def grids(
    table: pd.DataFrame, prompt_mask: str, seed: int, seen: Sequence[str] = (), unseen: Sequence[str] = ()
) -> dict[str, AnswerGrid]:
    """The table as grids, one per kind of answer: kinds are never pooled; roles as in `analyses.core.reading.roles`.

    Raises:
        InputError: a table of one checkpoint, one without prompt or answer rows, an item in two groups.
    """
    if "step" not in table.columns or table["step"].nunique() < 2:
        raise InputError("the paradox needs a sweep of perplexity over at least 2 checkpoints; this is one checkpoint")
    missing = {prompt_mask, "answer"} - set(table["mask"])
    if missing:
        raise InputError(f"the perplexity result has no rows of mask {sorted(missing)}")
    found: dict[str, AnswerGrid] = {}
    table = table.assign(role=roles(table, seen, unseen))
    for kind, rows in table.groupby("answer_kind", sort=True):
        steps = np.sort(rows["step"].unique())
        groups = rows.drop_duplicates(["item", "group"]).set_index("item")["group"].sort_index()
        twice = groups.index[groups.index.duplicated()].tolist()
        if twice:
            raise InputError(f"item(s) {twice[:5]} stand in two groups (contradictory labels): correct the prompt file")
        nll, tokens = {}, {}
        for mask, of in rows.groupby("mask"):
            wide = of.dropna(subset=["nll_nats", "n_tokens"]).pivot_table(
                index="item", columns="step", values=["nll_nats", "n_tokens"], aggfunc="sum"
            )
            wide = wide.reindex(groups.index)
            nll[str(mask)], tokens[str(mask)] = (
                pd.DataFrame(wide[c]).reindex(columns=steps).to_numpy(float) for c in ("nll_nats", "n_tokens")
            )
        if "answer:first" in nll:
            nll["answer:rest"] = nll["answer"] - nll["answer:first"]
            tokens["answer:rest"] = tokens["answer"] - tokens["answer:first"]
        known = rows.drop_duplicates("item").set_index("item").reindex(groups.index)
        clusters = clusters_of(groups.index)
        if "cluster" in known:
            clusters = known["cluster"].where(known["cluster"].notna(), groups.index.to_series()).astype(str).tolist()
        counts = resample_counts(len(groups), DRAWS, seed, groups.to_numpy(), clusters)
        counts = np.concatenate([np.ones((1, len(groups))), counts])
        role = known["role"].to_numpy()
        found[str(kind)] = AnswerGrid(groups.index, groups.to_numpy(), role, clusters, steps, nll, tokens, counts)
    return found


def cells(of: dict[str, AnswerGrid]) -> list[str]:
    """Cells of the group axis: every group, all of them, and what was seen and what was not."""
    names = sorted({str(g) for grid in of.values() for g in grid.group})
    said = {r for grid in of.values() for r in grid.role if r is not None}
    pooled = [cell for cell, role in ((SEEN, roles_of.SEEN), (UNSEEN, roles_of.UNSEEN)) if role in said]
    return [*names, *([EVERYTHING] if len(names) > 1 else []), *pooled]


def is_in(grid: AnswerGrid, cell: str) -> Array:
    """Which items belong to a cell."""
    if cell in (SEEN, UNSEEN):
        return grid.role == (roles_of.SEEN if cell == SEEN else roles_of.UNSEEN)
    return np.ones(len(grid.items), bool) if cell == EVERYTHING else grid.group.astype(str) == cell
