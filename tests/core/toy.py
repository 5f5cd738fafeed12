"""Two toy analyses, put into the registry by the fixture ``toys``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import Analysis, analysis
from analyses.core.result import Result

if TYPE_CHECKING:
    from probe import Prompts

CALLS: list[str] = []


@analysis
def prompt_length(prompts: Prompts, *, unit: Literal["chars", "words"] = "chars", scale: float = 1.0) -> Result:
    """Length of each prompt.

    Args:
        unit: what is counted.
        scale: factor.
    """
    CALLS.append("prompt_length")
    counts = [scale * (len(i.prompt) if unit == "chars" else len(i.prompt.split())) for i in prompts.items]
    table = pd.DataFrame({"item": [i.id for i in prompts.items], "length": counts})
    value = xr.Dataset({"length": ((), float(np.mean(counts)), {"units": unit})})
    bounds = {f"length_{s}": ((), float(v)) for s, v in (("ci_low", np.nan), ("ci_high", np.nan), ("n", len(counts)))}
    return Result.of(table, value.assign(bounds), verdict="short" if max(counts) < 10 else "long")


@analysis
def longest(lengths: Annotated[Result, "prompt_length"], extra: Annotated[Result, "prompt_length"] | None) -> Result:
    """The longest prompt."""
    return Result.of(lengths.table.nlargest(1, "length"), warnings=[] if extra is None else ["extra given"])


TOYS: dict[str, Analysis] = {a.name: a for a in (prompt_length, longest)}
