"""Training stages behind curves over steps: shades, the bounds they are read against, the checkpoint to ship."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analyses.core.figures.layout import NEUTRAL, keyed, shade, star
from analyses.core.result import NOT_ASSESSABLE, STAGES

COLORS = ("#7F7F7F", "#009E73", "#D55E00", "#CC79A7", "#7F7F7F")
SHADES: dict[str, str] = dict(zip((*STAGES, NOT_ASSESSABLE), COLORS, strict=True))


def stage_shades(figure: go.Figure, table: pd.DataFrame) -> go.Figure:
    """``figure`` with the stages of a run shaded, named in its legend; a stage reaches to the next one's start.

    Args:
        figure: curves over steps.
        table: rows of one run with the columns step and stage, in order.
    """
    numbered = (table["stage"] != table["stage"].shift()).cumsum()
    starts = table.groupby(numbered).agg(start=("step", "first"), stage=("stage", "first"))
    ends = [*starts["start"].iloc[1:], table["step"].iloc[-1]]
    for start, end, stage in zip(starts["start"], ends, starts["stage"], strict=True):
        shade(figure, float(start), float(end), color=SHADES.get(str(stage), NEUTRAL))
    for stage in dict.fromkeys(map(str, table["stage"])):
        keyed(figure, stage, SHADES.get(stage, NEUTRAL))
    return figure


def explained(figure: go.Figure, table: pd.DataFrame, quantity: str, rho: float) -> go.Figure:
    """``figure`` with stages, the bound that ``quantity`` is read against, and a star at the checkpoint to ship."""
    stage_shades(figure, table)
    log_ppl: Any = np.log(table["perplexity"])
    curves: dict[str, tuple[Any, Any, str]] = {
        "accuracy": (table["accuracy"], table["accuracy"].max() - table["delta"], "best accuracy − tolerance"),
        "log_ppl": (log_ppl, np.log(table["perplexity_min"] * (1 + rho)), f"{1 + rho:g} × smallest perplexity so far"),
    }
    if quantity not in curves or NOT_ASSESSABLE in set(table["stage"]):
        return figure
    values, bound, name = curves[quantity]
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    drawn: Any = figure
    drawn.add_scatter(x=table["step"], y=bound, mode="lines", line=line, name=name)
    is_shipped = table["recommended"].astype(bool)
    for step, value in zip(table["step"][is_shipped], values[is_shipped], strict=True):
        star(figure, float(step), float(value), "ship", color=SHADES["good fit"])
    return figure
