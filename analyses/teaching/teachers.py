"""Several teachers and one student: how much they disagree, and how far the student is from their mixture.

Definition: at every answer token teacher k has the distribution t_k and the weight w_k, its likeliest token's
probability over the sum of all teachers' (equal weights with `weighting` = equal). m = sum of w_k t_k; disagreement =
sum of w_k KL(t_k || m), the generalised Jensen-Shannon divergence, at most the entropy of the weights and so ln of
the number of teachers. Student s: jsd = Jensen-Shannon divergence of s and m (at most ln 2), reverse = KL(s || m),
forward = KL(m || s). nearest_nats = least forward KL(t_k || s) of one teacher alone; follows = share of tokens at
which the likeliest token of the mixture is that of the surest teacher.

Units: nats per token; shares.

Source: MAD-OPD (JSD against reverse KL, confidence-weighted teachers).

Does not show: which teacher is right: a sure teacher weighs more whether it is right or not. Texts are teacher-forced.

Control: one teacher given twice (disagreement 0); equal weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import Claim
from analyses.core.figures import curve, forest
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes
from analyses.teaching import _said
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Checkpoint, Model, Prompts, TokenBatch

    Checkpoints = list[Checkpoint]
else:
    from analyses.core.analysis import Checkpoints

BY = ["group", "answer_kind"]
ELEMENTS_AT_ONCE = 1 << 21  # of logits of one model
QUANTITIES = {
    "disagreement_nats": ("nats", "disagreement of the teachers"), "jsd_nats": ("nats", "JSD of student and mixture"),
    "reverse_nats": ("nats", "KL(student || mixture)"), "forward_nats": ("nats", "KL(mixture || student)"),
    "nearest_nats": ("nats", "KL(nearest teacher || student)"), "follows": ("1", "mixture follows the surest teacher"),
}  # fmt: skip


def _work(case: Case) -> Work:
    """A pass of the student and of each teacher."""
    return passes(case, "answer")


@analysis(renamed={"weights": "weighting"}, work=_work)
def teachers(
    model: Model,
    checkpoints: Checkpoints,
    prompts: Prompts,
    *,
    weighting: Literal["confidence", "equal"] = "confidence",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Disagreement of several teachers (the checkpoints of a folder) and the student's divergence from their mixture.

    All teachers are held in memory at once. Rows: item, group, answer_kind, n_tokens, and sums over the answer's tokens
    of every quantity (`disagreement_nats_sum` ...).

    Args:
        weighting: of the teachers: by how sure each is of its likeliest token, or equal.
    """
    if len(checkpoints) < 2:
        raise InputError(f"{len(checkpoints)} teacher(s): at least 2 are needed (one alone: `distillation`)")
    load: Any = getattr(checkpoints, "load", probe.Model.load)  # a plain list is loaded as by default
    taught: list[Model] = [load(c) for c in checkpoints]
    vocabulary = model.tokenizer.get_vocab()
    if any(t.tokenizer.get_vocab() != vocabulary or t.shape.d_vocab != model.shape.d_vocab for t in taught):
        raise InputError("student and teachers have different vocabularies: their distributions cannot be mixed")
    plan = {"batch_size": batch_size}
    parts = [_rows(model, taught, b, weighting) for b in reading.batches(model, prompts, "teachers", **plan)]
    table = pd.concat(parts, ignore_index=True).merge(prompts.roles(), how="left")
    table = table.sort_values(["item", "answer_kind"], kind="stable", ignore_index=True)
    data: list[xr.Dataset] = []
    for name, (units, label) in QUANTITIES.items():
        how: dict[str, Any] = {"per": "n_tokens", "seed": seed, "name": name, "units": units, "long_name": label}
        data.append(estimate(table, f"{name}_sum", BY, **how))
    claims = [_claim(of, names, seed) for names, of in table.groupby(BY, sort=True)]
    return Result.of(table, xr.merge(data), claims=claims)


def _claim(of: pd.DataFrame, names: Any, seed: int) -> Claim:
    """Whether teachers disagree more among themselves than the student does with their mixture."""
    excess = (of["disagreement_nats_sum"] - of["jsd_nats_sum"]) / of["n_tokens"]
    wide = pd.DataFrame({"item": of["item"], "teachers": excess}).groupby("item").mean()
    what = "teachers disagree more with one another than the student with their mixture"
    return _said.largest(
        wide, "disagreement", what, what, seed, group=", ".join(map(str, names)), unit="nats per token",
        control="the student", estimand="disagreement of the teachers minus JSD of student and mixture",
    )  # fmt: skip


def _rows(model: Model, taught: list[Model], batch: TokenBatch, weights: str) -> pd.DataFrame:
    """Sums over the answer tokens of each item; logits are streamed over tokens."""
    tokens = reading.scored(batch)
    tokens = tokens.where(tokens.in_span("rationale", "answer"))
    read = [(m, tokens.rows(m.run(batch, read=[m.last_state], logits="none")[m.last_state])) for m in (model, *taught)]
    size = max(1, min(64, ELEMENTS_AT_ONCE // model.shape.d_vocab))
    chunks: list[dict[str, np.ndarray]] = []
    for c in reading.row_chunks(len(tokens.target), size):
        student, *others = (m.logits_of(rows[c]).float().to(model.device) for m, rows in read)
        chunks.append(measures(student, torch.stack(others), weights))
    found = {name: np.concatenate([c[name] for c in chunks]) for name in QUANTITIES}
    each = pd.DataFrame({**reading.columns(batch.items, tokens.item), **found, "n_tokens": 1})
    sums = each.groupby(["item", *BY], sort=False)[["n_tokens", *QUANTITIES]].sum()
    return sums.rename(columns={q: f"{q}_sum" for q in QUANTITIES}).reset_index()


def measures(
    student: Float[Tensor, "row vocab"], others: Float[Tensor, "teacher row vocab"], weights: str
) -> dict[str, np.ndarray]:
    """Every quantity of each row of logits."""
    log_t = others.double().log_softmax(-1)
    t = log_t.exp()
    sure = t.amax(-1) if weights == "confidence" else torch.ones_like(t[..., 0])
    w = sure / sure.sum(0)
    mixture = (w[..., None] * t).sum(0)
    log_m = mixture.clamp(min=1e-300).log()
    to_mixture = (t * (log_t - log_m)).sum(-1).clamp(min=0)
    apart = reading.divergences(student.double(), log_m)
    alone = torch.stack([reading.divergences(student.double(), one).kl_qp_nats for one in log_t])
    surest = t.amax(-1).argmax(0)
    top = t.argmax(-1).gather(0, surest[None])[0]
    found = {
        "disagreement_nats": (w * to_mixture).sum(0), "jsd_nats": apart.jsd_nats, "reverse_nats": apart.kl_pq_nats,
        "forward_nats": apart.kl_qp_nats, "nearest_nats": alone.amin(0),
        "follows": (mixture.argmax(-1) == top).double(),
    }  # fmt: skip
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def figures(result: Result) -> dict[str, Figure]:
    """Disagreement of the teachers beside the student's divergences; with steps, over them."""
    rows = result.summary()
    rows = rows[rows["quantity"] != "follows"]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Teachers among themselves, and the student from their mixture"
    if "step" in rows:
        return {"teachers": curve(rows, x="step", color="quantity", facet="series", title=title)}
    return {"teachers": forest(rows, label="quantity", color="series", reference=None, title=title)}
