"""What distilling one checkpoint into another would teach: where the divergence sits, and which of them sees it.

Definition: student s is `base`, teacher t is `tuned`; at every answer token forward = KL(t || s), reverse = KL(s || t),
jsd = their Jensen-Shannon divergence (at most ln 2). share = a token class's part of the summed forward KL.
forward_pull and reverse_pull = L1 norms of the gradients with respect to the student's logits, sum |s_j - t_j| and sum
s_j |ln(s_j / t_j) - KL(s || t)|; unseen_mass = teacher's probability on tokens that the student gives less than
`unlikely_below`, where the reverse gradient is all but 0. margin = lambda* = (logit(1 - left_over) - logit b) /
(logit p - logit b) for the teacher's likeliest token, p its probability under the teacher and b under the student: how
far logits may be extrapolated past the teacher (1: to it) before that token exceeds 1 - left_over; only where p > b. A
class of tokens holds the divergence where its share, less its share of the tokens, exceeds 0 over items, all classes
together.

Units: nats per token; shares; lambda has none.

Source: TRACE (place of the divergence), MAD-OPD (JSD against reverse KL), extrapolation cliff (ListOPD, the margin).

Does not show: what training would do: these are gradients at one point, on teacher-forced texts, with one teacher
(several: `teachers`). How a clip per token becomes left_over is not derived.

Control: identical checkpoints (all 0, the margin undefined).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

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

    from probe import Model, Prompts, TokenBatch

BY = ["group", "answer_kind"]
ELEMENTS_AT_ONCE = 9 << 20  # of logits: eight arrays of this size are there together, each given back when it is done
QUANTITIES = {
    "forward_nats": ("nats", "KL(teacher || student) per answer token"),
    "reverse_nats": ("nats", "KL(student || teacher) per answer token"),
    "jsd_nats": ("nats", "Jensen-Shannon divergence per answer token"),
    "forward_pull": ("1", "L1 norm of the forward gradient"),
    "reverse_pull": ("1", "L1 norm of the reverse gradient"),
    "unseen_mass": ("1", "teacher's mass on tokens that the student hardly gives"),
    "margin": ("1", "extrapolation past the teacher that stays below the bound"),
}


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    keys = ["item", "answer_kind", "token_class"]
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    parts: list[xr.Dataset] = []
    for name, (units, label) in QUANTITIES.items():
        per = "n_margin" if name == "margin" else "n_tokens"
        how: dict[str, Any] = {"per": per, "seed": options["seed"], "name": name, "units": units, "long_name": label}
        parts.append(estimate(table, f"{name}_sum", BY, **how))
    own = ["item", *BY, *(["cluster"] if "cluster" in table else [])]
    total = table.groupby(own)["forward_nats_sum"].transform("sum")
    classes = _every_class(table.assign(total=total), own)
    how = {"per": "total", "seed": options["seed"], "name": "share", "units": "1"}
    parts.append(
        estimate(classes, "forward_nats_sum", [*BY, "token_class"], **how, long_name="share of the forward KL")
    )
    claims = [_claim(of, names, options["seed"]) for names, of in classes.groupby(BY, sort=True)]
    return Result.of(table, xr.merge(parts, join="outer"), claims=claims)


def _claim(of: pd.DataFrame, names: Any, seed: int) -> Claim:
    """Which class of tokens holds more of the divergence than of the tokens; items without any divergence tell none."""
    of = of[of["total"] > 0]
    own = of.groupby(["item"])["n_tokens"].transform("sum")
    excess = of.assign(excess=of["forward_nats_sum"] / of["total"] - of["n_tokens"] / own)
    return _said.largest(
        excess.pivot_table("excess", "item", "token_class"), "place", "the divergence sits in tokens of class {}",
        "a class of tokens holds more of the divergence than of the tokens", seed,
        group=", ".join(map(str, names)), control="the class's share of the tokens",
        estimand="share of the forward KL minus share of the answer's tokens", caveat="answers are teacher-forced",
    )  # fmt: skip


def _every_class(table: pd.DataFrame, own: list[str]) -> pd.DataFrame:
    """A row for every item and class: a class that an item has not holds 0 of its divergence and of its tokens."""
    values = ["forward_nats_sum", "n_tokens"]
    wide = table.pivot_table(values, [*own, "total"], "token_class", fill_value=0.0)
    return wide.stack("token_class").reset_index()


def _work(case: Case) -> Work:
    """A pass of each checkpoint."""
    return passes(case, "answer")


@analysis(renamed={"delta": "left_over", "floor": "unlikely_below"}, work=_work)
def distillation(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    left_over: float = 0.01,
    unlikely_below: float = 1e-4,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Forward and reverse divergence of a student (base) from a teacher (tuned), where it sits, pulls and margin.

    Rows: item, group, answer_kind, token_class, n_tokens, n_margin (tokens with a margin), and sums over the class's
    answer tokens of every quantity (`forward_nats_sum` ...).

    Args:
        left_over: what must be left beside the teacher's likeliest token.
        unlikely_below: probability below which the student hardly gives a token.
    """
    if not 0 < left_over < 1 or not 0 <= unlikely_below < 1:
        given = f"left_over={left_over}, unlikely_below={unlikely_below}"
        raise InputError(f"{given}; expected shares in (0, 1) and [0, 1)")
    warnings = _comparable(base, tuned)
    plan = {"batch_size": batch_size, "template": template, "boundary": boundary}
    batches = reading.batches(base, prompts, "distillation", **plan)
    parts = [_rows(base, tuned, batch, left_over, unlikely_below) for batch in batches]
    table = pd.concat(parts, ignore_index=True).merge(prompts.roles(), how="left")
    return _finished(table, {"seed": seed}).with_record(warnings=warnings)


