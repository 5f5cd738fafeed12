"""Whether some score tells members from non-members, over all scores and kinds of answers. Never imports torch."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.memory import _membership as membership

SCORES = ("loglik", "min_k", "min_k_plus", "zlib", "cdd")
SHIFTED = 0.65  # a split that words alone tell apart this well is no test of memory
FEWEST = 8  # texts on either side
TELLS = "any score tells members from non-members"


def told_apart(kind: str, rows: pd.DataFrame, labels: np.ndarray, shift: float, kinds: int) -> Claim:
    """The claim of one kind of answer.

    Args:
        kind: of answer.
        rows: one column per score, one row per text.
        labels: which texts are members.
        shift: AUROC of words alone.
        kinds: of answers, all of which are looked at.
    """
    sizes = int(labels.sum()), int((~labels).sum())
    if min(sizes) < FEWEST:
        why = f"there are {sizes[0]} members and {sizes[1]} non-members"
        return Claim("membership", UNJUDGED, TELLS, group=kind, why=why, needs=f"at least {FEWEST} of each")
    if shift > SHIFTED:
        why = f"words alone tell them apart (AUROC {shift:.2f})"
        return Claim("membership", UNJUDGED, TELLS, group=kind, why=why, needs="non-members of the same distribution")
    measured = [s for s in SCORES if rows[s].notna().all()]
    if not measured:
        why = "no score was measured on all texts"
        return Claim("membership", UNJUDGED, TELLS, group=kind, why=why, needs="texts that all can be scored")
    level = 1 - 0.05 / (kinds * len(measured))
    each = {s: membership.separation(rows[s].to_numpy(float), labels, level=level)["auroc"] for s in measured}
    best = max(measured, key=lambda s: abs(float(each[s].value) - 0.5))
    value, low, high = (float(v) for v in (each[best].value, each[best].ci_low, each[best].ci_high))
    is_found = low > 0.5 or high < 0.5
    what = f"{best} tells members from non-members, AUROC" if is_found else TELLS
    return Claim(
        "membership", FOUND if is_found else NONE, what, estimand="AUROC of members", effect=value,
        low=low, high=high, is_change=False, n=min(sizes), group=kind,
        family=f"{len(measured)} scores, {kinds} kinds of answers", control="non-members (AUROC .5)",
        assumptions=(f"words alone: AUROC {shift:.2f}",), caveat="members may differ from non-members otherwise",
    )  # fmt: skip
