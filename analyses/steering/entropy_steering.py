"""Adding an uncertainty direction to the residual stream: does it move entropy and answers, beyond random ones?

Definition: states are prompts with an entropy h and the activation z of their last token at a site. `east_centred`:
    u = sum_k sum_t h_t^k (z_t^k - mean_t' z_t'^k) / sum h over episodes k (h constant in an episode gives 0).
    `east_uncentred`: u = sum h z / sum h (equal h gives the mean). `difference` (plain activation addition): mean z
    of the target groups minus mean z of the others. Steering adds beta n u / ||u|| at the site, n being the mean
    norm of z: beta is a share of the stream, the same for every vector and placebo. From a log of rollouts, a state
    is a sampling group, h the entropy of its parsed answers (plug-in, over its samples); without a log, h is the
    model's own next-token entropy on half of the prompts, and the other half is measured.
Units: entropy_nats in nats at the last prompt token; metric in nats per token; slopes per unit of beta.
Source: EAST, arXiv 2406.00244 (sums over several steps of one episode; a single-turn log has one state per prompt,
    so an episode is all states, or those of one optimizer step or group: the option `episode`).
Does not show: that the model "uses" this direction for its uncertainty. Any large push moves entropy: read the slope
    against random directions only.
Control: random directions of the same norm; items of other groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

import probe
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.work import Case, Work, passes, replays, scaled, together
from analyses.steering import _direction_claims
from analyses.steering._dose_response import dose_response
from probe.errors import InputError
from probe.interventions import add

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from analyses.steering._arms import EditedRun
    from analyses.steering._uncertain_states import UncertainStates
    from probe import Direction, Model, Prompts, Rollouts
    from probe.replay import Clean

ROWS = ["layer", "arm", "draw", "beta", "item", "group", "answer_kind"]


def _work(case: Case) -> Work:
    """Half of the items give the direction, the others are replayed under every dose of every direction, twice."""
    runs = (1 + int(case.options["draws"])) * sum(b != 0 for b in case.options["betas"])
    layer = case.n_layers // 2 if case.options["layer"] is None else int(case.options["layer"])
    asked = together(passes(case, "answer", times=2), replays(case, [layer], 2 * runs))
    return together(scaled(passes(case, "last"), 0.5), scaled(asked, 0.5))


@analysis(work=_work)
def entropy_steering(
    model: Model,
    prompts: Prompts,
    rollouts: Rollouts | None = None,
    *,
    vector: Literal["east_centred", "east_uncentred", "difference"] = "east_centred",
    episode: Literal["all", "group"] = "all",
    targets: tuple[str, ...] = (),
    pattern: str | None = None,
    site: Literal["resid_post", "resid_pre", "attn_out", "mlp_out"] = "resid_post",
    layer: int | None = None,
    betas: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5),
    positions: Literal["all", "last_prompt"] = "all",
    draws: int = 20,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    r"""Next-token entropy and answer log-probability while a direction is added at a site, and under random ones.

    Rows: layer, arm (the vector's name, or random_direction), draw, beta, item, group, answer_kind, metric (nats
    per token), entropy_nats.

    Args:
        rollouts: log to take states and the entropy of their answers from; without one, half of the prompts.
        vector: which direction is added.
        episode: states centred together: all, or those of one optimizer step (of a log) or group (of prompts).
        targets: `difference` points to them, and needs them.
        site: read and added to.
        betas: shares of the mean norm of the stream there.
        positions: add at all positions, or at the last prompt token only.
        draws: of the random direction.
        seed: split, the random directions and the bootstrap.
    """
    from analyses.steering._arms import halves, responses
    from analyses.steering._uncertain_states import last_token_entropy, states_of_log, states_of_prompts

    doses = _doses(betas, draws)
    where = model.site(f"{site}.{model.shape.n_layers // 2 if layer is None else layer}")
    tokenized: dict[str, Any] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    if rollouts is None or vector == "difference":
        chooses, measures = halves(prompts, (), 0.5, seed)
        states = states_of_prompts(model, model.batches(chooses, **tokenized), where)
    else:
        measures, states = prompts, states_of_log(model, rollouts, where, pattern, batch_size)
    unit, warnings = _unit(states, vector, episode, targets)
    push = unit * float(states.z.norm(dim=-1).mean())
    arms = _arms(push, vector, draws, seed, int(where.layer or 0))

    def runs(clean: Clean) -> Iterator[EditedRun]:
        yield from _runs(clean, where, arms, doses, positions)

    batches = model.batches(measures, **tokenized)
    table = responses(model, batches, runs, what="entropy steering", metric=probe.replay.answer_logprob)
    entropy = responses(model, batches, runs, what="entropy steering (entropy)", metric=last_token_entropy)
    table = table.merge(entropy.rename(columns={"metric": "entropy_nats"}), on=ROWS, validate="one_to_one")
    return _result(table.sort_values(ROWS, kind="stable"), vector, seed, warnings)


def entropy_direction(
    model: Model,
    prompts: Prompts,
    *,
    layer: int | None = None,
    site: str = "resid_post",
    vector: str = "east_centred",
    targets: tuple[str, ...] = (),
    batch_size: int = 8,
) -> Direction:
    """The direction this analysis adds, to be steered with as any other: `model.steer(text, found, [-0.5, 0, 0.5])`.

    Found from all of the prompts' last tokens and the model's own next-token entropy there; one unit of strength is the
    mean norm of the stream, as one of `betas` is. `model.steer` sets random directions of its norm beside it.

    Args:
        model: whose states are read.
        prompts: the states are their last tokens.
        layer: block; default the middle one.
        site: kind of site to read and to add at.
        vector: `east_centred`, `east_uncentred` or `difference`.
        targets: groups of prompts that `difference` points to.
        batch_size: prompts per forward pass.

    Raises:
        InputError: entropy does not vary, so that there is no direction; no such site; targets that name no group.
    """
    from analyses.steering._uncertain_states import states_of_prompts

    where = model.site(f"{site}.{model.shape.n_layers // 2 if layer is None else layer}")
    states = states_of_prompts(model, model.batches(prompts, batch_size=batch_size), where)
    unit, warnings = _unit(states, vector, "all", targets)
    if warnings:
        raise InputError(warnings[0])
    made_of = {"name": vector, "model": model.fingerprint(), "prompts": prompts.fingerprint(), "n": len(states.h)}
    return probe.Direction(unit * float(states.z.norm(dim=-1).mean()), where, made_of)


def _doses(betas: Sequence[float], draws: int) -> list[float]:
    bad = [b for b in betas if not math.isfinite(b)]
    if bad or not betas or draws < 1:
        raise InputError(f"betas={list(betas)}, draws={draws}; expected finite numbers and at least one draw")
    return sorted({*map(float, betas), 0.0})


def _unit(states: UncertainStates, vector: str, episode: str, targets: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The direction as a unit vector; zeros, with a warning, where it is undefined."""
    from analyses.steering._uncertain_states import difference, east

    if vector == "difference":
        raw = difference(states, targets)
    else:
        raw = east(states, is_centred=vector == "east_centred", by_episode=episode == "group")
    size = float(raw.norm())
    # Rounding of a sum that cancels exactly: no direction to speak of.
    if size <= 1e-6 * float(states.z.norm(dim=-1).mean()):
        return raw * 0, [f"{vector} is 0: entropy does not vary within any episode, so there is nothing to add"]
    return raw / size, []


