"""What an update taught, at the level of whole responses: the distribution of pi* / pi_ref, and its effective samples.

Definition: responses were sampled from `base` (pi_ref); `tuned` is pi*. With ln r = ln pi*(y|x) - ln pi_ref(y|x) over
    a response's tokens, q is proportional to r; as y comes from pi_ref its weights are w = r / pi_ref = pi* / pi_ref^2
    (not r, which are those of pi* itself). Per prompt: Z = mean of w, entropy H(q) = ln Z - sum(w ln r) / sum(w), ess =
    (sum w)^2 / sum w^2. H(q) is not measured where ess < `least_ess`. displacement = mean of ln r over responses.
Units: nats; ess in responses.
Source: DID, arXiv 2505.23761 (its estimator is unpublished; token-DID is in differential_entropy).
Does not show: what was learnt where ess is small, which for responses of more than a few tokens is nearly always:
    1 / pi_ref spans many orders of magnitude. That it is not measured is then the result.
Control: identical checkpoints (ln r = 0); pi* = pi_ref^(1 + gamma), for which q is pi_ref^gamma.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Model, Rollouts

FEWEST = 8  # prompts
LABELS = {"entropy_nats": ("nats", "entropy of pi* / pi_ref"), "ess": ("responses", "effective sample size"),
          "displacement_nats": ("nats", "ln pi* - ln pi_ref of responses")}  # fmt: skip


def _work(case: Case) -> Work:
    """A pass of each checkpoint over every response."""
    return passes(case, "answer")


@analysis(work=_work)
def sequence_ratios(
    base: Model, tuned: Model, rollouts: Rollouts, *, least_ess: float = 10.0, batch_size: int = 8, seed: int = 0
) -> Result:
    """Entropy of the ratio of two checkpoints over responses of every prompt, with its effective sample size.

    Rows, one per prompt and step of the log: rollout_step, item, group, n (responses), ess, entropy_nats (NaN below
    `least_ess`), displacement_nats.

    Args:
        least_ess: effective samples below which the entropy is not measured.
    """
    if least_ess < 1:
        raise InputError(f"least_ess={least_ess}; expected at least 1")
    warnings = reading.pair_warnings(base, tuned)
    rollouts = rollout_tokens.readable(rollouts, base)
    plan: dict[str, Any] = {"batch_size": batch_size, "what": "sequence ratios"}
    frame = rollout_tokens.read([base, tuned], rollouts, _values, **plan)
    own = frame.groupby([*rollout_tokens.KEYS[:3], "group_uid", "sample"], sort=True)[["ref", "star"]].sum()
    made: list[dict[str, Any]] = []
    for at, of in own.reset_index().groupby(rollout_tokens.KEYS[:3], sort=True):
        found = of_prompt(of["star"].to_numpy(float), of["ref"].to_numpy(float))
        if found["ess"] < least_ess:
            found["entropy_nats"] = np.nan
        made.append({**dict(zip(rollout_tokens.KEYS[:3], at, strict=True)), "n": len(of), **found})
    table = pd.DataFrame(made)
    few = int(table["entropy_nats"].isna().sum())
    if few:
        warnings.append(f"{few} of {len(table)} prompts have fewer than {least_ess:g} effective samples: no entropy")
    parts = [estimate(table, q, ["rollout_step"], seed=seed, units=u, long_name=v) for q, (u, v) in LABELS.items()]
    claims = [_moved(table, seed), *_learnt(table, least_ess)]
    return Result.of(table, xr.merge(parts), claims=claims, warnings=[*warnings, *rollouts.notes])


def _moved(table: pd.DataFrame, seed: int) -> Claim:
    """Whether the update made base's own responses less likely: the mean of ln r is minus KL(base || tuned)."""
    own = table.groupby("item", as_index=False)[["displacement_nats"]].mean().dropna()
    said: Fields = {
        "n": len(own), "control": "identical checkpoints (0)", "unit": "nats per response",
        "estimand": "mean of ln pi* - ln pi_ref over responses of the base, minus their KL",
    }  # fmt: skip
    what = "the update made the base's own responses less likely"
    if len(own) < FEWEST:
        why, needs = f"{len(own)} prompts were measured", f"at least {FEWEST} prompts"
        return Claim("displacement", UNJUDGED, what, why=why, needs=needs, **said)
    data = estimate(own, "displacement_nats", [], seed=seed, units="nats")
    value, low, high = (float(data[f"displacement_nats{side}"]) for side in ("", "_ci_low", "_ci_high"))
    return Claim("displacement", FOUND if high < 0 else NONE, what, effect=value, low=low, high=high, **said)


def _learnt(table: pd.DataFrame, least_ess: float) -> Iterator[Claim]:
    """That the entropy of the ratio is not known, where it is nowhere: a result in itself."""
    if table["entropy_nats"].isna().all():
        why = f"no prompt has {least_ess:g} effective samples"
        needs = "more samples of each prompt, or shorter responses"
        yield Claim("ratio", UNJUDGED, "what was learnt is concentrated", why=why, needs=needs, n=len(table))


def _values(logits: tuple[Any, ...], targets: Any) -> dict[str, Any]:
    at = targets[:, None]
    return {name: reading.log_probs(z).gather(-1, at)[:, 0] for name, z in zip(("ref", "star"), logits, strict=True)}


def of_prompt(
    star: Float[np.ndarray, " response"],
    ref: Float[np.ndarray, " response"],
    mass: Float[np.ndarray, " response"] | None = None,
) -> dict[str, float]:
    """Entropy, effective samples and displacement from log-probabilities of sampled responses.

    Args:
        star: ln pi* of each response.
        ref: ln pi_ref of each.
        mass: share of each in the sample, where outcomes are enumerated; equal ones by default.
    """
    ratio = star - ref
    share = np.log(np.full(len(star), 1 / len(star)) if mass is None else mass)
    weight = ratio - ref + share
    total = float(scipy.special.logsumexp(weight))
    expected = float((np.exp(weight - total) * ratio).sum())
    return {
        "ess": float(np.exp(2 * total - scipy.special.logsumexp(2 * weight))), "entropy_nats": total - expected,
        "displacement_nats": float((np.exp(share) * ratio).sum()),
    }  # fmt: skip


def figures(result: Result) -> dict[str, Figure]:
    """Effective samples, entropy and displacement over the steps of the log."""
    rows = result.summary()
    color = "step" if "step" in rows else None
    title = "Ratio of two checkpoints over whole responses, 95 % over items"
    return {"ratios": curve(rows, x="rollout_step", facet="quantity", color=color, title=title)}
