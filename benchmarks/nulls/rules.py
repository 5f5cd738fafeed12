"""Every rule on every null and plant that applies to it: how often it claims, and how often it gives an answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from analyses.core.analysis import get
from analyses.core.claim import UNJUDGED, Claim
from analyses.core.result import Result
from analyses.memory._membership_claim import SCORES
from benchmarks.nulls import zoo
from benchmarks.nulls import zoo_models as more

TABLE = Path(__file__).with_name("rules.json")
SETS = 100
LIMIT = 0.10  # of 100 data sets
DRAWS = 400
SLOW = {
    "mlp_key_steering": 20,
    "entropy_steering": 40,
}  # data sets at most, of rules that take seconds
Rule = Callable[[Any], list[Claim]]
MEMBERS: dict[str, Any] = {
    "32 + 32": lambda r: more.scores(r, 32, 32, SCORES),
    "16 + 160": lambda r: more.scores(r, 16, 160, SCORES),
    "128 + 128, skewed": lambda r: more.scores(r, 128, 128, SCORES, skew=1.5),
}
MEMBERS_PLANTS: dict[str, Any] = {
    f"64 + 64, {d} sd": lambda r, d=d: more.scores(r, 64, 64, SCORES, d) for d in (0.5, 0.8)
}


def gains(groups: zoo.Groups, template: int = 0) -> list[Claim]:
    return get("gains")(Result.of(zoo.evaluated(groups, template)), draws=DRAWS).claims


def paradox(table: Any) -> list[Claim]:
    return get("perplexity_paradox")(Result.of(table)).claims


def stages(curves: Any) -> list[Claim]:
    return get("over_memorization")(curves).claims


def places(table: Any) -> list[Claim]:
    from analyses.patching._place_claims import Asked, claims

    groups = ("first", "second") if table["group"].nunique() > 1 else None
    return claims(table, groups, Asked("at every token", "nats/token", "log-probability", DRAWS, 0), False)


def layers(given: zoo.Layers) -> list[Claim]:
    from analyses.states._window_rule import ItemCurve, families, find_anchor

    kinds, first = given
    curves = {name: ItemCurve(values) for name, values in kinds.items()}
    found = find_anchor(families(curves, first, width=3, permutations=300, draws=300), 3)
    answer: Any = "found" if found.verdict == "anchor" else "none found"
    return [Claim("anchor", answer, "an anchor")]


def law(series: zoo.Series) -> list[Claim]:
    from probe import RunLog

    rows = [{"step": i, "entropy": float(h), "reward": float(r)} for i, (h, r) in enumerate(zip(*series, strict=True))]
    return get("entropy_reward_law")(RunLog.of(rows)).claims


def steps(table: Any) -> list[Claim]:
    from analyses.entropy._step_claims import claims

    return claims(table, ("gradient_nats", "pooled", "omega"), lambda _: "n_tokens")


def attributions(pairs: Any) -> list[Claim]:
    from analyses.patching.attribution_patching import agreement

    return [agreement(pairs)]


def keys(table: Any) -> list[Claim]:
    from analyses.steering._dose_response import dose_response
    from analyses.steering._selective import claims

    data = dose_response(table, treatment="key_overlap", targets=("targets",))
    return claims(data, "key_overlap", ("targets",), ("g",))


def directions(table: Any) -> list[Claim]:
    from analyses.steering._direction_claims import claims
    from analyses.steering._dose_response import dose_response

    groups = sorted(table["group"].unique())
    return claims(dose_response(table, treatment="east", targets=groups, none=0.0), "east", 20)


def members(given: Any) -> list[Claim]:
    from analyses.memory._membership_claim import told_apart

    rows, labels = given
    return [told_apart("g", rows, labels, 0.5, 1)]


def forces(states: Any) -> list[Claim]:
    from analyses.states._part_claims import parted
    from analyses.states.trajectories import curves

    names = list(dict.fromkeys(states.groups))
    data = curves(states, states.groups == names[0], None, 100, 300, 0)[1]
    return [parted(data, (names[0], names[1]), "over the prompt", "blocks")]


# rule -> (what counts as a claim, the rule, its nulls, its plants)
RULES: dict[str, tuple[tuple[str, ...], Rule, dict[str, Any], dict[str, Any]]] = {
    "gains: memory": (("memory",), gains, zoo.GAINS, zoo.GAINS_PLANTS),
    "gains: memory or more": (("memory", "gain"), gains, {}, zoo.GAINS_PLANTS),
    "perplexity_paradox: paradox": (("paradox",), paradox, zoo.PARADOX, zoo.PARADOX_PLANTS),
    "perplexity_paradox: any": (("paradox", "fall"), paradox, zoo.PARADOX, zoo.PARADOX_PLANTS),
    "over_memorization: over-memorized": (("over-memorized",), stages, zoo.CURVES, zoo.CURVES_PLANTS),
    "over_memorization: over-fit or worse": (("over-fit", "worse"), stages, zoo.CURVES, {}),
    "cross_patching: place": (("place",), places, zoo.PLACES, zoo.PLACES_PLANTS),
    "cross_patching: contrast": (("contrast",), places, zoo.CONTRASTS, zoo.CONTRASTS_PLANTS),
    "anchor_adapter: anchor": (("anchor",), layers, zoo.LAYERS, zoo.LAYERS_PLANTS),
    "entropy_reward_law: law": (("law",), law, zoo.SERIES, zoo.SERIES_PLANTS),
    "entropy_step: a signal follows": (("follows",), steps, more.UPDATES, more.UPDATES_PLANTS),
    "attribution_patching: agreement": (("agreement",), attributions, more.ESTIMATES, more.ESTIMATES_PLANTS),
    "mlp_key_steering: selective": (("selective",), keys, more.STEERED, more.STEERED_PLANTS),
    "entropy_steering: direction": (("direction",), directions, more.PUSHED, more.PUSHED_PLANTS),
    "memorization: membership": (("membership",), members, MEMBERS, MEMBERS_PLANTS),
    "trajectories: force": (("force",), forces, more.STATES, more.STATES_PLANTS),
}


def cell(kinds: tuple[str, ...], rule: Rule, make: Callable[[zoo.Rng], Any], sets: int, name: str) -> dict[str, Any]:
    """Shares of data sets with a claim of these kinds, and with an answer that is not "cannot be judged"."""
    found = answered = 0
    for seed in range(sets):
        data = make(np.random.default_rng((seed, 7)))
        said = gains(data, 8) if rule is gains and name == "templates" else rule(data)
        own = [c for c in said if c.kind in kinds]
        found += any(c.is_found for c in own)
        answered += any(c.answer != UNJUDGED for c in said)
    return {"found": found / sets, "answered": answered / sets, "sets": sets}


def cells() -> Iterator[tuple[str, str, str, tuple[str, ...], Rule, Any]]:
    """(rule, null or plant, name of the data, kinds that count, the rule, generator)."""
    for rule, (kinds, ask, nulls, plants) in RULES.items():
        yield from ((rule, "null", name, kinds, ask, make) for name, make in nulls.items())
        yield from ((rule, "plant", name, kinds, ask, make) for name, make in plants.items())


def table(sets: int = SETS, wanted: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """All cells, those measured before on as many data sets left as they are; written after each."""
    kept = {(r["rule"], r["kind"], r["data"]): r for r in json.loads(TABLE.read_text())} if TABLE.exists() else {}
    for rule, kind, name, kinds, ask, make in cells():
        at = (rule, kind, name)
        enough = min(sets, SLOW.get(rule.split(":")[0], sets))
        if (wanted and not rule.startswith(wanted)) or kept.get(at, {}).get("sets", 0) >= enough:
            continue
        kept[at] = {"rule": rule, "kind": kind, "data": name, **cell(kinds, ask, make, enough, name)}
        TABLE.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
        print(kept[at], file=sys.stderr, flush=True)
    order = {at[:3]: i for i, at in enumerate(cells())}
    return [kept[at] for at in sorted(kept, key=lambda at: order.get(at, len(order)))]


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark; nulls have a bound, plants are told beside them."""
    rows: list[dict[str, Any]] = []
    for row in table():
        bound = {"bound": f"<= {LIMIT:.2f}", "holds": row["found"] <= LIMIT} if row["kind"] == "null" else {}
        note = f"{row['data']}; an answer in {row['answered']:.2f}; {row['sets']} sets"
        name = f"{row['rule']}, {'claimed in a null' if row['kind'] == 'null' else 'planted and found'}"
        rows.append({"name": name, "ratio": row["found"], "note": note, **bound})
    return rows
