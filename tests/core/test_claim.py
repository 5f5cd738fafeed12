"""A claim is data; every place renders it by the same functions."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from analyses.core import claim
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.result import Result

MEMORY = Claim(
    "memory", FOUND, "seen items gained more than unseen ones", effect=0.418, low=0.301, high=0.535, n=64, step=24,
    p=0.0004, control="unseen items", family="3 steps", estimand="gain of seen minus gain of unseen",
)  # fmt: skip


def test_a_sentence_says_who_did_what_since_when_with_one_interval() -> None:
    assert claim.sentence(MEMORY) == ("Seen items gained more than unseen ones since step 24: +0.418 [+0.301, +0.535].")


def test_the_other_two_answers_begin_with_themselves() -> None:
    none = Claim("memory", NONE, "a larger gain of seen items", effect=0.01, low=-0.1, high=0.12)
    assert claim.sentence(none) == "None found: a larger gain of seen items: +0.010 [-0.100, +0.120]."
    unjudged = Claim("memory", UNJUDGED, "seen items gained more", why="3 unseen items", needs="8 unseen items")
    assert claim.sentence(unjudged) == "Cannot be judged whether seen items gained more: 3 unseen items."


def test_levels_have_no_sign_and_numbers_share_their_decimals() -> None:
    level = Claim("law", FOUND, "a ceiling", effect=12.345, low=3.1, high=120.0, unit="nats", is_change=False)
    assert claim.effect(level) == "12 [3, 120] nats"
    assert claim.effect(Claim("x", NONE, "y", effect=0.0, low=0.0, high=0.0)) == "+0.00 [+0.00, +0.00]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"answer": "maybe"},
        {"answer": UNJUDGED},
        {"answer": FOUND, "why": "no items", "needs": "items"},
        {"answer": FOUND, "effect": 1.0, "low": 2.0, "high": 3.0},
        {"answer": FOUND, "what": ""},
    ],
)
def test_a_claim_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Claim(**{"kind": "x", "what": "y", **wrong})  # type: ignore[arg-type]


def test_json_brings_back_the_same_claim() -> None:
    full = Claim("x", UNJUDGED, "y", assumptions=("a", "b"), why="w", needs="n", group="g", place="p", n=3)
    for one in (MEMORY, full):
        again = claim.from_json(json.loads(json.dumps(claim.as_json(one))))
        assert claim.as_json(again) == claim.as_json(one)
        assert claim.sentence(again) == claim.sentence(one)
    assert math.isnan(claim.from_json(claim.as_json(full)).effect)
    assert claim.as_json(Claim("x", NONE, "y", effect=np.float64(0.5)))["effect"] == 0.5
    assert claim.from_json({**claim.as_json(full), "of a later version": 1}).what == "y"


def test_a_card_has_what_the_sentence_leaves_out() -> None:
    card = claim.card(MEMORY)
    assert (card["answer"], card["tone"], card["sentence"]) == (FOUND, "warning", claim.sentence(MEMORY))
    assert dict(card["details"]) == {  # type: ignore[call-overload]
        "what was estimated": "gain of seen minus gain of unseen", "compared with": "unseen items",
        "p": "0.0004", "n": "64", "holds for all of": "3 steps",
    }  # fmt: skip
    assert claim.card(Claim("memory", NONE, "y"))["tone"] == "info"


def test_groups_that_agree_are_one_claim() -> None:
    each = [Claim("place", NONE, "a place that acts", group=g) for g in ("a", "b")]
    (one,) = claim.agreeing(each)
    assert one.group == "a, b"
    apart = [Claim("place", FOUND, "moves", group=g, effect=e) for g, e in (("a", 1.0), ("b", 2.0))]
    assert len(claim.agreeing(apart)) == 2


def test_a_result_carries_its_claims_and_says_them() -> None:
    result = Result.of(pd.DataFrame({"x": [1]}), claims=[MEMORY])
    assert result.claims == [MEMORY] or claim.as_json(result.claims[0]) == claim.as_json(MEMORY)
    assert result.verdict == claim.sentence(MEMORY)
    assert Result.of(pd.DataFrame()).verdict is None
    json.dumps(dict(result.record))
