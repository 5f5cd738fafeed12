"""Are responses to easy and to hard prompts less certain than to middling ones? Entropy by difficulty.

Definition: half of a prompt's rollouts of a step (those of even number) say whether it is easy (at least 2/3 succeed),
medium or hard (below 1/3); entropy is the mean over tokens, then over the other half of its rollouts, so that a
rollout's own success does not choose its class. u_shape = (H_easy + H_hard) / 2 - H_medium over prompts, its p by
permuting the classes over prompts (within a step), as a multiple of its standard error: classes of unlike spread
are no finding.
Units: nats.
Source: DiffAdapt (U-shaped entropy over difficulty; its probe of hidden states is `linear_probe`).
Does not show: that entropy follows difficulty: longer responses, or cut ones, differ in both. Few rollouts mistake the
    class, which flattens the shape.
Control: classes permuted over prompts (0); a flat entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import forest
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log
from analyses.credit.window_entropy import LEVELS, difficulty
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Rollouts

FEWEST = 5  # prompts of each class
ALPHA = 0.05
WHAT = "easy and hard prompts have more entropy than middling ones"


@analysis
def difficulty_entropy(rollouts: Rollouts, *, success_above: float = 0.5, draws: int = 999, seed: int = 0) -> Result:
    """Mean entropy of easy, medium and hard prompts, and the U shape with its permutation test.

    Needs entropies per token (`H`); without them everything is NaN and a warning says why.

    Rows, one per prompt and step: rollout_step, item, group, n (rollouts), pass_rate (of the half that decides),
    difficulty, entropy_nats (of the other half).

    Args:
        draws: permutations of the classes.
        seed: permutations and the bootstrap over items.
    """
    rows = _log.responses(rollouts, ["reward"], "difficulty_entropy")
    rows["success"] = _log.successes(rows, success_above, "difficulty_entropy")
    why = _log.measured(rollouts, "H")
    if why:
        rows["entropy_nats"] = np.nan
    else:
        tokens = _log.tokens(rollouts, ["H"])
        rows["entropy_nats"] = _log.means_of(tokens["H"].to_numpy(float), tokens["response"].to_numpy(), len(rows))
    table = _prompts(rows)
    value, p, counts = u_shape(table, draws, seed)
    variants = table.rename(columns={"difficulty": "variant"})
    data = estimate(variants, "entropy_nats", ["variant"], seed=seed, units="nats", long_name="entropy of responses")
    data = data.assign(u_shape_nats=((), value, {"units": "nats"}), u_shape_p=((), p))
    return Result.of(
        table, data, claims=[_claim(value, p, counts)], warnings=[*rollouts.notes, *([why] if why else [])]
    )


def _prompts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt and step: its class by one half of the rollouts, its entropy by the other."""
    place = rows.groupby(["rollout_step", "item"]).cumcount()
    decides = (place % 2 == 0).to_numpy()
    keys = ["rollout_step", "item", "group"]
    first = rows[decides].groupby(keys, sort=True).agg(pass_rate=("success", "mean"))
    other = rows[~decides].groupby(keys, sort=True).agg(entropy_nats=("entropy_nats", "mean"))
    found = first.join(other, how="inner").reset_index()
    if found.empty:
        raise InputError("difficulty_entropy needs at least 2 rollouts of a prompt at one step: one half decides")
    n = rows.groupby(keys).size().rename("n").reset_index()
    found = found.merge(n, on=keys)
    return found.assign(difficulty=difficulty(found["pass_rate"].to_numpy()))[
        [*keys, "n", "pass_rate", "difficulty", "entropy_nats"]
    ]


def u_shape(table: pd.DataFrame, draws: int, seed: int) -> tuple[float, float, dict[str, int]]:
    """(easy + hard) / 2 - medium of prompts, its two-sided p with classes permuted within steps, prompts a class."""
    kept = table.dropna(subset=["entropy_nats"])
    entropy, codes = kept["entropy_nats"].to_numpy(), kept["difficulty"].map(LEVELS.index).to_numpy(int)
    counts = {level: int((codes == k).sum()) for k, level in enumerate(LEVELS)}
    if min(counts.values(), default=0) == 0:
        return float("nan"), float("nan"), counts

    (value, t), rng = contrast(entropy, codes), np.random.default_rng(seed)
    steps = [np.flatnonzero(kept["rollout_step"].to_numpy() == s) for s in kept["rollout_step"].unique()]
    beyond = 0
    for _ in range(draws):
        mixed = codes.copy()
        for members in steps:
            mixed[members] = rng.permutation(codes[members])
        beyond += abs(contrast(entropy, mixed)[1]) >= abs(t) * (1 - 1e-9)
    return value, (1 + beyond) / (1 + draws), counts


def contrast(entropy: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """(easy + hard) / 2 - medium, and it over its standard error: classes may differ in spread and size."""
    weight = np.array([0.5, -1.0, 0.5])
    n = np.bincount(codes, minlength=3)
    means = np.bincount(codes, entropy, 3) / n
    spread = np.bincount(codes, (entropy - means[codes]) ** 2, 3) / np.maximum(n - 1, 1)
    value, error = float(weight @ means), float(weight**2 @ (spread / n)) ** 0.5
    return value, value / error if error > 0 else float(np.copysign(np.inf, value)) if value else 0.0


def _claim(value: float, p: float, counts: dict[str, int]) -> Claim:
    said: Fields = {
        "estimand": "(easy + hard) / 2 - medium", "control": "classes permuted over prompts",
        "n": min(counts.values(), default=0), "family": "one contrast",
    }  # fmt: skip
    if min(counts.values(), default=0) < FEWEST or np.isnan(value):
        shown = ", ".join(f"{n} {level}" for level, n in counts.items())
        needs = f"at least {FEWEST} prompts of each class, with entropies"
        return Claim("u shape", UNJUDGED, WHAT, why=f"prompts are {shown}", needs=needs, **said)
    answer = FOUND if p <= ALPHA and value > 0 else NONE
    return Claim("u shape", answer, WHAT, effect=value, unit="nats", p=p, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Entropy of easy, medium and hard prompts."""
    rows = result.summary()
    rows = rows[rows["quantity"] == "entropy_nats"]
    color = "step" if "step" in rows else None
    title = "Entropy of responses by the difficulty of the prompt, 95 % over items"
    return {"difficulty": forest(rows, label="variant", color=color, reference=None, title=title)}
