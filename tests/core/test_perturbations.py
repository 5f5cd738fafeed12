"""Each perturbation on items of known answers; what does not apply is None, never an unchanged copy."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from analyses.answers._perturbations import PERTURBATIONS, Texts, evaluated, perturbed
from probe import Prompts
from probe.errors import InputError
from probe.prompts import Item

LAB = Item(
    "a",
    "Leo has 16 cups . eats 4 . gets 7 . how many ?",
    "ans 19",
    meta={"values": [16, 4, 7], "ops": ["-", "+"]},
)
CHOICE = Item("c", "Which is even? (A) 3 (B) 4 (C) 5", "B")


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_seeded_and_never_unchanged(name: str):
    for item in (LAB, CHOICE, Item("d", "There were several large windows. How many remained?", "4")):
        one, two = (perturbed(item, name, Texts(), seed=3) for _ in range(2))
        assert one == two
        assert one is None or (one.prompt != item.prompt and one.id == item.id)


def test_a_chain_with_new_numbers_has_the_answer_they_have():
    for seed in range(50):
        new = perturbed(LAB, "numbers", Texts(largest=40), seed)
        assert new is not None
        start, less, more = (int(w) for w in new.prompt.split() if w.isdigit())
        assert new.answer == f"ans {start - less + more}"
        assert [start, less, more] != [16, 4, 7]
        assert start - less >= 0
        assert max(start, start - less + more) <= 40


def test_an_equation_with_new_numbers():
    item = Item("s", "87 oranges and 290 bananas lie in 2 groups. How many bananas in each?", "145",
                meta={"Equation": "( 290.0 / 2.0 )"})  # fmt: skip
    new = perturbed(item, "numbers", Texts(), 1)
    assert new is not None
    numbers = [int(w) for w in new.prompt.replace("?", "").split() if w.isdigit()]
    assert Fraction(new.answer) == Fraction(numbers[1], numbers[2])
    assert Fraction(new.answer).denominator == 1
    twice = Item("t", "2 groups of 2 apples. How many?", "4", meta={"Equation": "( 2.0 * 2.0 )"})
    assert perturbed(twice, "numbers", Texts()) is None  # which 2 is which is not known
    assert perturbed(Item("u", "How many are 3 and 4?", "7"), "numbers", Texts()) is None


def test_equations():
    assert evaluated("( 290.0 / 2.0 )") == 145
    assert evaluated("1 / 0") is None
    assert evaluated("__import__('os')") is None


def test_options_keep_their_answer():
    seen = set()
    for seed in range(20):
        new = perturbed(CHOICE, "options", Texts(), seed)
        assert new is not None
        assert f"({new.answer}) 4" in new.prompt
        seen.add(new.prompt)
    assert len(seen) == 5  # every other order of three, never the given one
    assert perturbed(LAB, "options", Texts()) is None


def test_typos_leave_numbers_and_mathematics_alone():
    item = Item("m", r"Compute $\frac{12}{345}$ for several triangles carefully.", "1")
    new = perturbed(item, "typos", Texts())
    assert new is not None
    assert r"$\frac{12}{345}$" in new.prompt
    assert sorted(new.prompt) == sorted(item.prompt)


def test_unknown_name():
    with pytest.raises(InputError, match="no perturbation"):
        perturbed(LAB, "shuffle", Texts())


def test_real_questions(benchmarks):
    rows = [json.loads(line) for line in (benchmarks / "svamp.jsonl").read_text().splitlines()[:200]]
    prompts = Prompts.of(rows, columns="svamp")
    changed = [(i, new) for i in prompts.items if (new := perturbed(i, "numbers", Texts())) is not None]
    assert len(changed) > 100
    assert all(new.answer != "" and Fraction(new.answer) > 0 for _, new in changed)
    assert not any(Fraction(new.answer) == Fraction(i.answer) for i, new in changed)
