"""Does adding what a finetune writes everywhere make the base do what the tuned one does? Steering by the difference.

Definition: m = mean over texts and positions (the first left out) of h_tuned - h_base at a block's resid_post, as
`difference_lens` reads it. The base runs with beta m added at every position: beta = 1 is the difference itself, 0
nothing. metric = mean log-probability of the answer's tokens. missing = tuned's metric minus the base's; recovered =
effect at beta = 1 over missing, where its interval leaves out 0. Texts are other than the items measured: a
prompt file of their own, or half of the items. Random directions have the size of m.

Units: nats per token; recovered has none.

Source: arXiv 2510.13900 (reading and steering with activation differences).

Does not show: that the tuned model works by this vector: it is one constant among all that training changed (see
`tuning_vector`, which fits it to the answers). A vector of a size that the model never meets breaks it instead.

Control: random directions of its size; the same checkpoint twice (m is 0, nothing is added).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes, replays, scaled, together
from analyses.steering import _direction_claims
from analyses.steering._dose_response import dose_response
from probe.errors import InputError
from probe.interventions import add
from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from analyses.steering._arms import EditedRun
    from probe import Model, Prompts
    from probe.replay import Clean
    from probe.sites import Site

KEYS, PAIR = ["item", "group", "answer_kind"], ["item", "answer_kind"]


def _work(case: Case) -> Work:
    """Half of the items are read in both checkpoints, the others replayed under every dose of every direction."""
    runs = (1 + int(case.options["draws"])) * sum(b != 0 for b in case.options["betas"])
    layer = case.n_layers // 2 if case.options["layer"] is None else int(case.options["layer"])
    asked = together(passes(case, "answer"), replays(case, [layer], runs))
    return together(scaled(passes(case, "none"), 0.5), scaled(asked, 0.5))


@analysis(work=_work)
def difference_steering(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    texts: Prompts | None = None,
    *,
    layer: int | None = None,
    betas: tuple[float, ...] = (-1.0, 0.5, 1.0, 2.0),
    draws: int = 20,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Answer log-probability of the base while the mean difference of states is added, and under random directions.

    Rows: layer, arm (difference or random_direction), draw, beta, item, group, answer_kind, metric (nats per token),
    missing (tuned's minus the base's unaltered metric).

    Args:
        texts: texts on which the difference is read; without them, half of the prompts, and the other half is measured.
        layer: its output is read and added to.
        betas: multiples of the difference.
        draws: of the random direction.
        seed: halves, the random directions and the bootstrap.
    """
    from analyses.steering._arms import halves, responses

    if draws < 1 or not betas or not all(map(math.isfinite, betas)):
        raise InputError(f"betas={betas}, draws={draws}; expected finite numbers and at least one draw")
    warnings = reading.pair_warnings(base, tuned)
    where = base.site(f"resid_post.{base.shape.n_layers // 2 if layer is None else layer}")
    plan: dict[str, Any] = {"batch_size": batch_size, "template": template}
    read, asked = (texts, prompts) if texts is not None else halves(prompts, (), 0.5, seed)
    vector = mean_difference(base, tuned, read, where, plan)
    doses = sorted({*map(float, betas), 0.0})

    def runs(clean: Clean) -> Iterator[EditedRun]:
        yield from _runs(clean, where, vector, doses, draws, seed)

    table = responses(base, base.batches(asked, **plan), runs, what="difference steering")
    own = responses(tuned, tuned.batches(asked, **plan), lambda _: iter([_plain(where)]), what="tuned")
    table = _with_gap(table, own)
    data = dose_response(table.rename(columns={"beta": "alpha"}), treatment="difference",
                         targets=sorted(table["group"].unique()), none=0.0, seed=seed)  # fmt: skip
    claims = _direction_claims.claims(data, "difference", draws, "log-probability of answers", "nats/token per unit")
    data = xr.merge([data.rename({"alpha": "beta"}), _recovered(table, seed)], join="outer", compat="no_conflicts")
    return Result.of(table.sort_values(["layer", "arm", "draw", "beta", *KEYS], kind="stable"), data,
                     claims=claims, warnings=warnings)  # fmt: skip


