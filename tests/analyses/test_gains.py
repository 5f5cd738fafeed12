"""Gains: memory planted is found, what only looks like it is not called so, and what cannot be judged says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.core import claim
from analyses.core.analysis import get
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError

STEPS = (0, 10, 20)
Pair = tuple[np.ndarray, ...]


def swept(seen: Pair, unseen: Pair, **columns: Any) -> Result:
    """A swept evaluate result of 0/1 outcomes, one array a step."""
    rows = [
        {"item": f"{role}{i}", "group": role, "answer_kind": "g", "step": step, "decoding": "greedy", "sample": 0,
         "status": "correct" if right else "wrong", "seen": role == "a"}
        for role, outcomes in (("a", seen), ("b", unseen))
        for step, of in zip(STEPS, outcomes, strict=False)
        for i, right in enumerate(of)
    ]  # fmt: skip
    table = pd.DataFrame(rows).assign(**columns).sample(frac=1, random_state=0)
    return Result(Result.of(table).data, table, {"key": "k"})


def outcomes(seed: int, n: int, start: float, *shifts: float, spread: float = 1.0) -> Pair:
    """Items of log odds start + noise, answered anew at every step after their shift."""
    rng = np.random.default_rng(seed)
    ease = start + spread * rng.normal(size=n)
    return tuple((rng.random(n) < 1 / (1 + np.exp(-ease - shift))) for shift in (0.0, *shifts))


def said(result: Result, **options: Any) -> Any:
    (one,) = get("gains")(result, draws=400, **options).claims
    return one


def test_memory_is_found_since_the_step_from_which_on_it_holds():
    one = said(swept(outcomes(0, 80, 0, 0.0, 4.0), outcomes(1, 80, 1, 0.0, 0.0)))
    assert (one.kind, one.answer, one.step) == ("memory", FOUND, 20)
    assert claim.sentence(one).startswith(
        "Answers come from memory: seen items gained more than unseen ones since step 20: +0."
    )
    assert one.low > 0 and one.n == 80 and one.control == "unseen items" and one.family.startswith("2 steps; 90 %")


@pytest.mark.parametrize(
    ("seen", "unseen"),
    [
        ((0.0, 1.0, 1.0), (3.0, 1.0, 1.0)),  # a ceiling
        ((0.0, 1.0, 1.0), (-4.0, 1.0, 1.0)),  # a floor
        ((0.0, 1.0, 0.3), (0.0, 1.0, 4.0)),  # many unseen items are always right, or never
    ],
)
def test_one_law_for_all_items_is_not_called_memory(seen, unseen):
    """Every item's log odds rise by 1; only where the groups start differs."""
    drawn = lambda seed, of: outcomes(seed, 200, of[0], of[1], spread=of[2])  # noqa: E731
    words = [said(swept(drawn(s, seen), drawn(s + 500, unseen))) for s in range(12)]
    assert sum(w.kind == "memory" and w.is_found for w in words) <= 2
    more = [w for w in words if w.is_found and w.kind == "gain"]
    assert more and all("not called memory" in w.caveat for w in more), "the shares do differ, and that is said"


def test_items_that_all_gained_have_gained():
    """A whole group from wrong to right has no spread, and needs none."""
    never, always = np.zeros(32, bool), np.ones(32, bool)
    unseen = outcomes(1, 48, 0, 0.0)
    assert said(swept((never, always), unseen)).kind == "memory"
    clusters = swept((never, always), unseen).table.assign(cluster=lambda t: t["group"] + t["item"].str[-1])
    assert get("gains")(Result.of(clusters), draws=400).claims[0].is_found


def test_seen_items_that_only_lost_less_did_not_gain():
    one = said(swept(outcomes(0, 120, 2, 0.0), outcomes(1, 120, 2, -4.0)))
    assert (one.kind, one.answer, one.what) == ("gain", NONE, "seen items gained")
    assert one.low < 0 < one.high and "lost more" in one.caveat


