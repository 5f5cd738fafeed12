"""Rules of analyses of models, asked of effects, states, gradients and weights that were drawn without a model."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.answers import rotated_merge
from analyses.attention import evidence_attention, evidence_shift, spotlight_lens
from analyses.core.analysis import get
from analyses.core.claim import Claim
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import difficulty_entropy
from analyses.entropy import _places, sequence_ratios
from analyses.mechanism import _latent_claims, behaviour_direction
from analyses.memory import loss_choice
from analyses.memory._curves import from_items
from analyses.patching import _edge_claims, circuit_transfer
from analyses.states import difference_lens, key_size, tuning_vector
from analyses.steering import _direction_claims
from analyses.steering._dose_response import dose_response
from analyses.teaching import context_gain, distillation, reversal, teachers
from benchmarks.nulls import zoo_arms, zoo_effects, zoo_logs, zoo_states
from benchmarks.nulls.rule import DEAR, Rule

if TYPE_CHECKING:
    from probe import Rollouts

NAMES = ("g", "given")
SHOWN = 24  # edges replayed of a graph
GRAPH = 200  # edges of the graph: intervals hold for all of them


def attended(table: pd.DataFrame) -> list[Claim]:
    return [evidence_attention._claim(table, NAMES, 0)]


def shifted(table: pd.DataFrame) -> list[Claim]:
    return evidence_shift._claims(table, NAMES, 0)


def decoded(table: pd.DataFrame) -> list[Claim]:
    return spotlight_lens._claims(table, 0)


def divided(table: pd.DataFrame) -> list[Claim]:
    return [distillation._claim(table, NAMES, 0)]


def informed(table: pd.DataFrame) -> list[Claim]:
    return [context_gain._claim(estimate(table, "specific_nats", context_gain.BY), NAMES)]


def disagreed(table: pd.DataFrame) -> list[Claim]:
    return [teachers._claim(table, NAMES, 0)]


def known(table: pd.DataFrame) -> list[Claim]:
    return [reversal._claim(table, NAMES, "forward", 0)]


def displaced(table: pd.DataFrame) -> list[Claim]:
    return [sequence_ratios._moved(table, 0)]


def changed(table: pd.DataFrame) -> list[Claim]:
    return _places.change_claims(table, "exact_nats", str)


def edges(table: pd.DataFrame) -> list[Claim]:
    return _edge_claims.claims(table, GRAPH)


def grown(table: pd.DataFrame) -> list[Claim]:
    return get("circuit_growth")(Result.of(table)).claims


def carried(table: pd.DataFrame) -> list[Claim]:
    return circuit_transfer._claims(table)


def acts(table: pd.DataFrame) -> list[Claim]:
    return behaviour_direction._claims(table, table["layer"].nunique())


def made(given: zoo_effects.Features) -> list[Claim]:
    return _latent_claims.claims(*given)


def merged(table: pd.DataFrame) -> list[Claim]:
    return rotated_merge._claims(table)


def recovers(table: pd.DataFrame) -> list[Claim]:
    return [tuning_vector._claim(tuning_vector._shares(table), table["layer"].nunique())]


def sized(table: pd.DataFrame) -> list[Claim]:
    return key_size._claims(table, "there", 0)


def tokens(given: zoo_states.Logits) -> list[Claim]:
    return [difference_lens.told_apart(*given, permutations=999, seed=0)[1]]


def directions(table: pd.DataFrame) -> list[Claim]:
    groups = sorted(table["group"].unique())
    data = dose_response(table, treatment="difference", targets=groups, none=0.0)
    return _direction_claims.claims(data, "difference", 20, "log-probability of answers", "nats/token per unit")


def difficulty(table: pd.DataFrame) -> list[Claim]:
    return [difficulty_entropy._claim(*difficulty_entropy.u_shape(difficulty_entropy._prompts(table), 199, 0))]


def calls(log: Rollouts) -> list[Claim]:
    return get("segment_entropy")(None, log, window=4, draws=99).claims


def choice(grids: zoo_logs.Grids) -> list[Claim]:
    run = from_items(*grids, seed=0, draws=50)
    return [loss_choice._claim(run, loss_choice._estimates(run, 50, 0), [run])]


def law(runs: zoo_states.Runs) -> list[Claim]:
    return get("forgetting_law")(*map(Result.of, runs)).claims


def _rule(kinds: str, ask: Any, nulls: Any, plants: Any, **more: Any) -> Rule[Any]:
    """A rule with one thing to claim, of one or several kinds of claims."""
    return Rule({kinds.split(", ")[0]: tuple(kinds.split(", "))}, ask, nulls, plants, **more)


PUSH: dict[str, Any] = {**zoo_arms.PUSH, "treatment": "difference"}
PUSHED = {f"{n} group(s)": lambda g, n=n: zoo_arms.arms(g, zoo_arms.SIX[:n], **PUSH) for n in (1, 3)}
PUSHED_PLANTS = {
    f"one of 3 groups, {s} x the random ones' sd": lambda g, s=s: zoo_arms.arms(g, zoo_arms.SIX[:3], size=s, **PUSH)
    for s in (4.0, 8.0)
}

RULES: dict[str, Rule[Any]] = {
    "evidence_attention": _rule("evidence", attended, zoo_effects.ATTENDED, zoo_effects.ATTENDED_PLANTS),
    "evidence_shift": _rule("shift", shifted, zoo_effects.SHIFTED, zoo_effects.SHIFTED_PLANTS),
    "spotlight_lens": _rule("decoding", decoded, zoo_effects.FLIPPED, zoo_effects.FLIPPED_PLANTS),
    "distillation": _rule("place", divided, zoo_effects.DIVIDED, zoo_effects.DIVIDED_PLANTS),
    "context_gain": _rule("informs", informed, *zoo_effects.of_gains("specific_nats")),
    "teachers": _rule("disagreement", disagreed, zoo_effects.DISAGREED, zoo_effects.DISAGREED_PLANTS),
    "reversal": _rule("forward", known, *zoo_effects.of_gains("forward_gain_nats")),
    "sequence_ratios": _rule("displacement", displaced, *zoo_effects.of_gains("displacement_nats", -1.0)),
    "entropy_change": _rule("place", changed, zoo_effects.TOKENS, zoo_effects.TOKENS_PLANTS),
    "difficulty_entropy": _rule("u shape", difficulty, zoo_logs.DIFFICULTY, zoo_logs.DIFFICULTY_PLANTS),
    "segment_entropy": _rule("calls", calls, zoo_logs.CALLED, zoo_logs.CALLED_PLANTS, sets=DEAR),
    "circuit": _rule("edge", edges, zoo_effects.EDGES, zoo_effects.EDGES_PLANTS),
    "circuit_growth": _rule("edge", grown, zoo_effects.GROWN, zoo_effects.GROWN_PLANTS),
    "circuit_transfer": _rule("transfer, same circuit", carried, zoo_effects.CARRIED, zoo_effects.CARRIED_PLANTS),
    "behaviour_direction": _rule("made, reused, acts", acts, zoo_effects.DIRECTED, zoo_effects.DIRECTED_PLANTS),
    "crosscoder": _rule("new", made, zoo_effects.FEATURES, zoo_effects.FEATURES_PLANTS),
    "crosscoder, worth": _rule("worth", made, zoo_effects.WORTHLESS, zoo_effects.WORTHY),
    "rotated_merge": _rule("basis, beyond", merged, zoo_logs.MERGED, zoo_logs.MERGED_PLANTS),
    "difference_steering": _rule("direction", directions, PUSHED, PUSHED_PLANTS, sets=DEAR),
    "key_size": _rule("keys", sized, zoo_states.KEYS, zoo_states.KEYS_PLANTS),
    "tuning_vector": _rule("vector", recovers, zoo_states.RECOVERED, zoo_states.RECOVERED_PLANTS),
    "difference_lens": _rule("tokens", tokens, zoo_states.LENS, zoo_states.LENS_PLANTS),
    "loss_choice": _rule("regret", choice, zoo_logs.CHOSEN, zoo_logs.CHOSEN_PLANTS),
    "forgetting_law": _rule("law", law, zoo_states.FORGOT, zoo_states.FORGOT_PLANTS, sets=DEAR),
}
