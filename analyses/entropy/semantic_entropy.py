"""Do a prompt's sampled answers mean the same, and how varied are the plans: two named semantic entropies.

Definition: the responses of a sampling group are clustered by their final answer (what they
    mark as it, else their last formula or number; equal as the graders call answers equal; an unparsed one is its own
    cluster). frequency: -sum f ln f of cluster
    shares. mass: the same with cluster masses, softmax over the group of length-normalised log-likelihoods under the
    model. log_mean: -(1/K) sum ln p(C_k) of the same masses (>= ln K, unbounded). HICRA's gram entropy: -sum f_g ln f_g
    over the word n-grams that at least `gram_share` of a step's rewarded responses contain.
Units: nats; frequency and mass in [0, ln G] for G responses.
Source: SEED-GRPO, arXiv 2505.12346 (log_mean as printed, mass as its code); HICRA, 2509.03646 (grams are embedded and
    clustered there; here a gram is itself, no embedding). Neither is the token entropy of `entropy`.
Does not show: correctness: one cluster may be one wrong answer. Clusters of answers say nothing about rationales.
Control: groups whose rewards are all equal; a checkpoint before training on the same prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy
import xarray as xr

import probe
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading import rollout_tokens, votes
from analyses.core.reading.grading import read
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

FORMS = ("frequency_nats", "mass_nats", "log_mean_nats")


def _work(case: Case) -> Work:
    """A pass over every response."""
    return passes(case, "answer")


@analysis(renamed={"answer": "pattern", "alpha": "scaling"}, work=_work)
def semantic_entropy(
    model: Model,
    rollouts: Rollouts,
    *,
    pattern: str | None = None,
    scaling: float = 0.02,
    gram_words: int = 3,
    gram_share: float = 0.05,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Semantic entropy in nats of every sampling group's answers, in three named forms, and of plans per step.

    Rows, one per sampling group: step (of the log; in a sweep, of the checkpoint), rollout_step, item, group,
    group_uid, n_responses, n_clusters, n_unparsed, frequency_nats, mass_nats, log_mean_nats, largest_nats (ln G),
    seed_scale (1 - scaling frequency / ln G, SEED-GRPO's linear form), answers (by cluster, most frequent first).

    Args:
        pattern: by default what a response marks as its answer (a box, "answer is"), else its last formula or number;
            empty compares whole texts.
        scaling: strength of SEED-GRPO's scaling of advantages.
        gram_words: words per gram of a plan.
        gram_share: share of a step's rewarded responses that must contain a gram for it to count as a plan's.
    """

    rollouts = rollout_tokens.readable(rollouts, model)
    responses = _responses(model, rollouts, pattern, batch_size)
    keys = ["rollout_step", "item", "group", "group_uid"]
    rows = [
        {**dict(zip(keys, key, strict=True)), **_group(part, scaling)}
        for key, part in responses.groupby(keys, sort=True)
    ]
    table = pd.DataFrame(rows)
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the checkpoint's step here
    data = _aggregate(table, _plans(responses, gram_words, gram_share), seed)
    alone = int((table["n_responses"] == 1).sum())
    note = [f"{alone} sampling group(s) hold one response: their semantic entropy is 0 by definition"] if alone else []
    unread = int(table["n_unparsed"].sum())
    if unread:
        share = unread / int(table["n_responses"].sum())
        note.append(f"{share:.1%} of responses have no readable answer: each is a cluster of its own")
    return Result.of(table, data, warnings=[*rollouts.notes, *note])


def _responses(model: Model, rollouts: Rollouts, answer: str | None, batch_size: int) -> pd.DataFrame:
    """One row per response: its text, answer (None: unparsed), mean log-likelihood and reward."""

    columns = ["reward"] if "reward" in rollouts.columns else []
    frame = rollout_tokens.read(
        [model], rollouts, _logp, columns=columns, batch_size=batch_size, what="semantic entropy"
    )
    grouped = frame.groupby(["rollout_step", "item", "group", "group_uid", "sample"], sort=True)
    out = grouped.agg(mean_logp=("logp", "mean")).reset_index()
    out["text"] = [model.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for _, ids in grouped["token"]]
    answers, same = final_answers(out["text"].tolist(), answer)
    out["answer"], out["same"] = pd.Series(answers, dtype=object), pd.Series(same, dtype=object)
    out["reward"] = grouped["reward"].first().to_numpy(float) if columns else np.nan
    return out


