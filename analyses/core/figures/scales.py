"""Colours and ranges that belong to a quantity, so that one colour means one number in every figure."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SIGNED = "RdBu"  # as plotly.py reads it: red below zero, blue above, as in the field's papers
UNSIGNED = "Viridis"
FRACTIONS = [-0.02, 1.02]
SHARE = re.compile(r"(^|_)(accuracy|share|fraction|rate|auroc|top1|pass|correct|truncated)(_|$)")


@dataclass(frozen=True)
class Scale:
    """The colours of a quantity, the same in every figure: ends, and the name of what is coloured if not itself."""

    low: float
    high: float
    unit: str = ""
    is_log: bool = False  # the values are logarithms of what is coloured

    def of(self, values: Any) -> Any:
        return np.exp(values) if self.is_log else values


def fixed_scale(rows: pd.DataFrame, z: str) -> Scale | None:
    """The scale of the one quantity in ``z``: log-probabilities by probability, shares 0 to 1; None: its own ends."""
    quantity = str(rows["quantity"].iloc[0]) if z == "value" and "quantity" in rows and len(rows) else z
    if z == "value" and "quantity" in rows and rows["quantity"].nunique() > 1:
        return None
    finite = rows[z].to_numpy(dtype=float)
    finite = finite[np.isfinite(finite)]
    if quantity.endswith("logprob_nats") and (finite <= 0).all():
        return Scale(0.0, 1.0, "probability", is_log=True)
    if quantity.endswith("jsd_nats") and (finite >= 0).all():
        return Scale(0.0, float(np.log(2)))
    return Scale(0.0, 1.0) if are_fractions(rows, z) else None


def shared_scale(rows: pd.DataFrame, z: str, signed: bool | None, limit: float | None) -> dict[str, Any]:
    """``signed`` and ``limit`` with which every part of ``rows`` has the colours of the whole.

    Args:
        rows: rows of all parts.
        z: column that is coloured.
        signed: True: centred on 0; None: where values have both signs.
        limit: largest size shown, None: that of the values.
    """
    if limit is not None or (not signed and fixed_scale(rows, z)):
        return {"signed": signed, "limit": limit}
    whole = color_scale(rows[z], signed)
    return {"signed": whole.get("cmid") == 0, "limit": max(abs(whole["cmin"]), abs(whole["cmax"]))}


def are_fractions(rows: pd.DataFrame, y: str) -> bool:
    """True where values are shares of a whole: by their unit or name, and within 0 and 1."""
    values = rows.reindex(columns=[y, "ci_low", "ci_high"] if y == "value" else [y]).to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    names = set(rows["quantity"].astype(str)) if y == "value" and "quantity" in rows else {y}
    units = set(map(str, rows["unit"])) if "unit" in rows and y == "value" else set()
    known = units == {"fraction"} or all(SHARE.search(n) for n in names)
    return bool(known and values.size and values.min() >= 0 and values.max() <= 1)


def color_scale(values: object, signed: bool | None = None, limit: float | None = None) -> dict[str, Any]:
    """Plotly coloraxis settings: centred on zero where values have both signs, from smallest to largest otherwise.

    With ``limit`` values of one sign go from zero to it, so that two figures share a scale.

    Args:
        values: what is coloured; what is not finite is left out.
        signed: True: centred on 0; None: where values have both signs.
        limit: largest size shown, None: that of the values.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < 0 < high if signed is None else signed:
        end = limit or max(abs(low), abs(high)) or 1.0
        return {"colorscale": SIGNED, "cmin": -end, "cmax": end, "cmid": 0}
    if limit is not None:
        low, high = (-limit, 0.0) if low < 0 >= high else (0.0, limit)
    return {"colorscale": UNSIGNED, "cmin": low, "cmax": high if high > low else low + 1}
