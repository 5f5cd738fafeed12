"""What training on data changed in a checkpoint's certainty about it: InstructDiff's selection, and token-DID.

Definition: for each response, under base and tuned checkpoints: delta_entropy = mean token entropy of base minus tuned
    (> 0: compressed, < 0: expanded), delta_nll = mean NLL of tuned minus base. InstructDiff keeps a response unless its
    delta_nll is among the `trim` lowest or highest, then takes those of smallest delta_entropy until `beta` of all
    tokens are used. token-DID: H(softmax(z_tuned - z_base)) per state: the entropy of the logit change read as a
    distribution, ln V where nothing changed; concentration = ln V - that.
Units: nats per token.
Source: InstructDiff, arXiv 2601.23006 (its code has delta_nll with the other sign: trimming is symmetric). token-DID
    replaces the sequence-level quantity of 2505.23761, whose estimator is unpublished: it is not that quantity.
Does not show: that the selected responses train better. A small token-DID says the change of logits is concentrated,
    not that it is good; noise in many logits lowers it too.
Control: identical checkpoints (0, and ln V); EntropyMax, i.e. the responses of largest entropy, which did as well
    in one of the paper's domains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, scatter
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

QUANTITIES = {
    "delta_entropy_nats": "entropy of base minus tuned",
    "delta_nll_nats": "NLL of tuned minus base",
    "did_entropy_nats": "entropy of the logit change",
    "did_concentration_nats": "ln V minus that entropy",
}


def _work(case: Case) -> Work:
    """A pass of each checkpoint over every response."""
    return passes(case, "answer")


@analysis(renamed={"gamma": "trim"}, work=_work)
def differential_entropy(
    base: Model,
    tuned: Model,
    rollouts: Rollouts,
    *,
    trim: float = 0.1,
    beta: float = 0.1,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Differential entropy and NLL of every response between two checkpoints, InstructDiff's choice, and token-DID.

    Rows, one per response: step (of the log; in a sweep, of the tuned checkpoint), rollout_step, item, group,
    group_uid, sample, n_tokens, entropy_base_nats, entropy_tuned_nats, nll_base_nats, nll_tuned_nats,
    delta_entropy_nats, delta_nll_nats, did_entropy_nats, did_concentration_nats, kept (after trimming), selected.

    Args:
        trim: share of responses trimmed at each end of delta_nll.
        beta: share of all tokens that the selection may use.
    """

    warnings = reading.pair_warnings(base, tuned)
    rollouts = rollout_tokens.readable(rollouts, base)
    plan: dict[str, Any] = {"batch_size": batch_size, "what": "differential entropy"}
    frame = rollout_tokens.read([base, tuned], rollouts, _values, **plan)
    table = rollout_tokens.per_response(frame, list(frame.columns[frame.columns.str.endswith("_nats")]))
    table["delta_entropy_nats"] = table["entropy_base_nats"] - table["entropy_tuned_nats"]
    table["delta_nll_nats"] = table["nll_tuned_nats"] - table["nll_base_nats"]
    table["did_concentration_nats"] = np.log(base.shape.d_vocab) - table["did_entropy_nats"]
    table["kept"] = trimmed(table["delta_nll_nats"].to_numpy(), trim)
    table["selected"] = selected(
        table["delta_entropy_nats"].to_numpy(), table["n_tokens"].to_numpy(), table["kept"].to_numpy(), beta
    )
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the tuned checkpoint's step here
    return Result.of(table, _aggregate(table, frame, seed), warnings=[*warnings, *rollouts.notes])


def _values(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    logp, logq = (reading.log_probs(z) for z in logits)
    at = targets[:, None]
    return {
        "entropy_base_nats": reading.entropy(logp),
        "entropy_tuned_nats": reading.entropy(logq),
        "nll_base_nats": -logp.gather(-1, at)[:, 0],
        "nll_tuned_nats": -logq.gather(-1, at)[:, 0],
        "did_entropy_nats": did_entropy(logits[0], logits[1]),
    }


def did_entropy(base: Float[Tensor, "row vocab"], tuned: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    """H(softmax(z_tuned - z_base)) in [0, ln V]; ln V exactly where the change is the same for every token."""

    return reading.entropy(reading.log_probs(tuned.double() - base.double()))


def trimmed(delta_nll: Float[np.ndarray, " response"], gamma: float) -> Bool[np.ndarray, " response"]:
    """Responses that are left after dropping floor(gamma N) at each end; all, where that would leave none."""
    n, cut = len(delta_nll), int(gamma * len(delta_nll))
    if 2 * cut >= n:
        return np.ones(n, bool)
    kept = np.zeros(n, bool)
    kept[np.argsort(np.round(delta_nll, 5), kind="stable")[cut : n - cut]] = True
    return kept


def selected(
    delta_entropy: Float[np.ndarray, " response"],
    n_tokens: Int[np.ndarray, " response"],
    kept: Bool[np.ndarray, " response"],
    beta: float,
) -> Bool[np.ndarray, " response"]:
    """Kept responses of smallest delta_entropy, taken in order while their tokens fit into beta of all tokens."""
    budget, chosen = beta * n_tokens.sum(), np.zeros(len(kept), bool)
    for place in np.argsort(np.round(delta_entropy, 5), kind="stable"):
        if kept[place] and n_tokens[place] <= budget:
            chosen[place] = True
            budget -= n_tokens[place]
        elif kept[place]:
            break
    return chosen


def _aggregate(table: pd.DataFrame, frame: pd.DataFrame, seed: int) -> xr.Dataset:

    found = [estimate(table, q, ["rollout_step"], seed=seed, units="nats", long_name=n) for q, n in QUANTITIES.items()]
    name = "did_entropy_by_class_nats"
    found.append(estimate(frame, "did_entropy_nats", ["token_class"], seed=seed, name=name, units="nats"))
    data = xr.merge(found)
    data["selected_share"] = ((), float(table["selected"].mean()), {"units": "1"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Change of NLL against change of entropy of each response, with the selection; the means over steps."""

    rows = result.summary()
    rows = rows[rows["quantity"].isin(QUANTITIES)]
    chosen = np.where(result.table["selected"], "selected", np.where(result.table["kept"], "kept", "trimmed"))
    return {
        "responses": scatter(
            result.table.assign(choice=chosen),
            x="delta_nll_nats",
            y="delta_entropy_nats",
            color="choice",
            hover=["item", "sample"],
            title="Responses by change of NLL and entropy",
            x_title="NLL of tuned minus base (nats per token)",
            y_title="entropy of base minus tuned (nats per token)",
        ),
        "means": curve(
            rows,
            x="rollout_step",
            facet="quantity",
            color="step" if "step" in rows else None,
            title="Means over responses",
        ),
    }
