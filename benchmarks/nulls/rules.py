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
from benchmarks.nulls import zoo

TABLE = Path(__file__).with_name("rules.json")
SETS = 100
LIMIT = 0.10  # of 100 data sets
DRAWS = 400
Rule = Callable[[Any], list[Claim]]


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
        if (wanted and not rule.startswith(wanted)) or kept.get(at, {}).get("sets", 0) >= sets:
            continue
        kept[at] = {"rule": rule, "kind": kind, "data": name, **cell(kinds, ask, make, sets, name)}
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