def _arms(push: Tensor, vector: str, draws: int, seed: int, layer: int) -> list[tuple[str, int, Tensor]]:
    from analyses.steering._arms import direction

    size = float(push.norm())
    drawn = [direction(len(push), seed, layer, draw).to(push) * size for draw in range(draws)]
    return [(vector, 0, push), *(("random_direction", number, d) for number, d in enumerate(drawn))]


def _runs(
    clean: Clean, where: Any, arms: Sequence[tuple[str, int, Tensor]], doses: Sequence[float], positions: Any
) -> Iterator[EditedRun]:
    from analyses.steering._arms import EditedRun

    for arm, draw, push in arms:
        for beta in doses:
            columns = {"layer": where.layer, "arm": arm, "draw": draw, "beta": beta}
            yield EditedRun(columns, [add(where, push.to(clean.inputs[0]) * beta, positions)] if beta else [])


def _result(table: pd.DataFrame, vector: str, seed: int, warnings: list[str]) -> Result:

    groups = sorted(table["group"].unique())
    rows = table.rename(columns={"beta": "alpha"})
    options: dict[str, Any] = {"treatment": vector, "targets": groups, "none": 0.0, "seed": seed}
    answer = dose_response(rows, **options)
    entropy = dose_response(rows.assign(metric=rows["entropy_nats"]), **options, unit="nats")
    data = xr.merge([answer, entropy.rename({name: f"entropy_{name}" for name in entropy.data_vars})],
                    join="outer", compat="no_conflicts").rename({"alpha": "beta"})  # fmt: skip
    said = _direction_claims.claims(entropy, vector, int(table["draw"].max()) + 1)
    return Result.of(table, data, claims=said, warnings=warnings)


def figures(result: Result) -> dict[str, Figure]:
    """Entropy and answer log-probability against beta, vector and random directions."""

    rows = result.summary()
    rows = rows.assign(items=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    dash = "step" if "step" in rows else None
    titles = {"entropy_effect": "Next-token entropy under steering", "effect": "Answer log-probability under steering"}
    return {
        name: curve(
            rows[rows["quantity"] == name],
            x="beta",
            color="arm",
            dash=dash,
            facet=[c for c in ("items", "layer") if c in rows],
            title=f"{title}, 95 % interval over items",
            reference=0,
        )
        for name, title in titles.items()
    }
