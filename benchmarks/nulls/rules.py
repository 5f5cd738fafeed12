"""Every rule as a question to data, with the nulls and the plants that apply to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import get
from analyses.core.claim import FOUND, NONE, Claim
from analyses.core.result import Result
from analyses.memory._membership_claim import SCORES, told_apart
from analyses.patching import _place_claims
from analyses.patching.attribution_patching import agreement
from analyses.states import _part_claims
from analyses.states._window_rule import ItemCurve, families, find_anchor
from analyses.states.linear_probe import covariate_matrix, outer_folds, probed
from analyses.states.neural_ode import fitted
from analyses.states.trajectories import curves
from analyses.steering import _audit_claims, _direction_claims, _selective
from analyses.steering._dose_response import dose_response
from analyses.steering.probe_gated_audit import aggregate as audit_arrays
from benchmarks.nulls import rules_answers, rules_effects, rules_states, zoo, zoo_arms, zoo_models
from benchmarks.nulls.rule import DEAR, TRAINED, Makers, Rule
from probe import RunLog

if TYPE_CHECKING:
    from analyses.core.reading.pooled import States

DRAWS = 400


def gains(table: pd.DataFrame) -> list[Claim]:
    return get("gains")(Result.of(table), draws=DRAWS).claims


def paradox(table: pd.DataFrame) -> list[Claim]:
    return get("perplexity_paradox")(Result.of(table)).claims


def stages(of_run: pd.DataFrame) -> list[Claim]:
    return get("over_memorization")(of_run).claims


def places(table: pd.DataFrame) -> list[Claim]:
    groups = ("first", "second") if table["group"].nunique() > 1 else None
    asked = _place_claims.PlaceQuestion("at every token", "nats/token", "log-probability", DRAWS, 0)
    return _place_claims.claims(table, groups, asked, False)


def layers(given: zoo.Layers) -> list[Claim]:
    kinds, first = given
    of_items = {name: ItemCurve(values) for name, values in kinds.items()}
    found = find_anchor(families(of_items, first, width=3, permutations=300, draws=300), 3)
    return [Claim("anchor", FOUND if found.verdict == "anchor" else NONE, "an anchor")]


def law(series: zoo.Series) -> list[Claim]:
    rows = [{"step": i, "entropy": float(h), "reward": float(r)} for i, (h, r) in enumerate(zip(*series, strict=True))]
    return get("entropy_reward_law")(RunLog.of(rows)).claims


def steps(table: pd.DataFrame) -> list[Claim]:
    from analyses.entropy._step_claims import claims

    return claims(table, ("gradient_nats", "pooled", "omega"), lambda _: "n_tokens")


def attributions(pairs: np.ndarray) -> list[Claim]:
    return [agreement(pairs)]


def keys(table: pd.DataFrame) -> list[Claim]:
    data = dose_response(table, treatment="key_overlap", targets=("targets",))
    return _selective.claims(data, "key_overlap", ("targets",), ("g",))


def directions(table: pd.DataFrame) -> list[Claim]:
    groups = sorted(table["group"].unique())
    return _direction_claims.claims(dose_response(table, treatment="east", targets=groups, none=0.0), "east", 20)


def audit(table: pd.DataFrame) -> list[Claim]:
    return _audit_claims.claims(audit_arrays(table, ("targets",), 0), ("targets",), 20)


def members(given: zoo_models.Scores) -> list[Claim]:
    rows, labels = given
    return [told_apart("g", rows, labels, 0.5, 1)]


def _parted(data: xr.Dataset) -> list[Claim]:
    return [_part_claims.parted(data, ("leak", "stable"), "over the prompt", "blocks")]


def forces(states: States) -> list[Claim]:
    return _parted(curves(states, states.groups == "leak", None, 100, 300, 0)[1])


def fields(states: States) -> list[Claim]:
    how = {"fit": "regression", "field_of": "items", "components": 8, "hidden": 8, "updates": 25, "held_out": 0.4}
    return _parted(fitted(states, states.groups == "leak", None, 3, 200, 60, 0, **how)[1])


def probes(states: States) -> list[Claim]:
    first = states.groups == "leak"
    fold = outer_folds(first, 3, 0)
    _, data = probed(states, first, covariate_matrix(states, ()), None, fold, 19, 400, 0)
    return [_part_claims.told_apart(data, ("leak", "stable"), "over the prompt")]


MEMBERS: Makers[zoo_models.Scores] = {
    "32 + 32": lambda r: zoo_models.scores(r, 32, 32, SCORES),
    "16 + 160": lambda r: zoo_models.scores(r, 16, 160, SCORES),
    "128 + 128, skewed": lambda r: zoo_models.scores(r, 128, 128, SCORES, skew=1.5),
}
MEMBERS_PLANTS: Makers[zoo_models.Scores] = {
    f"64 + 64, {d} sd": lambda r, d=d: zoo_models.scores(r, 64, 64, SCORES, d) for d in (0.5, 0.8)
}
PARADOX = {"paradox": ("paradox",), "any": ("paradox", "fall")}
FALLS = {"over-fit or worse": ("over-fit", "worse")}

RULES: dict[str, Rule[Any]] = {
    "gains": Rule({"memory": ("memory",)}, gains, zoo.GAINS, zoo.GAINS_PLANTS),
    "perplexity_paradox": Rule(PARADOX, paradox, zoo.PARADOX, zoo.PARADOX_PLANTS, DEAR),
    "over_memorization": Rule({"over-memorized": ("over-memorized",)}, stages, zoo.CURVES, zoo.CURVES_PLANTS),
    "over_memorization, falls": Rule(FALLS, stages, zoo.CURVES, zoo.FALLS_PLANTS),
    "cross_patching": Rule({"place": ("place",)}, places, zoo.PLACES, zoo.PLACES_PLANTS),
    "cross_patching, two groups": Rule({"contrast": ("contrast",)}, places, zoo.CONTRASTS, zoo.CONTRASTS_PLANTS),
    "anchor_adapter": Rule({"anchor": ("anchor",)}, layers, zoo.LAYERS, zoo.LAYERS_PLANTS, DEAR),
    "entropy_reward_law": Rule({"law": ("law",)}, law, zoo.SERIES, zoo.SERIES_PLANTS),
    "entropy_step": Rule({"a signal follows": ("follows",)}, steps, zoo_models.UPDATES, zoo_models.UPDATES_PLANTS),
    "attribution_patching": Rule(
        {"agreement": ("agreement",)}, attributions, zoo_models.ESTIMATES, zoo_models.ESTIMATES_PLANTS
    ),
    "mlp_key_steering": Rule({"selective": ("selective",)}, keys, zoo_arms.STEERED, zoo_arms.STEERED_PLANTS, DEAR),
    "entropy_steering": Rule({"direction": ("direction",)}, directions, zoo_arms.PUSHED, zoo_arms.PUSHED_PLANTS, DEAR),
    "probe_gated_audit": Rule(
        {"beyond placebos": ("audit",)}, audit, zoo_arms.AUDITED, zoo_arms.COSTLY | zoo_arms.COSTLIER, DEAR
    ),
    "probe_gated_audit, matched": Rule(
        {"beyond matched answers": ("matched",)}, audit, zoo_arms.AUDITED | zoo_arms.COSTLY, zoo_arms.COSTLIER, DEAR
    ),
    "memorization": Rule({"membership": ("membership",)}, members, MEMBERS, MEMBERS_PLANTS),
    "trajectories": Rule({"force": ("force",)}, forces, zoo_models.STATES, zoo_models.STATES_PLANTS),
    "neural_ode": Rule({"force": ("force",)}, fields, zoo_models.FLOWS, zoo_models.FLOWS_PLANTS, DEAR),
    "linear_probe": Rule({"told apart": ("told apart",)}, probes, zoo_models.PROBED, zoo_models.PROBED_PLANTS, TRAINED),
    **rules_answers.RULES,
    **rules_effects.RULES,
    **rules_states.RULES,
}  # fmt: skip
