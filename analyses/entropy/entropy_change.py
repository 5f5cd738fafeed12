"""What one checkpoint's entropy became at another's states: exact change, its first order, and what that leaves out.

Definition: at every state before a masked-in response token, p is the base checkpoint's next-token distribution and q
    the tuned one's. exact = H(q) - H(p) = cross_entropy_term - kl at any step size, with cross_entropy_term =
    CE(q, p) - H(p) = -sum (q - p) log p and kl = KL(q || p). first_order = -Cov_p(log p, dz), dz the change of the
    logits (the only covariance that predicts the change quantitatively). half_variance = Var_p(dz) / 2 is what KL
    tends to. visitation, only where the base checkpoint sampled the log: the change of a response's summed entropy
    that comes from reaching other states, (log q - log p + KL(p || q)) x entropies still to come, per token.
Units: nats per token; visitation in nats per response, given to the token that moves the response elsewhere.
Source: arXiv 2505.22617 (Lemma 1), 2602.03392; the exact decomposition and the visitation term are this toolkit's.
Does not show: which gradient caused the change (see entropy_step), nor on-policy entropy of the tuned checkpoint. Far
    apart checkpoints are not first order: read first_order only where |exact - first_order| is about kl.
Control: a checkpoint against itself (all zero); a run with a random reward; half_variance beside kl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import TEMPLATE, curve, forest
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate, ratio_of_sums
from analyses.core.work import Case, Work, passes
from analyses.entropy import _places

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, Rollouts

PARTS = {
    "exact_nats": "H(q) - H(p)",
    "first_order_nats": "-Cov_p(log p, dz)",
    "cross_entropy_term_nats": "CE(q, p) - H(p)",
    "kl_nats": "KL(q || p)",
    "half_variance_nats": "Var_p(dz) / 2",
    "not_first_order_nats": "exact minus first order",
}


def _work(case: Case) -> Work:
    """A pass of each checkpoint over every response."""
    return passes(case, "answer")


@analysis(work=_work)
def entropy_change(
    base: Model,
    tuned: Model,
    rollouts: Rollouts,
    prompts: Prompts | None,
    *,
    at_temperature: bool = False,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Change of entropy in nats from base to tuned at every logged state, with its exact and first-order parts.

    `prompts`, if given, names the design group of each item.

    Rows, one per masked-in token: step (of the log; in a sweep, of the tuned checkpoint), rollout_step, item, group,
    group_uid, sample, pos (in the response, from 0), token, token_class, sign (of the advantage), entropy_base_nats,
    entropy_tuned_nats, exact_nats, first_order_nats, cross_entropy_term_nats, kl_nats, half_variance_nats,
    visitation_nats (NaN unless base sampled the log), logp_base_nats, logp_tuned_nats, advantage.
    """

    warnings = reading.pair_warnings(base, tuned)
    rollouts = rollout_tokens.readable(rollouts, base)
    has_advantage = "advantage" in rollouts.columns
    plan: dict[str, Any] = {"batch_size": batch_size, "at_temperature": at_temperature, "what": "entropy change"}
    frame = rollout_tokens.read([base, tuned], rollouts, _parts, columns=["advantage"] if has_advantage else [], **plan)
    frame = rollout_tokens.regrouped(frame, prompts)
    frame["advantage"] = frame["advantage"].astype(float) if has_advantage else np.nan
    frame["sign"] = rollout_tokens.sign_of(frame["advantage"])
    own, why = sampled_by(rollouts, base, at_temperature)
    frame["visitation_nats"] = _visitation(frame) if own else np.nan
    table = frame.drop(columns="kl_forward")
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the tuned checkpoint's step here
    texts: Any = base.tokenizer
    claims = _places.change_claims(table, "exact_nats", lambda i: str(texts.decode([i])))
    return Result.of(
        table,
        _aggregate(table, rollouts.has_groups or prompts is not None, seed),
        claims=claims,
        warnings=[*warnings, *rollouts.notes, *why],
    )