def mean_difference(
    base: Model, tuned: Model, texts: Prompts, where: Site, plan: dict[str, Any]
) -> Float[Tensor, " d_model"]:
    """Mean of h_tuned - h_base over items, each the mean over its positions but the first."""
    sums, n = torch.zeros(base.shape.d_model, dtype=torch.float64), 0
    for batch in base.batches(texts, **plan):
        first, second = (m.run(batch, read=[where], logits="none")[where].float() for m in (base, tuned))
        kept = batch.mask & (batch.mask.long().cumsum(-1) > 1)
        weight = (kept.float() / kept.sum(-1, keepdim=True).clamp(min=1)).to(first.device)[..., None]
        moved = torch.where(weight > 0, second.to(first.device) - first, 0.0)
        sums += (moved * weight).sum((0, 1)).double().cpu()
        n += len(batch.items)
    return (sums / n).float()


def _runs(
    clean: Clean, where: Site, vector: Float[Tensor, " d_model"], doses: list[float], draws: int, seed: int
) -> Iterator[EditedRun]:
    from analyses.steering._arms import EditedRun, direction

    size, layer = float(vector.norm()), int(where.layer or 0)
    arms = [("difference", 0, vector)]
    arms += [("random_direction", d, direction(len(vector), seed, layer, d).to(vector) * size) for d in range(draws)]
    for arm, draw, push in arms:
        for beta in doses:
            columns = {"layer": layer, "arm": arm, "draw": draw, "beta": beta}
            yield EditedRun(columns, [add(where, push.to(clean.inputs[0]) * beta, "all")] if beta and size else [])


def _plain(where: Site) -> EditedRun:
    from analyses.steering._arms import EditedRun

    return EditedRun({"layer": where.layer, "arm": "tuned", "draw": 0, "beta": 0.0}, [])


def _with_gap(table: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Every row with how much likelier the tuned checkpoint gives the item's answer than the unaltered base."""
    plain = table[(table["beta"] == 0) & (table["arm"] == "difference")].set_index(PAIR)["metric"]
    gap = tuned.set_index(PAIR)["metric"] - plain
    return table.merge(gap.rename("missing").reset_index(), on=PAIR, validate="many_to_one")


def _recovered(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """gap, and effect at beta = 1 over it; NaN where the gap's interval does not leave out 0 or 1 was not asked for."""
    own = table[table["arm"] == "difference"]
    one, none = (own[own["beta"] == beta].set_index(KEYS)["metric"] for beta in (1.0, 0.0))
    rows = own.drop_duplicates(KEYS)[[*KEYS, "missing"]].merge(
        (one - none).rename("moved").reset_index(), on=KEYS, how="left"
    )
    how: dict[str, Any] = {"seed": seed, "units": "nats/token"}
    gap = estimate(rows, "missing", KEYS[1:], long_name="tuned minus base", **how)
    label = "effect at beta 1 over what was missing"
    found = estimate(rows, "moved", KEYS[1:], per="missing", seed=seed, units="1", name="recovered", long_name=label)
    clear = (gap["missing_ci_low"] > 0) | (gap["missing_ci_high"] < 0)
    for name in ("recovered", "recovered_ci_low", "recovered_ci_high"):
        found[name] = found[name].where(clear)
    return xr.merge([gap, found])


def figures(result: Result) -> dict[str, Figure]:
    """Change of the answers' log-probability against beta, the difference and random directions."""
    rows = result.summary()
    rows = rows[rows["quantity"] == "effect"]
    rows = rows.assign(items=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    facet = [c for c in ("items", "layer") if c in rows]
    title = "Answers under the difference of two checkpoints, 95 % interval over items"
    dash = "step" if "step" in rows else None
    return {"effect": curve(rows, x="beta", color="arm", dash=dash, facet=facet, title=title, reference=0)}