def test_items_without_a_cluster_stand_alone():
    result = swept(outcomes(0, 40, 0, 4.0), outcomes(1, 40, 1, 0.0))
    named = result.table.assign(cluster=np.where(result.table["item"] == "a0", "x", None))
    assert get("gains")(Result.of(named), draws=400).claims[0].n == 40


def test_equal_gains_of_unequal_groups_are_none_found():
    words = [said(swept(outcomes(s, 200, 0, 1.0), outcomes(s + 99, 24, 0, 1.0))) for s in range(12)]
    assert sum(w.is_found for w in words) <= 2
    assert all(w.answer in (FOUND, NONE) for w in words)


def test_an_unseen_group_at_its_ceiling_throughout_tells_nothing_of_memory():
    always = np.ones(60, bool)
    one = said(swept(outcomes(0, 60, -4, 8.0), (always, always)))
    assert (one.kind, one.answer) == ("gain", FOUND) and "not called memory" in one.caveat


def test_roles_come_from_the_column_or_the_options_and_never_from_names():
    pair = outcomes(0, 40, 0, 4.0), outcomes(1, 40, 1, 0.0)
    table = swept(*pair).table
    bare = Result.of(table.drop(columns="seen").assign(group=table["group"].map({"a": "leaked_canary", "b": "unseen"})))
    one = said(bare)
    assert one.answer == UNJUDGED and "nothing says which items were seen" in claim.sentence(one)
    assert "seen" in one.needs
    named = said(bare, seen=("leaked_canary",), unseen=("unseen",))
    assert named.effect == said(swept(*pair)).effect
    with pytest.raises(InputError, match="nosuch"):
        said(bare, seen=("nosuch",))


@pytest.mark.parametrize("written", [float, int, object])
def test_the_column_seen_is_read_however_a_file_gives_it_back(written):
    result = swept(outcomes(0, 40, 0, 4.0), outcomes(1, 40, 1, 0.0))
    assert said(Result.of(result.table.assign(seen=result.table["seen"].astype(written)))).is_found


def test_groups_made_from_outcomes_are_not_judged():
    result = swept(outcomes(0, 40, 0, 4.0), outcomes(1, 40, 1, 0.0), group_from="outcomes")
    assert "made from outcomes" in said(result).why
    result = swept(outcomes(0, 40, 0, 4.0), outcomes(1, 40, 1, 0.0))
    result.table["group"] = result.table["group"].map({"a": "leak", "b": "stable"})
    assert "made from outcomes" in said(result, seen=("leak",), unseen=("stable",)).why


def test_too_few_items_and_too_few_steps():
    few = said(swept(outcomes(0, 40, 0, 4.0), outcomes(1, 5, 1, 0.0)))
    assert few.answer == UNJUDGED and "40 seen and 5 unseen items with all steps" in few.why and "8 items" in few.needs
    one = swept(outcomes(0, 40, 0, 4.0), outcomes(1, 40, 1, 0.0))
    with pytest.raises(InputError, match="at least two checkpoints"):
        get("gains")(Result.of(one.table[one.table["step"] == 0]))


def test_copies_of_items_in_one_cluster_add_nothing():
    seen, unseen = outcomes(3, 12, 0, 1.5), outcomes(4, 12, 0, 0.0)
    copied = swept(*(tuple(np.tile(x, 10) for x in side) for side in (seen, unseen)))
    clusters = copied.table["group"] + (copied.table["item"].str[1:].astype(int) % 12).astype(str)
    whole = said(swept(seen, unseen))
    of_clusters = get("gains")(Result.of(copied.table.assign(cluster=clusters)), draws=400).claims[0]
    alone = said(copied)
    assert alone.is_found, "120 independent items would be enough"
    assert of_clusters.answer == whole.answer and of_clusters.effect == pytest.approx(whole.effect)
    assert of_clusters.low == pytest.approx(whole.low, abs=0.1)


def example(folder: Path) -> dict[str, Any]:
    """Inputs of the contract tests."""
    return {"evaluate": swept(outcomes(0, 20, 0, 1.0, 2.0), outcomes(1, 20, 0, 0.0, 0.0))}