def _parts(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    logp, logq = (reading.log_probs(z) for z in logits)
    found = reading.change(logp, logq)
    return {
        "entropy_base_nats": reading.entropy(logp),
        "entropy_tuned_nats": reading.entropy(logq),
        "exact_nats": found.exact,
        "first_order_nats": found.first_order,
        "cross_entropy_term_nats": found.cross_entropy_term,
        "kl_nats": found.kl,
        "half_variance_nats": found.half_variance,
        "kl_forward": found.kl_forward,
        "logp_base_nats": logp.gather(-1, targets[:, None])[:, 0],
        "logp_tuned_nats": logq.gather(-1, targets[:, None])[:, 0],
    }


def sampled_by(rollouts: Rollouts, base: Model, at_temperature: bool) -> tuple[bool, list[str]]:
    """Whether the log holds the base checkpoint's own untruncated samples, and if not, why."""
    need = ("policy_version", "temperature", "top_p")
    gone = [c for c in need if c not in rollouts.columns]
    if gone:
        return False, [f"no visitation term: the log lacks {', '.join(gone)}"]
    facts = rollouts.scalars([*need, "top_k"])
    label = base.checkpoint.label if base.checkpoint else "a model without a checkpoint"
    others = sorted(set(facts["policy_version"]) - {label})
    if others:
        return False, [f"no visitation term: {', '.join(others[:3])} sampled this log, base is {label}"]
    hot = not at_temperature and bool((facts["temperature"] != 1).any())
    top_k = facts["top_k"].fillna(0) if "top_k" in facts else 0
    if hot or bool((facts["top_p"] < 1).any()) or bool(np.any(np.asarray(top_k) > 0)):
        return False, ["no visitation term: the log was sampled from a tempered or truncated distribution"]
    return True, []


def _visitation(frame: pd.DataFrame) -> np.ndarray:
    """Per token (log q - log p + KL(p || q)) x (sum of H(p) over the response's later tokens)."""
    keys = ["rollout_step", "item", "group_uid", "sample"]
    total = frame.groupby(keys)["entropy_base_nats"].transform("sum")
    later = total - frame.groupby(keys)["entropy_base_nats"].cumsum()
    gap = frame["logp_tuned_nats"] - frame["logp_base_nats"] + frame["kl_forward"]
    return (gap * later).to_numpy()


def _aggregate(table: pd.DataFrame, has_groups: bool, seed: int) -> xr.Dataset:
    """Means over tokens (ratios of sums, so that parts add up), and what each class and sign contributed."""

    rows = table.assign(not_first_order_nats=table["exact_nats"] - table["first_order_nats"], n_tokens=1.0)
    names = {"entropy_base_nats": "H(p), base", "entropy_tuned_nats": "H(q), tuned", **PARTS}
    micro: dict[str, Any] = {"per": "n_tokens", "seed": seed, "units": "nats"}
    found = [estimate(rows, q, [], long_name=n, **micro) for q, n in names.items()]
    by_class: dict[str, Any] = {"units": "nats", "seed": seed, "per": "n_tokens"}
    found += [
        estimate(rows, q, ["token_class"], name=f"{q.removesuffix('_nats')}_by_class_nats", **by_class)
        for q in ("exact_nats", "first_order_nats", "kl_nats")
    ]
    if has_groups:
        found.append(estimate(rows, "exact_nats", ["group"], name="exact_by_group_nats", **by_class))
    found.append(_contributions(rows))
    found.append(
        estimate(rows[rows["pos"] < _places.LAST_POS], "exact_nats", ["pos"], name="exact_by_pos_nats", **by_class)
    )
    if rows["visitation_nats"].notna().any():
        summed = rows.groupby(["item", "rollout_step", "group_uid", "sample"], as_index=False)[
            ["first_order_nats", "visitation_nats"]
        ].sum()
        for q, name in (("first_order_nats", "sequence_local_nats"), ("visitation_nats", "sequence_visitation_nats")):
            found.append(estimate(summed, q, [], name=name, units="nats per response", seed=seed))
    return xr.merge(found)


def _contributions(rows: pd.DataFrame) -> xr.Dataset:
    """First-order change summed over the tokens of a class and sign, per token of the whole log: these add up."""

    items = sorted(rows["item"].unique())
    classes, signs = sorted(rows["token_class"].unique()), sorted(rows["sign"].unique())
    cells = rows.pivot_table(
        index="item", columns=["token_class", "sign"], values="first_order_nats", aggfunc="sum", observed=False
    )
    full = pd.MultiIndex.from_product([classes, signs])
    # An item without tokens of a cell contributed exactly 0 to it.
    tops = cells.reindex(index=items, columns=full).fillna(0.0).to_numpy().reshape(len(items), len(classes), len(signs))
    tokens = rows.groupby("item")["n_tokens"].sum().reindex(items).to_numpy()[:, None, None]
    found = ratio_of_sums(tops, np.broadcast_to(tokens, tops.shape))
    dims = ("token_class", "sign")
    name = "first_order_part_nats"
    parts = {"": found.value, "_ci_low": found.ci_low, "_ci_high": found.ci_high, "_n": found.n}
    data = xr.Dataset({name + k: (dims, v) for k, v in parts.items()}, {"token_class": classes, "sign": signs})
    data[name].attrs.update(units="nats", long_name="part of the first-order change of mean entropy")
    return data


def figures(result: Result) -> dict[str, Figure]:
    """The waterfall from one entropy to the other, and the parts (over steps where there are several)."""

    rows = result.summary()
    parts = rows[rows["quantity"].isin(PARTS)]
    title = "Change of entropy at the same states, 95 % over items"
    if "step" in rows:
        last = rows[rows["step"] == rows["step"].max()]
        drawn = curve(parts, x="step", facet="quantity", reference=0.0, title=title)
        return {"waterfall": _waterfall(last), "parts": drawn, **_by_place(rows, "step")}
    return {"waterfall": _waterfall(rows), "parts": forest(parts, label="quantity", title=title), **_by_place(rows)}


def _by_place(rows: pd.DataFrame, color: str | None = None) -> dict[str, Figure]:
    """The exact change by position in the response and by class of the sampled token."""
    by_pos, by_class = (rows[rows["quantity"] == f"exact_by_{by}_nats"] for by in ("pos", "class"))
    return {
        "by_pos": curve(
            by_pos, x="pos", color=color, reference=0.0, title="Change of entropy by position, 95 % over items"
        ),
        "by_class": forest(by_class, label="token_class", color=color, title="Change of entropy by class of token"),
    }


def _waterfall(rows: pd.DataFrame) -> Any:
    """From H of base to H of tuned: the first-order part of each token class and advantage sign, then the rest."""

    def value(name: str) -> float:
        return float(rows.loc[rows["quantity"] == name, "value"].iloc[0])

    cells = rows[(rows["quantity"] == "first_order_part_nats") & (rows["value"] != 0)].sort_values("value")
    steps = [
        ("base", value("entropy_base_nats"), "absolute"),
        *[(f"{c}, {s}", v, "relative") for c, s, v in cells[["token_class", "sign", "value"]].itertuples(index=False)],
        ("not first order", value("not_first_order_nats"), "relative"),
        ("tuned", value("entropy_tuned_nats"), "total"),
    ]
    names, heights, kinds = zip(*steps, strict=True)
    figure = go.Figure(go.Waterfall(x=names, y=heights, measure=kinds, connector={"line": {"color": "#bbb"}}))
    title = "Where the change of entropy came from: token class and sign of the advantage"
    figure.update_layout(template=TEMPLATE, title={"text": title}, showlegend=False, height=420)
    figure.update_yaxes(title_text="mean entropy per token (nats)")
    return figure
