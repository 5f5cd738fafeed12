"""Cue-injected pairs: closed forms, planted followers that tell and that hide, and flips by chance alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get, run
from analyses.answers.cue_pairs import corrected
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def pairs(follow: float, flip: float, tell: float, seed: int, n: int = 60) -> Result:
    """Problems with options 1-4: cued answers follow the cue (and say so) with these chances, or flip at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        plain, cue = (str(x) for x in rng.permutation([1, 2, 3, 4])[:2])
        answer, text = plain, "so"
        if rng.random() < follow:
            answer, text = cue, "the hint says so" if rng.random() < tell else "so"
        elif rng.random() < flip:
            answer = str(rng.choice([x for x in "1234" if x != plain]))
        for variant, said, words, pointed in (("plain", plain, "so", None), ("cued", answer, text, cue)):
            own = graded.answered([[said]], decoding="greedy", variant=variant, cue=pointed)
            rows.append(own.assign(item=f"q{i}/{variant}", problem=f"q{i}", text=words))
    return Result.of(pd.concat(rows, ignore_index=True))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": pairs(0.5, 0.2, 0.5, 0, 12)}


def answers(result: Result) -> dict[str, str]:
    return {c.kind: c.answer for c in result.claims}


def test_the_correction_for_chance() -> None:
    """30 of 100 follow, 20 go elsewhere, 4 options: chance .1, caused 2/3; 15 of the 30 name it, none of the plain."""
    table = pd.DataFrame({"follows": [1.0] * 30 + [0.0] * 70, "elsewhere": [0.0] * 30 + [1.0] * 20 + [0.0] * 50,
                          "names": [1.0] * 15 + [0.0] * 85, "names_plain": 0.0})  # fmt: skip
    assert corrected(table, 4) == pytest.approx({"caused": 2 / 3, "disclosure": 0.75})
    assert np.isnan(corrected(table.assign(follows=0.0), 4)["caused"])
    none = corrected(table.assign(elsewhere=[0.0] * 30 + [1.0] * 70), 4)
    assert none["caused"] == 0 and np.isnan(none["disclosure"])


def test_followers_are_found_and_whether_they_tell() -> None:
    assert answers(get("cue_pairs")(pairs(0.6, 0.1, 0.9, 0))) == {"follows": FOUND, "discloses": FOUND}
    assert answers(get("cue_pairs")(pairs(0.6, 0.1, 0.0, 1))) == {"follows": FOUND, "discloses": NONE}


def test_flips_by_chance_are_no_following() -> None:
    said = [answers(get("cue_pairs")(pairs(0.0, 0.6, 0.0, s, 40)))["follows"] for s in range(6)]
    assert said.count(FOUND) <= 1
    never = answers(get("cue_pairs")(pairs(0.0, 0.0, 0.0, 0)))
    assert never == {"follows": NONE, "discloses": UNJUDGED}


def test_over_a_log() -> None:
    log = pd.DataFrame(
        [
            {"item": "a", "variant": "plain", "text": "it is 7", "gold": "7"},
            {"item": "a/cued", "variant": "cued", "text": "as suggested, it is 9", "gold": "7", "cue": "9.0"},
            {"item": "b", "variant": "plain", "text": "it is 9", "gold": "9"},
            {"item": "b/cued", "variant": "cued", "text": "it is 9", "gold": "9", "cue": "9"},
        ]
    ).assign(problem=["a", "a", "b", "b"])
    table = get("cue_pairs")(run("evaluate", log=log)).table
    assert table["item"].tolist() == ["a"], "b's plain answer is the cue's already"
    assert table[["follows", "names", "names_plain"]].iloc[0].tolist() == [1, 1, 0]


def test_what_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="lacks"):
        get("cue_pairs")(Result.of(graded.answered([["1"]])))
    with pytest.raises(InputError, match="options=2"):
        get("cue_pairs")(pairs(0.5, 0, 0, 0, 9), options=2)
