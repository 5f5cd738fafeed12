"""Published definitions beside ours, where the two differ: one list, one prefix, one way to store them.

A result holds them as `legacy_...`, beside the quantity of this toolkit and never in its place; `--legacy` asks for
what costs more or would be taken for ours. A definition whose published form is a choice of options, or an analysis of
its own, is in the list with that. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

PARADOX = "arXiv 2601.11061"


@dataclass(frozen=True)
class Form:
    """One published definition that differs from ours.

    Attributes:
        analysis: the analysis that has both.
        asked: options that give the published form; "" where it is always there.
        shown: where the result has it: a quantity, a column, or a value of `variant`.
        published: what the paper or its code computes.
        ours: what the toolkit computes, and why.
        source: of the published form.
    """

    analysis: str
    asked: str
    shown: str
    published: str
    ours: str
    source: str = PARADOX


FORMS = (
    Form(
        "perplexity",
        "",
        "legacy_arith",
        "the mean of the items' perplexities",
        "exp of the mean NLL, over tokens (micro) or items (macro): a mean of exponentials is ruled by the worst item",
    ),
    Form(
        "perplexity_paradox",
        "--legacy",
        "legacy_ppl",
        "mean perplexity of the answer and of the full text; a paradox where the first falls and the second rises",
        "changes of ln PPL of answer and prompt with intervals: the full text holds the answer, so the prompt"
        " was only inferred",
    ),
    Form(
        "labels",
        "--legacy",
        "legacy_label",
        "correct if any response is; leak where the base is wrong and the tuned right",
        "an interval (or FDR) of the change of pass rates: any of k labels noise a leak",
    ),
    Form(
        "partial_prompt",
        "--legacy",
        "legacy_rouge_l",
        "ROUGE-L of stemmed words, the continuation cut to 1.1 times the characters of the remainder",
        "words and single symbols, cut to as many as the remainder has: mathematics is made of symbols",
    ),
    Form(
        "divergence",
        "--legacy",
        "legacy_js_distance",
        "the root of the JSD of softmax(W_U x), without the final norm",
        "the JSD in nats with the final norm, which the model's own output passes",
    ),
    Form(
        "linear_probe",
        "--legacy",
        "legacy_auc",
        "one split, C = 1, all dimensions",
        "nested cross-validation, covariates beside it: with more dimensions than items any split is separable",
    ),
    Form(
        "logit_lens",
        "--legacy",
        "legacy_logprob_nats",
        "the lens read at the answer's own token",
        "read at the position before it, which is what predicts it",
    ),
    Form(
        "trajectories",
        "--legacy",
        "legacy_importance",
        "velocity difference plus force (distance times 0)",
        "each curve by itself, force squared without its bias, p over layers",
    ),
    Form(
        "legacy_classifier",
        "",
        "auc",
        "a classifier on an integrated field that reads three states",
        "`neural_ode`, a field fitted to every state: what is not read cannot be localised",
    ),
    Form(
        "counterfactual_mlp",
        "--ablations weight_mean,norm_matched_random --readouts direct_norm",
        "jsd_nats",
        "text: gate and up by their mean weight, down by one random draw",
        "the same with ten seeded draws, and four more ablations",
    ),
    Form(
        "cross_patching",
        "--sites attn_out,mlp_out --positions all_prompt",
        "recovery",
        "'path patching': outputs of the tuned model put into the base's prompt",
        "that under its own name, both directions, against an unpatched base; `path_patching` is sender to receiver",
    ),
    Form(
        "mlp_key_steering",
        "--selection first --read-at last_prompt",
        "slope",
        "neurons chosen once, on the first target item, at the last prompt token",
        "chosen on a half of the items and measured on the other, where answers are predicted",
    ),
    Form(
        "weight_reset",
        "--parts mlp --width 3",
        "metric",
        "blocks 18-20 (anchor) and 21-22 (adapter), chosen by eye, MLP weights alone",
        "every window of that width, and `anchor_adapter` to choose with a null",
    ),
    Form(
        "probe_gated_audit",
        "--layer 19 --factor 0.5 --top-n 50 --quantile 0.99",
        "mcnemar_p",
        "the gate against nothing, on answers that were chosen for being right: such a set can only lose",
        "that as `gated`, beside random gates, random neurons and controls of equal likelihood",
    ),
    Form(
        "update_spectrum",
        "--legacy",
        "legacy_snr",
        "|mean update|^2 over the mean squared distance from it",
        "signal and noise each without bias: the published one counts noise / runs as signal",
        "arXiv 2605.19282",
    ),
    Form(
        "rotated_merge",
        "",
        "rotated",
        "the turned difference (c - m) R' added",
        "c said in m's basis, then the difference: gives a base back that was turned as a whole",
        "arXiv 2602.03237",
    ),
    Form(
        "entropy_attribution",
        "",
        "omega2",
        "named as (1 - p)^2, computed as (1 - p)",
        "`omega` as computed, `omega2` as named",
        "arXiv 2510.10150",
    ),
    Form(
        "entropy_covariance",
        "",
        "cov_token_pooled",
        "one covariance over the tokens of a batch",
        "that under its name, beside the covariance within a state and the exact change",
        "arXiv 2505.22617",
    ),
)
"""Every place where the toolkit's definition is not the published one."""


def beside(
    name: str, values: Sequence[float] | np.ndarray, dims: Sequence[str], n: int, units: str, what: str
) -> xr.Dataset:
    """A published quantity that has no interval, as variables `legacy_NAME...` over `dims`.

    Args:
        name: of the quantity.
        values: one per cell.
        dims: of the cells.
        n: units that entered.
        units: of the values.
        what: what it is, in words.
    """
    found = np.asarray(values, float)
    label = {"units": units, "long_name": what}
    data = xr.Dataset({f"legacy_{name}": (list(dims), found, label)})
    for suffix in ("ci_low", "ci_high"):
        data[f"legacy_{name}_{suffix}"] = (list(dims), np.full(found.shape, np.nan))
    data[f"legacy_{name}_n"] = (list(dims), np.where(np.isnan(found), 0, n))
    return data