def _logp(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    return {"logp": probe.recompute.statistics(logits[0], targets)["logp"]}


def final_answers(texts: Sequence[str], answer: str | None) -> tuple[list[str | None], list[str | None]]:
    """(answers, names of their clusters) of responses; None where nothing can be read.

    Raises:
        InputError: a pattern that is none or has no group, or not one answer that can be read.
    """
    if answer == "":
        whole = [" ".join(t.split()) or None for t in texts]
        return whole, whole
    found = read(texts, answer)
    if all(f.answer is None for f in found):
        where = "a box, a statement, a number" if answer is None else f"a match of {answer!r}"
        raise InputError(
            f"none of {len(texts)} responses holds an answer that can be read ({where}): say where answers stand, "
            r"for example pattern='ans (\S+)', or compare whole texts, pattern=''"
        )
    return [f.answer for f in found], [f.same for f in found]


def clusters(answers: Sequence[str | None]) -> np.ndarray:
    """Cluster number of each answer; every unparsed one is alone."""
    named = votes.clusters(answers)
    order = {name: number for number, name in enumerate(dict.fromkeys(named))}
    return np.array([order[name] for name in named])


def masses(cluster: np.ndarray, mean_logp: Float[np.ndarray, " response"] | None = None) -> np.ndarray:
    """Share of each cluster: of the responses, or of their likelihoods normalised over the group."""
    if mean_logp is None:
        return np.bincount(cluster) / len(cluster)
    weight = np.exp(mean_logp - np.max(mean_logp))
    return np.bincount(cluster, weight / weight.sum())


def entropy_of(shares: Float[np.ndarray, " cluster"]) -> float:
    """-sum f ln f; 0 for one cluster, ln K for K equal ones."""
    positive = shares[shares > 0]
    return abs(float(-(positive * np.log(positive)).sum()))


def log_masses(cluster: np.ndarray, mean_logp: Float[np.ndarray, " response"]) -> Float[np.ndarray, " cluster"]:
    """ln of each cluster's share of the likelihoods, which no unlikely cluster underflows."""
    whole = float(scipy.special.logsumexp(mean_logp))
    return np.array([scipy.special.logsumexp(mean_logp[cluster == k]) - whole for k in range(int(cluster.max()) + 1)])


def log_mean(log_shares: Float[np.ndarray, " cluster"]) -> float:
    """-(1/K) sum ln f: equals the entropy for equal shares only, and grows without bound with a rare cluster."""
    return abs(float(-log_shares.mean()))


def _group(part: pd.DataFrame, scaling: float) -> dict[str, object]:
    cluster = clusters(part["same"].tolist())
    counted, weighted = masses(cluster), masses(cluster, part["mean_logp"].to_numpy())
    largest, frequency = float(np.log(len(part))), entropy_of(counted)
    named = Counter(a if isinstance(a, str) else "(unparsed)" for a in part["answer"])
    return {
        "n_responses": len(part),
        "n_clusters": len(counted),
        "n_unparsed": int(part["answer"].isna().sum()),
        "frequency_nats": frequency,
        "mass_nats": entropy_of(weighted),
        "log_mean_nats": log_mean(log_masses(cluster, part["mean_logp"].to_numpy())),
        "largest_nats": largest,
        "seed_scale": 1 - scaling * frequency / largest if largest > 0 else 1.0,
        "answers": "; ".join(f"{a} x{n}" for a, n in sorted(named.items(), key=lambda kv: (-kv[1], kv[0]))),
    }


def grams(text: str, words: int) -> list[str]:
    """The word n-grams of a text, in order."""
    found = text.split()
    return [" ".join(found[i : i + words]) for i in range(len(found) - words + 1)]


def gram_entropy(texts: Sequence[str], rewarded: Sequence[bool], words: int, share: float) -> float:
    """Entropy of the grams that at least `share` of the rewarded texts contain, over all texts; NaN without any."""
    good = [t for t, r in zip(texts, rewarded, strict=True) if r]
    documents = Counter(g for t in good for g in set(grams(t, words)))
    plans = {g for g, n in documents.items() if n >= share * len(good)}
    counts = Counter(g for t in texts for g in grams(t, words) if g in plans)
    if not counts:
        return float("nan")
    return entropy_of(np.array([counts[g] for g in sorted(counts)]) / counts.total())


def _plans(responses: pd.DataFrame, words: int, share: float) -> pd.Series:
    return pd.Series(
        {
            step: gram_entropy(part["text"].tolist(), (part["reward"] > 0).tolist(), words, share)
            for step, part in responses.groupby("rollout_step", sort=True)
        }
    )


def _aggregate(table: pd.DataFrame, plans: pd.Series, seed: int) -> xr.Dataset:

    found = [estimate(table, q, ["rollout_step"], seed=seed, units="nats") for q in FORMS]
    data = xr.merge(found)
    values = plans.reindex(data["rollout_step"].values).to_numpy(float)
    data["plan_entropy_nats"] = ("rollout_step", values, {"units": "nats", "long_name": "entropy of plans' grams"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """The three forms over the rollouts' steps, and the entropy of plans."""

    rows = result.summary()
    extra = ["step"] if "step" in rows else None
    plans = result.data["plan_entropy_nats"].to_dataframe(name="value").reset_index().assign(unit="nats")
    return {
        "answers": curve(rows, x="rollout_step", color="quantity", facet=extra, title="Semantic entropy of answers"),
        "plans": curve(plans, x="rollout_step", facet=extra, title="Entropy of the grams of rewarded responses"),
    }