def _comparable(base: Model, tuned: Model) -> list[str]:
    """Warnings of a pair; a teacher of another size will do, one of another vocabulary will not."""
    if base.shape == tuned.shape:
        return reading.pair_warnings(base, tuned)
    if base.shape.d_vocab != tuned.shape.d_vocab or base.tokenizer.get_vocab() != tuned.tokenizer.get_vocab():
        raise InputError("student and teacher have different vocabularies: their distributions cannot be compared")
    return []


def _rows(base: Model, tuned: Model, batch: TokenBatch, delta: float, floor: float) -> pd.DataFrame:
    """Sums over the answer tokens of each class of each item; logits are streamed over tokens."""
    tokens = reading.scored(batch)
    tokens = tokens.where(tokens.in_span("rationale", "answer"))
    states = []
    for model in (base, tuned):
        last = str(model.last_state)
        states.append(tokens.rows(model.run(batch, read=[last], logits="none")[last]))
    found = measured(base, tuned, states[0], states[1], delta, floor)
    each = pd.DataFrame({**reading.columns(batch.items, tokens.item), **found})
    each["token_class"] = reading.token_classes(base.tokenizer, tokens.target)
    each["n_tokens"], each["n_margin"] = 1, each["margin"].notna().astype(int)
    sums = each.groupby(["item", *BY, "token_class"], sort=False)[["n_tokens", "n_margin", *QUANTITIES]].sum()
    return sums.rename(columns={q: f"{q}_sum" for q in QUANTITIES}).reset_index()


def measured(
    base: Model,
    tuned: Model,
    before: Float[Tensor, "row d_model"],
    after: Float[Tensor, "row d_model"],
    delta: float,
    floor: float,
) -> dict[str, np.ndarray]:
    """Every quantity of each row of last states; a few rows of logits are there at once.

    Args:
        base: the student.
        tuned: the teacher.
        before: the student's last states.
        after: the teacher's.
        delta: what must be left beside the teacher's likeliest token.
        floor: probability below which the student hardly gives a token.
    """
    size = max(1, min(64, ELEMENTS_AT_ONCE // base.shape.d_vocab))
    found = {name: np.empty(len(before)) for name in QUANTITIES}
    for c in reading.row_chunks(len(before), size):  # results go into place: kept apart they would pin freed logits
        for name, values in measures(base.logits_of(before[c]), tuned.logits_of(after[c]), delta, floor).items():
            found[name][c] = values
    return found


def measures(
    student: Float[Tensor, "row vocab"], teacher: Float[Tensor, "row vocab"], delta: float, floor: float
) -> dict[str, np.ndarray]:
    """Every quantity of each row of logits; `margin` is NaN where the teacher's token is not likelier than before.

    Args:
        student: logits of the student.
        teacher: logits of the teacher, of the same vocabulary.
        delta: what must be left beside the teacher's likeliest token.
        floor: probability below which the student hardly gives a token.
    """
    apart = reading.divergences(student, teacher)
    log_s, log_t = (reading.log_softmax(z.to(student.device)) for z in (student, teacher))
    s, t = log_s.exp(), log_t.exp()
    top = t.argmax(-1, keepdim=True)
    ratio = log_s.sub_(log_t.clamp_(min=-1e4)).masked_fill_(s == 0, 0.0)
    found = {
        "forward_nats": apart.kl_qp_nats, "reverse_nats": apart.kl_pq_nats, "jsd_nats": apart.jsd_nats,
        "forward_pull": (s - t).abs_().sum(-1),
        "reverse_pull": ratio.sub_(apart.kl_pq_nats[:, None]).abs_().mul_(s).sum(-1),
        "unseen_mass": torch.where(s < floor, t, 0.0).sum(-1),
        "margin": margin(t.gather(-1, top)[:, 0].double(), s.gather(-1, top)[:, 0].double(), delta),
    }  # fmt: skip
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def margin(p: Float[Tensor, " row"], b: Float[Tensor, " row"], delta: float) -> Float[Tensor, " row"]:
    """lambda* of a token of probability p under the teacher and b under the student; NaN unless p > b and p < 1.

    Args:
        p: probability under the teacher.
        b: probability under the student.
        delta: what must be left beside the teacher's likeliest token.
    """
    bound = torch.logit(torch.tensor(1 - delta, dtype=torch.float64, device=p.device))
    found = (bound - torch.logit(b)) / (torch.logit(p) - torch.logit(b))
    return torch.where((p > b) & (p < 1) & (b > 0), found, torch.nan)


def figures(result: Result) -> dict[str, Figure]:
    """Forward against reverse divergence, and the classes of tokens that hold the forward one."""
    rows = result.summary()
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    nats = rows[rows["quantity"].isin(["forward_nats", "reverse_nats", "jsd_nats"])]
    shares = rows[rows["quantity"] == "share"]
    titles = ("Divergence of the student from the teacher", "Share of KL(teacher || student) by class of token")
    if "step" in rows:
        return {
            "divergence": curve(nats, x="step", color="quantity", facet="series", title=titles[0]),
            "share": curve(shares, x="step", color="token_class", facet="series", title=titles[1]),
        }
    return {
        "divergence": forest(nats, label="quantity", color="series", title=titles[0]),
        "share": forest(shares, label="token_class", color="series", title=titles[1]),
    }
