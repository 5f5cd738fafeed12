"""Grades on known pairs, the closed forms of pass@k and majority, and real benchmark answers against themselves."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import pytest

from analyses.core.reading.grading import (
    Grade,
    grader,
    has_code,
    is_boxed,
    is_prose,
    last_number,
    majority,
    pass_at_k,
)
from probe.errors import InputError


@pytest.mark.parametrize(
    ("response", "gold", "status"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", "correct"),
        (r"so \boxed{\frac{1}{3}}", "0.5", "wrong"),
        (r"\boxed{p-q}", "p - q", "correct"),
        (r"\boxed{\left(3,\frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)", "correct"),
        ("the answer is 142", "142.0", "correct"),
        ("no idea", "7", "unparsed"),
        ("", "7", "unparsed"),
        ("think so 3 + 4 = 7 ; ans 22", "ans 22", "correct"),
        ("ans 23", "ans 22", "wrong"),
        (r"so \boxed{SRAC=LRAC}", "SRAC=LRAC", "correct"),
        (r"so \boxed{\frac{a_{1}}{2}}", r"\frac{a_{1}}{2}", "correct"),
        ("so it is 18", "She makes 9 * 2 = 18 a day.\n#### 18", "correct"),
        (r"\boxed{3}", r"\left( 3, \frac{\pi}{2} \right)", "wrong"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", "correct"),
    ],
)
def test_mathematics(response: str, gold: str, status: str):
    assert grader("math")(response, gold).status == status


def test_numbers_are_exact_and_unreadable_ones_are_not_wrong():
    number = grader("number")
    assert number("so 1/3 of it", "2/6").status == "correct"
    assert number("1,234 in all", "1234").status == "correct"
    assert number("nothing", "3").status == "unparsed"
    assert number("5", "nothing").status == "gold_unparsed"
    assert math.isnan(number("nothing", "3").correct)
    assert last_number("1/0") is None
    assert last_number("from 3 to -4.50") == Fraction(-9, 2)


def test_a_pattern_says_where_the_answer_is():
    lab = grader("exact", r"ans (\d+)\s*$")
    assert lab("think so 3 + 4 = 7 ; ans 7", "ans 7") == Grade("correct", "7")
    assert lab("think so 3 + 4 = 7 ;", "ans 7") == Grade("unparsed", None)
    assert lab("ans 8", "7").status == "wrong"


def test_a_function_of_ones_own():
    graded = grader("operator:eq")
    assert graded("a", "a").status == "correct"
    assert graded("a", "b").status == "wrong"


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [("maths", None, "expected one of"), ("nowhere:f", None, "cannot be imported"),
     ("exact", "(", "not a regular expression"), ("exact", "x", "no group")],
)  # fmt: skip
def test_bad_graders_are_refused(name: str, pattern: str | None, message: str):
    with pytest.raises(InputError, match=message):
        grader(name, pattern)


def test_text_features():
    assert is_boxed(r"\boxed{1}")
    assert not is_boxed("boxed 1")
    assert has_code("```python\nx\n```")
    assert has_code("so\nprint(3)")
    assert not has_code("we print the definition")


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample():
    assert pass_at_k(16, 2, 4) == pytest.approx(0.45)
    assert pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=5e-7)
    assert pass_at_k(7, 3, 1) == pytest.approx(3 / 7)
    assert pass_at_k(5, 4, 2) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0
    assert math.isnan(pass_at_k(3, 1, 4))
    marks = [1, 1, 0, 0, 0, 0]
    subsets = list(itertools.combinations(marks, 3))
    assert pass_at_k(6, 2, 3) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    with pytest.raises(InputError):
        pass_at_k(3, 4, 1)


def test_majority_counts_ties_by_their_share():
    assert majority(["7", "7", "8"], [1, 1, 0], 3, 0) == 1.0
    assert majority(["7", "8"], [1, 0], 2, 0) == 0.5
    assert majority([None, "8", "8"], [math.nan, 0, 0], 3, 0) == 0.0
    assert majority([None, None], [math.nan, math.nan], 2, 0) == 0.0
    assert math.isnan(majority(["7"], [1], 2, 0))
    assert majority(["7", "8"], [1, 0], 1, 0, draws=2000) == pytest.approx(0.5, abs=0.05)


def test_prose_is_told_from_mathematics(benchmarks):
    assert is_prose("ans 22")
    assert is_prose("the answer: 4")
    for name in ("math500.json", "amc.json", "aime24.json"):
        assert not [r["answer"] for r in json.loads((benchmarks / name).read_text()) if is_prose(r["answer"])]


def test_real_answers_are_read(benchmarks):
    """Every gold answer of the files is graded correct against itself, or counted as unreadable, never wrong."""
    math_grade = grader("math")
    for name, at_least in (("math500.json", 0.97), ("amc.json", 1.0), ("aime24.json", 1.0)):
        golds = [row["answer"] for row in json.loads((benchmarks / name).read_text())]
        some = golds[::10] if len(golds) > 100 else golds
        statuses = [math_grade(f"The answer is $\\boxed{{{g}}}$.", g).status for g in some]
        assert "wrong" not in statuses
        assert statuses.count("correct") / len(statuses) >= at_least
