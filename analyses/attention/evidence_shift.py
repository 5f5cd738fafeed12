"""Which heads did training move onto the evidence of a question, and which off it? Two checkpoints, head by head.

Definition: auroc and mass of every head on the named evidence, as in `evidence_attention`, for the same items in base
and tuned; auroc_change and mass_change = tuned minus base, items paired. A head moved where auroc_change differs from 0
for all heads together.

Units: shares.

Source: TABATTN (AUROC of attention on evidence); the comparison of two checkpoints is this toolkit's.

Does not show: that a head uses what it attends to now, or that training acted on this head: its inputs moved too. A
head that attends to places, not to content, moves with them: shuffle the evidence's places.

Control: the same checkpoint twice (0); `shuffled_change`, the change for evidence moved elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.attention import _evidence
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, heatmap
from analyses.core.result import Result
from analyses.core.work import Case, Work

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

BY = ["group", "answer_kind"]
FEWEST = 8  # items
LABELS = {
    "auroc_change": "AUROC on evidence, tuned minus base", "mass_change": "share of attention on evidence, change",
    "shuffled_change": "AUROC of evidence moved elsewhere, change",
}  # fmt: skip
WHAT = "training moved a head onto the evidence or off it"


def _work(case: Case) -> Work:
    heads = case.n_layers * case.size.shape.n_heads
    return Work(block_rows=2 * case.full_pass, rows=heads, row_bytes=60)


@analysis(work=_work)
def evidence_shift(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    evidence: str = "evidence",
    tags: tuple[str, ...] = (),
    queries: Literal["first", "answer"] = "first",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Change of every head's attention on the named evidence between two checkpoints, and which heads moved.

    Rows: item, group, answer_kind, layer, head, auroc_base, auroc_tuned, auroc_change, mass_change, shuffled_change.

    Args:
        seed: shuffled evidence and the bootstrap over items.
    """
    spans = _evidence.named(prompts, evidence, tags)
    warnings = reading.pair_warnings(base, tuned)
    read = [
        pd.concat(
            [
                _evidence.heads(model, batch, spans, queries, seed)
                for batch in reading.batches(model, prompts, "attention on evidence", batch_size=batch_size)
            ]
        )
        for model in (base, tuned)
    ]
    table = paired(*read).merge(prompts.roles(), how="left")
    at = ["layer", "head", *BY]
    how: dict[str, Any] = {"seed": seed, "units": "1"}
    parts = [stats.estimate(table, q, at, long_name=v, **how) for q, v in LABELS.items()]
    claims = [claim for of, rows in table.groupby(BY, sort=True) for claim in _claims(rows, of, seed)]
    return Result.of(table, xr.merge(parts, join="outer"), claims=claims, warnings=warnings)


def paired(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Rows of both checkpoints side by side, one an item and head, in order."""
    keys = ["item", *BY, "layer", "head"]
    both = before.merge(after, on=keys, suffixes=("_base", "_tuned"), validate="one_to_one")
    for name in ("auroc", "mass", "shuffled"):
        both[f"{name}_change"] = both[f"{name}_tuned"] - both[f"{name}_base"]
    wanted = [*keys, "auroc_base", "auroc_tuned", *LABELS]
    return both[wanted].sort_values(keys, kind="stable", ignore_index=True)


def _claims(rows: pd.DataFrame, of: Any, seed: int) -> list[Claim]:
    """The clearest head that moved, for all heads together."""
    wide = rows.pivot_table("auroc_change", "item", ["layer", "head"], sort=True).dropna()
    said: Fields = {
        "group": ", ".join(map(str, of)), "n": len(wide), "family": f"{wide.shape[1]} heads",
        "control": "the base checkpoint", "estimand": "change of the AUROC of attention on evidence",
    }  # fmt: skip
    if len(wide) < FEWEST:
        why, needs = f"{len(wide)} items have evidence", f"at least {FEWEST} items"
        return [Claim("shift", UNJUDGED, WHAT, why=why, needs=needs, **said)]
    test = stats.mean_max_t(wide.to_numpy(), clusters=stats.clusters_of(wide.index), seed=seed, draws=1000)
    moved = (test.low > 0) | (test.high < 0)
    best = int(np.argmax(np.where(moved, np.abs(test.value), np.abs(test.value) - 10)))
    layer, head = wide.columns[best]
    said |= {"effect": float(test.value[best]), "low": float(test.low[best]), "high": float(test.high[best])}
    said |= {"p": float(test.p_cell[best]), "place": f"layer {layer} head {head}"}
    said |= {
        "assumptions": (f"heads moved onto it: {int((test.low > 0).sum())}", f"off it: {int((test.high < 0).sum())}")
    }
    if not moved[best]:
        return [Claim("shift", NONE, WHAT, **said)]
    way = "onto" if test.value[best] > 0 else "off"
    return [Claim("shift", FOUND, f"training moved head {head} of layer {layer} {way} the evidence", **said)]


def figures(result: Result) -> dict[str, Figure]:
    """Change of every head as a map; with steps, the largest change over them."""
    rows = result.summary()
    area = rows[rows["quantity"] == "auroc_change"]
    panels = [d for d in ("step", *BY) if d in rows]
    title = "Change of the AUROC of attention on evidence"
    drawn = {"shift": heatmap(area, x="head", y="layer", facet=panels, signed=True, title=title)}
    if "step" in rows:
        over = area.groupby(["step", "layer", *BY], as_index=False)[["value"]].mean()
        drawn["layers"] = curve(over, x="step", color="layer", facet=BY, title=f"{title}, mean of a layer's heads")
    return drawn
