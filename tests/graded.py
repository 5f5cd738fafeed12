"""Graded responses as `evaluate` gives them, drawn from known rates: for analyses that read its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.core.result import Result


def answered(answers: Sequence[Sequence[str | None]], right: str = "1", **columns: Any) -> pd.DataFrame:
    """Rows of sampled responses, one list of answers per item; None has no readable answer."""
    rows = [
        {
            "item": f"q{i:03d}", "group": "g", "answer_kind": "given", "decoding": "sampled", "sample": s,
            "text": f"so it is {a}", "answer": a, "gold": right, "n_tokens": 4.0, "truncated": 0.0,
            "status": "unparsed" if a is None else "correct" if a == right else "wrong",
            "correct": np.nan if a is None else float(a == right),
        }
        for i, of in enumerate(answers)
        for s, a in enumerate(of)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def drawn(rates: Sequence[float], n: int, seed: int, **columns: Any) -> pd.DataFrame:
    """`n` samples of every item, right at its own rate."""
    rng = np.random.default_rng(seed)
    return answered([["1" if x < p else "2" for x in rng.random(n)] for p in rates], **columns)


def swept(per_step: Mapping[int, pd.DataFrame]) -> Result:
    """A sweep of `evaluate` over steps."""
    return Result.of(pd.concat([rows.assign(step=step) for step, rows in per_step.items()], ignore_index=True))
